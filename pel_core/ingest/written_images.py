"""Encoded images taken out of tables and archives: written to files once, byte for byte, so that everything later sees files.

They are called SPLIT/00012/00012345.jpg after their place, and lie in ``images`` of the prepared folder.
"""

import io
import os
import shutil
from pathlib import Path

from pel_core.common.errors import PelError
from pel_core.common.logs import logger
from pel_core.data.image_files import SUFFIXES
from pel_core.data.prepared_files import MARK

FOLDER_SIZE = 1000  # images in a folder
# The first bytes of an image file -> its suffix.
MAGIC = (
    (b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"), (b"II*\0", ".tif"), (b"MM\0*", ".tif"),
)  # fmt: skip


def announce(images: int, size: int, source: str, out: Path) -> None:
    """Say how much will be written to ``out``, before it is.

    Args:
        images, size: how many, and their bytes, about.
        source: what they are taken out of.

    Raises:
        PelError: the disk has no room for them.
    """
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    text = f"{images:,} images (about {max(1, round(size / 1e6)):,} MB) are taken out of {source} into {out.parent / 'images'}"
    if free < 1.1 * size:
        raise PelError(f"{text}, but {free / 1e6:,.0f} MB are free there; choose another results folder")
    logger.info("note: %s", text)


def write_image(out: Path, split: str, position: int, content: bytes, where: str, name: str = "") -> str:
    """Write one encoded image as it is; its path below ``out``.

    Args:
        position: its place in the split.
        where: where it was found, for messages. name: what it was called there.

    Raises:
        PelError: it is no image.
    """
    path = f"{split}/{position // FOLDER_SIZE:05d}/{position:08d}{suffix(content, name)}"
    if path.endswith(".img"):
        require_image(content, where)
    target = out / path
    if position % FOLDER_SIZE == 0:
        target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return path


def require_image(content: bytes, where: str) -> None:
    """See that bytes which do not begin like an image of a common format are one.

    Raises:
        PelError: they are not.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)):
            return
    except Exception:  # whatever its decoders make of bytes that are none
        shown = content[:8].hex(" ")
        raise PelError(f"{where}: {len(content):,} bytes that are no image (they begin with {shown}); expected an encoded "
                       "image (JPEG, PNG, ...): say which column holds them, or mend it") from None  # fmt: skip


def suffix(content: bytes, name: str = "") -> str:
    """The suffix of an encoded image, by its first bytes; else by the name that it had; else ``.img``."""
    given = os.path.splitext(name)[1].lower()
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for magic, suffix in MAGIC if content.startswith(magic)), given if given in SUFFIXES else ".img")


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
