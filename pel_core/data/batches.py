"""Batches: images of a split, augmented or cropped for evaluation, normalised and on the device.

Images held as an array stay on the device as uint8 and are cropped and resized there; image files are decoded by PIL in
workers and travel as uint8. Either way image, crop and flip are functions of the spec's seed, the epoch and the position.
Shapes: N images, B a batch, K crops, R pixels a side.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pel_core.common.seeds import generator
from pel_core.data.loading import EvalReader, RandomCrops, TrainReader, loader, named, received
from pel_core.data.resample import crop_resize, normalise, resize_batch, resize_weights
from pel_core.data.split import Split
from pel_core.data.transforms import (
    Augmenter,
    crop_corners,
    evaluation_size,
    resized,
    uniforms,
)
from pel_core.hardware.process_group import ProcessGroup

# Small batches are cropped and resized several at once, up to so many images and pixels: a call costs as much as ten images.
CROPS_PER_CALL, PIXELS_PER_CALL = 128, 1 << 21


class Augmentation(Protocol):
    """What `TrainBatches` reads of a spec."""

    seed: int
    batch_size: int
    epochs: int
    augment: str
    crop_min_scale: float
    interpolation: str

    def knobs_of(self, scope: str) -> dict[str, Any]:
        """The knobs of the entry that is chosen for a scope, here ``augment``."""


# A generator, the labels (N,) and the epoch, from 0 -> N positions, those of the epoch's images in their order.
Sampler = Callable[[np.random.Generator, np.ndarray, int], np.ndarray]


def shuffled(order: np.random.Generator, labels: np.ndarray, epoch: int = 0) -> np.ndarray:
    """Every image once, in random order, in every epoch."""
    return order.permutation(len(labels))


class TrainBatches:
    """Shuffled, augmented training images.

    ``len(batches)`` is the number of batches an epoch (a last smaller one included), ``.images`` the number of images.

    Args:
        split: the training images.
        spec: its seed, batch_size, epochs, augment, crop_min_scale and interpolation are read.
        resolution: R.
        mean, std: of each channel, for pixels in 0..1.
        device: where batches go, and where an array of images is kept.
        workers: processes that decode image files; 0 decodes in this one. Has no effect on what comes out.
        group: the processes that train together: this one's part of every batch comes out.
        sampler: the order of an epoch's images.
    """

    def __init__(
        self,
        split: Split,
        spec: Augmentation,
        resolution: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str,
        workers: int = 0,
        group: ProcessGroup | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self.sampler = sampler or shuffled
        self.split, self.spec, self.resolution, self.device = split, spec, resolution, torch.device(device)
        self.images, self.group = len(split), group or ProcessGroup()
        knobs, fill = tuple(sorted(spec.knobs_of("augment").items())), tuple(round(255 * value) for value in mean)
        self.augmenter = Augmenter(spec.augment, spec.crop_min_scale, spec.epochs, knobs, fill)
        self._mean, self._std = _channels(mean, self.device), _channels(std, self.device)
        self._labels = torch.from_numpy(np.asarray(split.labels, np.int64)).to(self.device)
        self._order_name, self._crops_name, self._workers = "order", "augment", workers
        if split.images is not None:
            self._pixels = torch.from_numpy(_owned(split.images)).to(self.device)
        else:
            self._loader = self._make_loader()

    def __len__(self) -> int:
        return -(-self.images // self.spec.batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """Yield (images float32 (B, 3, R, R), labels int64 (B,), indices int64 NumPy (B,)) over the sampler's images, or from the
        step ``first`` on. Of several processes each gets images and labels of its part, which may be empty, and all indices.

        Raises:
            DataError: an image file cannot be decoded, or reading takes too long, or a worker died; files are named.
        """
        yield from self.steps(epoch, range(first, len(self)))

    def steps(self, epoch: int, steps: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """As `epoch`, some of its steps, in rising order."""
        order = self._order(epoch)
        device_order = torch.from_numpy(order).to(self.device)
        arrays = self.split.images is not None
        crops = self._device_crops(epoch, device_order, steps) if arrays else self._file_crops(epoch, order, steps)
        for step, pixels in zip(steps, crops, strict=True):
            batch = slice(step * self.spec.batch_size, (step + 1) * self.spec.batch_size)
            yield normalise(pixels, self._mean, self._std), self._labels[device_order[self._part(step)]], order[batch]

    def second_stream(self, name: str, sampler: Sampler) -> "TrainBatches":
        """Batches of the same images in another sampler's order, with crops of their own; ``name`` names the draws."""
        other = self.other_crops(name)
        other.sampler, other._order_name = sampler, f"{name}-order"
        return other

    def other_crops(self, name: str) -> "TrainBatches":
        """The same batches with crops of their own; ``name`` names the draws."""
        other = copy(self)
        other._crops_name = f"{name}-augment"
        if self.split.images is None:
            other._loader = other._make_loader()
        return other

    def names(self, epoch: int, step: int) -> str:
        """The first images of a batch in words: their files, or their numbers in the training split."""
        chosen = self._order(epoch)[step * self.spec.batch_size :][: self.spec.batch_size]
        names = [self.split.paths[i] if self.split.paths else f"number {i}" for i in chosen]
        return named(names, "training images")

    def _make_loader(self) -> DataLoader:
        source = self.spec.interpolation, self.split.native, self.split.cache
        paths = self.split.paths or []
        reader = TrainReader(paths, self.spec.seed, self.resolution, self.augmenter, *source, purpose=self._crops_name)
        return loader(reader, (), self.device, self._workers)

    def _part(self, step: int) -> slice:
        """This process's images of a batch, as positions in the epoch's order."""
        start = step * self.spec.batch_size
        part = self.group.part(min(self.spec.batch_size, self.images - start))
        return slice(start + part.start, start + part.stop)

    def _order(self, epoch: int) -> np.ndarray:
        return self.sampler(generator(self.spec.seed, self._order_name, epoch), np.asarray(self.split.labels), epoch)

    def _device_crops(self, epoch: int, order: Tensor, steps: Sequence[int]) -> Iterator[Tensor]:
        _, height, width, _ = self._pixels.shape
        u = uniforms(self.spec.seed, epoch, 0, self.images, self._crops_name)
        # Sent once an epoch, so that no step waits for a copy.
        boxes, flips = (torch.from_numpy(x).to(self.device) for x in self.augmenter.boxes(u, height, width, epoch))
        ahead = max(1, min(CROPS_PER_CALL, PIXELS_PER_CALL // self.resolution**2) // self.spec.batch_size)
        for _, together in groupby(steps, lambda step: step // ahead):
            parts = [self._part(step) for step in together]
            chosen = torch.cat([torch.arange(part.start, part.stop, device=self.device) for part in parts])
            images = self._pixels[order[chosen]]
            crops = crop_resize(images, boxes[chosen], flips[chosen], self.resolution, self.spec.interpolation)
            if self.augmenter.has_policy:
                positions = [position for part in parts for position in range(part.start, part.stop)]
                crops = self.augmenter.after(crops.byte(), self.spec.seed, self._crops_name, epoch, positions).float()
            yield from crops.split([part.stop - part.start for part in parts])

    def _file_crops(self, epoch: int, order: np.ndarray, steps: Sequence[int]) -> Iterator[Tensor]:
        parts = map(self._part, steps)
        keys = [(epoch, part.start, order[part]) for part in parts]
        for pixels in received(self._loader, self.device, keys):
            yield pixels.permute(0, 3, 1, 2).float(memory_format=torch.contiguous_format)


class EvalBatches:
    """Test images in order, each as K crops (``.crops``): 1 for "none" and "plain", 5 for "fivecrop", 10 for "tencrop", any
    number for "randaug".

    Iterating yields (crops float32 (B, K, 3, R, R), labels int64 (B,)).

    Args:
        split: the images.
        tte: "none" (resize to 8/7 R, centre crop), "fivecrop", "tencrop", "randaug" (random training crops), or "plain"
            (resize to R, centre crop).
        expand: pixels by which the ensembles enlarge the image before cropping.
        resolution, mean, std, device, workers: as for `TrainBatches`.
        batch_size: B, images.
        interpolation: "bilinear" or "bicubic".
        random: the crops of "randaug".
    """

    def __init__(
        self,
        split: Split,
        tte: str,
        expand: int,
        resolution: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str,
        batch_size: int = 64,
        workers: int = 0,
        interpolation: str = "bilinear",
        random: RandomCrops | None = None,
    ) -> None:
        self.split, self.tte, self.expand, self.resolution, self.batch_size = split, tte, expand, resolution, batch_size
        random = random or RandomCrops()
        self.device, self.interpolation, self.random = torch.device(device), interpolation, random
        self.images = len(split)
        if tte == "randaug":
            self.crops = random.count
        else:
            shorter = evaluation_size(tte, resolution, expand)
            self.crops = len(crop_corners(tte, shorter, shorter, resolution))
        self._mean, self._std = _channels(mean, self.device), _channels(std, self.device)
        self._labels = torch.from_numpy(np.asarray(split.labels, np.int64)).to(self.device)
        if split.images is None:
            positions = np.arange(self.images)
            keys = [positions[start : start + batch_size] for start in range(0, self.images, batch_size)]
            source = interpolation, random, split.native, split.cache
            reader = EvalReader(split.paths or [], tte, resolution, expand, *source)
            self._loader = loader(reader, keys, self.device, workers)

    def __len__(self) -> int:
        return -(-self.images // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        arrays = self._random_crops if self.tte == "randaug" else self._device_crops
        crops = arrays() if self.split.images is not None else self._file_crops()
        for step, pixels in enumerate(crops):
            labels = self._labels[step * self.batch_size : (step + 1) * self.batch_size]
            yield normalise(pixels, self._mean, self._std), labels

    def _device_crops(self) -> Iterator[Tensor]:
        assert self.split.images is not None
        _, height, width, _ = self.split.images.shape
        new_height, new_width = resized(height, width, evaluation_size(self.tte, self.resolution, self.expand))
        zero = torch.zeros(1, dtype=torch.int64, device=self.device)
        rows = resize_weights(zero, zero + height, height, new_height, None, self.interpolation)
        columns = resize_weights(zero, zero + width, width, new_width, None, self.interpolation)
        corners = crop_corners(self.tte, new_height, new_width, self.resolution)
        for start in range(0, self.images, self.batch_size):
            images = self._images(start)
            whole = resize_batch(images, rows, columns)
            mirror = whole.flip(-1) if any(mirrored for *_, mirrored in corners) else whole
            r = self.resolution
            yield torch.stack([(mirror if m else whole)[..., y : y + r, x : x + r] for y, x, m in corners], dim=1)

    def _random_crops(self) -> Iterator[Tensor]:
        assert self.split.images is not None
        _, height, width, _ = self.split.images.shape
        for start in range(0, self.images, self.batch_size):
            images, views = self._images(start), []
            for number in range(self.crops):
                u = self.random.table(number, start, len(images))
                boxes, flips = (torch.from_numpy(x).to(self.device) for x in self.random.augmenter.boxes(u, height, width, 0))
                views.append(crop_resize(images, boxes, flips, self.resolution, self.interpolation))
            yield torch.stack(views, dim=1)

    def _images(self, start: int) -> Tensor:
        return torch.from_numpy(_owned(self.split.images[start : start + self.batch_size])).to(self.device)

    def _file_crops(self) -> Iterator[Tensor]:
        for pixels in received(self._loader, self.device):
            yield pixels.permute(0, 1, 4, 2, 3).float(memory_format=torch.contiguous_format)


def _channels(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def _owned(images: np.ndarray) -> np.ndarray:
    """The pixels as torch takes them: those of a file's map stay where they are, read-only ones are copied."""
    return np.require(images, np.uint8, ("C_CONTIGUOUS", "WRITEABLE"))
