"""A study on a SLURM of our own: start both, watch the queue, and do to jobs what a cluster does to them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("slurm.sh")
PROFILES = ROOT / "workflow" / "profiles"
RUNNING = "RUNNING"


class Job(NamedTuple):
    """One line of the queue. ``what`` is the rule, then the run it is about."""

    id: str
    state: str
    node: str
    what: str


class Slurm:
    """slurmctld and slurmd of ``tests/cluster/slurm.sh`` below ``folder``."""

    def __init__(self, folder: Path, nodes: int):
        self.folder = folder
        subprocess.run([str(SCRIPT), "up", str(folder), str(nodes)], check=True)
        told = subprocess.run(["bash", "-c", f". '{folder}/env.sh'; env -0"], capture_output=True, check=True).stdout.decode()
        self.env = dict(entry.split("=", 1) for entry in told.split("\0") if "=" in entry)

    def close(self) -> None:
        """End every daemon, and what its jobs may have left."""
        self.run("scancel", "--quiet", "--full", "--state=RUNNING", check=False)
        subprocess.run([str(SCRIPT), "down", str(self.folder)], check=False)
        for pid, environment in processes():
            if environment.get("SLURM_CONF") == str(self.folder / "slurm.conf") and "SLURM_JOB_ID" in environment:
                kill(pid)

    def run(self, *words: str, check: bool = True) -> str:
        """A SLURM command's output."""
        return subprocess.run(words, env=self.env, check=check, capture_output=True, text=True).stdout

    def queue(self) -> list[Job]:
        """Every job that SLURM remembers."""
        lines = self.run("squeue", "--noheader", "--states=all", "--format=%i|%T|%N|%k").splitlines()
        return [Job(*line.split("|", 3)) for line in lines]

    def leave(self, job: Job, seconds: int) -> None:
        """Set a running job's time limit so that it has some seconds left."""
        words = self.run("squeue", "--noheader", f"--jobs={job.id}", "--format=%M").strip().split(":")
        limit = sum(int(word) * 60**place for place, word in enumerate(reversed(words))) + seconds
        self.run("scontrol", "update", f"jobid={job.id}", f"timelimit={limit // 60}:{limit % 60}")

    def crash(self, node: str) -> None:
        """The node dies: its daemon, the keepers of its jobs (slurmstepd) and their processes, without a word."""
        mine = {pid: environment for pid, environment in processes() if environment.get("SLURM_CONF") == self.env["SLURM_CONF"]}
        tasks = [pid for pid, environment in mine.items() if environment.get("SLURMD_NODENAME") == node]
        keepers = {parent(pid) for pid in tasks} & {pid for pid in mine if pid not in tasks}
        for pid in (int((self.folder / f"slurmd.{node}.pid").read_text()), *keepers, *tasks):
            kill(pid)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=crashed")


def processes() -> Iterator[tuple[int, Mapping[str, str]]]:
    """Ids and environments of the processes that this user may see."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            entries = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        yield int(path.parent.name), dict(entry.split("=", 1) for entry in entries if "=" in entry)


def parent(pid: int) -> int:
    """The id of a process's parent; 0 where the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def kill(pid: int) -> None:
    """End a process at once, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def snakemake(*words: str, profile: str = "default") -> list[str]:
    """The command of a study on a profile, in the lab's folder."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--workflow-profile", str(PROFILES / profile)]
    return [*command, *words, "--config", "study=study.yaml", "config=config.yaml"]


def on_slurm(*words: str) -> list[str]:
    """The same on SLURM, with the site's partition and shorter waits than between real jobs."""
    quick = ["--latency-wait", "5", "--slurm-init-seconds-before-status-checks", "2"]
    return snakemake("--default-resources", "slurm_partition=scavenge", *quick, *words, profile="slurm")


def lease(results: Path, slug: str) -> Mapping[str, object]:
    """What a training in progress says about itself; empty where there is none."""
    try:
        return json.loads((results / "checkpoints" / f"{slug}.lease").read_text())
    except (OSError, ValueError):
        return {}
