"""Who trains a run: a file that its process renews, so that a second one waits, and takes over from one that is gone.

No flock: network file systems break it. A lease is made by hard link (atomic on NFS too), renewed by replacing it, and belongs to
whoever's token it holds. Two processes may for a moment both think they hold one (a clock that jumps, a host that stood still);
each looks before it saves anything, the one whose token is gone stops, and what both could have written is equal or is told apart
by its hash. A thread renews it, since a step may take minutes: a main thread that hangs for ever keeps its lease.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import require_writable, sweep, temporary_name
from pel_core.common.logs import logger

HEARTBEAT = 15.0  # seconds between renewals
STALE = 120.0  # seconds after which a lease that is not renewed counts for nothing
POLL = 2.0  # seconds between two looks of one that waits
CONFIRM_DELAY = 2.0  # seconds after taking over, in which another may have done so too
BOOT_ID, PID_NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"


class Lease:
    """The right to train a run; a context manager that waits for it.

    Args:
        path: its file. slug: the run. device: in words. verb: what is done to the run, for whoever waits.

    ``waited`` says that another process held it; ``token`` is ours.
    """

    def __init__(self, path: Path, slug: str, device: str = "", verb: str = "trained"):
        self.path, self.waited, self.token, self.verb = path, False, secrets.token_hex(8), verb
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get("PEL_JOB")
        self.record: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            **pid_space(),
            "job": job,
            "token": self.token,
            "slug": slug,
            "verb": verb,
            "started": time.time(),
            "device": device,
        }
        self._lost, self._done = "", threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        require_writable(self.path.parent)
        sweep(self.path)
        self._acquire()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join(timeout=1)  # it may hang with the file system
        with self._lock:
            if _read(self.path).get("token") == self.token:
                self.path.unlink(missing_ok=True)

    def note(self, values: Mapping[str, Any]) -> None:
        """What the next renewal tells of the run's progress."""
        self.record |= values

    def check(self) -> None:
        """Look whether the lease is still ours; called before anything is saved.

        Raises:
            PelError: another process has taken the run over.
        """
        if not self._lost:
            try:
                found = _parsed(self.path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                found = {}
            except OSError:  # a file system that is away for a moment: whether it can be written to is seen by writing
                return
            if found.get("token") != self.token:
                self._lost = _who(found) if found else "no one: the lease is gone, the run may have been finished by another"
        if self._lost:
            raise PelError(
                f"{self.record['slug']}: this process lost its lease {self.path} (now held by {self._lost}), after it stood "
                f"still for more than {STALE:g} s or was cut off; it stops and writes nothing more"
            )

    def _acquire(self) -> None:
        watched = _Watched()
        told = False
        while not self._create():
            found = _read(self.path)
            if not found and not self.path.exists():
                continue
            if watched.stale(found):
                logger.info("taking over from %s, which is gone", _who(found))
                self._replace()
                time.sleep(CONFIRM_DELAY)
                if _read(self.path).get("token") == self.token:
                    return
                continue
            if not told:
                logger.info("%s is being %s by %s: waiting for it", self.record["slug"], self.verb, _who(found))
            told = self.waited = True
            time.sleep(POLL)

    def _create(self) -> bool:
        """Make the lease where there is none."""
        draft = self._draft()
        try:
            os.link(draft, self.path)
        except FileExistsError:
            # A link whose answer was lost on the network may have been made all the same.
            return _read(self.path).get("token") == self.token
        except OSError:  # a file system without hard links
            try:
                handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except FileExistsError:
                return False
            os.close(handle)
            os.replace(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _replace(self) -> None:
        draft = self._draft()
        try:
            os.replace(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)

    def _draft(self) -> Path:
        self.record["time"] = time.time()
        draft = temporary_name(self.path, f"-{self.token}")
        draft.write_text(json.dumps(self.record), encoding="utf-8")
        return draft

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT):
            with self._lock:
                try:
                    found = _read(self.path)
                    if found.get("token") == self.token:
                        self._replace()
                    elif found:
                        self._lost = _who(found)
                        return
                except OSError:
                    continue  # a full disk or a file system that is away: next time


class SignOfLife(Lease):
    """A lease that nobody waits for: it only says, while it lives, that a process is at work. It never stops that work."""

    def __enter__(self) -> "SignOfLife":
        try:
            super().__enter__()
        except (PelError, OSError):  # a folder that cannot be written to, a full disk
            with suppress(OSError):
                temporary_name(self.path, f"-{self.token}").unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            super().__exit__()

    def _acquire(self) -> None:
        self._replace()


class _Watched:
    """Another's lease, as it was seen to change by our own clock: two hosts' clocks need not agree."""

    def __init__(self) -> None:
        self.seen, self.since = None, time.monotonic()

    def stale(self, lease: Mapping[str, Any]) -> bool:
        """Its process is dead on this host, or it was not renewed for long enough."""
        now, mark = time.monotonic(), (lease.get("token"), lease.get("time"))
        if mark != self.seen:
            self.seen, self.since = mark, now
        if dead(lease):
            return True
        old = time.time() - _number(lease.get("time")) > STALE
        return now - self.since > (2 * HEARTBEAT if old else STALE)


def pid_space() -> dict[str, str]:
    """Where a process number means what it means here: this boot of the kernel, this PID namespace.

    Containers may share a host name, each with numbers of its own. What the system does not tell (macOS) is left out.
    """
    found = {}
    with suppress(OSError):
        found["boot"] = BOOT_ID.read_text(encoding="utf-8").strip()
    with suppress(OSError):
        found["pid_namespace"] = os.readlink(PID_NAMESPACE)
    return found


def dead(lease: Mapping[str, Any]) -> bool:
    """Whether it names a process that is no more (or whose number another process has now), as far as that can be seen from here.

    Only of this host, boot and PID namespace; any other's lease ends by not being renewed.
    """
    pid, here = lease.get("pid"), {"host": socket.gethostname(), **pid_space()}
    elsewhere = any(lease.get(name) != here.get(name) for name in ("host", "boot", "pid_namespace"))
    if elsewhere or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return bool(lease.get("born")) and _born(pid) not in (None, lease["born"])


def _born(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None where that cannot be read or it is a zombie's."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return "zombie" if words[0] == "Z" else words[19]


def _read(path: Path) -> dict[str, Any]:
    """A lease; empty where there is none or it cannot be read."""
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _who(lease: Mapping[str, Any]) -> str:
    job = f", job {lease['job']}" if lease.get("job") else ""
    return f"process {lease.get('pid', '?')} on {lease.get('host', 'an unknown host')}{job}"
