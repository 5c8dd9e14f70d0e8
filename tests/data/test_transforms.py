"""Crop boxes against torchvision's own algorithm, evaluation crops against golden values, decoding of odd and damaged files."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pel_core.common.errors import PelError
from pel_core.data import resample, transforms
from pel_core.data.augmentations import AUGMENTATIONS
from pel_core.data.batches import EvalBatches
from pel_core.data.datasets import Split
from pel_core.spec.choices import CHOICES

GOLDEN = Path(__file__).parents[1] / "golden"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
sizes = st.integers(1, 90)


def picture(height, width, seed=0):
    """Pixels uint8 (height, width, 3): smooth colours with noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3)).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return (0.8 * np.asarray(coarse) + random.integers(0, 50, (height, width, 3))).astype(np.uint8)


# The table of uniforms


def test_a_row_does_not_depend_on_where_reading_starts():
    whole = transforms.uniforms(3, 1, 0, 50)
    assert whole.shape == (50, transforms.DRAWS) and whole.min() >= 0 and whole.max() < 1
    for start, count in ((0, 1), (1, 7), (13, 37), (49, 1)):
        assert (transforms.uniforms(3, 1, start, count) == whole[start : start + count]).all()


def test_seed_and_epoch_change_the_table():
    tables = [transforms.uniforms(seed, epoch, 0, 4) for seed in (0, 1) for epoch in (0, 1)]
    assert len({table.tobytes() for table in tables}) == 4


# RandomResizedCrop


def torchvision_box(u, height, width, min_scale, monkeypatch):
    """The box torchvision's own get_params gives when it is fed the numbers of a row instead of drawing."""
    import torchvision.transforms.transforms as theirs

    pairs = iter(range(20))
    places = iter((20, 21))

    class Draw:
        def uniform_(self, low, high):
            return torch.tensor(float(low) + (float(high) - float(low)) * u[next(pairs)], dtype=torch.float64)

    fake = SimpleNamespace(
        empty=lambda n: Draw(),
        randint=lambda low, high, size: torch.tensor(int(low + u[next(places)] * (high - low))),
        log=lambda x: torch.log(x.double()),
        tensor=lambda x: torch.tensor(x, dtype=torch.float64),
        exp=torch.exp,
    )
    with monkeypatch.context() as patch:
        patch.setattr(theirs, "torch", fake)
        return theirs.RandomResizedCrop.get_params(Image.new("L", (width, height)), [min_scale, 1.0], [3 / 4, 4 / 3])


@pytest.mark.parametrize("height, width", [(32, 32), (20, 20), (375, 500), (500, 90), (9, 200), (1, 1), (3, 1)])
@pytest.mark.parametrize("min_scale", [0.08, 0.5, 1.0])
def test_boxes_are_torchvisions(height, width, min_scale, monkeypatch):
    u = transforms.uniforms(0, 0, 0, 300)
    boxes, _ = transforms.random_boxes(u, height, width, min_scale)
    assert [tuple(box) for box in boxes.tolist()] == [torchvision_box(row, height, width, min_scale, monkeypatch) for row in u]


@given(height=st.integers(1, 600), width=st.integers(1, 600), min_scale=st.floats(0.01, 1), seed=st.integers(0, 100))
def test_boxes_lie_inside(height, width, min_scale, seed):
    boxes, flips = transforms.random_boxes(transforms.uniforms(seed, 0, 0, 40), height, width, min_scale)
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (h > 0).all() and (w > 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    assert boxes.dtype == np.int64 and flips.dtype == bool


def test_boxes_have_the_declared_distribution():
    boxes, flips = transforms.random_boxes(transforms.uniforms(0, 0, 0, 20_000), 400, 400, 0.25)
    area, aspect = boxes[:, 2] * boxes[:, 3] / 160_000, boxes[:, 3] / boxes[:, 2]
    assert 0.24 < area.min() < 0.26 and 0.74 < aspect.min() < 0.76 and 1.32 < aspect.max() < 1.35
    assert abs(np.log(aspect).mean()) < 0.01 and abs(flips.mean() - 0.5) < 0.02
    assert np.corrcoef(boxes[:, 0], boxes[:, 1])[0, 1] < 0.5


@pytest.mark.parametrize("height, width", [(40, 55), (64, 20), (33, 33)])
def test_a_training_crop_is_torchvisions(height, width):
    from torchvision.transforms import functional

    image = Image.fromarray(picture(height, width))
    for u in transforms.uniforms(1, 0, 0, 20):
        boxes, flips = transforms.random_boxes(u[None], height, width, 0.2)
        expected = functional.resized_crop(image, *boxes[0].tolist(), [24, 24])
        expected = functional.hflip(expected) if flips[0] else expected
        assert (transforms.train_crop(image, u, 24, transforms.Augmenter("rrc", 0.2)) == np.asarray(expected)).all()


# LIFT+'s minimalist augmentation


@given(height=st.integers(1, 600), width=st.integers(1, 600), min_scale=st.floats(0.01, 1), seed=st.integers(0, 100))
def test_squares_lie_inside_and_are_no_smaller_than_asked(height, width, min_scale, seed):
    boxes, flips = transforms.square_boxes(transforms.uniforms(seed, 0, 0, 40), height, width, min_scale)
    top, left, h, w = boxes.T
    assert (h == w).all() and (h > 0).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    smallest = min(np.sqrt(min_scale * height * width), min(height, width))
    assert (h >= smallest - 0.51).all() and boxes.dtype == np.int64 and flips.dtype == bool


def test_squares_have_the_declared_distribution():
    boxes, flips = transforms.square_boxes(transforms.uniforms(0, 0, 0, 20_000), 400, 400, 0.2)
    area = boxes[:, 2] ** 2 / 160_000
    assert 0.19 < area.min() < 0.21 and area.max() > 0.99 and abs(area.mean() - 0.6) < 0.01 and abs(flips.mean() - 0.5) < 0.02
    assert abs(boxes[:, 0].mean() - (400 - boxes[:, 2]).mean() / 2) < 2
    # A wide image: both ends of the range are capped at the largest square.
    wide, _ = transforms.square_boxes(transforms.uniforms(0, 0, 0, 20_000), 100, 400, 0.2)
    assert wide[:, 2].max() == 100 and abs(wide[:, 2].min() - np.sqrt(0.2 * 40_000)) < 1
    full, _ = transforms.square_boxes(transforms.uniforms(0, 0, 0, 50), 100, 400, 0.5)
    assert (full[:, 2] == 100).all()


@pytest.mark.parametrize(
    "augment, half", [("mda", 1 - 0.75**0.5), ("mda-linear", 0.5), ("mda-concave", 0.75**0.5), ("mda-min", 0), ("mda-max", 1)]
)
def test_schedules_of_the_smallest_area(augment, half):
    smallest = [AUGMENTATIONS[augment].smallest(0.08, epoch, 5) for epoch in range(5)]
    ends = {"mda-min": (0, 0), "mda-max": (1, 1)}.get(augment, (0, 1))
    expected = [0.08 + 0.92 * f for f in (ends[0], half, ends[1])]
    assert smallest[::2] == pytest.approx(expected)
    assert smallest == sorted(smallest)
    assert AUGMENTATIONS[augment].smallest(0.08, 0, 1) == pytest.approx(expected[0])


def test_plain_augmentation_has_no_schedule():
    assert {AUGMENTATIONS["rrc"].smallest(0.3, epoch, 5) for epoch in range(5)} == {0.3}
    assert set(AUGMENTATIONS) == set(CHOICES["augment"])
    assert set(transforms.RESAMPLING) == set(resample.KERNELS) == set(CHOICES["interpolation"])


# Evaluation crops


@pytest.mark.parametrize("key, tte", [("fivecrop", "fivecrop"), ("tencrop", "tencrop"), ("single", "none"), ("plain", "plain")])
@pytest.mark.parametrize("stored", ["file", "array"])
def test_golden_crops(key, tte, stored, tmp_path):
    golden = np.load(GOLDEN / "transforms_tte.npz")
    pixels, expected = golden["image/h40w50"], golden[f"{key}/h40w50"].reshape(-1, 3, 32, 32)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    split = Split(
        np.zeros(1, int), **({"images": pixels[None]} if stored == "array" else {"paths": [str(tmp_path / "image.png")]})
    )
    ((crops, _),) = EvalBatches(split, tte, 8, 32, MEAN, STD, "cpu")
    # Both ways are exact with the Pillow of the lock file; the array's is promised to within one level only.
    tolerance = 0 if stored == "file" else 1.001 / 255 / min(STD)
    assert np.abs(crops[0].numpy() - expected).max() <= tolerance


modes = st.sampled_from(["none", "plain", "fivecrop", "tencrop"])


@given(height=sizes, width=sizes, tte=modes, expand=st.integers(0, 9), kernel=st.sampled_from(sorted(resample.KERNELS)))
@settings(max_examples=50)
def test_crops_are_torchvisions(height, width, tte, expand, kernel):
    from torchvision import transforms as v1

    image, resolution = Image.fromarray(picture(height, width)), 16

    def resize(shorter):
        return v1.Resize(shorter, v1.InterpolationMode(kernel))

    if tte == "none":
        # 8 R // 7, which is LIFT+'s R + R // 7 too
        chain = [resize(16 + 16 // 7), v1.CenterCrop(16), lambda x: [x]]
    elif tte == "plain":
        chain = [resize(16), v1.CenterCrop(16), lambda x: [x]]
    else:
        chain = [resize(16 + expand), {"fivecrop": v1.FiveCrop, "tencrop": v1.TenCrop}[tte](16)]
    expected = np.stack([np.asarray(crop) for crop in v1.Compose(chain)(image)])
    assert (transforms.evaluation_crops(image, tte, resolution, expand, kernel) == expected).all()


def test_unknown_crops():
    with pytest.raises(PelError, match="unknown tte 'ninecrop'"):
        transforms.evaluation_size("ninecrop", 32, 0)


# Resizing on the device


def resized_on_device(pixels, height, width, kernel="bilinear"):
    zero = torch.zeros(1, dtype=torch.int64)
    rows = resample.resize_weights(zero, zero + pixels.shape[0], pixels.shape[0], height, None, kernel)
    columns = resample.resize_weights(zero, zero + pixels.shape[1], pixels.shape[1], width, None, kernel)
    return resample.resize_batch(torch.from_numpy(pixels)[None], rows, columns)[0].permute(1, 2, 0).numpy()


kernels = st.sampled_from(sorted(resample.KERNELS))


@given(height=sizes, width=sizes, new_height=sizes, new_width=sizes, seed=st.integers(0, 9), kernel=kernels)
@settings(max_examples=250)
def test_resizing_is_pils(height, width, new_height, new_width, seed, kernel):
    """Exactly, where PIL takes the horizontal pass first; within a level or two where Pillow 13 takes it second."""
    pixels = picture(height, width, seed)
    ours = resized_on_device(pixels, new_height, new_width, kernel)
    expected = np.asarray(Image.fromarray(pixels).resize((new_width, new_height), transforms.RESAMPLING[kernel])).astype(int)
    assert np.abs(ours - expected).max() <= 1 or kernel == "bicubic"
    if new_height >= height:
        assert (ours == expected).all()
    turned = np.ascontiguousarray(pixels.transpose(1, 0, 2))
    other = resized_on_device(turned, new_width, new_height, kernel).transpose(1, 0, 2)
    assert (ours == expected).all() or (other == expected).all()


def test_cropping_a_batch_is_cropping_each():
    images = np.stack([picture(40, 50, seed) for seed in range(24)])
    boxes, flips = transforms.random_boxes(transforms.uniforms(0, 0, 0, 24), 40, 50, 0.08)
    ours = (
        resample.crop_resize(torch.from_numpy(images), torch.from_numpy(boxes), torch.from_numpy(flips), 32)
        .permute(0, 2, 3, 1)
        .numpy()
    )
    augmenter = transforms.Augmenter("rrc", 0.08)
    for i, u in enumerate(transforms.uniforms(0, 0, 0, 24)):
        assert np.abs(ours[i] - transforms.train_crop(Image.fromarray(images[i]), u, 32, augmenter)).max() <= 1


def test_autocast_does_not_touch_pixels():
    pixels = picture(30, 30)
    with torch.autocast("cpu", torch.bfloat16):
        assert (
            resized_on_device(pixels, 48, 48) == np.asarray(Image.fromarray(pixels).resize((48, 48), Image.Resampling.BILINEAR))
        ).all()


# Decoding


def saved(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_odd_modes(tmp_path):
    """Grey, palette, CMYK, transparent, bilevel and 16-bit images all become 8-bit RGB."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    grey = np.repeat(ramp[..., None], 3, axis=2)
    wide = ramp.astype(np.uint16) * 257
    colour = Image.fromarray(picture(8, 8))
    cases = {
        "grey.png": (saved(Image.fromarray(ramp), "PNG"), grey),
        "wide.png": (saved(Image.fromarray(wide), "PNG"), grey),
        "wide.tiff": (saved(Image.fromarray(wide), "TIFF"), grey),
        "palette.png": (saved(colour.quantize(16), "PNG"), np.asarray(colour.quantize(16).convert("RGB"))),
        "cmyk.tiff": (saved(colour.convert("CMYK"), "TIFF"), np.asarray(colour.convert("CMYK").convert("RGB"))),
        "alpha.png": (saved(colour.convert("RGBA"), "PNG"), np.asarray(colour)),
        "grey alpha.png": (saved(Image.fromarray(ramp).convert("LA"), "PNG"), grey),
        "bits.png": (
            saved(Image.fromarray(ramp).convert("1"), "PNG"),
            np.asarray(Image.fromarray(ramp).convert("1").convert("RGB")),
        ),
    }
    for name, (content, expected) in cases.items():
        (tmp_path / name).write_bytes(content)
        image = transforms.load_rgb(tmp_path / name)
        assert image.mode == "RGB" and (np.asarray(image) == expected).all(), name


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("text.jpg", b"not an image", "cannot identify"),
        ("empty.jpg", b"", "cannot identify"),
        ("short.jpg", saved(Image.fromarray(picture(40, 40)), "JPEG")[:-200], "truncated"),
        ("float.tiff", saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PelError, match=rf"image .*{name} cannot be decoded \(.*{message}"):
        transforms.load_rgb(tmp_path / name)
    with pytest.raises(PelError, match=r"gone\.jpg cannot be decoded .*restore the file, or take it away"):
        transforms.load_rgb(tmp_path / "gone.jpg")


@given(data=st.data(), form=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]))
@settings(max_examples=200)
def test_any_damage_is_an_image_or_one_error(tmp_path_factory, data, form):
    content = bytearray(saved(Image.fromarray(picture(12, 12)), form))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        assert transforms.load_rgb(path).mode == "RGB"
    except PelError as error:
        assert str(path) in str(error)
