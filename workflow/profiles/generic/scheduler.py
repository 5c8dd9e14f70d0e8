"""Snakemake's job script -> a scheduler's submit command, and a job's state -> the one word that Snakemake expects.

``submit SCRIPT`` prints the job's id; ``status ID`` prints running, success or failed. ``PEL_SCHEDULER`` names the scheduler
(one of ``SCHEDULERS``), ``PEL_SUBMIT`` holds options of the site's own: ``-q gpu -P account``. Another scheduler is another
entry. Only the standard library: it runs under any Python 3.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

LOGS = Path("results/logs/scheduler")
UNKNOWN_LIMIT = 600  # seconds


class Job(NamedTuple):
    """What a job asks for: ``minutes`` and ``mem_mb`` of it all, ``threads`` and ``gpus`` on one node."""

    name: str
    threads: int
    mem_mb: int
    minutes: int
    gpus: int

    @property
    def clock(self) -> str:
        """The time as HH:MM:SS."""
        return f"{self.minutes // 60:02d}:{self.minutes % 60:02d}:00"


class Scheduler(NamedTuple):
    """``submit`` makes the command from a job (the script follows); ``number`` finds the id in what it prints. ``query``
    are the commands that tell a job's state, the next where one fails; ``state`` reads the word from what they print."""

    submit: Callable[[Job], list[str]]
    number: str
    query: tuple[tuple[str, ...], ...]
    state: Callable[[str], str]
    stdin: bool = False  # the script is read from there


def read_job(script: str) -> Job:
    """What the job script's line of properties asks for."""
    line = re.search(r"^# properties = (.*)$", script, flags=re.M)
    if not line:
        sys.exit("error: the job script has no line of properties; is this Snakemake's?")
    told: Mapping[str, Any] = json.loads(line[1])
    asked = told.get("resources", {})
    name = re.sub(r"\W+", "-", f"pel-{told.get('rule') or told.get('groupid', 'group')}-{told.get('jobid', 0)}")
    return Job(name, told.get("threads", 1), asked.get("mem_mb", 4000), asked.get("runtime", 60), asked.get("gpu", 0))


def pbs(job: Job) -> list[str]:
    """PBS Pro and OpenPBS."""
    chunk = f"select=1:ncpus={job.threads}:mem={job.mem_mb}mb" + (f":ngpus={job.gpus}" if job.gpus else "")
    return ["qsub", "-N", job.name, "-l", chunk, "-l", f"walltime={job.clock}", "-r", "y", "-j", "oe", "-o", f"{LOGS}/"]


def pbs_state(text: str) -> str:
    """Of ``qstat -x -f``: F is over, whatever way."""
    state = re.search(r"job_state = (\w)", text)
    if state and state[1] != "F":
        return "running"
    status = re.search(r"Exit_status = (-?\d+)", text)
    return "success" if status and status[1] == "0" else "failed"


def sge(job: Job) -> list[str]:
    """Grid Engine; memory is per slot there. The parallel environment is called ``smp`` on most sites."""
    gpus = ["-l", f"gpu={job.gpus}"] if job.gpus else []
    memory = f"h_vmem={-(-job.mem_mb // job.threads)}M"
    words = ["qsub", "-terse", "-cwd", "-r", "y", "-j", "y", "-o", f"{LOGS}/", "-N", job.name, "-pe", "smp", str(job.threads)]
    return [*words, "-l", memory, "-l", f"h_rt={job.clock}", *gpus]


def sge_state(text: str) -> str:
    """Of ``qstat -j`` while the job is there, then of ``qacct -j``."""
    status = re.search(r"^exit_status +(\d+)", text, flags=re.M)
    if not status:
        return "running"
    failed = re.search(r"^failed +(\d+)", text, flags=re.M)
    return "success" if status[1] == "0" and (not failed or failed[1] == "0") else "failed"


def lsf(job: Job) -> list[str]:
    """LSF; memory is in MB on most sites. TERM comes two minutes before the end: the training saves."""
    gpus = ["-gpu", f"num={job.gpus}"] if job.gpus else []
    words = ["bsub", "-J", job.name, "-r", "-n", str(job.threads), "-R", "span[hosts=1]", "-M", str(job.mem_mb)]
    return [*words, "-W", f"{job.minutes // 60}:{job.minutes % 60:02d}", "-wa", "TERM", "-wt", "2", "-o", f"{LOGS}/%J.out", *gpus]


def lsf_state(text: str) -> str:
    """Of ``bjobs``."""
    return {"DONE": "success", "EXIT": "failed"}.get(text.strip(), "running")


def slurm(job: Job) -> list[str]:
    """SLURM, where its own plugin does not serve (PreemptMode=CANCEL). TERM comes early: the training saves."""
    gpus = [f"--gpus={job.gpus}"] if job.gpus else []
    words = ["sbatch", "--parsable", f"--job-name={job.name}", f"--cpus-per-task={job.threads}", f"--mem={job.mem_mb}"]
    warn = f"--signal=TERM@{min(120, 12 * job.minutes)}"
    return [*words, f"--time={job.minutes}", "--requeue", warn, f"--output={LOGS}/%j.out", *gpus]


def slurm_state(text: str) -> str:
    """Of ``squeue --states=all`` or ``sacct``."""
    word = text.split()[0] if text.split() else ""
    if word == "COMPLETED":
        return "success"
    alive = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "STOPPED")
    return "running" if word in alive else "failed"


SCHEDULERS = {
    "pbs": Scheduler(pbs, r"^(\d+\S*)", (("qstat", "-x", "-f"),), pbs_state),
    "sge": Scheduler(sge, r"^(\d+)", (("qstat", "-j"), ("qacct", "-j")), sge_state),
    "lsf": Scheduler(lsf, r"Job <(\d+)>", (("bjobs", "-noheader", "-o", "stat"),), lsf_state, stdin=True),
    "slurm": Scheduler(
        slurm,
        r"^(\d+)",
        (("squeue", "--noheader", "--states=all", "--format=%T", "--jobs"), ("sacct", "-nXPo", "state", "-j")),
        slurm_state,
    ),
}


def submit(scheduler: Scheduler, script: str) -> str:
    """Submit a job script; its id."""
    content = Path(script).read_text(encoding="utf-8")
    LOGS.mkdir(parents=True, exist_ok=True)
    command = [*scheduler.submit(read_job(content)), *shlex.split(os.environ.get("PEL_SUBMIT", ""))]
    command += [] if scheduler.stdin else [script]
    told = subprocess.run(command, input=content if scheduler.stdin else None, capture_output=True, text=True, check=False)
    number = re.search(scheduler.number, told.stdout, flags=re.M)
    if told.returncode or not number:
        sys.exit(f"error: {shlex.join(command)} ended with {told.returncode}: {told.stdout.strip()} {told.stderr.strip()}")
    return number[1]


def status(scheduler: Scheduler, number: str) -> str:
    """running, success or failed. A job unknown for ``UNKNOWN_LIMIT`` seconds has failed: its retry finds what it saved."""
    unknown = LOGS / f"{number}.unknown"
    for command in scheduler.query:
        try:
            told = subprocess.run([*command, number], capture_output=True, text=True, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            continue
        if told.returncode == 0 and told.stdout.strip():
            unknown.unlink(missing_ok=True)
            return scheduler.state(told.stdout)
    LOGS.mkdir(parents=True, exist_ok=True)
    if not unknown.exists():
        unknown.touch()
    if time.time() - unknown.stat().st_mtime < UNKNOWN_LIMIT:
        return "running"
    unknown.unlink(missing_ok=True)
    return "failed"


def main(words: list[str]) -> None:
    """``submit SCRIPT`` or ``status ID``; Snakemake adds the last word."""
    name = os.environ.get("PEL_SCHEDULER", "")
    if name not in SCHEDULERS:
        sys.exit(f"error: PEL_SCHEDULER={name}: expected one of {', '.join(SCHEDULERS)}")
    print({"submit": submit, "status": status}[words[0]](SCHEDULERS[name], words[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
