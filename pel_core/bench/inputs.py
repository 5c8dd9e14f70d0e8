"""Images per second and core of every way to read, crop and resize training images.

Shapes: B images, H x W pixels, R pixels a side.
"""

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2 import functional as v2

from pel_core.bench.machine import Bench
from pel_core.bench.measure import alternate
from pel_core.common.seeds import generator
from pel_core.data.image_cache import CachedImages, offsets
from pel_core.data.resample import crop_resize
from pel_core.data.transforms import Augmenter, evaluation_crops, load_rgb, random_boxes, train_crop, uniforms

SIZES = ((500, 375), (800, 600))
R, CACHED = 224, 256
QUALITY = 96  # of the made files: about 0.5 bytes a pixel, as ImageNet's
Table = np.ndarray
Way = Callable[[int], Any]


def make_image(number: int, width: int, height: int) -> Image.Image:
    """A drawn picture: a colour gradient, a few discs, coarse and fine noise, so that its JPEG is as large as a photograph's."""
    rng = generator(number, "bench", "image", width, height)
    y, x = np.mgrid[0:height, 0:width]
    pixels = rng.uniform(0, 160, 3) + np.stack([x / width, y / height, (x + y) / (width + height)], -1) * rng.uniform(-90, 90, 3)
    for _ in range(12):
        inside = np.hypot(x - rng.uniform(0, width), y - rng.uniform(0, height)) < rng.uniform(10, height / 4)
        pixels[inside] += rng.uniform(-70, 70, 3)
    for cell, strength in ((16, 16), (4, 9), (1, 7)):
        noise = rng.normal(0, strength, (-(-height // cell), -(-width // cell), 1))
        pixels += noise.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_files(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """JPEG files of such pictures."""
    paths = [folder / f"{width}x{height}-{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        make_image(number, width, height).save(path, quality=QUALITY)
    return paths


def pil(paths: list[Path], table: Table, i: int) -> np.ndarray:
    """As the engine does it."""
    return train_crop(load_rgb(paths[i]), table[i], R, Augmenter("rrc", 0.08))


def pil_fused(paths: list[Path], table: Table, i: int) -> np.ndarray:
    """One resize with a box, of an image that the JPEG decoder has already reduced where the crop is large enough."""
    with Image.open(paths[i]) as image:
        box, flip = _box(table[i], image.height, image.width)
        top, left, height, width = box
        factor = next(f for f in (8, 4, 2, 1) if min(height, width) >= f * R or f == 1)
        full = image.size
        image.draft("RGB", (full[0] // factor, full[1] // factor))
        sx, sy = image.width / full[0], image.height / full[1]
        corners = (left * sx, top * sy, (left + width) * sx, (top + height) * sy)
        crop = image.convert("RGB").resize((R, R), Image.Resampling.BILINEAR, box=corners)
    return np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop)


def torchvision_v2(paths: list[Path], table: Table, i: int) -> torch.Tensor:
    """Decoded by torchvision, cropped and resized by its v2 transforms on uint8."""
    return _v2_crop(decode_jpeg(read_file(str(paths[i])), ImageReadMode.RGB), table[i])


def simplejpeg_cv2(paths: list[Path], table: Table, i: int) -> np.ndarray:
    """simplejpeg's decoder (libjpeg-turbo), OpenCV's resize; the decoder reduces where the crop is large enough."""
    import cv2
    import simplejpeg

    data = paths[i].read_bytes()
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    (top, left, h, w), flip = _box(table[i], height, width)
    factor = next(f for f in (8, 4, 2, 1) if min(h, w) >= f * R or f == 1)
    image = simplejpeg.decode_jpeg(data, "RGB", min_height=height // factor, min_width=width // factor)
    sy, sx = image.shape[0] / height, image.shape[1] / width
    crop = image[round(top * sy) : round((top + h) * sy), round(left * sx) : round((left + w) * sx)]
    crop = cv2.resize(crop, (R, R), interpolation=cv2.INTER_AREA if min(crop.shape[:2]) > R else cv2.INTER_LINEAR)
    return crop[:, ::-1] if flip else crop


def simplejpeg_v2(paths: list[Path], table: Table, i: int) -> torch.Tensor:
    """simplejpeg's decoder, torchvision's v2 transforms on uint8."""
    import simplejpeg

    image = simplejpeg.decode_jpeg(paths[i].read_bytes(), "RGB")
    return _v2_crop(torch.from_numpy(image).permute(2, 0, 1), table[i])


def decoded_pil(cache: CachedImages, table: Table, i: int) -> np.ndarray:
    """As the engine does it with ``image_cache``: a decoded image from a memory-mapped file, cropped and resized by PIL."""
    return train_crop(Image.fromarray(cache[i]), table[i], R, Augmenter("rrc", 0.08))


def fivecrop_decoded(cache: CachedImages, _: Table, i: int) -> np.ndarray:
    """The five crops of a decoded test image, as the engine does it with ``image_cache``."""
    return evaluation_crops(Image.fromarray(cache[i]), "fivecrop", R, 24)


def memmap_v2(cache: CachedImages, table: Table, i: int) -> torch.Tensor:
    """The same decoded image, cropped and resized by v2 on the CPU."""
    return _v2_crop(torch.from_numpy(np.array(cache[i])).permute(2, 0, 1), table[i])


def memmap_copy(cache: CachedImages, table: Table, i: int) -> np.ndarray:
    """Of the same image the crop alone, copied: a GPU resizes it."""
    image = cache[i]
    (top, left, height, width), _ = _box(table[i], *image.shape[:2])
    return np.array(image[top : top + height, left : left + width])


def fivecrop_pil(paths: list[Path], _: Table, i: int) -> np.ndarray:
    """The five crops of a test image, as the engine does it."""
    return evaluation_crops(load_rgb(paths[i]), "fivecrop", R, 24)


def _box(u: np.ndarray, height: int, width: int) -> tuple[list[int], bool]:
    boxes, flips = random_boxes(u[None], height, width, 0.08)
    return boxes[0].tolist(), bool(flips[0])


def _v2_crop(image: torch.Tensor, u: np.ndarray) -> torch.Tensor:
    (top, left, height, width), flip = _box(u, *image.shape[1:])
    crop = v2.resized_crop(image, top, left, height, width, [R, R], antialias=True)
    return v2.horizontal_flip(crop) if flip else crop


OF_FILES: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "PIL, as the engine does it": (pil, ()),
    "PIL, one resize(box=) and draft": (pil_fused, ()),
    "torchvision.io + v2 on uint8": (torchvision_v2, ()),
    "simplejpeg + v2 on uint8": (simplejpeg_v2, ("simplejpeg",)),
    "simplejpeg + cv2": (simplejpeg_cv2, ("simplejpeg", "cv2")),
    "five test crops, PIL, as the engine does it": (fivecrop_pil, ()),
}
OF_CACHE: dict[str, Callable[..., Any]] = {
    "decoded 256-px uint8 memmap, PIL, as the engine does it": decoded_pil,
    "five test crops, decoded 256-px uint8 memmap, PIL, as the engine does it": fivecrop_decoded,
    "decoded 256-px uint8 memmap + v2": memmap_v2,
    "decoded 256-px uint8 memmap, crop copied": memmap_copy,
}


def run(bench: Bench) -> dict[str, Any]:
    """A row for each way and size; all on one core."""
    device, quick = bench.device, bench.quick
    count, repeats = (4, 2) if quick else (64, 5)
    rows: list[dict[str, Any]] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for width, height in SIZES[:1] if quick else SIZES:
                paths = make_files(Path(folder), count, width, height)
                rows += _quietly(bench, partial(_of_files, paths, f"{width}x{height} JPEG", repeats))
                if device.type == "cuda":
                    rows.append(on_cuda(paths, f"{width}x{height} JPEG", repeats, device))
            rows += _quietly(bench, partial(_of_cache, paths, Path(folder), repeats))
        rows += _quietly(bench, lambda: [_cifar(device, count, repeats)])
    finally:
        torch.set_num_threads(threads)
    for row in rows:
        speed = row.get("images_per_second")
        bench.say(f"{row['way']}, {row['source']}: " + (f"{speed:,.0f} images/s" if speed else f"not measured ({row['why']})"))
    return {"settings": {"images": count, "repeats": repeats, "resolution": R, "jpeg_quality": QUALITY}, "rows": rows}


def _quietly(bench: Bench, work: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows, others = bench.quietly(work)
    return [row | {"others": others} for row in rows]


def _of_files(paths: list[Path], source: str, repeats: int) -> list[dict[str, Any]]:
    table, size = uniforms(0, 0, 0, len(paths)), sum(path.stat().st_size for path in paths) / len(paths) / 1e3
    absent = {name: [word for word in needs if find_spec(word) is None] for name, (_, needs) in OF_FILES.items()}
    works = {name: partial(way, paths, table) for name, (way, _) in OF_FILES.items() if not absent[name]}
    rows = [row | {"source": source, "jpeg_kb": size} for row in _timed(works, len(paths), repeats)]
    missing = [
        {"way": name, "source": source, "why": f"{', '.join(words)} not installed"} for name, words in absent.items() if words
    ]
    return rows + missing


def _of_cache(paths: list[Path], folder: Path, repeats: int) -> list[dict[str, Any]]:
    cache = decoded(paths, folder)
    table = uniforms(0, 0, 0, len(paths))
    works = {name: partial(way, cache, table) for name, way in OF_CACHE.items()}
    return [row | {"source": "256-px cache"} for row in _timed(works, len(paths), repeats)]


def decoded(paths: list[Path], folder: Path) -> CachedImages:
    """The images of files as ``image_cache`` holds them, in a folder."""
    images = [np.asarray(load_rgb(path, CACHED)) for path in paths]
    (folder / "images.bin").write_bytes(b"".join(image.tobytes() for image in images))
    heights, widths = np.array([image.shape[:2] for image in images]).T
    return CachedImages(folder / "images.bin", offsets(heights, widths)[:-1], heights, widths)


def _timed(ways: dict[str, Way], count: int, repeats: int) -> list[dict[str, Any]]:
    works = {name: (lambda way=way: [way(i) for i in range(count)]) for name, way in ways.items()}
    taken = alternate(works, repeats, torch.device("cpu"))
    return [
        {"way": name, "seconds": values, "images_per_second": count / statistics.median(values)} for name, values in taken.items()
    ]


def on_cuda(paths: list[Path], source: str, repeats: int, device: torch.device) -> dict[str, Any]:
    """JPEG files decoded by the GPU (nvJPEG), cropped and resized there."""
    name, data = "torchvision decode_jpeg on the GPU + v2", [read_file(str(path)) for path in paths]
    table = uniforms(0, 0, 0, len(paths))

    def work() -> None:
        for image, u in zip(decode_jpeg(data, ImageReadMode.RGB, device=device), table, strict=True):
            _v2_crop(image, u)

    try:
        taken = alternate({name: work}, repeats, device)[name]
    except RuntimeError as error:  # a torchvision built without nvJPEG
        return {"way": name, "source": source, "why": str(error).splitlines()[0]}
    return {"way": name, "source": source, "seconds": taken, "images_per_second": len(paths) / statistics.median(taken)}


def _cifar(device: torch.device, count: int, repeats: int) -> dict[str, Any]:
    """The engine's way with images held as arrays: a batch of boxes on the device."""
    pixels = torch.from_numpy(generator(0, "bench", "cifar").integers(0, 256, (count, 32, 32, 3), np.uint8)).to(device)
    boxes, flips = (torch.from_numpy(x).to(device) for x in random_boxes(uniforms(0, 0, 0, count), 32, 32, 0.08))
    name = "uint8 on the device, resized there in a batch, as the engine does it"
    taken = alternate({name: lambda: crop_resize(pixels, boxes, flips, R)}, repeats, device)[name]
    return {"way": name, "source": "32x32 array", "seconds": taken, "images_per_second": count / statistics.median(taken)}
