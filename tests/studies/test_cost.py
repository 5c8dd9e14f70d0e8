"""The cost model: operations of a run, and how long they take at a measured speed."""

import socket

import numpy as np
import pytest
import torch

from pel_core.cli.main import main
from pel_core.common.files import write_json
from pel_core.common.tensors import read_tensors
from pel_core.data.sampling import profile_counts
from pel_core.models.tip_adapter import TipAdapterF
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.cost import forward_gflop, throughput_file, training_gflop, work
from pel_core.studies.plan import plan
from pel_core.studies.study import load
from pel_core.studies.text_cost import text_gflop, tower_file


def test_the_network_costs_what_performance_notes_say():
    spec = RunSpec.make("cifar100-ir100", "clip-b16", "adaptformer", 0)
    assert forward_gflop(spec) == pytest.approx(35.4 - 2.6, rel=0.02)  # the last block is computed for one token alone
    study = load("report", "paper")
    cost = work(study, spec)
    assert (cost.train, cost.evaluate) == (10 * 10_847, 5 * 10_000)
    assert work(study, RunSpec.make("inat2018", "clip-b16", "adaptformer", 0)).train == 20 * 437_513


@pytest.mark.parametrize(
    "method, gflop",
    [("adaptformer", 64.1), ("adaptformer@6:12", 45.6), ("vpt-shallow+adaptformer@6:12", 70.8), ("ln+adaptformer", 67.2),
     ("ssf-attn", 66.4)],
)  # fmt: skip
def test_a_training_image_costs_what_its_method_reaches_down_to(method, gflop):
    """Against the counted operations of PERFORMANCE.md; the model leaves the deltas themselves out."""
    assert training_gflop(RunSpec.make("cifar100-ir100", "clip-b16", method, 0)) == pytest.approx(gflop, rel=0.07)


def test_a_plan_of_gpu_hours_names_what_it_rests_on(tmp_path):
    study = load("report", "paper", results=tmp_path)
    assert "On paper, not measured" in plan(study) and "one H200: " in plan(study) and "one RTX 3090: " in plan(study)
    found = {"train": 2e5, "evaluate": 1e5, "device": "cuda: made up", "batch": 128, "precision": "fp16"}
    write_json(throughput_file(tmp_path), {socket.gethostname(): {"clip-b16": found}})
    text = plan(study)
    assert "measured by a short calibration on cuda: made up: about" in text and "hours are not known" not in text
    write_json(throughput_file(tmp_path), {"elsewhere": {"clip-b16": found}})
    assert "hours are not known" in plan(study)


def test_a_calibration_measures_this_machine(tmp_path, capsys):
    study = load("report", "demo", results=tmp_path)
    assert "hours are not known" in plan(study)
    for _ in range(2):  # what is known is not measured again
        assert main(["measure-throughput", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("GFLOP/s in training (fp32)") == 1
    assert "short calibration" in plan(study)
    assert main(["measure-throughput", "--config", "cifar", "--results", str(tmp_path)]) == 0
    assert "fp16 is for a GPU" in capsys.readouterr().out or torch.cuda.is_available()


def test_a_plan_says_which_runs_take_two_passes(tmp_path):
    rows = "\n".join(f"      - {{label: {name}, sharpness: {name}}}" for name in ("none", "sam", "imbsam"))
    where = "{method: adaptformer, dataset: c-ir100, value: overall}"
    table = f'  t:\n    title: "{{c}}: passes"\n    where: {where}\n    rows:\n{rows}'
    (tmp_path / "study.yaml").write_text(f"title: T\nroles: {{c: C}}\ntables:\n{table}\n    columns: [{{label: Overall}}]\n")
    (tmp_path / "config.yaml").write_text("{title: T, backbone: clip-b16, seeds: [0], data: {c: cifar100}}")
    study = load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path / "results")
    costs = {spec.sharpness: work(study, spec) for spec in study.specs.values()}
    assert costs["sam"] == costs["imbsam"] and costs["sam"].train == 2 * costs["none"].train
    assert costs["sam"].train_gflop == 2 * costs["none"].train_gflop and costs["sam"].evaluate == costs["none"].evaluate
    text = plan(study)
    assert "1 run of sharpness=sam: a step takes up to 2 passes" in text and "1 run of sharpness=imbsam" in text
    assert f"Images: {5 * 10 * 10_847:,} to train on" in text


def test_a_plan_says_who_asks_the_network_twice_and_takes_two_streams(tmp_path):
    rows = "\n".join(
        f"      - {{label: {name}, {options}}}"
        for name, options in {
            "one": "method: vpt-deep",
            "two": "method: lpt, from: one",
            "three": "method: lpt, from: one, sampler: dual, loss: agcl",
        }.items()
    )
    where = "{dataset: c-ir100, value: overall}"
    table = f'  t:\n    title: "{{c}}: prompts"\n    where: {where}\n    rows:\n{rows}'
    (tmp_path / "study.yaml").write_text(f"title: T\nroles: {{c: C}}\ntables:\n{table}\n    columns: [{{label: Overall}}]\n")
    (tmp_path / "config.yaml").write_text("{title: T, backbone: clip-b16, seeds: [0], data: {c: cifar100}}")
    study = load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path / "results")
    text = plan(study)
    assert "1 run of sampler=dual (2 streams): a step takes up to 2 passes" in text
    assert "2 runs of lpt: an image takes two passes through the last 6 of 12 blocks, in training and evaluation" in text
    costs = {(spec.method, spec.sampler): work(study, spec) for spec in study.specs.values()}
    first, one, two = costs["vpt-deep", "shuffle"], costs["lpt", "shuffle"], costs["lpt", "dual"]
    assert two.train == 2 * one.train == 2 * first.train and two.evaluate == one.evaluate == first.evaluate
    assert 1.4 < one.evaluate_gflop / first.evaluate_gflop < 1.6


def test_a_plan_says_which_passes_go_forward_only(tmp_path):
    rows = "\n".join(f"      - {{label: {name}, loss: {name}}}" for name in ("la", "bcl", "paco"))
    where = "{method: adaptformer, dataset: c-ir100, value: overall}"
    table = f'  t:\n    title: "{{c}}: passes"\n    where: {where}\n    rows:\n{rows}'
    (tmp_path / "study.yaml").write_text(f"title: T\nroles: {{c: C}}\ntables:\n{table}\n    columns: [{{label: Overall}}]\n")
    (tmp_path / "config.yaml").write_text("{title: T, backbone: clip-b16, seeds: [0], data: {c: cifar100}}")
    study = load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path / "results")
    costs = {spec.loss: work(study, spec) for spec in study.specs.values()}
    assert costs["paco"].train == costs["bcl"].train == 2 * costs["la"].train
    assert costs["la"].train_gflop < costs["paco"].train_gflop < costs["bcl"].train_gflop
    text = plan(study)
    assert "1 run of loss=bcl (2 views): a step takes up to 2 passes" in text
    assert "1 run of loss=paco (2 views, one of them forward only, through the momentum encoder): a step takes up to 2" in text


def test_a_checkpoint_that_keeps_images_counts_them_on_disk(tmp_path):
    """Against files that runs write: features and labels, once a run."""
    study = load("report", "demo", results=tmp_path)
    for head, kept in {"knn": 1083, "tip-adapter-f": None, "cosine": 0, "language-guided": 24 * 64}.items():
        options = {"knn": {"epochs": 0}, "language-guided": {"prompt": "ensemble"}}.get(head, {})
        spec = RunSpec.make("demo-cifar-ir100", "clip-mini", "head-only", 0, head=head, **options)
        kept = len(TipAdapterF.remembers(long_tail_labels(), 0, {"per_class": 16})) if kept is None else kept
        more = work(study, spec).disk - work(study, RunSpec.make("demo-cifar-ir100", "clip-mini", "head-only", 0)).disk
        assert kept * (4 * spec.vit.width + 8) <= more <= 1.5 * kept * (4 * spec.vit.width + 8), head


def long_tail_labels():
    """Of the demo's images at ratio 100: 24 classes, 1083 images."""
    counts = profile_counts("exponential", 24, 200, 100)
    return np.repeat(np.arange(24), counts)


def test_the_text_tower_is_part_of_the_time_once_it_is_prepared(tmp_path, toy_results):
    """Against multiplications counted by hand, on the toy's tower: two blocks of width 24 (MLP of 48)."""
    spec = RunSpec.make("toy", "toy", "head-only", 0, recipe="coop", epochs=3, **{"head.context": 5})
    assert text_gflop(tmp_path, spec, 100) is None
    path = tower_file(toy_results, spec)
    made, _ = read_tensors(path)
    length = int(made["text.tokens"].argmax(1).max()) + 1 + 5
    classes, steps = len(made["text.tokens"]), 3 * -(-100 // spec.batch_size)
    block = 2 * length * (4 * 24 * 24 + 2 * 24 * 48) + 4 * length * length * 24  # projections and MLP, attention
    assert text_gflop(toy_results, spec, 100) == pytest.approx(steps * 2 * classes * 2 * block / 1e9)
    chunked = RunSpec.make("toy", "toy", "head-only", 0, recipe="coop", epochs=3, **{"head.context": 5, "head.chunk": 2})
    assert text_gflop(toy_results, chunked, 100) == pytest.approx(1.5 * text_gflop(toy_results, spec, 100))
    assert text_gflop(toy_results, RunSpec.make("toy", "toy", "ln", 0), 100) == 0
