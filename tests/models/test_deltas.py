"""The small modules that methods attach: initial values, formulas, masks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pel_core.models.deltas import DELTAS, SiteContext, Sparse
from pel_core.models.methods import METHODS, parse_method
from pel_core.models.surgery import apply
from pel_core.models.vit import ViT

WIDTH, RANK, PROMPTS, RATIO = 32, 3, 2, 0.1


def place(**changes):
    linear = nn.Linear(WIDTH, 3 * WIDTH)
    values = {"module": linear, "width_in": WIDTH, "width_out": 3 * WIDTH, "tokens": 5, "patch": 8, "rank": RANK}
    values |= {"vpt_len": PROMPTS}
    return SiteContext(**{**values, "mask_ratio": RATIO, "generator": torch.Generator().manual_seed(0), **changes})


def attachment(name):
    """A delta's options and the knobs of the method that attaches it, as the first method has them."""
    method, attach = next((method, attach) for method in METHODS.values() for attach in method.attach if attach.delta == name)
    return attach.options, {knob.name: knob.default for knob in method.knobs}


@pytest.mark.parametrize("name", DELTAS)
def test_a_delta_is_a_function_of_its_place_alone(name):
    options, knobs = attachment(name)
    first, again = (DELTAS[name](place(module=linear, knobs=knobs), **options) for linear in [place().module] * 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_initial_values_are_the_reference_s():
    wide = place(width_in=600, width_out=600, rank=300, vpt_len=50)
    down = DELTAS["adaptformer"](wide).down.weight
    assert down.std().item() == pytest.approx((3 * 600) ** -0.5, rel=0.02)
    lora = DELTAS["lora"](wide, parts=(True,))
    assert lora.down[0].abs().max().item() == pytest.approx(300**-0.5, rel=0.01) and not lora.up[0].any()
    ssf = DELTAS["scale-shift"](place(width_out=5000))
    assert ssf.scale.mean().item() == pytest.approx(1, abs=2e-3) and ssf.scale.std().item() == pytest.approx(0.02, rel=0.1)
    assert ssf.shift.mean().item() == pytest.approx(0, abs=2e-3) and ssf.shift.std().item() == pytest.approx(0.02, rel=0.1)
    bound = DELTAS["prompt"](place(patch=16, width_in=768, vpt_len=20)).prompt.abs().max().item()
    assert 0.0615 < bound <= 0.0625


def test_lora_divides_by_its_rank_and_leaves_keys_alone():
    delta = DELTAS["lora"](place(), parts=(True, False, True))
    for up in delta.up:
        nn.init.normal_(up)
    x = torch.randn(2, WIDTH)
    query, key, value = delta(x).chunk(3, -1)
    torch.testing.assert_close(query, x @ delta.down[0] @ delta.up[0] / RANK)
    torch.testing.assert_close(value, x @ delta.down[1] @ delta.up[1] / RANK)
    assert not key.any()


def test_prompts_replace_earlier_ones():
    delta, x = DELTAS["prompt"](place()), torch.randn(2, 5 + 4, WIDTH)
    out = delta(x)
    assert out.shape == (2, 5 + PROMPTS, WIDTH)
    assert torch.equal(out[:, :5], x[:, :5]) and torch.equal(out[1, 5:], delta.prompt)


def test_sparse_weights_act_in_their_place():
    linear = nn.Linear(6, 4)
    delta = Sparse(place(module=linear, mask_ratio=0.5))
    x = torch.randn(3, 6)
    torch.testing.assert_close(delta(linear, x), linear(x))
    assert len(delta.weight) + len(delta.bias) == 14
    with torch.no_grad():
        delta.weight.add_(1)
    weight = linear.weight.detach().clone().flatten()
    weight[delta.index_weight] += 1
    torch.testing.assert_close(delta(linear, x), F.linear(x, weight.view(4, 6), linear.bias))


def test_masks_come_from_one_generator_layer_by_layer():
    torch.manual_seed(1)
    vit = ViT(layers=3, width=WIDTH, heads=2, patch=8, resolution=16)
    apply(vit, parse_method("mask@1:", 3), adapter_dim=RANK, mask_ratio=RATIO, mask_seed=3)
    generator = torch.Generator().manual_seed(3)
    for block in vit.blocks[1:]:
        for linear in (block.attn.qkv, block.attn.proj, block.ffn.fc1, block.ffn.fc2):
            rows, columns = linear.module.weight.shape
            flat = torch.zeros(rows * (columns + 1), dtype=torch.bool)
            flat[torch.randperm(len(flat), generator=generator)[: int(RATIO * len(flat))]] = True
            mask = flat.view(rows, columns + 1)
            assert torch.equal(linear.delta.index_weight, mask[:, :-1].flatten().nonzero().flatten())
            assert torch.equal(linear.delta.index_bias, mask[:, -1].nonzero().flatten())
            assert torch.equal(linear.delta.weight, linear.module.weight[mask[:, :-1]])
