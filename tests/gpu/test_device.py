"""The engine on a CUDA device beside the CPU; where there is none, the same tests are a rehearsal on the CPU.

`tests/gpu/run.sh` runs them on a borrowed GPU. What only CUDA can show is skipped elsewhere, by name.
"""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from resuming import train_once
from safetensors.torch import load_file
from torchvision.io import ImageReadMode, decode_jpeg, read_file

from pel_core.bench.gpu import CLASSES, compiled
from pel_core.bench.models import make_ours, make_pair, make_step, make_tower
from pel_core.cli.main import main
from pel_core.data.batches import EvalBatches, TrainBatches
from pel_core.data.split import Split
from pel_core.spec.choices import OPTIMIZERS
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import cast_frozen_weights
from pel_core.training.loop import EVALUATION_TOLERANCE, autocast, predict
from pel_core.training.step import PRECISIONS

DEVICE = torch.device(os.environ.get("PEL_TEST_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))
CPU = torch.device("cpu")
only_cuda = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
METHODS = ("adaptformer", "vpt-shallow+adaptformer@2:4", "ssf-attn", "ln+lora", "full", "head-only")


@pytest.fixture(autouse=True)
def exact_products():
    """No TF32, as runs have it."""
    from pel_core.hardware.devices import tune_process

    tune_process(str(DEVICE))


@pytest.mark.parametrize("method", METHODS)
def test_a_training_is_that_of_the_cpu(toy_results, method):
    """An epoch of eight steps, up to another order of sums."""
    spec = RunSpec.make("toy-ir20", "toy", method, 0, epochs=1)
    (theirs, _), (ours, _) = train_once(toy_results, spec), train_once(toy_results, spec, device=DEVICE)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].device == CPU
        assert float((ours[name] - value).abs().max()) <= 1e-3 * (float(value.abs().max()) or 1.0), name


@pytest.mark.parametrize("precision", [word for word in PRECISIONS if word != "fp32"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_reduced_precision_point_the_same_way(method, precision):
    spec = RunSpec.make("cifar100-ir100", "toy", method, 0, init="random")
    classifier = make_ours(spec, make_tower("toy"), CLASSES)
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.randn(16, 3, spec.pixels, spec.pixels, generator=draw), torch.arange(16)
    found = []
    for word, device in (("fp32", CPU), (precision, DEVICE)):
        classifier.to(device).zero_grad()
        with autocast(word, device):
            logits = classifier(images.to(device))
        torch.nn.functional.cross_entropy(logits.float(), labels.to(device)).backward()
        found.append(torch.cat([value.grad.flatten().cpu().clone() for value in classifier.trainable().values()]))
    assert float(torch.cosine_similarity(*found, dim=0)) > 0.995


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fused_optimizers_step_as_the_cpus(toy_results, optimizer):
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer", 0, epochs=1, optimizer=optimizer, lr=1e-3)
    (theirs, _), (ours, _) = train_once(toy_results, spec), train_once(toy_results, spec, device=DEVICE)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=2e-4, rtol=1e-2)


@only_cuda
def test_a_device_that_is_really_full_goes_on_with_less(toy_results):
    """Memory is cut until a batch does not fit; the step halves it, and its numbers stay."""
    spec = RunSpec.make("cifar100-ir100", "clip-b16", "adaptformer", 0, init="random", precision="fp32", batch_size=64)
    _, classifier = make_pair(spec, CLASSES, DEVICE)
    images = torch.randn(64, 3, spec.pixels, spec.pixels, device=DEVICE)
    labels = torch.arange(64, device=DEVICE) % CLASSES
    state = {name: value.clone() for name, value in classifier.trainable_state().items()}
    make_step(classifier, spec, CLASSES, DEVICE)(images, labels)
    whole = {name: value.clone() for name, value in classifier.trainable_state().items()}
    classifier.load_trainable(state)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((held + 3e9) / total)  # 64 images take about 6 GB
        make_step(classifier, spec, CLASSES, DEVICE)(images, labels)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for name, value in whole.items():
        torch.testing.assert_close(classifier.trainable_state()[name], value, atol=2e-5, rtol=1e-3)


def start(results, slug, *words):
    command = [sys.executable, "-m", "pel_core", "train", slug, "--results", str(results), "--no-tensorboard", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@only_cuda  # tests/training/test_resume.py and the studies do it on the CPU
def test_a_training_that_is_stopped_goes_on(toy_results, tmp_path):
    """TERM after the first checkpoint; the second start ends where an undisturbed training ends."""
    for name in ("data", "backbones", "text"):
        (tmp_path / name).symlink_to(toy_results / name)
    slug = "toy-ir20.toy.adaptformer.s0.epochs=40"
    words = ["--device", str(DEVICE), "--checkpoint-seconds", "0.01"]
    running, deadline = start(tmp_path, slug, *words), time.monotonic() + 120
    while not list((tmp_path / "checkpoints").glob("*.safetensors")) and time.monotonic() < deadline:
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    told = running.communicate(timeout=120)[0]
    assert running.returncode != 0, f"it ended before it was stopped: {told}"
    assert main(["train", slug, "--results", str(tmp_path), "--device", str(DEVICE)]) == 0
    resumed = load_file(tmp_path / "runs" / slug / "delta.safetensors")
    whole, _ = train_once(toy_results, RunSpec.parse(slug), device=DEVICE)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=1e-3)


@only_cuda  # tests/training/test_resume.py and the studies do it on the CPU
def test_two_trainings_share_a_device(toy_results, tmp_path):
    """Each takes half of it (without a GPU nothing is locked); neither is hindered."""
    for name in ("data", "backbones", "text"):
        (tmp_path / name).symlink_to(toy_results / name)
    slugs = [f"toy-ir20.toy.adaptformer.s{seed}" for seed in range(2)]
    running = [start(tmp_path, slug, "--device", "auto", "--gpu-share", "0.5") for slug in slugs]
    for slug, job in zip(slugs, running, strict=True):
        told = job.communicate(timeout=300)[0]
        assert job.returncode == 0, told
        assert (tmp_path / "runs" / slug / "delta.safetensors").is_file()


@pytest.mark.parametrize("precision", EVALUATION_TOLERANCE)
def test_an_evaluation_in_reduced_precision_decides_alike(precision):
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer", 0, init="random")
    _, classifier = make_pair(spec, CLASSES, DEVICE)
    crops = torch.randn(40, 5, 3, spec.pixels, spec.pixels, generator=torch.Generator().manual_seed(0))
    exact = predict(classifier.cpu(), [(crops, torch.zeros(40))])
    cast_frozen_weights(classifier.to(DEVICE), PRECISIONS[precision])
    found = predict(classifier, [(crops.to(DEVICE), torch.zeros(40))], precision=precision)
    logits, changed = EVALUATION_TOLERANCE[precision]
    assert (found - exact).abs().max() <= 2 * logits * exact.abs().max()
    assert (found.argmax(1) != exact.argmax(1)).float().mean() <= max(2 * changed, 0.05)


def test_pixels_are_those_of_the_cpu():
    draw = np.random.default_rng(0)
    split = Split(np.arange(40) % 6, draw.integers(0, 256, (40, 20, 24, 3), np.uint8))
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer", 0)
    how = spec.pixels, spec.vit.mean, spec.vit.std
    ours, theirs = ([x.cpu() for x, *_ in TrainBatches(split, spec, *how, device).epoch(1)] for device in (DEVICE, CPU))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    crops = [next(iter(EvalBatches(split, "fivecrop", 4, *how, device)))[0].cpu() for device in (DEVICE, CPU)]
    assert torch.equal(*crops)


def test_jpeg_files_decode_as_pillow_does(tmp_path):
    """nvJPEG on a GPU: another inverse transform, so some levels apart, and never another picture."""
    draw = np.random.default_rng(0)
    pixels = np.kron(draw.integers(0, 256, (12, 16, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    try:
        found = decode_jpeg(read_file(str(tmp_path / "a.jpg")), ImageReadMode.RGB, device=DEVICE).cpu()
    except RuntimeError as error:
        pytest.skip(f"this torchvision decodes no JPEG there: {str(error).splitlines()[0]}")
    theirs = torch.from_numpy(np.asarray(Image.open(tmp_path / "a.jpg")).copy()).permute(2, 0, 1)
    assert (found.int() - theirs.int()).abs().float().mean() < 2


@only_cuda
def test_no_step_waits_for_the_device():
    """Between log steps the host reads nothing: CUDA's own debug mode would raise."""
    spec = RunSpec.make("cifar100-ir100", "toy", "adaptformer", 0, init="random", precision="bf16", batch_size=16)
    _, classifier = make_pair(spec, CLASSES, DEVICE)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    batches = TrainBatches(Split(np.arange(64) % CLASSES, pixels), spec, spec.pixels, spec.vit.mean, spec.vit.std, DEVICE)
    step = make_step(classifier, spec, CLASSES, DEVICE)
    taken = iter(batches.epoch(0))
    step(*next(taken)[:2])  # allocations and the first momentum
    torch.cuda.set_sync_debug_mode("error")
    try:
        for images, labels, _ in taken:
            step(images, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_compiled_classifier_says_the_same():
    """On the CPU nothing is generated; on a GPU the real compiler must stay within the declared tolerance."""
    spec = RunSpec.make("cifar100-ir100", "toy", "adaptformer", 0, init="random")
    _, classifier = make_pair(spec, CLASSES, DEVICE)
    images = torch.randn(4, 3, spec.pixels, spec.pixels, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with torch.no_grad():
        plain = classifier(images)
        found = compiled(classifier, "compile", quick=DEVICE.type == "cpu")(images)
    assert float((found - plain).abs().max()) <= 1e-3 * float(plain.abs().max())
