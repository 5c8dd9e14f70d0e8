"""Evaluation crops are the same for every run, so what the blocks that a method leaves alone make of them is computed once.

An entry is a file of the folder ``prefixes`` in the results: the tokens that enter the first touched block, or whole features,
of every crop, as an ordinary .npy array (bfloat16 as uint16) with the SHA-256 of it all behind. What an entry depends on is in
its name, a digest. It is read as a stream, not through a map: a file that another process cuts off would kill the reader. A
damaged one is noticed at the end at the latest, and computed again. Two processes may make one at once; the later one stays.
Where all entries together would grow beyond the limit, those that were not used for longest are removed.

Shape legend: N images, K crops, T tokens, D width, B images of a batch.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
import torch
from torch import Tensor, nn

from pel_core.common.bounded_folder import BoundedFolder, NoRoom
from pel_core.common.logs import logger
from pel_core.common.versions import PREDICT
from pel_core.data.batches import EvalBatches
from pel_core.hardware import cpu
from pel_core.models.vit import ViT
from pel_core.training.classifier import Classifier
from pel_core.training.loop import autocast, crops_per_pass, predict

GIGABYTES = 4.0  # that all entries together may take
# Operations that a byte read has to spare: a CPU of 1 TFLOP/s or a GPU of 1 PFLOP/s, and files of 1 GB/s. So GPUs keep whole
# features of large networks, and CPUs nearly everything.
WORTH = {"cpu": 1e3, "cuda": 1e6}
TYPES = {torch.float32: np.dtype("<f4"), torch.float16: np.dtype("<f2"), torch.bfloat16: np.dtype("<u2")}
Identity = Mapping[str, Any]


class Damaged(Exception):
    """A cached file whose content is not what was written, by its size or digest."""


class RemainingBlocks(nn.Module):
    """The part of a ViT behind its first ``depth`` blocks: (B, T, D), or with all of them (B, D), -> features (B, D)."""

    def __init__(self, vit: ViT, depth: int):
        super().__init__()
        self.vit, self.depth, self.tokens = vit, depth, vit.tokens

    def forward(self, x: Tensor) -> Tensor:
        return self.vit.rest(x, self.depth)


class PrefixCache:
    """The entries under a results folder. ``used`` is the number of blocks that the last prediction took from one.

    Args:
        gigabytes: the most that all entries may take; 0 neither keeps nor reads any.
    """

    def __init__(self, results: str | Path, gigabytes: float = GIGABYTES):
        self.folder, self.used = BoundedFolder(Path(results) / "prefixes", gigabytes * 1e9, ".npy"), 0

    def predict(
        self,
        network: Classifier | ViT,
        batches: EvalBatches,
        depth: int,
        about: Identity,
        precision: str = "fp32",
        on_batch: Callable[[int], None] = lambda n: None,
    ) -> Tensor:
        """As `loop.predict`, with the same bits (on a CPU), through a cached file where reading is faster than computing.

        Args:
            depth: the blocks, from the first on, that are as they were loaded.
            about: what identifies weights and images beside what ``batches`` says itself.
            on_batch: called with the number of images of each batch that is done.
        """
        self.used = 0
        vit = network.vit if isinstance(network, Classifier) else network
        if not (self.folder.limit and depth and worth_reading(vit, depth, batches.device)):
            return predict(network, batches, on_batch, precision)
        remaining: nn.Module = RemainingBlocks(vit, depth)
        if isinstance(network, Classifier):
            remaining = Classifier(remaining, network.head, network.tuned)
        entry = Entry(self.folder.folder / f"{name(vit, batches, depth, about, precision)}.npy", vit, batches, depth)
        if entry.path.is_file():
            try:
                self.folder.touch(entry.path)
                logits = predict(remaining, entry.read(), on_batch, precision)
                self.used = depth
                return logits
            except (Damaged, OSError) as error:
                _say(f"{entry.path} cannot be used ({error}): computed again")
                with suppress(OSError):
                    entry.path.unlink(missing_ok=True)
        try:
            writer = Writer(entry, self.folder.reserve(entry.path, entry.size))
        except NoRoom as reason:
            _say(f"not used: {reason}; see prefix_cache_gb")
        except OSError as error:
            _say(f"not used: {error.strerror}: {self.folder.folder}")
        else:
            return predict(remaining, entry.make(writer, precision), on_batch, precision)
        return predict(network, batches, on_batch, precision)


class Entry:
    """One file: what the first ``depth`` blocks make of the crops of ``batches``."""

    def __init__(self, path: Path, vit: ViT, batches: EvalBatches, depth: int):
        self.path, self.vit, self.batches, self.depth = path, vit, batches, depth
        crop = (vit.width,) if depth == vit.layers else (vit.tokens, vit.width)
        self.shape = (batches.images, batches.crops, *crop)
        self.size = 4 * math.prod(self.shape) + 1024  # bytes, at most: with header and digest

    def make(self, writer: "Writer", precision: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what the blocks make of each batch, (B, K, T, D) or (B, K, D), and write it on the way."""
        size = crops_per_pass(self.vit, self.batches.device)
        try:
            for crops, labels in self.batches:
                with torch.inference_mode(), autocast(precision, crops.device):
                    parts = [self.vit.prefix(part, self.depth) for part in crops.flatten(0, 1).split(size)]
                    x = torch.cat(parts).unflatten(0, crops.shape[:2])
                writer.add(x)
                yield x, labels
            writer.finish()
        finally:
            writer.drop()

    def read(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the same batches from the file, without labels.

        Raises:
            Damaged: at the latest after the last batch.
        """
        with open(self.path, "rb") as stream:
            digest = hashlib.sha256()
            dtype = self._header(stream, digest)
            for start in range(0, self.shape[0], self.batches.batch_size):
                shape = (min(self.batches.batch_size, self.shape[0] - start), *self.shape[1:])
                values = np.empty(shape, TYPES[dtype])
                if stream.readinto(values.data.cast("B")) != values.nbytes:
                    raise Damaged("it is too short")
                digest.update(values.data.cast("B"))
                x = torch.from_numpy(values)
                yield (x.view(dtype) if dtype == torch.bfloat16 else x).to(self.batches.device), Tensor()
            if stream.read() != digest.digest():
                raise Damaged("its content is not what was written")

    def _header(self, stream: BinaryIO, digest: Any) -> torch.dtype:
        try:
            np.lib.format.read_magic(stream)
            shape, _, found = np.lib.format.read_array_header_1_0(stream)
        except Exception:  # NumPy evaluates the header, and any bytes may stand there
            raise Damaged("it has no NumPy header") from None
        dtypes = [dtype for dtype, kind in TYPES.items() if kind == found]
        if shape != self.shape or not dtypes:
            raise Damaged("it holds another array")
        end = stream.tell()
        stream.seek(0)
        digest.update(stream.read(end))
        return dtypes[0]


class Writer:
    """Writes an entry batch by batch beside its place, and moves it there at the end. What cannot be written is said once, and
    the evaluation goes on without.

    Args:
        temporary: the file that was reserved for it.
    """

    def __init__(self, entry: Entry, temporary: Path):
        self.path, self.shape, self.temporary = entry.path, entry.shape, temporary
        self.digest, self.stream, self.failed = hashlib.sha256(), None, False

    def add(self, x: Tensor) -> None:
        """Append a batch."""
        x = x.detach().cpu().contiguous()
        values = (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
        self._try(lambda: self._append(values))

    def _append(self, values: np.ndarray) -> None:
        if self.stream is None:
            self.stream = open(self.temporary, "r+b")  # noqa: SIM115  closed by finish() or drop()
            header = io.BytesIO()
            about = {"descr": values.dtype.str, "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(header, about)
            self.stream.write(header.getvalue())
            self.digest.update(header.getvalue())
        content = np.ascontiguousarray(values).data.cast("B")
        self.stream.write(content)
        self.digest.update(content)

    def finish(self) -> None:
        """Append the digest and rename the temporary file; after a crash of the machine the digest tells a torn file."""
        self._try(self._move)

    def _move(self) -> None:
        if self.stream is not None:
            self.stream.write(self.digest.digest())
            self.stream.truncate()  # what was reserved and not needed
            self.stream.close()
            os.replace(self.temporary, self.path)
            logger.info("prefix cache: %s written, %.3g MB", self.path, self.path.stat().st_size / 1e6)

    def _try(self, work: Callable[[], None]) -> None:
        if not self.failed:
            try:
                work()
            except OSError as error:
                self.failed = True
                self.drop()
                _say(f"not kept: {error.strerror or error}: {self.path}")

    def drop(self) -> None:
        """Remove the temporary file."""
        try:
            if self.stream is not None:
                self.stream.close()
        except OSError:
            pass  # a full disk, told before
        finally:
            self.temporary.unlink(missing_ok=True)


def worth_reading(vit: ViT, depth: int, device: torch.device) -> bool:
    """Whether reading the output of ``depth`` blocks from a file is faster than computing it (thresholds: ``WORTH``)."""
    operations = 2 * vit.tokens * sum(value.numel() for value in vit.blocks[:depth].parameters())
    read = 4 * vit.width * (1 if depth == vit.layers else vit.tokens)
    return operations >= WORTH.get(device.type, WORTH["cuda"]) * read


def name(vit: ViT, batches: EvalBatches, depth: int, about: Identity, precision: str) -> str:
    """A digest of everything that an entry's bits depend on, software and device included."""
    device = batches.device
    # A CPU's libraries choose their code by its model, and promise equal bits for equal numbers of threads only.
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu.model()
    content = {
        "predict": PREDICT, "about": dict(about), "depth": depth, "precision": precision,
        "crops": [batches.tte, batches.expand, batches.resolution, batches.interpolation],
        "random": asdict(batches.random) if batches.tte == "randaug" else None,
        "channels": [batches._mean.flatten().tolist(), batches._std.flatten().tolist()],
        "per_pass": [batches.batch_size, crops_per_pass(vit, device)],
        "machine": [device.type, kind, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
        "libraries": [torch.__version__, torch.get_float32_matmul_precision(), np.__version__, PIL.__version__],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _say(text: str) -> None:
    logger.warning("prefix cache: %s", text)
