"""Odd image files through the loaders a run uses and through `data prepare --check-images all`: converted, or named."""

import io
import json
import re
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.data import transforms
from pel_core.data.loading import EvalReader, RandomCrops, TrainReader
from pel_core.data.transforms import Augmenter, evaluation_crops, load_rgb

RAMP = np.linspace(0, 255, 96).astype(np.uint8).reshape(8, 12)
GREY = np.repeat(RAMP[..., None], 3, axis=2)
COLOUR = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)


def saved(image, form, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, form, **options)
    return buffer.getvalue()


def png_file(height, width, bits, colour_type, lines):
    """A PNG file of any header: PIL writes none of 16 bits in colour, nor one that claims more pixels than it has."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def png(pixels, colour_type):
    """uint16 (H, W, channels)"""
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    return png_file(*pixels.shape[:2], 16, colour_type, lines)


def wide(pixels):
    return pixels.astype(np.uint16) * 257


def turned(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return saved(COLOUR, "PNG", exif=exif)


def frames(form):
    return saved(Image.fromarray(GREY), form, save_all=True, append_images=[Image.fromarray(255 - GREY)], lossless=True)


def palette(**options):
    return saved(Image.fromarray(GREY).quantize(256), "PNG", **options)


ALPHA = np.dstack([COLOUR, RAMP])
BITS = np.where(RAMP[..., None] > 127, 255, 0).astype(np.uint8).repeat(3, 2)
# name -> content and the pixels it has to give; None where the format is lossy or only the shape counts.
GOOD = {
    "grey.png": (saved(RAMP, "PNG"), GREY),
    "grey.jpg": (saved(RAMP, "JPEG", quality=100), GREY),
    "grey and alpha.png": (saved(Image.fromarray(RAMP).convert("LA"), "PNG"), GREY),
    "bits.png": (saved(Image.fromarray(RAMP).convert("1", dither=Image.Dither.NONE), "PNG"), BITS),
    "palette.png": (palette(), GREY),
    "palette with a transparent colour.png": (palette(transparency=3), GREY),
    "palette with transparencies.png": (palette(transparency=bytes(range(256))), GREY),
    "rgba.png": (saved(ALPHA, "PNG"), COLOUR),
    "cmyk.tiff": (saved(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"), COLOUR),
    "cmyk.jpg": (saved(Image.fromarray(GREY).convert("CMYK"), "JPEG", quality=100), GREY),
    "16 bits.png": (saved(wide(RAMP), "PNG"), GREY),
    "16 bits.tiff": (saved(wide(RAMP), "TIFF"), GREY),
    "16 bits.pgm": (b"P5 12 8 65535\n" + wide(RAMP).astype(">u2").tobytes(), GREY),
    "16 bits in colour.png": (png(wide(COLOUR), 2), COLOUR),
    "16 bits and alpha.png": (png(wide(ALPHA), 6), COLOUR),
    "16 bits, grey and alpha.png": (png(wide(np.dstack([RAMP, RAMP])), 4), GREY),
    **{f"turned {n}.png": (turned(n), COLOUR) for n in (3, 6, 8)},  # as in the reference: EXIF turns nothing
    "turned.jpg": (
        saved(GREY, "JPEG", quality=100, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
        GREY,
    ),
    "animated.gif": (frames("GIF"), GREY),
    "animated.webp": (frames("WEBP"), GREY),
    "animated.png": (frames("PNG"), GREY),
    "really a png.JPEG": (saved(COLOUR, "PNG"), COLOUR),
    "no suffix": (saved(COLOUR, "PNG"), COLOUR),
    "one pixel.png": (saved(COLOUR[:1, :1], "PNG"), COLOUR[:1, :1]),
    "1 x 5000.png": (saved(np.resize(COLOUR, (1, 5000, 3)), "PNG"), np.resize(COLOUR, (1, 5000, 3))),
    "5000 x 1.png": (saved(np.resize(COLOUR, (5000, 1, 3)), "PNG"), np.resize(COLOUR, (5000, 1, 3))),
    "寺 Ναός été.png": (saved(COLOUR, "PNG"), COLOUR),
    " leading and double  spaces.png": (saved(COLOUR, "PNG"), COLOUR),
    "line\nbreak.png": (saved(COLOUR, "PNG"), COLOUR),
}
LOSSY = 6  # levels, of a smooth ramp


BAD = {
    "text.jpg": (b"this is no image\n", "cannot identify image file"),
    "page.jpg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "cannot identify image file"),
    "empty.jpg": (b"", "cannot identify image file|is empty"),
    "cut.jpg": (saved(np.resize(COLOUR, (80, 80, 3)), "JPEG")[:-400], "truncated"),
    "cut.png": (saved(np.resize(COLOUR, (80, 80, 3)), "PNG")[:-400], "truncated|broken|Truncated"),
    "float.tiff": (saved(np.ones((4, 4), np.float32), "TIFF"), "floating-point pixels, whose range is unknown"),
    "32 bits.tiff": (saved(np.full((4, 4), 1 << 20, np.int32), "TIFF"), "32-bit pixels, whose range is unknown"),
    "bomb.png": (png_file(60_000, 60_000, 8, 2, bytes(1000)), r"exceeds limit of 178956970 pixels.*scale it down"),
}


@pytest.fixture
def write(tmp_path):
    def put(name, content):
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return put


def readers(path):
    yield TrainReader([path], 0, 16, Augmenter("rrc", 0.08), "bilinear")[0, 0, np.array([0])]
    for tte in ("none", "fivecrop", "tencrop", "randaug"):
        yield EvalReader([path], tte, 16, 8, "bilinear", RandomCrops(3))[np.array([0])]


@pytest.mark.parametrize("name", GOOD)
def test_what_is_odd_but_an_image_is_read(write, name):
    content, expected = GOOD[name]
    image = load_rgb(path := write(name, content))
    assert image.mode == "RGB"
    difference = np.abs(np.asarray(image).astype(int) - expected)
    assert difference.max() <= (LOSSY if name.endswith("jpg") else 0), name
    shapes = [item.shape for item in readers(path)]
    assert shapes == [(1, 16, 16, 3), *((1, crops, 16, 16, 3) for crops in (1, 5, 10, 3))]


def test_the_files_are_as_odd_as_their_names(write):
    """PIL could have written them otherwise: then the test above would show nothing."""
    modes = {
        "grey and alpha.png": "LA",
        "bits.png": "1",
        "palette.png": "P",
        "rgba.png": "RGBA",
        "cmyk.jpg": "CMYK",
        "16 bits.png": "I;16",
    }
    assert {name: Image.open(write(name, GOOD[name][0])).mode for name in modes} == modes
    assert b"Adobe" in GOOD["cmyk.jpg"][0]  # whose CMYK values are stored inverted
    for name in ("turned 6.png", "turned.jpg"):
        assert Image.open(write(name, GOOD[name][0])).getexif()[274] == 6
    for name in ("animated.gif", "animated.webp", "animated.png"):
        assert Image.open(write(name, GOOD[name][0])).n_frames == 2
    for name in ("16 bits in colour.png", "16 bits and alpha.png"):
        assert GOOD[name][0][24] == 16


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_named(write, name):
    content, message = BAD[name]
    path = write(name, content)
    with pytest.raises(PelError, match=rf"image {re.escape(path)} cannot be decoded \(.*({message})"):
        load_rgb(path)
    for item in readers(path):
        assert isinstance(item, str) and path in item


@pytest.fixture
def tree(tmp_path):
    """A data set of the good images; returns what adds a file and prepares it."""
    root = tmp_path / "images"
    root.mkdir()
    (root / "names.txt").write_text("only\n")
    (root / "first.png").write_bytes(saved(COLOUR, "PNG"))
    (root / "train.txt").write_text("first.png 0\n")
    entry = {"root": str(root), "train": "train.txt", "test": "test.txt", "names": "names.txt"}
    config = {"title": "T", "backbone": "toy", "seeds": [0], "data": {"x": "mine"}, "datasets": {"mine": entry}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))

    def prepare(files):
        for name, content in files.items():
            (root / name).write_bytes(content)
        (root / "test.txt").write_text("".join(f"{name} 0\n" for name in files))
        words = ["--out", f"{tmp_path}/out", "--config", f"{tmp_path}/config.yaml", "--check-images", "all"]
        return main(["data", "prepare", "mine", *words])

    return prepare


def test_checking_admits_what_can_be_read(tree):
    # A list line cannot hold a line break, and may not begin with a space.
    assert tree({name: content for name, (content, _) in GOOD.items() if "\n" not in name and name[0] != " "}) == 0


@pytest.mark.parametrize("name", BAD)
def test_checking_names_what_cannot(tree, capsys, name):
    assert tree({"good.png": saved(GREY, "PNG"), name: BAD[name][0]}) == 1
    error = capsys.readouterr().err
    assert "test.txt:2" in error and name in error and re.search(BAD[name][1], error) and "Traceback" not in error


# Strips


@pytest.mark.parametrize("tte", ["none", "plain", "fivecrop", "tencrop"])
@pytest.mark.parametrize(("height", "width"), [(1, 300), (300, 1), (3, 400), (37, 50), (5, 5)])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_crops_resized_one_by_one_are_those_of_the_whole(monkeypatch, tte, height, width, kernel):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))
    whole = evaluation_crops(image, tte, 32, 8, kernel)
    monkeypatch.setattr(transforms, "LARGEST", 0)
    apart = evaluation_crops(image, tte, 32, 8, kernel)
    assert apart.shape == whole.shape and np.abs(apart.astype(int) - whole).max() <= 1
    assert (apart != whole).mean() < 0.05  # halves, rounded either way


def test_a_strip_takes_no_memory():
    """At 224 pixels five crops of it would be cut from 248 x 1,240,000."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    crops = evaluation_crops(Image.fromarray(np.resize(COLOUR, (1, 5000, 3))), "fivecrop", 224, 24)
    assert crops.shape == (5, 224, 224, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
