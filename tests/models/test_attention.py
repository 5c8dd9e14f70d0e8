"""Attention: all ways of it agree, and what a CPU computes checkpointed has the same bits."""

import pytest
import torch
from torch.nn import functional as F

from pel_core.hardware import cpu
from pel_core.hardware.cpu import MANY_TOKENS, checkpointed, plain_attention
from pel_core.models.deltas import DELTAS, Bottleneck, SiteContext
from pel_core.models.vit import attend

TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2}}


def both(x, heads, read=None):
    """Output and gradient of `attend`, and of autograd's plain product."""
    results = []
    for ours in (True, False):
        leaf = x.clone().requires_grad_(True)
        if ours:
            out = attend(leaf, heads, read)
        else:
            q, k, v = leaf.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            out = plain_attention(q[:, :, :read], k, v).transpose(1, 2).flatten(2)
        grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
        out.backward(grad_out)
        results.append((out.detach(), leaf.grad))
    return results


def draw(images, tokens, width, dtype=torch.float32):
    return torch.randn(images, tokens, 3 * width, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("read", [None, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("images", "tokens", "heads", "head"),
    [(3, 17, 2, 48), (2, MANY_TOKENS, 3, 16), (2, MANY_TOKENS + 1, 2, 80), (1, 197, 12, 64), (0, 17, 2, 16), (0, 100, 2, 16)],
)
def test_bit_for_bit_the_plain_product(images, tokens, heads, head, dtype, read):
    found, expected = both(draw(images, tokens, heads * head, dtype), heads, read)
    assert found[0].shape == (images, read or tokens, heads * head)
    for ours, theirs in zip(found, expected, strict=True):
        if torch.backends.mkl.is_available() and dtype == torch.float32:
            assert torch.equal(ours, theirs)
        torch.testing.assert_close(ours, theirs, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [17, 100])
def test_autocast_computes_all_of_it_in_its_precision(dtype, tokens):
    """A delta behind the projection hands on fp32 under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = both(draw(2, tokens, 32, dtype), 2)
    assert found[0].dtype == expected[0].dtype == torch.bfloat16
    assert found[1].dtype == expected[1].dtype == dtype
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("tokens", [17, 100])
def test_the_fused_kernel_of_gpus_agrees(tokens):
    x = draw(2, tokens, 32)
    q, k, v = x.unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    fused = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(x, 2), fused, atol=1e-6, rtol=0)


def test_the_gradient_is_the_derivative():
    x = draw(2, MANY_TOKENS, 4, torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: attend(x, 2), x, fast_mode=True)


def kept(work):
    """Bytes that ``work`` keeps for the backward pass, without its arguments."""
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    del result
    return sum(sizes.values())


def test_no_attention_map_is_kept():
    x = draw(4, 200, 32).requires_grad_(True)
    maps = 4 * 4 * 200 * 200 * 4
    assert kept(lambda: attend(x, 4)) < maps / 2


@pytest.mark.parametrize("scale", [None, 0.1])
@pytest.mark.parametrize("kind", ["adaptformer", "adapter"])
def test_bottlenecks_computed_twice_have_the_same_bits(monkeypatch, kind, scale):
    place = SiteContext(torch.nn.Identity(), 32, 32, 80, 8, 4, 10, 0.5, torch.Generator().manual_seed(0), scale)
    delta: Bottleneck = DELTAS[kind](place)
    delta.up.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    found, sizes = [], []
    for many in (MANY_TOKENS, 1000):
        monkeypatch.setattr(cpu, "MANY_TOKENS", many)
        x = draw(3, 80, 32)[..., :32].clone().requires_grad_(True)
        delta.zero_grad()
        out = delta(x)
        out.square().sum().backward()
        found.append([out.detach(), x.grad, *(parameter.grad for parameter in delta.parameters())])
        sizes.append(kept(lambda x=x: delta(x)))
    assert all(map(torch.equal, *found))
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize(("shape", "many"), [((2, MANY_TOKENS, 8), True), ((2, MANY_TOKENS - 1, 8), False), ((500, 8), False)])
def test_only_many_tokens_are_worth_it(shape, many):
    assert cpu.recomputes(torch.zeros(shape)) == many


def test_twice_under_autocast_has_the_same_bits():
    layer = torch.nn.Linear(8, 8)
    found = []
    for function in (checkpointed, lambda function, x: function(x)):
        x = torch.ones(2, MANY_TOKENS, 8, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            out = function(lambda x: torch.relu(layer(x)) * 3, x)
        out.float().square().sum().backward()
        found.append((out.detach(), x.grad))
    assert found[0][0].dtype == torch.bfloat16
    assert all(map(torch.equal, *found))


def test_without_gradients_nothing_is_done_twice():
    calls = []
    with torch.inference_mode():
        checkpointed(lambda x: calls.append(1) or x, torch.zeros(2, MANY_TOKENS, 8))
    assert calls == [1]
