"""A golden folder: its index, its arrays (with a memory of which were looked at), its backbones and batches."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.conformance.report import Unsupported
from pel_core.models.vit import ViT
from pel_core.models.weights import vit_from_clip, vit_from_timm

CPU = torch.device("cpu")
# Measured noise of float32, with room; a folder's index.json may state others.
TOLERANCES = {"feature_logits": 2e-5, "losses": 1e-5, "losses_cb": 2e-4, "grads": 1e-4, "grads_floor": 1e-7, "step3": 2e-6}
STATED = {
    "feature_logits": {"feature_logits": r"atol ([\d.e-]+)"},
    "losses": {"losses": r"^rtol ([\d.e-]+)", "losses_cb": r"CB rtol ([\d.e-]+)"},
    "grads": {"grads": r"<= ([\d.e-]+) \*", "grads_floor": r"\+ ([\d.e-]+)"},
    "step3": {"step3": r"atol ([\d.e-]+)"},
}


class Arrays:
    """The arrays of one npz; every access is remembered. Tensors are made on the device."""

    def __init__(self, path: Path, device: torch.device):
        self.device = device
        with np.load(path, allow_pickle=False) as stored:
            self._values = {name: stored[name] for name in stored.files}
        self.read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def tensor(self, name: str) -> Tensor:
        """One array as a tensor of its own."""
        return torch.from_numpy(np.array(self[name])).to(self.device)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The arrays below ``prefix`` as tensors, by the rest of their names; they count as read."""
        return {name.removeprefix(prefix): self.tensor(name) for name in self if name.startswith(prefix)}

    def match(self, pattern: str) -> list[re.Match[str]]:
        """Names that match, none of them read by that."""
        return [found for name in self if (found := re.fullmatch(pattern, name))]

    def declare_inputs(self, *names: str) -> None:
        """Mark arrays that are inputs or restate other files, and have no counterpart to compare with."""
        self.read.update(name for name in names if name in self)

    def unread(self) -> list[str]:
        """Names that nobody has looked at."""
        return sorted(set(self) - self.read)


class Golden:
    """The folder. Files are told apart by the arrays they hold, never by their names.

    Raises:
        PelError: there is no index.json, or it is not a mapping.
    """

    def __init__(self, folder: str | Path, device: torch.device = CPU):
        self.folder, self.device = Path(folder), device
        self.index: dict[str, Any] = read_json(self.folder / "index.json")
        if not isinstance(self.index, dict):
            raise PelError(f"{self.folder / 'index.json'} is not a mapping")
        self.configs: dict[str, dict[str, Any]] = self.index.get("configs") or {}
        self.named: dict[str, dict[str, Any]] = self.index.get("files") or {}
        self.config_files = {str(config.get("file", f"cfg_{name}.npz")): name for name, config in self.configs.items()}
        on_disk = [path.name for path in sorted(self.folder.glob("*.npz"))]
        self._arrays: dict[str, Arrays] = {}
        self.broken: dict[str, str] = {}
        for name in dict.fromkeys([*self.named, *self.config_files, *on_disk]):
            try:
                self._arrays[name] = Arrays(self.folder / name, device)
            except Exception as error:  # missing, not a zip archive, pickled: NumPy raises many kinds
                self.broken[name] = f"{type(error).__name__}: {error}".splitlines()[0]

    def arrays(self, file: str) -> Arrays:
        """The arrays of one file.

        Raises:
            PelError: it is not in the folder, or cannot be read.
        """
        if file not in self._arrays:
            raise PelError(f"{file} of {self.folder}: {self.broken.get(file, 'not there')}")
        return self._arrays[file]

    @property
    def names(self) -> list[str]:
        """Every readable file."""
        return list(self._arrays)

    def files(self, *kinds: str) -> list[str]:
        """The files of some kinds."""
        return [name for name in self.names if self.kind(name) in kinds]

    def kind(self, file: str) -> str:
        """What a file holds, told by its arrays; "" where nobody knows."""
        if file in self.config_files:
            return "config"
        arrays = self.arrays(file)
        tests = {
            "clip": r"visual\.conv1\.weight",
            "timm": r"patch_embed\.proj\.weight",
            "losses": r"([^/]+/)?value/.+",
            "head_init": r"classnames",
            "sampling": r"(counts|indices)_ir[\d.]+",
            "evaluator": r"([^/]+/)?result/.+",
            "transforms": r"image/.+|eval/images",
            "loop": r"init/.+",
            "batch": r"images",
        }
        return next((kind for kind, pattern in tests.items() if arrays.match(pattern)), "")

    def about(self, file: str) -> str:
        """What the index says of a file."""
        return str((self.named.get(file) or {}).get("about", ""))

    def tolerance(self, name: str) -> float:
        """A tolerance of ``TOLERANCES``, the index's own where it states one."""
        for key, patterns in STATED.items():
            stated = (self.index.get("tolerances") or {}).get(key)
            if name in patterns and isinstance(stated, int | float):
                return float(stated)
            if name in patterns and (found := re.search(patterns[name], str(stated))):
                return float(found[1])
        return TOLERANCES[name]

    def backbone(self, asked: str | None = None, width: int | None = None) -> str:
        """The file of the backbone that is asked for by file or by kind (CLIP..., IN21K...), or the only one of that width.

        Raises:
            Unsupported: there is none, or more than one.
        """
        files = self.files("clip", "timm")
        if asked is not None:
            named = [file for file in files if asked in (file, Path(file).stem)]
            kind = "clip" if "clip" in asked.lower() else "timm"
            files = named or [file for file in files if self.kind(file) == kind]
        if len(files) > 1 and width is not None:
            files = [file for file in files if self.width(file) == width]
        if len(files) > 1 and asked is None:
            files = [file for file in files if self.kind(file) == "clip"] or files
        if len(files) != 1:
            known = ", ".join(self.files("clip", "timm"))
            raise Unsupported(f"{len(files)} backbones fit{f' {asked}' if asked else ''}, expected one of {known}")
        return files[0]

    def named_by(self, config: Mapping[str, Any], *kinds: str) -> str | None:
        """The file of some kinds that a configuration names under whatever key, with or without its suffix."""
        given = {**config, **(config.get("options") or {})}
        words = [value for value in given.values() if isinstance(value, str)]
        return next((file for file in self.files(*kinds) if file in words or Path(file).stem in words), None)

    def width(self, file: str) -> int:
        """D of a backbone file."""
        return len(self.arrays(file)["visual.class_embedding" if self.kind(file) == "clip" else "norm.weight"])

    def state(self, file: str) -> dict[str, Tensor]:
        """The state dict of a backbone."""
        return self.arrays(file).under("")

    def vit(self, file: str) -> tuple[ViT, dict[str, Tensor]]:
        """A fresh ViT of a backbone file on the device, and its text projection and scale (empty for timm)."""
        about = self.named.get(file) or {}
        heads = about.get("num_heads") or about.get("heads")
        head_width = self.width(file) // int(heads) if heads else 64
        if self.kind(file) == "timm":
            return vit_from_timm(self.state(file), head_width).to(self.device), {}
        vit, text = vit_from_clip(self.state(file), head_width=head_width)
        return vit.to(self.device), text

    def batch(
        self, own: Arrays, vit: ViT, rows: int, classes: int | None = None, named: str | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and class counts for a file: its own, the one that is named, or the one batch that fits.

        Args:
            rows: images in the batch. classes: length of its class counts, where that matters.

        Raises:
            Unsupported: no batch fits, or more than one.
        """
        if all(name in own for name in ("images", "labels", "cls_num_list")):
            candidates = [own]
        elif named:
            candidates = [self.arrays(named)]
        else:
            candidates = [self.arrays(file) for file in self.files("batch")]
            shape = (rows, vit.resolution)
            candidates = [arrays for arrays in candidates if arrays["images"].shape[::3] == shape]
            if classes is not None:
                candidates = [arrays for arrays in candidates if len(arrays["cls_num_list"]) == classes]
        if len(candidates) != 1:
            wanted = f"{rows} images of {vit.resolution} px{f', {classes} classes' if classes else ''}"
            raise Unsupported(f"{len(candidates)} batches of {wanted}; expected one")
        return tuple(candidates[0].tensor(name) for name in ("images", "labels", "cls_num_list"))
