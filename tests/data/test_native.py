"""The option `native`: images as if their data set came at a lower resolution."""

import numpy as np
import pytest
import torch
from PIL import Image

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.batches import EvalBatches, TrainBatches
from pel_core.data.datasets import Prepared, Split
from pel_core.data.run_images import at_native
from pel_core.data.transforms import downscaled, load_rgb
from pel_core.spec.run_spec import RunSpec

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 20, 26, 3), dtype=np.uint8)
LABELS = np.array([0, 0, 1, 1, 2, 2])


@pytest.fixture
def pair(tmp_path):
    """The same images as an array and as files."""
    paths = []
    for number, image in enumerate(IMAGES):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(image).save(paths[-1])
    groups = ["head", "med", "tail"]
    return [
        Prepared("t", ["a", "b", "c"], None, split, split, None, np.array([2, 2, 2]), groups, "0")
        for split in (Split(LABELS, IMAGES), Split(LABELS, paths=paths))
    ]


def test_the_shorter_side_is_reduced_and_never_enlarged(tmp_path):
    image = Image.fromarray(IMAGES[0])
    assert downscaled(image, 10).size == (13, 10)
    assert np.array_equal(downscaled(image, 10), image.resize((13, 10), Image.Resampling.BILINEAR))
    for native in (None, 20, 64):
        assert downscaled(image, native) is image
    image.save(tmp_path / "x.png")
    assert load_rgb(tmp_path / "x.png", 5).size == (6, 5)


def test_arrays_and_files_give_the_same_batches(pair):
    spec = RunSpec.make("toy-ir20", "toy", "ln", 0, native=8, batch_size=4)
    batches = []
    for data in (at_native(made, spec.native) for made in pair):
        train = TrainBatches(data.train, spec, 16, (0.5,) * 3, (0.5,) * 3, "cpu")
        test = EvalBatches(data.test, "fivecrop", 4, 16, (0.5,) * 3, (0.5,) * 3, "cpu")
        batches.append([images for images, *_ in train.epoch(0)] + [images for images, _ in test])
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one, other)
    assert at_native(pair[0], None) is pair[0]
    assert at_native(pair[0], 8).train.images.shape == (6, 8, 10, 3)


def test_a_lower_resolution_changes_a_run_and_the_own_one_does_not(toy_results, tmp_path):
    logits = {}
    for native in (None, 20, 6):  # the toy images are 20 pixels
        options = {} if native is None else {"native": native}
        spec = RunSpec.make("toy-ir20", "toy", "head-only", 0, epochs=1, init="shot-1", **options)
        assert main(["train", spec.slug, "--results", str(toy_results)]) == 0
        assert main(["evaluate", spec.slug, "--results", str(toy_results)]) == 0
        logits[native] = read_json(toy_results / "runs" / spec.slug / "metrics.json")["metrics"]
    assert logits[None] == logits[20]
    assert logits[None]["nll"] != logits[6]["nll"]


def test_it_is_named_in_the_run_and_checked():
    spec = RunSpec.make("toy-ir20", "toy", "ln", 0, native=8)
    assert spec.slug == "toy-ir20.toy.ln.s0.native=8" == RunSpec.parse(spec.slug).slug
    for value in (0, -3, 2.5, "small"):
        with pytest.raises(PelError, match="native="):
            RunSpec.make("toy-ir20", "toy", "ln", 0, native=value)
