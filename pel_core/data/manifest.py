"""Manifest: the files that a prepared data set was made from, each known by its content. Torch-free.

``manifest.npz`` in a prepared folder holds, for each of M files, its path below the image folder, its size and times, and the
SHA-256 of its bytes. The times are how the next look is cheap: a file whose size and times are as they were is not read again.
They decide nothing else: a file that was touched, or copied to another place, is read, and is the same if its bytes are.
Shapes: M files, N images of a split.
"""

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from pel_core.common.files import replace_file
from pel_core.common.fingerprints import SETTLED

FILE = "manifest.npz"
FORMAT = 1
BYTES = 16  # of each SHA-256 that are kept: equal by chance once in 10^26 for a million files
THREADS = 16  # disks over a network answer slowly, and many at a time
CHUNK = 1024  # files a task: a future for each of a million would cost more than its stat
ABSENT = (-1, -1, -1)  # the state of a file that is not there, or cannot be read
Advance = Callable[[int], Any]


@dataclass(frozen=True)
class Manifest:
    """``paths`` (M,) below the image folder; ``states`` int64 (M, 3): bytes, and in ns the times of the last change of the
    content and of the file's entry (mtime, ctime); ``digests`` uint8 (M, 16); ``rows``: of each split that these files are,
    int64 (N,)."""

    paths: list[str]
    states: np.ndarray
    digests: np.ndarray
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)

    def of(self, split: str) -> bytes:
        """The digests of a split's files, in its order."""
        return self.digests[self.rows[split]].tobytes()


class Renewed(NamedTuple):
    """A manifest as the files are now, which rows of it hold another content than before or are gone, and how many were read."""

    manifest: Manifest
    changed: np.ndarray
    read: int


def make_manifest(
    root: str, splits: Mapping[str, Sequence[str]], known: Manifest | None = None, advance: Advance | None = None
) -> Manifest:
    """The manifest of the files of some splits, each file once.

    Args:
        root: the folder that paths are relative to.
        splits: the paths of each split, (N,); a split without a name ("") has no rows.
        known: an earlier manifest, whose files are not read again where they are as they were.
        advance: told the number of files looked at, now and then.
    """
    numbers: dict[str, int] = {}
    rows = {
        split: np.array([numbers.setdefault(path, len(numbers)) for path in paths], np.int64) for split, paths in splits.items()
    }
    rows.pop("", None)
    paths = list(numbers)
    states, digests = np.full((len(paths), 3), -1, np.int64), np.zeros((len(paths), BYTES), np.uint8)
    if known is not None:
        place = {path: row for row, path in enumerate(known.paths)}
        found = np.array([place.get(path, -1) for path in paths], np.int64)
        states[found >= 0], digests[found >= 0] = known.states[found[found >= 0]], known.digests[found[found >= 0]]
    return renew(Manifest(paths, states, digests, rows), root, advance=advance).manifest


def renew(manifest: Manifest, root: str, rows: np.ndarray | None = None, advance: Advance | None = None) -> Renewed:
    """Look at files, and read those whose size or times are others than the manifest has.

    Args:
        root: where the files lie now.
        rows: which files to look at; all unless given.
        advance: told the number of files looked at, now and then.
    """
    rows = np.arange(len(manifest.paths)) if rows is None else np.unique(rows)
    states, digests = manifest.states.copy(), manifest.digests.copy()

    def look(chunk: np.ndarray) -> int:
        read = 0
        for row, known in zip(chunk.tolist(), manifest.states[chunk].tolist(), strict=True):
            path = f"{root}/{manifest.paths[row]}"
            state = _state(path)
            if [*state] != known or state == ABSENT:
                states[row], digest = _read(path)
                digests[row] = np.frombuffer(digest, np.uint8)
                read += 1
        return read

    total = 0
    with ThreadPoolExecutor(THREADS) as pool:
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        for chunk, read in zip(chunks, pool.map(look, chunks), strict=True):
            total += read
            if advance:
                advance(len(chunk))
    changed = rows[(digests[rows] != manifest.digests[rows]).any(axis=1)]
    return Renewed(replace(manifest, states=states, digests=digests), changed, total)


def _state(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return ABSENT
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: str) -> tuple[tuple[int, int, int], bytes]:
    """State and digest of a file. One that was changed just now could change again without its times telling, which tick in
    steps: its ctime is -1, so that the next look reads it again."""
    before = _state(path)
    try:
        with open(path, "rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").digest()[:BYTES]
    except OSError:
        return ABSENT, bytes(BYTES)
    size, changed, entered = _state(path)
    if (size, changed, entered) != before or time.time() - max(changed, entered) / 1e9 < SETTLED:
        entered = -1
    return (size, changed, entered), digest


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Store a manifest in a prepared folder."""
    paths = np.frombuffer("\n".join(manifest.paths).encode(errors="surrogateescape"), np.uint8)
    arrays = {f"rows-{split}": rows for split, rows in manifest.rows.items()}
    with replace_file(Path(folder) / FILE) as temporary:
        np.savez(temporary, format=FORMAT, paths=paths, states=manifest.states, digests=manifest.digests, **arrays)


def read_manifest(folder: str | Path) -> Manifest | None:
    """The manifest of a prepared folder; None where there is none that can be read: it is made again from the files."""
    try:
        with np.load(Path(folder) / FILE, allow_pickle=False) as arrays:
            if int(arrays["format"]) != FORMAT:
                return None
            paths = arrays["paths"].tobytes().decode(errors="surrogateescape").split("\n") if arrays["paths"].size else []
            rows = {name.removeprefix("rows-"): arrays[name] for name in arrays.files if name.startswith("rows-")}
            made = Manifest(paths, arrays["states"], arrays["digests"], rows)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    fits = made.states.shape == (len(paths), 3) and made.digests.shape == (len(paths), BYTES)
    return made if fits else None
