"""Many jobs on one machine: what they read is mapped, so that it is in memory once, and comes over the network once."""

from pathlib import Path

import pytest
import torch

from pel_core.common.tensors import read_tensors
from pel_core.data.batches import TrainBatches
from pel_core.data.datasets import open_prepared
from pel_core.spec.run_spec import RunSpec

SPEC = RunSpec.make("toy", "toy", "adaptformer", 0)


def mapped(path: Path) -> bool:
    """Whether this process has the file mapped."""
    return str(path.resolve()) in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="/proc is Linux's")
def test_images_and_weights_are_mapped(toy_results):
    data = open_prepared(toy_results / "data/toy", "toy")
    batches = TrainBatches(data.train, SPEC, 16, (0.0,) * 3, (1.0,) * 3, "cpu")
    assert batches._pixels.data_ptr() == data.train.images.ctypes.data
    assert mapped(toy_results / "data/toy/images-train.npy")
    weights = toy_results / "backbones/toy/vit.safetensors"
    state, _ = read_tensors(weights)
    assert state and mapped(weights)


def test_a_mapped_image_is_never_written_to(toy_results):
    """The map is copy-on-write: what a job does to its pixels stays in that job."""
    path = toy_results / "data/toy/images-train.npy"
    before = path.read_bytes()
    data = open_prepared(toy_results / "data/toy", "toy")
    torch.from_numpy(data.train.images)[0] = 7
    assert path.read_bytes() == before
