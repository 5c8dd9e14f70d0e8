"""The recipe line says what was chosen: optimizer, schedule and every knob that departs, derived from the entries."""

from pel_core.common.versions import STAGES
from pel_core.reporting.recipe_text import common_recipe, departing_parts, recipe_line, recipe_note
from pel_core.spec.run_spec import RunSpec


def records(*options, dataset="toy-ir20"):
    specs = [RunSpec.make(dataset, "toy", "adaptformer", 0, **each) for each in options]
    return [{"spec": spec.to_json(), "engine": 1, "metrics": {}, "parameters": {"adapter_dim": 4}} for spec in specs]


def line(*options):
    return recipe_line(records(*options))


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


def test_whose_images_are_evaluated_is_told_of_all_columns():
    assert "; evaluate_on own test images / demo-sketch; " in line({}, {"evaluate_on": "demo-sketch"})
    assert "; evaluate_on demo-sketch; " in line({"evaluate_on": "demo-sketch"})


def test_a_head_of_sentences_starts_from_nothing_else():
    text = line({"head": "language-guided", "prompt": "texts:mine"})
    assert "classifier language-guided (scale 25, sentences of prompt texts:mine); SGD" in text and "initialised" not in text
    both = line({"head": "language-guided", "prompt": "descriptions"}, {})
    assert "(scale 25, sentences of prompt descriptions)" in both and "initialised from class-text features;" in both


def test_an_entry_that_is_not_known_here_is_told_by_its_name():
    record = {"spec": RunSpec.make("toy-ir20", "toy", "lora", 0).to_json() | {"loss": "theirs", "loss.power": 0.2}}
    text = recipe_line([record | {"engine": 1, "metrics": {}, "parameters": {}}])
    assert "loss theirs;" in text and "loss.power 0.2" in text


def departs(*options):
    return departing_parts(records(*options, dataset="cifar100-ir100"))


def test_of_the_defaults_nothing_departs():
    assert (
        departs({}) == departs({}, {}) == []
        and recipe_note(records({}, dataset="cifar100-ir100")) == "Recipe: PEL-Lab's defaults."
    )


def test_what_departs_is_told_with_the_values_beside_it():
    assert departs({"tau": 2}, {}) == ["loss logit adjustment (tau 2) / logit adjustment (tau 1)"]
    assert departs({"loss": "focal", "loss.gamma": 3}) == ["loss focal", "loss.gamma 3"]
    assert departs({"adapter_dim": 4}) == ["adapter dimension 4"]  # the same number as the automatic one, but asked for
    assert departs({"batch_size": 64, "adapter_scale": 0.1}) == ["batch 64", "adapter_scale 0.1"]


def test_options_are_spelt_as_in_studies():
    assert departs({"train_head": False}, {}) == ["train_head false / true"]
    assert departs({"wise_ft": 0.5}, {}) == ["wise_ft 0.5 / 1"]


def test_another_version_of_a_stage_departs():
    record = records({}, dataset="cifar100-ir100")[0] | {"versions": {**STAGES, "train": STAGES["train"] + 1}}
    assert [part.split()[0] for part in departing_parts([record])] == ["versions"]


def test_a_page_says_once_what_is_shared_and_then_what_each_has_besides():
    found = common_recipe({"a": ["x 1", "y 2"], "b": ["x 1", "y 3"], "c": ["y 2", "x 1"]})
    assert found.lines() == ["Recipe of all: x 1.", "Recipe of a, c besides: y 2.", "Recipe of b besides: y 3."]
    assert common_recipe({}).lines() == [] and common_recipe({"a": ["x"], "b": ["y"]}).lines()[0] == "Recipe of a: x."


def test_more_values_than_a_reader_looks_at_are_each_rows_own():
    runs = [{"spec": RunSpec.make("toy", "toy", "ln", 0, lr=lr).to_json(), "parameters": {}} for lr in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert "SGD lr 0.1 / 0.2 / 0.3 / 0.4" in recipe_line(runs[:4]) and "SGD lr by row; " in recipe_line(runs)
