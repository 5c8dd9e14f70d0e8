"""Decoding the image files of a prepared data set once, into the folder that `image_cache` reads.

A build that was killed goes on where it was: pixels are written in parts, and a part counts once its SHA-256 stands in
``parts.txt``, after the pixels reached the disk. Built again, a cache is checked part by part, and torn ones are made again.
Shapes: M images of a data set, P parts.
"""

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, replace_file, sha256, write_json
from pel_core.common.logs import logger
from pel_core.common.shipped import program
from pel_core.common.versions import versions
from pel_core.data.datasets import read_about
from pel_core.data.image_cache import FORMAT, cache_folder, offsets
from pel_core.data.prepared_files import image_list, require_unchanged
from pel_core.data.transforms import load_rgb, resized
from pel_core.hardware.cores import usable_cpus
from pel_core.hardware.lease import Lease
from pel_core.ingest.data_check import Bar

PART = 2**26  # bytes, about: what a kill costs, and the memory that decoding takes
SPARE = 2**28  # bytes that stay free on the disk
SAID_EVERY = 60.0  # seconds between two lines of a log


@dataclass(frozen=True)
class Files:
    """The image files of a data set, each once: full paths (M,), and which of them each split has, int64 (N,)."""

    paths: list[str]
    rows: dict[str, np.ndarray]


def build(base: str, size: int, results: str | Path, threads: int = 0, bar: Bar | None = None) -> Path:
    """Decode all images of a prepared data set, reduced to a shorter side of ``size`` pixels; smaller ones stay as they are.

    Announces how much it will write before it does. Returns the folder.

    Args:
        threads: that decode at once; 0 for one per usable core.
        bar: makes a progress bar, given its title and the number of images.

    Raises:
        PelError: the data set is not prepared, its images are not files or not those that it was prepared from, one cannot be
            decoded, or the disk has no room.
    """
    if size < 1:
        raise PelError(f"--size {size}: expected pixels, 1 or more")
    data, folder = Path(results) / "data" / base, cache_folder(results, base, size)
    if not (data / "data.json").is_file():
        raise PelError(f"data set '{base}' is not prepared: run `{program()} data prepare {base} --out {data}`")
    about = read_about(data, base)
    files = _files(data, about)
    folder.mkdir(parents=True, exist_ok=True)
    workers = threads or usable_cpus()
    identity = {
        "format": FORMAT,
        "versions": versions("prepare"),
        "name": base,
        "size": size,
        "part": PART,
        "pillow": PIL.__version__,
    }
    identity["digests"] = {split: about["digests"][split] for split in files.rows}
    lease = Lease(folder / "build.lease", folder.name, verb="decoded")  # one build of a folder at a time
    with lease, ThreadPoolExecutor(workers) as pool:
        try:
            heights, widths = _sizes(folder, identity, files, size, pool, bar)
            _announce(folder, base, size, offsets(heights, widths))
            parts = _decode(folder, files.paths, heights, widths, size, pool, bar, lease.check)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        lease.check()
        total = {"images": len(files.paths), "bytes": int(offsets(heights, widths)[-1])}
        write_json(folder / "cache.json", identity | total | {"index_sha256": sha256(folder / "index.npz"), "parts": parts})
    return folder


def _files(data: Path, about: dict[str, Any]) -> Files:
    """Every file once, whatever lists it is in; those of a data set that changed since it was prepared are refused."""
    if arrays := [name for name in about["files"] if name.endswith(".npy")]:
        raise PelError(f"data set '{about['name']}' is held as pixels already ({arrays[0]}); decoding is for image files")
    numbers: dict[str, int] = {}
    rows = {}
    for split in (name.removesuffix(".npz") for name in about["files"]):
        require_unchanged(data, about, split)
        root, images, _ = image_list(data, about, split)
        paths = [os.path.join(root, path) for path in images.paths]
        rows[split] = np.array([numbers.setdefault(path, len(numbers)) for path in paths], np.int64)
    return Files(list(numbers), rows)


def _sizes(
    folder: Path, identity: dict[str, Any], files: Files, size: int, pool: ThreadPoolExecutor, bar: Bar | None
) -> tuple[np.ndarray, np.ndarray]:
    """Height and width of every image in the cache, int32 (M,), from the files' headers, or as an earlier build found them."""
    started = folder / "build.json"
    index = folder / "index.npz"
    known = read_json(started) if started.is_file() and index.is_file() else {}
    if known.get("identity") == identity and known.get("index_sha256") == sha256(index):
        with np.load(index, allow_pickle=False) as arrays:
            return arrays["heights"], arrays["widths"]
    for name in ("cache.json", "build.json", "parts.txt", "images.bin", "index.npz"):
        (folder / name).unlink(missing_ok=True)  # runs that read them keep what they have open
    advance = bar("headers", len(files.paths)) if bar else _silent
    found = np.zeros((len(files.paths), 2), np.int32)

    def look(chunk: range) -> int:
        for number in chunk:
            found[number] = _header(files.paths[number], size)
        return len(chunk)

    # Chunks, since a future for each of half a million files would cost more than its header.
    for done in pool.map(look, [range(i, min(i + 256, len(found))) for i in range(0, len(found), 256)]):
        advance(done)
    heights, widths = found[:, 0].copy(), found[:, 1].copy()
    rows = {f"rows-{split}": values for split, values in files.rows.items()}
    with replace_file(index) as temporary:
        np.savez(temporary, heights=heights, widths=widths, **rows)
    write_json(started, {"identity": identity, "index_sha256": sha256(index)})
    return heights, widths


def _header(path: str, size: int) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            width, height = image.size
    except Exception:  # whatever is wrong: the decoder says it better
        image = load_rgb(path)
        width, height = image.size
    return (height, width) if min(height, width) <= size else resized(height, width, size)


def _announce(folder: Path, base: str, size: int, ends: np.ndarray) -> None:
    """Say how much will be written, before it is; refuse what has no room."""
    known = _journal(folder / "parts.txt") if (folder / "images.bin").is_file() else {}
    bounds = enumerate(part_bounds(ends))
    need = sum(int(ends[last] - ends[first]) for number, (first, last) in bounds if number not in known)
    free = shutil.disk_usage(folder).free
    text = f"{len(ends) - 1:,} images of '{base}' decoded at {size} pixels take {_bytes(ends[-1])} in {folder}"
    left = (f", of which {_bytes(need)} are to be written" if need else ", and are checked now") if known else ""
    if need and need + SPARE > free:
        raise PelError(
            f"{text}{left}, but {_bytes(free)} are free there; choose a results folder on another disk, a smaller size, "
            "or leave image_cache out"
        )
    logger.info("%s%s; %s are free there", text, left, _bytes(free))


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):,.1f} MB"


def part_bounds(ends: np.ndarray) -> list[tuple[int, int]]:
    """First and last (exclusive) image of each part: as many as have some PART bytes, one at least."""
    numbers = ends[:-1] // PART  # images of a part begin in the same stretch of the file
    firsts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
    return list(zip(firsts, [*firsts[1:], len(numbers)], strict=True))


def _decode(
    folder: Path,
    paths: list[str],
    heights: np.ndarray,
    widths: np.ndarray,
    size: int,
    pool: ThreadPoolExecutor,
    bar: Bar | None,
    check: Callable[[], None],
) -> list[str]:
    """Write the parts that are not there yet, after a ``check`` each; returns the SHA-256 of each (P,)."""
    ends = offsets(heights, widths)
    bounds, known = part_bounds(ends), _journal(folder / "parts.txt")
    advance = bar("images", len(paths)) if bar else _silent
    said, started, sums = time.monotonic(), time.monotonic(), []
    with open(folder / "images.bin", "r+b" if (folder / "images.bin").is_file() else "w+b") as pixels:
        pixels.truncate(ends[-1])  # a sparse file: its blocks come as they are written
        for number, (first, last) in enumerate(bounds):
            start, length = int(ends[first]), int(ends[last] - ends[first])
            found = hashlib.sha256(os.pread(pixels.fileno(), length, start)).hexdigest() if number in known else ""
            if not found or found != known[number]:
                (folder / "cache.json").unlink(missing_ok=True)
                made = _part(paths, heights, widths, ends, (first, last), size, pool)
                found = hashlib.sha256(made).hexdigest()
                check()
                _write(pixels.fileno(), made, start, folder)
                _note(folder / "parts.txt", number, found)
            sums.append(found)
            advance(last - first)
            if time.monotonic() - said > SAID_EVERY and not sys.stderr.isatty():
                said = time.monotonic()
                logger.info(f"{last:,} of {len(paths):,} images, {said - started:.0f} s")
    return sums


def _part(
    paths: list[str],
    heights: np.ndarray,
    widths: np.ndarray,
    ends: np.ndarray,
    bounds: tuple[int, int],
    size: int,
    pool: ThreadPoolExecutor,
) -> np.ndarray:
    """The pixels of a part's images, uint8 (bytes,)."""
    first, last = bounds
    made = np.empty(int(ends[last] - ends[first]), np.uint8)

    def decode(number: int) -> None:
        image = np.asarray(load_rgb(paths[number], size))
        if image.shape != (heights[number], widths[number], 3):
            raise PelError(f"image {paths[number]} changed while it was decoded; run this again when nobody changes it")
        made[ends[number] - ends[first] : ends[number + 1] - ends[first]] = image.reshape(-1)

    for _ in pool.map(decode, range(first, last)):
        pass
    return made


def _write(handle: int, content: np.ndarray, start: int, folder: Path) -> None:
    """Write a part and see that it is on the disk."""
    left = memoryview(content)
    try:
        while left:
            written = os.pwrite(handle, left, start)
            left, start = left[written:], start + written
        os.fsync(handle)
    except OSError as error:
        raise PelError(f"{folder / 'images.bin'} cannot be written ({error.strerror}); started again, it goes on") from None


def _journal(path: Path) -> dict[int, str]:
    """The parts that were written, and their SHA-256; a line that was cut off does not count, a later one replaces an earlier."""
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    pairs = (line.split() for line in lines)
    return {int(pair[0]): pair[1] for pair in pairs if len(pair) == 2 and pair[0].isdecimal()}


def _note(path: Path, number: int, digest: str) -> None:
    with open(path, "ab+") as handle:
        end = handle.seek(0, os.SEEK_END)
        if end and (handle.seek(end - 1), handle.read(1))[1] != b"\n":
            handle.write(b"\n")  # after a line that was cut off
        handle.write(f"{number} {digest}\n".encode())
        handle.flush()
        os.fsync(handle.fileno())


def _silent(done: int) -> None:
    pass
