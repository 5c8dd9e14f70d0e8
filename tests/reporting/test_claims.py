"""Claims: effects paired by seed and image, their intervals and verdicts."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from fake_results import record_overall, write_predictions, write_results

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.evaluation.outputs import write_parquet
from pel_core.reporting.claims import HEADER, claim_files, claim_rows, reported_effect
from pel_core.reporting.paired import Rows, contrast_effect
from pel_core.reporting.runs import read_runs
from pel_core.reporting.sensitivity import images_of, will_show
from pel_core.spec.results import metrics_file, run_folder
from pel_core.studies.study import load


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
    found = contrast_effect(part, runs, Rows(sweep.results))
    assert found.values == pytest.approx(by_seed) and found.mean == pytest.approx(sum(by_seed) / 3)
    assert found.images == 400 and found.general.half > 0


def test_the_reports_own_effect_leaves_suspect_cells_out(sweep):
    claims = {claim.name: claim for claim in sweep.artefact("claims").claims}
    tail = claims["ln-costs-the-tail"].contrasts[0]
    assert reported_effect(sweep, tail) == pytest.approx(((70.6 - 73.4) + (49.8 - 50.9)) / 2)
    naturalist = next(each for each in claims["vpt-s-helps-partial"].contrasts if each.pairs[0][0].dataset == "inat2018")
    assert reported_effect(sweep, naturalist) is None


def test_every_claim_has_a_verdict_with_effect_n_and_intervals(sweep):
    frame = pd.read_csv(io.StringIO(claim_files(sweep)["csv"]))
    assert tuple(frame.columns) == HEADER
    whole = frame[~frame.duplicated("claim")]
    assert len(whole) == 5
    assert set(whole["verdict"]) <= {"holds", "refuted", "undecided"}
    assert (frame["n"] == 3).all()
    parts = frame[frame["contrast"] != "all"]
    assert len(parts) == 1 + 4 + 2 + 2 + 4
    assert parts[["effect", "low", "high", "training_low", "training_high", "p", "p_holm"]].notna().all(axis=None)
    assert (parts["low"] <= parts["effect"]).all() and (parts["effect"] <= parts["high"]).all()
    assert (parts["p"] <= parts["p_holm"]).all() and (parts["images"] > 0).all()
    undecided = parts[parts["verdict"] == "undecided"]
    assert undecided["would_decide"].str.contains("seeds|images").all()
    assert (undecided["seeds_needed"].notna() | undecided["images_needed"].notna()).sum() > 10


def test_a_claim_holds_if_all_its_contrasts_do(sweep):
    lines = claim_rows(sweep)
    for line in lines:
        if line["contrast"] == "all":
            parts = [other["verdict"] for other in lines if other["claim"] == line["claim"] and other["contrast"] != "all"]
            assert (line["verdict"] == "holds") == all(part == "holds" for part in parts)
            assert (line["verdict"] == "refuted") == ("refuted" in parts)


@pytest.mark.parametrize(("seeds", "why"), [("0", "one seed; at least three"), ("0,1", "two seeds; at least three")])
def test_under_three_seeds_every_claim_is_undecided_and_says_why(sweep, seeds, why):
    study = load("report", "paper", seeds=seeds, results=sweep.results)
    lines = claim_rows(study)
    assert {line["verdict"] for line in lines} == {"undecided"}
    assert all(line["reason"] == why for line in lines if line["contrast"] != "all")


def toy(tmp_path, *parts, seeds=(0, 1, 2), write=True):
    """A study of claims of one part each, with made-up results."""
    text = "title: T\nroles: {toy: Toy}\nclaims:\n"
    for i, part in enumerate(parts):
        over = "over: [{dataset: toy-ir20}]"
        text += f"  c{i}: {{statement: S{i}, parts: [{{a: {{method: adaptformer}}, b: {{method: ssf-ln}}, {over}, {part}}}]}}\n"
    (tmp_path / "s.yaml").write_text(text)
    (tmp_path / "c.yaml").write_text(f"{{title: T, backbone: toy, seeds: {list(seeds)}, data: {{toy: toy}}}}")
    study = load(tmp_path / "s.yaml", tmp_path / "c.yaml", results=tmp_path / "results")
    if write:
        write_results(study.results, study.specs)
    return study


def say(study, method, values):
    """Make a method right about as many percent of the images of every group, one value per seed."""
    for seed, value in zip(study.seeds, values, strict=True):
        spec = study.specs[f"toy-ir20.toy.{method}.s{seed}"]
        write_predictions(study.results, spec, dict.fromkeys(("head", "med", "tail"), value))


WORDS = ("higher", "lower", "equal, margin: 3")


@pytest.mark.parametrize(
    ("lead", "verdicts"),
    [(20, ("holds", "refuted", "refuted")), (-20, ("refuted", "holds", "refuted")), (0, ("undecided", "undecided", "holds"))],
)
def test_verdicts_by_the_general_interval(tmp_path, lead, verdicts):
    study = toy(tmp_path, *(f"value: overall, expect: {word}" for word in WORDS))
    say(study, "ssf-ln", (50, 50, 51))
    say(study, "adaptformer", (50 + lead, 51 + lead, 50 + lead))
    lines = claim_rows(study)
    assert tuple(line["verdict"] for line in lines) == verdicts
    text = claim_files(study)["md"]
    assert all(f"### S{i}: **{word}**" in text for i, word in enumerate(verdicts))


def test_the_same_difference_at_every_seed_has_a_width_from_images(tmp_path):
    """Once "holds" by rounding: two seeds whose differences are the same number of images."""
    study = toy(tmp_path, "value: overall, expect: higher")
    say(study, "ssf-ln", (50, 50, 50))
    say(study, "adaptformer", (50.5, 50.5, 50.5))
    (line,) = claim_rows(study)
    assert (line["training_low"], line["verdict"]) == ("", "undecided") and float(line["low"]) < 0


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_without_predictions_there_is_no_verdict_but_the_command(tmp_path, damage):
    study = toy(tmp_path, "value: overall, expect: higher")
    say(study, "adaptformer", (90, 91, 92))
    slug = "toy-ir20.toy.adaptformer.s1"
    path = run_folder(study.results, slug) / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:100]) if damage == "cut off" else path.unlink()
    (line,) = claim_rows(study)
    assert line["verdict"] == "undecided" and line["low"] == "" and line["training_low"]
    assert f"python -m pel_core score '{slug}'" in line["reason"] and str(path) in line["reason"]


def test_runs_of_other_images_are_refused_by_name(tmp_path):
    study = toy(tmp_path, "value: overall, expect: higher")
    for seed in study.seeds:
        path = run_folder(study.results, f"toy-ir20.toy.ssf-ln.s{seed}") / "predictions.parquet"
        labels = np.arange(8, dtype=np.int32)
        write_parquet(path, {"index": labels, "path": None, "label": labels, "prediction": labels}, {"data_sha256": "other"})
        record_overall(study.results, f"toy-ir20.toy.ssf-ln.s{seed}", 100.0)
    with pytest.raises(PelError, match=r"adaptformer\.s0 and toy-ir20\.toy\.ssf-ln\.s0 have different test sets"):
        claim_rows(study)


def test_a_value_that_no_image_makes_has_an_interval_over_seeds_and_says_so(tmp_path):
    study = toy(tmp_path, "value: training.seconds, expect: higher", "value: parameters.learnable, expect: higher")
    for seed, seconds in zip(study.seeds, (50.0, 51.0, 52.0), strict=True):
        path = metrics_file(study.results, f"toy-ir20.toy.adaptformer.s{seed}")
        record = read_json(path)
        record["training"]["seconds"] = seconds
        write_json(path, record)
    seconds, parameters = claim_rows(study)
    assert (seconds["effect"], seconds["low"], seconds["verdict"]) == ("+46.00", "+43.52", "holds")
    assert "general interval is over seeds alone" in seconds["reason"]
    assert parameters["verdict"] == "undecided" and "the same at every seed" in parameters["reason"]


def test_data_a_config_lacks_is_named(tmp_path):
    study = load("report", "cifar", seeds="0,1", results=tmp_path)
    write_results(tmp_path, study.specs)
    line = next(line for line in claim_rows(study) if line["claim"] == "ln-costs-the-tail")
    assert line["verdict"] == "undecided"
    assert "not measured on imagenet-lt, places-lt" in line["reason"]


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
    for path in tmp_path.glob("runs/*/classes.csv"):
        path.write_text(path.read_text().replace("tail", "med"))
    line = next(line for line in claim_rows(study) if line["claim"] == "ln-costs-the-tail")
    assert line["verdict"] == "undecided" and "no class is in this group" in line["reason"]


def test_planning_says_what_can_be_shown_as_assumed_or_as_finished_runs_vary(tmp_path):
    before = load("report", "paper", seeds="0,1,2", results=tmp_path)
    text = will_show(before)
    assert "Differences in accuracy that 3 seeds will show" in text
    assert "* assumed that two methods disagree on 10% of the images" in text
    # Published: 842, 4,076 and 3,224 classes of three test images; of CIFAR-100 35, 35 and 30 of a hundred, at every ratio.
    numbers = r"overall 3\.1 \(N = 24,426\), head [\d.]+ \(N = 2,526\), med [\d.]+ \(N = 12,228\), tail [\d.]+ \(N = 9,672\) \*"
    assert re.search(rf"^  inat2018: {numbers}$", text, re.MULTILINE)
    assert re.search(
        r"^  cifar100-ir200, cifar100-ir100, .*head .*N = 3,500\), med .*N = 3,500\), tail .*N = 3,000", text, re.MULTILINE
    )
    study = toy(tmp_path, "value: overall, expect: higher")
    say(study, "ssf-ln", (50, 50, 51))
    say(study, "adaptformer", (60, 61, 60))
    told = r"overall [\d.]+ \(N = 800\), head .*N = 400\), med .*N = 200\), tail .*N = 200\) \(by the variance of finished runs\)"
    assert re.search(rf"^  toy-ir20: {told}$", will_show(study), re.MULTILINE) and "assumed" not in will_show(study)
    few = will_show(load(study.path, study.config_path, seeds="0", results=study.results))
    assert few.startswith("At 1 seed nothing is marked and no claim is decided; at least three.")


def test_planning_counts_the_test_images_of_prepared_groups(tmp_path):
    """Of a mean over classes of unequal size fewer count: 2 classes of 1 and 3 images as 4 / (1 + 1/3) = 3 of one size."""
    study = load("report", "paper", seeds="0,1,2", results=tmp_path)
    assert images_of(load("report", "demo", results=tmp_path), "demo-imagenet") == {"overall": 1200}  # groups: once prepared
    counts = [300, 200, 50, 5, 4, 3]
    write_json(
        tmp_path / "data/inat2018/data.json", {"train_counts": {"": counts}, "ratios": [], "groups_from": None, "test_images": 13}
    )
    np.savez(tmp_path / "data/inat2018/test.npz", labels=np.repeat(np.arange(6), [1, 3, 4, 5, 0, 0]))
    assert images_of(study, "inat2018") == pytest.approx({"overall": 13, "head": 3, "med": 4, "tail": 5})
