"""SAM, ImbSAM and clipping: three steps against plain implementations, in parts and in fp16, and what is refused or told."""

import copy
from pathlib import Path

import pytest
import torch
from test_trouble import tight
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.choices import SHARPNESS
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.cost import training_gflop
from pel_core.training.losses import make_loss
from pel_core.training.run_inputs import load
from pel_core.training.sharpness import away, make_sharpness
from pel_core.training.step import Step

GOLDEN = read_json(Path(__file__).parents[1] / "golden" / "sam.json")
CPU, RATE, MOMENTUM, IMAGES = torch.device("cpu"), 0.05, 0.9, 12
TAIL = {"sharpness": "imbsam", "sharpness.below": 20}


def spec(**options):
    given = {"loss": "ce", "lr": RATE, "momentum": MOMENTUM, "weight_decay": 0, "precision": "fp32", "batch_size": IMAGES}
    return RunSpec.make("toy-ir20", "toy", "adaptformer", 0, **given | options)


def start(results, run):
    """The untrained classifier, training counts, and a step on it."""
    data, classifier, _ = load(run, results, CPU, fresh=True)
    counts = torch.as_tensor(data.train_counts)
    step = Step(classifier, make_loss(run, counts), run, CPU, ProcessGroup(), sharpness=make_sharpness(run, counts))
    return classifier, counts, step


def batches(run, classes=6, chosen=None):
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        labels = torch.randint(classes, (IMAGES,), generator=generator) if chosen is None else torch.tensor(chosen)
        yield torch.randn(IMAGES, 3, run.pixels, run.pixels, generator=generator), labels


def trained(results, run, scale=None, **about):
    """What trains after three steps, and the sums of each. ``scale``: of fp16's gradients."""
    classifier, _, step = start(results, run)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else step.scaler
    sums = [step(images, labels, IMAGES) for images, labels in batches(run, **about)]
    return {name: value.detach().clone() for name, value in classifier.trainable().items()}, sums


def gradient(classifier, criterion, images, labels):
    """Of the mean over these images."""
    values = list(classifier.trainable().values())
    found = torch.autograd.grad(criterion(classifier(images), labels), values, allow_unused=True)
    return [torch.zeros_like(value) if grad is None else grad for value, grad in zip(values, found, strict=True)]


def moved(classifier, along, rho):
    """A copy of the classifier at w + rho g / |g|."""
    other = copy.deepcopy(classifier)
    norm = sum(float((grad.double() ** 2).sum()) for grad in along) ** 0.5
    with torch.no_grad():
        for value, grad in zip(other.trainable().values(), along, strict=True):
            value += rho / norm * grad
    return other


def sam(classifier, criterion, images, labels, counts, rho=0.05):
    there = moved(classifier, gradient(classifier, criterion, images, labels), rho)
    return gradient(there, criterion, images, labels)


def asam(classifier, criterion, images, labels, counts, rho=0.5, eta=0.01):
    grads, other = gradient(classifier, criterion, images, labels), copy.deepcopy(classifier)
    values = list(other.trainable().values())
    sizes = [value.detach().abs() + eta if value.ndim > 1 else torch.ones_like(value) for value in values]
    norm = sum(float(((size * grad).double() ** 2).sum()) for size, grad in zip(sizes, grads, strict=True)) ** 0.5
    with torch.no_grad():
        for value, size, grad in zip(values, sizes, grads, strict=True):
            value += rho * size * size * grad / norm
    return gradient(other, criterion, images, labels)


def imbsam(classifier, criterion, images, labels, counts, rho=0.05, weight=1.0):
    tail = counts[labels] < 20
    total = [torch.zeros_like(value) for value in classifier.trainable().values()]
    if (~tail).any():
        head = gradient(classifier, criterion, images[~tail], labels[~tail])
        total = [value + grad * float((~tail).sum()) / len(labels) for value, grad in zip(total, head, strict=True)]
    if tail.any():
        there = moved(classifier, gradient(classifier, criterion, images[tail], labels[tail]), rho)
        grads = gradient(there, criterion, images[tail], labels[tail])
        share = weight * float(tail.sum()) / len(labels)
        total = [value + grad * share for value, grad in zip(total, grads, strict=True)]
    return total


def clipped(classifier, criterion, images, labels, counts, longest=0.05):
    grads = gradient(classifier, criterion, images, labels)
    norm = sum(float((grad.double() ** 2).sum()) for grad in grads) ** 0.5
    return [grad * min(1.0, longest / norm) for grad in grads]


PLAIN = [
    ({"sharpness": "sam"}, sam, {}),
    ({"sharpness": "sam", "sharpness.rho": 0.5}, sam, {"rho": 0.5}),
    ({"sharpness": "asam"}, asam, {}),
    ({"sharpness": "asam", "sharpness.rho": 1.0, "sharpness.eta": 0.1}, asam, {"rho": 1.0, "eta": 0.1}),
    (TAIL, imbsam, {}),
    (TAIL | {"sharpness.tail_weight": 2, "sharpness.rho": 0.2}, imbsam, {"rho": 0.2, "weight": 2.0}),
    ({"optimizer.clip_norm": 0.05}, clipped, {}),
]


@pytest.mark.parametrize(("options", "plain", "knobs"), PLAIN)
def test_three_steps_are_those_of_a_plain_implementation(toy_results, options, plain, knobs):
    run = spec(**options)
    found, sums = trained(toy_results, run)
    classifier, counts, step = start(toy_results, run)
    assert (counts < 20).any() and (counts >= 20).any()
    velocity = [torch.zeros_like(value) for value in classifier.trainable().values()]
    for (images, labels), total in zip(batches(run), sums, strict=True):
        loss = step.criterion(classifier(images), labels)
        assert total[0].item() == pytest.approx(loss.item() * IMAGES, rel=1e-5)  # at the parameters themselves
        grads = plain(classifier, step.criterion, images, labels, counts, **knobs)
        velocity = [MOMENTUM * v + grad for v, grad in zip(velocity, grads, strict=True)]
        with torch.no_grad():
            for value, v in zip(classifier.trainable().values(), velocity, strict=True):
                value -= RATE * v
    for name, value in classifier.trainable().items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6)


class LinearStep:
    """What an entry asks of a step, on a linear layer."""

    def __init__(self):
        self.weight = torch.nn.Parameter(torch.tensor(GOLDEN["start"]))
        self.parameters, self.group = [self.weight], ProcessGroup()

    def accumulate(self, images, labels, count):
        loss = F.cross_entropy(images @ self.weight.T, labels, reduction="sum")
        (loss / count).backward()
        return torch.stack([loss.detach().double(), torch.zeros((), dtype=torch.float64)])


@pytest.mark.parametrize(("name", "knobs"), [("sam", {}), ("asam", {}), ("imbsam", {"tail_weight": 2.0})])
def test_numbers_of_published_code(name, knobs):
    step, sharpness = LinearStep(), SHARPNESS[name](torch.tensor(GOLDEN["counts"]), **knobs)
    optimizer = torch.optim.SGD(step.parameters, lr=0.1, momentum=0.9)
    for images, labels in zip(torch.tensor(GOLDEN["images"]), torch.tensor(GOLDEN["labels"]), strict=True):
        sharpness.gradients(step, images, labels, len(labels))
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(step.weight.detach(), torch.tensor(GOLDEN["found"][name]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"sharpness": "sam"}, TAIL, {"optimizer.clip_norm": 0.05}, TAIL | {"reweight": "power"}])
@pytest.mark.parametrize("more", [{}, {"accumulate": 3}])
def test_parts_of_a_batch_give_the_same(toy_results, monkeypatch, options, more):
    """Whatever fits at once, and in groups: neighbourhood and norm are the whole batch's."""
    whole, sums = trained(toy_results, spec(**options))
    tight(monkeypatch, 3)
    parts, small = trained(toy_results, spec(**options | more))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=5e-6)
    torch.testing.assert_close(torch.stack(small), torch.stack(sums), rtol=1e-5, atol=1e-5)


def test_sam_goes_with_a_loss_that_is_no_mean(toy_results, monkeypatch):
    whole, _ = trained(toy_results, spec(sharpness="sam", loss="lade"))
    tight(monkeypatch, 5)
    parts, _ = trained(toy_results, spec(sharpness="sam", loss="lade"))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=5e-6)


def test_a_batch_of_one_side_is_a_plain_step_or_sams(toy_results):
    _, counts, _ = start(toy_results, spec())
    head, tail = int(counts.argmax()), int(counts.argmin())
    for label, same in ((head, {}), (tail, {"sharpness": "sam"})):
        found, expected = (trained(toy_results, spec(**options), chosen=[label] * IMAGES)[0] for options in (TAIL, same))
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_norm_that_is_not_reached_changes_nothing(toy_results):
    found, plain = (trained(toy_results, spec(**options))[0] for options in ({"optimizer.clip_norm": 1e6}, {}))
    assert all(torch.equal(found[name], value) for name, value in plain.items())


@pytest.mark.parametrize("failed", [False, True])
def test_parameters_come_back_bit_for_bit(failed):
    values = [torch.randn(5, 3), torch.randn(4), torch.randn(2)]
    before = [value.clone() for value in values]
    values[0].grad, values[1].grad = torch.randn(5, 3), torch.randn(4)
    try:
        with away(values, 0.1):
            length = sum(float(((value - old) ** 2).sum()) for value, old in zip(values, before, strict=True)) ** 0.5
            assert length == pytest.approx(0.1, rel=1e-5) and all(value.grad is None for value in values)
            if failed:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert all(torch.equal(value, old) for value, old in zip(values, before, strict=True))


@pytest.mark.parametrize("options", [{"sharpness": "sam"}, TAIL, {"optimizer.clip_norm": 0.05}])
def test_fp16_is_scaled_before_it_is_measured(toy_results, options):
    """The scale changes nothing; where it makes gradients overflow the step is left out and the scale halved."""
    run = spec(precision="fp16", **options)
    exact, _ = trained(toy_results, spec(**options))
    small, large = (trained(toy_results, run, scale)[0] for scale in (2.0**4, 2.0**10))
    for name, value in exact.items():
        torch.testing.assert_close(small[name], value, rtol=0.02, atol=1e-3)
        torch.testing.assert_close(large[name], value, rtol=0.02, atol=1e-3)
    classifier, _, step = start(toy_results, run)
    before = {name: value.detach().clone() for name, value in classifier.trainable().items()}
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    images, labels = next(batches(run))
    step(images, labels, IMAGES)
    assert step.scaler.get_scale() == 2.0**59
    assert all(torch.equal(value, before[name]) for name, value in classifier.trainable().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (TAIL | {"loss": "lade"}, "sharpness=imbsam is not possible .*a loss that is a mean over images.*loss=ce"),
        (TAIL | {"accumulate": 2, "accumulation": "reference"}, "accumulation=exact"),
        ({"sharpness": "sam", "sharpness.below": 5}, "it needs sharpness=imbsam"),
        ({"sharpness": "sam", "sharpness.rho": 0}, "above 0"),
        ({"optimizer.clip_norm": 0}, "none or above 0"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_read(options, words):
    with pytest.raises(PelError, match=words):
        spec(**options)


def test_a_training_without_tail_is_refused_before_its_first_step(toy_results):
    with pytest.raises(PelError, match=r"no class has fewer than sharpness.below=2 training images .*larger sharpness.below"):
        start(toy_results, spec(**TAIL | {"sharpness.below": 2}))


@pytest.mark.parametrize("name", SHARPNESS)
def test_a_run_costs_its_passes(name):
    passes = SHARPNESS[name].passes
    assert training_gflop(spec(sharpness=name)) == passes * training_gflop(spec()) and passes == (1 if name == "none" else 2)
