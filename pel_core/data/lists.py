"""List files (``path label`` a line, the format of ImageNet-LT), read strictly.

Every error names file and line, what stands there and what was expected.
"""

import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.locales import check_locale
from pel_core.common.problems import Problems


@dataclass(frozen=True)
class ImageList:
    """A parsed list: ``paths`` relative to the root, in file order, ``labels`` int64 (N,), ``lines`` where some were left out."""

    source: str
    paths: list[str]
    labels: np.ndarray
    lines: np.ndarray | None = None

    def where(self, position: int) -> str:
        """``file:line`` of an entry, for messages."""
        return f"{self.source}:{position + 1 if self.lines is None else self.lines[position]}"


def read_lines(path: str | Path, what: str) -> list[str]:
    """The lines of a UTF-8 text file; ``\\r\\n`` and a byte-order mark are accepted.

    Raises:
        PelError: the file is missing, is not a file, is not UTF-8, or is empty. ``what`` says what it should be.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise PelError(f"{what} {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise PelError(f"{what} {path} is not UTF-8 text: {_not_utf8(error)}; save it as UTF-8") from None
    except OSError as error:
        raise PelError(f"{what} {path} cannot be read ({error.strerror})") from None
    if not text.strip():
        raise PelError(f"{what} {path} is empty")
    # Not splitlines(): it also breaks at form feeds and Unicode separators, which may stand in file names.
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _not_utf8(error: UnicodeDecodeError) -> str:
    """Where a text stops being UTF-8: the line, the word as its bytes, and what that would be in the code that Windows writes."""
    text, at = error.object, error.start
    before = re.split(rb"[\s,;\"]", text[:at])[-1][-30:]
    word = before + re.split(rb"[\s,;\"]", text[at:])[0][:30]
    read = word.decode("cp1252", errors="replace")
    guess = f", {read!r} if it is Latin-1" if read.isprintable() else ""
    line = text.count(b"\n", 0, at) + 1
    return f"line {line} has the bytes {str(word)[1:]}{guess}"


def read_image_list(path: str | Path, classes: int, problems: Problems | None = None) -> ImageList:
    """Read a list file.

    A line is a path relative to the image root, white space, and a label in 0..classes-1. The path may hold spaces: the
    last token is the label. A million lines take a second or two.

    ``classes`` is the number of class names; ``problems`` takes bad lines, which are left out (None stops at the first).

    Raises:
        PelError: naming file and line: a malformed line, a bad label, a path that leaves the root, a repeated path.
    """
    source = str(path)
    paths: list[str] = []
    labels, left_out = [], []
    lines = read_lines(path, "list file")
    for number, line in enumerate(lines, 1):
        parts = line.rsplit(None, 1)
        try:
            if len(parts) != 2 or line[0].isspace() or "\0" in line or "\r" in line:
                raise PelError(f"{source}:{number}: found {line!r}, expected 'path label'")
            name, token = parts
            if not (token.isascii() and token.isdigit() and len(token) < 10) or (label := int(token)) >= classes:
                raise _bad_label(f"{source}:{number}", token, classes)
            if name[0] == "/" or ("." in name and (".." in name or "./" in name)) or "//" in name:
                name = inside(f"{source}:{number}", name)
        except PelError as error:
            if problems is None:
                raise
            problems.add("bad lines in lists", error)
            left_out.append(number - 1)
            continue
        paths.append(name)
        labels.append(label)
    numbers = np.delete(np.arange(1, len(lines) + 1), left_out) if left_out else None
    return distinct(ImageList(source, paths, np.array(labels, np.int64), numbers), problems)


def distinct(images: ImageList, problems: Problems | None) -> ImageList:
    """The list, seen to hold no path twice; ``problems`` takes what is wrong, None raises it."""
    if len(set(images.paths)) != len(images.paths):
        error = _repeated(images)
        if problems is None:
            raise error
        problems.add("lists with repeated paths", error)
    return images


def _bad_label(where: str, token: str, classes: int) -> PelError:
    expected = f"expected a label from 0 to {classes - 1} ({classes} class names)"
    if token.isascii() and token.isdigit():
        return PelError(f"{where}: label {token} has no class name; {expected}")
    if re.fullmatch(r"-\d+", token, re.ASCII):
        return PelError(f"{where}: label {token} is negative; {expected}")
    return PelError(f"{where}: found {token!r} as the last token, which is not a label; {expected}")


def inside(where: str, name: str) -> str:
    """The path without ``.`` and doubled slashes, or an error where it would leave the root."""
    if name.startswith("/"):
        raise PelError(f"{where}: path {name!r} is absolute; expected one relative to the data set's root")
    if ".." in name.split("/"):
        raise PelError(f"{where}: path {name!r} climbs with '..'; expected one that stays inside the data set's root")
    return posixpath.normpath(name)


def _repeated(images: ImageList) -> PelError:
    seen: dict[str, int] = {}
    for position, name in enumerate(images.paths):
        first = seen.setdefault(name, position)
        if first != position:
            line = images.where(first).rpartition(":")[2]
            return PelError(f"{images.where(position)}: path {name!r} repeats line {line}; expected each image once")
    raise AssertionError("no repeated path")


def require_every_class(images: ImageList, class_names: Sequence[str]) -> np.ndarray:
    """Training images per class, int64 (C,); a class without any is an error that names it."""
    counts = np.bincount(images.labels, minlength=len(class_names)).astype(np.int64)
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        named = ", ".join(f"{c} ({class_names[c]})" for c in missing[:5].tolist()) + (", ..." if len(missing) > 5 else "")
        raise PelError(
            f"{images.source}: {len(missing)} of {len(class_names)} classes have no training image: {named}; "
            f"expected every label from 0 to {len(class_names) - 1} (check the labels against the class-names file)"
        )
    return counts


def require_disjoint(train: ImageList, other: ImageList) -> None:
    """Refuse a training image that is also a test image."""
    both = set(train.paths).intersection(other.paths)
    if both:
        at = next(i for i, name in enumerate(other.paths) if name in both)
        raise PelError(
            f"{other.where(at)}: {other.paths[at]!r} is also a training image in {train.source} "
            f"({len(both)} such); expected separate images"
        )


FOUND_WRONG = {
    "link": ("symbolic links that lead out of the image folder", "{where}: {name!r} is a symbolic link that leads out of {root}"),
    "empty": ("empty files", "{where}: {path} is empty; expected an image"),
    "folder": ("paths that are no file", "{where}: {path} is not a file; expected an image"),
    "missing": ("missing files", "{where}: {path} cannot be used ({why})"),
    "unusable": ("files that cannot be used", "{where}: {path} cannot be used ({why})"),
}
Wrong = tuple[int, str, str]  # position in the list, key of FOUND_WRONG, the system's word for it


def check_files(
    root: str | Path,
    images: ImageList,
    threads: int = 16,
    problems: Problems | None = None,
    advance: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Check that every listed file exists inside the root.

    ``threads`` look at files at once: disks over a network answer slowly, and many at a time. ``problems`` takes what is wrong;
    None stops at the first. ``advance`` is told the number of files looked at, now and then.

    Returns:
        int64 (N,): file sizes in bytes; 0 for a file that cannot be used.

    Raises:
        PelError: the root is no folder, the locale cannot spell a path; a file is missing, empty, no file, or a link out of it.
    """
    if not os.path.isdir(root):
        raise PelError(f"image folder {root} does not exist")
    check_locale(images.paths)
    real_root = os.path.realpath(root)
    folders = {os.path.dirname(name) for name in images.paths}
    # A link may be anywhere on the way: folders are resolved once each, files only where they are links themselves.
    outside = {f for f in folders if not _within(real_root, os.path.join(real_root, f))}
    sizes = np.zeros(len(images.paths), np.int64)

    def look(chunk: range) -> list[Wrong]:
        wrong = []
        for position in chunk:
            sizes[position], key, why = _look(real_root, images.paths[position], outside)
            wrong += [(position, key, why)] if key else []
        return wrong

    # Chunks, since a future for each of half a million files would cost more than its stat.
    chunks = [range(start, min(start + 1024, len(images.paths))) for start in range(0, len(images.paths), 1024)]
    with ThreadPoolExecutor(threads) as pool:
        for chunk, wrong in zip(chunks, pool.map(look, chunks), strict=True):
            for position, key, why in wrong:
                name, (kind, message) = images.paths[position], FOUND_WRONG[key]
                path = os.path.join(root, name)
                text = message.format(where=images.where(position), name=name, root=root, path=path, why=why)
                if problems is None:
                    pool.shutdown(cancel_futures=True)
                    raise PelError(text)
                problems.add(kind, text)
            if advance:
                advance(len(chunk))
    return sizes


def _look(real_root: str, name: str, outside: Container[str]) -> tuple[int, str, str]:
    """Size of a file, and what is wrong with it: a key of FOUND_WRONG or nothing, and the system's word for it."""
    path = os.path.join(real_root, name)
    try:
        status = os.lstat(path)
        link = stat.S_ISLNK(status.st_mode)
        if os.path.dirname(name) in outside or (link and not _within(real_root, path)):
            return 0, "link", ""
        status = os.stat(path) if link else status
    except FileNotFoundError as error:
        return 0, "missing", error.strerror
    except OSError as error:
        return 0, "unusable", error.strerror
    if not stat.S_ISREG(status.st_mode):
        return 0, "folder", ""
    return status.st_size, "" if status.st_size else "empty", ""


def digest(images: ImageList, sizes: np.ndarray, contents: bytes = b"") -> str:
    """SHA-256 over paths, labels and file sizes (N,) of a list, and the digests of its files' contents one after the other.

    Without contents it is what a data set had that was prepared before files were known by content.
    """
    content = "\n".join(images.paths).encode() + images.labels.tobytes() + sizes.tobytes() + contents
    return hashlib.sha256(content).hexdigest()


def _within(real_root: str, path: str) -> bool:
    return os.path.commonpath([real_root, os.path.realpath(path)]) == real_root
