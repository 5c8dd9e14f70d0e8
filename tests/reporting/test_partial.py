"""Runs without a result: a diverged one is an outcome, a failed or missing one a named blank; nothing is a mean of survivors."""

import csv
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_results import fake_record, write_results

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.data.datasets import content_hash
from pel_core.reporting.claims import claim_files
from pel_core.reporting.figure_bars import bar_figure
from pel_core.reporting.figure_curve import curve_figure, draw_curve
from pel_core.reporting.figure_style import style
from pel_core.reporting.partial import draw_partly
from pel_core.reporting.runs import read_runs
from pel_core.reporting.tables import table_files, table_grid
from pel_core.spec.outcomes import failed_file
from pel_core.spec.results import metrics_file, run_folder
from pel_core.studies.plan import plan
from pel_core.studies.status import status
from pel_core.studies.study import load

ROOT = Path(__file__).parents[2]
FAILED = {"reason": "the loss became nan", "step": 3, "epoch": 1, "learning_rate": 0.5}
WORDS = "diverged: the loss became nan at step 3 of epoch 1, learning rate 0.5."
STUDY = """
title: Small
roles: {small: Toy set}
tables:
  one:
    title: Rates
    where: {dataset: small-ir20, value: overall}
    rows: [{label: Low, method: head-only}, {label: High, method: head-only, lr: 1.0e+30}, {label: None, method: zero-shot}]
    columns: [{label: Overall}]
figures:
  bars:
    kind: bars
    title: Bars
    where: {dataset: small-ir20, value: overall}
    bars: [{label: Low, method: head-only}, {label: High, method: head-only, lr: 1.0e+30}]
  rates:
    kind: curve
    title: Rates
    x: lr
    log: true
    where: {dataset: small-ir20, method: head-only, value: overall}
    points: [{sweep: lr, values: [0.01, 1.0e+30]}]
claims:
  better:
    statement: A low rate helps
    parts:
      - {a: {lr: 0.01}, b: {lr: 1.0e+30}, over: [{dataset: small-ir20, method: head-only}], value: overall, expect: higher}
"""
CONFIG = "title: Toy\nbackbone: toy\nseeds: [0, 1, 2]\ndata: {small: toy}\nresources: {threads: 1, mem_mb: 1000, runtime: 5}\n"


@pytest.fixture
def study(tmp_path):
    """Made-up results of a study; the run of the high rate at seed 1 diverged."""
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "config.yaml").write_text(CONFIG)
    made = load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path / "results", figures=tmp_path / "figures")
    write_results(made.results, made.specs)
    diverge(made, slug(made, "1e+30", 1))
    return made


def slug(study, lr: str, seed: int) -> str:
    return next(slug for slug in study.specs if f"lr={lr}" in slug and f".s{seed}" in slug)


def diverge(study, slug: str) -> None:
    spec = study.specs[slug]
    record = {
        key: value for key, value in fake_record(spec).items() if key not in ("metrics", "training", "evaluation", "scored")
    }
    write_json(failed_file(study.results, slug), record | {"slug": spec.train.slug, "failed": FAILED})
    metrics_file(study.results, slug).unlink()


def cells(study) -> list[list[str]]:
    return [row[1:] for row in csv.reader(io.StringIO(table_files(study, "one")["csv"]))]


def test_a_diverged_run_is_told_in_its_cell_and_leaves_no_mean(study):
    grid, files = table_grid(study, "one"), table_files(study, "one")
    low, high, zero = (row[0] for row in grid.values)
    assert (high.mean, high.std, high.n) == (None, None, 2)
    assert low.n == zero.n == 3
    assert "| diverged (1 of 3) |" in files["md"] and "diverged (1 of 3)" in files["tex"]
    assert f"{slug(study, '1e+30', 1)} {WORDS}" in files["md"]
    assert all("nan" not in cell for row in cells(study) for cell in row)


def test_a_result_may_not_be_asked_of_a_blank(study):
    runs, gone = read_runs(study, study.artefact("one")), slug(study, "1e+30", 1)
    with pytest.raises(PelError, match="diverged"):
        runs[gone]
    assert runs.without([gone, slug(study, "1e+30", 0)]) == "diverged (1 of 2)"


def test_figures_mark_it(study):
    bars = {bar.label: bar for bar in bar_figure(study, "bars").bars}
    assert bars["High"].value.blank == "diverged (1 of 3)" and bars["High"].value.mean is None
    assert bars["High"].parameters == bars["Low"].parameters
    made = curve_figure(study, "rates")
    assert made.lines[0].at == [0.01] and made.lines[0].blanks == [(1e30, "diverged (1 of 3)")]
    assert any(WORDS in line for line in made.sheet.caption)
    for name in ("bars", "rates"):
        study.artefact(name).how.draw(study, name, study.figures)
        assert (study.figures / f"{name}.pdf").stat().st_size and WORDS in (study.figures / f"{name}.txt").read_text()
    with style():
        axes = (figure := draw_curve(made)).axes[0]
        assert [line.get_xdata() for line in axes.lines if line.get_marker() == "x"] == [[1e30]]
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["no mean: diverged"]


def test_a_claim_that_needs_it_is_undecided_and_says_why(study):
    text = claim_files(study)["md"]
    assert "A low rate helps: **undecided**" in text and "diverged (1 of 6)" in text


def test_planning_counts_it_as_an_outcome(study):
    gone = slug(study, "1e+30", 1)
    assert study.state(gone) == "diverged" and not study.missing()
    assert str(failed_file(study.results, gone)) in study.inputs("one")
    assert not [file for file in study.targets() if gone in file]
    assert "9 done (1 diverged), 0 missing" in plan(study).replace("of which ", "")
    assert "1 diverged" in status(study) and "remove" in status(study)


@pytest.mark.parametrize("change", ["spec", "cut off", "data"])
def test_a_record_of_something_else_counts_for_nothing(study, change):
    gone = slug(study, "1e+30", 1)
    path = failed_file(study.results, gone)
    record = read_json(path)
    if change == "cut off":
        path.write_text(path.read_text()[:100])
    elif change == "spec":
        write_json(path, record | {"spec": record["spec"] | {"epochs": 99}})
    else:
        about = {"class_names": ["cat"], "ratios": [20], "digests": {"train-ir20": "1", "test": "2"}}
        write_json(study.results / "data" / "toy" / "data.json", about)
        write_json(path, record | {"data": record["data"] | {"sha256": content_hash(about, "toy-ir20")}})
        assert study.state(gone) == "diverged"  # of what is prepared
        write_json(path, record | {"data": record["data"] | {"sha256": "2" * 64}})
    assert study.state(gone) == "missing"


def test_strict_makes_it_again_and_draws_nothing_without_it(study):
    strict = replace(study, config={**study.config, "strict": True})
    assert strict.missing() == [slug(study, "1e+30", 1)]
    with pytest.raises(PelError, match="has no result"):
        table_files(strict, "one")
    assert list(draw_partly(strict)) == []


def test_what_failed_is_a_blank_with_its_reason_log_and_command(study):
    failed, missing = slug(study, "1e+30", 0), slug(study, "1e+30", 2)
    for name in (failed, missing):
        metrics_file(study.results, name).unlink()
    log = study.results / "logs" / f"{failed}.train.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: no memory\n")
    with pytest.raises(PelError, match="has no result"):
        table_files(study, "one")
    lines = list(draw_partly(study))
    assert lines == [f"{name}: drawn without 2 of its {n} runs, which are named in it" for name, n in
                     (("one", 9), ("bars", 6), ("rates", 6), ("study-claims", 6))]  # fmt: skip
    text = Path(study.files("one")[1]).read_text()
    assert "failed (1 of 3), diverged (1 of 3), missing (1 of 3)" in text
    assert f"{failed} failed: error: no memory" in text and f"{failed}.train.log" in text
    assert f"snakemake --cores 1 --resources gpu=1 {metrics_file(study.results, missing)}" in text
    # Older than what it was drawn from, so that Snakemake draws it anew.
    newest = max(os.stat(path).st_mtime for path in study.inputs("one") if Path(path).exists())
    assert all(os.stat(file).st_mtime < newest for file in study.files("one"))


def test_an_artefact_without_any_result_is_not_drawn(study):
    for name in study.artefact("rates").specs:
        metrics_file(study.results, name).unlink(missing_ok=True)
        failed_file(study.results, name).unlink(missing_ok=True)
    assert [line.split(":")[0] for line in draw_partly(study)] == ["one"]


@pytest.mark.slow
def test_a_study_with_a_run_that_diverges_ends_in_its_tables(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "config.yaml").write_text(CONFIG.replace("[0, 1, 2]", "[0]"))
    words = [sys.executable, "-m", "snakemake", "-s", f"{ROOT}/Snakefile", "--cores", "2", "--resources", "gpu=2"]
    words += ["--workflow-profile", f"{ROOT}/workflow/profiles/default", "--config", "study=study.yaml", "config=config.yaml"]
    first = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert first.returncode != 0 and "the loss became" in first.stderr
    table = tmp_path / "results" / "tables" / "one.md"
    assert "diverged (1 of 1)" in table.read_text() and "drawn without" not in table.read_text()
    kept = {path: path.stat().st_mtime_ns for path in run_folder(tmp_path / "results", "*").parent.glob("*/train.json")}
    second = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert second.returncode == 0, second.stderr
    assert "diverged (1 of 1)" in table.read_text()
    assert (tmp_path / "figures" / "rates.pdf").is_file() and (tmp_path / "results" / "tables" / "study-claims.md").is_file()
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert "Nothing to be done" in subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600).stderr
