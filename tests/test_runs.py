"""From a slug to its files through the command line: what is written, what is refused, what is never half-written."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pel_core.cli import main
from pel_core.files import read_json, write_json

SLUG = "toy-ir20.toy.adaptformer@2:4+vpt-shallow.s0"


@pytest.fixture(scope="module")
def results(toy_results):
    assert main(["train", SLUG, "--results", str(toy_results)]) == 0
    assert main(["evaluate", SLUG, "--results", str(toy_results)]) == 0
    return toy_results


def refused(capsys, *words) -> str:
    """Run a command that must fail; returns its one line of error."""
    assert main(list(map(str, words))) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_metrics_hold_what_a_reader_needs(results):
    record = read_json(results / "runs" / SLUG / "metrics.json")
    assert record["slug"] == SLUG and record["engine"] == 1 and record["spec"]["lr"] == 0.01
    assert record["data"]["train_images"] == sum(record["data"]["train_counts"])
    assert record["parameters"]["by_part"].keys() == {"adaptformer", "vpt-shallow"}
    assert record["parameters"]["learnable"] + record["parameters"]["head"] == record["parameters"]["learnable_with_head"]
    assert len(record["metrics"]["per_class"]) == record["data"]["classes"] == 6
    assert [entry["epoch"] for entry in record["training"]["curve"]] == [0, 1]
    assert record["evaluation"]["crops"] == 5 and record["evaluation"]["images_per_second"] > 0
    assert record["environment"].keys() >= {"python", "torch", "device", "commit", "threads"}
    assert len(record["backbone"]["sha256"]) == len(record["data"]["sha256"]) == 64


def test_logits_are_kept_and_give_the_metrics(results):
    stored = load_file(results / "runs" / SLUG / "logits.safetensors")
    accuracy = 100 * (stored["logits"].argmax(1) == stored["labels"]).double().mean().item()
    assert accuracy == pytest.approx(read_json(results / "runs" / SLUG / "metrics.json")["metrics"]["overall"])


def test_another_ensembling_mode_reuses_the_training_run(results):
    trained = (results / "runs" / SLUG / "delta.safetensors").stat().st_mtime_ns
    assert main(["evaluate", f"{SLUG}.tte=none", "--results", str(results)]) == 0
    record = read_json(results / "runs" / f"{SLUG}.tte=none" / "metrics.json")
    assert record["evaluation"]["crops"] == 1
    assert not (results / "runs" / f"{SLUG}.tte=none" / "delta.safetensors").exists()
    assert (results / "runs" / SLUG / "delta.safetensors").stat().st_mtime_ns == trained


def test_evaluation_repeats_bit_for_bit(results):
    path = results / "runs" / SLUG / "logits.safetensors"
    before = load_file(path)["logits"]
    assert main(["evaluate", SLUG, "--results", str(results)]) == 0
    assert torch.equal(load_file(path)["logits"], before)


def test_zero_shot_needs_no_training(results, capsys):
    slug = "toy.toy.zero-shot.s0"
    assert main(["evaluate", slug, "--results", str(results)]) == 0
    record = read_json(results / "runs" / slug / "metrics.json")
    assert record["training"] is None and record["parameters"]["learnable_with_head"] == 0
    assert "trains nothing" in refused(capsys, "train", slug, "--results", results)


def test_training_an_evaluation_variant_names_the_run_to_train(results, capsys):
    assert f"train '{SLUG}'" in refused(capsys, "train", f"{SLUG}.tte=none", "--results", results)


@pytest.mark.parametrize(
    ("slug", "message"),
    [
        ("toy.toy.adaptfomer.s0", "Did you mean 'adaptformer'"),
        ("toy.tooy.lora.s0", "Did you mean 'toy'"),
        ("nonsense", "is not a run"),
        ("toy.clip-mini.lora.s0", "clip-mini"),
        ("other.toy.lora.s0", "other"),
        ("toy.toy.lora.s0.prompt=classname", "does not exist"),
    ],
)
def test_what_is_not_there_is_named_and_leaves_nothing(results, capsys, slug, message):
    assert message in refused(capsys, "train", slug, "--results", results)
    assert not (results / "runs" / slug).exists()


def test_an_untrained_run_cannot_be_evaluated(results, capsys):
    assert "train.json does not exist" in refused(capsys, "evaluate", "toy.toy.lora.s5", "--results", results)


@pytest.fixture
def copy(results, tmp_path):
    """A results folder of its own, to be damaged."""
    import shutil

    shutil.copytree(results, tmp_path / "results")
    return tmp_path / "results"


def test_a_checkpoint_of_another_spec_is_refused(copy, capsys):
    path = copy / "runs" / SLUG / "train.json"
    record = read_json(path)
    record["spec"]["lr"] = 0.5
    write_json(path, record)
    assert "lr: stored 0.5, now 0.01" in refused(capsys, "evaluate", SLUG, "--results", copy)


def test_a_checkpoint_of_another_engine_is_stale(copy, capsys):
    path = copy / "runs" / SLUG / "train.json"
    record = read_json(path) | {"engine": 0}
    write_json(path, record)
    assert "was trained by engine 0" in refused(capsys, "evaluate", SLUG, "--results", copy)


def test_a_checkpoint_of_other_data_is_refused(copy, capsys):
    path = copy / "runs" / SLUG / "train.json"
    record = read_json(path)
    record["data"]["sha256"] = "0" * 64
    write_json(path, record)
    assert "data hash" in refused(capsys, "evaluate", SLUG, "--results", copy)


def test_a_checkpoint_with_other_names_is_refused(copy, capsys):
    path = copy / "runs" / SLUG / "delta.safetensors"
    state = load_file(path)
    state["unknown"] = state.pop("head.weight")
    save_file(state, path)
    assert "of another run" in refused(capsys, "evaluate", SLUG, "--results", copy)


def test_text_features_of_permuted_classes_are_refused(copy, capsys):
    """A public run lost 12 points to a head whose rows were not the data's classes."""
    path = copy / "text" / "toy" / "toy.default.safetensors"
    names = ["green", "red", "blue", "yellow", "cyan", "magenta"]
    sha = read_json(copy / "backbones" / "toy" / "backbone.json")["sha256"]
    save_file(load_file(path), path, metadata={"class_names": json.dumps(names), "backbone_sha256": sha})
    assert "other class names" in refused(capsys, "train", "toy.toy.lora.s0", "--results", copy)


def test_text_features_of_other_weights_are_refused(copy, capsys):
    path = copy / "text" / "toy" / "toy.default.safetensors"
    names = read_json(copy / "data" / "toy" / "data.json")["class_names"]
    save_file(load_file(path), path, metadata={"class_names": json.dumps(names), "backbone_sha256": "0"})
    assert "other weights" in refused(capsys, "train", "toy.toy.lora.s0", "--results", copy)


def test_a_nan_loss_writes_nothing(results, capsys):
    slug = "toy.toy.lora.s0.lr=1e+30"
    assert "the loss became" in refused(capsys, "train", slug, "--results", results)
    assert not (results / "runs" / slug).exists()


def test_cuda_asked_for_where_there_is_none(results, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert "finds no CUDA device" in refused(capsys, "train", SLUG, "--results", results, "--device", "cuda")
