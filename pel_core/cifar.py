"""torchvision's CIFAR-100 archive, unpacked: each file's MD5 is checked, then it is read by an unpickler that runs nothing."""

import codecs
import hashlib
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pel_core.errors import PelError

CIFAR_MD5 = {
    "meta": "7973b15100ade9c7d40fb424638fde48",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}


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


def read_cifar(path: Path) -> dict[str, Any]:
    """One file of torchvision's CIFAR-100 archive, unpickled only after its checksum holds."""
    if not path.is_file():
        raise PelError(f"{path} does not exist; expected the files {', '.join(CIFAR_MD5)} of cifar-100-python")
    found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if found != CIFAR_MD5[path.name]:
        raise PelError(f"{path} has MD5 {found}, expected {CIFAR_MD5[path.name]}: it is damaged or not CIFAR-100; fetch it again")
    with open(path, "rb") as handle:
        return _PlainUnpickler(handle, encoding="latin1").load()
