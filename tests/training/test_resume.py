"""Runs that were interrupted: they end bit for bit where an undisturbed one ends, for every method, loss, crop and start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from resuming import Asked, interrupted, train_once

from pel_core.cli.main import main
from pel_core.common.files import read_json
from pel_core.common.signals import Stopped
from pel_core.data.batches import TrainBatches
from pel_core.data.datasets import Split
from pel_core.hardware.lease import Lease
from pel_core.models.methods import METHODS, methods_for
from pel_core.spec.choices import CHOICES
from pel_core.spec.run_spec import RunSpec
from pel_core.training import checkpoints as checkpoint
from pel_core.training.checkpoints import CheckpointManager, checkpoint_path, read_checkpoint
from pel_core.training.contrastive import takes_features
from pel_core.training.step import Step

TRAINABLE = [name for name in methods_for("vit") if METHODS[name].trains_head]
SLUG = "toy-ir20.toy.adaptformer@2:4+vpt-shallow.s0"


WARMUP = {"schedule.warmup": 3, "schedule.warmup_unit": "steps", "schedule.warmup_start": 0.1}
GROUPS = {"optimizer.head_lr": 0.02, "optimizer.no_decay": "biases+norms", "optimizer.layer_decay": 0.8}
VARIANTS = [
    *({"method": method} for method in TRAINABLE),
    *({"method": "adaptformer" if takes_features(loss) else "head-only", "loss": loss} for loss in CHOICES["loss"]),
    *({"method": "adaptformer", "augment": augment} for augment in CHOICES["augment"]),
    *({"method": "adaptformer", "mix": mix, "mix.prob": 0.7} for mix in CHOICES["mix"] if mix != "none"),
    *({"method": "head-only", "init": init, "head": "linear" if init == "random" else "cosine"} for init in CHOICES["init"]),
    {"method": "adaptformer", "loss": "paco", "loss.queue": 50, "loss.momentum": 0.8, "sharpness": "sam", "accumulate": 2},
    {"method": "lora+vpt-deep+bias", "loss": "paco", "precision": "fp16", "average": "ema"},
    {"method": "lora+vpt-deep+bias", "precision": "fp16"},
    {"method": "ln+adaptformer@2:4", "precision": "bf16", "accumulate": 3},
    {"method": "mask", "mask_seed": "run"},
    *(
        {"method": "head-only", "optimizer": optimizer, "schedule": schedule, **WARMUP}
        for optimizer in CHOICES["optimizer"]
        for schedule in CHOICES["schedule"]
    ),
    *({"method": "adaptformer", "optimizer": optimizer, "precision": "fp16", **GROUPS} for optimizer in CHOICES["optimizer"]),
    {"method": "ln", "train_head": False, "init": "class-mean"},
    *(
        {"method": "lora", "average": average, "average.every": every, "average.start": 0.3, "epochs": 4, "schedule": "constant"}
        for average in CHOICES["average"]
        for every in ("step", "epoch")
        if average != "none"
    ),
    {"method": "lora", "average": "ema", "average.decay": 0.8, "average.keep": "val", "average.checks": 4, "data.val": 0.3},
    {"method": "adaptformer", "head.feature": "projected"},
    {"method": "head-only", "head": "clip-adapter", "precision": "bf16"},
    {"method": "ssf-ln", "head": "tip-adapter", "head.per_class": 5},
    {"method": "head-only", "head": "tip-adapter-f"},
    {"method": "adaptformer", "head": "coop", "head.context": 3},
    {"method": "head-only", "head": "text-tower", "head.tuning": "lora+ln@1:2", "head.chunk": 4, "precision": "bf16"},
    {"method": "adaptformer", "head": "language-guided", "prompt": "descriptions", "head.chunk": 4, "precision": "fp16"},
    {"method": "head-only", "recipe": "vl-ltr", "head.chosen_by": "val", "data.val": 0.3, "loss": "grw"},
    *({"method": "head-only", "sampler": sampler} for sampler in CHOICES["sampler"]),
    *({"method": "head-only", "loss": "ldam", "reweight": reweight} for reweight in CHOICES["reweight"]),
    *({"method": "adaptformer", "sharpness": name, "precision": "fp16"} for name in CHOICES["sharpness"]),
    {"method": "adaptformer", "sharpness": "imbsam", "reweight": "effective", "optimizer.clip_norm": 0.5, "accumulate": 2},
    {"method": "head-only", "sampler": "balanced", "sampler.defer": 0.5, "reweight": "effective", "reweight.defer": 0.5},
]


@pytest.mark.parametrize("choices", VARIANTS, ids=lambda choices: "-".join(map(str, choices.values())))
def test_an_interrupted_training_ends_bit_for_bit_where_another_ends(toy_results, tmp_path, choices):
    spec = RunSpec.make("toy-ir20", "toy", choices["method"], 3, **{k: v for k, v in choices.items() if k != "method"})
    plain, log = train_once(toy_results, spec)
    state, resumed, lives = interrupted(toy_results, spec, tmp_path / "c.safetensors", after=5)
    assert lives > 2
    assert state.keys() == plain.keys() and all(torch.equal(state[name], plain[name]) for name in plain)
    assert resumed.curve == log.curve


def test_a_checkpoint_from_before_the_choice_of_optimizers_goes_on(toy_results, tmp_path):
    spec, path = RunSpec.make("toy-ir20", "toy", "adaptformer", 3), tmp_path / "c.safetensors"
    plain, _ = train_once(toy_results, spec)
    identity = {"slug": spec.slug, "spec": spec.to_json()}
    with pytest.raises(Stopped):
        train_once(toy_results, spec, CheckpointManager(path, identity, requests=Asked(5)))
    tensors, about = read_checkpoint(path)
    older = {key.replace("optimizer.momentum_buffer.", "momentum."): value for key, value in tensors.items()}
    assert older.keys() != tensors.keys()
    for word in ("optimizer", "groups"):
        del about["state"][word]
    for word in [word for word in about["identity"]["spec"] if "." in word or word in ("optimizer", "schedule", "train_head")]:
        del about["identity"]["spec"][word]
    checkpoint.write_checkpoint(path, older, about)
    manager = CheckpointManager(path, identity)
    state, _ = train_once(toy_results, spec, manager)
    assert len(manager.resumed) == 1 and all(torch.equal(state[name], plain[name]) for name in plain)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_an_epoch_is_entered_in_the_middle(files, kind, workers):
    spec = RunSpec.make("toy", "toy", "lora", 0, batch_size=12)
    split = (
        files if kind == "files" else Split(files.labels, np.random.default_rng(1).integers(0, 255, (40, 16, 16, 3), np.uint8))
    )
    batches = TrainBatches(split, spec, 16, (0, 0, 0), (1, 1, 1), "cpu", workers=workers)
    whole = list(batches.epoch(1))
    for first in range(len(batches) + 1):
        rest = list(batches.epoch(1, first))
        assert len(rest) == len(batches) - first
        for (images, labels, indices), (images_2, labels_2, indices_2) in zip(rest, whole[first:], strict=True):
            assert torch.equal(images, images_2) and torch.equal(labels, labels_2) and (indices == indices_2).all()


# ---- the command


def start(results, slug, *words, **variables):
    words = [sys.executable, "-m", "pel_core", "train", slug, "--results", str(results), *words]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ | variables)


@pytest.fixture(scope="module")
def trained(toy_results):
    """The undisturbed run's files."""
    assert main(["train", SLUG, "--results", str(toy_results)]) == 0
    folder = toy_results / "runs" / SLUG
    return (folder / "delta.safetensors").read_bytes(), read_json(folder / "train.json")


def same(record: dict) -> dict:
    """A record without times and environment."""
    training = {k: v for k, v in record["training"].items() if k in ("curve", "micro_batch")}
    return {k: v for k, v in record.items() if k not in ("environment", "evaluation")} | {"training": training}


@pytest.fixture
def world(toy_results, tmp_path):
    """A results folder of its own on the shared prepared inputs."""
    for name in ("backbones", "data", "text"):
        (tmp_path / name).symlink_to(toy_results / name)
    return tmp_path


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)], ids=["TERM", "INT", "USR1"]
)
def test_a_signal_saves_and_the_next_start_goes_on(world, trained, number, status):
    slug = f"{SLUG}.epochs=100000"
    run = start(world, slug)
    assert "epoch 0" in run.stderr.readline()
    run.send_signal(number)
    told = run.communicate(timeout=60)[1]
    assert run.returncode == status and "Traceback" not in told
    last = told.strip().splitlines()[-1]
    assert last.startswith("error: stopped by SIG") and last.endswith("saved; the same command goes on from there")
    assert not (world / "runs" / slug / "delta.safetensors").exists()
    assert [path.name for path in (world / "checkpoints").iterdir()] == [f"{slug}.safetensors"]
    if number != signal.SIGTERM:
        return
    again = start(world, slug)
    first = again.stderr.readline()
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    assert "resumed from" in first


def test_a_killed_run_ends_in_the_same_bytes_and_an_evaluation_removes_the_checkpoint(world, trained, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)

    class Killed(BaseException):
        pass

    def dies(self, values):
        if values.get("step") == 11:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Lease, "note", dies)
        with pytest.raises(Killed):
            main(["train", SLUG, "--results", str(world), "--checkpoint-seconds", "1e-9"])
    assert main(["train", SLUG, "--results", str(world)]) == 0
    assert "10 of 16 steps are done" in capsys.readouterr().err
    folder = world / "runs" / SLUG
    assert (folder / "delta.safetensors").read_bytes() == trained[0]
    record = read_json(folder / "train.json")
    assert same(record) == same(trained[1]) and record["environment"]["resumed_at"] == [10]
    assert checkpoint_path(world, SLUG).exists()
    assert main(["evaluate", SLUG, "--results", str(world)]) == 0
    assert not list((world / "checkpoints").iterdir())


def test_a_finished_run_whose_files_were_deleted_ends_at_once(world, trained, capsys, monkeypatch):
    assert main(["train", SLUG, "--results", str(world)]) == 0
    for path in (world / "runs" / SLUG).iterdir():
        path.unlink()
    monkeypatch.setattr(Step, "__call__", lambda *_: pytest.fail("it trained again"))
    assert main(["train", SLUG, "--results", str(world)]) == 0
    assert "16 of 16 steps are done" in capsys.readouterr().err
    assert (world / "runs" / SLUG / "delta.safetensors").read_bytes() == trained[0]


def test_no_checkpoints_where_none_are_wanted(world, trained):
    assert main(["train", SLUG, "--results", str(world), "--checkpoint-seconds", "0"]) == 0
    assert not list((world / "checkpoints").iterdir())
    assert (world / "runs" / SLUG / "delta.safetensors").read_bytes() == trained[0]


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_seconds_that_make_no_sense(world, capsys, seconds):
    assert main(["train", SLUG, "--results", str(world), f"--checkpoint-seconds={seconds}"]) == 1
    assert "expected seconds" in capsys.readouterr().err


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    tensors, about = read_checkpoint(path)
    if how == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "garbled":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    else:
        key, value = {"engine": ("engine", 0), "data": ("data", "0" * 64), "weights": ("backbone", "1" * 64)}.get(
            how, ("spec", about["identity"]["spec"] | {"lr": 0.5})
        )
        about["identity"][key] = value
        checkpoint.write_checkpoint(path, tensors, about)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("torn", "is damaged"), ("empty", "is damaged"), ("garbled", "is damaged"), ("engine", "engine: stored 0, now 1"),
        ("data", "data: stored 000000000000"), ("weights", "backbone: stored 1111"), ("spec", "lr: stored 0.5, now 0.01"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_not_of_this_run_is_discarded_with_a_line(world, trained, capsys, how, words):
    assert main(["train", SLUG, "--results", str(world)]) == 0
    spoil(checkpoint_path(world, SLUG), how)
    capsys.readouterr()
    assert main(["train", SLUG, "--results", str(world)]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "discarded" in line]
    assert len(told) == 1 and words in told[0] and "training starts anew" in told[0]
    assert (world / "runs" / SLUG / "delta.safetensors").read_bytes() == trained[0]


def test_a_full_disk_stops_no_training(world, trained, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_checkpoint", full)
    assert main(["train", SLUG, "--results", str(world)]) == 0
    assert "no checkpoint was saved, training goes on" in capsys.readouterr().err
    assert (world / "runs" / SLUG / "delta.safetensors").read_bytes() == trained[0]


class Idle:
    """A state with nothing in it."""

    whole = True

    def tensors(self):
        return {}

    def numbers(self):
        return {"curve": [], "epoch": 0, "step": 0, "done": 0, "steps": 1}


def test_a_signal_while_the_processes_agree_is_not_lost(tmp_path):
    """It comes after this rank has said "none" and before the others have answered: the next step hears of it."""
    manager = CheckpointManager(tmp_path / "c")

    def agree(number: int) -> int:
        manager.agree = lambda number: number
        os.kill(os.getpid(), signal.SIGTERM)
        return number

    manager.agree = agree
    with manager.requests:
        manager.step(Idle(), None)
        with pytest.raises(Stopped, match="SIGTERM"):
            manager.step(Idle(), None)


def test_saving_costs_no_more_than_its_share(tmp_path, monkeypatch):
    """A save that takes long is made seldom, whatever the asked interval."""
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    saves = []

    def slow(*_):
        clock[0] += 2.0
        saves.append(clock[0])

    monkeypatch.setattr(checkpoint, "write_checkpoint", slow)

    manager = CheckpointManager(tmp_path / "c", seconds=1)
    for _ in range(20_000):
        clock[0] += 0.1
        manager.step(Idle(), None)
        manager.epoch(Idle(), None, last=False)
    assert len(saves) > 5 and 2.0 * len(saves) <= 0.015 * clock[0]
