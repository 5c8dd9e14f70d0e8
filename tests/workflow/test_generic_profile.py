"""workflow/profiles/generic: what each scheduler is asked, and how its answers are read.

No such scheduler is here: the commands follow their manuals. tests/cluster runs a study through a stand-in for PBS, and
SLURM's own profile on a real SLURM.
"""

import importlib.util
import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "workflow" / "profiles" / "generic" / "scheduler.py"
PROPERTIES = {"rule": "train", "jobid": 7, "threads": 2, "resources": {"mem_mb": 4001, "runtime": 90, "gpu": 1}}
ASKED = {
    "pbs": "qsub -N pel-train-7 -l select=1:ncpus=2:mem=4001mb:ngpus=1 -l walltime=01:30:00 -r y -j oe",
    "sge": "qsub -terse -cwd -r y -j y -N pel-train-7 -pe smp 2 -l h_vmem=2001M -l h_rt=01:30:00 -l gpu=1",
    "lsf": "bsub -J pel-train-7 -r -n 2 -R span[hosts=1] -M 4001 -W 1:30 -wa TERM -wt 2 -gpu num=1",
    "slurm": "sbatch --parsable --cpus-per-task=2 --mem=4001 --gpus=1 --time=90 --requeue --signal=TERM@120",
}
ANSWERS = [
    ("pbs", "job_state = Q\n", "running"),
    ("pbs", "job_state = F\n Exit_status = 0\n", "success"),
    ("pbs", "job_state = F\n Exit_status = 271\n", "failed"),
    ("pbs", "job_state = F\n", "failed"),
    ("sge", "job_number: 3\n", "running"),
    ("sge", "failed       0\nexit_status  0\n", "success"),
    ("sge", "failed       100 : assumedly after job\nexit_status  137\n", "failed"),
    ("lsf", "PEND\n", "running"),
    ("lsf", "USUSP\n", "running"),
    ("lsf", "DONE\n", "success"),
    ("lsf", "EXIT\n", "failed"),
    ("slurm", "RUNNING\n", "running"),
    ("slurm", "PREEMPTED\n", "failed"),
    ("slurm", "COMPLETED\n", "success"),
    ("slurm", "CANCELLED by 0\n", "failed"),
    ("slurm", "NODE_FAIL\n", "failed"),
]


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """The module, as a file of its own."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("scheduler", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize("name", ASKED)
def test_a_job_asks_for_what_the_rule_says(scheduler, name):
    job = scheduler.read_job(f"#!/bin/sh\n# properties = {json.dumps(PROPERTIES)}\ntrue")
    asked = " ".join(scheduler.SCHEDULERS[name].submit(job))
    assert all(word in asked.split() for word in ASKED[name].split()), asked


@pytest.mark.parametrize("name", ASKED)
def test_a_job_without_a_gpu_asks_for_none(scheduler, name):
    job = scheduler.read_job("# properties = " + json.dumps({"rule": "data", "threads": 1, "resources": {}}))
    assert "gpu" not in " ".join(scheduler.SCHEDULERS[name].submit(job))


@pytest.mark.parametrize(("name", "text", "word"), ANSWERS)
def test_an_answer_is_one_of_three_words(scheduler, name, text, word):
    assert scheduler.SCHEDULERS[name].state(text) == word


def test_a_refused_job_says_why(scheduler, tmp_path, monkeypatch):
    program(tmp_path, "qsub", "#!/bin/sh\necho 'no such queue' >&2; exit 3\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PEL_SUBMIT", "-q 'a queue'")
    (tmp_path / "job.sh").write_text(f"# properties = {json.dumps(PROPERTIES)}\n")
    with pytest.raises(SystemExit, match=r"-q 'a queue' job.sh ended with 3: .*no such queue"):
        scheduler.submit(scheduler.SCHEDULERS["pbs"], "job.sh")


def test_a_job_that_nobody_knows_has_failed_in_the_end(scheduler, tmp_path, monkeypatch):
    program(tmp_path, "qstat", "#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    pbs = scheduler.SCHEDULERS["pbs"]
    assert scheduler.status(pbs, "7") == scheduler.status(pbs, "7") == "running"
    monkeypatch.setattr(scheduler, "UNKNOWN_LIMIT", -1)
    assert scheduler.status(pbs, "7") == "failed"


def test_an_unknown_scheduler_is_refused_by_name(scheduler, monkeypatch):
    monkeypatch.setenv("PEL_SCHEDULER", "pbx")
    with pytest.raises(SystemExit, match="PEL_SCHEDULER=pbx: expected one of pbs, sge, lsf, slurm"):
        scheduler.main(["status", "1"])
