"""Faults at random points, and starts where nothing can go well: whatever happens, the next start is right."""

import codecs
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from forks import Child
from test_study import CONFIG, ROOT, STUDY, command, snakemake

FAULTS = int(os.environ.get("PEL_FAULTS", "180"))
SEED = int(os.environ.get("PEL_FAULTS_SEED", "0"))


@pytest.mark.slow
def test_faults_at_random_points_are_survived_and_leave_equal_results():
    """PEL_FAULTS=N injects more, PEL_FAULTS_SEED=N others."""
    words = [sys.executable, str(ROOT / "tests" / "fault_injection.py"), "--faults", str(FAULTS), "--seed", str(SEED)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=3600)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    rows = re.findall(r"^\| ([\w -]+?) \| (\d+) \|.* (\d+) \| (\d+) \|$", done.stdout, re.M)
    counts = {kind: tuple(map(int, numbers)) for kind, *numbers in rows}
    assert len(counts) == 7 and counts["all"][0] >= FAULTS
    for kind, (injected, survived, equal) in counts.items():
        assert injected == survived == equal and injected >= FAULTS // 6, kind


def refused(words: list[str], prepare) -> str:
    """Run a command in a fork that must fail with one line; returns it."""
    end = Child(words, prepare).wait()
    assert end.status == 1 and "Traceback" not in end.told, end.told
    (error,) = [line for line in end.told.splitlines() if line.startswith("error: ")]
    return error


def bounded() -> None:
    """A disk that is full already."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def nobody() -> None:
    """A user who may read and not write (root may do anything)."""
    codecs.lookup("cp437")  # of zip files; the interpreter's own folder may be root's
    if os.getuid() == 0:
        os.setgroups([])
        os.setuid(65534)


COMMANDS = {
    "train": ["train", "toy.toy.lora.s0", "--results", "R"],
    "evaluate": ["evaluate", "toy.toy.zero-shot.s0", "--results", "R"],
    "data": ["data", "prepare", "toy", "--out", "R/new"],
    "backbone": ["backbone", "toy", "--out", "R/new"],
}


@pytest.fixture
def readable(toy_results):
    """The prepared inputs where every user can read them."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        results = Path(folder) / "results"
        shutil.copytree(toy_results, results)
        for path in [Path(folder), *Path(folder).rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield results
        for path in [Path(folder), *Path(folder).rglob("*")]:
            path.chmod(0o755)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_results_folder_is_a_clear_error(readable, name):
    error = refused([word.replace("R", str(readable), 1) for word in COMMANDS[name]], nobody)
    assert "ermission denied" in error and str(readable) in error


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_a_clear_error(toy_results, tmp_path, name):
    results = tmp_path / "results"
    shutil.copytree(toy_results, results)
    error = refused([word.replace("R", str(results), 1) for word in COMMANDS[name]], bounded)
    assert re.search("File too large|No space left", error) and str(results) in error
    assert not [path for path in results.rglob("*") if path.name.startswith(".") or path.suffix == ".lease"]


@pytest.mark.slow
def test_two_snakemakes_at_once_end_in_one_study(tmp_path):
    """Without Snakemake's own lock, as after a SIGKILL and --unlock: the second waits for the first's runs or repeats them."""
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "config.yaml").write_text(CONFIG)
    both = [subprocess.Popen(command("--nolock"), cwd=tmp_path, stdout=-3, stderr=-3) for _ in range(2)]
    for one in both:
        one.wait(timeout=600)
    done = snakemake(tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(pd.read_csv(tmp_path / "results" / "tables" / "one.csv")["Method"]) == ["AdaptFormer", "Zero-shot"]
    left = [path.name for path in tmp_path.rglob("results/**/.*") if path.name != ".gitignore"]
    left += list((tmp_path / "results").glob("checkpoints/*.lease"))
    assert not left
