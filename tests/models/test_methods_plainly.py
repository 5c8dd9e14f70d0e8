"""Methods against `plain_vit`, a second implementation from the papers: values, gradients, three steps of SGD, in float64."""

import pytest
import torch
from plain_vit import PLAIN
from torch import nn
from torch.nn import functional as F

from pel_core.models.methods import METHODS, parse_method
from pel_core.models.surgery import apply
from pel_core.models.vit import ViT

LAYERS, WIDTH, HEADS, PATCH, SIDE, RANK, PROMPTS, CLASSES = 3, 16, 2, 4, 12, 4, 3, 5
SETTINGS = [
    ("lora", {}),
    ("lora", {"alpha": 3.0, "matrices": "k+o+fc1+fc2"}),
    ("lora@1:", {"matrices": "q+k+v+o+fc1+fc2"}),
    ("dora", {}),
    ("dora", {"alpha": 2.0, "matrices": "q+o+fc1+fc2", "full_gradient": True}),
    ("dora@:2", {"matrices": "q+k+v"}),
    ("vpt-gated", {}),
    ("vpt-gated@1:", {"gate": 0.5}),
    ("vpt-gated@:2", {"shaping": False}),
    ("repadapter", {}),
    ("repadapter@1:2", {"groups": 4, "scale": 0.5, "sites": "attn"}),
    ("fact-tt", {}),
    ("fact-tt@1:", {"scale": 0.1, "sites": "attn"}),
    ("fact-tk", {}),
    ("fact-tk@:2", {"scale": 2.0}),
    ("vera", {}),
    ("vera@1:", {"matrices": "k+o+fc1+fc2", "projection_seed": 3}),
    ("convpass", {}),
    ("convpass@1:", {"scale": 0.5, "sites": "attn"}),
    ("difffit", {}),
    ("difffit@1:2", {}),
    ("bitfit", {}),
    ("bitfit@1:", {"matrices": "k+v+o+fc2"}),
]


def float64_vit():
    torch.manual_seed(0)
    vit = ViT(layers=LAYERS, width=WIDTH, heads=HEADS, patch=PATCH, resolution=SIDE, quick_gelu=True).double()
    for parameter in vit.parameters():
        nn.init.normal_(parameter, 1 if parameter.ndim == 1 else 0, 0.3)
    return vit


def make(method, changes):
    """Ours with the method's parameters at random values, and the plain one with copies of all tensors."""
    vit, (part,) = float64_vit(), parse_method(method, LAYERS)
    frozen = {name: value.detach().clone() for name, value in vit.state_dict().items()}
    knobs = {knob.name: knob.default for knob in METHODS[part.name].knobs} | changes
    tuned = apply(vit, (part,), adapter_dim=RANK, vpt_len=PROMPTS, knobs={part.name: changes})
    torch.manual_seed(1)
    for entry in tuned:
        around = 1 if "temperature" in entry.name or "magnitude" in entry.name or "gamma" in entry.name else 0
        nn.init.normal_(entry.parameter, around, 0.3)
        entry.parameter.data.clamp_(0.2 if around else -9)
    frozen |= {f"{name[0]}{'x'.join(map(str, value.shape))}": value for name, value in frozen_factors(vit)}
    learnt = {entry.name: entry.parameter.detach().clone().requires_grad_() for entry in tuned}
    sizes = {"layers": LAYERS, "heads": HEADS, "patch": PATCH, "blocks": part.blocks, "knobs": knobs}
    return vit, {entry.name: entry.parameter for entry in tuned}, PLAIN[part.name](frozen, learnt, **sizes), learnt


def frozen_factors(vit):
    """VeRA's random matrices, a and b."""
    return [(name[-1:], value) for name, value in vit.named_parameters() if name.endswith((".delta.a", ".delta.b"))]


@pytest.mark.parametrize(("method", "knobs"), SETTINGS, ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_values_gradients_and_three_steps(method, knobs):
    vit, ours, plain, theirs = make(method, knobs)
    generator = torch.Generator().manual_seed(2)
    images, labels = torch.randn(6, 3, SIDE, SIDE, generator=generator).double(), torch.arange(6) % CLASSES
    head = torch.randn(WIDTH, CLASSES, generator=generator).double()
    optimizers = [torch.optim.SGD(list(each.values()), lr=0.05, momentum=0.9, weight_decay=5e-4) for each in (ours, theirs)]
    for step in range(3):
        features = vit(images), plain(images)
        torch.testing.assert_close(*features, rtol=1e-9, atol=1e-11)
        for found, optimizer in zip(features, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(found @ head, labels).backward()
        for name, parameter in ours.items():
            assert parameter.grad.abs().sum() > 0, f"{name} learns nothing at step {step}"
            torch.testing.assert_close(
                parameter.grad, theirs[name].grad, rtol=1e-7, atol=1e-10, msg=lambda text, name=name: name + text
            )
        for optimizer in optimizers:
            optimizer.step()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-8, atol=1e-10)
