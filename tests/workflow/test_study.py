"""A small study for real, through Snakemake as a user runs it: trained, evaluated, drawn; killed and picked up again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from pel_core.common.files import read_json

ROOT = Path(__file__).parents[2]
STUDY = """
title: Small
roles: {small: Toy set}
tables:
  one:
    title: Toy
    where: {dataset: small-ir20}
    rows:
      - {label: AdaptFormer, method: adaptformer}
      - {label: Zero-shot, method: zero-shot}
    columns:
      - {label: Overall, value: overall}
      - {label: One crop, value: overall, tte: none}
figures:
  bars: {kind: bars, title: Bars, where: {dataset: small-ir20, value: overall}, bars: [{label: PEL, method: adaptformer}]}
  map: {kind: map, title: Map, where: {dataset: small-ir20}, methods: [{label: PEL, method: adaptformer}]}
"""
CONFIG = """
title: Toy
mark: TOY
notice: Made images
comparable: false
backbone: toy
seeds: [0, 1]
data: {small: toy}
resources: {threads: 1, mem_mb: 1000, runtime: 5}
"""
RUN = "toy-ir20.toy.adaptformer.s0"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A folder with a study and a configuration."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def command(*words: str) -> list[str]:
    profile = ROOT / "workflow" / "profiles" / "default"
    base = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--workflow-profile", str(profile), "--cores", "2"]
    return [*base, "--resources", "gpu=2", *words, "--config", "study=study.yaml", "config=config.yaml"]


def snakemake(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(*words), cwd=folder, capture_output=True, text=True, timeout=600)


def test_a_study_killed_half_way_is_picked_up_and_ends_in_its_tables(lab):
    started = subprocess.Popen(command(), cwd=lab, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(lab.glob("results/runs/*/train.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    finished = {path: path.stat().st_mtime_ns for path in lab.glob("results/runs/*/train.json")}
    assert snakemake(lab, "--unlock").returncode == 0
    done = snakemake(lab)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(lab / "results" / "tables" / "one.csv")
    assert list(table["Method"]) == ["AdaptFormer", "Zero-shot"]
    assert all(
        (lab / "figures" / f"{name}.{suffix}").stat().st_size > (100 if suffix == "txt" else 1000)
        for name in ("bars", "map")
        for suffix in ("pdf", "svg", "png", "txt")
    )
    assert not list(lab.glob("results/**/.*.*")), "a temporary file was left"
    assert finished  # something had been trained before the kill


def test_nothing_is_left_to_do(lab):
    again = snakemake(lab, "-n")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_the_table_is_the_runs_metrics(lab):
    table = pd.read_csv(lab / "results" / "tables" / "one.csv")
    values = [read_json(lab / "results" / "runs" / f"toy-ir20.toy.adaptformer.s{seed}" / "metrics.json") for seed in (0, 1)]
    mean = sum(value["metrics"]["overall"] for value in values) / 2
    assert mean == pytest.approx(float(table.loc[0, "Overall"]), abs=0.051)


def test_a_run_made_again_by_hand_has_the_same_bytes(lab):
    """A user may repeat any run outside the workflow; on a CPU it ends bit for bit where it ended before."""
    before = load_file(lab / "results" / "runs" / RUN / "delta.safetensors")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "pel_core", "train", RUN], cwd=lab, check=True, capture_output=True, env=environment)
    after = load_file(lab / "results" / "runs" / RUN / "delta.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


def test_the_commands_a_person_types(lab):
    for words, expected in (
        (["plan"], "Runs: 8"),
        (["status"], "done"),
        (["show"], "Tables: results/tables"),
    ):
        told = subprocess.run(
            [sys.executable, "-m", "pel_core", *words, "--study", "study.yaml", "--config", "config.yaml"],
            cwd=lab, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert expected in told.stdout


def test_a_failing_run_stops_neither_the_others_nor_hides_its_log(lab):
    (lab / "results" / "data" / "toy" / "images-train.npy").write_bytes(b"damaged")
    (lab / "results" / "runs" / RUN / "metrics.json").unlink()
    failed = snakemake(lab)
    assert failed.returncode != 0
    assert "has 7 bytes, expected" in failed.stdout + failed.stderr
    assert not (lab / "results" / "runs" / RUN / "metrics.json").exists()
