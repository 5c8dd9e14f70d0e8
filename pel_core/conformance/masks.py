"""Sparse fine-tuning: which scalar weights are selected."""

import numpy as np

from pel_core.conformance.golden import Arrays
from pel_core.conformance.report import Report
from pel_core.conformance.vocabulary import SITES
from pel_core.models.deltas import Sparse
from pel_core.models.vit import ViT


def check_masks(arrays: Arrays, vit: ViT, report: Report, name: str) -> None:
    """Which scalar weights sparse fine-tuning selects, bit for bit."""
    found = arrays.match(r"mask/(?:.*?\.)?(\d+)\.((?:attn|mlp)_(?:in|out))(.*)")
    if not found and not any(name.startswith("mask/") for name in arrays):
        return
    ours: dict[str, np.ndarray] = {}
    for path, delta in sparse_layers(vit).items():
        ours |= masks(path, delta)
    wrong = []
    for match in found:
        block, site, part = match.groups()
        part = "bias" if "bias" in part else "weight" if "weight" in part else "both"
        mask = ours.get(f"{block}.{SITES.get(site)}.{part}")
        if mask is None or not same_mask(mask, arrays[match[0]]):
            wrong.append(match[0])
    report.measure(f"{name}: masks ({len(found)})", len(wrong), 0, ", ".join(wrong[:3]))


def sparse_layers(vit: ViT) -> dict[str, Sparse]:
    """Sparse deltas by block and site, e.g. ``6.attn.qkv``."""
    wrapping = ("blocks", "module", "delta")
    return {
        ".".join(word for word in path.split(".") if word not in wrapping): module
        for path, module in vit.named_modules()
        if isinstance(module, Sparse)
    }


def masks(path: str, delta: Sparse) -> dict[str, np.ndarray]:
    """Boolean masks (out, in), (out,) and, both together, (out, in + 1)."""
    out, width = delta.shape
    weight, bias = np.zeros(out * width, bool), np.zeros(out, bool)
    weight[delta.index_weight.cpu().numpy()] = True
    bias[delta.index_bias.cpu().numpy()] = True
    weight = weight.reshape(out, width)
    return {f"{path}.weight": weight, f"{path}.bias": bias, f"{path}.both": np.concatenate([weight, bias[:, None]], 1)}


def same_mask(mask: np.ndarray, stored: np.ndarray) -> bool:
    """Equal to a stored mask: plain, packed as one run of bits, or packed row by row, in either order of bits."""
    if stored.shape == mask.shape:
        return bool((stored.astype(bool) == mask).all())
    packings = [(axis, order) for axis in (None, -1) for order in ("big", "little")]
    return any(np.array_equal(np.packbits(mask, axis=axis, bitorder=order), stored) for axis, order in packings)
