"""Which files are images, by suffix; which of them take a library that is not always there; what programs leave beside them.

Torch-free, and free of PIL: planning lists images too.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from os.path import splitext

from pel_core.common.counts import count_of
from pel_core.common.errors import PelError

HEIC = frozenset((".heic", ".heif"))
AVIF = frozenset((".avif",))
SUFFIXES = AVIF | HEIC | {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
}  # fmt: skip
# Images that are not read: a class that holds nothing else is meant to be one.
UNREAD = frozenset((
    ".3fr", ".ai", ".arw", ".cr2", ".cr3", ".dcm", ".dds", ".dng", ".eps", ".exr", ".hdr", ".icns", ".ico", ".j2k", ".jp2",
    ".jpx", ".jxl", ".jxr", ".nef", ".nii", ".npy", ".orf", ".pcx", ".pef", ".psb", ".psd", ".qoi", ".raf", ".raw", ".rw2",
    ".sgi", ".srw", ".svg", ".tga", ".xcf",
))  # fmt: skip
# Folders and files that programs leave in people's folders, in lower case. What starts with a dot is left out as well.
SYSTEM = frozenset((
    "@eadir", "#recycle", "@recycle", "#snapshot", "$recycle.bin", "recycler", "system volume information", "lost+found",
    "found.000", "__macosx", "__pycache__",
))  # fmt: skip


def is_system(name: str) -> bool:
    """Whether a folder or file is hidden, or is one that programs leave: no class, and nothing to look into."""
    return name.startswith(".") or name.lower() in SYSTEM


def suffix_of(path: str) -> str:
    """The suffix in lower case, with its dot."""
    return splitext(path)[1].lower()


def count_suffixes(counts: Mapping[str, int], most: int = 8) -> str:
    """``12 .xml, 3 .txt``: the most frequent suffixes first."""
    text = ", ".join(f"{count:,} {suffix}" for suffix, count in Counter(counts).most_common(most))
    return f"{text}, ..." if len(counts) > most else text


def register_heic() -> bool:
    """Let PIL read HEIC where pillow-heif is installed; says whether it is."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        return True
    return False


def how_to_read(suffix: str) -> str:
    """What it takes to read files of this suffix; empty where they can be read here."""
    if suffix in HEIC and not register_heic():
        return "reading them needs pillow-heif: pip install 'pel-lab[heic]'"
    if suffix in AVIF:
        from PIL import features

        return "" if features.check("avif") else "reading them needs Pillow 11.3 or newer, built with AVIF"
    return ""


def require_readable(paths: Iterable[str]) -> None:
    """See that what is listed can be read with the libraries that are here: none is left out because one is absent.

    Raises:
        PelError: it cannot; the message counts and names the files and says what to install.
    """
    found: dict[str, list[str]] = {}
    for path in paths:
        suffix = suffix_of(path)
        if suffix in HEIC or suffix in AVIF:
            found.setdefault(suffix, []).append(path)
    for suffix, files in sorted(found.items()):
        if how := how_to_read(suffix):
            raise PelError(f"{count_of(len(files), f'{suffix} image')} found, such as {files[0]}; {how} (or convert them)")
