"""`tune`: which candidates there are, which is chosen (recomputed with plain pandas), what waits for it, what slips are told."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_results import fake_number, fake_record, write_results
from hypothesis import given
from hypothesis import strategies as st

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.reporting.claims import claim_files
from pel_core.reporting.tables import table_files
from pel_core.spec.choices import METRICS
from pel_core.spec.outcomes import failed_file
from pel_core.spec.results import metrics_file, train_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.spec.seals import require_unsealed, set_seals
from pel_core.studies.plan import plan
from pel_core.studies.registered import register_claims, registered
from pel_core.studies.selection import write_selection
from pel_core.studies.selection_rules import SELECTION_RULES, Scored
from pel_core.studies.status import status
from pel_core.studies.study import load
from pel_core.studies.tuning import POINTS
from pel_core.studies.tuning_words import goes_on, how, tuning_lines

TUNE = {"grid": {"lr": [0.001, 0.01, 0.1], "weight_decay": [0, 5e-4]}, "seeds": [10, 11]}
STUDY = {
    "title": "Tuned",
    "roles": {"a": "A", "b": "B"},
    "tune": TUNE,
    "tables": {
        "one": {
            "title": "One",
            "where": {"dataset": "a"},
            "rows": [{"label": "PEL", "method": "adaptformer"}, {"label": "SSF", "method": "ssf-ln"}],
            "columns": [{"label": "All", "value": "overall"}, {"label": "One crop", "value": "overall", "tte": "none"}],
        }
    },
}
CONFIG = {
    "title": "Toy",
    "backbone": "toy",
    "seeds": [0, 1],
    "data": {"a": "imagenet-lt", "b": "places-lt"},
    "recipe": {"precision": "fp32"},
}
FAILED = {"reason": "the loss became nan", "step": 3, "epoch": 0, "loss": None, "learning_rate": 0.1}


@pytest.fixture
def make(tmp_path):
    """Load the study after changes of its keys, on a folder of its own."""

    def study(config=None, results="results", name="study", **keys):
        for file, content in ((name, {**STUDY, **keys}), ("config", {**CONFIG, **(config or {})})):
            (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load(tmp_path / f"{name}.yaml", tmp_path / "config.yaml", results=tmp_path / results)

    return study


def tune(**keys):
    return {**TUNE, **keys}


def write_candidates(study, edit=lambda record: record):
    for slug, spec in study.candidates.items():
        write_json(metrics_file(study.results, slug), edit(fake_record(spec)))


def diverge(study, slug):
    metrics_file(study.results, slug).unlink(missing_ok=True)
    spec = study.spec(slug).train
    record = {key: value for key, value in fake_record(spec).items() if key not in ("metrics", "training", "evaluation")}
    write_json(failed_file(study.results, slug), record | {"failed": FAILED})


def test_candidates_are_the_row_times_the_grid_times_the_seeds(make):
    study = make()
    assert len(study.tunings) == 2  # both columns share a training
    assert len(study.candidates) == 2 * 6 * 2
    assert {spec.seed for spec in study.candidates.values()} == {10, 11}
    assert {spec.split for spec in study.candidates.values()} == {"val"}
    assert {spec.tte for spec in study.candidates.values()} == {"fivecrop"}  # whatever ways of evaluating the table shows
    assert {(spec.lr, spec.weight_decay) for spec in study.candidates.values()} == {
        (lr, decay) for lr in (0.001, 0.01, 0.1) for decay in (0.0, 5e-4)
    }
    assert {*study.specs} == {*study.candidates}  # no run of the rows is known yet
    assert study.pending == (*study.tunings,)


def recomputed(study, tuning):
    """The choice by plain pandas: stored scores in, settings out."""
    rows = []
    for place, candidate in enumerate(tuning.candidates):
        for spec in candidate.specs:
            record = read_json(metrics_file(study.results, spec.slug))
            score = record["metrics"][tuning.declaration["by"]]
            values = {"place": place, "seed": spec.seed, "score": score, "learnt": record["parameters"]["learnable_with_head"]}
            default = {"lr": 0.01, "weight_decay": 5e-4, "epochs": 10, "tau": 1.0}
            moved = {name: value for name, value in candidate.settings.items() if float(value) != default[name]}
            ratios = [abs(np.log(value / default[name])) if value > 0 else 1.0 for name, value in moved.items()]
            rows.append({**values, "moved": len(moved), "far": sum(ratios), "epochs": spec.epochs})
    table = pd.DataFrame(rows)
    sign = -1 if METRICS[tuning.declaration["by"]].better == "lower" else 1
    grouped = table.groupby("place")
    frame = grouped.agg(mean=("score", "mean"), sd=("score", "std"), n=("score", "size"), moved=("moved", "first"),
                        far=("far", "first"), epochs=("epochs", "first"), learnt=("learnt", "first"))  # fmt: skip
    frame["mean"] *= sign
    frame = frame.reset_index()
    best = frame[frame["mean"] >= frame["mean"].max() - 1e-9].sort_values(["moved", "far", "place"]).iloc[0]
    if tuning.declaration["select"] == "one_se":
        near = frame[frame["mean"] >= best["mean"] - best["sd"] / np.sqrt(best["n"]) - 1e-9]
        best = near.sort_values(["epochs", "learnt", "moved", "far", "place"]).iloc[0]
    return tuning.candidates[int(best["place"])].settings


@pytest.mark.parametrize(
    "declared",
    [
        tune(),
        tune(by="overall", seeds=[5]),
        tune(by="nll"),
        tune(by="error_rate", select="one_se", seeds=[10, 11, 12]),
        tune(by="tail", select="one_se"),
        tune(grid={"epochs": [2, 5, 10], "tau": [0.5, 1.0, 2.0]}, select="one_se", by="head"),
        tune(grid={"lr": {"low": 0.001, "high": 0.3}, "weight_decay": [0, 1e-4, 5e-4]}, kind="random", draws=7),
        tune(epochs=3),
    ],
)
def test_every_selection_agrees_with_plain_pandas(make, declared):
    study = make(tune=declared)
    # Values that are coarse, so that candidates tie.
    noise = {slug: round(fake_number(slug, "val") * 4) for slug in study.candidates}
    by = declared.get("by", "mean_class")
    write_candidates(study, lambda record: {**record, "metrics": {**record["metrics"], by: 50.0 + noise[record["slug"]]}})
    study.decide()
    assert study.pending == ()
    for name, tuning in study.tunings.items():
        assert study.selections[name].chosen.settings == recomputed(study, tuning)


def test_the_rows_are_made_with_what_was_chosen_on_their_own_seeds(make):
    study = make()
    write_candidates(study)
    study.decide()
    for cell in study.artefact("one").cells:
        chosen = study.selections[cell.tuned.tuning.name].chosen.settings
        assert [spec.seed for spec in cell.specs] == [0, 1]
        assert {spec.split for spec in cell.specs} == {"test"}
        assert {(spec.lr, spec.weight_decay) for spec in cell.specs} == {(chosen["lr"], chosen["weight_decay"])}
    assert {cell.specs[0].tte for cell in study.artefact("one").cells} == {"fivecrop", "none"}
    assert not {spec.train.slug for cell in study.artefact("one").cells for spec in cell.specs} & {
        spec.train.slug for spec in study.candidates.values()
    }


def test_another_score_chooses_anew_and_a_missing_one_waits(make):
    study = make()
    write_candidates(study)
    study.decide()
    name, tuning = next(iter(study.tunings.items()))
    other = next(candidate for candidate in tuning.candidates if candidate != study.selections[name].chosen)
    for spec in other.specs:
        record = fake_record(spec)
        write_json(metrics_file(study.results, spec.slug), {**record, "metrics": {**record["metrics"], "mean_class": 99.0}})
    study.decide(anew=True)
    assert study.selections[name].chosen == other
    metrics_file(study.results, other.specs[0].slug).unlink()
    study.decide(anew=True)
    assert study.pending == (name,)
    assert study.artefact("one").pending == (name,)
    with pytest.raises(PelError, match="one waits for settings: 1 of 12 candidates have no result yet"):
        table_files(study, "one")


def test_rows_and_studies_share_candidates(make):
    table = STUDY["tables"]["one"]
    shared = {**table, "rows": [{"label": "the same", "method": "adaptformer"}], "columns": [{"label": "Tail", "value": "tail"}]}
    study = make(tables={"one": table, "two": {**shared, "seeds": [3, 4, 5]}})
    assert {*study.tunings} == {*make().tunings}
    again = make(name="another", tables={"two": shared}, title="Another")
    assert {*again.tunings} < {*study.tunings} and {*again.candidates} < {*study.candidates}


def test_a_curve_of_the_candidates_costs_no_run(make):
    points = [{"sweep": "lr", "values": [0.001, 0.01, 0.1]}]
    where = {"dataset": "a", "split": "val", "method": "adaptformer", "value": "mean_class"}
    curve = {"kind": "curve", "title": "Curve", "x": "Rate", "where": where, "seeds": [10, 11], "tune": False, "points": points}
    assert {*make(figures={"curve": curve}, seal="test").planned} == {*make().planned}


def test_a_design_of_tuned_cells_waits_and_is_analysed(make):
    methods = [{"label": "adapter", "method": "adaptformer"}, {"label": "ssf", "method": "ssf-ln"}]
    factors = {"method": methods, "data": [{"label": name, "dataset": name} for name in "ab"]}
    design = {"title": "Design", "factors": factors, "values": ["overall"]}
    study = make(factorial={"grid": design}, tables={}, config={"seeds": [0, 1, 2]})
    assert len(study.tunings) == 4 and study.artefact("grid-anova").pending
    assert "up to 12 runs to follow" in plan(study)
    write_candidates(study)
    study.decide()
    write_results(study.results, {slug: spec for slug, spec in study.specs.items() if slug not in study.candidates})
    text = table_files(study, "grid")["md"]
    assert "Chosen on the split val" in text and "Tuning took 48 runs" in text


def test_where_rows_and_study_say_it_the_nearest_wins(make):
    own = tune(grid={"lr": [0.03, 0.3]})
    rows = [
        {"label": "study's", "method": "adaptformer"},
        {"label": "own", "method": "ssf-ln", "tune": own},
        {"label": "none", "method": "zero-shot", "tune": False},
    ]
    cells = make(tables={"one": {**STUDY["tables"]["one"], "rows": rows}}).artefact("one").cells[::2]
    assert [cell.tuned and len(cell.tuned.tuning.candidates) for cell in cells] == [6, 2, None]
    assert len(cells[2].specs) == 2
    cells = make(tables={"one": {**STUDY["tables"]["one"], "tune": own}}).artefact("one").cells
    assert {len(cell.tuned.tuning.candidates) for cell in cells} == {2}
    assert make(tables={"one": {**STUDY["tables"]["one"], "tune": False}}).tunings == {}


def test_a_candidate_that_diverges_has_a_reason_and_is_no_choice(make):
    study = make(config={"strict": True})
    write_candidates(study)
    study.decide()
    name, tuning = next(iter(study.tunings.items()))
    gone = study.selections[name].chosen
    diverge(study, gone.specs[0].slug)
    study.decide(anew=True)
    assert study.pending == ()
    found = study.selections[name]
    assert found.chosen != gone
    assert next(each for each in found.tried if each.candidate == gone).reason.startswith("diverged: the loss became nan")
    assert "the next call goes on" in goes_on(study)
    write_selection(study, name)
    assert goes_on(study) == ""
    for spec in tuning.specs:
        diverge(study, spec)
    study.decide(anew=True)
    assert study.artefact("one").pending == ()
    assert study.selections[name].chosen == tuning.nearest
    assert "no candidate has a score" in "\n".join(tuning_lines(study))


def test_a_candidate_that_diverges_in_evaluation_alone_has_a_reason_too(make):
    study = make()
    write_candidates(study)
    study.decide()
    name, _ = next(iter(study.tunings.items()))
    gone = study.selections[name].chosen
    spec = gone.specs[0]
    metrics_file(study.results, spec.slug).unlink()
    record = {key: value for key, value in fake_record(spec).items() if key not in ("metrics", "evaluation")}
    failed = {"stage": "predict", "reason": "3 of 800 images have NaN or infinite logits, image 5 first"}
    kept = failed_file(study.results, spec.slug, "predict")
    write_json(kept, record | {"failed": failed, "delta_sha256": "d" * 64})
    study.decide(anew=True)
    assert study.pending == (name,)  # its training is not there: nothing says that it is the same checkpoint
    write_json(train_folder(study.results, spec.slug) / "train.json", {"delta_sha256": "d" * 64})
    study.decide(anew=True)
    assert study.pending == () and study.selections[name].chosen != gone
    found = next(each for each in study.selections[name].tried if each.candidate == gone)
    assert found.reason == "diverged: in evaluation, 3 of 800 images have NaN or infinite logits, image 5 first"
    assert study.result_file(spec.slug) == str(kept) and str(kept) in study.tried(name)
    assert str(metrics_file(study.results, spec.slug)) not in study.targets()
    write_json(train_folder(study.results, spec.slug) / "train.json", {"delta_sha256": "e" * 64})
    study.decide(anew=True)
    assert study.pending == (name,)  # trained anew since


def test_a_number_in_quotes_lies_at_an_end_of_the_grid(make):
    study = make(tune=tune(grid={"lr": ["0.001", 0.01, "1e-1"]}))
    write_candidates(study, lambda record: {**record, "metrics": {**record["metrics"], "mean_class": record["spec"]["lr"]}})
    study.decide()
    assert "PEL: lr=0.1 (highest of its grid)" in study.artefact("one").declaration["note"]


def test_hours_of_a_training_that_candidates_share_count_once(make):
    table = {**STUDY["tables"]["one"], "columns": [{"label": "All", "value": "overall"}]}
    study = make(tune=tune(grid={"tte": ["none", "fivecrop"]}), tables={"one": table})
    write_candidates(study)
    study.decide()
    found = next(iter(study.selections.values()))
    assert found.runs == 4 and found.hours == pytest.approx((2 * 5 + 4 * 2) / 3600)
    assert f"Tuning took 8 runs, {2 * 18 / 3600:.2g} hours" in study.artefact("one").declaration["note"]


def test_a_design_is_tuned_as_a_table_is_and_its_own_where_is_nearer(make):
    methods = [{"label": "adapter", "method": "adaptformer"}, {"label": "ssf", "method": "ssf-ln"}]
    factors = {"method": methods, "data": [{"label": name, "dataset": name} for name in "ab"]}
    design, own = {"title": "Design", "factors": factors}, tune(grid={"lr": [0.03, 0.3]})
    sizes = [
        {len(tuning.candidates) for tuning in make(factorial={"grid": {**design, **keys}}, tables={}).tunings.values()}
        for keys in ({}, {"tune": own}, {"tune": False, "where": {"tune": own}}, {"tune": own, "where": {"tune": False}})
    ]
    assert sizes == [{6}, {2}, {2}, set()]


def test_ties_go_to_the_smaller_change(make):
    study = make()
    write_candidates(study, lambda record: {**record, "metrics": {**record["metrics"], "mean_class": 50.0}})
    study.decide()
    assert {tuple(found.chosen.settings.values()) for found in study.selections.values()} == {(0.01, 5e-4)}
    far = make(tune=tune(grid={"lr": [0.1, 0.002, 0.03]}))
    assert next(iter(far.tunings.values())).nearest.settings == {"lr": 0.03}  # a factor of 3, not of 5 or 10


SCORES = st.tuples(st.floats(0, 100), st.floats(0, 5), st.integers(1, 3))


@given(st.lists(SCORES, min_size=1, max_size=8), st.sampled_from([*SELECTION_RULES]))
def test_rules_choose_one_of_those_near_the_best(values, rule):
    scored = [Scored(mean, error, (float(cost), 1), (i,)) for i, (mean, error, cost) in enumerate(values)]
    chosen, best = SELECTION_RULES[rule]().choose(scored), max(scored, key=lambda each: each.mean)
    if rule == "best_mean":
        assert chosen.mean >= best.mean - 1e-9
    else:
        assert chosen.mean >= best.mean - max(each.error for each in scored if each.mean >= best.mean - 1e-9) - 1e-8
        assert chosen.cost <= best.cost


@given(st.integers(1, 12), st.integers(0, 5))
def test_random_settings_are_different_reproducible_and_within_their_ranges(draws, seed):
    grid = {"lr": {"low": 1e-4, "high": 0.1}, "adapter_dim": {"low": 2, "high": 64}, "loss": ["la", "ce"]}
    asked = {"grid": grid, "draws": draws, "draw_seed": seed}
    points = POINTS["random"](asked)
    assert points == POINTS["random"](asked)
    assert len({json.dumps(point) for point in points}) == draws
    assert all(1e-4 <= point["lr"] <= 0.1 and 2 <= point["adapter_dim"] <= 64 for point in points)
    assert all(isinstance(point["adapter_dim"], int) for point in points)
    assert POINTS["random"]({**asked, "draws": draws + 1})[:draws] == points  # more draws move none
    alone = POINTS["random"]({**asked, "grid": {"lr": grid["lr"]}})
    assert [point["lr"] for point in alone] == [point["lr"] for point in points] or draws > 3  # nor does another field


@pytest.mark.parametrize("values", [{"low": 1e-4, "high": 0.1}, [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]])
def test_the_ends_of_what_was_drawn_are_told(make, values):
    study = make(tune=tune(kind="random", draws=4, grid={"lr": values}))
    for tuning in study.tunings.values():
        rates = {candidate.settings["lr"]: tuning.edges(candidate) for candidate in tuning.candidates}
        assert [rates[rate] for rate in sorted(rates)] == [{"lr": "lowest"}, {}, {}, {"lr": "highest"}]
    write_candidates(study, lambda record: {**record, "metrics": {**record["metrics"], "mean_class": record["spec"]["lr"]}})
    study.decide()
    assert f"PEL: lr={max(rates):g} (highest of those drawn)" in study.artefact("one").declaration["note"]


def test_runs_to_follow_are_more_than_those_of_the_nearest_settings(make):
    """Beside a row of the default settings, which are a candidate, the tuned row may still be runs of its own."""
    table = STUDY["tables"]["one"]
    rows = [{"label": "tuned", "method": "adaptformer"}, {"label": "default", "method": "adaptformer", "tune": False}]
    study = make(tables={"one": {**table, "rows": rows}}, max_runs=20)
    assert "up to 4 runs to follow" in plan(study)
    write_candidates(study, lambda record: {**record, "metrics": {**record["metrics"], "mean_class": record["spec"]["lr"]}})
    study.decide()
    assert len(study.specs) == 12 + 4 + 4
    with pytest.raises(PelError, match="max_runs: 19, but the study comes to 20 runs, 12 of them candidates"):
        make(tables={"one": {**table, "rows": rows}}, max_runs=19)


def changed(**keys):
    return {"tune": tune(**keys)}


ROW = {"label": "PEL", "method": "adaptformer"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (changed(split="test"), "tables.one: PEL x All: tune: split=test: settings are chosen on the validation split"),
        (changed(split="train"), "split=train: settings are chosen on the validation split (split: val); expected val"),
        (changed(seeds=[1, 10]), "tune: seeds 1 are the row's own too"),
        (changed(grid={}), "tune.grid: found {}, expected a mapping of field, or knob, to the values that are tried"),
        (changed(grid={"lr": []}), "tune.grid.lr: found [], expected a list with at least one value"),
        (changed(grid={"lr": [0.01]}), "the grid is of one candidate, which is no choice"),
        (changed(grid={"lrr": [1, 2]}), "Did you mean 'lr'?"),
        (changed(grid={"lr": [0.01, "0.01"]}), "lr=0.01 and lr=0.01 are the same run"),
        (changed(grid={"lr": [-1, 0.1]}), "lr=-1.0 is not possible"),
        (changed(grid={"method": ["ln", "ssf-ln"]}), "grid: method is no setting of a training to be chosen"),
        (changed(grid={"loss.gamma": [1, 2]}), "loss.gamma=1 has no effect on adaptformer here: it needs loss=focal"),
        (changed(grid={"vpt_len": [5, 10]}), "vpt_len=5 has no effect on adaptformer here"),
        (changed(by="ovrall"), "unknown metric to choose by: 'ovrall'"),
        (changed(select="best"), "unknown selection rule 'best'; known: best_mean, one_se"),
        (changed(select="one_se", seeds=[10]), "select=one_se needs 2 seeds or more, for a standard error; given 1"),
        (changed(kind="halving"), "tune.kind = 'halving'; known: grid, random"),
        (changed(kind="random"), "kind: random needs `draws`"),
        (changed(kind="random", draws=7), "draws=7 of the grid's 6 combinations"),
        (changed(draws=2), "draws is for kind: random"),
        (changed(grid={"lr": {"low": 1, "high": 2}}), "grid: lr: a range {low, high} is for kind: random"),
        (changed(kind="random", draws=2, grid={"lr": {"low": 0, "high": 2}}), "on a log scale (the default) above 0"),
        (changed(epochs=20), "epochs=20 is more than the row's 10"),
        (changed(epochs=2, grid={"epochs": [1, 2]}), "say one of the two"),
        ({"max_runs": 20}, "max_runs: 20, but the study comes to 32 runs, 24 of them candidates of `tune`"),
        ({"seal": "test", "tune": False}, "seal: test: no row is tuned here"),
        ({"seal": "val"}, "seal = 'val'; known: test"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_refused_by_name(make, keys, words):
    with pytest.raises(PelError, match=re.escape(words)):
        make(**keys)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"method": "zero-shot"}, "has no effect on zero-shot here: it needs a method that trains; leave that out"),
        ({"lr": 0.02}, "grid: lr is fixed by the row (lr=0.02)"),
        ({"dataset": "b", "label": "x"}, ""),
    ],
)  # fmt: skip
def test_a_row_that_the_grid_does_not_fit_is_refused(make, row, words):
    tables = {"one": {**STUDY["tables"]["one"], "rows": [{**ROW, **row}]}}
    if words:
        with pytest.raises(PelError, match=re.escape(words)):
            make(tables=tables)
    else:
        assert make(tables=tables).tunings


def test_a_set_without_validation_is_refused_by_name(make):
    with pytest.raises(PelError, match=r"tables\.one: PEL x All: tune: split=val: data set 'inat2018' has no .*hold_out: 0\.1"):
        make(config={"data": {"a": "inat2018"}})
    plain = {"one": {**STUDY["tables"]["one"], "where": {"dataset": "a", "split": "val"}}}
    with pytest.raises(PelError, match=r"study\.yaml: one: split=val: data set 'inat2018' has no validation split"):
        make(config={"data": {"a": "inat2018"}}, tables=plain, tune=False)


def test_validation_images_are_held_out_from_candidates_alone(make):
    held, cifar = tune(hold_out=0.1), {"data": {"a": "cifar100", "b": "places-lt"}}
    study = make(tune=held, config=cifar)
    assert {spec.factors.val for spec in study.candidates.values()} == {0.1}
    told = how(next(iter(study.tunings.values())))
    assert told.startswith("Chosen on the split val (0.1 of the training images, held out) by mean_class")
    assert {spec.factors.val for cell in study.artefact("one").cells for spec in cell.expected} == {0.0}
    assert {spec.factors.val for spec in make(tune=held).candidates.values()} == {0.0}  # ImageNet-LT has a list
    own = {"one": {**STUDY["tables"]["one"], "where": {"dataset": "a", "data.val": 0.2}}}
    for keys in ({"tune": held}, {}):
        study = make(tables=own, config=cifar, **keys)
        assert {spec.factors.val for spec in study.planned.values()} == {0.2}


def test_a_map_is_not_tuned(make):
    figure = {"kind": "map", "title": "Map", "where": {"dataset": "a"}, "methods": [ROW]}
    assert make(figures={"map": figure}).artefact("map").tunings == {}
    with pytest.raises(PelError, match=r"figures\.map: tune: a figure of kind map is drawn from models"):
        make(figures={"map": {**figure, "tune": TUNE}})


def test_sealed_candidates_are_not_scored_on_the_test_split(make, tmp_path):
    other = {"title": "Other", "where": {"dataset": "a"}, "tune": False, "columns": [{"label": "All", "value": "overall"}]}
    rows = [{"label": "a candidate", "method": "adaptformer", "lr": 0.1, "weight_decay": 0}]
    tables = {**STUDY["tables"], "other": {**other, "seeds": [10], "rows": rows}}
    assert make(tables=tables)
    with pytest.raises(PelError, match=r"seal: test: imagenet-lt.toy.adaptformer.s10.*would score a candidate"):
        make(tables=tables, seal="test")
    candidate = {name: value for name, value in rows[0].items() if name != "label"}
    untrained = [{"label": "itself", "method": "adaptformer", "from": candidate, "epochs": 0}]
    with pytest.raises(PelError, match=r"seal: test: imagenet-lt.toy.adaptformer.s10.*would score a candidate"):
        make(tables={**tables, "other": {**tables["other"], "rows": untrained}}, seal="test")
    study = make(tables={**tables, "other": {**tables["other"], "where": {"dataset": "a", "split": "val"}}}, seal="test")
    spec = next(iter(study.candidates.values()))
    set_seals(tmp_path, "study", "test", {spec.train.slug})
    require_unsealed(tmp_path, spec)
    require_unsealed(tmp_path, replace(spec, split="test", seed=0))
    with pytest.raises(PelError, match="a candidate of the study 'study', which seals the test split"):
        require_unsealed(tmp_path, replace(spec, split="test"))
    child = {"dataset": spec.dataset, "backbone": spec.backbone, "method": spec.method, "seed": spec.seed, "parents": [spec]}
    child |= {name: value for name, value in spec.knobs if name.startswith("data.")}
    require_unsealed(tmp_path, RunSpec.make(**child, epochs=1))
    with pytest.raises(PelError, match=r"it trains no further than imagenet-lt.*, which is a candidate"):
        require_unsealed(tmp_path, RunSpec.make(**child, epochs=0))
    set_seals(tmp_path, "study", "", ())
    require_unsealed(tmp_path, replace(spec, split="test"))
    (tmp_path / "sealed.json").write_text("[1]")
    with pytest.raises(PelError, match=r"sealed\.json is damaged"):
        require_unsealed(tmp_path, spec)


def test_the_record_says_what_was_tried(make):
    study = make(tune=tune(grid={"lr": [0.001, 0.01]}))
    write_candidates(study, lambda record: {**record, "metrics": {**record["metrics"], "mean_class": 100 * record["spec"]["lr"]}})
    study.decide()
    name, tuning = next(iter(study.tunings.items()))
    write_selection(study, name)
    record = read_json(study.results / "selections" / f"{name}.json")
    assert record["chosen"] == {"lr": 0.01} and record["edges"] == {"lr": "highest"}
    assert record["runs"] == 4 and record["hours"] == pytest.approx(4 * 7 / 3600)
    curve = pd.read_csv(study.results / "selections" / f"{name}.csv")
    assert [*curve["lr"]] == [0.001, 0.01] and [*curve["mean"]] == pytest.approx([0.1, 1.0])
    assert [*curve["chosen"].fillna("")] == ["", "yes"]
    metrics_file(study.results, next(iter(tuning.specs))).unlink()
    with pytest.raises(PelError, match=r"nothing can be chosen yet: .*: missing"):
        write_selection(study, name)


def test_tables_tell_what_was_chosen_and_what_it_cost(make):
    study = make(tune=tune(grid={"lr": [0.001, 0.01, 0.1]}))
    write_candidates(study, lambda record: {**record, "metrics": {**record["metrics"], "mean_class": 10 * record["spec"]["lr"]}})
    study.decide()
    write_results(study.results, {slug: spec for slug, spec in study.specs.items() if slug not in study.candidates})
    text = table_files(study, "one")["md"]
    told = "Chosen on the split val by mean_class (best_mean) among 3 settings, seeds 10, 11: "
    assert f"{told}PEL: lr=0.1 (highest of its grid); SSF: lr=0.1 (highest of its grid)." in text
    assert "Tuning took 12 runs, 0.023 hours on one device." in text
    assert "0.023 hours" in table_files(study, "one")["tex"]
    assert "imagenet-lt.toy.adaptformer.s10" in study.inputs("one")[-1] or any(".s10" in file for file in study.inputs("one"))


def test_claims_are_registered_whatever_is_chosen(make):
    part = {
        "a": {"method": "adaptformer"},
        "b": {"method": "ssf-ln"},
        "over": [{"dataset": "a"}],
        "value": "overall",
        "expect": "higher",
    }
    study = make(claims={"c": {"statement": "Better", "parts": [part]}})
    artefact = study.summary("claims")
    assert artefact.pending and artefact.claims[0].contrasts[0].label == "adaptformer - ssf-ln"
    assert register_claims(study) == ["c"]
    write_candidates(study)
    study.decide()
    assert register_claims(study) == []
    artefact = study.summary("claims")
    assert artefact.claims[0].contrasts[0].pairs[0][0].specs and not artefact.pending
    assert registered(study, artefact, artefact.claims[0]) == "before its first result"
    write_results(study.results, {slug: spec for slug, spec in study.specs.items() if slug not in study.candidates})
    text = claim_files(study)["md"]
    assert "among 6 settings, seeds 10, 11: adaptformer: lr=" in text and "Tuning took 24 runs" in text


def test_plan_and_status_count_candidates_and_what_follows(make):
    study = make()
    text = plan(study)
    assert "Runs: 24, of which 0 done, 24 missing; to train 24, to evaluate 24." in text
    assert "Tuning: 24 candidate runs for 2 selections, 0 made." in text
    assert "24 of 24 candidates have no result yet; up to 8 runs to follow whose settings they decide" in text
    assert "and 2 selections to wait for" in status(study)
    write_candidates(study)
    study.decide()
    text = plan(study)
    assert "Runs: 32, of which 24 done, 8 missing" in text and ", 2 made" in text
    assert "Tuning took 24 runs, 0.047 hours on one device." in status(study)


def test_one_file_of_a_run_with_another_name_is_no_candidate(make):
    study = make()
    write_candidates(study)
    slug = next(iter(study.candidates))
    record = fake_record(RunSpec.parse(slug))
    write_json(metrics_file(study.results, slug), {**record, "slug": "another"})
    study.decide()
    assert len(study.pending) == 1
    assert "it holds the result of another" in plan(study)


def test_the_page_shows_the_candidates_and_how_often_the_test_split_was_scored(make):
    from pel_core.reporting.html_report import report_html

    study = make()
    assert "24 of 24 candidates" not in report_html(study, Path("report.html")) or study.pending
    write_candidates(study, lambda record: {**record, "metrics": {**record["metrics"], "mean_class": record["spec"]["lr"]}})
    study.decide()
    finals = {slug: spec for slug, spec in study.specs.items() if slug not in study.candidates}
    write_results(study.results, finals)
    html = report_html(study, Path("report.html"))
    assert 'id="tuning"' in html
    assert html.count("The test split was scored 4 times for the rows with these settings, 0 times for candidates.") == 2
    write_candidates(study, lambda record: {**record, "metrics": {**record["metrics"], "mean_class": -record["spec"]["lr"]}})
    study.decide(anew=True)  # the rows' first runs are there still, and were seen
    told = "The test split was scored 0 times for the rows with these settings, 4 times with others of the grid, 0 times for"
    assert report_html(study, Path("report.html")).count(told) == 2
