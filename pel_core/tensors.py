"""Tensor files: safetensors, written atomically, read with errors that name the file."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pel_core.errors import PelError
from pel_core.files import replace_file


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors and text metadata."""
    with replace_file(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=dict(metadata or {}))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Named tensors and metadata of a file.

    Raises:
        PelError: the file is missing or damaged.
    """
    if not Path(path).is_file():
        raise PelError(f"{path} does not exist; let snakemake (or make study) make it")
    try:
        with safe_open(path, "pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}, handle.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise PelError(f"{path} is damaged ({error}); delete it and run again") from None
