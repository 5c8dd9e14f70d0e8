"""A study through workflow/profiles/generic and a stand-in for PBS, whose commands only make files (tests/fake_results.py)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# qsub runs the script at once in the background and notes how it ended; qstat tells what PBS would.
QSUB = """#!/bin/sh
for script; do :; done
id=$(date +%s%N); echo "$@" >> "$STATE/asked"
( sh "$script" > /dev/null 2>&1; echo $? > "$STATE/$id" ) > /dev/null 2>&1 &
echo "$id.server"
"""
QSTAT = """#!/bin/sh
for id; do :; done
file="$STATE/${id%.server}"
[ -e "$file" ] && printf 'job_state = F\\nExit_status = %s\\n' "$(cat "$file")" || echo 'job_state = R'
"""
STUDY = """
title: Small
roles: {small: Toy}
tables:
  one:
    title: One
    where: {dataset: small-ir20}
    rows: [{label: Zero, method: zero-shot}]
    columns: [{label: All, value: overall}]
"""

pytestmark = pytest.mark.cluster


def test_a_study_through_a_stand_in_for_pbs(tmp_path):
    pytest.importorskip("snakemake_executor_plugin_cluster_generic", reason="pip install -r workflow/profiles/requirements.txt")
    code, work, programs, state = (tmp_path / name for name in ("code", "work", "bin", "state"))
    for folder in (code, work, programs, state):
        folder.mkdir()
    shutil.copy(ROOT / "Snakefile", code)
    for name in ("workflow", "pel_core"):
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__", "clip-mini", "conformance"))
    shutil.copy(ROOT / "tests/fake_results.py", code / "pel_core/__main__.py")
    for name, text in (("qsub", QSUB), ("qstat", QSTAT)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (work / "study.yaml").write_text(STUDY)
    (work / "config.yaml").write_text("title: Toy\nbackbone: toy\nseeds: [0]\ndata: {small: toy}\n")
    environment = {**os.environ, "PEL_SCHEDULER": "pbs", "PEL_SUBMIT": "-q gpu", "STATE": str(state)}
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    profile = ROOT / "workflow" / "profiles" / "generic"
    command = [sys.executable, "-m", "snakemake", "-s", str(code / "Snakefile"), "--workflow-profile", str(profile)]
    command += [
        "--latency-wait",
        "5",
        "--seconds-between-status-checks",
        "1",
        "--config",
        "study=study.yaml",
        "config=config.yaml",
    ]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (work / "results/tables/one.csv").is_file()
    asked = (state / "asked").read_text().splitlines()
    assert len(asked) == 5  # backbone, data, text, predict, score; the table is drawn here
    assert sum(":ngpus=1" in line for line in asked) == 1
    assert all("-q gpu" in line for line in asked)
    (work / "$(touch pwned).yaml").write_text((work / "config.yaml").read_text())
    refused = subprocess.run(
        [*command[:-1], "config=$(touch pwned).yaml", "results=other"], cwd=work, env=environment, capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "a cluster's shell would read as a command" in refused.stdout + refused.stderr
    assert len((state / "asked").read_text().splitlines()) == 5  # nothing was asked for anew
    assert not list(tmp_path.rglob("pwned"))
