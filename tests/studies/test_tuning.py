"""`tune`, as it is laid out: which candidates there are, what a plan counts, which slips are told."""

import json
import re
from dataclasses import replace

import pytest
from fake_results import write_results
from hypothesis import given
from hypothesis import strategies as st
from tuned_study import STUDY, TUNE, tune, write_candidates

from pel_core.common.errors import PelError
from pel_core.reporting.tables import table_files
from pel_core.spec.run_spec import RunSpec
from pel_core.spec.seals import require_unsealed, set_seals
from pel_core.studies.plan import plan
from pel_core.studies.status import status
from pel_core.studies.tuning_points import POINTS
from pel_core.studies.tuning_words import how


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


def test_a_design_is_tuned_as_a_table_is_and_its_own_where_is_nearer(make):
    methods = [{"label": "adapter", "method": "adaptformer"}, {"label": "ssf", "method": "ssf-ln"}]
    factors = {"method": methods, "data": [{"label": name, "dataset": name} for name in "ab"]}
    design, own = {"title": "Design", "factors": factors}, tune(grid={"lr": [0.03, 0.3]})
    sizes = [
        {len(tuning.candidates) for tuning in make(factorial={"grid": {**design, **keys}}, tables={}).tunings.values()}
        for keys in ({}, {"tune": own}, {"tune": False, "where": {"tune": own}}, {"tune": own, "where": {"tune": False}})
    ]
    assert sizes == [{6}, {2}, {2}, set()]


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
        (changed(kind="bandit"), "tune.kind = 'bandit'; known: grid, halving, random"),
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
