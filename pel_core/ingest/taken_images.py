"""Images that come out of tables, archives and downloads: written to files once, byte for byte. Everything later sees files.

They are written to a folder that is put in place at the end. A split that is written in parts remembers what it has, so that a
process that was killed goes on where it was.
"""

import io
import json
import os
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError, is_our_defect
from pel_core.common.files import read_json, write_json
from pel_core.common.logs import logger
from pel_core.data.image_files import SUFFIXES
from pel_core.data.prepared_files import MARK

FOLDER_SIZE = 1000  # images in a folder
PART = 256  # images between two notes of what is there
# The first bytes of an image file -> its suffix.
MAGIC = (
    (b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"), (b"II*\0", ".tif"), (b"MM\0*", ".tif"),
)  # fmt: skip
Taken = tuple[bytes, str, Any, str]  # content, name, label, where it stood


def known_suffix(content: bytes) -> str:
    """The suffix that the first bytes of an image file tell; empty where they tell none."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for magic, suffix in MAGIC if content.startswith(magic)), "")


def suffix_of(content: bytes, name: str) -> str:
    """What the file of an image is to end in: by its first bytes, else as it is called."""
    given = os.path.splitext(name)[1].lower()
    return known_suffix(content) or (given if given in SUFFIXES else ".img")


def require_image(content: bytes, where: str) -> None:
    """Refuse bytes that no image begins with. (Whether all of it can be decoded, the check of images says.)

    Raises:
        PelError: naming ``where`` they stand, and how they begin.
    """
    if known_suffix(content):
        return
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(io.BytesIO(content)).close()
    except Exception as error:  # Pillow raises nearly anything
        if is_our_defect(error):
            raise
        raise PelError(
            f"{where}: its {len(content):,} bytes are not an image (they begin with {content[:12]!r}); expected an encoded "
            "image, such as the content of a .jpg or .png file"
        ) from error


def image_path(split: str, position: int, suffix: str) -> str:
    """Where an image goes below the folder: SPLIT/00012/00012345.jpg after its place."""
    return f"{split}/{position // FOLDER_SIZE:05d}/{position:08d}{suffix}"


class TakenImages:
    """A folder that images of a source are written to, and goes on with where it is of the same source.

    Args:
        folder: nothing, or what an earlier process that was killed left.
        source: what the images follow from, as plain values; a folder of another source is emptied.
    """

    def __init__(self, folder: Path, source: Any):
        self.folder, self._about = folder, folder / "taken.json"
        about = {"source": json.dumps(source, sort_keys=True)}
        if not self._about.is_file() or read_json(self._about) != about:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(self._about, about)

    def there(self, split: str) -> list[tuple[str, Any]]:
        """Paths and labels of the images of a split that are written already, in order. What was half written does not count."""
        found, notes = [], self._notes(split)
        if notes.is_file():
            for line in notes.read_text(encoding="utf-8").split("\n")[:-1]:  # each that ends
                path, size, label = json.loads(line)
                file = self.folder / path
                if not file.is_file() or file.stat().st_size != size:
                    break
                found.append((path, label))
        return found

    def take(self, split: str, images: Iterable[Taken], there: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Write the images that come after those that are ``there``; paths and labels of all of them.

        Raises:
            PelError: one is empty or no image.
        """
        notes = self._notes(split)
        if there:
            logger.info("note: going on with %s after %s images that are written already", split, f"{len(there):,}")
        # Written anew, so that a line that was torn by a kill is gone.
        notes.write_text("".join(self._line(path, label) for path, label in there), encoding="utf-8")
        found, part = list(there), []
        with open(notes, "a", encoding="utf-8") as handle:
            for content, name, label, where in images:
                require_image(content, where)
                path = image_path(split, len(found), suffix_of(content, name))
                target = self.folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                found.append((path, label))
                part.append(self._line(path, label))
                if len(part) == PART:
                    handle.write("".join(part))
                    handle.flush()
                    part = []
            handle.write("".join(part))
        return found

    def finish(self, source: str) -> None:
        """Say whose images these are; what was noted on the way goes."""
        for notes in self.folder.glob("taken*"):
            notes.unlink()
        (self.folder / MARK).write_text(f"Images of {source}, as they were encoded there.\n", encoding="utf-8")

    def _notes(self, split: str) -> Path:
        return self.folder / f"taken-{split}.jsonl"

    def _line(self, path: str, label: Any) -> str:
        return json.dumps([path, (self.folder / path).stat().st_size, label]) + "\n"


def require_room(source: str, images: str, size: int, out: Path) -> None:
    """Say how much will be written, before it is.

    Args:
        images: how many, in words. size: their bytes, about.

    Raises:
        PelError: the disk has no room.
    """
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    text = f"{images} (about {max(1, round(size / 1e6)):,} MB) are taken out of {source} into {out.parent / 'images'}"
    if free < 1.1 * size:
        raise PelError(f"{text}, but {free / 1e6:,.0f} MB are free there; choose another results folder")
    logger.info("note: %s", text)


def replace_images(new: Path, folder: Path) -> None:
    """Put the images that were written to ``new`` where runs look for them, in place of earlier ones.

    Raises:
        PelError: images of somebody else lie there.
    """
    target = folder / "images"
    if target.exists():
        if not (target / MARK).is_file():
            raise PelError(f"{target} was not written by this program; move it away, or choose another results folder")
        shutil.rmtree(target)
    new.rename(target)
