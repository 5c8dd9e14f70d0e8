"""Batches: the same whatever stores, splits or decodes the images; errors of workers; order and labels."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from pel_core.common.errors import PelError
from pel_core.common.seeds import generator
from pel_core.data.augmentations import AUGMENTATIONS
from pel_core.data.batches import EvalBatches, TrainBatches
from pel_core.data.datasets import Split
from pel_core.data.loading import BatchKeys, RandomCrops
from pel_core.spec.choices import CHOICES

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass
class Spec:
    seed: int = 0
    batch_size: int = 8
    epochs: int = 6
    augment: str = "rrc"
    crop_min_scale: float = 0.3
    interpolation: str = "bilinear"
    knobs: tuple = ()

    def knobs_of(self, scope):
        entry = AUGMENTATIONS.entry(self.augment)
        return {knob.name: knob.default for knob in entry.knobs} | dict(self.knobs)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """The same 30 pictures as an array and as files, each of one label's colour."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 30)
    images = (random.integers(0, 50, (30, 14, 14, 3)) + 40 * labels[:, None, None, None]).astype(np.uint8)
    paths = [str(folder / f"{i}.png") for i in range(30)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return Split(labels, images=images), Split(labels, paths=paths)


def epoch(split, number=0, workers=0, **changes):
    batches = TrainBatches(split, Spec(**changes), 16, *PLAIN, "cpu", workers=workers)
    images, labels, indices = zip(*batches.epoch(number), strict=True)
    return torch.cat(images), torch.cat(labels), np.concatenate(indices)


def test_an_epoch_shows_every_image_once(splits):
    batches = TrainBatches(splits[0], Spec(), 16, *PLAIN, "cpu")
    assert len(batches) == 4 and batches.images == 30
    sizes = [len(indices) for _, _, indices in batches.epoch(0)]
    assert sizes == [8, 8, 8, 6]
    images, labels, indices = epoch(splits[0])
    assert images.shape == (30, 3, 16, 16) and images.dtype == torch.float32 and labels.dtype == torch.int64
    assert sorted(indices.tolist()) == list(range(30)) and indices.dtype == np.int64
    assert indices.tolist() == generator(0, "order", 0).permutation(30).tolist()
    assert (labels.numpy() == splits[0].labels[indices]).all()
    # Each picture is its label's colour: images and labels belong together.
    brightness = images.mean((1, 2, 3)).numpy() * 255
    assert (np.abs(brightness - 24.5 - 40 * labels.numpy()) < 15).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_files_and_arrays_give_the_same_images(splits, workers):
    """Enlarged only, so that PIL takes its passes in the one order in every version, and equality is exact."""
    array, files = splits
    batches = TrainBatches(files, Spec(), 16, *PLAIN, "cpu", workers=workers)
    for number in (0, 1, 5):
        images, labels, indices = epoch(array, number)
        theirs = [
            torch.cat(list(parts)) if torch.is_tensor(parts[0]) else np.concatenate(parts)
            for parts in zip(*batches.epoch(number))
        ]
        assert torch.equal(images, theirs[0]) and torch.equal(labels, theirs[1]) and (indices == theirs[2]).all()


@pytest.mark.parametrize("kind", [0, 1])
def test_the_batch_size_moves_no_crop(splits, kind):
    images, _, indices = epoch(splits[kind], batch_size=8)
    others, _, other_indices = epoch(splits[kind], batch_size=11)
    assert (indices == other_indices).all() and torch.equal(images, others)


@pytest.mark.parametrize("augment", CHOICES["augment"])
@pytest.mark.parametrize("interpolation", CHOICES["interpolation"])
def test_every_augmentation_is_the_same_for_files_and_arrays(splits, augment, interpolation):
    options = {"augment": augment, "interpolation": interpolation}
    for number in (0, 3, 5):
        ours, theirs = (epoch(split, number, **options) for split in splits)
        assert torch.equal(ours[0], theirs[0]) and (ours[2] == theirs[2]).all()
    plain = epoch(splits[0], 0)
    assert torch.equal(epoch(splits[0], 0, **options)[0], plain[0]) == (
        options == {"augment": "rrc", "interpolation": "bilinear"}
    )


def test_an_epoch_may_begin_at_any_step_and_be_made_in_any_parts(splits, monkeypatch):
    expected = epoch(splits[0], batch_size=4)
    for at_once in (1, 8, 12, 100):
        monkeypatch.setattr("pel_core.data.batches.CROPS_PER_CALL", at_once)
        batches = TrainBatches(splits[0], Spec(batch_size=4), 16, *PLAIN, "cpu")
        for first in range(len(batches)):
            images, labels, indices = zip(*batches.epoch(0, first), strict=True)
            assert torch.equal(torch.cat(images), expected[0][4 * first :])
            assert torch.equal(torch.cat(labels), expected[1][4 * first :])
            assert (np.concatenate(indices) == expected[2][4 * first :]).all()


def test_the_default_augmentation_is_pinned(splits):
    """The pixels of the first engine, whatever options came later."""
    images = (epoch(splits[0], 1)[0] * 255).round().byte()
    assert hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16] == "84c5d5c2080431cd"


def test_at_its_end_minimalist_augmentation_shows_whole_images(splits):
    images, _, order = epoch(splits[0], 5, augment="mda")
    whole = torch.cat([crops[:, 0] for crops, _ in EvalBatches(splits[0], "plain", 0, 16, *PLAIN, "cpu")])[order]
    same = [torch.equal(one, other) or torch.equal(one, other.flip(-1)) for one, other in zip(images, whole, strict=True)]
    assert all(same)


def test_epochs_and_seeds_differ_and_repeat(splits):
    first = epoch(splits[0], 0)
    assert torch.equal(first[0], epoch(splits[0], 0)[0])
    for other in (epoch(splits[0], 1), epoch(splits[0], 0, seed=1)):
        assert (first[2] != other[2]).any() and not torch.equal(first[0], other[0])


def test_an_abandoned_epoch_leaves_no_trace(splits):
    batches = TrainBatches(splits[1], Spec(), 16, *PLAIN, "cpu", workers=1)
    next(iter(batches.epoch(3)))
    images = torch.cat([images for images, _, _ in batches.epoch(1)])
    assert torch.equal(images, epoch(splits[0], 1)[0])


@pytest.mark.parametrize("first, second", [(0, 1), (1, 0)])
def test_two_epochs_read_in_turns_are_each_their_own(splits, first, second):
    batches = TrainBatches(splits[1], Spec(), 16, *PLAIN, "cpu")
    found = [[], []]
    for pair in zip(batches.epoch(first), batches.epoch(second), strict=True):
        for images, (batch, _, _) in zip(found, pair, strict=True):
            images.append(batch)
    for number, images in zip((first, second), found, strict=True):
        assert torch.equal(torch.cat(images), epoch(splits[0], number)[0])


def test_workers_never_hand_an_epoch_another_one_s_images(splits):
    batches = TrainBatches(splits[1], Spec(), 16, *PLAIN, "cpu", workers=1)
    old, new = batches.epoch(0), batches.epoch(1)
    next(old)
    images = [next(new)[0]]
    with pytest.raises(RuntimeError, match="another pass"):
        next(old)
    images += [batch for batch, _, _ in new]
    assert torch.equal(torch.cat(images), epoch(splits[0], 1)[0])


def test_the_keys_of_a_pass_never_change():
    keys = BatchKeys([1, 2, 3])
    reading = iter(keys)
    assert next(reading) == 1 and keys.begin([7, 8]) == ((7, 8), 1)
    assert list(reading) == [2, 3] and list(keys) == [7, 8] and len(keys) == 2 and keys.begin() == ((7, 8), 2)


def test_images_are_normalised(splits):
    plain = epoch(splits[0])[0]
    batches = TrainBatches(splits[0], Spec(), 16, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0), "cpu")
    images = torch.cat([images for images, _, _ in batches.epoch(0)])
    expected = (plain - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.25, 2.0])[:, None, None]
    assert torch.allclose(images, expected, atol=1e-6)


def test_the_given_array_stays_as_it_is(splits):
    before = splits[0].images.copy()
    epoch(splits[0])
    list(EvalBatches(splits[0], "tencrop", 4, 16, *PLAIN, "cpu"))
    assert (splits[0].images == before).all()


def test_random_crops_are_named_by_seed_and_number(splits):
    def crops(batch_size=8, **changes):
        random = RandomCrops(**{"count": 3, "seed": 1, "min_scale": 0.3, **changes})
        return torch.cat(
            [crops for crops, _ in EvalBatches(splits[0], "randaug", 0, 16, *PLAIN, "cpu", batch_size, random=random)]
        )

    three = crops()
    assert torch.equal(crops(11), three) and torch.equal(crops(count=2), three[:, :2])
    assert not torch.equal(three[:, 0], three[:, 1]) and not torch.equal(crops(seed=2), three)
    assert not torch.equal(crops(min_scale=0.9), three)


@pytest.mark.parametrize("tte, crops", [("none", 1), ("plain", 1), ("fivecrop", 5), ("tencrop", 10), ("randaug", 10)])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("interpolation", CHOICES["interpolation"])
def test_evaluation(splits, tte, crops, workers, interpolation):
    array = EvalBatches(splits[0], tte, 6, 16, *PLAIN, "cpu", batch_size=8, interpolation=interpolation)
    files = EvalBatches(splits[1], tte, 6, 16, *PLAIN, "cpu", batch_size=8, workers=workers, interpolation=interpolation)
    assert array.crops == files.crops == crops and len(array) == len(files) == 4
    for _ in range(2):
        labels = []
        for (ours, one), (theirs, two) in zip(array, files, strict=True):
            assert ours.shape[1:] == (crops, 3, 16, 16) and ours.dtype == torch.float32
            assert torch.equal(ours, theirs) and torch.equal(one, two)
            labels += one.tolist()
        assert labels == splits[0].labels.tolist()
    if tte == "tencrop":
        mirrored = ours.flip(-1)
        assert torch.equal(mirrored[:, 0], ours[:, 6]) and torch.equal(mirrored[:, 3], ours[:, 7])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_names_its_path(splits, tmp_path, workers):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff rubbish")
    split = Split(splits[1].labels, paths=[*splits[1].paths[:29], str(bad)])
    with pytest.raises(PelError) as caught:
        list(TrainBatches(split, Spec(), 16, *PLAIN, "cpu", workers=workers).epoch(0))
    assert str(bad) in str(caught.value) and "Traceback" not in str(caught.value)
    with pytest.raises(PelError, match="cannot be decoded"):
        list(EvalBatches(split, "none", 0, 16, *PLAIN, "cpu", workers=workers))


def test_images_of_many_sizes(tmp_path):
    paths = []
    for i, size in enumerate([(9, 40), (40, 9), (16, 16), (1, 1)]):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.new("L", size, 100).save(paths[-1])
    split = Split(np.arange(4), paths=paths)
    (images, _, _) = next(iter(TrainBatches(split, Spec(), 16, *PLAIN, "cpu").epoch(0)))
    ((crops, _),) = EvalBatches(split, "fivecrop", 4, 16, *PLAIN, "cpu")
    assert torch.allclose(images, torch.tensor(100 / 255)) and torch.allclose(crops, torch.tensor(100 / 255))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_pixels(splits):
    ours = [images.cpu() for images, _, _ in TrainBatches(splits[0], Spec(), 16, *PLAIN, "cuda").epoch(0)]
    assert torch.equal(torch.cat(ours), epoch(splits[0])[0])
