"""Head rows from images: class means, k-shot means, the probe against scikit-learn, what is looked at, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.data.batches import EvalBatches
from pel_core.data.datasets import Split, open_prepared
from pel_core.models.heads import HEADS
from pel_core.models.inits import INITS, class_mean, images_for
from pel_core.models.vit import ViT
from pel_core.models.weights import load_vit
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import image_projection
from pel_core.training.look import Look
from pel_core.training.run_inputs import load

CLASSES, WIDTH = 5, 12

IMAGE_INITS = [name for name, init in INITS.items() if init.start == "images"]


@pytest.fixture(scope="module")
def sample():
    """Features of five separable classes, 60 down to 4 images each."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate((60, 30, 15, 8, 4))])
    centres = 2 * torch.randn(CLASSES, WIDTH, generator=generator)
    return centres[labels] + torch.randn(len(labels), WIDTH, generator=generator), labels


def test_every_start_from_images_has_its_function():
    assert all(INITS[init].rows for init in IMAGE_INITS)


def test_means_are_of_features_that_are_not_normalised(sample):
    features, labels = sample
    expected = torch.stack([features[labels == label].mean(0) for label in range(CLASSES)])
    torch.testing.assert_close(class_mean(features, labels, CLASSES), F.normalize(expected, dim=-1))


@pytest.mark.parametrize("init", IMAGE_INITS)
def test_a_class_without_images_is_refused(sample, init):
    features, labels = sample
    with pytest.raises(PelError, match="class 5 has no training image"):
        INITS[init].rows(features, labels, CLASSES + 1)


@pytest.mark.parametrize("init", IMAGE_INITS)
def test_which_images_are_looked_at(init):
    labels = np.array([0] * 30 + [1] * 12 + [2] * 3)[np.random.default_rng(0).permutation(45)]
    chosen = images_for(init, labels, 0)
    counts = np.bincount(labels[chosen]).tolist()
    shots = int(init.removeprefix("shot-")) if init.startswith("shot-") else 99
    assert counts == [min(shots, count) for count in (30, 12, 3)]
    assert (np.diff(chosen) > 0).all()
    assert images_for(init, labels, 0).tolist() == chosen.tolist()
    if init in ("shot-1", "shot-10"):
        assert images_for(init, labels, 1).tolist() != chosen.tolist()


@pytest.mark.parametrize("init", ["shot-1", "shot-10"])
def test_a_class_is_drawn_whatever_the_others_hold(init):
    """One generator went through all classes, so that a further image, or class, changed the draw of those behind it."""
    labels = np.array([0] * 30 + [1] * 12 + [2] * 40)
    chosen = images_for(init, labels, 0)
    others = {1: 30 + np.arange(12), 2: 42 + np.arange(40)}
    more = np.concatenate([labels, [0, 0, 3, 3, 3]])  # more images of the first class, and a class
    again = images_for(init, more, 0)
    for label, positions in others.items():
        assert np.intersect1d(chosen, positions).tolist() == np.intersect1d(again, positions).tolist(), label
    fewer = labels[labels != 1]
    last = images_for(init, fewer, 0)
    assert (last[fewer[last] == 2] + 12).tolist() == np.intersect1d(chosen, others[2]).tolist()


OF_ROWS = [name for name in HEADS if getattr(HEADS[name], "rows", True) and not getattr(HEADS[name], "tower", False)]
OF_ROWS.remove("rac")  # whose rows are trained in the run that it starts from, or are texts


@pytest.mark.parametrize("head", OF_ROWS)
@pytest.mark.parametrize("init", IMAGE_INITS)
def test_every_head_starts_from_images(toy_results, init, head):
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer+ssf-ln", 3, init=init, head=head)
    data, classifier, _ = load(spec, toy_results, torch.device("cpu"), fresh=True)
    vit, text, _ = load_vit(toy_results / "backbones" / "toy")
    rows = Look(spec, vit, data, torch.device("cpu"), projection=image_projection(spec, text)).rows()
    assert torch.equal(classifier.head.weight, rows) and rows.shape == (6, 16 if "adapter" in head else vit.width)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(6))
    if head == "linear":
        assert not classifier.head.bias.any()


@torch.no_grad()
def test_the_features_are_those_of_the_plain_backbone(toy_results):
    """Although the method (SSF) moves them from the start."""
    spec = RunSpec.make("toy-ir20", "toy", "ssf-ln", 0, init="class-mean", interpolation="bicubic", resolution=24)
    _, classifier, _ = load(spec, toy_results, torch.device("cpu"), fresh=True)
    data = open_prepared(toy_results / "data" / "toy", spec.dataset)
    vit, _, _ = load_vit(toy_results / "backbones" / "toy", 24)
    assert isinstance(vit, ViT) and vit.resolution == 24
    batches = EvalBatches(data.train, "plain", 0, 24, spec.vit.mean, spec.vit.std, "cpu", interpolation="bicubic")
    features = torch.cat([vit(crops[:, 0]) for crops, _ in batches])
    expected = class_mean(features, torch.from_numpy(np.asarray(data.train.labels)), 6)
    torch.testing.assert_close(classifier.head.weight, expected, atol=1e-6, rtol=1e-5)


def test_a_checkpoint_needs_no_look_at_the_images(toy_results, monkeypatch):
    spec = RunSpec.make("toy-ir20", "toy", "ln", 0, init="class-mean")
    monkeypatch.setattr("pel_core.training.look.Look.features", lambda *arguments: pytest.fail("looked at the images"))
    load(spec, toy_results, torch.device("cpu"))


@pytest.mark.parametrize("init", ["shot-1", "class-mean"])
def test_image_files_are_looked_at_too(toy_results, tmp_path, init):
    spec = RunSpec.make("toy-ir20", "toy", "ln", 0, init=init)
    data = open_prepared(toy_results / "data" / "toy", spec.dataset)
    paths = [str(tmp_path / f"{i}.png") for i in range(len(data.train))]
    for path, image in zip(paths, data.train.images, strict=True):
        Image.fromarray(image).save(path)
    rows = []
    for split in (data.train, Split(data.train.labels, paths=paths)):
        vit, _, _ = load_vit(toy_results / "backbones" / "toy")
        rows.append(Look(spec, vit, replace(data, train=split), torch.device("cpu")).rows())
    torch.testing.assert_close(*rows, atol=1e-3, rtol=0)
