"""A small study on a real SLURM, each of whose runs meets another fate of a cluster job, ends in the tables of a local run.

Five trainings start at once, one to a node. One meets its time limit, one is cancelled, one loses its node, one is requeued, one
is preempted; the sixth row trains nothing. A second folder makes the same study undisturbed, without SLURM.
"""

import json
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from slurm_lab import RUNNING, Slurm, lease, on_slurm, snakemake

pytestmark = pytest.mark.cluster

# What happens to which method's run, and how many seconds of undisturbed training it gets to happen in.
FATES = {
    "time limit": ("adaptformer", 40),
    "cancelled": ("ssf-ln", 10),
    "node failed": ("ln", 10),
    "requeued": ("bias", 10),
    "preempted": ("adapter", 10),
}
STUDY = """
title: Cluster
roles: {{small: Toy}}
tables:
  fates:
    title: What a cluster does
    where: {{dataset: small-ir20}}
    rows:
{rows}
      - {{label: undisturbed, method: zero-shot}}
    columns:
      - {{label: All, value: overall}}
      - {{label: Tail, value: tail}}
      - {{label: NLL, value: nll}}
    digits: 6
"""
CONFIG = """
title: Toy
backbone: toy
seeds: [0]
data: {small: toy}
resources: {threads: 1, mem_mb: 1500, runtime: 3}
"""
TABLES = ("fates.csv", "fates.md", "fates.tex")


@dataclass
class Story:
    """What was seen while the study ran on SLURM."""

    lab: Path
    reference: Path
    status: int = -1
    said: str = ""
    slugs: dict[str, str] = field(default_factory=dict)
    injected: dict[str, str] = field(default_factory=dict)  # fate: SLURM's job
    lines: dict[str, set[str]] = field(default_factory=dict)  # run: what its logs said about stopping and going on
    jobs: int = 0
    states: dict[str, set[str]] = field(default_factory=dict)  # SLURM's job: the states it was seen in
    seconds: float = 0.0


def epochs_of(folder: Path) -> dict[str, int]:
    """How many epochs take as long as each fate needs, on this machine."""
    trial = "toy-ir20.toy.adaptformer.s0.epochs=60"
    subprocess.run(snakemake("--cores", "2", f"results/runs/{trial}/train.json", "--quiet", "all"), cwd=folder, check=True)
    told = json.loads((folder / "results" / "runs" / trial / "train.json").read_text())
    shutil.rmtree(folder / "results" / "runs")
    return {fate: max(20, round(60 * seconds / told["training"]["seconds"])) for fate, (_, seconds) in FATES.items()}


@pytest.fixture(scope="module")
def slurm(slurm_programs, tmp_path_factory):
    started = Slurm(tmp_path_factory.mktemp("slurm"), nodes=6)
    yield started
    started.close()


@pytest.fixture(scope="module")
def story(slurm, tmp_path_factory) -> Story:
    lab = tmp_path_factory.mktemp("lab")
    (lab / "config.yaml").write_text(CONFIG)
    (lab / "study.yaml").write_text(STUDY.format(rows=""))
    # As docs/cluster.md says: backbone, data and text are prepared where there is a network, the trial run with them.
    epochs = epochs_of(lab)
    rows = [f"      - {{label: {fate}, method: {method}, epochs: {epochs[fate]}}}" for fate, (method, _) in FATES.items()]
    (lab / "study.yaml").write_text(STUDY.format(rows="\n".join(rows)))
    reference = lab.with_name(f"{lab.name}-reference")
    shutil.copytree(lab, reference)
    story = Story(lab, reference)
    for fate, (method, _) in FATES.items():
        story.slugs[fate] = f"toy-ir20.toy.{method}.s0.epochs={epochs[fate]}"
    undisturbed = subprocess.Popen(snakemake("--cores", "1", "--resources", "gpu=1", "--quiet", "all"), cwd=reference)
    try:
        run_disturbed(story, slurm)
        assert undisturbed.wait(timeout=600) == 0
    finally:
        undisturbed.kill()
    report(story)
    return story


def run_disturbed(story: Story, slurm: Slurm) -> None:
    """Run the study on SLURM and let every run meet its fate."""
    began, log = time.monotonic(), story.lab / "snakemake.log"
    with open(log, "w") as out:
        process = subprocess.Popen(on_slurm(), cwd=story.lab, env=slurm.env, stdout=out, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None and time.monotonic() - began < 900:
                observe(story, slurm)
                time.sleep(0.5)
        finally:
            process.kill()  # where it has not ended, the tests say so, with what it printed
    story.status, story.said, story.seconds = process.wait(), log.read_text(), time.monotonic() - began
    observe(story, slurm)
    story.jobs = len(re.findall(r"has been submitted with SLURM jobid", story.said))


def observe(story: Story, slurm: Slurm) -> None:
    """Note what is to be seen, and let the fates that are ripe happen: to a run that has something to lose."""
    for job in slurm.queue():
        story.states.setdefault(job.id, set()).add(job.state)
        for fate, slug in story.slugs.items():
            saved = story.lab / "results" / "checkpoints" / f"{slug}.safetensors"
            ripe = lease(story.lab / "results", slug) and saved.exists()
            if slug in job.what and "rule_train" in job.what and job.state == RUNNING and fate not in story.injected and ripe:
                strike(fate, job, slurm)
                story.injected[fate] = job.id
    for slug in story.slugs.values():
        file = story.lab / "results" / "logs" / f"{slug}.train.log"
        text = file.read_text() if file.exists() else ""
        story.lines.setdefault(slug, set()).update(re.findall(r"^.*(?:stopped by SIG|resumed from).*$", text, flags=re.M))


def strike(fate: str, job, slurm: Slurm) -> None:
    if fate == "time limit":  # SLURM warns within half a minute, as it looks no more often
        slurm.leave(job, 64)
    elif fate == "cancelled":
        slurm.run("scancel", job.id)
    elif fate == "requeued":
        slurm.run("scontrol", "requeue", job.id)
    elif fate == "node failed":
        slurm.crash(job.node)
    elif fate == "preempted":  # by a job of a partition that goes first
        where = ["--partition=gpu", f"--nodelist={job.node}", "--exclusive", "--output=/dev/null"]
        slurm.run("sbatch", *where, "--job-name=other", "--wrap=sleep 3")


def report(story: Story) -> None:
    """The counts, for whoever reads the log and for docs/reliability.md."""
    equal = sum((story.lab / "results/tables" / name).read_bytes() == (story.reference / "results/tables" / name).read_bytes()
                for name in TABLES)  # fmt: skip
    survived = sum((story.lab / "results/runs" / slug / "metrics.json").exists() for slug in story.slugs.values())
    resumed = sum(any("resumed" in line for line in lines) for lines in story.lines.values())
    print(
        f"\ncluster: {story.jobs} jobs submitted, {len(story.injected)} faults injected ({', '.join(story.injected)}), "
        f"{survived} survived, {resumed} resumed from a checkpoint, {equal} of {len(TABLES)} files equal to a local run's, "
        f"{story.seconds:.0f} s"
    )


def test_the_study_ends_well(story):
    assert story.status == 0, story.said[-4000:]


@pytest.mark.parametrize("fate", FATES)
def test_every_fault_was_injected_and_survived(story, fate):
    assert fate in story.injected
    assert (story.lab / "results" / "runs" / story.slugs[fate] / "metrics.json").exists()


def test_the_warning_came_before_the_time_limit_and_the_run_went_on_from_there(story):
    lines = story.lines[story.slugs["time limit"]]
    assert any("stopped by SIGTERM" in line for line in lines), lines
    assert any("resumed from" in line for line in lines), lines
    assert "TIMEOUT" not in story.states[story.injected["time limit"]]


@pytest.mark.parametrize("fate", FATES)
def test_every_run_went_on_where_it_was(story, fate):
    assert any("resumed from" in line for line in story.lines[story.slugs[fate]]), story.lines


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_those_of_a_local_run(story, name):
    there, here = (folder / "results" / "tables" / name for folder in (story.lab, story.reference))
    assert there.read_bytes() == here.read_bytes()


def test_nothing_is_left_to_do_and_nothing_is_left_over(story):
    again = subprocess.run(snakemake("-n"), cwd=story.lab, capture_output=True, text=True, check=True)
    assert "Nothing to be done" in again.stdout + again.stderr
    assert not list((story.lab / "results").rglob("*.lease"))
