"""A study that chooses settings, on Snakemake's own plans: candidates, then runs with what was chosen, then nothing to do.

Quick tests have made-up results (tests/fake_results.py); the slow one trains a toy, is killed between the two, and goes on.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lab import ROOT, Lab, lay, planned
from own_trees import fill

from pel_core.common.files import read_json
from pel_core.spec.results import slug_of

STUDY = """
title: Tuned
roles: {small: Small}
seal: test
tune: {grid: {lr: [0.001, 0.01]}, seeds: [10]}
tables:
  one:
    title: One
    where: {dataset: small}
    rows:
      - {label: PEL, method: adaptformer}
      - {label: Zero-shot, method: zero-shot, tune: false}
    columns:
      - {label: Overall, value: overall}
"""
CONFIG = """
title: Toy
backbone: toy
seeds: [0]
data: {small: mine}
datasets: {mine: {root: images, train: train.txt, val: val.txt, test: test.txt, names: names.txt}}
"""


def made(lab: Lab) -> dict[str, set[str]]:
    """Runs with a result by their split."""
    found: dict[str, set[str]] = {"val": set(), "test": set()}
    for path in (lab.work / "results/runs").rglob("metrics.json"):
        found[read_json(path)["spec"]["split"]].add(slug_of(path.parent))
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The study, built with made-up results."""
    folder = tmp_path_factory.mktemp("tuned")
    lab = lay(folder, STUDY, CONFIG, ("names", "train", "val", "test"))
    done = lab.snakemake("-n")
    text = done.stdout + done.stderr
    assert "Tuning: 2 candidate runs for 1 selection, 0 made." in text
    assert "up to 1 run to follow whose settings they decide" in text
    assert [job for job in planned(text) if job.startswith(("train", "predict"))] == [
        *(f"predict mine.toy.adaptformer.s10{lr}split=val" for lr in (".lr=0.001/", "/")),
        "predict mine.toy.zero-shot.s0",
        *(f"train mine.toy.adaptformer.s10{lr}" for lr in ("", ".lr=0.001")),
    ]
    lab.build()
    return folder


def selected(lab: Lab) -> dict[str, Any]:
    return {path.name: read_json(path)["chosen"] for path in (lab.work / "results/selections").glob("*.json")}


def test_one_call_makes_candidates_selections_and_finals_and_the_next_nothing(lab):
    assert lab.plan() == []
    ((_, chosen),) = selected(lab).items()
    word = "" if chosen["lr"] == 0.01 else f".lr={chosen['lr']}"
    assert made(lab) == {
        "val": {f"mine.toy.adaptformer.s10{lr}.split=val" for lr in ("", ".lr=0.001")},
        "test": {f"mine.toy.adaptformer.s0{word}", "mine.toy.zero-shot.s0"},  # only finals reach the test set
    }
    assert len(read_json(lab.work / "results/sealed.json")["study"]["trainings"]) == 2


@pytest.mark.slow
def test_an_edited_grid_trains_the_new_candidate_alone(lab):
    lab.edit("study.yaml", "0.01]", "0.01, 0.1]")
    done = lab.snakemake("-n")
    assert "1 of 3 candidates have no result yet" in done.stderr
    jobs = [job for job in planned(done.stdout + done.stderr) if job.startswith(("train", "predict"))]
    assert jobs == ["predict mine.toy.adaptformer.s10.lr=0.1/split=val", "train mine.toy.adaptformer.s10.lr=0.1"]
    lab.build()
    assert lab.plan() == [] and len(selected(lab)) == 2


def test_another_score_chooses_anew(lab):
    ((name, chosen),) = selected(lab).items()
    other = 0.001 if chosen["lr"] == 0.01 else 0.01
    word = "" if other == 0.01 else f".lr={other}"
    path = lab.work / f"results/runs/mine.toy.adaptformer.s10{word}/split=val/metrics.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "metrics": {**record["metrics"], "mean_class": 99.0}}))
    run = f"mine.toy.adaptformer.s0{word}"
    assert lab.plan() == [f"predict {run}", f"select {name.removesuffix('.json')}", "table one", f"train {run}"]
    lab.build()
    assert selected(lab) == {name: {"lr": other}}
    path.unlink()
    assert "1 of 2 candidates have no result yet" in lab.snakemake("-n").stderr


HALVING = STUDY.replace(
    "{grid: {lr: [0.001, 0.01]}, seeds: [10]}",
    "{kind: halving, rungs: [1, 2, 5], grid: {lr: [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]}, seeds: [10]}",
)


def test_rungs_follow_each_other_in_one_call_and_another_score_moves_what_follows_it(tmp_path):
    lab = lay(tmp_path, HALVING, CONFIG, ("names", "train", "val", "test"))
    done = lab.snakemake("-n")
    text = done.stdout + done.stderr
    assert "Tuning: 11 candidate runs for 1 selection, 0 made." in text
    assert "6 of 6 candidates have no result yet; up to 5 candidate runs of later rungs and 1 run to follow" in text
    trained = [job for job in planned(text) if job.startswith("train")]
    assert len(trained) == 6 and all(".epochs=1" in job for job in trained)
    lab.build()
    assert lab.plan() == []
    runs = made(lab)
    assert [sum(f".epochs={epochs}" in run for run in runs["val"]) for epochs in (1, 2, 5)] == [6, 3, 2]
    assert len(runs["test"]) == 2
    final = next(path for path in (lab.work / "results/selections").glob("*.json") if ".rung" not in path.name)
    curve = list(csv.DictReader(final.with_suffix(".csv").open()))
    out = next(row for row in curve if row["epochs"] == "1" and not row["chosen"])
    rate = "" if out["lr"] == "0.01" else f".lr={out['lr']}"
    path = lab.work / f"results/runs/mine.toy.adaptformer.s10.epochs=1{rate}/split=val/metrics.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "metrics": {**record["metrics"], "mean_class": 99.0}}))
    jobs = [job for job in lab.plan() if not job.startswith("table")]
    name = final.stem
    run = f"mine.toy.adaptformer.s10.epochs=2{rate}"
    assert jobs == [f"predict {run}/split=val", f"select {name}", f"select {name}.rung1", f"select {name}.rung2", f"train {run}"]
    lab.build()
    assert lab.plan() == []


REAL = (
    CONFIG.split("datasets:")[0]
    + """
datasets: {mine: {kind: auto, root: images}}
mark: TOY
notice: Made images
comparable: false
recipe: {epochs: 2, batch_size: 8, precision: fp32}
resources: {threads: 1, mem_mb: 1000, runtime: 5}
"""
)


def command(*words: str) -> list[str]:
    profile = ROOT / "workflow/profiles/default"
    base = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--workflow-profile", str(profile), "--cores", "2"]
    return [*base, "--resources", "gpu=2", *words, "--config", "study=study.yaml", "config=config.yaml"]


@pytest.mark.slow
def test_a_real_study_killed_between_candidates_and_finals_goes_on(tmp_path):
    for split, count in (("train", 16), ("val", 6), ("test", 8)):
        fill(tmp_path / "images" / split, {"red": count, "green": max(count // 2, 4)})
    grid = "{lr: [0.001, 0.01, 1.0e+30]}"  # one diverges: no choice, and no failed study
    study = STUDY.replace("{lr: [0.001, 0.01]}", grid)
    (tmp_path / "study.yaml").write_text(study)
    (tmp_path / "config.yaml").write_text(REAL.replace("seeds: [0]", "seeds: [0, 1]"))
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 600}
    first = subprocess.run(command(), **run)
    assert first.returncode != 0 and "the next call goes on with what was chosen, then 2 runs" in first.stdout + first.stderr
    goes_on = [sys.executable, "-m", "pel_core", "goes-on", "--study", "study.yaml", "--config", "config.yaml"]
    assert subprocess.run(goes_on, **run).returncode == 0
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    second = subprocess.Popen(command(), cwd=tmp_path, start_new_session=True, **quiet)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("results/logs/mine.toy.adaptformer.s[01].*train.log")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(second.pid, signal.SIGKILL)
    second.wait()
    candidates = {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/runs/*.s1?.*/*/metrics.json")}
    assert len(candidates) == 2
    assert subprocess.run(command("--unlock"), **run).returncode == 0
    third = subprocess.run(command(), **run)
    assert third.returncode == 0, third.stderr
    assert candidates == {path: path.stat().st_mtime_ns for path in candidates}
    assert "Nothing to be done" in (done := subprocess.run(command("-n"), **run)).stdout + done.stderr
    table = (tmp_path / "results/tables/one.md").read_text()
    assert "Chosen on the split val by mean_class (best_mean) among 3 settings, seed 10: PEL: lr=0.0" in table
    assert "no choice: lr=1e+30 diverged: the loss became nan" in table and "Tuning took 3 runs" in table
    assert subprocess.run(goes_on, **run).returncode == 1
    sealed = next(iter(candidates)).parents[1].name
    refused = subprocess.run([sys.executable, "-m", "pel_core", "evaluate", sealed], **run)
    assert refused.returncode == 1 and "which seals the test split" in refused.stderr
