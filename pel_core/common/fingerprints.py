"""What makes two things the same: JSON with one spelling, digests of files, fields that depart from their defaults."""

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import write_text
from pel_core.common.versions import PREPARE

LARGE = 64 * 2**20  # bytes above which a fingerprint is kept
SETTLED = 5.0  # seconds since a file's last change from which on its times tell it from the next one


def canonical(value: Any) -> str:
    """JSON with one spelling."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=list)


def fingerprint(path: str | Path) -> str:
    """A short digest of a file's content, all of it. Moving or touching it changes nothing.

    A large file is read once (a second for some GB, or longer): what was found is kept in the user's cache folder by the file's
    identity, size and times, so that every later plan takes milliseconds.

    Raises:
        PelError: the file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise PelError(f"{path} does not exist")
    before = path.stat()
    memo = _memo(path, before) if before.st_size > LARGE else None
    if memo and (found := _remembered(memo)):
        return found
    digest = hashlib.sha256(str(before.st_size).encode())
    with open(path, "rb") as handle:
        hashlib.file_digest(handle, lambda: digest)
    found = digest.hexdigest()[:16]
    # What has just been written may be written again without a change of its times, which tick in steps.
    if memo and _identity(path.stat()) == _identity(before) and time.time() - before.st_mtime > SETTLED:
        with suppress(OSError, PelError):  # no home, a full or read-only disk: read again next time
            write_text(memo, found)
    return found


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _memo(path: Path, stat: os.stat_result) -> Path | None:
    """The file that holds a large file's fingerprint; None where the user has no home."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    name = hashlib.sha256(f"{path.resolve()}|{_identity(stat)}".encode(errors="surrogateescape")).hexdigest()[:32]
    return cache / "pel-lab" / "fingerprints" / name


def _remembered(memo: Path) -> str:
    """The fingerprint that a file holds; empty where it holds none."""
    try:
        found = memo.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
    return found if re.fullmatch("[0-9a-f]{16}", found) else ""


def departing_fields(entry: Any) -> dict[str, Any]:
    """The fields of a dataclass value that differ from their declared default."""
    plain = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(entry)}
    return {name: value for name, value in asdict(entry).items() if plain[name] is MISSING or value != plain[name]}


def later_preparation() -> dict[str, int]:
    """Nothing for the first version of PREPARE, as for any value at its default, so that what was prepared before stays. It is
    spelled ``engine`` in texts that Snakemake compares, as before each stage had a number of its own."""
    return {"engine": PREPARE} if PREPARE > 1 else {}
