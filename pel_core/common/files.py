"""Atomic files: everything is written beside its target and renamed, so that a killed process leaves no half a result."""

import hashlib
import json
import math
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError

# Processes of several hosts may write into one folder, and their numbers may be equal.
HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success it is flushed to disk and renamed to ``path``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    sweep(path)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # some libraries write files that only their owner can read
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:  # writing and flushing do not say what
        if error.errno is None:  # nor does numpy say why
            raise PelError(f"{path} cannot be written ({error}); is the disk full?") from None
        error.filename = error.filename or str(path)
        raise
    except Exception as error:  # a library that stumbles over a full disk in its own clean-up
        if isinstance(error.__context__, OSError) and not isinstance(error, PelError):
            raise PelError(f"{path} cannot be written ({error.__context__})") from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path, mark: str = "") -> Path:
    """Where this process writes what becomes ``path``. The suffix is kept last: libraries choose their format by it."""
    return path.with_name(f".{path.stem}.{HOST}-{os.getpid()}{mark}{path.suffix}")


def sweep(path: Path) -> None:
    """Remove what processes that were killed on this host left beside ``path``."""
    pattern = re.compile(re.escape(f".{path.stem}.{HOST}-") + r"(\d+)(-\w+)?" + re.escape(path.suffix))
    for name in os.listdir(path.parent):
        if (match := pattern.fullmatch(name)) and not _runs(int(match[1])):
            path.with_name(name).unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def require_writable(folder: str | Path) -> None:
    """Make ``folder`` and see that files can be written there: before hours of work, not after.

    Raises:
        PelError: it cannot be made or written to.
    """
    probe = Path(folder) / "probe"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        sweep(probe)
        temporary = temporary_name(probe, f"-{secrets.token_hex(4)}")  # many threads and jobs may look at once
        try:
            temporary.write_bytes(b"probe")
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise PelError(
            f"cannot write into {folder}: {error.strerror}; make it writable, or choose another results folder"
        ) from None


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with replace_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write ``content`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused: a reader could not tell them from a bug."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def non_finite(value: Any, path: str = "") -> tuple[str, float] | None:
    """The first number of parsed JSON that is NaN or infinite, as its dotted key and itself; None where all are finite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, value)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = (non_finite(each, f"{path}.{key}" if path else str(key)) for key, each in items)
    return next(filter(None, found), None)


def read_json(path: str | Path, keys: tuple[str, ...] = ()) -> Any:
    """Read a JSON file; with ``keys``, a mapping that holds at least these.

    Raises:
        PelError: the file is missing, is not JSON (which knows no NaN and no infinity) or lacks a key.
    """
    constants: list[str] = []
    try:
        text = Path(path).read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=lambda word: constants.append(word) or float(word))
    except FileNotFoundError:
        raise PelError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PelError(f"{path} is not valid JSON ({error}); delete it and run again") from None
    if constants:
        key, found = non_finite(value) or ("a key that is there twice", constants[0])
        raise PelError(f"{path}: {key} is {found}, not a number; delete it and run again")
    if absent := [key for key in keys if not isinstance(value, dict) or key not in value]:
        raise PelError(f"{path} lacks {', '.join(absent)}; delete it and run again")
    return value


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
