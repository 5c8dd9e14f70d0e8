"""`tune` of kind halving: who goes on (recomputed with plain pandas), what a plan counts, divergence, what slips are told."""

import math
import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from fake_results import fake_number, fake_record, write_results
from hypothesis import given
from hypothesis import strategies as st
from tuned_study import STUDY, diverge, write_candidates

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.reporting.tables import table_files
from pel_core.spec.choices import METRICS
from pel_core.spec.results import OUTPUTS, metrics_file
from pel_core.spec.stored_predictions import PARQUET
from pel_core.studies.plan import plan
from pel_core.studies.selection_files import write_selection
from pel_core.studies.tuning_points import rung_sizes
from pel_core.studies.tuning_words import goes_on, step_words, tuning_lines

RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
HALVING = {"kind": "halving", "grid": {"lr": RATES}, "seeds": [10, 11], "rungs": [1, 3, 10]}
ROWS = [{"label": "PEL", "method": "adaptformer"}]
ONE = {"one": {**STUDY["tables"]["one"], "rows": ROWS}}


def halving(**keys):
    return {**HALVING, **keys}


def write_rung(study, score):
    """Results of the candidates that are known by now; ``score(spec)``: by what is chosen."""
    for slug, spec in study.trying.items():
        if not metrics_file(study.results, slug).is_file():
            record = fake_record(spec)
            write_json(metrics_file(study.results, slug), {**record, "metrics": {**record["metrics"], "mean_class": score(spec)}})
            metrics_file(study.results, slug).with_name(OUTPUTS[0]).write_bytes(PARQUET)
    study.decide()


def by_rate(spec):
    return 100 * spec.lr


def recomputed(study, tuning):
    """By plain pandas: stored scores in; how many runs each rung has, and the settings that are chosen, out."""
    declared, members, sizes = tuning.declaration, list(range(len(tuning.candidates))), []
    sign = -1 if METRICS[declared["by"]].better == "lower" else 1
    for rung, epochs in enumerate(declared["rungs"]):
        rows = [
            (place, sign * read_json(metrics_file(study.results, spec.slug))["metrics"][declared["by"]])
            for place in members
            for spec in tuning.specs.values()
            if spec.lr == tuning.candidates[place].settings["lr"] and spec.epochs == epochs
        ]
        sizes.append(len(rows))
        frame = pd.DataFrame(rows, columns=["place", "score"]).groupby("place")["score"].agg(["mean", "std", "count"])
        frame["far"] = [abs(np.log(tuning.candidates[place].settings["lr"] / 0.01)) for place in frame.index]
        frame["moved"] = frame["far"] > 0
        frame = frame.reset_index().sort_values(["mean", "moved", "far", "place"], ascending=[False, True, True, True])
        if rung + 1 < len(declared["rungs"]):
            members = sorted(frame["place"].head(math.ceil(len(members) / (declared["factor"] or 2))))
    if declared["select"] == "one_se":
        best = frame.iloc[0]
        near = frame[frame["mean"] >= best["mean"] - best["std"] / np.sqrt(best["count"]) - 1e-9]
        frame = near.sort_values(["moved", "far", "place"])  # the rates cost the same
    return sizes, dict(tuning.candidates[int(frame.iloc[0]["place"])].settings)


@pytest.mark.parametrize(
    "declared",
    [
        halving(),
        halving(rungs=[2, 5], factor=3),
        halving(by="nll"),
        halving(by="error_rate", select="one_se", seeds=[10, 11, 12]),
        halving(draws=5, draw_seed=3, grid={"lr": {"low": 0.001, "high": 0.3}}),
    ],
)
def test_every_rung_and_the_choice_agree_with_plain_pandas(make, declared):
    study = make(tune=declared)
    by = declared.get("by", "mean_class")
    for _ in declared["rungs"]:
        assert len(study.pending) == 2
        for slug, spec in study.trying.items():
            record = fake_record(spec)  # values that are coarse, so that candidates tie
            metrics = {**record["metrics"], by: 50.0 + round(fake_number(slug, "val") * 4)}
            write_json(metrics_file(study.results, slug), {**record, "metrics": metrics})
        study.decide()
    assert study.pending == ()
    for name, tuning in study.tunings.items():
        sizes, settings = recomputed(study, tuning)
        found = study.progress[name]
        assert [sum(len(each.outcomes) for each in rung) for rung in found.tried] == sizes
        assert [len(rung) for rung in found.tried] == list(tuning.sizes)
        assert found.selection.chosen.settings == settings
        assert {*found.specs} == {slug for slug in tuning.specs if metrics_file(study.results, slug).is_file()}


@given(st.integers(2, 200), st.integers(2, 5), st.integers(2, 5))
def test_rungs_shrink_by_their_factor_and_leave_a_choice_or_are_refused(count, rungs, factor):
    tune = {"kind": "halving", "rungs": list(range(1, rungs + 1)), "factor": factor}
    try:
        sizes = rung_sizes(count, tune)
    except PelError as error:
        assert "leave none to choose from on the last" in str(error) and count <= factor ** (rungs - 1)
        return
    assert sizes[0] == count and sizes[-1] >= 2 and len(sizes) == rungs
    assert all(after == math.ceil(before / factor) for before, after in pairwise(sizes))


def test_a_rungs_runs_are_trainings_of_their_own_and_the_last_may_be_another_grids(make):
    study = make(tune=halving(), tables=ONE)
    assert {spec.epochs for spec in study.trying.values()} == {1} and len(study.trying) == 12
    assert {*study.specs} == {*study.trying}
    (tuning,) = study.tunings.values()
    assert tuning.sizes == (6, 3, 2)
    plain = make(tune={"grid": {"lr": RATES}, "seeds": [10, 11]}, tables=ONE, name="plain")
    assert {spec.slug for each in tuning.candidates for spec in each.rungs[-1]} == {*plain.candidates}
    assert {*plain.tunings} != {*study.tunings}
    assert {*make(tune=halving(factor=3, rungs=[1, 10]), tables=ONE).tunings} != {*study.tunings}


def test_a_plan_counts_every_rung_before_it_is_known_who_goes_on(make):
    study = make(tune=halving(), tables=ONE, max_runs=26)
    text = plan(study)
    assert "Runs: 12, of which 0 done, 12 missing; to train 12, to evaluate 12." in text
    assert "Tuning: 22 candidate runs for 1 selection, 0 made." in text
    assert "12 of 12 candidates have no result yet; up to 10 candidate runs of later rungs and 4 runs to follow" in text
    write_rung(study, by_rate)
    text = plan(study)
    assert "Runs: 18, of which 12 done, 6 missing" in text and "up to 4 candidate runs of later rungs and 4 runs" in text
    assert {spec.lr for spec in study.trying.values() if spec.epochs == 3} == {0.03, 0.1, 0.3}
    write_rung(study, by_rate)
    write_rung(study, by_rate)
    assert "Tuning: 22 candidate runs for 1 selection, 1 made." in plan(study)
    assert [spec.lr for spec in study.artefact("one").cells[0].specs] == [0.3, 0.3]
    with pytest.raises(PelError, match="max_runs: 25, but the study comes to 26 runs, 22 of them candidates"):
        make(tune=halving(), tables=ONE, max_runs=25)


def test_another_score_of_an_early_rung_chooses_anew(make):
    study = make(tune=halving(), tables=ONE)
    for _ in range(3):
        write_rung(study, by_rate)
    (tuning,) = study.tunings.values()
    for spec in tuning.candidates[0].rungs[0]:
        record = fake_record(spec)
        write_json(metrics_file(study.results, spec.slug), {**record, "metrics": {**record["metrics"], "mean_class": 99.0}})
    study.decide(anew=True)
    assert study.pending == (tuning.name,)
    assert {slug for slug in study.trying if study.state(slug) == "missing"} == {s.slug for s in tuning.candidates[0].rungs[1]}


def test_what_diverges_goes_on_to_no_rung_and_says_why(make):
    study = make(tune=halving(), tables=ONE)
    (tuning,) = study.tunings.values()
    write_rung(study, by_rate)
    for each in tuning.candidates[-2:]:
        diverge(study, each.rungs[0][0].slug)
    study.decide(anew=True)
    assert {spec.lr for spec in study.trying.values() if spec.epochs == 3} == {0.003, 0.01, 0.03}
    assert f"the next call goes on with what was chosen, then 6 runs ({tuning.name}.rung1)." in goes_on(study)
    assert step_words(study.progress[tuning.name], f"{tuning.name}.rung1") == "3 candidates of 6 go on, 3 do not"
    write_selection(study, f"{tuning.name}.rung1")
    assert goes_on(study) == ""
    write_rung(study, by_rate)
    for each in tuning.candidates[2:4]:  # of those on the second rung one is left
        diverge(study, each.rungs[1][0].slug)
    study.decide(anew=True)
    (found,) = study.selections.values()
    assert found.chosen.settings == {"lr": 0.003} and study.pending == ()
    assert found.note == "the only one of those on the rung of 3 epochs with a score, so it was tried no further"
    assert study.progress[tuning.name].decided == (f"{tuning.name}.rung1", tuning.name)
    told = "\n".join(tuning_lines(study))
    assert "no choice: lr=0.1 diverged: the loss became nan" in told and "and 1 more" in told
    for each in tuning.candidates:
        diverge(study, each.rungs[0][0].slug)
    study.decide(anew=True)
    (found,) = study.selections.values()
    assert found.chosen == tuning.nearest and found.note.startswith("no candidate of those on the rung of 1 epoch has a score")


def test_the_record_the_table_and_the_page_say_what_the_rungs_were(make, tmp_path):
    from pel_core.reporting.html_report import report_html

    study = make(tune=halving(), tables=ONE)
    (tuning,) = study.tunings.values()
    for _ in range(3):
        write_rung(study, by_rate)
    for step in tuning.steps:
        write_selection(study, step)
    folder = study.results / "selections"
    record = read_json(folder / f"{tuning.name}.json")
    assert record["chosen"] == {"lr": 0.3} and record["edges"] == {"lr": "highest"}
    assert record["runs"] == 22 and record["hours"] == pytest.approx(22 * 7 / 3600)
    curve = pd.read_csv(folder / f"{tuning.name}.csv")
    assert [*curve["epochs"]] == [1] * 6 + [3] * 3 + [10] * 2
    assert [*curve["chosen"].fillna("")] == [*[""] * 3, *["goes on"] * 3, "", "goes on", "goes on", "", "yes"]
    first = read_json(folder / f"{tuning.name}.rung1.json")
    assert first["chosen"] is None and [each["goes_on"] for each in first["candidates"]] == [False] * 3 + [True] * 3
    write_results(study.results, {slug: spec for slug, spec in study.specs.items() if slug not in study.candidates})
    text = table_files(study, "one")["md"]
    assert (
        "among 6 settings by successive halving (6 for 1 epoch, 3 for 3 epochs, 2 for 10 epochs; each trained anew with the "
        "whole schedule of that length, whose ranking it is), seeds 10, 11: PEL: lr=0.3 (highest of its grid)."
    ) in text
    assert "Tuning took 22 runs, 0.043 hours on one device." in text
    html = report_html(study, tmp_path / "report.html")
    assert html.count("<td>goes on</td>") == 5 and html.count("<td>chosen</td>") == 1


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"rungs": None}, "kind: halving needs `rungs`, the epochs that candidates are trained for"),
        ({"rungs": [3]}, "rungs=[3]: expected two numbers of epochs or more, each above the one before"),
        ({"rungs": [3, 1]}, "rungs=[3, 1]: expected two numbers of epochs or more"),
        ({"rungs": [1, 1]}, "rungs=[1, 1]: expected two numbers of epochs or more"),
        ({"rungs": [0, 1]}, "a whole number of 1 or more"),
        ({"rungs": [1, 20]}, "rungs=20 is more than the row's 10; expected the same, or fewer"),
        ({"rungs": [1, 2, 3, 4]}, "rungs of 6, 3, 2, 1 settings leave none to choose from on the last"),
        ({"factor": 1}, "a whole number of 2 or more"),
        ({"factor": 6, "rungs": [1, 2]}, "rungs of 6, 1 settings leave none to choose from on the last"),
        ({"epochs": 2}, "epochs of candidates are what `rungs` says"),
        ({"grid": {"epochs": [1, 2, 3, 4]}}, "epochs of candidates are what `rungs` says"),
        ({"grid": {"lr": {"low": 0.1, "high": 1}}}, "grid: lr: a range {low, high} needs `draws`"),
        ({"kind": "grid"}, "rungs is for kind: halving"),
        ({"kind": "random", "draws": 3, "rungs": None, "factor": 2}, "factor is for kind: halving"),
        ({"draws": 7}, "draws=7 of the grid's 6 combinations"),
    ],
)
def test_rungs_that_cannot_be_are_refused_by_name(make, declared, words):
    given = {key: value for key, value in halving(**declared).items() if value is not None}
    with pytest.raises(PelError, match=re.escape(words)):
        make(tune=given)


def test_write_candidates_of_all_rungs_is_no_more_than_what_is_asked(make):
    """Results of a candidate on a rung that it did not come to change nothing: another study may have made them."""
    study = make(tune=halving(), tables=ONE)
    write_candidates(study, lambda record: {**record, "metrics": {**record["metrics"], "mean_class": -record["spec"]["lr"]}})
    study.decide(anew=True)
    (found,) = study.selections.values()
    assert found.runs == 22 and len(study.trying) == 22 and found.chosen.settings == {"lr": 0.001}
