"""Projected features, CLIP-Adapter and Tip-Adapter beside plain implementations from the papers: values, gradients, steps."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.batches import EvalBatches
from pel_core.evaluation.trained_run import open_run
from pel_core.models.heads import HEADS, ZeroShot
from pel_core.models.tip_adapter import TipAdapter
from pel_core.models.weights import load_vit
from pel_core.spec.run_spec import RunSpec
from pel_core.training.run_inputs import load, load_text

CPU = torch.device("cpu")
CLASSES, WIDTH, IMAGES = 5, 16, 7


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(name, **knobs):
    """A head on features that are projected already."""
    return HEADS[name](WIDTH, CLASSES, 20.0, torch.Generator().manual_seed(1), **knobs)


def classifier_of(results, method="head-only", **options):
    spec = RunSpec.make("toy-ir20", "toy", method, 3, **options)
    return load(spec, results, CPU, fresh=True)


def three_steps(parameters, loss, rate=0.05, momentum=0.9):
    """Three steps of SGD with momentum, written out; returns the first gradients."""
    parameters, speed, first = list(parameters), [0.0] * len(parameters), None
    for _ in range(3):
        gradients = torch.autograd.grad(loss(), parameters)
        first = first or gradients
        with torch.no_grad():
            for i, (value, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                speed[i] = momentum * speed[i] + gradient
                value -= rate * speed[i]
    return first


def same_training(head, plain, values):
    """Logits, gradients and three steps of a head and of ``plain(f)``, whose parameters are ``values`` by the head's names."""
    features, labels = draw(IMAGES, WIDTH, seed=2), torch.arange(IMAGES) % CLASSES
    torch.testing.assert_close(head(features), plain(features))
    trained = {name: value for name, value in head.named_parameters() if value.requires_grad}
    assert trained.keys() == values.keys()
    first = three_steps(values.values(), lambda: F.cross_entropy(plain(features), labels))
    optimizer = torch.optim.SGD(trained.values(), 0.05, 0.9)
    for step in range(3):
        optimizer.zero_grad()
        F.cross_entropy(head(features), labels).backward()
        if not step:
            for value, gradient in zip(trained.values(), first, strict=True):
                torch.testing.assert_close(value.grad, gradient, rtol=1e-5, atol=1e-6)
        optimizer.step()
    for name, value in trained.items():
        torch.testing.assert_close(value.detach(), values[name].detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head(features), plain(features), rtol=1e-4, atol=1e-4)


# The projected feature

EITHER = [entry.name for entry in HEADS.entries() if (knob := entry.knob("feature")) and knob.default == "width"]
REMEMBERS = [name for name in HEADS if hasattr(HEADS[name], "remembers")]
ORDINARY = [name for name in EITHER if name not in REMEMBERS]


def test_the_heads_that_take_either_feature():
    assert {*EITHER} == {"cosine", "linear", "l2norm", "layernorm", "knn", "rac"}


@pytest.mark.parametrize("name", ORDINARY)
def test_a_head_on_projected_features_is_the_head_of_the_product(toy_results, name):
    _, classifier, _ = classifier_of(toy_results, head=name, **{"head.feature": "projected"})
    _, text, _ = load_vit(toy_results / "backbones" / "toy")
    head, features = classifier.head, draw(4, 32)
    assert head.weight.shape == (6, 16) and set(classifier.stored()) <= {"head.weight", "head.bias"}
    product = features @ text["text.projection"]
    plain = HEADS[name](16, 6, 25.0, torch.Generator())
    plain.load_state_dict(head.state_dict())
    torch.testing.assert_close(head(features), plain(product))
    assert plain.projection is None and torch.equal(plain.feature(product), product)


def test_projected_features_from_text_start_as_zero_shot(toy_results):
    """CLIP's own classifier, at CLIP's own scale (20 here)."""
    data, classifier, info = classifier_of(toy_results, scale=20, **{"head.feature": "projected"})
    _, text, _ = load_vit(toy_results / "backbones" / "toy")
    of_text, _ = load_text(toy_results / "text" / "toy" / "toy.default.safetensors", data, info)
    torch.testing.assert_close(classifier.head.weight.detach(), F.normalize(of_text["text.features"], dim=-1))
    features = draw(8, 32)
    expected = ZeroShot(text["text.projection"], of_text["text.features"], float(text["text.logit_scale"]))(features)
    torch.testing.assert_close(classifier.head(features), expected)


def test_parameters_of_projected_features(toy_results):
    width, projected = (
        classifier_of(toy_results, "adaptformer", **{"head.feature": feature})[1].census() for feature in ("width", "projected")
    )
    assert (width["head"], projected["head"]) == (6 * 32, 6 * 16) and width["learnable"] == projected["learnable"]
    assert projected["frozen"] == width["frozen"] + 32 * 16


def test_rows_from_images_are_projected_too(toy_results):
    data, classifier, _ = classifier_of(toy_results, init="class-mean", **{"head.feature": "projected"})
    features, _ = plain_features(toy_results, data, np.arange(len(data.train)))
    labels = torch.as_tensor(np.asarray(data.train.labels))
    expected = torch.stack([features[labels == label].mean(0) for label in range(6)])
    torch.testing.assert_close(classifier.head.weight.detach(), F.normalize(expected, dim=-1), rtol=1e-4, atol=1e-5)


def test_without_a_projection_it_is_refused():
    with pytest.raises(PelError, match="must be width: dinov2-b14 has no image projection"):
        RunSpec.make("places-lt", "dinov2-b14", "adaptformer", 0, init="class-mean", **{"head.feature": "projected"})
    with pytest.raises(PelError, match="must be width: in21k-b16 has no image projection"):
        RunSpec.make("places-lt", "in21k-b16", "head-only", 0, init="class-mean", head="clip-adapter")
    RunSpec.make("places-lt", "in21k-b16", "head-only", 0, init="class-mean", head="clip-adapter", **{"head.feature": "width"})


def test_the_default_feature_is_in_no_name():
    assert (
        RunSpec.make("places-lt", "clip-b16", "adaptformer", 0, **{"head.feature": "width"}).slug
        == "places-lt.clip-b16.adaptformer.s0"
    )


# CLIP-Adapter


def plain_clip_adapter(values, text, ratio):
    def logits(f):
        g = torch.relu(torch.relu(f @ values["down"].T) @ values["up"].T)
        mixed = ratio * g + (1 - ratio) * f
        rows = values.get("weight", text)
        return 20 * (mixed / mixed.norm(dim=1, keepdim=True)) @ (rows / rows.norm(dim=1, keepdim=True)).T

    return logits


@pytest.mark.parametrize("train_classifier", [False, True])
def test_clip_adapter_is_its_papers(train_classifier):
    head = made("clip-adapter", ratio=0.6, reduction=2, train_classifier=train_classifier)
    values = {name: value.detach().clone().requires_grad_() for name, value in head.named_parameters() if value.requires_grad}
    same_training(head, plain_clip_adapter(values, head.weight.detach().clone(), 0.6), values)


def test_clip_adapter_starts_as_torchs_linear_layers_do():
    head = HEADS["clip-adapter"](512, 10, 100.0, torch.Generator().manual_seed(0))
    for weight in (head.down, head.up):
        bound = weight.shape[1] ** -0.5
        assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    # The paper's bottleneck on ViT-B/16's 512 numbers.
    assert sum(value.numel() for value in head.parameters() if value.requires_grad) == 2 * 512 * 128


def test_clip_adapter_without_its_share_is_the_cosine():
    head, features = made("clip-adapter", ratio=0.0), draw(3, WIDTH)
    torch.testing.assert_close(head(features), 20 * F.normalize(features, dim=-1) @ head.weight.T)


def test_a_bottleneck_without_a_unit_is_refused():
    with pytest.raises(PelError, match=r"head\.reduction=17 leaves no unit"):
        made("clip-adapter", reduction=17)
    with pytest.raises(PelError, match=r"head.ratio=1.5 is not possible; it must be at least 0 and at most 1"):
        RunSpec.make("toy", "toy", "head-only", 0, head="clip-adapter", **{"head.ratio": 1.5})


# Tip-Adapter

CACHE_LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 4, 4])  # class 3 is not cached


def plain_tip_adapter(keys, text, alpha, beta, values="one-hot"):
    one_hot = F.one_hot(CACHE_LABELS, CLASSES).float()
    if values == "balanced":
        one_hot = one_hot * 8 / 4 / one_hot.sum(0).clamp(min=1)

    def logits(f):
        f = f / f.norm(dim=1, keepdim=True)
        affinity = f @ keys.T
        return 20 * f @ (text / text.norm(dim=1, keepdim=True)).T + alpha * (-(beta - beta * affinity)).exp() @ one_hot

    return logits


@pytest.mark.parametrize("values", ["one-hot", "balanced"])
@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f"])
def test_tip_adapter_is_its_papers(name, values):
    head = made(name, alpha=1.5, beta=3.0, values=values)
    head.remember(3 * draw(8, WIDTH, seed=4), CACHE_LABELS)
    keys = F.normalize(draw(8, WIDTH, seed=4), dim=-1).requires_grad_()
    plain = plain_tip_adapter(keys, head.weight.detach().clone(), 1.5, 3.0, values)
    if name == "tip-adapter":
        features = draw(IMAGES, WIDTH, seed=2)
        torch.testing.assert_close(head(features), plain(features).detach())
        assert not any(value.requires_grad for value in head.parameters())
    else:
        same_training(head, plain, {"keys": keys})


def test_a_balanced_cache_lets_every_cached_class_count_alike():
    head = made("tip-adapter", values="balanced", beta=2.0)
    head.remember(draw(1, WIDTH).expand(8, -1), CACHE_LABELS)  # all images alike
    cached = head(draw(1, WIDTH)) - made("clip-adapter", ratio=0.0)(draw(1, WIDTH))
    torch.testing.assert_close(cached[0], torch.tensor([2.0, 2.0, 2.0, 0.0, 2.0]), rtol=1e-4, atol=1e-4)


def test_which_images_are_cached():
    labels = np.array([0] * 30 + [1] * 12 + [2] * 3)[np.random.default_rng(0).permutation(45)]
    for most, counts in ((4, [4, 4, 3]), (16, [16, 12, 3]), (0, [30, 12, 3])):
        chosen = TipAdapter.remembers(labels, 0, {"per_class": most})
        assert np.bincount(labels[chosen]).tolist() == counts and (np.diff(chosen) > 0).all()
        same = TipAdapter.remembers(labels, 1, {"per_class": most}).tolist() == chosen.tolist()
        assert same == (most == 0)


def test_which_images_of_a_class_are_cached_is_the_business_of_this_class():
    few, more = ([0] * 30 + [1] * count + [2] * 20 for count in (12, 25))
    first, second = (TipAdapter.remembers(np.array(labels), 0, {"per_class": 4}) for labels in (few, more))
    assert first[first < 30].tolist() == second[second < 30].tolist()
    assert (first[first >= 42] - 42).tolist() == (second[second >= 55] - 55).tolist()


@torch.no_grad()
def plain_features(results, data, chosen):
    """Projected features of training images, by the plain ViT."""
    vit, text, _ = load_vit(results / "backbones" / "toy")
    split = data.train.take(chosen)
    batches = EvalBatches(split, "plain", 0, 16, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), CPU)
    features = torch.cat([vit(crops.flatten(0, 1)) for crops, _ in batches])
    return features @ text["text.projection"], torch.as_tensor(np.asarray(split.labels))


def test_the_cache_holds_untuned_features_of_training_images(toy_results):
    """Although the method (SSF) moves them from the start."""
    data, classifier, _ = classifier_of(toy_results, "ssf-ln", head="tip-adapter", **{"head.per_class": 5})
    chosen = TipAdapter.remembers(data.train.labels, 3, {"per_class": 5})
    features, labels = plain_features(toy_results, data, chosen)
    assert torch.equal(classifier.head.labels, labels) and labels.bincount().max() == 5
    torch.testing.assert_close(classifier.head.keys.detach(), F.normalize(features, dim=-1), rtol=1e-4, atol=1e-5)


def test_a_cache_that_does_not_train_needs_no_epochs():
    with pytest.raises(PelError, match=r"epochs=2 is not possible .* must be 0, since nothing trains: head=tip-adapter does not"):
        RunSpec.make("toy", "toy", "head-only", 0, head="tip-adapter")
    RunSpec.make("toy", "toy", "adaptformer", 0, head="tip-adapter")
    assert RunSpec.make("toy", "toy", "head-only", 0, recipe="tip-adapter").epochs == 0


@pytest.mark.parametrize(
    ("slug", "trained"),
    [
        ("head-only.s0.recipe=tip-adapter.head.per_class=3", 0),
        ("head-only.s0.recipe=tip-adapter-f.epochs=1", "keys"),
        ("head-only.s0.recipe=clip-adapter.epochs=1", 2 * 16 * 4),
        ("adaptformer.s0.epochs=1.head.feature=projected", 6 * 16),
    ],
)
def test_from_the_command_line_to_a_run_that_classifies(toy_results, slug, trained):
    """Trained, evaluated with another ensembling, and opened from its folder alone."""
    slug = f"toy-ir20.toy.{slug}"
    assert main(["train", slug, "--results", str(toy_results)]) == 0
    for name in (slug, f"{slug}.tte=none"):
        assert main(["evaluate", name, "--results", str(toy_results)]) == 0
    record = read_json(toy_results / "runs" / slug / "metrics.json")
    spec, classifier, names = open_run(slug, toy_results, CPU)
    trained = classifier.head.keys.numel() if trained == "keys" else trained
    assert record["parameters"]["head"] == trained and len(names) == 6
    assert record["parameters"] == read_json(toy_results / "runs" / slug / "train.json")["parameters"]
    images = draw(3, 3, 16, 16)
    fresh = load(spec, toy_results, CPU, fresh=True)[1]
    fresh.load_trainable(classifier.trainable_state())
    torch.testing.assert_close(classifier(images), fresh(images))
