"""Reading image files in whole batches: in this process or in workers, with a time limit, and errors that name the files.

Shapes: B images, K crops, R pixels a side.
"""

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pel_core.common.errors import PelError
from pel_core.common.plugins import use_plugins
from pel_core.data.image_cache import CachedImages
from pel_core.data.transforms import Augmenter, evaluation_crops, load_rgb, train_crop, uniforms

READ_TIMEOUT = 300.0  # seconds that a batch of image files may take: a network file system that hangs never says so
GRACE = 30  # seconds that a worker outlives a SIGTERM, so that the run can finish its step and save


class DataError(PelError):
    """Images that cannot be read: damaged, a dead worker, a file system that does not answer."""


@dataclass(frozen=True)
class RandomCrops:
    """The crops of ``tte="randaug"``: how many training augmentations of each image, drawn from the run's seed."""

    count: int = 10
    seed: int = 0
    min_scale: float = 0.08

    def table(self, number: int, start: int, images: int) -> np.ndarray:
        """The uniforms of one of the crops, for ``images`` images from ``start`` on."""
        return uniforms(self.seed, number, start, images, purpose="tte")

    @property
    def augmenter(self) -> Augmenter:
        """RandomResizedCrop and flip, whatever the run was trained with."""
        return Augmenter("rrc", self.min_scale)


@dataclass
class TrainReader(Dataset):
    """Decodes a whole training batch, uint8 (B, R, R, 3), given (epoch, position of its first image, indices)."""

    paths: list[str]
    seed: int
    resolution: int
    augmenter: Augmenter
    interpolation: str
    native: int | None = None
    cache: CachedImages | None = None
    reading: str = ""
    purpose: str = "augment"  # names the draws of crops

    def __getitem__(self, key: tuple[int, int, np.ndarray]) -> Tensor | str:
        epoch, start, indices = key
        if not len(indices):  # fewer images than processes
            return torch.empty(0, self.resolution, self.resolution, 3, dtype=torch.uint8)
        table = uniforms(self.seed, epoch, start, len(indices), self.purpose)
        try:
            images = (_open(self, int(i)) for i in indices)
            kind = self.resolution, self.augmenter, epoch, self.interpolation
            crops = [train_crop(image, u, *kind) for image, u in zip(images, table, strict=True)]
        except PelError as error:
            return str(error)
        batch = torch.from_numpy(np.stack(crops))
        if not self.augmenter.has_policy:
            return batch
        positions = range(start, start + len(indices))
        after = self.augmenter.after(batch.permute(0, 3, 1, 2), self.seed, self.purpose, epoch, positions)
        return after.permute(0, 2, 3, 1).contiguous()


@dataclass
class EvalReader(Dataset):
    """Decodes a whole test batch, uint8 (B, K, R, R, 3), given its indices."""

    paths: list[str]
    tte: str
    resolution: int
    expand: int
    interpolation: str
    random: RandomCrops
    native: int | None = None
    cache: CachedImages | None = None
    reading: str = ""

    def __getitem__(self, indices: np.ndarray) -> Tensor | str:
        try:
            crops = [self._crops(int(i)) for i in indices]
        except PelError as error:
            return str(error)
        return torch.from_numpy(np.stack(crops))

    def _crops(self, index: int) -> np.ndarray:
        return self.crops_of(_open(self, index), index)

    def crops_of(self, image: Image.Image, index: int) -> np.ndarray:
        """The crops of an image that is the test image ``index``, by which random ones are drawn: uint8 (K, R, R, 3)."""
        random = self.random
        if self.tte != "randaug":
            return evaluation_crops(image, self.tte, self.resolution, self.expand, self.interpolation)
        tables = [random.table(number, index, 1)[0] for number in range(random.count)]
        return np.stack([train_crop(image, u, self.resolution, random.augmenter, 0, self.interpolation) for u in tables])


def _open(reader: TrainReader | EvalReader, index: int) -> Image.Image:
    """An image of a reader's, from the decoded ones where there are such; ``reading`` says what is waited for."""
    if reader.cache is not None:
        reader.reading = str(reader.cache.file)
        return Image.fromarray(reader.cache[index])
    reader.reading = reader.paths[index]
    return load_rgb(reader.reading, reader.native)


def read_timeout() -> float:
    """Seconds that a batch of image files may take: ``PEL_READ_TIMEOUT``, else 300; 0 waits for ever.

    Raises:
        PelError: it is not a number of seconds.
    """
    text = os.environ.get("PEL_READ_TIMEOUT", str(READ_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise PelError(f"PEL_READ_TIMEOUT={text}: expected seconds, or 0 to wait for ever")
    return seconds


class BatchKeys:
    """The sampler of a loader whose items are whole batches: it names the batches of one pass, an epoch or an evaluation.

    Each pass reads a tuple of its own, so that naming the next one's batches changes nothing of one that is being read.
    """

    def __init__(self, keys: Iterable[Any]):
        self.keys, self.passes = tuple(keys), 0

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def begin(self, keys: Iterable[Any] | None = None) -> tuple[tuple[Any, ...], int]:
        """A pass over other ``keys``, or the same as before: its keys and its number."""
        self.keys, self.passes = self.keys if keys is None else tuple(keys), self.passes + 1
        return self.keys, self.passes


def loader(reader: Dataset, keys: Iterable[Any], device: torch.device, workers: int) -> DataLoader:
    """A loader whose items are whole batches, named by ``keys``; its workers live as long as it does."""
    return DataLoader(
        reader,
        sampler=BatchKeys(keys),
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        timeout=read_timeout() if workers else 0,
        worker_init_fn=_start_worker,
    )


def received(loader: DataLoader, device: torch.device, keys: Iterable[Any] | None = None) -> Iterator[Tensor]:
    """The loader's batches on the device, named by ``keys``; the same as in the last pass when None.

    Raises:
        DataError: a file cannot be decoded, a worker died, or a batch took longer than ``read_timeout()``.
        RuntimeError: another pass has begun meanwhile, and workers serve one at a time.
    """
    keys, number = loader.sampler.begin(keys)
    items = iter(loader) if loader.num_workers else _watched(loader.dataset, keys, read_timeout())
    for key in keys:
        if loader.num_workers and loader.sampler.passes != number:
            raise RuntimeError("another pass over these batches has begun, and the loader's workers serve one at a time")
        try:
            with _deaths_noticed():
                item = next(items)
        except RuntimeError as error:  # torch's own words for a dead worker and for its time-out
            what = str(error).splitlines()[0]
            _end_workers(loader)
            paths = [loader.dataset.paths[i] for i in (key[-1] if isinstance(key, tuple) else key)]
            raise DataError(f"{what} while waiting for {named(paths, 'image files')}") from None
        if isinstance(item, str):  # A worker's error travels as text: raised there, it would come wrapped in a traceback.
            raise DataError(item)
        yield item.to(device, non_blocking=True)


def named(names: Sequence[str], what: str) -> str:
    """The first of many names in words."""
    rest = f", ... ({len(names)} {what})" if len(names) > 3 else f" ({what})"
    return ", ".join(map(str, names[:3])) + rest


@contextmanager
def _deaths_noticed() -> Iterator[None]:
    """Let torch raise a worker's death in here, and nowhere else: amid a step it would leave half a step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if callable(handler := signal.getsignal(signal.SIGCHLD)):
        _torch_handler[:] = [handler]
    for known in _torch_handler:
        signal.signal(signal.SIGCHLD, known)
    try:
        for known in _torch_handler:
            known(signal.SIGCHLD, None)  # of one that died meanwhile
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


_torch_handler: list[Callable[..., Any]] = []  # set by torch once, with the first workers of the process


def _end_workers(loader: DataLoader) -> None:
    """After a failure: a worker that hangs would be waited for."""
    for worker in getattr(loader._iterator, "_workers", []):
        worker.kill()
        worker.join(timeout=1)
    loader._iterator = None


def _watched(reader: Any, keys: Sequence[Any], seconds: float) -> Iterator[Any]:
    """Read in a thread of this process, so that a file system that hangs can be left."""
    asked: queue.SimpleQueue = queue.SimpleQueue()
    made: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_serve, args=(reader, asked, made), daemon=True).start()
    try:
        for key in keys:
            asked.put((key,))
            try:
                item = made.get(timeout=seconds or None)
            except queue.Empty:
                hint = "is the file system up? PEL_READ_TIMEOUT sets the limit"
                raise DataError(f"reading {reader.reading or 'images'} took longer than {seconds:g} s; {hint}") from None
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        asked.put(None)


def _serve(reader: Any, asked: queue.SimpleQueue, made: queue.SimpleQueue) -> None:
    while (key := asked.get()) is not None:
        try:
            made.put(reader[key[0]])
        except BaseException as error:
            made.put(error)


def _start_worker(worker: int) -> None:
    """Load plugins, where the worker is no fork. A scheduler signals every process of a job; the run ends its workers itself."""
    use_plugins()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
