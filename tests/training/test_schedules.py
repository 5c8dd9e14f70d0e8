"""Schedules: their formulas written out, the warm-up before them, and warm-ups that do not fit."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resuming import train_once

from pel_core.common.errors import PelError
from pel_core.spec.choices import CHOICES
from pel_core.spec.run_spec import RunSpec
from pel_core.training.schedules import learning_rate, rate_factor

EPOCHS, STEPS = 6, 5


def make(schedule, epochs=EPOCHS, **options):
    knobs = {name if name in ("lr", "optimizer") else f"schedule.{name}": value for name, value in options.items()}
    return RunSpec.make("toy", "toy", "adaptformer", 0, epochs=epochs, schedule=schedule, **knobs)


def factors(spec, steps=STEPS):
    return [rate_factor(spec, epoch, step, steps) for epoch in range(spec.epochs) for step in range(steps)]


def test_the_default_has_the_bits_of_the_reference():
    for epochs in (1, 2, 3, 7, 10, 100):
        spec = make("cosine", epochs, lr=0.013)
        for epoch in range(epochs):
            expected = 0.5 * 0.013 * (1 + math.cos(math.pi * epoch / epochs))
            assert {learning_rate(spec, epoch, step, STEPS) for step in range(STEPS)} == {expected}


def test_learning_rate_is_a_cosine_per_epoch():
    rates = [learning_rate(make("cosine", 10, lr=0.01), epoch) for epoch in range(10)]
    assert rates[0] == 0.01 and rates[5] == pytest.approx(0.005) and rates[9] == pytest.approx(0.0002447, rel=1e-3)


def test_formulas():
    total = EPOCHS * STEPS
    expected = {
        "cosine": [0.5 * (1 + math.cos(math.pi * (t // STEPS) / EPOCHS)) for t in range(total)],
        "cosine-step": [0.5 * (1 + math.cos(math.pi * t / total)) for t in range(total)],
        "linear": [1 - t / total for t in range(total)],
        "constant": [1.0] * total,
    }
    assert list(expected) == list(CHOICES["schedule"])
    for name, values in expected.items():
        assert factors(make(name)) == pytest.approx(values)
        if name != "constant":
            assert factors(make(name, final=0.2)) == pytest.approx([0.2 + 0.8 * value for value in values])


def test_it_is_the_cosine_of_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * STEPS, eta_min=0.1)
    for found in factors(make("cosine-step", final=0.1)):
        assert found == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", CHOICES["schedule"])
@pytest.mark.parametrize(("unit", "length"), [("epochs", 2), ("steps", 10)])
def test_after_a_warm_up_of_whole_epochs_comes_the_schedule_of_those_that_remain(name, unit, length):
    found = factors(make(name, warmup=length, warmup_unit=unit, warmup_start=0.1))
    assert found[:10] == pytest.approx([0.1 + 0.9 * step / 10 for step in range(10)])
    assert found[10:] == pytest.approx(factors(make(name, EPOCHS - 2)))


@pytest.mark.parametrize("name", CHOICES["schedule"])
@given(
    epochs=st.integers(1, 12), steps=st.integers(1, 9), share=st.floats(0, 1), start=st.floats(0, 0.9), final=st.floats(0, 0.9),
    unit=st.sampled_from(["epochs", "steps"]),
)  # fmt: skip
def test_a_factor_is_between_0_and_1_and_rises_only_in_the_warm_up(name, epochs, steps, share, start, final, unit):
    length = share * epochs * (steps if unit == "steps" else 1)
    more = {} if name == "constant" else {"final": final}
    more |= {"warmup": length, "warmup_unit": unit, "warmup_start": start} if length else {}
    found = factors(make(name, epochs, **more), steps)
    assert all(0 <= value <= 1 + 1e-12 for value in found)
    warm = math.ceil(share * epochs * steps)
    assert found[:warm] == sorted(found[:warm])
    assert all(after <= before + 1e-12 for before, after in zip(found[warm:], found[warm + 1 :], strict=False))


def test_a_warm_up_in_epochs_that_is_longer_than_the_run_is_refused_with_the_spec():
    with pytest.raises(PelError, match=r"schedule.warmup=7 is not possible .* at most the 6 epochs of the run"):
        make("linear", warmup=7)
    make("linear", warmup=6)


def test_a_warm_up_in_steps_that_is_longer_than_the_run_is_refused_at_the_start(toy_results):
    spec = RunSpec.make("toy-ir20", "toy", "head-only", 0, **{"schedule.warmup": 17, "schedule.warmup_unit": "steps"})
    with pytest.raises(PelError, match=r"schedule.warmup=17 steps, but the run has 16 \(2 epochs of 8\)"):
        train_once(toy_results, spec)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"warmup_start": 0.1}, "schedule.warmup_start=0.1 has no effect .* needs schedule.warmup above 0"),
        ({"warmup_unit": "steps"}, "needs schedule.warmup above 0"),
        ({"warmup": -1}, "schedule.warmup=-1 is not possible; it must be at least 0"),
        ({"warmup": 1, "warmup_unit": "hours"}, "must be one of epochs, steps"),
        ({"final": 1}, "at least 0 and below 1"),
    ],
)
def test_knobs_that_make_no_sense(options, words):
    with pytest.raises(PelError, match=words):
        make("cosine", **options)


def test_a_knob_of_another_schedule_names_those_that_have_it():
    with pytest.raises(PelError, match=r"schedule.final=0.1 has no effect .* needs schedule=cosine or .*schedule=linear"):
        make("constant", final=0.1)


def test_the_curve_tells_the_rate_of_an_epochs_last_step(toy_results):
    spec = RunSpec.make("toy-ir20", "toy", "head-only", 0, schedule="linear", **{"optimizer.head_lr": 0.1})
    _, log = train_once(toy_results, spec)
    assert [record["lr"] for record in log.curve] == pytest.approx([0.01 * 9 / 16, 0.01 * 1 / 16])
    assert [record["head_lr"] for record in log.curve] == pytest.approx([0.1 * 9 / 16, 0.1 * 1 / 16])
