"""The recipe line says what was chosen: optimizer, schedule and every knob that departs, derived from the entries."""

from pel_core.reporting.recipe_text import recipe_line
from pel_core.spec.run_spec import RunSpec


def line(*options):
    specs = [RunSpec.make("toy-ir20", "toy", "adaptformer", 0, **each) for each in options]
    return recipe_line([{"spec": spec.to_json(), "engine": 1, "metrics": {}, "parameters": {}} for spec in specs])


def test_defaults_are_told_as_ever():
    text = line({})
    assert "; SGD lr 0.01; momentum 0.9; weight decay 0.0005; cosine schedule per epoch, epochs 2; batch 32; " in text
    assert "." not in text.replace("0.", "").rstrip(".")  # no knob


def test_other_entries_and_departing_knobs():
    text = line({"loss": "focal", "loss.gamma": 3, "optimizer": "adamw", "optimizer.betas": [0.8, 0.9], "schedule": "linear"})
    assert "loss focal;" in text and "AdamW lr 0.01; weight decay" in text and "linear schedule, epochs 2" in text
    assert "loss.gamma 3; " in text and "optimizer.betas 0.8,0.9; " in text and "optimizer.eps" not in text


def test_runs_that_differ_are_told_both():
    text = line({"loss": "focal", "loss.gamma": 3}, {"loss": "focal"}, {})
    assert "loss focal / logit adjustment (tau 1)" in text and "loss.gamma 3 / 2; " in text


def test_an_entry_that_is_not_known_here_is_told_by_its_name():
    record = {"spec": RunSpec.make("toy-ir20", "toy", "lora", 0).to_json() | {"loss": "theirs", "loss.power": 0.2}}
    text = recipe_line([record | {"engine": 1, "metrics": {}, "parameters": {}}])
    assert "loss theirs;" in text and "loss.power 0.2" in text
