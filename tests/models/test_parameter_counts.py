"""Parameter counts on ViT-B/16 equal the report's columns and the reference's numbers; the automatic sizes behind them."""

import pytest
import torch

from pel_core.models.methods import parse_method
from pel_core.models.surgery import apply, auto_adapter_dim, auto_mask_ratio
from pel_core.models.vit import ViT

CLASSES = (100, 1000, 365, 8142)
REPORT = {
    "adaptformer": ("0.10", "0.62", "0.18", "4.75"),
    "vpt-shallow+adaptformer@6:12": ("0.06", "0.32", "0.10", "2.38"),
    "adaptformer@6:12": ("0.05", "0.31", "0.09", "2.37"),
    "ln+adaptformer": ("0.14", "0.65", "0.21", "4.79"),
}
EXACT = {
    "adaptformer": (101_436, 617_868, 175_212, 4_749_324),
    "adaptformer@6:12": (50_718, 308_934, 87_606, 2_374_662),
    "vpt-shallow+adaptformer@6:12": (58_398, 316_614, 95_286, 2_382_342),
    "ln+adaptformer": (138_300, 654_732, 212_076, 4_786_188),
    "lora": (147_456, 1_179_648, 294_912, 9_437_184),
    "ssf-attn": (73_728,) * 4,
    "ssf-ln": (36_864,) * 4,
    "ssf-mlp": (92_160,) * 4,
    "vpt-shallow": (7_680,) * 4,
    "vpt-deep": (92_160,) * 4,
    "bias": (101_376,) * 4,
    "ln": (36_864,) * 4,
    "full": (85_054_464,) * 4,
}


D, L = 768, 12
# In closed form, of the rank r.
FORMULAS = {
    ("lora", ()): lambda r: L * 4 * D * r,
    ("lora", (("matrices", "q+k+v+o+fc1+fc2"),)): lambda r: L * (4 * 2 * D * r + 2 * 5 * D * r),
    ("dora", ()): lambda r: L * (4 * D * r + 2 * D),
    ("dora@6:12", (("matrices", "q+k+v+fc1+fc2"),)): lambda r: 6 * (6 * D * r + 10 * D * r + 3 * D + 5 * D),
    ("vpt-gated", ()): lambda r: 10 * D + 11 + 12,
    ("vpt-gated", (("shaping", False),)): lambda r: 10 * D + 11,
    ("vpt-gated@2:8", ()): lambda r: 10 * D + 6 + 6,
    ("repadapter", ()): lambda r: L * 2 * (D * r + r + D * r // 2 + D),
    ("repadapter", (("sites", "attn"), ("groups", 4))): lambda r: L * (D * r + r + D * r // 4 + D),
    ("fact-tt", ()): lambda r: 2 * D * r + L * 12 * r**2,
    ("fact-tt@6:12", ()): lambda r: 2 * D * r + 6 * 12 * r**2,
    ("fact-tk@6:12", (("sites", "attn"),)): lambda r: 2 * D * r + 6 * 4 * r + r**3,
    ("fact-tk", ()): lambda r: 2 * D * r + L * 12 * r + r**3,
    ("fact-tk+fact-tt@6:12", ()): lambda r: 4 * D * r + L * 12 * r + r**3 + 6 * 12 * r**2,
    ("vera", ()): lambda r: L * 2 * (D + r),
    ("vera", (("matrices", "q+o+fc1+fc2"),)): lambda r: L * (4 * r + 3 * D + 4 * D),
    ("convpass", ()): lambda r: L * 2 * (2 * D * r + 9 * r**2 + 2 * r + D),
    ("convpass@6:12", (("sites", "attn"),)): lambda r: 6 * (2 * D * r + 9 * r**2 + 2 * r + D),
    ("difffit", ()): lambda r: L * (11 * D + 2 * D + 2 * D),
    ("difffit+bias+ln", ()): lambda r: L * (11 * D + 2 * D + 2 * D),
    ("bitfit", ()): lambda r: L * (D + 4 * D),
    ("bitfit", (("matrices", "q+k+v+o+fc1+fc2"),)): lambda r: L * (5 * D + 4 * D),
}


def count_at_full_size(method, rank, knobs=None):
    """What trains on ViT-B/16; without memory for its 86 million weights."""
    with torch.device("meta"):
        vit = ViT(layers=L, width=D, heads=12, patch=16, resolution=224, quick_gelu=True)
    tuned = apply(vit, parse_method(method, L), adapter_dim=rank, knobs=knobs)
    assert len({entry.name for entry in tuned}) == len({id(entry.parameter) for entry in tuned}) == len(tuned)
    return sum(entry.parameter.numel() for entry in tuned)


@pytest.mark.parametrize(("method", "knobs"), FORMULAS)
def test_parameter_counts_of_methods_beside_the_report_s(method, knobs):
    count, name = FORMULAS[method, knobs], method.partition("@")[0]
    for rank in (4, 32):
        assert count_at_full_size(method, rank, {name: dict(knobs)}) == count(rank)


@pytest.mark.parametrize("method", EXACT)
def test_parameter_counts_of_the_report(method):
    counts = [count_at_full_size(method, auto_adapter_dim(classes, L)) for classes in CLASSES]
    assert tuple(counts) == EXACT[method]
    if method in REPORT:
        assert tuple(f"{count / 1e6:.2f}" for count in counts) == REPORT[method]


def test_the_image_tower_has_the_size_of_the_reference():
    with torch.device("meta"):
        vit = ViT(layers=12, width=768, heads=12, patch=16, resolution=224)
    assert sum(parameter.numel() for parameter in vit.parameters()) == 86_192_640 - 768 * 512  # without the projection


@pytest.mark.parametrize(
    ("classes", "layers", "rank"),
    [(10, 12, 1), (47, 12, 1), (48, 12, 2), (100, 12, 4), (365, 12, 8), (1000, 12, 32), (8142, 12, 256), (100, 24, 2)],
)
def test_automatic_rank(classes, layers, rank):
    assert auto_adapter_dim(classes, layers) == rank


@pytest.mark.parametrize(("classes", "ratio"), [(10, 0.001), (100, 0.001), (365, 0.003), (1000, 0.009), (8142, 0.073)])
def test_automatic_mask_ratio(classes, ratio):
    assert auto_mask_ratio(classes, 12, 768) == ratio
