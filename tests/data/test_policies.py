"""What is done to crops: torchvision's own transforms under the crop's named draw, wherever and by whomever they are made."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from pel_core.common.errors import PelError
from pel_core.common.seeds import derive
from pel_core.data.augmentations import AUGMENTATIONS
from pel_core.data.batches import TrainBatches
from pel_core.data.policies import apply_policy, make_policy
from pel_core.data.split import Split
from pel_core.spec.run_spec import RunSpec

POLICIES = [name for name, entry in AUGMENTATIONS.items() if entry.policy]
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
FILL = (122, 117, 105)


def make(augment, method="adaptformer", **options):
    return RunSpec.make("toy-ir20", "toy", method, 1, augment=augment, epochs=3, batch_size=5, **options)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    # Crops are enlarged only: of those that shrink, files and arrays may differ by 1 (`resample.resize_batch`).
    images = np.random.default_rng(0).integers(0, 256, (14, 7, 7, 3)).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    paths = [str(folder / f"{i}.png") for i in range(14)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return Split(np.arange(14) % 3, images=images), Split(np.arange(14) % 3, paths=paths)


def pixels(split, spec, epoch=0, first=0, workers=0):
    """An epoch's images before they were normalised, uint8 (N, 3, 16, 16)."""
    batches = TrainBatches(split, spec, 16, MEAN, STD, "cpu", workers=workers)
    images = torch.cat([images for images, _, _ in batches.epoch(epoch, first)])
    return (255 * (images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None])).round().byte()


THEIRS = {
    "randaugment": ({"layers": 3, "magnitude": 12}, v2.RandAugment(3, 12)),
    "autoaugment": ({"policy": "cifar10"}, v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)),
    "trivialaugment": ({}, v2.TrivialAugmentWide()),
    "erasing": ({"erase": 0.7}, v2.RandomErasing(0.7, value=FILL)),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_torchvisions_after_the_plain_crop(name, splits):
    """Seeded by hand, from the crops of ``rrc``."""
    knobs, transform = THEIRS[name]
    spec = make(name, **{f"augment.{knob}": value for knob, value in knobs.items()})
    found, expected = pixels(splits[0], spec, 1), []
    for position, crop in enumerate(pixels(splits[0], make("rrc"), 1)):
        torch.manual_seed(derive(1, "augment-policy", 1, position))
        expected.append(transform(crop))
    assert torch.equal(found, torch.stack(expected)) and not torch.equal(found, pixels(splits[0], make("rrc"), 1))


def test_a_policy_and_erasing_come_after_any_crops(splits):
    spec = make("trivialaugment", **{"augment.crop": "mda-max", "augment.erase": 1})
    both, found, expected = v2.Compose([v2.TrivialAugmentWide(), v2.RandomErasing(1.0, value=FILL)]), pixels(splits[0], spec), []
    for position, crop in enumerate(pixels(splits[0], make("mda-max"))):
        torch.manual_seed(derive(1, "augment-policy", 0, position))
        expected.append(both(crop))
    assert torch.equal(found, torch.stack(expected))
    filled = (found == torch.tensor(FILL)[:, None, None]).all(1).flatten(1).sum(1)
    assert filled.min() >= 4  # of 256 pixels, at least 2 %


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("workers", [0, 2])
def test_neither_workers_nor_batches_nor_the_first_step_move_a_draw(name, workers, splits):
    spec = make(name)
    whole = pixels(splits[0], spec, 2)
    assert torch.equal(pixels(splits[1], spec, 2, workers=workers), whole)
    assert torch.equal(pixels(splits[1], spec, 2, first=1, workers=workers), whole[5:])
    assert torch.equal(
        pixels(splits[0], RunSpec.make("toy-ir20", "toy", "ln", 1, augment=name, epochs=3, batch_size=3), 2), whole
    )
    assert not torch.equal(pixels(splits[0], spec, 1), whole)


def test_threads_do_not_take_each_others_draws():
    crops = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (40, 3, 12, 12)).astype(np.uint8))
    policy, found = make_policy("randaugment", (("layers", 2), ("magnitude", 9)), FILL), {}
    names = [("test", i) for i in range(40)]
    expected = [apply_policy(policy, crops, names, seed) for seed in range(3)]
    threads = [threading.Thread(target=lambda s=s: found.update({s: apply_policy(policy, crops, names, s)})) for s in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed], expected[seed]) for seed in range(3))


def test_torchs_own_generator_is_left_as_it_was(splits):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pixels(splits[0], make("randaugment", **{"augment.erase": 0.5}))
    assert torch.equal(torch.rand(3), expected)


def test_no_image_for_a_process_is_no_image(splits):
    assert apply_policy(lambda crop: crop, torch.zeros(0, 3, 4, 4, dtype=torch.uint8), [], 0).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"augment": "randaugment", "augment.crop": "trivialaugment"}, "rrc or another entry of crops"),
        ({"augment": "randaugment", "augment.crop": "rcc"}, "rrc or another entry of crops"),
        ({"augment": "randaugment", "augment.magnitude": 31}, "0..30"),
        ({"augment": "randaugment", "augment.layers": 0}, "at least 1"),
        ({"augment": "autoaugment", "augment.policy": "cifar100"}, "one of imagenet, cifar10, svhn"),
        ({"augment": "erasing", "augment.erase": 0}, "above 0 and at most 1"),
        ({"augment.erase": 0.5}, "needs augment=randaugment or"),
        ({"augment": "randaugment", "augment.policy": "svhn"}, "needs augment=autoaugment"),
    ],
)
def test_what_cannot_be_is_refused_when_a_study_is_read(options, words):
    with pytest.raises(PelError, match=words):
        RunSpec.make("toy-ir20", "toy", "adaptformer", 0, **options)
