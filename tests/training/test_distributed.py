"""Data-parallel training: several processes give the numbers of one, stop together, leave nobody behind. By gloo, on the CPU."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.batches import TrainBatches
from pel_core.data.datasets import Split, open_prepared
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.run_spec import RunSpec
from pel_core.training import distributed

RUN = RunSpec.make("toy-ir20", "toy", "adaptformer", 0)
# No test waits for its end; a machine that is busy elsewhere must not find it there before the signal comes.
LONG = RunSpec.make("toy-ir20", "toy", "adaptformer", 0, epochs=3000)


class Rank(distributed.DistributedGroup):
    """A rank that needs no other: for its part of batches."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size


@pytest.mark.parametrize(("images", "size"), [(128, 2), (127, 2), (5, 3), (2, 3), (1, 2), (0, 4)])
def test_parts_are_a_batch(images, size):
    parts = [Rank(rank, size).part(images) for rank in range(size)]
    assert [i for part in parts for i in range(images)[part]] == list(range(images))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) - min(lengths) <= 1


class Spec:
    seed, batch_size, epochs, augment, crop_min_scale, interpolation = 3, 4, 2, "rrc", 0.08, "bilinear"

    def knobs_of(self, scope: str) -> dict:
        return {}


@pytest.fixture(params=["array", "files"])
def split(request, tmp_path) -> Split:
    """Nine small images: with four a batch, one is left for the last."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 20, 24, 3), np.uint8)
    if request.param == "array":
        return Split(np.arange(9), images=pixels)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return Split(np.arange(9), paths=[str(tmp_path / f"{number}.png") for number in range(9)])


@pytest.mark.parametrize("first", [0, 1])
def test_what_the_ranks_get_is_what_one_process_gets(split, first):
    def epoch(world: ProcessGroup) -> list:
        return list(TrainBatches(split, Spec(), 16, (0.0,) * 3, (1.0,) * 3, "cpu", group=world).epoch(1, first))

    alone, ranks = epoch(ProcessGroup()), [epoch(Rank(rank, 3)) for rank in range(3)]
    for step, (images, labels, indices) in enumerate(alone):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), labels)
        assert all(np.array_equal(rank[step][2], indices) for rank in ranks)
    assert len(ranks[0][-1][1]) == 0  # of one image for three ranks


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "grw"}, "no mean over images"),
        ({"loss": "lade"}, "one GPU"),
        ({"accumulate": 2, "accumulation": "reference"}, "exact"),
    ],
)
def test_what_does_not_add_up_is_refused(options, words):
    with pytest.raises(PelError, match=words):
        distributed.check(RunSpec.make("toy-ir20", "toy", "adaptformer", 0, **options))


@pytest.mark.parametrize(
    ("devices", "shown", "expected"),
    [
        (["cuda:2", "cuda:0"], None, "2,0"),
        (["cuda:1"], "GPU-a, GPU-b", "GPU-b"),
        (["cuda:0", "cuda:1"], "3,1", "3,1"),
        (["auto", "auto"], None, None),
        (["cpu", "cpu"], "0", None),
    ],
)
def test_the_processes_see_their_devices_alone(devices, shown, expected):
    environment = {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}
    assert distributed.visible(devices, environment).get("CUDA_VISIBLE_DEVICES") == expected


def command(results: Path, spec: RunSpec, *more: str) -> list[str]:
    return [sys.executable, "-m", "pel_core", "train", spec.slug, "--results", str(results), *more]


def start(results: Path, spec: RunSpec, *more: str) -> subprocess.Popen:
    return subprocess.Popen(command(results, spec, *more), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def until(condition, seconds: float = 120):
    """What a condition gives once it gives something."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def ranks(results: Path) -> list[int]:
    """Process ids of the ranks that train into a results folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = (path / "cmdline").read_bytes().split(b"\0"), (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(results).encode() in words and any(variable.startswith(b"LOCAL_RANK=") for variable in variables):
            found.append(int(path.name))
    return found


def training(results: Path, spec: RunSpec) -> bool:
    """Whether a first epoch is done."""
    events = list((results / "tensorboard" / spec.slug).glob("events.*.train"))
    return bool(events) and len(ranks(results)) == 2


@pytest.fixture
def results(toy_results, tmp_path) -> Path:
    """A results folder of its own, with the toy data prepared."""
    for name in ("backbones", "data", "text"):
        (tmp_path / name).symlink_to(toy_results / name)
    return tmp_path


def same(a: Path, b: Path, spec: RunSpec) -> None:
    left, right = (load_file(folder / "runs" / spec.slug / "delta.safetensors") for folder in (a, b))
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=1e-4, atol=1e-5, msg=name)
    curves = [read_json(folder / "runs" / spec.slug / "train.json")["training"]["curve"] for folder in (a, b)]
    for one, other in zip(*curves, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4) and other["accuracy"] == pytest.approx(
            one["accuracy"], abs=0.5
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampler": "balanced", "reweight": "effective", "sharpness": "imbsam", "optimizer.clip_norm": 0.5},
        {"mix": "mixup", "augment": "randaugment", "reweight": "power", "average": "ema", "average.decay": 0.5},
        {"method": "lpt", "loss": "agcl", "sampler": "dual"},
    ],
    ids=["plain", "balanced", "mixed and averaged", "streams"],
)
@pytest.mark.parametrize("processes", [3])
def test_several_processes_end_where_one_ends(results, tmp_path_factory, processes, options):
    """The last batch of each epoch has one image, so that a rank has none."""
    images = len(open_prepared(results / "data/toy", "toy-ir20").train)
    first = [RunSpec.make("toy-ir20", "toy", "vpt-deep", 0, epochs=1)] if options.get("method") == "lpt" else []
    options = {"method": "adaptformer+ln", "parents": first, **options}
    spec = RunSpec.make("toy-ir20", "toy", options.pop("method"), 0, batch_size=images - 1, **options)
    other = tmp_path_factory.mktemp("several")
    for name in ("backbones", "data", "text"):
        (other / name).symlink_to(results / name)
    for each in (*first, spec):
        subprocess.run(command(results, each), check=True, capture_output=True)
    for each in first:
        shutil.copytree(results / "runs" / each.slug, other / "runs" / each.slug)
    done = subprocess.run(command(other, spec, "--gpus", str(processes)), check=True, capture_output=True, text=True)
    assert done.stderr.count("epoch 0") == 1  # one of them reports
    same(results, other, spec)
    record = read_json(other / "runs" / spec.slug / "train.json")
    assert record["environment"]["processes"] == processes
    assert not list((other / "checkpoints").glob("*.lease")) and len(list((other / "tensorboard" / spec.slug).iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_stops_all_and_the_next_start_goes_on(results, number):
    process = start(results, LONG, "--gpus", "2")
    until(lambda: training(results, LONG))
    process.send_signal(number)
    _, told = process.communicate(timeout=90)
    assert process.returncode == 128 + number, told
    assert "saved; the same command goes on from there" in told and told.strip().splitlines()[-1].startswith("error: stopped by")
    assert (results / "checkpoints" / f"{LONG.slug}.safetensors").is_file() and not ranks(results)
    assert not list((results / "checkpoints").glob("*.lease"))
    if number == signal.SIGTERM:
        return  # what follows has been seen once
    again = start(results, LONG, "--gpus", "2")
    assert until(lambda: [line for line in [again.stderr.readline()] if "resumed from" in line])
    again.terminate()
    assert again.wait(90) == 143


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_with_an_error(results):
    process = start(results, LONG, "--gpus", "2")
    until(lambda: training(results, LONG))
    os.kill(max(ranks(results)), signal.SIGKILL)
    _, told = process.communicate(timeout=90)
    assert process.returncode != 0 and told.strip().splitlines()[-1].startswith("error: process "), told
    assert not ranks(results) and not (results / "runs" / LONG.slug / "train.json").exists()


@pytest.mark.slow
def test_a_killed_agent_leaves_no_rank_behind(results):
    process = start(results, LONG, "--gpus", "2")
    until(lambda: training(results, LONG))
    process.kill()
    until(lambda: not ranks(results), 60)
    assert (results / "checkpoints" / f"{LONG.slug}.safetensors").is_file()
    process.communicate()
