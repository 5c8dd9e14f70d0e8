"""The asking side of the fork server. Only the standard library is imported here: it should start in milliseconds.

`offer` puts the server's socket into the environment (PEL_FORK_SERVER) of the jobs that Snakemake starts, and `ask`, the first
thing that ``python -m pel_core`` does, hands a command over: arguments, environment, working folder and output. It starts the
server where none listens, passes signals on and ends as the job ends; the job dies with it. PEL_FORK_SERVER=off switches it off.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time

SOCKET, PARENT = "PEL_FORK_SERVER", "PEL_FORK_SERVER_PARENT"  # environment variables
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
CONNECT_TIMEOUT = 60.0  # seconds in which a server should have started
KILLED = 137  # the status of a job that ended without a word


def offer(folder: str) -> None:
    """Let the jobs that are started from here share a fork server, whose socket lies in ``folder`` (of this user alone).

    Not where there is a GPU (CUDA does not survive a fork, and runs there are long), nor where the user has switched it off.
    """
    if os.environ.get(SOCKET) != "off" and not os.path.exists("/dev/nvidiactl"):
        os.environ.update({SOCKET: f"{folder}/fork-server", PARENT: str(os.getpid())})


def ask(words: list[str]) -> int | None:
    """Let the fork server run a command; its exit status, or None where the caller has to run it itself."""
    where = os.environ.get(SOCKET, "off")
    # One of torchrun's processes must be its child: it ends with it.
    if where == "off" or "LOCAL_RANK" in os.environ:
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
    for _ in range(2):  # a server that was just killed takes connections until the system has freed its memory
        if (connection := _connect(where)) is None:
            return None
        if _begins(connection, words):
            break
        connection.close()
    else:
        return None
    for number in PASSED_ON:
        signal.signal(number, lambda number, frame: connection.sendall(bytes([number])))
    answer = connection.recv(1)
    if not answer:
        told = "error: the job's process was killed, by kill -9 or for want of memory (dmesg tells); the same command goes on"
        print(told, file=sys.stderr, flush=True)
    return answer[0] if answer else KILLED


def _begins(connection: socket.socket, words: list[str]) -> bool:
    """Hand the command over; whether the job has begun, or the server ended before it could."""
    request = {"words": words, "environment": dict(os.environ), "folder": os.getcwd()}
    try:
        socket.send_fds(connection, [b"r"], [1, 2])
        connection.sendall(json.dumps(request).encode() + b"\n")
        return bool(connection.recv(1))
    except ConnectionError:
        return False


def _connect(where: str) -> socket.socket | None:
    """A connection to the server, started if need be; None where that fails."""
    deadline, started = time.monotonic() + CONNECT_TIMEOUT, None
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
    """Start a server, in a session of its own: Ctrl-C is for those who ask, and they pass it on."""
    nowhere = subprocess.DEVNULL
    command = [sys.executable, "-m", "pel_core.fork_server.server", where]
    environment = {**os.environ, "JE_ARROW_MALLOC_CONF": "background_thread:false"}  # one thread, to be forked safely
    return subprocess.Popen(command, env=environment, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
