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
from pel_core.models.class_texts import text_features
from pel_core.models.heads import ZeroShot
from pel_core.models.methods import METHODS, methods_for, parse_method
from pel_core.models.resnet import FrozenStatistics, ResNet
from pel_core.models.surgery import apply
from pel_core.models.text_source import TextSource
from pel_core.models.weights import load_vit, prepare_backbone
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.gflop import forward_gflop, training_gflop
from pel_core.training.classifier import Classifier, build, cast_frozen_weights
from pel_core.training.optimizers import parameter_groups

RESNETS = [name for name, entry in BACKBONES.items() if entry.stages]
SMALL = {"layers": [1, 2, 1, 1], "width": 16, "image_size": 64}
NAMES = ["worm", "sea", "red"]


@pytest.mark.parametrize("name", RESNETS)
def test_open_clip_declares_the_same(name):
    entry = BACKBONES[name]
    config, weights = open_clip.get_model_config(entry.arch), get_pretrained_cfg(entry.arch, entry.tag)
    vision = config["vision_cfg"]
    assert (tuple(vision["layers"]), vision["width"], vision["image_size"]) == (entry.stages, 64, entry.resolution)
    assert config["embed_dim"] == entry.width and config["quick_gelu"] == weights["quick_gelu"] == entry.quick_gelu and entry.text
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
    rows = text_features(TextSource("clip-rn50", NAMES, given), "default")
    tokens = open_clip.get_tokenizer("RN50-quickgelu")([f"a photo of a {name}." for name in NAMES])
    logits = model(images, tokens)
    zero = ZeroShot(text["text.projection"], rows, float(text["text.logit_scale"]))
    torch.testing.assert_close(zero(net(images)), logits[0] @ logits[1].T * logits[2], atol=1e-3, rtol=1e-4)
    assert load_vit(folder, resolution=96)[0](torch.randn(1, 3, 96, 96)).shape == (1, 32)


@pytest.mark.parametrize("method", ["full", "bias", "bn", "head-only"])
def test_what_trains(small, method):
    """LIFT's lists: every parameter, every one whose name ends in bias, the pooling's too, those of every BatchNorm. Statistics
    never change."""
    model, folder, _ = small
    net, text, _ = load_vit(folder)
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    spec = RunSpec.make("toy", "clip-rn50", method, 0, precision="fp32")
    text["text.features"] = torch.nn.functional.normalize(torch.randn(3, 32), dim=-1)
    classifier = build(spec, net, 3, text).train()
    torch.testing.assert_close(classifier.head.weight, text["text.features"], atol=1e-6, rtol=0)
    tuned = {each.name.removeprefix("blocks.0.") for each in classifier.tuned}
    names = [name for name, _ in model.visual.named_parameters()]
    norms = [name for name, module in model.visual.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    expected = {"full": names, "bias": [name for name in names if name.endswith("bias")], "head-only": []}
    expected |= {"bn": [f"{name}.{each}" for name in norms for each in ("weight", "bias")]}
    expected = expected[method]
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


def test_scale_and_shift_after_the_pooling(small):
    """``ssf-attn`` of a ResNet, as LIFT's on the pooled feature: three steps of open_clip's network and two vectors by hand."""
    model, folder, _ = small
    net, text, _ = load_vit(folder)
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    spec = RunSpec.make("toy", "clip-rn50", "ssf-attn", 0, precision="fp32", weight_decay=0)
    text["text.features"] = torch.nn.functional.normalize(torch.randn(3, 32), dim=-1)
    classifier = build(spec, net, 3, text)
    tuned = {each.name: each.parameter for each in classifier.tuned}
    assert {name: tuple(value.shape) for name, value in tuned.items()} == dict.fromkeys(
        ("ssf-attn.0.attnpool.scale", "ssf-attn.0.attnpool.shift"), (32,)
    )
    with torch.no_grad():
        features = model.visual(images)
    scale, shift, head = (value.detach().clone().requires_grad_() for value in (*tuned.values(), classifier.head.weight))
    ours = torch.optim.SGD([*tuned.values(), classifier.head.weight], lr=0.1)
    plain = torch.optim.SGD([scale, shift, head], lr=0.1)
    for _ in range(3):
        values = []
        cosine = torch.nn.functional.normalize(features * scale + shift, dim=-1) @ torch.nn.functional.normalize(head, dim=-1).T
        for optimizer, logits in ((ours, classifier(images)), (plain, spec.scale * cosine)):
            values.append(torch.nn.functional.cross_entropy(logits, labels))
            optimizer.zero_grad()
            values[-1].backward()
            optimizer.step()
        torch.testing.assert_close(*values, atol=1e-4, rtol=1e-4)
    for found, expected in zip((*tuned.values(), classifier.head.weight), (scale, shift, head), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("method", methods_for("resnet"))
def test_as_many_parameters_as_in_the_upstream_network(name, method):
    """Of open_clip's full-size network, by its own modules; of the pooled feature, two numbers a channel."""
    entry = BACKBONES[name]
    with torch.device("meta"):
        theirs = open_clip.create_model(entry.arch, load_weights=False, precision="fp32", device="meta").visual
        ours = ResNet(stages=entry.stages, stem=64, width=entry.width, heads=32, resolution=224)
    norms = [module for module in theirs.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    expected = {
        "full": sum(value.numel() for value in theirs.parameters()),
        "bias": sum(value.numel() for name, value in theirs.named_parameters() if name.endswith("bias")),
        "bn": sum(2 * norm.num_features for norm in norms),
        "ssf-attn": 2 * entry.width,
    }
    tuned = apply(ours, parse_method(method, 1), adapter_dim=1) if METHODS[method].blocks != "none" else []
    assert sum(each.parameter.numel() for each in tuned) == expected.get(method, 0)
    assert len(norms) == len([each for each in ours.modules() if isinstance(each, FrozenStatistics)])


def test_batch_norms_may_go_without_decay(small):
    spec = RunSpec.make("toy", "clip-rn50", "bn+ssf-attn", 0, **{"optimizer.no_decay": "norms"})
    net, text, _ = load_vit(small[1])
    classifier = build(spec, net, 3, text | {"text.features": torch.randn(3, 32)})
    decays = {id(value): group["weight_decay"] for group in parameter_groups(classifier, spec, no_decay="norms")
              for value in group["params"]}  # fmt: skip
    for each in classifier.tuned:
        assert decays[id(each.parameter)] == (0.0 if each.method == "bn" else spec.weight_decay)


def test_batch_norms_are_refused_on_a_vit():
    with pytest.raises(PelError, match="bn does not act on toy, which is a ViT, without BatchNorms; what does: mask, lora"):
        RunSpec.make("toy", "toy", "bn", 0)


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if "resnet" not in entry.networks])
def test_methods_of_a_vit_are_refused_by_name(method):
    for text in (method, f"head-only+{method}@6:12"):
        with pytest.raises(
            PelError, match=rf"{method} does not act on clip-rn50, which is a ResNet.* does: ssf-attn, bn, bias, full"
        ):
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
    assert training_gflop(RunSpec.make("toy", name, "ssf-attn", 0)) == training_gflop(head)  # after all of the network


@torch.no_grad()
def test_half_precision(small):
    """Frozen convolutions held in bf16 under autocast, as on a GPU."""
    net, _, _ = load_vit(small[1])
    images = torch.randn(2, 3, 64, 64)
    expected = net(images)
    cast_frozen_weights(Classifier(net.requires_grad_(False), torch.nn.Identity(), []), torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.nn.functional.cosine_similarity(net(images).float(), expected).min() > 0.99
