"""The ViT equals open_clip's and timm's towers, and computes no more than is read."""

import open_clip
import pytest
import timm
import torch
from torch import nn

from pel_core.models.methods import METHODS, methods_for, parse_method
from pel_core.models.surgery import apply
from pel_core.models.vit import QuickGELU, ViT
from pel_core.models.weights import vit_from_clip, vit_from_timm

METHODS_OF_BLOCKS = [name for name in methods_for("vit") if METHODS[name].blocks != "none"]


def random_clip(quick_gelu, layers=3, width=128, size=24):
    torch.manual_seed(0)
    vision = {"layers": layers, "width": width, "patch_size": 8, "image_size": size}
    text = {"context_length": 8, "vocab_size": 32, "width": 64, "heads": 1, "layers": 1}
    return open_clip.CLIP(32, vision, text, quick_gelu=quick_gelu).eval()


def toy(layers=3):
    torch.manual_seed(1)
    return ViT(layers=layers, width=32, heads=2, patch=8, resolution=16, quick_gelu=True).eval()


def full_computation(vit, images):
    """The features without the shortcut of the last block."""
    x = vit.embed(images).flatten(2).mT
    x = vit.norm_pre(torch.cat([vit.cls.expand(len(x), 1, -1), x], 1) + vit.pos)
    for block in vit.blocks:
        x = block(x)
    return vit.norm(x)[:, 0]


@pytest.mark.parametrize("quick_gelu", [True, False])
@torch.no_grad()
def test_equals_open_clip(quick_gelu):
    model, images = random_clip(quick_gelu), torch.randn(3, 3, 24, 24)
    vit, text = vit_from_clip(model.state_dict(), quick_gelu)
    assert (vit.layers, vit.width, vit.patch, vit.resolution, vit.tokens) == (3, 128, 8, 24, 10)
    torch.testing.assert_close(vit(images) @ text["text.projection"], model.encode_image(images), atol=2e-6, rtol=0)
    assert float(text["text.logit_scale"]) == pytest.approx(float(model.logit_scale.exp()))
    model.visual.proj = None
    torch.testing.assert_close(vit(images), model.encode_image(images), atol=5e-6, rtol=0)


def test_the_activation_matters():
    model, images = random_clip(True), torch.randn(2, 3, 24, 24)
    right, wrong = (vit_from_clip(model.state_dict(), quick_gelu)[0] for quick_gelu in (True, False))
    assert (right(images) - wrong(images)).abs().max() > 1e-4


@torch.no_grad()
def test_equals_timm():
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(img_size=24, patch_size=8, embed_dim=64, depth=3, num_heads=4, num_classes=0).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(3, 3, 24, 24)
    vit = vit_from_timm(model.state_dict(), head_width=16)
    torch.testing.assert_close(vit(images), model(images), atol=5e-6, rtol=0)


def test_weights_are_copied():
    model = random_clip(True)
    vit, _ = vit_from_clip(model.state_dict())
    before = model.visual.ln_post.weight.clone()
    with torch.no_grad():
        vit.norm.weight.fill_(7)
    assert torch.equal(model.visual.ln_post.weight, before)


@pytest.mark.parametrize("method", METHODS_OF_BLOCKS)
@torch.no_grad()
def test_reading_the_class_token_alone_equals_the_full_computation(method):
    vit = toy()
    for tuned in apply(vit, parse_method(method, 3), adapter_dim=3, vpt_len=2, mask_ratio=0.1):
        tuned.parameter.add_(0.1 * torch.randn_like(tuned.parameter))
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(vit(images), full_computation(vit, images), atol=5e-6, rtol=0)


def test_the_last_block_works_on_one_token():
    vit, seen = toy(), []
    vit.blocks[-1].ffn.register_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    vit(torch.randn(2, 3, 16, 16))
    assert seen == [(2, 1, 32)]


@pytest.mark.parametrize(
    ("method", "first"),
    [("adaptformer@2:", 2), ("ln@1:2+adapter@2:", 1), ("vpt-shallow", 0), ("lora@2:", 2), ("full@1:", 1), ("mask@2:", 2)],
)
def test_no_graph_below_the_first_tuned_block(method, first):
    vit, graph = toy(), []
    apply(vit, parse_method(method, 3), adapter_dim=3, mask_ratio=0.1)
    for block in vit.blocks:
        block.register_forward_hook(lambda module, inputs, out: graph.append(out.requires_grad))
    vit(torch.randn(1, 3, 16, 16))
    assert graph == [index >= first for index in range(3)]


def test_no_graph_for_the_head_alone():
    vit = toy()
    apply(vit, (), adapter_dim=1)
    assert not vit(torch.randn(1, 3, 16, 16)).requires_grad


def test_quick_gelu():
    x = torch.linspace(-4, 4, 33)
    torch.testing.assert_close(QuickGELU()(x), x / (1 + torch.exp(-1.702 * x)))
    assert isinstance(ViT(layers=1, width=8, heads=1, patch=8, resolution=8).blocks[0].ffn.act, nn.GELU)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["vpt-deep", "adaptformer", "mask+lora+ssf-attn"])
def test_runs_under_autocast(method, dtype):
    vit = toy()
    apply(vit, parse_method(method, 3), adapter_dim=3, vpt_len=2, mask_ratio=0.1)
    images = torch.randn(2, 3, 16, 16)
    with torch.autocast("cpu", dtype):
        low = vit(images)
    torch.testing.assert_close(low.float(), vit(images), atol=0.15, rtol=0)
    low.float().sum().backward()
