"""Tensor files: safetensors, written atomically, read with errors that name the file."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pel_core.common.errors import PelError
from pel_core.common.files import replace_file
from pel_core.common.shipped import snakemake_or_make


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors and text metadata; the same content gives the same bytes.

    Raises:
        PelError: the file cannot be written.
    """
    with replace_file(path) as temporary:
        try:
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=dict(metadata or {}))
        except SafetensorError as error:  # a full disk, for one
            raise PelError(f"{path} cannot be written ({error})") from None
        if metadata:
            _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Put the metadata in the order of its keys: safetensors writes it in the order of a hash table, another in each process.

    The file is 8 bytes of little-endian length, a JSON header padded with spaces, and the tensors.
    """
    with open(path, "rb+") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(content) <= size:  # an escape that JSON writers spell differently could make it longer: then it stays
            handle.seek(8)
            handle.write(content.ljust(size))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Named tensors and metadata of a file.

    Raises:
        PelError: the file is missing or damaged.
    """
    if not Path(path).is_file():
        raise PelError(f"{path} does not exist; let {snakemake_or_make()} make it")
    try:
        with safe_open(path, "pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}, handle.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise PelError(f"{path} is damaged ({error}); delete it and run again") from None
