"""A study of 2,000 runs is planned rightly, and nothing of it is computed more often than it needs to be (docs/cluster.md)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pel_core.spec import run_spec as spec
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.plan import plan
from pel_core.studies.study import Study, load
from pel_core.studies.tuning import Base

ROOT = Path(__file__).parents[2]
# Four data sets, five methods, five learning rates, twenty seeds; the bars share half of the table's runs.
STUDY = """
title: Large
roles: {small: Toy}
tables:
  all:
    title: All
    where: {value: overall}
    rows:
%s
    columns:
%s
figures:
  some:
    kind: bars
    title: Some
    where: {value: overall, dataset: small-ir10}
    bars: [{label: AdaptFormer, method: adaptformer, lr: 0.1}, {label: LN, method: ln, lr: 0.2}]
"""
METHODS, RATES, RATIOS, SEEDS = ("adaptformer", "ln", "bias", "ssf-ln", "lora"), (0.1, 0.2, 0.3, 0.4, 0.5), (10, 20, 50, 100), 20
RUNS = len(METHODS) * len(RATES) * len(RATIOS) * SEEDS


@pytest.fixture
def large(tmp_path, monkeypatch) -> Path:
    """A folder with the study and its configuration."""
    rows = [f"      - {{sweep: lr, values: {list(RATES)}, label: '{method} {{}}', method: {method}}}" for method in METHODS]
    columns = [f"      - {{label: '{ratio}', dataset: small-ir{ratio}}}" for ratio in RATIOS]
    (tmp_path / "study.yaml").write_text(STUDY % ("\n".join(rows), "\n".join(columns)))
    (tmp_path / "config.yaml").write_text(
        f"title: Toy\nbackbone: toy\nseeds: {list(range(SEEDS))}\ndata: {{small: toy}}\nresources: {{threads: 1}}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_runs_name_is_spelled_once(large, monkeypatch):
    """What planning asks of a study for every run costs no walk over all runs."""
    study = load("study.yaml", "config.yaml")
    calls = []
    original = spec.spell
    monkeypatch.setattr(spec, "spell", lambda value: calls.append(value) or original(value))
    assert len(study.specs) == RUNS
    spelled = len(calls)
    assert spelled <= 2 * RUNS  # each name holds one value that departs; the bars' cells are specs of their own
    for slug in study.specs:
        study.train_params(slug), study.predict_params(slug), study.prepared(slug), study.accepted(slug), study.inputs("some")
    assert len(calls) == spelled
    assert study.specs is study.specs


def test_the_plan_counts_shared_runs_once(large):
    study: Study = load("study.yaml", "config.yaml")
    assert f"Runs: {RUNS}, of which 0 done, {RUNS} missing; to train {RUNS}, to evaluate {RUNS}." in plan(study)
    assert len(study.inputs("all")) == RUNS
    assert len(study.inputs("some")) == 2 * SEEDS


@pytest.mark.slow
def test_snakemake_plans_every_run_once(large):
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-n", "--quiet", "rules", "reason"]
    command += [
        "--workflow-profile",
        str(ROOT / "workflow/profiles/default"),
        "--config",
        "study=study.yaml",
        "config=config.yaml",
    ]
    done = subprocess.run(command, cwd=large, capture_output=True, text=True)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    stats = dict(re.findall(r"^(\w+) +(\d+)$", told, flags=re.M))
    made = {"backbone": 1, "data": 1, "text": 1, "train": RUNS, "predict": RUNS, "score": 1, "table": 1, "figure": 1, "all": 1}
    assert {name: int(count) for name, count in stats.items() if name != "total"} == made


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("adaptformer", {"lr": 0.02, "tte": "none"}),
        ("vpt-shallow+adaptformer@-2:", {"loss": "focal", "loss.gamma": 2, "split": "val"}),
        ("mask", {"mask_seed": "run"}),
        ("zero-shot", {}),
        ("adaptformer", {"posthoc.ensemble": [3, 4]}),
    ],
)
def test_the_runs_of_several_seeds_are_those_of_each(method, fields):
    base = Base("demo-cifar-ir100", "toy", method, {"precision": "fp32"}, fields)
    seeds = (3,) if "posthoc.ensemble" in fields else (3, 0, 12)
    made = base.specs(seeds)
    assert made == tuple(base.spec(seed) for seed in seeds)
    assert [spec.slug for spec in made] == [base.spec(seed).slug for seed in seeds]
    assert [spec.train.slug for spec in made] == [RunSpec.parse(spec.slug).train.slug for spec in made]
    assert all(spec.train.train is spec.train for spec in made)
