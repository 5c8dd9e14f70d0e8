"""`make report`: Snakemake's HTML report, built without network from made-up results: tables, figures, captions, provenance."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from fake_results import write_results

from pel_core.common.files import write_bytes, write_json
from pel_core.reporting.html_pages import html_page
from pel_core.reporting.runs_table import run_row, runs_files
from pel_core.spec.results import METRICS, run_folder
from pel_core.studies.study import Study, load

ROOT = Path(__file__).parents[2]
STUDY = """
title: Small
roles: {small: Toy}
tables:
  t1:
    title: One <b>table</b>
    where: {dataset: small-ir20}
    rows: [{label: PEL, method: adaptformer}, {label: Zero, method: zero-shot}]
    columns: [{label: All, value: overall}]
figures:
  f1: {kind: bars, title: Bars, where: {dataset: small-ir20, value: overall}, bars: [{label: PEL, method: adaptformer}]}
claims:
  c1:
    statement: PEL is better than zero-shot
    parts: [{a: {method: adaptformer}, b: {method: zero-shot}, over: [{dataset: small-ir20}], value: overall, expect: higher}]
"""
CONFIG = "title: Toy\nmark: TOY\nnotice: Made up\ncomparable: false\nbackbone: toy\nseeds: [0, 1]\ndata: {small: toy}\n"


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """A finished study with made-up results; Snakemake finds every file that a job would have made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "config.yaml").write_text(CONFIG)
    made = load("study.yaml", "config.yaml")
    for slug in made.specs:
        for kind in ("backbone", "vit", "data", "text"):  # oldest first
            if (path := made.prepared(slug).get(kind)) and not Path(path).exists():
                write_json(path, {}) if path.endswith("json") else write_bytes(path, b"x")
    for slug, spec in made.specs.items():
        if spec.trains:
            write_bytes(made.delta(slug), b"x")
            write_json(run_folder("results", spec.train.slug) / "train.json", {})
    write_results(made.results, made.specs)
    return made


def snakemake(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "provenance", "-s", str(ROOT / "Snakefile"), "--cores", "2", *words]
    command += ["--workflow-profile", str(ROOT / "workflow/profiles/default")]
    command += ["--rerun-triggers", "mtime", "--config", "study=study.yaml", "config=config.yaml"]
    if shutil.which("unshare") and not subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        command = ["unshare", "-rn", *command]  # a network of its own, with nobody in it
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    )


@pytest.mark.slow
def test_the_report_holds_everything_and_needs_nobody(study):
    for path in study.results.glob("runs/**/*"):
        if path.name in ("metrics.json",):
            for name in ("predictions.parquet", "confusion.csv", "classes.csv", "logits.safetensors"):
                write_bytes(path.parent / name, b"x")
    done = snakemake("--resources", "gpu=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rule train" not in done.stdout + done.stderr
    done = snakemake("--report", "report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    page = Path("report.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["']https?://[^"']*\.(?:js|css|woff2?)""", page)
    for name in ("t1", "f1", "study-claims", "provenance"):
        assert name in page, name
    assert "Every run of the study: the commit and the versions" in page  # a caption


def test_a_run_says_where_it_comes_from(study):
    files = runs_files(study)
    table = pd.read_csv(pd.io.common.StringIO(files["csv"]))
    assert list(table["run"]) == list(study.specs)
    told = (
        "versions",
        "commit",
        "data_sha256",
        "backbone_sha256",
        "device",
        "version_torch",
        "train_seconds",
        "evaluate_seconds",
    )
    assert {*told, *METRICS} <= set(table.columns)
    assert files["md"].count("\n| toy-ir20") == len(study.specs) and "000000000000 |" in files["md"]


def test_a_run_that_trains_nothing_has_no_training_time(study):
    row = run_row({"slug": "x", "engine": 1, "data": {}, "backbone": {}, "metrics": {}, "training": None, "environment": None})
    assert row["train_seconds"] is None and row["overall"] is None


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a | b", "**bold**", "[link](javascript:alert(1))", "&amp;"])
def test_a_name_stays_text(name):
    page = html_page(f"| a |\n| --- |\n| {name} |\n", name)
    assert "<script" not in page and 'href="javascript' not in page
