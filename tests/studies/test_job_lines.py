"""One line for each of Snakemake's jobs: what it was, what came out, what is left; and why it failed."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from pel_core.studies.config import WORKFLOW, make_results
from pel_core.studies.job_lines import JobLines, outcome, tell_jobs, title


class Watched:
    """A call of Snakemake as its logger tells it, a second per tick."""

    def __init__(self):
        self.now, self.lines = 0.0, []
        self.handler = JobLines(self.lines.append, lambda: self.now)

    def record(self, event: str, **fields) -> str:
        self.handler.handle(logging.makeLogRecord({"event": event, **fields}))
        return self.lines[-1] if self.lines else ""

    def start(self, number: int, rule: str, **wildcards) -> None:
        self.record("job_info", jobid=number, rule_name=rule, wildcards=wildcards, output=[], log=[])

    def job(self, number: int, rule: str, seconds: float, **wildcards) -> str:
        self.start(number, rule, **wildcards)
        self.now += seconds
        return self.record("job_finished", job_id=number)


@pytest.fixture
def watched() -> Watched:
    watched = Watched()
    watched.record("run_info", stats={"all": 1, "data": 1, "train": 3, "predict": 3, "table": 1, "total": 9})
    return watched


def test_what_is_left(watched):
    assert watched.lines == ["8 jobs to do: 1 data, 3 train, 3 predict, 1 table"]
    assert watched.job(1, "data", 5, base="toy") == "[1/8] data toy: 5.0 s; 7 left"  # nobody knows how long a training is
    assert watched.job(2, "train", 600, run="toy.toy.ln.s0") == "[2/8] train toy.toy.ln.s0: 600.0 s; 6 left"
    told = watched.job(3, "predict", 60, run="toy.toy.ln.s0/tte=none")
    assert told == "[3/8] predict toy.toy.ln.s0.tte=none: 60.0 s; 5 left, about 22 minutes"  # 2 of 10 minutes, 2 of one
    for number in (4, 5):
        watched.start(number, "train", run=f"toy.toy.ln.s{number}")
    watched.now += 600
    watched.record("job_finished", job_id=4)
    told = watched.record("job_finished", job_id=5)
    assert told == "[5/8] train toy.toy.ln.s5: 600.0 s; 3 left, about 1 minute"  # 2 of one minute, at 1.5 at once
    watched.job(6, "predict", 60, run="toy.toy.ln.s4")
    watched.job(7, "predict", 60, run="toy.toy.ln.s5")
    assert watched.job(8, "table", 1, table="t1") == "[8/8] table t1: 1.0 s; 0 left"
    count = len(watched.lines)
    watched.job(0, "all", 0)
    assert len(watched.lines) == count


def test_jobs_that_a_selection_adds_are_counted():
    watched = Watched()
    watched.record("run_info", stats={"all": 1, "train": 1, "select": 1, "table": 1, "total": 4})
    watched.job(1, "train", 60, run="toy.toy.ln.s0")
    assert watched.record("progress", done=1, total=4) == "[1/3] train toy.toy.ln.s0: 60.0 s; 2 left"
    watched.job(2, "select", 1, selection="toy")
    assert watched.record("progress", done=2, total=6) == "2 jobs more to do, now that settings are chosen"
    assert watched.job(3, "train", 60, run="toy.toy.ln.s1") == "[3/5] train toy.toy.ln.s1: 60.0 s; 2 left"
    watched.job(4, "train", 60, run="toy.toy.ln.s2")
    assert watched.job(5, "table", 1, table="t1") == "[5/5] table t1: 1.0 s; 0 left"


def test_why_a_job_failed(watched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = Path("a.train.log")
    log.write_text("".join(f"line {i}\n\n" for i in range(20)) + "error: the disk is full\n")
    failed = {"rule_name": "train", "wildcards": {}, "output": []}
    watched.start(1, "train", run="toy.toy.ln.s0")
    lines = watched.record("job_error", jobid=1, log=["a.train.log"], **failed).splitlines()
    assert lines[0] == "[1/8] train toy.toy.ln.s0 FAILED: a.train.log"
    assert lines[-2:] == ["    line 19", "    error: the disk is full"] and len(lines) == 9
    assert watched.job(2, "data", 5, base="toy") == "[2/8] data toy: 5.0 s; 6 left, 1 failed"
    watched.start(3, "train", run="toy.toy.ln.s1")
    told = watched.record("job_error", jobid=3, log=["none.log", "a.train.log"], **failed)
    assert told == "[3/8] train toy.toy.ln.s1 FAILED for the same reason: a.train.log"
    watched.start(4, "train", run="toy.toy.ln.s2")
    assert watched.record("job_error", jobid=4, log=["none.log"], **failed).endswith("FAILED, and left no word: none.log")
    for number in (1, 3, 4):  # they are tried again
        told = watched.job(number, "train", 1, run=f"toy.toy.ln.s{number}")
    assert told == "[4/8] train toy.toy.ln.s4: 1.0 s; 4 left"


def test_a_result_that_cannot_be_read_stops_no_line(tmp_path):
    file = tmp_path / "metrics.json"
    job = SimpleNamespace(rule_name="predict", output=[str(file)], wildcards=None)
    for text in ("", "[]", "{}", '{"metrics": {"overall": null}}', '{"metrics": null}'):
        file.write_text(text)
        assert outcome(job) == ""
    file.write_text(json.dumps({"metrics": {"overall": 81.06}}))
    assert outcome(job) == "accuracy 81.1 %" and title(job) == "predict"
    file.unlink()
    assert outcome(job) == ""
    (tmp_path / "train.json").write_text(json.dumps({"training": {"curve": [{"loss": 0.12345, "accuracy": 97.25}]}}))
    trained = SimpleNamespace(rule_name="train", output=[str(tmp_path / "train.json")], wildcards={})
    assert outcome(trained) == "loss 0.123, 97.2 % of the training images right"


@pytest.mark.parametrize(
    ("quiet", "told"),
    [("rules", True), ("rules reason host", True), ("", False), ("reason", False), ("rules progress", False), ("all", False)],
)
def test_snakemake_speaks_for_itself_unless_it_is_to_be_quiet_about_rules(quiet, told):
    from snakemake.logging import ColorizingTextHandler

    logger = logging.Logger("snakemake")
    logger.addHandler(ColorizingTextHandler())
    tell_jobs(logger, quiet.split())
    assert len(logger.handlers) == 1 + told
    plain, progress = (logging.makeLogRecord({"msg": "Exiting"}), logging.makeLogRecord({"event": "progress"}))
    assert logger.handlers[0].filter(plain) and bool(logger.handlers[0].filter(progress)) != told


def test_a_results_folder_is_ignored_by_git(tmp_path, monkeypatch):
    make_results(tmp_path / "a/b")
    assert (tmp_path / "a/b/.gitignore").read_text() == "*\n" and not (tmp_path / "a/.gitignore").exists()
    (tmp_path / "kept").mkdir()
    make_results(tmp_path / "kept")  # somebody's own
    assert not list((tmp_path / "kept").iterdir())
    monkeypatch.setattr("pel_core.studies.config.WORKFLOW", tmp_path / "workflow")
    make_results(tmp_path / "results")
    assert not (tmp_path / "results/.gitignore").exists() and WORKFLOW.name == "workflow"
