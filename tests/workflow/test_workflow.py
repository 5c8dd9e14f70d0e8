"""The workflow's promises, tested on Snakemake's own plans: what runs again after which change, and nothing else.

A small study is built once with made-up results (tests/fake_results.py stands in for the engine); every test then asks for a
dry run after one change. The engine itself is not imported, so this stays quick.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from lab import ROOT, lay

from pel_core.common.yaml_files import load_yaml

STUDY = """
title: Small
roles: {small: Toy}
tables:
  t1:
    title: One
    rows:
      - {label: PEL, method: adaptformer}
      - {label: SSF, method: ssf-ln}
    columns:
      - {label: "20", dataset: small-ir20, value: overall}
      - {label: "10", dataset: small-ir10, value: overall}
  t2:
    title: Two
    where: {dataset: small-ir20}
    rows:
      - {label: PEL, method: adaptformer}
      - {label: Zero, method: zero-shot}
    columns:
      - {label: All, value: overall}
      - {label: One crop, value: overall, tte: none}
figures:
  f1:
    kind: bars
    title: Bars
    where: {dataset: small-ir20, value: overall}
    bars:
      - {label: ln, method: ssf-ln}
claims:
  c1:
    statement: PEL is better than SSF
    parts:
      - {a: {method: adaptformer}, b: {method: ssf-ln}, over: [{dataset: small-ir20}], value: overall, expect: higher}
"""
TABLE = """tables:
  t1:
    title: One
    where: {dataset: small}
    rows: [{label: PEL, method: adaptformer}]
    columns: [{label: All, value: overall}]
"""
CONFIG = """
title: Toy
backbone: toy
seeds: [0]
data: {small: toy}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The small study, built."""
    folder = tmp_path_factory.mktemp("lab")
    lab = lay(folder, STUDY, CONFIG)
    first = Counter(job.split()[0] for job in lab.plan())
    # adaptformer at two ratios and ssf-ln at two: four trainings, whatever shares them; each of t2's rows is evaluated twice.
    assert first == {
        "backbone": 1,
        "data": 1,
        "text": 1,
        "train": 4,
        "predict": 7,
        "score": 1,
        "table": 2,
        "figure": 1,
        "summary": 1,
    }
    lab.build()
    return folder


def test_nothing_runs_twice(lab):
    assert lab.plan() == []


def test_another_row_runs_its_own_runs(lab):
    lab.edit(
        "study.yaml", "- {label: SSF, method: ssf-ln}", '- {label: SSF, method: ssf-ln}\n      - {label: LN, method: "ln@-2:"}'
    )
    # ln@-2: is the last half of the toy backbone's four blocks.
    runs = [f"toy-ir{ratio}.toy.ln@2:4.s0" for ratio in (10, 20)]
    assert lab.plan() == [*(f"predict {run}" for run in runs), "table t1", *(f"train {run}" for run in runs)]


def test_a_run_that_starts_from_another_waits_for_it_and_follows_it(lab):
    """An edge of the workflow: a parent that is no row is trained first, and not evaluated; another one makes the child again."""
    start = "- {label: Two, method: ssf-ln, from: {method: ssf-ln, loss: ce}}"
    lab.edit("study.yaml", "- {label: Zero, method: zero-shot}", start)
    parent = "toy-ir20.toy.ssf-ln.s0.loss=ce"
    child = "toy-ir20.toy.ssf-ln.s0.parents=ssf-ln,loss:ce"
    first = [job for job in lab.plan() if not job.startswith("table")]
    assert first == [f"predict {child}", f"predict {child}/tte=none", f"train {parent}", f"train {child}"]
    lab.build()
    assert lab.plan() == []
    runs = lab.work / "results/runs"
    assert not (runs / parent / "metrics.json").exists()
    assert (runs / child / "train.json").stat().st_mtime_ns > (runs / parent / "train.json").stat().st_mtime_ns
    (runs / parent / "delta.safetensors").write_bytes(b"another training")
    assert [job for job in lab.plan() if job.startswith("train")] == [f"train {child}"]


def test_a_label_redraws_its_figure_alone(lab):
    lab.edit("study.yaml", "label: ln,", "label: LayerNorm,")
    assert lab.plan() == ["figure f1"]


@pytest.mark.slow
def test_a_title_redraws_its_table_alone(lab):
    lab.edit("study.yaml", "title: Two", "title: The second")
    assert lab.plan() == ["table t2"]


def test_a_seed_runs_only_itself(lab):
    jobs = lab.plan(seeds="0,1")
    assert all(".s1" in job for job in jobs if job.startswith(("train", "predict")))
    assert Counter(job.split()[0] for job in jobs) == {"train": 4, "predict": 7, "table": 2, "figure": 1, "summary": 1}


def test_steps_on_stored_logits_pass_no_image_through_a_network(lab):
    """A row of `posthoc` takes the runs that are there; an ensemble waits for the seeds that it lacks."""
    lab.edit("study.yaml", "- {label: SSF, method: ssf-ln}", "- {label: LA, method: adaptformer, posthoc: {la: 1}}")
    plan = [job for job in lab.plan() if job.split()[0] in ("posthoc", "train", "predict")]
    assert plan == [f"posthoc toy-ir{ratio}.toy.adaptformer.s0/posthoc.la=1" for ratio in (10, 20)]
    done = lab.snakemake("--cores", "1", "--resources", "gpu=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert lab.plan() == []
    (lab.work / "results/runs/toy-ir20.toy.adaptformer.s0/metrics.json").unlink()  # is predicted anew, and so scored anew
    plan = [job.split()[0] for job in lab.plan()]
    assert plan.count("predict") == plan.count("posthoc") == 1 and "train" not in plan
    lab.edit("study.yaml", "posthoc: {la: 1}", "posthoc: {ensemble: seeds}")
    lab.edit("config.yaml", "seeds: [0]", "seeds: [0, 1]")
    plan = lab.plan()
    for ratio in (10, 20):
        run = f"toy-ir{ratio}.toy.adaptformer"
        assert {f"posthoc {run}.s0/posthoc.ensemble=0,1", f"train {run}.s1", f"predict {run}.s1"} <= {*plan}
    assert sum(job.startswith("posthoc") for job in plan) == 2


def test_a_value_that_is_stored_costs_no_run(lab):
    lab.edit(
        "study.yaml", '{label: "10", dataset: small-ir10, value: overall}', "{label: F1, dataset: small-ir20, value: macro_f1}"
    )
    assert lab.plan() == ["table t1"]


DRAWN = {"table": 2, "figure": 1, "summary": 1}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("pel_core/evaluation/metrics.py", '@metric("overall", ', '@metric("new", "New")\n@metric("overall", '),
        ("pel_core/common/versions.py", "SCORE = 1", "SCORE = 2"),
    ],
)
def test_another_scoring_passes_no_image_through_a_network(lab, file, old, new):
    """One job for all runs, and what is drawn from them; then nothing more."""
    lab.edit(file, old, new)
    assert Counter(job.split()[0] for job in lab.plan()) == {"score": 1, **DRAWN}
    lab.build()
    assert lab.plan() == []


def test_a_run_that_comes_in_with_other_scores_is_scored(lab):
    path = lab.work / "results/runs/toy-ir20.toy.adaptformer.s0/tte=none/metrics.json"
    record = json.loads(path.read_text())
    changed = path.stat().st_mtime_ns
    path.write_text(json.dumps(record | {"scored": "otherwise", "versions": {**record["versions"], "score": 0}}))
    os.utime(path, ns=(changed, changed))
    assert Counter(job.split()[0] for job in lab.plan()) == {"score": 1, **DRAWN}


@pytest.mark.parametrize(
    ("stage", "made"),
    [
        ("PREPARE", {"backbone": 1, "data": 1, "text": 1, "train": 4, "predict": 7}),
        ("TRAIN", {"train": 4, "predict": 5}),  # zero-shot is not trained
        ("PREDICT", {"predict": 7}),
    ],
)
def test_another_version_of_a_stage_makes_again_what_follows_from_it(lab, stage, made):
    lab.edit("pel_core/common/versions.py", f"{stage} = 1", f"{stage} = 2")
    assert Counter(job.split()[0] for job in lab.plan()) == {**made, **DRAWN}


def test_another_test_time_mode_trains_nothing(lab):
    lab.edit("study.yaml", "label: One crop, value: overall, tte: none", "label: Ten crops, value: overall, tte: tencrop")
    runs = ["toy-ir20.toy.adaptformer.s0/tte=tencrop", "toy-ir20.toy.zero-shot.s0/tte=tencrop"]
    assert lab.plan() == [*(f"predict {run}" for run in runs), "table t2"]


def test_results_of_before_are_moved_and_none_is_made_again(lab):
    """Evaluations beside their trainings, records that know one number: the next call moves them, and only draws."""
    for path in (lab.work / "results/runs").glob("*/*=*"):
        path.rename(path.parent.with_name(f"{path.parent.name}.{path.name}"))
    for path in (lab.work / "results/runs").glob("*/*.json"):
        changed, record = path.stat().st_mtime_ns, json.loads(path.read_text())
        record = {"engine": 1} | {key: value for key, value in record.items() if key not in ("versions", "scored")}
        path.write_text(json.dumps(record))
        os.utime(path, ns=(changed, changed))
    shutil.rmtree(lab.work / "results/scores")
    told = lab.snakemake("-n").stderr
    assert told.count("2 evaluations moved into the folders of their trainings") == 1
    assert Counter(job.split()[0] for job in lab.plan()) == {"score": 1, **DRAWN}


def test_accepted_runs_stay_whatever_is_prepared_anew(lab):
    lab.edit("pel_core/common/versions.py", "TRAIN = 1", "TRAIN = 2")
    lab.edit("pel_core/common/versions.py", "PREPARE = 1", "PREPARE = 2")
    run = "toy-ir20.toy.ssf-ln.s0"
    lab.edit("config.yaml", "title: Toy", f"title: Toy\naccept: [{run}]")
    jobs = lab.plan()
    assert not [job for job in jobs if job.endswith(run)]
    assert Counter(job.split()[0] for job in jobs)["train"] == 3


def test_text_that_was_cut_short_hides_no_run(lab):
    """Snakemake forgets why a job should run where one that is `ancient` to it runs again: then nothing would train."""
    text = "results/text/toy/toy.default.safetensors"
    run = "toy-ir20.toy.ssf-ln.s0"
    shutil.rmtree(lab.work / f"results/runs/{run}")
    jobs = lab.plan("--forcerun", text)
    assert {"text toy toy default", f"train {run}", f"predict {run}"} <= set(jobs)


@pytest.mark.slow
def test_images_that_move_make_nothing_again(lab):
    mine = "datasets: {mine: {root: $PEL_DATA, train: train.txt, test: test.txt, names: names.txt}}"
    lab.edit("config.yaml", "data: {small: toy}", f"data: {{small: mine}}\n{mine}")
    lab.edit("study.yaml", STUDY[STUDY.index("tables:") :], TABLE)
    for place in ("a", "b"):
        (lab.work / place).mkdir()
        for name in ("names", "train", "test"):
            (lab.work / place / f"{name}.txt").write_text(name)
    done = lab.snakemake("--cores", "2", "--resources", "gpu=2", "--quiet", "all", root="a")
    assert done.returncode == 0, done.stdout + done.stderr
    assert lab.plan(root="a") == []
    assert lab.plan(root="b") == []
    shutil.rmtree(lab.work / "results/runs/mine.toy.adaptformer.s0")
    run = "mine.toy.adaptformer.s0"
    assert lab.plan(root="b") == [f"predict {run}", "table t1", f"train {run}"]
    (lab.work / "b/test.txt").write_text("other")
    assert "data mine" in lab.plan(root="b")
    (lab.work / "b/test.txt").unlink()
    done = lab.snakemake("-n", root="b")
    text = done.stdout + done.stderr
    assert done.returncode != 0 and "list file" in text and "--config root=FOLDER" in text
    assert "Traceback" not in text and "InputFunctionException" not in text


def test_a_recipe_runs_what_it_concerns(lab):
    ssf = '"scale and shift after both LayerNorms (Lian et al. 2022)",'
    lab.edit("pel_core/models/methods.py", ssf, f'{ssf}\n        recipe={{"lr": 0.02}},\n        attach=')
    runs = [f"toy-ir{ratio}.toy.ssf-ln.s0" for ratio in (10, 20)]
    drawn = ["figure f1", "summary study-claims", "table t1"]
    assert lab.plan() == sorted([*(f"{rule} {run}" for rule in ("predict", "train") for run in runs), *drawn])


def test_a_field_with_a_default_and_comments_run_nothing(lab):
    lab.edit("pel_core/spec/run_fields.py", "    vpt_len: int = 10\n", "    vpt_len: int = 10\n    another: float = 0.5\n")
    lab.edit("workflow/rules/train.smk", "# One training run", "# Just one training run")
    lab.edit("study.yaml", "title: Small", "title: Small # a remark")
    assert lab.plan() == []


def test_prepared_again_with_the_same_content_runs_nothing(lab):
    path = lab.work / "results/data/toy/data.json"
    os.utime(path, (path.stat().st_mtime + 100,) * 2)
    assert lab.plan() == []


def test_a_lost_run_is_made_again_alone(lab):
    shutil.rmtree(lab.work / "results/runs/toy-ir20.toy.ssf-ln.s0")
    run = "toy-ir20.toy.ssf-ln.s0"
    assert lab.plan() == ["figure f1", f"predict {run}", "summary study-claims", "table t1", f"train {run}"]


@pytest.mark.parametrize("cut", [False, True])
def test_lost_predictions_are_made_again_and_nothing_is_trained(lab, cut):
    run = "toy-ir20.toy.ssf-ln.s0"
    path = lab.work / f"results/runs/{run}/predictions.parquet"
    path.write_bytes(b"PAR") if cut else path.unlink()
    assert lab.plan() == ["figure f1", f"predict {run}", "summary study-claims", "table t1"]


@pytest.mark.parametrize(
    ("edit", "settings", "words"),
    [
        (("study.yaml", "method: ssf-ln}", "method: sff-ln}"), {}, ["study.yaml", "tables.t1", "sff-ln", "ssf-ln"]),
        (None, {"seed": "1"}, ["'seed'", "'seeds'"]),
    ],
)
def test_a_slip_is_one_clear_error_before_anything_is_planned(lab, edit, settings, words):
    if edit:
        lab.edit(*edit)
    done = lab.snakemake("-n", **settings)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert all(word in text for word in words), text
    assert "Job stats" not in text


def test_a_job_that_ends_is_one_line_with_its_run_and_result(lab):
    done = lab.snakemake("--cores", "1", "--resources", "gpu=1", "--quiet", "rules", "reason", "host", results="other results")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if re.match(r"\[\d+/19\] ", line)]
    assert [line.split("/")[0] for line in lines] == [f"[{i}" for i in range(1, 20)]
    accuracy = json.loads((lab.work / "other results/runs/toy-ir20.toy.ssf-ln.s0/metrics.json").read_text())["metrics"]["overall"]
    predicted = [line for line in lines if "predict toy-ir20.toy.ssf-ln.s0: " in line]
    assert len(predicted) == 1 and f": accuracy {accuracy:.1f} %, " in predicted[0]
    assert "19 jobs to do: " in done.stderr
    for chatter in ("Finished jobid", "steps (", "Select jobs", "Execute ", "rule train"):
        assert chatter not in done.stderr
    assert (lab.work / "other results/.gitignore").read_text() == "*\n"


@pytest.mark.slow
def test_why_jobs_failed_is_told_once_at_the_end(lab):
    """Also under `--quiet rules`, as make calls it, which hides what Snakemake shows of a job that failed."""
    (lab.code / "pel_core/__main__.py").write_text("raise SystemExit('error: the cheese is out')\n")
    for ratio in (10, 20):
        shutil.rmtree(lab.work / f"results/runs/toy-ir{ratio}.toy.ssf-ln.s0")
    done = lab.snakemake("--cores", "2", "--resources", "gpu=2", "--quiet", "rules", "reason", "host", "--keep-going")
    told = done.stderr.splitlines()
    assert done.returncode != 0 and done.stderr.count("the cheese is out") == 2  # when it happens, and at the end
    assert "error: the cheese is out  (results/logs/toy-ir" in done.stderr and "train.log and 1 more)" in done.stderr
    failed = [line for line in told if "FAILED" in line]
    assert len(failed) == 2 and failed[1].endswith("train.log") and "FAILED for the same reason: " in failed[1]
    run = r"toy-ir\d0\.toy\.ssf-ln\.s0"
    assert re.fullmatch(rf"\[1/\d+\] train {run} FAILED: results/logs/{run}\.train\.log", failed[0])
    assert told[told.index(failed[0]) + 1] == "    error: the cheese is out" and "CalledProcessError" not in done.stderr


@pytest.mark.parametrize("results", ["2024_01_15", "1.10", "1e3", "it's $5 100%"])
def test_a_results_folder_is_called_as_it_was_typed(lab, results):
    done = lab.snakemake("-n", results=results)
    outputs = re.findall(r"^ +output: (\S.*)$", done.stdout + done.stderr, flags=re.M)
    assert done.returncode == 0 and outputs
    assert all(output.startswith(f"{results}/") for output in outputs)  # figures too: they lie with their results


def test_an_undeclared_run_is_refused_by_name(lab):
    done = lab.snakemake("-n", "results/runs/toy-ir20.toy.adaptfomer.s0/metrics.json")
    assert done.returncode != 0
    assert "adaptfomer" in done.stdout + done.stderr
    assert "adaptformer" in done.stdout + done.stderr


def test_a_cluster_is_told_what_every_gpu_job_needs(lab):
    done = lab.snakemake("-n", "--forcerun", "train", "predict")
    blocks = re.split(r"^(?=rule \w+:)", done.stdout + done.stderr, flags=re.M)[1:]
    jobs = [block for block in blocks if block.startswith(("rule train:", "rule predict:"))]
    assert len(jobs) == 4 + 7
    for job in jobs:
        declared = re.search(r"^ +resources: (.*)$", job, flags=re.M)[1]
        for name in ("gpu=1", "mem_mb=", "runtime="):
            assert name in declared, job
        # The warning before the time limit: TERM, which Snakemake inside the job waits out; to the step, not the batch shell.
        assert ("slurm_extra=--signal=TERM@120" in declared) == job.startswith("rule train:"), job


def test_several_gpus_and_curves_change_no_number(lab):
    lab.edit("config.yaml", "title: Toy", "title: Toy\nresources: {gpus: 2}\ntensorboard: false")
    assert lab.plan() == []
    told = lab.snakemake("-n", "-p", "--forcerun", "train").stdout
    assert told.count("gpu=2, tasks=0") == 4 and told.count("--gpus 2 --no-tensorboard") == 4


def test_every_profile_is_sound():
    for path in (ROOT / "workflow/profiles").glob("*/config.yaml"):
        profile = load_yaml(path)
        assert profile["rerun-triggers"] == ["mtime", "params", "input"], path
        assert profile["rerun-incomplete"], path
        assert "default-resources" not in profile, path  # it would replace the site's own


def test_a_plain_call_uses_the_default_profile():
    """Without it a comment would train everything again; Snakemake looks for profiles/default and nowhere else."""
    words = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all"]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "workflow specific profile profiles/default" in told.stderr
