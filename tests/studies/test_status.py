"""`make status`: what is done, running, stopped, failed and missing, told from files alone."""

import os
import socket
import time

import pytest
from fake_results import fake_record, write_results

from pel_core.cli.main import main
from pel_core.common.files import write_bytes, write_json, write_text
from pel_core.hardware.lease import SignOfLife, pid_space
from pel_core.spec.results import metrics_file, run_folder
from pel_core.studies.plan import about
from pel_core.studies.status import alive, last_line, lease_speed, look, read_leases, status
from pel_core.studies.study import load

STUDY = """
title: Small
roles: {small: Toy}
tables:
  t1:
    title: One
    where: {dataset: small-ir20}
    rows: [{label: PEL, method: adaptformer}, {label: SSF, method: ssf-ln}, {label: Zero, method: zero-shot}]
    columns: [{label: All, value: overall}, {label: One crop, value: overall, tte: none}]
"""
CONFIG = "title: Toy\nbackbone: toy\nseeds: [0, 1]\ndata: {small: toy}\n"
RUN, OTHER, ZERO = (f"toy-ir20.toy.{method}.s0" for method in ("adaptformer", "ssf-ln", "zero-shot"))


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return load("study.yaml", "config.yaml")


def lease(study, slug: str, age: float = 1, **values) -> dict:
    now = time.time()
    content = {"host": socket.gethostname(), "pid": os.getpid(), "slug": slug, "started": now - 101, "time": now - age}
    content |= {"epoch": 3, "epochs": 10, "step": 400, "steps": 1000, "loss": 1.234, "lr": 0.01, "device": "cuda:1", **values}
    write_json(study.results / "checkpoints" / f"{slug}.lease", content)
    return content


def log(study, slug: str, job: str, text: str) -> None:
    write_text(study.results / "logs" / f"{run_folder('', slug).relative_to('runs')}.{job}.log", text)


def done(study, slug: str) -> None:
    write_results(study.results, {slug: study.specs[slug]})


def dead_pid() -> int:
    """A process id that no longer runs."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_every_run_is_one_thing(study):
    done(study, ZERO)
    lease(study, RUN)
    log(study, OTHER, "train", "epoch 0 loss 3\nerror: the loss became nan\n")
    write_bytes(study.results / "runs/toy-ir20.toy.adaptformer.s1/delta.safetensors", b"x")
    found, live = look(study, time.time())
    assert found.done == [ZERO] and list(live) == [RUN]
    assert list(found.running) == [RUN, f"{RUN}.tte=none"]
    assert list(found.failed) == [OTHER, f"{OTHER}.tte=none"]  # neither can be evaluated
    assert found.trained == ["toy-ir20.toy.adaptformer.s1", "toy-ir20.toy.adaptformer.s1.tte=none"]
    assert found.states().keys() == study.specs.keys()


def test_the_words(study):
    done(study, ZERO)
    lease(study, RUN)
    log(study, OTHER, "predict", "error: disk full\n")
    text = status(study)
    assert "12 runs: 1 done, 2 running, 1 failed, 8 missing" in text
    assert "t1  1 of 12 runs" in text
    assert f"{RUN}  epoch 4 of 10, step 400 of 1,000, 4 steps/s, 2 minutes left, loss 1.23, on cuda:1 of" in text
    assert f"Failed:\n  error: disk full\n    results/logs/{OTHER}.predict.log  " in text
    assert f"{ZERO}.tte=none" not in text
    assert [f"{ZERO}.tte=none", "missing"] in [line.split() for line in status(study, every=True).splitlines()]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, True),
        ({"time": -121.0}, False),
        ({"pid": "dead"}, False),
        ({"pid": "dead", "host": "elsewhere"}, True),  # cannot be asked from here
        ({"pid": "dead", "pid_namespace": "another"}, True),  # nor from this container
        ({"host": "elsewhere", "time": -500.0}, False),
    ],
)
def test_a_lease_lives_as_long_as_its_process_says_so(values, expected):
    now = 1000.0
    given = {"host": socket.gethostname(), "pid": os.getpid(), **pid_space(), **values}
    given |= {"time": now + values.get("time", 0.0), "pid": dead_pid() if given["pid"] == "dead" else given["pid"]}
    assert alive(given, now) is expected


def test_a_stale_lease_is_told_as_stopped(study):
    lease(study, RUN, age=600)
    found, live = look(study, time.time())
    assert not live and "last sign of life" in found.stopped[RUN][1]
    assert "2 stopped" in status(study)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epoch 1\nerror: the loss became nan\n", "error: the loss became nan"),
        ("Traceback (most recent call last):\n  File x\nRuntimeError: broken\n\n", "RuntimeError: broken"),
        (
            "a\nslurmstepd: error: *** JOB 7 CANCELLED DUE TO TIME LIMIT ***\n",
            "slurmstepd: error: *** JOB 7 CANCELLED DUE TO TIME LIMIT ***",
        ),
        ("a\nKilled\n", "Killed"),
        ("epoch 1  loss 2.0\n", None),
        ("", None),
        ("error: early\nepoch 1\n", None),  # what was said before the end did not end it
    ],
)
def test_how_a_log_ends(tmp_path, text, told):
    write_text(tmp_path / "x.log", text)
    assert last_line(tmp_path / "x.log", tmp_path / "metrics.json") == told


def test_a_log_older_than_its_output_is_history(tmp_path):
    write_text(tmp_path / "x.log", "error: once\n")
    write_text(tmp_path / "out", "made since")
    os.utime(tmp_path / "x.log", (1, 1))
    assert last_line(tmp_path / "x.log", tmp_path / "out") is None


def test_the_end_of_a_long_log(tmp_path):
    write_text(tmp_path / "x.log", "noise\n" * 100_000 + "error: the end\n")
    assert last_line(tmp_path / "x.log", tmp_path / "out") == "error: the end"


@pytest.mark.parametrize("content", [b"{", b"", b"[]", b'{"time": null}', b'"text"', b"\xff"])
def test_a_torn_lease_says_nothing(study, content):
    write_bytes(study.results / "checkpoints" / f"{RUN}.lease", content)
    assert read_leases(study.results) == {}
    assert "12 missing" in status(study)


def test_a_run_that_was_asked_to_stop_did_not_fail(study):
    log(
        study,
        RUN,
        "train",
        "error: stopped by SIGTERM after step 7 of 16 (epoch 0), saved; the same command goes on from there\n",
    )
    text = status(study)
    assert "2 stopped" in text and "failed" not in text and text.count("step 7 of 16") == 1 and "[2 runs wait for it]" in text


def test_speed_is_of_this_process(study):
    assert lease_speed(lease(study, RUN, first_step=300)) == pytest.approx(1.0, rel=0.01)
    assert lease_speed({"time": 1.0}) == 0


def test_a_preparation_that_failed_is_told(study):
    """Else a study that could not start would only be missing."""
    assert "Failed" not in status(study)
    log(study, "toy", "backbone", "error: could not get the weights\n")
    text = status(study)
    assert "Failed before any run of it:\n  error: could not get the weights\n    results/logs/toy.backbone.log  " in text
    assert text.count("could not get") == 1 and f"[{len(study.specs)} runs wait for it]" in text
    write_text(study.results / "backbones/toy/backbone.json", "{}")  # it was made after all
    log(study, "toy", "data", "error: no images\n")
    text = status(study)
    assert "error: no images\n    results/logs/toy.data.log" in text and "could not get" not in text


def test_an_error_and_its_run_are_named_once(study):
    log(study, RUN, "train", f"error: {RUN}: the loss became nan at step 3\n")
    log(study, OTHER, "train", f"error: {OTHER}: the loss became nan at step 3\n")
    text = status(study)
    assert text.count("the loss became nan") == 1 and text.count(RUN) == text.count(OTHER) == 1
    assert f"results/logs/{RUN}.train.log  " in text and "4 failed" in text


def test_a_reason_not_to_use_results_is_told_once(study):
    for slug in (ZERO, f"{ZERO}.tte=none"):
        record = fake_record(study.specs[slug])
        write_json(metrics_file(study.results, slug), record | {"versions": record["versions"] | {"predict": 0}})
    text = status(study)
    assert text.count("stale: ") == 1 and text.count("accept: ['RUN']") == 1 and f"\n    {ZERO}\n    {ZERO}.tte=none" in text


def test_an_evaluation_runs_too(study):
    """Else nothing seems to be at work while a study evaluates."""
    now = time.time()
    for slug, told in ((f"{RUN}.tte=none", {}), (ZERO, {"images": 640, "of": 1000})):
        path = study.results / "checkpoints" / f"{slug}.predict.lease"
        with SignOfLife(path, slug, "cpu", "evaluated") as sign:
            sign.note(told)
            sign._replace()
            text = status(study)
            shown = "evaluated 640 of 1,000 images" if told else "is being evaluated"
            assert f"Running:\n  {slug}  {shown}, on cpu of " in text and "1 running" in text
            assert list(look(study, now)[0].running) == [slug]
        assert not path.exists() and "running" not in status(study)


def test_a_sign_of_life_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with SignOfLife(tmp_path / "file" / "x.lease", "x"), SignOfLife(tmp_path / "y.lease", "y") as one:
        with SignOfLife(tmp_path / "y.lease", "y"):  # another process that does the same
            pass
        assert not (tmp_path / "y.lease").exists()
        one.note({"images": 1})


def test_less_than_a_minute_is_not_about(tmp_path):
    assert (about(1 / 61), about(1 / 30), about(2)) == ("less than a minute", "about 2 minutes", "about 2.0 hours")


def test_many_failures_are_told_shortly(study):
    for slug in study.specs:
        log(study, slug, "predict", "error: no space left\n")
    text = status(study)
    assert "and 2 more (--all lists them)" in text and text.count("no space left") == 1  # of twelve evaluations
    assert "more (" not in status(study, every=True)


def test_the_rest_counts_down(study, tmp_path):
    counts = {"20": [50, 50]}
    about = {"ratios": [20], "train_counts": counts, "test_images": 100, "groups_from": None}
    write_json(study.results / "data/toy/data.json", about)
    record = fake_record(study.specs[RUN])
    record["data"] |= {"train_images": 100, "test_images": 100, "sha256": None}
    record["training"]["seconds"], record["evaluation"]["seconds"] = 3600.0, 60.0
    write_json(study.results / "runs" / RUN / "metrics.json", record)
    write_bytes(study.results / "runs" / RUN / "delta.safetensors", b"x")
    # Three trainings of an hour and a few minutes of evaluations.
    text = status(study)
    assert "Rest: about 3." in text and "on one device" in text
    lease(study, OTHER, step=500, steps=1000)
    lease(study, "toy-ir20.toy.ssf-ln.s1", step=500, steps=1000)
    assert "Rest: about 2." in status(study) and "while 2 train at once" in status(study)


def test_two_thousand_runs_take_a_moment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "config.yaml").write_text(CONFIG.replace("[0, 1]", str(list(range(334)))))
    study = load("study.yaml", "config.yaml")
    write_results(study.results, {slug: spec for slug, spec in study.specs.items() if spec.seed % 2})
    clock = time.monotonic()
    text = status(study)
    assert "2,004 runs: 1,002 done" in text and len(text.splitlines()) < 30
    assert time.monotonic() - clock < 20


def test_the_command(study, capsys):
    assert main(["status", "--study", "study.yaml", "--config", "config.yaml", "--all"]) == 0
    assert f"{RUN}  " in capsys.readouterr().out
