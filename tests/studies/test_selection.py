"""`tune`, as it chooses: by what rule (recomputed with plain pandas), what waits for it, what is told of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_results import fake_number, fake_record, write_results
from hypothesis import given
from hypothesis import strategies as st
from tuned_study import STUDY, diverge, tune, write_candidates

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.reporting.claims import claim_files
from pel_core.reporting.tables import table_files
from pel_core.spec.choices import METRICS
from pel_core.spec.outcomes import failed_file
from pel_core.spec.results import metrics_file, train_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.plan import plan
from pel_core.studies.registered import register_claims, registered
from pel_core.studies.selection_files import write_selection
from pel_core.studies.selection_rules import SELECTION_RULES, Scored
from pel_core.studies.tuning_words import goes_on, tuning_lines


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


@pytest.mark.parametrize("values", [{"low": 1e-4, "high": 0.1}, [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]])
def test_the_ends_of_what_was_drawn_are_told(make, values):
    study = make(tune=tune(kind="random", draws=4, grid={"lr": values}))
    for tuning in study.tunings.values():
        rates = {candidate.settings["lr"]: tuning.edges(candidate) for candidate in tuning.candidates}
        assert [rates[rate] for rate in sorted(rates)] == [{"lr": "lowest"}, {}, {}, {"lr": "highest"}]
    write_candidates(study, lambda record: {**record, "metrics": {**record["metrics"], "mean_class": record["spec"]["lr"]}})
    study.decide()
    assert f"PEL: lr={max(rates):g} (highest of those drawn)" in study.artefact("one").declaration["note"]


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
    others = [RunSpec.parse(f"{slug}.evaluate_on=demo-sketch") for slug in finals]  # of other images, no look at the test split
    write_results(study.results, {spec.slug: spec for spec in others})
    html = report_html(study, Path("report.html"))
    assert html.count("The test split was scored 4 times for the rows with these settings, 0 times for candidates. Their") == 2
    assert html.count("Their trainings were scored 4 times on other data sets (evaluate_on).") == 2
    write_candidates(study, lambda record: {**record, "metrics": {**record["metrics"], "mean_class": -record["spec"]["lr"]}})
    study.decide(anew=True)  # the rows' first runs are there still, and were seen
    told = "The test split was scored 0 times for the rows with these settings, 4 times with others of the grid, 0 times for"
    assert report_html(study, Path("report.html")).count(told) == 2
