"""A warm process for the small jobs of one Snakemake call: it has imported torch once, and forks a child for each job.

A demo run trains for two seconds; importing torch anew for every job takes two more, and its first optimiser another two. Where
the environment variable PEL_WARM names a socket, ``python -m pel_core train ...`` hands its arguments, environment, working
folder and output to the process that listens there (and starts it where none does), passes signals on and ends as the child
ends; the child dies with it. The warm process ends when the process PEL_WARM_PARENT (Snakemake) is gone, or after a while
without a job. Not where there is a GPU: CUDA does not survive a fork, and runs there are long.

Only the standard library is imported here: the asking side should start in milliseconds.
"""

import contextlib
import fcntl
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

COMMANDS = ("data", "text", "train", "evaluate", "table", "figure", "compare", "claims")  # what is worth it
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
IDLE = 60.0  # seconds without a job after which a warm process ends
PATIENCE = 60.0  # seconds to wait for one to start
KILLED = 137  # the status of a job that ended without a word


def offer(folder: str) -> None:
    """Let the jobs that are started from here share a warm process, whose socket lies in ``folder`` (of this user alone)."""
    if not os.path.exists("/dev/nvidiactl"):
        os.environ.update(PEL_WARM=f"{folder}/warm", PEL_WARM_PARENT=str(os.getpid()))


def ask(words: list[str]) -> int | None:
    """Let the warm process run a command; its exit status, or None where the caller has to run it itself."""
    where = os.environ.get("PEL_WARM")
    # One of torchrun's processes must be its child: it ends with it.
    if not where or not words or words[0] not in COMMANDS or "LOCAL_RANK" in os.environ:
        return None
    before = {number: signal.signal(number, _leave) for number in PASSED_ON}
    if (status := _answer(where, words)) is None:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status


def _leave(number: int, frame: object) -> None:
    """Before the job has begun, there is nothing to save."""
    os.write(2, f"error: stopped by {signal.Signals(number).name}; nothing half-done was kept\n".encode())
    os._exit(128 + number)


def _answer(where: str, words: list[str]) -> int | None:
    connection = _connect(where)
    if connection is None:
        return None
    mask = os.umask(0)
    os.umask(mask)
    request = {"words": words, "environment": dict(os.environ), "folder": os.getcwd(), "mask": mask}
    try:
        socket.send_fds(connection, [b"r"], [1, 2])
        connection.sendall(json.dumps(request).encode() + b"\n")
        if not connection.recv(1):
            return None  # it ended before it could start the job
    except ConnectionError:
        return None
    for number in PASSED_ON:
        signal.signal(number, lambda number, frame: connection.sendall(bytes([number])))
    answer = connection.recv(1)
    if not answer:
        told = "error: the job's process was killed, by kill -9 or for want of memory (dmesg tells); the same command goes on"
        print(told, file=sys.stderr, flush=True)
    return answer[0] if answer else KILLED


def _connect(where: str) -> socket.socket | None:
    """A connection to the warm process, started if need be; None where that fails."""
    deadline, started = time.monotonic() + PATIENCE, None
    while time.monotonic() < deadline:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(where)
            return connection
        except OSError:
            connection.close()
        if started is None:
            started = _start(where)
        elif (status := started.poll()) == 0:
            started = None  # another was there, which may have ended since
        elif status is not None:
            return None
        time.sleep(0.02)
    return None


def _start(where: str) -> subprocess.Popen:
    """Start a warm process, in a session of its own: Ctrl-C is for those who ask, and they pass it on."""
    nowhere = subprocess.DEVNULL
    command = [sys.executable, "-m", "pel_core.fork_server.server", where]
    environment = {**os.environ, "JE_ARROW_MALLOC_CONF": "background_thread:false"}  # one thread, to be forked safely
    return subprocess.Popen(command, env=environment, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def serve(where: str) -> None:
    """Listen on a socket and fork a child for each request, until the parent is gone or nothing comes for a while."""
    lock = os.open(f"{where}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # of several that start at once, one stays
    Path(where).unlink(missing_ok=True)  # of one that was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(where)
    try:
        listener.listen(64)
        _import()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
        listener.settimeout(1.0)
        _accept(listener, lock, int(os.environ.get("PEL_WARM_PARENT", "0")))
    finally:
        Path(where).unlink(missing_ok=True)


def _import() -> None:
    """What jobs import. Nothing here may start a thread or look for a GPU: a child could not use it."""

    with contextlib.suppress(ImportError):
        import pyarrow.parquet  # noqa: F401
        import torch._dynamo  # noqa: F401  the first optimiser imports it, which takes as long as torch itself
    gc.collect()
    gc.freeze()  # what children would each look through, and copy page by page


def _accept(listener: socket.socket, lock: int, parent: int) -> None:
    last = time.monotonic()
    while time.monotonic() - last < IDLE and (not parent or _alive(parent)):
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        last = time.monotonic()
        if os.fork() == 0:
            listener.close()
            os.close(lock)  # else no other could take this process's place as long as the job runs
            _job(connection)
        connection.close()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _job(connection: socket.socket) -> None:
    """The child: take over the asker's output, folder and environment, run its command, answer with the exit status."""
    status = 1
    try:
        connection.settimeout(None)
        _, outputs, _, _ = socket.recv_fds(connection, 1, 2)
        with connection.makefile("rb") as stream:
            request = json.loads(stream.readline())
        for target, given in zip((1, 2), outputs, strict=True):
            os.dup2(given, target)
            os.close(given)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        os.umask(request["mask"])
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.sendall(b"r")
        threading.Thread(target=_obey, args=(connection,), daemon=True).start()
        status = _run(request["words"])
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            status = status or 120  # as Python ends then
    finally:
        try:
            connection.sendall(bytes([status & 255]))  # the asker may be gone
        finally:
            os._exit(status & 255)  # whatever fails: the warm process's own way out is not this one's


def _obey(connection: socket.socket) -> None:
    """Pass the asker's signals on; when it is gone, so is this process, as if it had been killed itself."""
    while number := connection.recv(1):
        os.kill(os.getpid(), number[0])
    os.kill(os.getpid(), signal.SIGKILL)


def _run(words: list[str]) -> int:
    """As ``python -m pel_core`` does, every end of it as a status."""
    import torch

    from pel_core.cli.main import main
    from pel_core.common.signals import exit_cleanly

    if threads := os.environ.get("OMP_NUM_THREADS"):  # OpenMP read it when torch was imported, of the first job
        torch.set_num_threads(int(threads))
    exit_cleanly()
    try:
        return main(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1


if __name__ == "__main__":
    serve(sys.argv[1])
