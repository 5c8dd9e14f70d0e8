"""Trouble in a training: too little memory, a loss that is not finite, images that cannot be read. What is said and kept."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from resuming import train_once
from safetensors.torch import load_file

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.data import loading
from pel_core.data.batches import TrainBatches
from pel_core.data.datasets import open_prepared
from pel_core.hardware.cpu import EVAL_TOKENS
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.choices import CHOICES
from pel_core.spec.run_spec import RunSpec
from pel_core.training import checkpoints as checkpoint
from pel_core.training.checkpoints import CheckpointManager, read_checkpoint
from pel_core.training.classifier import build
from pel_core.training.contrastive import takes_features
from pel_core.training.loop import Diverged, State, _advice, predict, train
from pel_core.training.losses import LOSSES, Prior, decomposable
from pel_core.training.run_inputs import load
from pel_core.training.step import OutOfMemory, Step

SLUG = "toy-ir20.toy.adaptformer@2:4+vpt-shallow.s1"


def tight(monkeypatch, fits: int) -> None:
    """A device that has memory for so many images at once."""
    plain = Step._outputs
    direct = Step._direct

    def checked(method):
        def run(self, images, *rest):
            if len(images) > fits:
                raise OutOfMemory("CUDA out of memory (injected)")
            return method(self, images, *rest)

        return run

    monkeypatch.setattr(Step, "_outputs", checked(plain))
    monkeypatch.setattr(Step, "_direct", checked(direct))


class Narrow(torch.nn.Module):
    """A backbone on a device that has memory for so many crops at once."""

    def __init__(self, fits: int):
        super().__init__()
        self.fits, self.seen, self.tokens = fits, [], 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.fits:
            raise OutOfMemory("CUDA out of memory (injected)")
        return x.mean((2, 3))


def test_an_evaluation_with_too_little_memory_takes_fewer_crops_at_once(capsys):
    batches = [(torch.rand(count, 5, 3, 4, 4), torch.zeros(count)) for count in (6, 6, 2)]
    body = Narrow(8)
    expected = torch.cat([crops.mean((1, 3, 4)) for crops, _ in batches])
    torch.testing.assert_close(predict(body, batches), expected)
    assert body.seen == [30, 15, *[7] * 4, 2, *[7] * 4, 2, 7, 3]  # the size that fits is kept
    assert "with 15 crops at once: going on with 7" in capsys.readouterr().err
    with pytest.raises(PelError, match="with one image at a time"):
        predict(Narrow(0), batches)


def test_a_cpu_takes_what_its_caches_hold(toy_results, monkeypatch):
    body = Narrow(1000)
    body.tokens = EVAL_TOKENS // 20
    predict(body, [(torch.rand(6, 5, 3, 4, 4), torch.zeros(6))])
    assert body.seen == [20, 10]
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer", 0, epochs=1)
    whole, log = train_once(toy_results, spec)
    monkeypatch.setattr("pel_core.hardware.cpu.TRAIN_TOKENS", 10 * 5)  # a toy image has five tokens
    parts, small = train_once(toy_results, spec)
    assert (log.micro_batch, small.micro_batch) == (spec.batch_size, 10)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("device", "stored", "taken"), [("cpu", 7, 7), ("cpu", 1000, 32), ("cuda", 7, 32), (None, 7, 32)])
def test_a_micro_batch_is_taken_over_from_a_device_of_the_same_kind(toy_results, device, stored, taken):
    cpu = torch.device("cpu")
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer", 0, batch_size=32)
    data, classifier, _ = load(spec, toy_results, cpu, fresh=True)
    loss = LOSSES["la"](Prior(torch.as_tensor(data.train_counts)))
    before, after = (State(Step(classifier, loss, spec, cpu, ProcessGroup()), spec, 3, cpu) for _ in range(2))
    after.load(before.tensors(), before.numbers() | {"device": device, "micro_batch": stored})
    assert after.take.micro_batch == taken


def test_a_full_device_is_one_line(monkeypatch, capsys):
    def full(*_, **__):
        raise OutOfMemory("CUDA out of memory. Tried to allocate 2 GiB.\nMore words")

    monkeypatch.setattr("pel_core.evaluation.evaluate.evaluate_run", full)
    assert main(["evaluate", SLUG]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: the device's memory is full: CUDA out of memory. Tried to allocate 2 GiB. Use one with more that is free"
    ]


@pytest.mark.parametrize("loss", CHOICES["loss"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_too_little_memory_keeps_the_numbers(toy_results, tmp_path, monkeypatch, loss, accumulate):
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer", 0, loss=loss, accumulate=accumulate, epochs=1)
    plain, log = train_once(toy_results, spec)
    tight(monkeypatch, 5)
    path = tmp_path / "c.safetensors"
    state, small = train_once(toy_results, spec, CheckpointManager(path))
    assert log.micro_batch == 128 // accumulate or log.micro_batch == spec.batch_size // accumulate
    assert small.micro_batch <= 5 and read_checkpoint(path)[1]["state"]["micro_batch"] == small.micro_batch
    for name in plain:
        torch.testing.assert_close(state[name], plain[name], atol=2e-5, rtol=1e-4)
    assert small.curve[0]["loss"] == pytest.approx(log.curve[0]["loss"], rel=1e-5)


def test_parts_that_do_not_add_up_are_known(toy_results):
    """The losses taken as a mean over images are one: else less memory would be another number."""
    logits, labels = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 5
    for name, kind in LOSSES.items():
        if takes_features(name):
            assert not decomposable(name)  # every image is contrasted with every other
            continue
        loss = kind(Prior(torch.tensor([50, 20, 10, 5, 2, 1])))
        parts = sum(loss(logits[i : i + 3], labels[i : i + 3]) for i in range(0, 12, 3)) / 4
        assert torch.allclose(parts, loss(logits, labels), atol=1e-5) == decomposable(name), name


def test_one_image_that_does_not_fit_is_an_error(toy_results, monkeypatch, capsys):
    tight(monkeypatch, 0)
    assert main(["train", SLUG, "--results", str(toy_results)]) == 1
    told = capsys.readouterr().err
    assert "runs out of memory with one image at a time" in told and "going on with 1" in told


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_bad_loss_names_step_images_and_the_last_checkpoint(toy_results, tmp_path, poison, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer", 0)

    class Poisoned:
        def __init__(self, batches):
            self.batches, self.names = batches, batches.names

        def __len__(self):
            return len(self.batches)

        def epoch(self, epoch, first=0):
            for step, (images, labels, indices) in enumerate(self.batches.epoch(epoch, first), first):
                yield (images * poison if (epoch, step) == (1, 2) else images), labels, indices

    path = tmp_path / "c.safetensors"
    with pytest.raises(PelError) as error:
        train_once(toy_results, spec, CheckpointManager(path, seconds=1e-9), Poisoned)
    words = str(error.value)
    assert "the loss became nan at step 2 of epoch 1" in words and "training images" in words
    assert "In the batch were number " in words and words.endswith("they need not be the cause") and "precision=fp32" not in words
    assert f"last good checkpoint: {path}, epoch 1, step 2" in words
    assert all(value.isfinite().all() for value in load_file(path).values())


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"precision": "fp16"}, "Try a lower lr or a warm-up (schedule.warmup=1) or precision=bf16 or fp32"),
        ({"precision": "bf16"}, "Try a lower lr or a warm-up (schedule.warmup=1) or precision=fp32"),
        ({"precision": "fp32"}, "Try a lower lr or a warm-up (schedule.warmup=1)"),
        ({"precision": "fp32", "schedule.warmup": 1}, "Try a lower lr"),
    ],
)
def test_what_was_tried_is_not_advised(options, advice):
    assert _advice(RunSpec.make("toy", "toy", "lora", 0, **options)) == advice


def test_a_last_step_that_no_loss_shows_is_found(toy_results):
    """All of the parameters are finite still, and nothing that the network says is: its evaluation alone noticed."""
    spec = RunSpec.make("toy-ir20", "toy", "lora", 0, epochs=1, batch_size=1000, lr=1e30, precision="fp32")
    with pytest.raises(Diverged, match="a logit of the last batch is not finite after the last step; no result") as error:
        train_once(toy_results, spec, CheckpointManager(), lambda batches: batches)
    assert error.value.failed == {"reason": "a logit was not finite", "step": 0, "epoch": 0, "learning_rate": 1e30}


def test_the_first_bad_step_is_found_where_losses_are_read_seldom(toy_results, monkeypatch):
    """As on a GPU: the loss is read at log steps only."""
    from pel_core.training import loop as engine

    spec = RunSpec.make("toy", "toy", "lora", 0, epochs=1)
    reads, plain = [0], engine._finite

    def seldom(state, *rest):
        reads[0] += 1
        return 0.0 if reads[0] < 9 else plain(state, *rest)

    class Poisoned(TrainBatches):
        def epoch(self, epoch, first=0):
            for step, (images, labels, indices) in enumerate(super().epoch(epoch, first)):
                yield (images * float("nan") if step == 4 else images), labels, indices

    monkeypatch.setattr(engine, "_finite", seldom)
    data = open_prepared(toy_results / "data" / "toy", spec.dataset)
    classifier = load(spec, toy_results, torch.device("cpu"), fresh=True)[1]
    batches = Poisoned(data.train, spec, spec.pixels, spec.vit.mean, spec.vit.std, "cpu")
    with pytest.raises(PelError, match="became nan at step 4 of epoch 0"):
        train(classifier, batches, spec, torch.as_tensor(data.train_counts))


def batches_of(files, workers=0):
    spec = RunSpec.make("toy", "toy", "lora", 0, batch_size=8)
    return TrainBatches(files, spec, 16, (0, 0, 0), (1, 1, 1), "cpu", workers=workers), spec


def hang(path: str) -> None:
    """A file whose reading never ends: nobody writes into the pipe."""
    os.unlink(path)
    os.mkfifo(path)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_system_that_hangs_is_named(files, monkeypatch, workers):
    monkeypatch.setenv("PEL_READ_TIMEOUT", "0.5" if workers == 0 else "2")
    batches, _ = batches_of(files, workers)
    hang(files.paths[7])
    with pytest.raises(loading.DataError) as error:
        list(batches.epoch(0))
    assert ("7.png took longer than 0.5 s" if workers == 0 else "timed out after 2") in str(error.value)
    fd = os.open(files.paths[7], os.O_RDWR | os.O_NONBLOCK)  # lets the reader go
    os.close(fd)


def test_a_dead_worker_is_named(files):
    batches, _ = batches_of(files, workers=1)
    hang(files.paths[7])

    def kill():
        time.sleep(2)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    threading.Thread(target=kill).start()
    died = r"(killed by signal|exited unexpectedly).*while waiting for .*\.png.*\(8 image files\)"
    with pytest.raises(loading.DataError, match=died):
        list(batches.epoch(0))


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_a_time_limit_that_is_none(files, monkeypatch, text):
    monkeypatch.setenv("PEL_READ_TIMEOUT", text)
    with pytest.raises(PelError, match="PEL_READ_TIMEOUT"):
        list(batches_of(files)[0].epoch(0))


def test_an_image_that_breaks_mid_run_costs_nothing_that_was_trained(files, toy_results, tmp_path):
    batches, spec = batches_of(files)
    Path(files.paths[11]).write_bytes(b"no image")
    classifier = build(spec, *parts(toy_results, spec))
    path = tmp_path / "c.safetensors"
    with pytest.raises(PelError, match=r"11\.png cannot be decoded.*goes on after it is mended \(.*, epoch 0, step"):
        train(classifier, batches, spec, torch.ones(6), manager=CheckpointManager(path))
    assert read_checkpoint(path)[1]["state"]["step"] == [11 in indices for *_, indices in order_of(batches)].index(True)


def parts(results, spec):
    from pel_core.models.weights import load_vit

    vit, text, _ = load_vit(results / "backbones" / "toy")
    text |= load_file(results / "text" / "toy" / "toy.default.safetensors")
    return vit, 6, text


def order_of(batches):
    order = batches._order(0)
    return [(None, order[i : i + 8].tolist()) for i in range(0, 40, 8)]


def test_a_signal_to_a_worker_leaves_the_run_time_to_save(files):
    """A scheduler signals every process of a job; a worker that died at once would break the step under way."""
    batches, _ = batches_of(files, workers=1)
    steps = batches.epoch(0)
    next(steps)
    for child in multiprocessing.active_children():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(child.pid, number)
    assert 1 + len(list(steps)) == len(batches)
