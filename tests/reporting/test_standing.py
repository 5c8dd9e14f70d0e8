"""`make show`: nothing of before a change is shown as if it were of now, and what is advised will help."""

import json
import shutil
import socket
import time

import pytest
from fake_results import write_results

from pel_core.cli.main import main
from pel_core.cli.study_commands import show_text
from pel_core.common.files import read_json, write_json, write_text
from pel_core.spec.results import metrics_file
from pel_core.studies.status import status
from pel_core.studies.study import load

ROWS = [{"label": "PEL", "method": "adaptformer"}, {"label": "LN", "method": "ln"}]
BEFORE = "drawn before the study or its results changed"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Loads the study with its rows; with all of them drawn where asked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("title: Toy\nbackbone: toy\nseeds: [0, 1, 2]\ndata: {small: toy}\n")

    def at(rows=ROWS, draw=False, **more):
        table = {
            "title": "One",
            "where": {"dataset": "small-ir20", "value": "overall"},
            "rows": rows,
            "columns": [{"label": "All"}],
        }
        study = {"title": "Small", "roles": {"small": "Toy"}, "tables": {"t1": table}, **more}
        (tmp_path / "study.yaml").write_text(json.dumps(study))
        loaded = load("study.yaml", "config.yaml")
        if draw:
            write_results(loaded.results, loaded.specs)
            assert main(["table", "t1", "--study", "study.yaml", "--config", "config.yaml"]) == 0
        return loaded

    return at


def fail(study, slug, error="the loss became nan"):
    write_text(study.results / "logs" / f"{slug}.train.log", f"error: {slug}: {error}\n")


def test_what_is_of_now_is_shown_as_it_is(world):
    text = show_text(world(draw=True))
    assert "PEL" in text and BEFORE not in text and "Not made" not in text and "make study" not in text


def test_a_table_of_before_says_so(world):
    """A row was added, and its runs failed: the table without it was shown without a word."""
    world(draw=True)
    study = world([*ROWS, {"label": "Bias", "method": "bias"}])
    for seed in (0, 1, 2):
        fail(study, f"toy-ir20.toy.bias.s{seed}")
    text = show_text(study)
    assert text.startswith(f"! t1 was {BEFORE}; 3 of 9 runs failed:\n")
    assert "Outdated: t1.\n  error: the loss became nan  (results/logs/toy-ir20.toy.bias.s2.train.log" in text
    assert text.count("became nan") == 1 and "Mend this first (`make status` names every run), then run `make study`" in text
    assert f"t1  6 of 9 runs, {BEFORE}" in status(study)


def test_a_changed_word_or_number_is_seen_too(world):
    study = world(draw=True)
    renamed = world([{**ROWS[0], "label": "Adapters"}, ROWS[1]])
    text = show_text(renamed)
    assert text.startswith(f"! t1 was {BEFORE}:\n") and "Run `make study` (or snakemake), as before" in text
    assert "Outdated: t1.\n  t1 would say now: | Adapters | " in text
    study = world()
    assert BEFORE not in show_text(study)
    path = metrics_file(study.results, next(iter(study.specs)))
    record = read_json(path)
    write_json(path, record | {"metrics": record["metrics"] | {"overall": 1.0}})
    assert BEFORE in show_text(study)
    path.unlink()
    assert f"{BEFORE}; 1 of 6 runs missing:" in show_text(study)


def test_predictions_that_are_damaged_inside_say_what_makes_them_again(world):
    """The advice was to start Snakemake, which saw nothing to do."""
    study = world(draw=True)
    path = metrics_file(study.results, next(iter(study.specs))).with_name("predictions.parquet")
    path.write_bytes(b"PAR1".ljust(50) + path.read_bytes()[-4:])  # whole at its end, where planning looks
    text = show_text(study)
    assert text.startswith(f"! t1 was {BEFORE}:\n") and "predictions.parquet is damaged" in text and "as before" not in text
    assert f"score '{path.parent.name}' --results" in text and "Mend this first" in text


def test_what_is_not_made_says_what_will_help(world):
    study = world()
    assert "Not made yet: t1 (6 of 6 runs missing).\nRun `make study`" in show_text(study)
    fail(study, next(iter(study.specs)), "disk full")
    text = show_text(study)
    assert "t1 (1 of 6 runs failed, 5 missing)" in text and "error: disk full" in text
    assert "Mend this first" in text and "as before" not in text
    write_text(study.results / "logs/toy.data.log", "error: no images\n")  # before any run of it
    assert "t1 (6 of 6 runs failed)" in show_text(study) and "error: no images" in show_text(study)


def test_a_run_at_work_is_waited_for(world):
    study = world()
    lease = {"host": socket.gethostname(), "time": time.time(), "started": time.time()}
    write_json(study.results / "checkpoints" / f"{next(iter(study.specs))}.lease", lease)
    text = show_text(study)
    assert "t1 (1 of 6 runs running, 5 missing)" in text and "as before" not in text
    assert "1 run at work now: `make status`." in text


def test_a_result_that_cannot_be_used_says_why(world):
    study = world(draw=True)
    path = metrics_file(study.results, next(iter(study.specs)))
    record = read_json(path)
    write_json(path, record | {"spec": record["spec"] | {"lr": 0.5}})
    text = show_text(study)
    assert f"{BEFORE}; 1 of 6 runs cannot be used" in text and "lr: stored 0.5" in text and "Mend this first" in text


def test_a_drawing_that_failed_says_why(world):
    study = world(draw=True)
    shutil.rmtree(study.results / "tables")
    assert "Not made yet: t1.\nRun `make study`" in show_text(study)
    write_text(study.results / "logs/t1.log", "error: the pen is dry\n")
    assert "Not made yet: t1.\n  error: the pen is dry  (results/logs/t1.log)\nMend this first" in show_text(study)


def test_a_figure_is_judged_by_its_runs(world):
    bars = [{"label": "Bias", "method": "bias"}]
    figure = {"kind": "bars", "title": "F", "where": {"dataset": "small-ir20", "value": "overall"}, "bars": bars}
    study = world(draw=True, figures={"f1": figure})
    for file in study.files("f1"):
        write_text(file, "x")
    assert "Outdated" not in show_text(study)
    metrics_file(study.results, "toy-ir20.toy.bias.s0").unlink()
    assert "Outdated: f1." in show_text(study) and "! t1" not in show_text(study)
