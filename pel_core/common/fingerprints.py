"""What makes two things the same: JSON with one spelling, digests of files, fields that depart from their defaults."""

import hashlib
import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.versions import PREPARE

END = 32 * 2**20  # bytes hashed at either end of a large file


def canonical(value: Any) -> str:
    """JSON with one spelling."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=list)


def fingerprint(path: str | Path) -> str:
    """A short digest of a file's content: whole up to 64 MB, else size and both ends. Moving or touching it changes nothing.

    Raises:
        PelError: the file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise PelError(f"{path} does not exist")
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as handle:
        digest.update(handle.read(END))
        handle.seek(max(END, size - END))
        digest.update(handle.read())
    return digest.hexdigest()[:16]


def departing_fields(entry: Any) -> dict[str, Any]:
    """The fields of a dataclass value that differ from their declared default."""
    plain = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(entry)}
    return {name: value for name, value in asdict(entry).items() if plain[name] is MISSING or value != plain[name]}


def later_preparation() -> dict[str, int]:
    """Nothing for the first version of PREPARE, as for any value at its default, so that what was prepared before stays. It is
    spelled ``engine`` in texts that Snakemake compares, as before each stage had a number of its own."""
    return {"engine": PREPARE} if PREPARE > 1 else {}
