"""CLIP's ResNets on random weights: features, texts and logits against open_clip's own; what trains on them and what does not."""

import copy

import open_clip
import pytest
import torch
from open_clip.pretrained import get_pretrained_cfg
from registries import set_entry
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from pel_core.common.errors import PelError
from pel_core.models.backbones import BACKBONES, repository
from pel_core.models.heads import ZeroShot
from pel_core.models.methods import METHODS
from pel_core.models.resnet import ResNet
from pel_core.models.weights import load_vit, prepare_backbone, text_features
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.gflop import forward_gflop, training_gflop
from pel_core.training.classifier import build

RESNETS = [name for name, entry in BACKBONES.items() if entry.stages]
SMALL = {"layers": [1, 2, 1, 1], "width": 16, "image_size": 64}
NAMES = ["worm", "sea", "red"]


@pytest.mark.parametrize("name", RESNETS)
def test_open_clip_declares_the_same(name):
    entry = BACKBONES[name]
    config, weights = open_clip.get_model_config(entry.arch), get_pretrained_cfg(entry.arch, entry.tag)
    vision = config["vision_cfg"]
    assert (tuple(vision["layers"]), vision["width"], vision["image_size"]) == (entry.stages, 64, entry.resolution)
    assert config["embed_dim"] == entry.width and config["quick_gelu"] == weights["quick_gelu"] and entry.text
    assert (entry.mean, entry.std, entry.interpolation) == (weights["mean"], weights["std"], weights["interpolation"])
    assert weights["hf_hub"].rstrip("/") == repository(name)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A small ResNet with statistics and BatchNorms that matter, in the place of RN50, and its prepared folder."""
    entry = BACKBONES["clip-rn50"]
    config = copy.deepcopy(open_clip.get_model_config(entry.arch))
    config["vision_cfg"] |= SMALL
    config["text_cfg"] |= {"width": 64, "heads": 1, "layers": 1}
    config["embed_dim"] = 32
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, entry.arch, config)
    sizes = {"stages": (1, 2, 1, 1), "width": 32, "resolution": 64}
    set_entry(monkeypatch, BACKBONES, "clip-rn50", type(entry)(**{**vars(entry), **sizes}))
    torch.manual_seed(0)
    model = open_clip.create_model(entry.arch, precision="fp32", device="cpu").eval()
    for name, value in model.visual.state_dict().items():
        if "bn" in name or "downsample.1" in name:
            value.copy_(1 + 0.3 * torch.rand_like(value) if "var" in name or "weight" in name else 0.3 * torch.randn(value.shape))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    prepare_backbone("clip-rn50", tmp_path / "out", str(tmp_path / "w.safetensors"))
    return model, tmp_path / "out", str(tmp_path / "w.safetensors")


@torch.no_grad()
def test_features_texts_and_zero_shot(small):
    model, folder, given = small
    net, text, _ = load_vit(folder)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net(images), model.encode_image(images), atol=2e-5, rtol=1e-4)
    assert torch.equal(net(images), net.rest(net.prefix(images, 1), 1)) and torch.equal(net(images), net.rest(net.prefix(images)))
    rows = text_features("clip-rn50", NAMES, "default", given)
    tokens = open_clip.get_tokenizer("RN50-quickgelu")([f"a photo of a {name}." for name in NAMES])
    logits = model(images, tokens)
    zero = ZeroShot(text["text.projection"], rows, float(text["text.logit_scale"]))
    torch.testing.assert_close(zero(net(images)), logits[0] @ logits[1].T * logits[2], atol=1e-3, rtol=1e-4)
    assert load_vit(folder, resolution=96)[0](torch.randn(1, 3, 96, 96)).shape == (1, 32)


@pytest.mark.parametrize(("method", "trains"), [("full", r".*"), ("bias", r".*\.bias"), ("head-only", None)])
def test_what_trains(small, method, trains):
    """LIFT's lists: every parameter, or every one whose name ends in bias, the pooling's too. Statistics never change."""
    model, folder, _ = small
    net, text, _ = load_vit(folder)
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    spec = RunSpec.make("toy", "clip-rn50", method, 0, precision="fp32")
    text["text.features"] = torch.nn.functional.normalize(torch.randn(3, 32), dim=-1)
    classifier = build(spec, net, 3, text).train()
    torch.testing.assert_close(classifier.head.weight, text["text.features"], atol=1e-6, rtol=0)
    tuned = {each.name.removeprefix("blocks.0.") for each in classifier.tuned}
    names = [name for name, _ in model.visual.named_parameters()]
    expected = {"full": names, "bias": [name for name in names if name.endswith("bias")], "head-only": []}[method]
    assert tuned == set(expected)
    before = copy.deepcopy(classifier.state_dict())
    optimizer = torch.optim.SGD([value for value in classifier.parameters() if value.requires_grad], lr=0.1)
    # A second, plain implementation: open_clip's own network in evaluation mode, the cosine head by hand, three steps.
    theirs = copy.deepcopy(model.visual)
    head = torch.nn.Parameter(classifier.head.weight.detach().clone())
    chosen = [value for name, value in theirs.named_parameters() if name in tuned]
    plain = torch.optim.SGD([*chosen, head], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(classifier(images), labels).backward()
        plain.zero_grad()
        cosine = torch.nn.functional.normalize(theirs(images), dim=-1) @ torch.nn.functional.normalize(head, dim=-1).T
        torch.nn.functional.cross_entropy(spec.scale * cosine, labels).backward()
        optimizer.step()
        plain.step()
    after = classifier.state_dict()
    for name, value in theirs.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(after[f"vit.blocks.0.{name}"], value, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(after["head.weight"], head, atol=1e-4, rtol=1e-3)
    same = [name for name in before if torch.equal(before[name], after[name])]
    assert all("running" in name or name.removeprefix("vit.blocks.0.") not in tuned for name in same if name != "head.weight")
    assert all(name in same for name in before if "running" in name)


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if "resnet" not in entry.networks])
def test_methods_of_a_vit_are_refused_by_name(method):
    for text in (method, f"head-only+{method}@6:12"):
        with pytest.raises(PelError, match=rf"{method} does not act on clip-rn50, which is a ResNet.* what does: bias, full"):
            RunSpec.make("toy", "clip-rn50", text, 0)
    with pytest.raises(PelError, match="resolution=100 is not possible"):
        RunSpec.make("toy", "clip-rn50", "bias", 0, resolution=100)


@pytest.mark.parametrize("name", RESNETS)
def test_operations(name):
    """As torch counts them in the network itself, built without storage."""
    head, entry = RunSpec.make("toy", name, "head-only", 0), BACKBONES[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ResNet(stages=entry.stages, stem=64, width=entry.width, heads=32, resolution=224)(torch.empty(1, 3, 224, 224))
    assert forward_gflop(head) == pytest.approx(counter.get_total_flops() / 1e9, rel=0.001)
    full, bias = (training_gflop(RunSpec.make("toy", name, method, 0)) for method in ("full", "bias"))
    assert full == 3 * training_gflop(head) and bias == 2 * training_gflop(head)
