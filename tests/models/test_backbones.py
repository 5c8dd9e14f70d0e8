"""BACKBONES against open_clip's and timm's own declarations, and each architecture through the rename tables.

Networks are shrunk in depth (and the text tower in width): what makes an architecture its own stays.
"""

import copy
import json

import open_clip
import pytest
import timm
import torch
from open_clip.pretrained import get_pretrained_cfg
from registries import set_entry
from safetensors import safe_open
from safetensors.torch import save_file

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, sha256
from pel_core.models.backbones import BACKBONES
from pel_core.models.building import resize_positions
from pel_core.models.class_texts import prepare_text, text_features
from pel_core.models.state_names import TIMM_NAMES, fold_layer_scale, rename
from pel_core.models.text_sets import read_descriptions
from pel_core.models.text_source import TextSource
from pel_core.models.weights import load_vit, prepare_backbone
from pel_core.spec.run_spec import RunSpec

CLIPS = [name for name, entry in BACKBONES.items() if entry.source == "open_clip" and not name.startswith(("siglip", "clip-rn"))]
TIMMS = [name for name, entry in BACKBONES.items() if entry.source == "timm"]
DEPTH = 2


@pytest.mark.parametrize("name", CLIPS)
def test_open_clip_declares_the_same(name):
    entry = BACKBONES[name]
    config, weights = open_clip.get_model_config(entry.arch), get_pretrained_cfg(entry.arch, entry.tag)
    vision = config["vision_cfg"]
    assert weights, f"open_clip has no weights '{entry.tag}' of {entry.arch}"
    assert (vision["layers"], vision["width"], vision["patch_size"], vision["image_size"]) == (
        entry.layers, entry.width, entry.patch, entry.resolution,
    )  # fmt: skip
    # OpenAI's weights were trained with QuickGELU, LAION's with GELU: the other one moves features by 2e-2 in silence.
    assert entry.quick_gelu == config.get("quick_gelu", False) == weights.get("quick_gelu", False)
    assert entry.quick_gelu or entry.tag != "openai"
    assert (entry.mean, entry.std, entry.interpolation) == (weights["mean"], weights["std"], weights["interpolation"])


def test_the_miniature_declares_the_same():
    entry = BACKBONES["clip-mini"]
    own = read_json(entry.folder / "open_clip_config.json")["preprocess_cfg"]
    assert (entry.mean, entry.std, entry.interpolation) == (tuple(own["mean"]), tuple(own["std"]), own["interpolation"])


def test_no_run_follows_upstream_s_interpolation():
    """The reference resizes bilinearly whatever the weights were trained with; bicubic has to be asked for, and is recorded."""
    for name, entry in BACKBONES.items():
        spec = RunSpec.make("toy", name, "bias", 0, init="text" if entry.text else "class-mean")
        assert spec.interpolation == spec.to_json()["interpolation"] == "bilinear", name


@pytest.mark.parametrize("name", TIMMS)
def test_timm_declares_the_same(name):
    entry = BACKBONES[name]
    config = timm.get_pretrained_cfg(entry.arch)
    assert (config.mean, config.std, config.interpolation) == (entry.mean, entry.std, entry.interpolation)
    assert config.input_size[-1] == (entry.native or entry.resolution) and not entry.text
    # Never a tag that was fine-tuned on ImageNet-1k: ImageNet-LT's test images are among it.
    assert config.tag and "ft" not in config.tag and "in1k" not in config.tag
    assert (config.tag, config.num_classes) in {("augreg_in21k", 21843), ("lvd142m", 0)}


def shrunk(name, monkeypatch):
    """The architecture under its own name with two blocks and little text; its registry entry too."""
    entry = BACKBONES[name]
    config = copy.deepcopy(open_clip.get_model_config(entry.arch))
    config["vision_cfg"]["layers"] = DEPTH
    config["text_cfg"] |= {"width": 64, "heads": 1, "layers": 1}
    config["embed_dim"] = 32
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, entry.arch, config)
    small = type(entry)(**{**vars(entry), "layers": DEPTH})
    set_entry(monkeypatch, BACKBONES, name, small)
    torch.manual_seed(0)
    return open_clip.create_model(entry.arch, precision="fp32", device="cpu").eval()


@torch.no_grad()
@pytest.mark.parametrize("name", CLIPS)
def test_open_clip_s_features(name, monkeypatch, tmp_path):
    model = shrunk(name, monkeypatch)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "weights.safetensors")
    prepare_backbone(name, tmp_path / "out", str(tmp_path / "weights.safetensors"))
    vit, text, info = load_vit(tmp_path / "out")
    assert type(vit.blocks[0].ffn.act).__name__ == ("QuickGELU" if BACKBONES[name].quick_gelu else "GELU")
    images = torch.randn(1, 3, vit.resolution, vit.resolution)
    projection, model.visual.proj = model.visual.proj, None
    torch.testing.assert_close(vit(images), model.visual(images), atol=2e-5, rtol=0)
    assert torch.equal(text["text.projection"], projection) and len(info["source"]["sha256"]) == 64


def small_timm(name, monkeypatch):
    """A timm network of two blocks with layer scales that matter, made whenever its architecture is asked for."""
    entry, create = BACKBONES[name], timm.create_model
    set_entry(monkeypatch, BACKBONES, name, type(entry)(**{**vars(entry), "layers": DEPTH}))
    monkeypatch.setattr(timm, "create_model", lambda arch, **options: create(arch, depth=DEPTH, **options))
    torch.manual_seed(0)
    model = timm.create_model(entry.arch, pretrained=False, num_classes=0).eval()
    for parameter_name, parameter in model.named_parameters():
        if "gamma" in parameter_name or "pos_embed" in parameter_name or "cls_token" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", TIMMS)
def test_timm_s_features(name, monkeypatch, tmp_path):
    model, entry = small_timm(name, monkeypatch), BACKBONES[name]
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    prepare_backbone(name, tmp_path / "out", str(tmp_path / "weights.safetensors"))
    native = entry.native or entry.resolution
    vit, text, info = load_vit(tmp_path / "out", resolution=native)
    images = torch.randn(1, 3, native, native)
    torch.testing.assert_close(vit(images), model(images), atol=3e-5, rtol=1e-5)
    assert not text and info["source"]["file"] == "weights.safetensors"
    # At the resolution it is used at, timm resizes the same position embeddings.
    vit, _, _ = load_vit(tmp_path / "out")
    assert vit.resolution == entry.resolution
    other = timm.create_model(entry.arch, pretrained=False, num_classes=0, img_size=entry.resolution).eval()
    other.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(model.state_dict(), other))
    images = torch.randn(2, 3, entry.resolution, entry.resolution)
    torch.testing.assert_close(vit(images), other(images), atol=3e-5, rtol=1e-5)


def test_timm_s_weights_of_another_network_are_refused(monkeypatch, tmp_path):
    model = small_timm("dinov2-s14", monkeypatch)
    save_file({key: value for key, value in model.state_dict().items() if "gamma" not in key}, tmp_path / "weights.safetensors")
    with pytest.raises(PelError, match=r"does not hold the weights of vit_small_patch14_dinov2.*gamma"):
        prepare_backbone("dinov2-s14", tmp_path / "out", str(tmp_path / "weights.safetensors"))
    with pytest.raises(PelError, match=r"nowhere\.pth.*does not exist"):
        prepare_backbone("dinov2-s14", tmp_path / "out", str(tmp_path / "nowhere.pth"))


def test_state_dicts_of_other_structures_are_refused():
    """A state dict alone is read as a plain ViT's; a module shows its structure (test_towers)."""
    for arch in ("vit_base_patch16_siglip_224", "vit_small_patch14_reg4_dinov2"):
        state = timm.create_model(arch, pretrained=False, num_classes=0, depth=1).state_dict()
        with pytest.raises(PelError, match="has no place for"):
            rename(fold_layer_scale(state), TIMM_NAMES)


@pytest.mark.parametrize("name", [name for name, entry in BACKBONES.items() if not entry.text])
def test_text_is_refused_where_there_is_none(name):
    with pytest.raises(PelError, match=r"init=text is not possible.*class-mean.*random: .* has no text tower"):
        RunSpec.make("toy", name, "ln", 0)
    with pytest.raises(PelError, match="no text tower"):
        text_features(TextSource(name, ["a"]), "default")
    assert RunSpec.make("toy", name, "ln", 0, init="class-mean").pixels == 224


def test_dinov2_s_grid():
    pos = torch.randn(1 + 37**2, 8)
    assert resize_positions(pos, 16).shape == (1 + 16**2, 8)


# Descriptions


DESCRIPTIONS = {"red": ["a red thing.", "the colour of blood."], "green": ["a green thing."], "blue": ["a blue thing."]}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_descriptions_come_in_the_order_of_the_classes(tmp_path):
    path = write(tmp_path / "d.json", DESCRIPTIONS)
    assert read_descriptions(path, ["blue", "red"]) == [DESCRIPTIONS["blue"], DESCRIPTIONS["red"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"red": ["a"]}, "unknown class 'green'"),
        ({"red": ["a"], "green": []}, "class 'green' has .*expected a list of sentences"),
        ({"red": ["a"], "green": "b"}, "expected a list of sentences"),
        ({"red": ["a"], "green": [""]}, "expected a list of sentences"),
        ({"red": ["a"], "green": [3]}, "expected a list of sentences"),
        (["red"], "holds a list"),
    ],
)
def test_descriptions_that_cannot_be_used(tmp_path, content, message):
    with pytest.raises(PelError, match=message):
        read_descriptions(write(tmp_path / "d.json", content), ["red", "green"])


def test_descriptions_need_a_file(tmp_path):
    with pytest.raises(PelError, match="--descriptions FILE"):
        text_features(TextSource("toy", ["red"]), "descriptions")
    with pytest.raises(PelError, match="does not exist"):
        text_features(TextSource("toy", ["red"]), "descriptions", descriptions=tmp_path / "none.json")


@torch.no_grad()
def test_described_classes_are_means_of_unit_features(monkeypatch, tmp_path):
    model = shrunk("laion-b32", monkeypatch)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "weights.safetensors")
    path = write(tmp_path / "d.json", DESCRIPTIONS)
    weights = str(tmp_path / "weights.safetensors")
    found = text_features(TextSource("laion-b32", list(DESCRIPTIONS), weights), "descriptions", descriptions=path)
    tokenizer, unit = open_clip.get_tokenizer("ViT-B-32"), torch.nn.functional.normalize
    expected = [unit(unit(model.encode_text(tokenizer(lines)), dim=-1).mean(0), dim=-1) for lines in DESCRIPTIONS.values()]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)


def test_the_file_s_hash_travels_with_the_features(toy_results, tmp_path):
    names = read_json(toy_results / "data" / "toy" / "data.json")["class_names"]
    path = write(tmp_path / "d.json", {name: [f"{name} one.", f"{name} two."] for name in names})
    folders = toy_results / "backbones" / "toy", toy_results / "data" / "toy"
    prepare_text(*folders, "descriptions", tmp_path / "text.safetensors", descriptions=path)
    with safe_open(tmp_path / "text.safetensors", "pt") as handle:
        assert handle.metadata()["descriptions"] == sha256(path)
