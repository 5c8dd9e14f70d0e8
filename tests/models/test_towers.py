"""Towers of timm and open_clip in our ViT: features equal the library's own forward, for each structure there is.

Networks are shrunk to two blocks of 64 or 96 channels and few patches: what makes an architecture its own stays.
"""

import copy

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from pel_core.common.errors import PelError
from pel_core.models import weights
from pel_core.models.building import build_vit, num_prefix_tokens, resize_positions
from pel_core.models.methods import METHODS, methods_for, parse_method
from pel_core.models.open_clip_towers import open_clip_tower
from pel_core.models.surgery import apply
from pel_core.models.towers import timm_tower, upstream_features
from pel_core.models.vit_parts import Rotary
from pel_core.models.weights import load_vit, prepare_backbone
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier, cast_frozen_weights

SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": 64}
# What each shows; of every option of the ViT two values are among them.
TIMM = {
    "vit_base_patch16_224": "class token",
    "vit_base_patch16_clip_quickgelu_224": "norm before the blocks, QuickGELU",
    "deit3_base_patch16_224": "layer scale, no position of the class token",
    "vit_small_patch16_dinov3": "rotary positions, registers, no bias of qkv, mean",
    "vit_small_patch16_dinov3_qkvb": "a bias of queries and values",
    "vit_huge_plus_patch16_dinov3": "SwiGLU of two layers",
    "vit_base_patch16_siglip_224": "no class token, pooling by attention",
    "vit_base_patch16_siglip_gap_224": "no class token, norm before the mean",
    "vit_mediumd_patch16_reg4_gap_256": "registers without class token, norm after the mean",
    "vit_betwixt_patch16_rope_reg4_gap_256": "rotary positions scaled to a grid",
    "eva02_base_patch16_clip_224": "norms inside attention and MLP, queries and values apart",
    "eva_giant_patch14_clip_224": "EVA without rotary positions",
    "vit_pe_core_base_patch16_224": "rotary positions from x, pooling by attention over the class token too",
    "vit_pe_spatial_base_patch16_512": "no final norm before the mean",
    "vit_intern300m_patch14_448": "no final norm",
    "vit_giant_patch14_dinov2": "SwiGLU of one layer",
    "vit_small_patch14_reg4_dinov2": "class token and registers, patches of 14",
}


def small(name, size=None):
    """A timm network of random weights in which nothing is near zero or one."""
    torch.manual_seed(0)
    pixels = size or (56 if "patch14" in name else 64)
    width = 96 if "giant_patch14_dinov2" in name else 64  # of 64, its MLP would have half a channel
    options = {**SMALL, "img_size": pixels, "embed_dim": width, "num_heads": width // 32}
    model = timm.create_model(name, num_classes=0, **options).eval()
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.5 if value.dim() != 2 else value.shape[1] ** -0.5)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", TIMM)
def test_timm_s_features(name):
    model = small(name)
    tower, options = timm_tower(model)
    vit = build_vit(tower, options)
    images = torch.randn(2, 3, vit.resolution, vit.resolution)
    torch.testing.assert_close(vit(images), model(images), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(upstream_features(model, images), model(images))
    # At another resolution timm resizes the same position embeddings.
    model.set_input_size((2 * vit.resolution,) * 2)
    prefix = num_prefix_tokens(tower)
    vit = build_vit(tower | {"pos": resize_positions(tower["pos"], 2 * vit.resolution // vit.patch, prefix)}, options)
    images = torch.randn(1, 3, vit.resolution, vit.resolution)
    torch.testing.assert_close(vit(images), model(images), atol=1e-5, rtol=1e-4)


def test_every_option_of_the_vit_has_two_values_among_them():
    found = {}
    for name in TIMM:
        tower, options = timm_tower(small(name))
        vit = build_vit(tower, options)
        shown = {
            **options,
            "cls": vit.cls is None,
            "registers": vit.registers is None,
            "qkv": vit.blocks[0].attn.qkv.bias is None,
        }
        shown |= {"inner": vit.blocks[0].attn.inner_norm is None, "act": type(vit.blocks[0].ffn.act).__name__}
        for key, value in {**shown, **shown.pop("rotary", {})}.items():
            found.setdefault(key, set()).add(str(value))
    assert all(len(found[key]) > 1 for key in ("norm_pre", "pool", "cls", "registers", "qkv", "inner", "act", "eps")), found
    assert {"half", "xy", "centered", "reference", "offset", "norm", "pool_norm", "pool_prefix"} <= found.keys()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("deit_tiny_distilled_patch16_224", "VisionTransformerDistilled"),
        ("beit_base_patch16_224", "timm's Beit"),
        ("swin_tiny_patch4_window7_224", "SwinTransformer"),
        ("vit_base_patch16_rpn_224", "blocks are ResPostBlock"),
        ("vit_base_patch16_xp_224", "RmsNorm"),
        ("vit_base_patch16_rope_mixed_224", "RotaryEmbeddingMixed"),
        ("vit_base_r50_s16_224", "one square convolution"),
        ("eva02_enormous_patch14_clip_224", "EvaBlockPostNorm"),
    ],
)
def test_what_does_not_fit_says_why(name, reason):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    with pytest.raises(PelError, match=reason):
        timm_tower(model)


def test_a_part_that_nobody_knows_is_no_part_of_a_feature():
    model = small("vit_base_patch16_224")
    model.gate = torch.nn.Linear(64, 64)
    with pytest.raises(PelError, match=r"no place for \(gate\.weight, gate\.bias\)"):
        timm_tower(model)
    model = small("vit_base_patch16_224")
    model.blocks[1].mlp.act = torch.nn.ReLU()
    with pytest.raises(PelError, match="blocks differ"):
        timm_tower(model)


CLIPS = {
    "ViT-B-32": {},
    "ViT-B-32-quickgelu": {},
    "ViT-L-14-CLIPA": {},  # no norm before the blocks, mean of the patches, norm after it
    "ViT-H-14-CLIPA": {"final_ln_after_pool": False, "ls_init_value": 0.5},  # norm before the mean, layer scale
}


@torch.no_grad()
@pytest.mark.parametrize("name", CLIPS)
def test_open_clip_s_features(name, monkeypatch):
    config = copy.deepcopy(open_clip.get_model_config(name))
    config["vision_cfg"] |= {"layers": 2, "width": 128, "head_width": 64, "image_size": 56, "patch_size": 14, **CLIPS[name]}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
    torch.manual_seed(0)
    vision = dict(config["vision_cfg"])
    visual = open_clip.model._build_vision_tower(32, vision, config.get("quick_gelu", False)).eval()
    tower, options, text = open_clip_tower(visual)
    vit = build_vit(tower, options)
    images = torch.randn(2, 3, 56, 56)
    torch.testing.assert_close(vit(images), upstream_features(visual, images), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(vit(images) @ text["text.projection"], visual(images), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("proj", ["none", None, "linear"])
def test_timm_towers_inside_open_clip(proj, monkeypatch):
    """EVA-02's classifier and a layer of open_clip's own are the projection; SigLIP has none."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda arch, **options: create(arch, **SMALL, **options))
    vision = {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": proj, "image_size": 64}
    visual = open_clip.model._build_vision_tower(64 if proj == "none" else 32, vision).eval()
    if proj is None:
        torch.nn.init.normal_(visual.trunk.head.bias)
    tower, options, text = open_clip_tower(visual)
    images = torch.randn(2, 3, 64, 64)
    ours = build_vit(tower, options)(images) @ text["text.projection"] + text.get("text.shift", 0)
    torch.testing.assert_close(ours, visual(images), atol=1e-5, rtol=1e-4)


def test_coca_is_refused():
    config = open_clip.get_model_config("coca_ViT-B-32")
    with torch.device("meta"):
        visual = open_clip.model._build_vision_tower(config["embed_dim"], dict(config["vision_cfg"]))
    with pytest.raises(PelError, match="CoCa"):
        open_clip_tower(visual)


# Methods on such towers

STRUCTURES = ("vit_small_patch16_dinov3", "vit_base_patch16_siglip_224", "eva02_base_patch16_clip_224")


SINGLE = [name for name in methods_for("vit") if METHODS[name].blocks != "none"]


def tuned(name, method, **options):
    tower, choices = timm_tower(small(name))
    vit = build_vit(tower, choices)
    return vit, apply(vit, parse_method(method, 2), adapter_dim=2, mask_ratio=0.01, vpt_len=3, **options)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("method", ["ln+adaptformer+lora+vpt-deep", "ssf-ln+ssf-attn+ssf-mlp+adapter", *SINGLE])
def test_methods_train_what_they_say(name, method):
    if method.startswith("fact") and name.startswith("eva02"):
        with pytest.raises(PelError, match="FacT takes layers for D x D matrices"):  # and when the study is read: see below
            tuned(name, method)
        return
    vit, parameters = tuned(name, method)
    frozen = {key: value.clone() for key, value in vit.named_parameters() if not value.requires_grad}
    trained = [each.parameter for each in parameters]
    before = [value.detach().clone() for value in trained]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for _ in range(2):  # what starts at zero hides what comes before it from the first gradient
        vit(torch.randn(2, 3, 64, 64)).pow(2).sum().backward()
        optimizer.step()
    assert all(torch.equal(value, dict(vit.named_parameters())[key]) for key, value in frozen.items())
    assert all(value.grad is not None for value in trained)
    moved = [not torch.equal(old, new) for old, new in zip(before, trained, strict=True) if old.numel()]
    assert sum(moved) > 0.9 * len(moved)


@torch.no_grad()
@pytest.mark.parametrize("name", STRUCTURES)
def test_prompts_are_seen_and_not_pooled(name):
    """A plain loop: prompts stand behind the image's tokens in every block, without positions, and are no part of the feature."""
    vit, parameters = tuned(name, "vpt-deep")
    bare = build_vit(*timm_tower(small(name)))
    images, prefix = torch.randn(2, 3, 64, 64), bare.num_prefix_tokens
    x = bare.prefix(images)
    for block, prompt in zip(bare.blocks, parameters, strict=True):
        x = block(torch.cat([x, prompt.parameter.expand(2, -1, -1)], 1))[:, : bare.tokens]
    if bare.pooling == "class":
        expected = bare.norm(x[:, 0])
    else:
        patches = bare.norm(x[:, prefix:])
        expected = bare.pool_norm(patches.mean(1) if bare.pooling == "mean" else bare.pool(patches))
    torch.testing.assert_close(vit(images), expected, atol=1e-5, rtol=1e-4)
    assert (vit(images) - bare(images)).abs().max() > 1e-3


def test_rotary_turns_patches_alone():
    """Against complex numbers: channels (2 i, 2 i + 1) of a patch at y or x are one, times exp(i angle)."""
    freqs, heads = [1.0, 0.1], 2
    rotary = Rotary(freqs, grid=3, prefix=2, heads=heads)
    qkv = torch.randn(1, 2 + 9 + 4, 3 * heads * 8)
    out = rotary(qkv).unflatten(-1, (3, heads, 8))
    assert torch.equal(out[:, :2], qkv.unflatten(-1, (3, heads, 8))[:, :2])
    assert torch.equal(rotary(qkv)[:, 11:], qkv[:, 11:]) and torch.equal(out[:, :, 2], qkv.unflatten(-1, (3, heads, 8))[:, :, 2])
    for patch in range(9):
        y, x = divmod(patch, 3)
        angle = torch.tensor([y * f for f in freqs] + [x * f for f in freqs])
        turned = torch.view_as_complex(qkv.unflatten(-1, (3, heads, 4, 2))[0, 2 + patch, :2].contiguous()) * torch.exp(1j * angle)
        torch.testing.assert_close(out[0, 2 + patch, :2], torch.view_as_real(turned).flatten(-2))


def test_a_method_that_an_mlp_does_not_fit_is_refused_when_the_study_is_read():
    for name in ("siglip-so400m", "open_clip:EVA02-B-16/merged2b_s8b_b131k"):
        with pytest.raises(PelError, match=r"does not consist of square matrices"):
            RunSpec.make("toy", name, "ln+fact-tt", 0)
    assert RunSpec.make("toy", "siglip-b16", "fact-tt", 0)


@torch.no_grad()
@pytest.mark.parametrize("name", STRUCTURES)
def test_a_convolution_sees_the_patches_where_they_are(name):
    """The bypass of the first block's MLP against a plain one on the patches alone: registers are images of one pixel."""
    vit, _ = tuned(name, "convpass")
    delta, block = vit.blocks[0].ffn.delta, build_vit(*timm_tower(small(name))).blocks[0]
    torch.nn.init.normal_(delta.up.weight)
    torch.nn.init.normal_(delta.conv.weight)
    x, first = torch.randn(2, vit.tokens + 3, 64), vit.num_prefix_tokens
    low = delta.down(block.ffn.norm(x))
    low = low * torch.sigmoid(1.702 * low)
    mixed = torch.stack([delta.conv(token[..., None, None])[..., 0, 0] for token in low.unbind(1)], 1)
    image = low[:, first : vit.tokens].reshape(2, 4, 4, -1).permute(0, 3, 1, 2)
    mixed[:, first : vit.tokens] = delta.conv(image).permute(0, 2, 3, 1).flatten(1, 2)
    expected = block.ffn(x) + delta.up(mixed * torch.sigmoid(1.702 * mixed))
    torch.testing.assert_close(vit.blocks[0].ffn(x), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_tower_that_was_misread_is_found_out(monkeypatch, tmp_path):
    """Each prepared backbone is compared with its own library on one image: a wrong activation does not pass."""
    model = timm.create_model("test_vit", num_classes=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    name, given = "timm:test_vit.r160_in1k", str(tmp_path / "w.safetensors")
    prepare_backbone(name, tmp_path / "right", given)
    assert load_vit(tmp_path / "right")[0].width == 64
    monkeypatch.setattr(weights, "timm_tower", lambda model: (timm_tower(model)[0], timm_tower(model)[1] | {"act": "relu"}))
    with pytest.raises(PelError, match="features differ from those of its own library by"):
        prepare_backbone(name, tmp_path / "wrong", given)


@pytest.mark.parametrize("name", STRUCTURES)
def test_half_precision(name):
    """With frozen matrices held in bf16 and autocast, as on a GPU: features as near as bf16 allows, gradients that are finite."""
    vit, parameters = tuned(name, "adaptformer+ssf-ln+vpt-deep")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = vit(images)
    cast_frozen_weights(Classifier(vit, torch.nn.Identity(), parameters), torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = vit(images)
    found.float().pow(2).sum().backward()
    assert torch.nn.functional.cosine_similarity(found.float(), expected).min() > 0.995
    assert all(each.parameter.grad is not None and each.parameter.grad.isfinite().all() for each in parameters)
