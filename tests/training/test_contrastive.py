"""The loss ``bcl``: against the public code's numbers and a loop in words, its views, its own parameters, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.batches import TrainBatches
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.gflop import training_gflop
from pel_core.training.checkpoints import CheckpointManager, read_checkpoint
from pel_core.training.contrastive import balanced_contrast
from pel_core.training.losses import make_loss
from pel_core.training.optimizers import parameter_groups
from pel_core.training.run_inputs import load
from pel_core.training.step import Step
from pel_core.training.views import with_views
from tests.resuming import train_once

GOLDEN = read_json(Path(__file__).parents[1] / "golden" / "balanced-contrast.json")
CPU, MEAN = torch.device("cpu"), ((0.0,) * 3, (1.0,) * 3)


def spec(method="adaptformer", **options):
    return RunSpec.make("toy-ir20", "toy", method, 3, **{"loss": "bcl", "loss.dim": 16, "epochs": 1, **options})


def unit(rows, width, seed):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def in_words(z, labels, prototypes, temperature):
    """The paper's loss, one anchor, one class and one pair at a time; the anchor is left out where its class is averaged."""
    total = 0.0
    for i in range(len(z)):
        below, own = 0.0, []
        for c in range(len(prototypes)):
            members = [z[k] for k in range(len(z)) if k != i and labels[k] == c] + [prototypes[c]]
            below = below + sum(torch.exp(z[i] @ other / temperature) for other in members) / len(members)
            own = members if c == labels[i] else own
        total = total - sum(torch.log(torch.exp(z[i] @ other / temperature) / below) for other in own) / len(own)
    return total / len(z)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: str(case["temperature"]))
def test_the_term_is_the_public_codes(case):
    features = (torch.arange(60, dtype=torch.float64) * 0.7).sin().reshape(6, 2, 5).float().requires_grad_()
    prototypes = (torch.arange(20, dtype=torch.float64) * 1.3).cos().reshape(4, 5).float().requires_grad_()
    z, labels = F.normalize(features, dim=-1).transpose(0, 1).flatten(0, 1), torch.tensor(GOLDEN["labels"]).repeat(2)
    value = balanced_contrast(z, labels, F.normalize(prototypes, dim=-1), case["temperature"])
    gradients = torch.autograd.grad(value, (features, prototypes))
    assert value.item() == pytest.approx(case["loss"], rel=1e-5)
    for found, expected in zip(gradients, (case["grad_features"], case["grad_prototypes"]), strict=True):
        torch.testing.assert_close(found.flatten(), torch.tensor(expected), rtol=1e-4, atol=1e-6)


@given(seed=st.integers(0, 1000), images=st.integers(1, 6), classes=st.integers(2, 5))
def test_the_term_in_words(seed, images, classes):
    z, prototypes = unit(2 * images, 4, seed), unit(classes, 4, seed + 1)
    labels = torch.randint(classes, (images,), generator=torch.Generator().manual_seed(seed)).repeat(2)
    expected = in_words(z, labels, prototypes, 0.2)
    torch.testing.assert_close(balanced_contrast(z, labels, prototypes, 0.2), expected, rtol=1e-4, atol=1e-5)


class Plain(nn.Module):
    """The projector as its authors build it."""

    def __init__(self, ours):
        super().__init__()
        width, dim = ours.hidden.shape[1], len(ours.out)
        self.net = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, dim))
        for name, value in ((0, ours.hidden), (3, ours.out)):
            self.net[name].weight.data.copy_(value)
        self.net[0].bias.data.copy_(ours.hidden_bias)
        self.net[3].bias.data.copy_(ours.out_bias)

    def forward(self, x):
        return F.normalize(self.net(x), dim=-1)


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("feature", ["width", "projected"])
def test_three_steps_are_those_of_a_plain_loop(toy_results, views, feature):
    """Values, gradients and three steps of SGD, with torch's own layers, autograd and the loss in words."""
    run = spec(**{"loss.views": views, "head.feature": feature, "batch_size": 10, "precision": "fp32", "momentum": 0.0})
    data, classifier, _ = load(run, toy_results, CPU, fresh=True)
    twin = load(run, toy_results, CPU, fresh=True)[1]
    counts = torch.as_tensor(data.train_counts)
    step = Step(classifier, make_loss(run, counts), run, CPU, ProcessGroup())
    plain = [Plain(step.criterion.of_images), Plain(step.criterion.of_classes)]
    learnt = [*twin.trainable().values(), *plain[0].parameters(), *plain[1].parameters()]
    optimizer = torch.optim.SGD(learnt, lr=run.lr, weight_decay=run.weight_decay)
    shift = torch.log(counts / counts.sum())
    stream = with_views(TrainBatches(data.train, run, run.pixels, *MEAN, CPU), run).epoch(0)
    for _, (images, labels, indices) in zip(range(3), stream, strict=False):
        assert images.shape[:2] == (10, views)
        features = [twin.vit(images[:, view]) for view in range(views)]
        logits = twin.head(features[0])
        z = plain[0](torch.cat([twin.head.feature(each) for each in features]))[-20:]
        contrast = in_words(z, labels.repeat(2), plain[1](twin.head.weight), 0.07)
        value = F.cross_entropy(logits + shift, labels) + 0.35 * contrast
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total, _ = step(images, labels, len(indices))
        assert total.item() / 10 == pytest.approx(value.item(), rel=1e-4)
    for name, value in twin.trainable().items():
        torch.testing.assert_close(classifier.trainable()[name], value, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(step.criterion.of_classes.out, plain[1].net[3].weight, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(step.criterion.of_images.hidden, plain[0].net[0].weight, rtol=1e-3, atol=2e-5)


def test_the_first_view_is_what_there_is_without_others(toy_results):
    run, data = spec(batch_size=32), load(spec(), toy_results, CPU)[0]
    plain = TrainBatches(data.train, run, 16, *MEAN, CPU)
    for (views, labels, order), (images, y, indices) in zip(with_views(plain, run).epoch(1, 1), plain.epoch(1, 1), strict=True):
        assert torch.equal(views[:, 0], images) and torch.equal(labels, y) and np.array_equal(order, indices)
        assert not torch.equal(views[:, 1], images)
    assert with_views(plain, _plain()) is plain


def _plain():
    return RunSpec.make("toy-ir20", "toy", "adaptformer", 3, epochs=1)


def test_views_of_files(files):
    """Files are read twice: the same images in the same order, with other crops."""
    run = spec(batch_size=8)
    stream = with_views(TrainBatches(files, run, 16, *MEAN, CPU), run)
    images, labels, indices = next(iter(stream.epoch(0)))
    assert images.shape == (8, 2, 3, 16, 16) and np.array_equal(files.labels[indices], labels.numpy())
    assert not torch.equal(images[:, 0], images[:, 1])


def test_micro_batches_are_parts_of_one_contrast(toy_results):
    """As where memory is short: the gradient at logits and features of the whole group, then part by part."""
    after = []
    for at_once in (32, 5):
        run = spec(batch_size=32)
        data, classifier, _ = load(run, toy_results, CPU, fresh=True)
        step = Step(classifier, make_loss(run, torch.as_tensor(data.train_counts)), run, CPU, ProcessGroup())
        step.micro_batch = at_once
        images, labels, _ = next(iter(with_views(TrainBatches(data.train, run, 16, *MEAN, CPU), run).epoch(0)))
        after.append((step(images, labels, 32), {name: value.detach() for name, value in step.trained.items()}))
    torch.testing.assert_close(after[1], after[0], atol=2e-5, rtol=1e-4)


def test_projectors_train_are_kept_in_checkpoints_and_left_out_of_the_result(toy_results, tmp_path):
    path = tmp_path / "c.safetensors"
    state, _ = train_once(toy_results, spec(batch_size=64), CheckpointManager(path))
    kept = read_checkpoint(path)[0]
    plain, _ = train_once(toy_results, _plain())
    assert state.keys() == plain.keys()
    names = {name for name in kept if name.startswith("loss.")}
    assert len(names) == 12 and {f"optimizer.momentum_buffer.{name}" for name in names} <= kept.keys()
    assert not torch.equal(kept["loss.of_images.norm.weight"], torch.ones_like(kept["loss.of_images.norm.weight"]))


def test_projectors_learn_at_the_heads_rate_and_norms_may_go_without_decay(toy_results):
    run = spec(**{"optimizer.head_lr": 0.5, "optimizer.no_decay": "biases+norms"})
    data, classifier, _ = load(run, toy_results, CPU, fresh=True)
    step = Step(classifier, make_loss(run, torch.as_tensor(data.train_counts)), run, CPU, ProcessGroup())
    knobs = {"head_lr": 0.5, "no_decay": "biases+norms", "criterion": step.criterion}
    of = {id(value): (group["lr"], group["weight_decay"]) for group in parameter_groups(classifier, run, **knobs)
          for value in group["params"]}  # fmt: skip
    assert of[id(step.criterion.of_images.hidden)] == (0.5, run.weight_decay)
    assert of[id(step.criterion.of_images.norm.weight)] == of[id(step.criterion.of_classes.out_bias)] == (0.5, 0.0)


def test_a_run_costs_its_views():
    assert training_gflop(spec()) == 2 * training_gflop(_plain())
    assert training_gflop(spec(**{"loss.views": 3, "sharpness": "sam"})) == 6 * training_gflop(_plain())


def test_reduced_precision_is_near(toy_results):
    """The first step's loss; fp16's first steps are then skipped until the scale fits their gradients, as of any loss."""
    losses = []
    for precision in ("fp32", "fp16", "bf16"):
        run = spec(batch_size=64, precision=precision)
        data, classifier, _ = load(run, toy_results, CPU, fresh=True)
        step = Step(classifier, make_loss(run, torch.as_tensor(data.train_counts)), run, CPU, ProcessGroup())
        images, labels, _ = next(iter(with_views(TrainBatches(data.train, run, 16, *MEAN, CPU), run).epoch(0)))
        losses.append(step(images, labels, 64)[0].item() / 64)
    assert losses == pytest.approx([losses[0]] * 3, rel=0.02)


@pytest.mark.parametrize(
    "method, options, words",
    [
        ("adaptformer", {"mix": "mixup"}, "mix=mixup is not possible .* a loss that takes the two labels of a mixed image"),
        ("adaptformer", {"reweight": "effective"}, "reweight=effective is not possible .* a loss that is a mean over images"),
        ("adaptformer", {"sharpness": "imbsam"}, "sharpness=imbsam is not possible .* a loss that is a mean over images"),
        ("head-only", {}, "loss=bcl is not possible for head-only here; it needs features that change"),
        ("adaptformer", {"train_delta": False}, "loss=bcl is not possible .* needs features that change"),
        (
            "adaptformer",
            {"head": "coop", "head.context": 3},
            "loss=bcl is not .* a head that says what it .*: head=cosine or",
        ),
        ("adaptformer", {"head": "knn", "epochs": 0}, "loss=bcl is not possible .* a head that says what it classifies"),
        ("adaptformer", {"loss.views": 4}, "must be 2 or 3"),
        ("adaptformer", {"loss.temperature": 0}, "above 0"),
        ("adaptformer", {"loss": "ce", "loss.views": 2}, "needs loss=bcl"),
    ],
)
def test_what_cannot_be_contrasted_is_refused_when_a_study_is_read(method, options, words):
    given = {"loss": "bcl", **options}
    with pytest.raises(PelError, match=words):
        RunSpec.make("toy-ir20", "toy", method, 0, **given)
