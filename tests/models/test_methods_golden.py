"""Methods against numbers that public implementations gave: `tests/golden/methods.npz`, made by running them, in float64.

Sources, at the commits that were run: RepAdapter luogen1996/RepAdapter 360992f · Convpass, FacT JieShibo/PETL-ViT 026e4f1 · DoRA
NVlabs/DoRA 7e2f10a · VeRA huggingface/peft 5d602fd (a layer's forward pass) · gated prompts ryongithub/GatedPromptTuning dd7d1ea
(its MoCo v3 network).
Dropout was off. FacT's Tucker form is compared in the attention alone: its MLP cuts columns another way.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pel_core.models.deltas import DELTAS, SiteContext
from pel_core.models.methods import METHODS, parse_method
from pel_core.models.surgery import apply
from pel_core.models.vit import ViT, attend

GOLDEN = np.load(Path(__file__).parents[1] / "golden/methods.npz")
WIDTH, RANK, TOKENS = 16, 4, 10


def case(name):
    return {key.split("/")[1]: torch.from_numpy(GOLDEN[key]) for key in GOLDEN.files if key.startswith(f"{name}/")}


def linear(weight, bias):
    layer = nn.Linear(*reversed(weight.shape)).double()
    layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    return layer.requires_grad_(False)


def make(delta, module, widths=(WIDTH, WIDTH), knobs=None, held=None, prefix=1, **options):
    values = {knob.name: knob.default for knob in METHODS[delta].knobs} | (knobs or {})
    numbers = (TOKENS - 1 + prefix, 4, RANK, 3, 0.1, torch.Generator().manual_seed(0))
    site = SiteContext(module, *widths, *numbers, knobs=values, held=held if held is not None else {}, prefix=prefix)
    return DELTAS[delta](site, **options).double()


def fill(parameter, value):
    parameter.data.copy_(value)


def compare(found, wanted, gradients=()):
    """The output, and gradients of the sum of its squares."""
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    found.pow(2).sum().backward()
    for parameter, gradient in gradients:
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-11)


def test_repadapter_and_its_folding():
    has = case("repadapter")
    delta = make("repadapter", nn.LayerNorm(WIDTH), knobs={"scale": 0.5})
    for name, parameter in delta.named_parameters():
        fill(parameter, has[name])
    compare(delta(has["x"]), has["y"], [(delta.down.weight, has["grad:down.weight"]), (delta.up.weight, has["grad:up.weight"])])
    layer, folded = (linear(has[f"{name}.weight"], has[f"{name}.bias"]) for name in ("linear", "folded"))
    torch.testing.assert_close(layer(delta(has["x"])), folded(has["x"]), rtol=1e-10, atol=1e-11)


def test_convpass():
    has = case("convpass")
    branch = nn.Module()
    branch.norm = nn.Identity()
    branch.forward = torch.zeros_like
    delta = make("convpass", branch)
    for name, parameter in delta.named_parameters():
        fill(parameter, has[name])
    gradients = [(parameter, has[f"grad:{name}"]) for name, parameter in delta.named_parameters()]
    compare(delta(branch, has["x"]), has["y"], gradients)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_convpass_behind_any_number_of_first_tokens(prefix):
    """Each of them (none, a class token, registers too) is an image of one pixel, as the public code's one is."""
    has, branch = case("convpass"), nn.Module()
    branch.norm, branch.forward = nn.Identity(), torch.zeros_like
    delta = make("convpass", branch, prefix=prefix)
    for name, parameter in delta.named_parameters():
        fill(parameter, has[name])
    x, y = (torch.cat([tokens[:, :1]] * prefix + [tokens[:, 1:]], 1) for tokens in (has["x"], has["y"]))
    torch.testing.assert_close(delta(branch, x), y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["fact-tt", "fact-tk"])
def test_fact(form):
    has, held = case(form), {}
    layers = {name: linear(has[f"layer.{name}.weight"], has[f"layer.{name}.bias"]) for name in ("qkv", "proj", "fc1", "fc2")}
    deltas = {
        name: make(form, layer, (layer.in_features, layer.out_features), {"scale": 2.0}, held) for name, layer in layers.items()
    }
    fill(held["u"], has["u"])
    fill(held["v"], has["v"])
    if form == "fact-tt":
        fill(deltas["qkv"].s, torch.cat([has["s.q"], has["s.k"], has["s.v"]]).T)
        for name in ("proj", "fc1", "fc2"):
            fill(deltas[name].s, has[f"s.{name}"].T)
    else:
        fill(held["c"], has["c"])
        fill(deltas["qkv"].p, has["p"][:, :3])
        fill(deltas["proj"].p, has["p"][:, 3:])

    def layer(name, x):
        return layers[name](x) + deltas[name](x)

    compare(layer("proj", attend(layer("qkv", has["x"]), 2)), has["attention"])
    if form == "fact-tt":
        compare(layer("fc2", F.gelu(layer("fc1", has["x"]))), has["mlp"])


@pytest.mark.parametrize(("name", "full"), [("dora", False), ("dora-full", True)])
def test_dora(name, full):
    has = case(name)
    layer = linear(has["linear.weight"], has["linear.bias"])
    knobs = {"alpha": 6.0, "full_gradient": full}
    delta = make("dora", layer, (WIDTH, 2 * WIDTH), knobs, parts=(True,))
    learnt = {"down": delta.down[0], "up": delta.up[0], "magnitude": delta.magnitude[0]}
    torch.testing.assert_close(learnt["magnitude"].detach(), has["linear.weight"].norm(dim=1))
    for key, parameter in learnt.items():
        fill(parameter, has[key])
    compare(delta(layer, has["x"]), has["y"], [(parameter, has[f"grad:{key}"]) for key, parameter in learnt.items()])


def test_vera():
    has = case("vera")
    layer, held = linear(has["linear.weight"], has["linear.bias"]), {}
    delta = make("vera", layer, (WIDTH, 2 * WIDTH), held=held, parts=(True,))
    for parameter, name in ((delta.a, "a"), (delta.b, "b"), (delta.inner[0], "inner"), (delta.outer[0], "outer")):
        fill(parameter, has[name])
    compare(layer(has["x"]) + delta(has["x"]), has["y"])


def test_gated_prompts():
    """The whole network: blocks, gates, temperatures, and gradients of all that trains."""
    has = case("vpt-gated")
    vit = ViT(layers=3, width=WIDTH, heads=2, patch=4, resolution=12, eps=1e-6).double()
    names = {"norm1": "attn.norm", "attn": "attn", "norm2": "ffn.norm", "mlp": "ffn"}
    for name, value in has.items():
        if name.startswith("net.blocks."):
            _, _, index, part, rest = name.split(".", 4)
            fill(vit.blocks[int(index)].get_parameter(f"{names[part]}.{rest}"), value)
        elif name.startswith("net.norm."):
            fill(vit.norm.get_parameter(name.removeprefix("net.norm.")), value)
    tuned = {entry.name: entry.parameter for entry in apply(vit, parse_method("vpt-gated", 3), adapter_dim=1, vpt_len=3)}
    pairs = [(tuned["vpt-gated.0.prompt"], has["prompt"], has["grad:prompt"])]
    pairs += [(tuned[f"vpt-gated.{i}.logit"], has["gates"][i : i + 1], has["grad:gates"][i : i + 1]) for i in range(2)]
    temperatures, gradients = has["temperatures"], has["grad:temperatures"]
    pairs += [(tuned[f"vpt-gated.{i}.attn.qkv.temperature"], temperatures[i : i + 1], gradients[i : i + 1]) for i in range(3)]
    assert len(pairs) == len(tuned)
    for parameter, value, _ in pairs:
        fill(parameter, value)
    compare(vit.rest(has["x"]), has["y"], [(parameter, gradient) for parameter, _, gradient in pairs])
