"""Weights from every kind of file into the ViT, and class-text features; refusals name what to do."""

import json
import shutil
from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from registries import set_entry
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.models.backbones import BACKBONES, Backbone
from pel_core.models.building import resize_positions
from pel_core.models.class_texts import encode_text, text_features
from pel_core.models.prompts import spoken, templates
from pel_core.models.text_source import TextSource
from pel_core.models.upstream import read_state
from pel_core.models.weights import (
    OPEN_CLIP_NAMES,
    load_open_clip,
    load_vit,
    prepare_backbone,
    rename,
)

CLASSES = ["aquarium_fish", "Grand Piano", "worm"]
VISION = {"layers": 2, "width": 64, "patch_size": 8, "image_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
SMALL = Backbone("small", "open_clip", "small-quickgelu", 2, 64, 8, 16, tag="none", quick_gelu=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small random CLIP whose architecture open_clip knows by name, with QuickGELU and with GELU."""
    folder = tmp_path_factory.mktemp("architectures")
    for name, quick_gelu in {"small-quickgelu": True, "small-gelu": False}.items():
        config = {"embed_dim": 32, "quick_gelu": quick_gelu, "vision_cfg": VISION, "text_cfg": TEXT}
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    return open_clip.create_model("small-quickgelu", device="cpu").eval()


@pytest.fixture
def small(monkeypatch, model):
    """The registry entry of that model."""
    set_entry(monkeypatch, BACKBONES, "small", SMALL)
    return "small"


class Archive(torch.nn.Module):
    """Weights in a module tree of the same names, which TorchScript can save without OpenAI's code."""

    def __init__(self, state):
        super().__init__()
        for key, value in state.items():
            if "." in key:
                head = key.split(".", 1)[0]
                nested = {k.split(".", 1)[1]: v for k, v in state.items() if k.startswith(f"{head}.")}
                if not hasattr(self, head):
                    self.add_module(head, Archive(nested))
            else:
                self.register_buffer(key, value.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def write(kind, state, folder):
    """A weights file of one kind."""
    if kind == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path := folder / "weights.safetensors")
    elif kind == "jit":
        extra = {"input_resolution": torch.tensor(16), "context_length": torch.tensor(77), "vocab_size": torch.tensor(49408)}
        torch.jit.save(torch.jit.script(Archive({**state, **extra})), path := folder / "weights.pt")
    elif kind == "training":  # a checkpoint of open_clip's own training
        nested = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
        torch.save(nested, path := folder / "epoch_3.pt")
    else:
        torch.save(state, path := folder / "weights.pt")
    return path


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["safetensors", "jit", "training", "state dict"])
def test_every_kind_of_file_gives_the_same_network(kind, small, model, tmp_path):
    path = write(kind, model.state_dict(), tmp_path)
    state = read_state(path)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    prepare_backbone(small, tmp_path / "out", str(path))
    vit, text, info = load_vit(tmp_path / "out")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(vit(images) @ text["text.projection"], model.encode_image(images), atol=2e-6, rtol=0)
    assert float(text["text.logit_scale"]) == pytest.approx(1 / 0.07, rel=1e-5)
    assert info["name"] == "small" and len(info["sha256"]) == 64 and len(info["source"]["sha256"]) == 64


def test_half_precision_weights_become_float32(small, model, tmp_path):
    half = {key: value.half() for key, value in model.state_dict().items()}
    loaded, _ = load_open_clip(small, str(write("state dict", half, tmp_path)))
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('this code must not run')",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "refused"),
        ({"weight": Evil()}, "refused"),
        (torch.zeros(3), "expected a state dict"),
        ([1, 2], "expected a state dict"),
    ],
)
def test_a_pickle_of_anything_but_tensors_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(PelError, match=message):
        read_state(tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights.bin"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(range(256)) * 40])
def test_garbage_is_refused_by_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PelError, match=name):
        read_state(path)


def test_a_missing_file_is_named(small, tmp_path):
    with pytest.raises(PelError, match=r"nowhere\.pt.*does not exist"):
        prepare_backbone(small, tmp_path / "out", str(tmp_path / "nowhere.pt"))
    assert not (tmp_path / "out").exists()


def test_weights_of_another_architecture_are_refused(small, model, tmp_path):
    state = {**model.state_dict(), "visual.proj": torch.zeros(64, 16)}
    with pytest.raises(PelError, match=r"does not hold the weights of small-quickgelu.*visual\.proj"):
        prepare_backbone(small, tmp_path / "out", str(write("state dict", state, tmp_path)))
    del state["visual.proj"]
    with pytest.raises(PelError, match="does not hold the weights of small-quickgelu"):
        prepare_backbone(small, tmp_path / "out", str(write("state dict", state, tmp_path)))


@pytest.mark.parametrize(("arch", "quick_gelu"), [("small-gelu", True), ("small-quickgelu", False)])
def test_the_activation_is_asserted(monkeypatch, small, model, tmp_path, arch, quick_gelu):
    set_entry(monkeypatch, BACKBONES, small, replace(SMALL, arch=arch, quick_gelu=quick_gelu))
    with pytest.raises(PelError, match=r"GELU, expected (Quick)?GELU"):
        load_open_clip(small, str(write("state dict", model.state_dict(), tmp_path)))


def test_openai_entries_ask_for_quick_gelu():
    for name, entry in BACKBONES.items():
        if entry.tag == "openai":
            assert entry.quick_gelu and entry.arch.endswith("-quickgelu"), name


def test_sizes_that_the_registry_does_not_declare_are_refused(monkeypatch, small, model, tmp_path):
    set_entry(monkeypatch, BACKBONES, small, replace(SMALL, layers=12))
    with pytest.raises(PelError, match=r"2 blocks.*expected 12"):
        prepare_backbone(small, tmp_path / "out", str(write("state dict", model.state_dict(), tmp_path)))


def test_a_tower_of_another_kind_is_refused():
    with pytest.raises(PelError, match="no place for"):
        rename({"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1)}, OPEN_CLIP_NAMES)


def test_an_unknown_backbone_is_refused(tmp_path):
    with pytest.raises(PelError, match="clip-b16"):
        prepare_backbone("clip-b17", tmp_path)


def test_timm_weights_from_a_file(monkeypatch, tmp_path):
    torch.manual_seed(0)
    original = timm.create_model("test_vit", num_classes=0).eval()
    save_file(original.state_dict(), tmp_path / "vit.safetensors")
    entry = Backbone("test", "timm", "test_vit", len(original.blocks), 64, 16, 160, text=False)
    set_entry(monkeypatch, BACKBONES, "test", entry)
    prepare_backbone("test", tmp_path / "out", str(tmp_path / "vit.safetensors"))
    vit, text, _ = load_vit(tmp_path / "out")
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), original(images), atol=1e-5, rtol=0)
    assert not text
    with pytest.raises(PelError, match="no text tower"):
        text_features(TextSource("test", CLASSES), "default")


def test_preparing_repeats_byte_for_byte(tmp_path):
    for name in "ab":
        prepare_backbone("toy", tmp_path / name)
    for file in ("vit.safetensors", "backbone.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_positions_for_another_resolution(tmp_path):
    prepare_backbone("toy", tmp_path)
    vit, _, _ = load_vit(tmp_path, resolution=32)
    assert (vit.resolution, vit.tokens) == (32, 17) and vit(torch.randn(1, 3, 32, 32)).shape == (1, 32)
    same, _, _ = load_vit(tmp_path, resolution=16)
    assert torch.equal(same.pos, load_vit(tmp_path)[0].pos)


def test_resized_positions_equal_timm_s():
    pos = torch.randn(1 + 7 * 7, 12)
    expected = timm.layers.resample_abs_pos_embed(pos[None], [10, 10], num_prefix_tokens=1, antialias=True)
    torch.testing.assert_close(resize_positions(pos, 10), expected[0])
    torch.testing.assert_close(resize_positions(pos, 7), pos)


@torch.no_grad()
def test_text_features(small, model, tmp_path):
    path = str(write("state dict", model.state_dict(), tmp_path))
    found = text_features(TextSource(small, CLASSES, path), "default")
    lines = ["a photo of a aquarium fish.", "a photo of a Grand Piano.", "a photo of a worm."]
    tokens = open_clip.get_tokenizer("ViT-B-32")(lines)
    torch.testing.assert_close(found, F.normalize(model.encode_text(tokens), dim=-1))
    bare = text_features(TextSource(small, CLASSES, path), "classname")
    assert not torch.allclose(found, bare)
    torch.testing.assert_close(bare.norm(dim=-1), torch.ones(3))


@torch.no_grad()
def test_several_templates_are_a_mean_of_unit_features(model):
    tokenizer, lines = open_clip.get_tokenizer("ViT-B-32"), ("a photo of a {}.", "a drawing of the {}.")
    units = [F.normalize(model.encode_text(tokenizer([line.format(name) for name in spoken(CLASSES)])), dim=-1) for line in lines]
    torch.testing.assert_close(encode_text(model, tokenizer, CLASSES, lines), F.normalize(sum(units), dim=-1))


def test_prompts():
    assert templates("default") == ("a photo of a {}.",) and templates("classname") == ("{}",)
    ensemble = templates("ensemble")
    assert len(ensemble) == len(set(ensemble)) == 80 and all(line.count("{}") == 1 for line in ensemble)
    with pytest.raises(PelError, match="default"):
        templates("defualt")


def test_text_features_of_other_weights_are_refused(small, model, tmp_path):
    path = str(write("state dict", model.state_dict(), tmp_path))
    with pytest.raises(PelError, match="prepare it again"):
        text_features(TextSource(small, CLASSES, path, sha="0" * 64), "default")


def test_the_toy_text_table_depends_on_names_and_prompt_only():
    first, again = (text_features(TextSource("toy", names), "default") for names in (CLASSES, CLASSES[::-1]))
    assert torch.equal(first, again.flip(0))
    assert not torch.equal(first, text_features(TextSource("toy", CLASSES), "classname"))


def test_what_another_engine_prepared_is_stale(toy_results, tmp_path):
    shutil.copytree(toy_results / "backbones/toy", tmp_path / "toy")
    about = tmp_path / "toy/backbone.json"
    about.write_text(about.read_text().replace('"prepare": 1', '"prepare": 0'))
    with pytest.raises(PelError, match=r"backbone\.json is stale: prepared by version 0, this is 1"):
        load_vit(tmp_path / "toy")
    with safe_open(toy_results / "text/toy/toy.default.safetensors", "pt") as text:
        assert text.metadata()["versions"] == '{"prepare": 1}'
