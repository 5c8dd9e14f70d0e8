"""Class weights of any loss: the weights, the weighted mean against PyTorch's and a plain one, deferring, parts and processes."""

import math
from pathlib import Path

import pytest
import torch
from resuming import train_once
from test_trouble import tight
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.choices import LOSSES, REWEIGHTS
from pel_core.spec.run_spec import RunSpec
from pel_core.training.losses import make_loss
from pel_core.training.reweights import by_image
from pel_core.training.run_inputs import load
from pel_core.training.step import Step

COUNTS = torch.tensor([500, 120, 40, 9, 1])
GOLDEN = read_json(Path(__file__).parents[1] / "golden" / "long-tail-losses.json")
LATE = {"reweight": "effective", "reweight.defer": 0.5}


def spec(method="head-only", **options):
    return RunSpec.make("toy-ir20", "toy", method, 0, **{"epochs": 4, "reweight": "effective", **options})


def weights(name, knob):
    """Plain, of each class; their mean is 1."""
    each = {
        "effective": lambda n: 1 / sum(knob**i for i in range(n)),  # (1 - beta) / (1 - beta^n), a geometric series
        "power": lambda n: 1 / n**knob,
    }[name]
    found = [each(n) for n in COUNTS.tolist()]
    return torch.tensor([value * len(found) / sum(found) for value in found])


def batch(seed=0, images=8):
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(images, 5, generator=generator), torch.randint(5, (images,), generator=generator)


@pytest.mark.parametrize(
    ("name", "knob", "value"),
    [("effective", "beta", 0.9999), ("effective", "beta", 0.9), ("power", "exponent", 1.0), ("power", "exponent", 0.5)],
)
def test_weights_are_the_papers(name, knob, value):
    run = spec(reweight=name, **{f"reweight.{knob}": value})
    torch.testing.assert_close(make_loss(run, COUNTS).weights, weights(name, value), rtol=1e-5, atol=1e-6)


def test_a_class_without_images_has_no_part_in_the_mean():
    found = make_loss(spec(), torch.tensor([50, 0, 5])).weights
    assert found[1] == 0 and (found[0] + found[2]).item() == pytest.approx(2)


@pytest.mark.parametrize("loss", filter(by_image, LOSSES))
def test_the_loss_is_the_weighted_mean_of_images(loss):
    logits, labels = batch()
    logits.requires_grad_(True)
    plain, found = make_loss(spec(reweight="none", loss=loss), COUNTS), make_loss(spec(loss=loss), COUNTS)
    each = [plain(logits[i : i + 1], labels[i : i + 1]) for i in range(len(labels))]
    counted = [weights("effective", 0.9999)[label].item() for label in labels]
    expected = sum(w * value for w, value in zip(counted, each, strict=True)) / sum(counted)
    torch.testing.assert_close(found(logits, labels), expected, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (found(logits, labels), expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_cross_entropy_so_weighted_is_pytorchs_and_the_class_balanced_loss():
    logits, labels = batch()
    found = make_loss(spec(loss="ce"), COUNTS)(logits, labels)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, weight=weights("effective", 0.9999)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, make_loss(spec(loss="cb", reweight="none"), COUNTS)(logits, labels), rtol=1e-4, atol=1e-6)


def test_ldam_drw_is_the_published_one():
    """Margins and weights by hand, LDAM's scale being the head's; the weights count from epoch 160 of 200 on, as in its code."""
    logits, labels = batch()
    run = spec(loss="ldam", scale=30, epochs=200, **{"reweight.defer": 0.8})
    found = make_loss(run, COUNTS)
    margins = [0.5 * (n / min(COUNTS.tolist())) ** -0.25 for n in COUNTS.tolist()]
    moved = logits.clone()
    for row, label in enumerate(labels):
        moved[row, label] -= 30 * margins[label]
    for epoch in (0, 159, 160, 199):
        found.set_epoch(epoch)
        weight = weights("effective", 0.9999) if epoch >= 160 else None
        torch.testing.assert_close(found(logits, labels), F.cross_entropy(moved, labels, weight=weight), rtol=1e-5, atol=1e-5)


def test_a_deferred_run_is_the_plain_one_until_it_begins(toy_results):
    """Bit for bit: the curve of the epochs before; then it departs."""
    curves = [train_once(toy_results, run)[1].curve for run in (spec(reweight="none"), spec(**LATE), spec())]
    plain, late, at_once = ([point["loss"] for point in curve] for curve in curves)
    assert late[:2] == plain[:2] and late[2] != plain[2] and at_once[0] != plain[0]


@pytest.mark.parametrize("loss", ["ce", "la", "ldam"])
@pytest.mark.parametrize("options", [{}, {"accumulate": 3}])
def test_parts_of_a_batch_add_up_to_its_weighted_mean(toy_results, monkeypatch, loss, options):
    """With little memory, or taken in groups: the mean over the batch, not over means of parts."""
    run = spec("adaptformer", loss=loss, epochs=1)
    whole, log = train_once(toy_results, run)
    tight(monkeypatch, 5)
    parts, small = train_once(toy_results, spec("adaptformer", loss=loss, epochs=1, **options))
    assert small.micro_batch <= 5
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=2e-5, rtol=1e-4)
    assert small.curve[0]["loss"] == pytest.approx(log.curve[0]["loss"], rel=1e-5)


@pytest.mark.parametrize("name", GOLDEN["found"])
def test_numbers_of_published_code(name):
    """Values and gradients, with and without deferred weights."""
    loss, _, rest = name.partition("-")
    own = {"vs": {"loss.gamma": 0.2, "tau": 1.2}, "ldam": {"scale": 30}, "las": {"loss.shape": rest}}[loss]
    criterion = make_loss(spec(loss=loss, reweight="effective" if rest == "drw" else "none", **own), COUNTS)
    factor = 30 if loss == "ldam" else 1  # our logits come scaled; theirs are cosines
    logits = (torch.tensor(GOLDEN["logits"]) / factor).requires_grad_(True)
    value = criterion(logits * factor, torch.tensor(GOLDEN["labels"]))
    assert COUNTS.tolist() == GOLDEN["counts"] and value.item() == pytest.approx(GOLDEN["found"][name]["value"], rel=1e-5)
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(gradient, torch.tensor(GOLDEN["found"][name]["gradient"]), rtol=1e-4, atol=2e-6)


class Part(ProcessGroup):
    """One of two processes of which the other has told its sum already."""

    def __init__(self, other: torch.Tensor):
        self.other = other

    def sum(self, value):
        return value + self.other if value.ndim == 0 else value


def test_processes_share_one_weighted_mean(toy_results):
    """Gradients and loss of two parts, each told how much the other counts, add up to those of one process."""
    run, cpu = spec("adaptformer", loss="la"), torch.device("cpu")
    data, classifier, _ = load(run, toy_results, cpu, fresh=True)
    images = torch.randn(9, 3, run.pixels, run.pixels, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(len(data.class_names), (9,), generator=torch.Generator().manual_seed(1))
    criterion = make_loss(run, torch.as_tensor(data.train_counts))
    found = []
    for part, rest in ((slice(0, 9), slice(0, 0)), (slice(0, 4), slice(4, 9)), (slice(4, 9), slice(0, 4))):
        step = Step(classifier, criterion, run, cpu, Part(criterion.image_mass(labels[rest])))
        step._weigh(labels[part], 9)
        sums = step._fits(images[part], labels[part], 9)
        found.append((sums, [value.grad.clone() for value in classifier.trainable().values() if value.grad is not None]))
        step.optimizer.zero_grad(set_to_none=True)
    (sums, gradients), *parts = found
    torch.testing.assert_close(parts[0][0] + parts[1][0], sums)
    for value, *both in zip(gradients, *(part[1] for part in parts), strict=True):
        torch.testing.assert_close(sum(both), value, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["cb", "grw", "lade"])
def test_a_loss_that_is_no_mean_over_images_is_refused_when_it_is_read(name):
    with pytest.raises(
        PelError, match=r"reweight=effective is not possible .*needs a loss that is a mean over images: loss=ce or"
    ):
        spec(loss=name)


def test_a_deferral_without_effect_is_refused():
    with pytest.raises(PelError, match=r"reweight.defer=0.5 .*more epochs than 1"):
        spec(epochs=1, **LATE)
    assert {"none", "effective", "power"} <= {*REWEIGHTS} and math.isclose(spec(**LATE).knob("reweight.defer"), 0.5)
