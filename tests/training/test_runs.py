"""From a slug to its files through the command line: what is written, what is refused, what is never half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from pel_core.cli.main import main
from pel_core.common.files import read_json, write_json

SLUG = "toy-ir20.toy.adaptformer@2:4+vpt-shallow.s0"


@pytest.fixture(scope="module")
def results(toy_results):
    assert main(["train", SLUG, "--results", str(toy_results)]) == 0
    assert main(["evaluate", SLUG, "--results", str(toy_results)]) == 0
    return toy_results


def refused(capsys, *words) -> str:
    """Run a command that must fail; returns its one line of error."""
    capsys.readouterr()  # notes of commands before
    assert main(list(map(str, words))) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_metrics_hold_what_a_reader_needs(results):
    record = read_json(results / "runs" / SLUG / "metrics.json")
    assert (
        record["slug"] == SLUG
        and record["versions"] == {"prepare": 1, "train": 1, "predict": 1, "score": 1}
        and record["spec"]["lr"] == 0.01
    )
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
    accuracy = 100 * (stored["top_classes"][:, 0] == stored["labels"]).double().mean().item()
    assert accuracy == pytest.approx(read_json(results / "runs" / SLUG / "metrics.json")["metrics"]["overall"])


def test_another_ensembling_mode_reuses_the_training_run(results):
    trained = (results / "runs" / SLUG / "delta.safetensors").stat().st_mtime_ns
    assert main(["evaluate", f"{SLUG}.tte=none", "--results", str(results)]) == 0
    record = read_json(results / "runs" / SLUG / "tte=none" / "metrics.json")
    assert record["evaluation"]["crops"] == 1
    assert not (results / "runs" / SLUG / "tte=none" / "delta.safetensors").exists()
    assert (results / "runs" / SLUG / "delta.safetensors").stat().st_mtime_ns == trained


def test_evaluation_repeats_bit_for_bit(results):
    path = results / "runs" / SLUG / "logits.safetensors"
    before = load_file(path)["logits"]
    path.unlink()
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
        ("other.toy.lora.s0", "unknown data set 'other'"),
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
    shutil.copytree(results, tmp_path / "results")
    return tmp_path / "results"


def test_a_checkpoint_of_another_spec_is_refused(copy, capsys):
    path = copy / "runs" / SLUG / "train.json"
    record = read_json(path)
    record["spec"]["lr"] = 0.5
    write_json(path, record)
    assert "lr: stored 0.5, now 0.01" in refused(capsys, "evaluate", SLUG, "--results", copy)


def test_a_checkpoint_of_another_version_is_stale(copy, capsys):
    path = copy / "runs" / SLUG / "train.json"
    record = read_json(path) | {"versions": {"prepare": 1, "train": 0}}
    write_json(path, record)
    assert "is stale: trained by version 0, this is 1" in refused(capsys, "evaluate", SLUG, "--results", copy)


def test_a_checkpoint_of_other_data_is_refused(copy, capsys):
    path = copy / "runs" / SLUG / "train.json"
    record = read_json(path)
    record["data"]["sha256"] = "0" * 64
    write_json(path, record)
    assert "data hash" in refused(capsys, "evaluate", SLUG, "--results", copy)


def test_a_checkpoint_of_another_run_is_refused(copy, capsys):
    """Also what a kill between the two files of a training run would leave."""
    other = "toy-ir20.toy.adaptformer@2:4+vpt-shallow.s1"
    assert main(["train", other, "--results", str(copy)]) == 0
    capsys.readouterr()
    shutil.copy(copy / "runs" / other / "delta.safetensors", copy / "runs" / SLUG / "delta.safetensors")
    assert "is not the file that train.json describes" in refused(capsys, "evaluate", SLUG, "--results", copy)


def test_a_checkpoint_of_another_version_can_be_accepted(copy):
    path = copy / "runs" / SLUG / "train.json"
    write_json(path, read_json(path) | {"versions": {"prepare": 1, "train": 0}})
    assert main(["evaluate", SLUG, "--results", str(copy), "--accept"]) == 0
    made = read_json(copy / "runs" / SLUG / "metrics.json")["versions"]
    assert made == {"prepare": 1, "train": 0, "predict": 1, "score": 1}


@pytest.mark.parametrize(
    "file",
    [
        f"runs/{SLUG}/delta.safetensors", f"runs/{SLUG}/train.json", "backbones/toy/vit.safetensors",
        "backbones/toy/backbone.json", "data/toy/data.json", "data/toy/images-test.npy", "text/toy/toy.default.safetensors",
    ],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["missing", "empty", "torn", "{}"])
def test_a_damaged_file_is_named(copy, capsys, file, damage):
    path = copy / file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.parent.mkdir(exist_ok=True)
        path.write_bytes({"empty": b"", "torn": content[: len(content) // 2], "{}": b"{}"}[damage])
    error = refused(capsys, "evaluate", SLUG, "--results", copy)
    assert str(path) in error or (damage == "missing" and f"'{path.parent.name}' is not prepared" in error)


def test_an_unusable_results_folder_is_found_before_training(copy, capsys, monkeypatch):
    monkeypatch.setattr("pel_core.training.run.train", lambda *_: pytest.fail("it trained first"))
    slug = "toy.toy.lora.s0"
    (copy / "runs" / slug).write_text("in the way")
    assert "cannot write into" in refused(capsys, "train", slug, "--results", copy)


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "is not one of"), ("cpu:1", "is not one of"), ("cuda:99", "CUDA devices")]
)
def test_a_device_that_is_not_there(results, capsys, device, message):
    assert message in refused(capsys, "train", SLUG, "--results", results, "--device", device)


def test_results_can_be_read_by_colleagues(results):
    umask = os.umask(0)
    os.umask(umask)
    for name in ("delta.safetensors", "logits.safetensors", "metrics.json"):
        assert (results / "runs" / SLUG / name).stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_so_and_leaves_nothing(copy, number, status):
    slug = "toy.toy.lora.s0.epochs=100000"
    words = [sys.executable, "-m", "pel_core", "train", slug, "--results", str(copy)]
    run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert "epoch 0" in run.stderr.readline()
    run.send_signal(number)
    told = run.communicate(timeout=60)[1]
    assert run.returncode == status
    assert "Traceback" not in told
    assert not list((copy / "runs" / slug).iterdir())


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


def test_a_training_that_diverges_writes_only_that_it_did(results, capsys):
    slug = "toy.toy.lora.s0.lr=1e+30"
    assert "the loss became" in refused(capsys, "train", slug, "--results", results)
    assert [path.name for path in (results / "runs" / slug).iterdir()] == ["failed.json"]
    failed = read_json(results / "runs" / slug / "failed.json")["failed"]
    assert failed["epoch"] == 0 and failed["learning_rate"] > 1e29 and "the loss became" in failed["reason"]


def test_cuda_asked_for_where_there_is_none(results, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert "finds 0 CUDA devices" in refused(capsys, "train", SLUG, "--results", results, "--device", "cuda")
