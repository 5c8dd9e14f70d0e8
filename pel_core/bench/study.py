"""The demo study end to end in a folder of its own: where the time of its processes goes."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pel_core.bench.machine import Bench, glance
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_text
from pel_core.hardware.cores import usable_cpus
from pel_core.spec.results import result_files

ROOT = Path(__file__).resolve().parents[2]
# Python imports a module of this name at every start: each process of the study leaves a line when it ends.
TRACE = """
import atexit, json, os, resource, sys, time
START, PID = time.time(), os.getpid()
def leave():
    if os.getpid() != PID:  # forked
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    line = {"argv": sys.argv, "start": START, "end": time.time(), "cpu": used.ru_utime + used.ru_stime}
    with open(os.path.join(os.environ["PEL_TRACE"], f"{os.getpid()}.json"), "w") as handle:
        json.dump(line, handle)
atexit.register(leave)
"""
LEAVES = 3.0  # seconds in which the fork server notices that Snakemake is gone, and leaves its line
QUICK = """
title: A part of the demo
roles: {cifar100: CIFAR100-LT}
tables:
  one:
    title: Methods
    where: {dataset: cifar100-ir100}
    rows:
      - {label: AdaptFormer, method: adaptformer}
      - {label: Partial, method: "adaptformer@-6:"}
      - {label: Zero-shot, method: zero-shot}
    columns: [{label: Overall, value: overall}]
figures:
  bars: {kind: bars, title: Bars, where: {dataset: cifar100-ir100, value: overall}, bars: [{label: PEL, method: adaptformer}]}
"""
PHASES = {"train": "start-up", "evaluate": "start-up", "backbone": "preparation", "data": "preparation", "text": "preparation"}
ABOUT = {
    "training": "training loops",
    "evaluation": "evaluation loops",
    "start-up": "start-up, loading and writing of training and evaluation jobs",
    "preparation": "backbone, data sets, class-text features",
    "drawing": "tables, figures, summaries",
    "snakemake": "Snakemake's own processor time",
    "idle": "cores that waited",
}


def run(bench: Bench) -> dict[str, Any]:
    """Core-seconds of each phase; the whole is wall time x cores."""
    before = bench.wait()
    found = _measure(bench.quick)
    after = glance()
    for row in found["rows"]:
        bench.say(f"{row['phase']}: {row['core_seconds']:.1f} core-seconds, {row['share']:.1%}")
    bench.say(f"{found['runs']} runs in {found['wall_seconds']:.0f} s on {found['settings']['cores']} cores")
    # Before and after: jobs of the fork server are nobody's children, so that others' time cannot be told from theirs meanwhile.
    return {"others": max(before, after), **found}


def _measure(quick: bool) -> dict[str, Any]:
    cores = usable_cpus()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        words = [f"config={ROOT / 'workflow' / 'config' / 'demo.yaml'}"]
        if quick:
            write_text(folder / "quick.yaml", QUICK)
            words += ["study=quick.yaml", "seeds=0"]
        wall = _run(folder, cores, words)
        time.sleep(LEAVES)
        rows, runs = split(folder, wall, cores)
    settings = {"study": "a part of the demo: three runs" if quick else "report on demo", "cores": cores}
    return {"settings": settings, "runs": runs, "wall_seconds": wall, "rows": rows}


def _run(folder: Path, cores: int, words: list[str]) -> float:
    """Seconds of the study."""
    write_text(folder / "trace" / "sitecustomize.py", TRACE)
    paths = [str(folder / "trace"), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PEL_TRACE": str(folder / "trace")}
    command = snakemake_command(cores)
    clock = time.perf_counter()
    done = subprocess.run([*command, "--config", *words], cwd=folder, env=environment, capture_output=True, text=True)
    wall = time.perf_counter() - clock
    if done.returncode:
        raise PelError(f"the study failed: {done.stderr.strip()[-500:]}")
    return wall


def snakemake_command(cores: int) -> list[str]:
    """Snakemake on this repository's workflow, a job a core; what follows is up to the caller."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", str(cores)]
    return [*command, "--workflow-profile", str(ROOT / "workflow" / "profiles" / "default"), "--resources", f"gpu={cores}"]


def split(folder: Path, wall: float, cores: int) -> tuple[list[dict[str, Any]], int]:
    """The phases' core-seconds, from the processes' lines and the runs' records; and how many runs there were."""
    spent = dict.fromkeys(ABOUT, 0.0)
    for path in (folder / "trace").glob("*.json"):
        line = json.loads(path.read_text())
        if "snakemake" in line["argv"][0]:
            spent["snakemake"] += line["cpu"]
        elif Path(line["argv"][0]).parent.name == "fork_server":  # imports once, and forks: its jobs have lines of their own
            spent["start-up"] += line["cpu"]
        elif "pel_core" in line["argv"][0]:
            spent[PHASES.get(line["argv"][1], "drawing")] += line["end"] - line["start"]
    evaluated = result_files(folder / "results")
    loops = {"training": result_files(folder / "results", "train.json"), "evaluation": evaluated}
    for phase, paths in loops.items():
        spent[phase] = sum(read_json(path)[phase]["seconds"] for path in paths)
        spent["start-up"] -= spent[phase]
    spent["idle"] = max(0.0, wall * cores - sum(spent.values()))
    rows = [{"phase": name, "core_seconds": value, "share": value / (wall * cores)} for name, value in spent.items()]
    return rows, len(evaluated)
