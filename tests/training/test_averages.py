"""Averages of the trained parameters over a training: against plain sums over the parameters after each step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resuming import train_once

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.batches import EvalBatches
from pel_core.spec.choices import CHOICES
from pel_core.spec.results import run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.training.averages import make_average
from pel_core.training.checkpoints import CheckpointManager
from pel_core.training.loop import Diverged, predict
from pel_core.training.run_inputs import load

EPOCHS = 4


class Recorder(CheckpointManager):
    """Keeps what trains after each step."""

    def __init__(self):
        super().__init__(None)
        self.seen = []

    def step(self, state, progress):
        self.seen.append({name: value.double() for name, value in state.take.classifier.trainable_state().items()})


def trained(results, **options):
    """What a run ends with, and what it had after each step."""
    spec = RunSpec.make("toy-ir20", "toy", "lora+vpt-deep+ln", 0, epochs=EPOCHS, **options)
    recorder = Recorder()
    state, _ = train_once(results, spec, recorder)
    return state, recorder.seen


def plain_ema(values, decay):
    mean = values[0]
    for value in values[1:]:
        mean = {name: decay * mean[name] + (1 - decay) * value[name] for name in mean}
    return mean


def plain_mean(values):
    return {name: sum(value[name] for value in values) / len(values) for name in values[0]}


@pytest.fixture(scope="module")
def plain(toy_results):
    """The run without an average: all others take the same steps."""
    return trained(toy_results)


CASES = {
    "ema": ({"average": "ema", "average.decay": 0.8}, lambda seen, steps: plain_ema(seen, 0.8)),
    "ema, late": ({"average": "ema", "average.start": 0.5}, lambda seen, steps: plain_ema(seen[len(seen) // 2 :], 0.999)),
    "ema, epochs": (
        {"average": "ema", "average.decay": 0.5, "average.every": "epoch"},
        lambda seen, steps: plain_ema(seen[steps - 1 :: steps], 0.5),
    ),
    "swa": ({"average": "swa", "average.start": 0.25}, lambda seen, steps: plain_mean(seen[2 * steps - 1 :: steps])),
    "swa, steps": (
        {"average": "swa", "average.every": "step", "average.start": 0.5},
        lambda seen, steps: plain_mean(seen[len(seen) // 2 :]),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_plain_average(toy_results, plain, case):
    options, expected = CASES[case]
    state, seen = trained(toy_results, **options)
    assert len(seen) == len(plain[1]) and all(torch.equal(seen[-1][name], plain[1][-1][name]) for name in seen[-1])
    mean = expected(seen, len(seen) // EPOCHS)
    assert state.keys() == mean.keys()
    for name, value in mean.items():
        torch.testing.assert_close(state[name].double(), value, rtol=1e-5, atol=1e-6, msg=name)
    assert any(not torch.equal(state[name], plain[0][name]) for name in state)


@pytest.mark.parametrize("checks", [1, 4, 50])
def test_the_best_mean_on_the_validation_split_is_kept(toy_results, checks):
    """Against means and accuracies written out; the steps of the training are those of no average."""
    shared = {"data.val": 0.3, "lr": 0.5, "tte": "none"}
    plain_end, _ = trained(toy_results, **shared)
    options = {"average": "ema", "average.decay": 0.8, "average.keep": "val", "average.checks": checks}
    spec = RunSpec.make("toy-ir20", "toy", "lora+vpt-deep+ln", 0, epochs=EPOCHS, **shared, **options)
    recorder = Recorder()
    state, log = train_once(toy_results, spec, recorder)
    seen, total = recorder.seen, len(recorder.seen)
    assert all(torch.equal(seen[-1][name], plain_end[name].double()) for name in plain_end)
    data, classifier, _ = load(spec, toy_results, torch.device("cpu"), fresh=True)
    batches = EvalBatches(data.val, "none", 0, spec.pixels, spec.vit.mean, spec.vit.std, torch.device("cpu"))
    labels, means, scores = torch.as_tensor(data.val.labels), {}, {}
    for done in sorted({round(total * turn / checks) for turn in range(1, checks + 1)} - {0}):
        means[done] = {name: value.float() for name, value in plain_ema(seen[:done], 0.8).items()}
        classifier.load_trainable(means[done])
        right = predict(classifier, batches).argmax(1) == labels
        scores[done] = 100 * float(torch.stack([right[labels == label].double().mean() for label in labels.unique()]).mean())
    assert log.average_scores == pytest.approx(scores)
    best = max(scores, key=scores.get)
    for name, value in means[best].items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_a_training_that_keeps_the_best_mean_says_what_they_scored(toy_results):
    options = {"average": "ema", "average.keep": "val", "average.checks": 2, "data.val": 0.3}
    spec = RunSpec.make("toy-ir20", "toy", "ln", 0, epochs=2, **options)
    assert main(["train", spec.slug, "--results", str(toy_results), "--no-tensorboard"]) == 0
    told = read_json(run_folder(toy_results, spec.slug) / "train.json")["training"]["average_scores"]
    assert len(told) == 2 and all(0 <= score <= 100 for score in told.values())
    other = RunSpec.make("toy-ir20", "toy", "ln", 0, epochs=2)
    assert main(["train", other.slug, "--results", str(toy_results), "--no-tensorboard"]) == 0
    assert "average_scores" not in read_json(run_folder(toy_results, other.slug) / "train.json")["training"]
    with pytest.raises(PelError, match=r"has no split 'val'; data\.val=0\.1 holds one out"):
        train_once(toy_results, RunSpec.make("toy-ir20", "toy", "ln", 0, average="ema", **{"average.keep": "val"}))


def test_a_constant_rate_and_a_frozen_head_compose(toy_results):
    options = {"schedule": "constant", "train_head": False, "average": "swa", "average.start": 0.25}
    state, seen = trained(toy_results, **options)
    torch.testing.assert_close(state["head.weight"].double(), seen[0]["head.weight"], rtol=0, atol=0)
    mean = plain_mean(seen[2 * len(seen) // EPOCHS - 1 :: len(seen) // EPOCHS])
    name = next(name for name in state if "lora" in name)
    torch.testing.assert_close(state[name].double(), mean[name], rtol=1e-5, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.floats(0, 0.99), st.sampled_from(["step", "epoch"]))
def test_which_steps_are_averaged(epochs, steps, start, every):
    """A mean of SWA over numbers 1..T is the mean of the numbers whose turn it was; fewer than two are refused."""
    options = {"average": "swa", "average.start": start, "average.every": every}
    period, total = (steps if every == "epoch" else 1), epochs * steps
    turns = [done for done in range(period, total + 1, period) if done // period > start * (total // period)]
    value = torch.zeros(1)
    try:
        average = make_average(RunSpec.make("toy", "toy", "ln", 0, epochs=epochs, **options), {"x": value}, steps)
    except PelError:
        assert len(turns) < 2
        return
    for done in range(1, total + 1):
        value.fill_(done)
        average.step(done)
    average.write()
    assert average.count == len(turns) >= 2
    assert value.item() == pytest.approx(sum(turns) / len(turns), rel=1e-5)


def test_it_holds_what_trains_once_more_and_nothing_while_it_has_not_begun():
    spec = RunSpec.make("toy", "toy", "ln", 0, epochs=EPOCHS, average="ema", **{"average.start": 0.5})
    average = make_average(spec, {"x": torch.ones(3), "y": torch.ones(2, 2)}, 5)
    assert not average.tensors()
    average.step(10)
    assert not average.tensors()
    average.step(11)
    assert {name: value.shape for name, value in average.tensors().items()} == {"average.x": (3,), "average.y": (2, 2)}
    assert make_average(RunSpec.make("toy", "toy", "ln", 0), {}, 5) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"average": "swa", "epochs": 2},
            "below 0.5, so that the ends of at least two of 2 epochs are averaged, or beside",
        ),
        ({"average": "swa", "epochs": 1}, "beside average.every=step: no two"),
        ({"average": "ema", "epochs": 0}, "average=ema is not possible .* it needs epochs above 0: in 0 epochs nothing trains"),
        ({"average": "swa", "epochs": 0}, "average=swa is not possible .* it needs epochs above 0"),
        ({"average.decay": 0.9}, "it needs average=ema"),
        ({"average": "swa", "average.keep": "val"}, "it needs average=ema"),
        ({"average": "ema", "average.checks": 3}, "average.checks=3 has no effect .* it needs average.keep=val"),
        ({"average": "ema", "average.decay": 1}, "at least 0 and below 1"),
        ({"average": "swe"}, "swa"),
    ],
)
def test_what_is_no_average_is_refused(options, words):
    with pytest.raises(PelError, match=words):
        RunSpec.make("toy", "toy", "ln", 0, **options)


def test_zero_shot_has_none():
    with pytest.raises(PelError, match="it needs a method that trains"):
        RunSpec.make("toy", "toy", "zero-shot", 0, average="ema")


def test_fewer_than_two_steps_are_refused_when_their_number_is_known():
    spec = RunSpec.make("toy", "toy", "ln", 0, epochs=1, average="ema", **{"average.start": 0.9})
    with pytest.raises(PelError, match="starts after 4 of 5 steps: fewer than two"):
        make_average(spec, {}, 5)


def test_an_average_that_is_not_finite_is_a_training_that_diverged(toy_results, monkeypatch):
    monkeypatch.setattr(
        "pel_core.training.averages.Average.write", lambda self: self.parameters["head.weight"].data.fill_(torch.nan)
    )
    with pytest.raises(Diverged, match=r"head\.weight is not finite"):
        trained(toy_results, average="ema")


def test_every_entry_is_here():
    assert set(CHOICES["average"]) == {"none", *(options["average"] for options, _ in CASES.values())}
