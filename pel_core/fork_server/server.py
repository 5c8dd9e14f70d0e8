"""The fork server: it has imported torch once, and forks a child for each job of one Snakemake call (`client` hands them over).

A demo run trains for two seconds; importing torch anew for every job takes two more, and its first optimizer another two.
The server ends when the process PEL_FORK_SERVER_PARENT (Snakemake) is gone, or after a while without a job.
"""

import contextlib
import fcntl
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from pel_core.fork_server.client import PARENT

IDLE = 60.0  # seconds without a job after which a server ends


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
        _accept(listener, lock, int(os.environ.get(PARENT, "0")))
    finally:
        Path(where).unlink(missing_ok=True)


def _import() -> None:
    """What jobs import: libraries, this package's training, evaluation and command line, and what tables are drawn with. Nothing
    here may start a thread or look for a GPU: a child could not use it; nor read the environment, which is the asker's."""
    import pel_core.cli.main
    import pel_core.evaluation.evaluate
    import pel_core.reporting.tables
    import pel_core.training.run  # noqa: F401

    with contextlib.suppress(ImportError):
        import pandas  # noqa: F401  pyarrow does, for its first column
        import pyarrow.parquet  # noqa: F401
        import torch._dynamo  # noqa: F401  the first optimizer imports it, which takes as long as torch itself
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
            os._exit(status & 255)  # whatever fails: the server's own way out is not this one's


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
    try:
        with exit_cleanly():
            return main(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1


if __name__ == "__main__":
    serve(sys.argv[1])
