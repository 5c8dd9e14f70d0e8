"""Names of runs that start from so many others that a folder could not be called so: a digest stands for the others.

A run's name says what it starts from in full (``spec.parents``). Where that makes it longer than a folder's name may be, the name
holds the first digits of the SHA-256 of this text instead: ``parents=@0123456789abcdef``. What a digest stands for is known where
the run was made in this process; else it is read from a results folder: from ``names/`` there, which a study writes before its
first run, or from the run's own train.json. Torch-free.
"""

import hashlib
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_text

LONGEST = 200  # characters of a folder's name: 55 are left for what files beside it are called (.lease, .train.log)
MARK, DIGITS = "@", 16
_KNOWN: dict[str, str] = {}
_RESULTS: dict[Path, None] = {}  # folders to look in, in the order in which they were named


def shorten(parents: str) -> str:
    """What stands for the text in a name."""
    name = MARK + hashlib.sha256(parents.encode()).hexdigest()[:DIGITS]
    _KNOWN[name] = parents
    return name


def file_name(slug: str) -> str:
    """What a file is called that is of a run's evaluation and lies in no folder of its own: the name, or a digest of one that is
    longer than a file's may be (a training and an evaluation of LONGEST each)."""
    return slug if len(slug) <= LONGEST else MARK + hashlib.sha256(slug.encode()).hexdigest()[:DIGITS]


def whole(parents: str) -> str:
    """The text that a name's ``parents`` stands for: itself, unless it is a digest.

    Raises:
        PelError: it is one that nothing here explains.
    """
    if not parents.startswith(MARK):
        return parents
    if parents not in _KNOWN and not any(_found(results, parents) for results in _RESULTS):
        looked = ", ".join(map(str, _RESULTS)) or "none was given"
        raise PelError(
            f"parents={parents} stands for the runs that a run starts from, which were too many to be named, and no results "
            f"folder says which ({looked}); say --results FOLDER of the study that makes it, or name the study's row"
        )
    return _KNOWN[parents]


def look_in(results: str | Path) -> None:
    """Look for what digests stand for in this results folder, too."""
    _RESULTS[Path(results)] = None


def tell(stored: Any) -> None:
    """Learn from a stored spec what its digest stands for."""
    if isinstance(stored, dict) and isinstance(parents := stored.get("parents"), str) and parents:
        shorten(parents)


def write_names(results: Path, slugs: "dict[str, Any]") -> None:
    """Write what the digests in names stand for; a study does, for jobs that know a name alone. ``slugs``: name -> spec."""
    for slug, spec in slugs.items():
        if f"parents={MARK}" not in slug:
            continue
        path = results / "names" / f"{shorten(spec.parents).removeprefix(MARK)}.txt"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, spec.parents)


def _found(results: Path, name: str) -> bool:
    path = results / "names" / f"{name.removeprefix(MARK)}.txt"
    if path.is_file():
        shorten(path.read_text())
    for record in (results / "runs").glob(f"*parents={name}*/train.json") if name not in _KNOWN else ():
        try:
            tell(read_json(record).get("spec"))
        except PelError:
            continue
    return name in _KNOWN
