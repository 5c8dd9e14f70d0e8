"""CIFAR-100, unpacked or in its archive: each file's MD5 is checked, then it is read by an unpickler that runs nothing."""

import codecs
import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.problems import Problems
from pel_core.common.shipped import program
from pel_core.data.roots import expand_root
from pel_core.ingest.content import Content
from pel_core.ingest.options import Rooted
from pel_core.ingest.sources.base import SAID, Source, register

FOLDER, ARCHIVE = "cifar-100-python", "cifar-100-python.tar.gz"
ARCHIVE_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
CIFAR_MD5 = {
    "meta": "7973b15100ade9c7d40fb424638fde48",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}


Reader = Callable[[str], dict[str, Any]]  # from meta, train or test to the record of that file


class Absent(PelError):
    """CIFAR-100 is not where it should be."""


class _PlainUnpickler(pickle.Unpickler):
    """Admits NumPy arrays and plain values: a pickle that names anything else is refused, not run."""

    ADMITTED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,  # how Python 3 writes bytes into such an old pickle
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ADMITTED:
            raise PelError(f"the pickle asks for {module}.{name}, which a CIFAR archive has no use for; refused")
        return self.ADMITTED[module, name]


def read_cifar(content: bytes, name: str, source: str | Path) -> dict[str, Any]:
    """One file of CIFAR-100, unpickled only after its checksum holds.

    Args:
        content: its bytes.
        name: meta, train or test.
        source: where they are from, for messages.

    Raises:
        PelError: another checksum, or a pickle that asks for more than arrays and plain values.
    """
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != CIFAR_MD5[name]:
        raise PelError(f"{source} has MD5 {digest}, expected {CIFAR_MD5[name]}: it is damaged or not CIFAR-100; fetch it again")
    return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()


def find_cifar(folder: str | Path) -> Reader:
    """Find CIFAR-100 as an unpacked folder, or as torchvision's archive in that folder or beside it, which is not unpacked.

    Returns:
        A function from meta, train or test to the record of that file (see `read_cifar`).

    Raises:
        Absent: neither is there.
        PelError: the archive is damaged.
    """
    folder = Path(folder)
    for place in (folder, folder / FOLDER):
        if any((place / name).is_file() for name in CIFAR_MD5):
            return lambda name: _from_folder(place, name)
    for archive in (folder / ARCHIVE, folder.parent / ARCHIVE):
        if archive.is_file():
            require_archive(archive)
            return lambda name: _from_archive(archive, name)
    lacking = f"expected the files {', '.join(CIFAR_MD5)} in it, or {ARCHIVE} in it or beside it"
    raise Absent(f"image folder {folder} {'holds no CIFAR-100' if folder.is_dir() else 'does not exist'}; {lacking}")


def is_whole(folder: Path) -> bool:
    """Whether every file of CIFAR-100 lies in a folder, with its checksum."""
    return all((folder / name).is_file() and _md5(folder / name) == wanted for name, wanted in CIFAR_MD5.items())


def require_archive(path: Path) -> None:
    """See that an archive is whole, before anything of it is opened.

    Raises:
        PelError: its checksum is another one.
    """
    if (digest := _md5(path)) != ARCHIVE_MD5:
        raise PelError(
            f"{path} has MD5 {digest}, expected {ARCHIVE_MD5}: it is damaged or another archive; delete and fetch it again"
        )


def _md5(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _from_folder(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise PelError(f"{path} does not exist; expected the files {', '.join(CIFAR_MD5)} of {FOLDER}")
    return read_cifar(path.read_bytes(), name, path)


def _from_archive(archive: Path, name: str) -> dict[str, Any]:
    with tarfile.open(archive) as members:
        try:
            handle = members.extractfile(f"{FOLDER}/{name}")
        except KeyError:
            handle = None
        if handle is None:
            raise PelError(f"{archive} holds no file {FOLDER}/{name}")
        return read_cifar(handle.read(), name, f"{archive}:{name}")


@register
class Cifar(Source):
    """The archive of 60,000 images of 32 x 32 pixels, as torchvision knows it."""

    kind = "cifar"
    Options = Rooted

    def read(self, out: Path, check_images: str = "sample", problems: Problems | None = None) -> Content:
        """The balanced training images, and the test images."""
        read = self._find(Path(expand_root(self.given_root)))
        names = [str(name) for name in read("meta")["fine_label_names"]]
        content = Content(names, {})
        for split in ("train", "test"):
            record = read(split)
            images = np.asarray(record["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            content.add_images(split, images, np.array(record["fine_labels"]))
        content.train_counts[""] = np.bincount(content.splits["train"]["labels"], minlength=len(names)).tolist()
        return content

    def _find(self, root: Path) -> Reader:
        try:
            return find_cifar(root)
        except Absent as absent:
            from pel_core.ingest.fetch import fetch_cifar

            try:
                fetch_cifar(root)
            except PelError as error:
                where = f"'roots: {{{self.base}: FOLDER}}' in the configuration names its folder, {SAID} the folder above"
                by_hand = f"where there is a network, `{program()} data fetch {self.base}` gets it"
                raise PelError(f"data set '{self.base}': {absent}; {where}; {by_hand} ({error})") from None
        return find_cifar(root)

    def fetch(self, mirror: str = "") -> None:
        """The archive, unpacked."""
        from pel_core.ingest.fetch import fetch_cifar

        fetch_cifar(Path(expand_root(self.given_root)), mirror)
