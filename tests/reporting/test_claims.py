"""Claims: effects paired by seed, their intervals and verdicts."""

import io
import math

import pandas as pd
import pytest
from fake_results import write_results

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.reporting.claims import Effect, claim_files, claim_rows, contrast_effect, effect, reported_effect, verdict
from pel_core.reporting.runs import read_runs
from pel_core.spec.results import metrics_file
from pel_core.studies.study import load


def test_the_interval_is_students_t():
    found = effect([1.0, 2.0, 3.0])
    half = 4.302653 * 1.0 / math.sqrt(3)  # t of 2 degrees of freedom at 97.5 %, and the sample deviation 1
    assert (found.mean, found.n) == (2.0, 3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-4)


def test_one_seed_has_no_interval_and_none_no_effect():
    assert effect([1.5]) == Effect(1.5, None, None, 1)
    assert effect([]) == Effect(None, None, None, 0)


@pytest.mark.parametrize(
    ("low", "high", "expect", "margin", "result"),
    [
        (0.1, 1.0, "higher", 0, "holds"),
        (-0.1, 1.0, "higher", 0, "undecided"),
        (-1.0, -0.1, "higher", 0, "does not"),
        (-1.0, -0.1, "lower", 0, "holds"),
        (-1.0, 0.1, "lower", 0, "undecided"),
        (0.1, 1.0, "lower", 0, "does not"),
        (0.0, 0.0, "higher", 0, "undecided"),
        (3.3, 3.3, "higher", 0, "undecided"),
        (0.4, 1.0, "higher", 0.5, "undecided"),
        (0.6, 1.0, "higher", 0.5, "holds"),
        (-1.0, -0.6, "lower", 0.5, "holds"),
        (-0.4, 0.4, "equal", 0.5, "holds"),
        (-0.4, 0.6, "equal", 0.5, "undecided"),
        (0.6, 0.9, "equal", 0.5, "does not"),
        (-0.9, -0.6, "equal", 0.5, "does not"),
    ],
)
def test_verdicts(low, high, expect, margin, result):
    assert verdict(Effect((low + high) / 2, low, high, 3), expect, margin)[0] == result


def test_one_seed_is_undecided_and_says_why():
    assert verdict(Effect(5.0, None, None, 1), "higher") == (
        "undecided",
        "one seed gives no interval; ask for more (seeds=0,1,2)",
    )
    assert verdict(Effect(None, None, None, 0), "higher")[0] == "undecided"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    study = load("report", "paper", seeds="0,1,2", results=results)
    write_results(results, study.specs)
    return study


def test_a_contrast_is_paired_by_seed_and_averaged_over_data(sweep):
    artefact = sweep.artefact("claims")
    runs = read_runs(sweep, artefact)
    part = next(claim for claim in artefact.claims if claim.name == "ln-costs-the-tail").contrasts[0]

    def tail(data, method, seed):
        return runs[f"{data}.clip-b16.{method}.s{seed}"]["metrics"]["tail"]

    by_seed = [
        sum(tail(data, "adaptformer+ln", seed) - tail(data, "adaptformer", seed) for data in ("imagenet-lt", "places-lt")) / 2
        for seed in (0, 1, 2)
    ]
    assert contrast_effect(part, runs).mean == pytest.approx(sum(by_seed) / 3)


def test_the_reports_own_effect_leaves_suspect_cells_out(sweep):
    claims = {claim.name: claim for claim in sweep.artefact("claims").claims}
    tail = claims["ln-costs-the-tail"].contrasts[0]
    assert reported_effect(sweep, tail) == pytest.approx(((70.6 - 73.4) + (49.8 - 50.9)) / 2)
    naturalist = next(each for each in claims["vpt-s-helps-partial"].contrasts if each.pairs[0][0].dataset == "inat2018")
    assert reported_effect(sweep, naturalist) is None


def test_every_claim_has_a_verdict_with_effect_n_and_interval(sweep):
    frame = pd.read_csv(io.StringIO(claim_files(sweep)["csv"]))
    whole = frame[~frame.duplicated("claim")]
    assert len(whole) == 5
    assert set(whole["verdict"]) <= {"holds", "does not", "undecided"}
    assert (frame["n"] == 3).all()
    parts = frame[frame["contrast"] != "all"]
    assert len(parts) == 1 + 4 + 2 + 2 + 4
    assert parts[["effect", "low", "high"]].notna().all(axis=None)
    assert (parts["low"] <= parts["effect"]).all() and (parts["effect"] <= parts["high"]).all()


def test_a_claim_holds_if_all_its_contrasts_do(sweep):
    for line in claim_rows(sweep):
        if line[3] == "all":
            parts = [other[-3] for other in claim_rows(sweep) if other[0] == line[0] and other[3] != "all"]
            assert (line[-3] == "holds") == all(part == "holds" for part in parts)


def test_one_seed_leaves_every_claim_undecided(sweep):
    study = load("report", "paper", seeds="0", results=sweep.results)
    assert {line[-3] for line in claim_rows(study)} == {"undecided"}


def test_data_a_config_lacks_is_named(tmp_path):
    study = load("report", "cifar", seeds="0,1", results=tmp_path)
    write_results(tmp_path, study.specs)
    line = next(line for line in claim_rows(study) if line[0] == "ln-costs-the-tail")
    assert line[-3] == "undecided"
    assert "not measured on imagenet-lt, places-lt" in line[-2]


def test_a_demo_says_so(tmp_path):
    study = load("report", "demo", seeds="0,1", results=tmp_path)
    write_results(tmp_path, study.specs)
    texts = claim_files(study)
    assert "not comparable" in texts["md"]
    assert pd.read_csv(io.StringIO(texts["csv"]))["note"].str.contains("not comparable").all()


def test_a_missing_run_and_an_empty_group(tmp_path):
    study = load("report", "paper", seeds="0,1", results=tmp_path)
    with pytest.raises(PelError, match="has no result"):
        claim_rows(study)
    write_results(tmp_path, study.specs)
    for seed in (0, 1):
        path = metrics_file(tmp_path, f"places-lt.clip-b16.adaptformer.s{seed}")
        record = read_json(path)
        record["metrics"] |= {"tail": None, "null_reasons": {"tail": "no class has fewer than 20 images"}}
        write_json(path, record)
    line = next(line for line in claim_rows(study) if line[0] == "ln-costs-the-tail")
    assert line[-3:-1] == ["undecided", "there is no value to compare"]
