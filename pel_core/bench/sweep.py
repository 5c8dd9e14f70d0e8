"""What a study would save if its runs shared a process: a sweep of learning rates, and all rows of a data set predicted at once.

``separate`` is what runs do: each reads its batches itself, and an evaluation takes its frozen blocks from the prefix cache.
``together`` reads every batch once, computes the blocks that all leave alone once, and gives the outcome to each in turn. The
trained parameters and the logits must be equal bit for bit, or no time counts. Start-up, loading and writing, which a run
has of its own, are not in these seconds; the part ``study`` has them.

Shape legend: B images, T tokens, D width.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pel_core.bench.inputs import make_files
from pel_core.bench.machine import Bench
from pel_core.bench.measure import alternate, ratio, seconds
from pel_core.bench.models import make_ours, make_step, make_tower
from pel_core.common.errors import PelError
from pel_core.common.seeds import generator
from pel_core.data.batches import EvalBatches, TrainBatches
from pel_core.data.split import Split
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier
from pel_core.training.loop import autocast, crops_per_pass, predict
from pel_core.training.prefix_cache import PrefixCache, RemainingBlocks, worth_reading

CLASSES = 24
Row = dict[str, Any]


@dataclass
class Size:
    """How much is measured of a backbone: runs of a sweep, images of a batch, steps of a run, images of an evaluation."""

    backbone: str
    runs: int
    batch: int
    steps: int
    images: int
    repeats: int


QUICK = (Size("toy", 2, 4, 1, 4, 1),)
SIZES = (Size("clip-mini", 16, 16, 4, 32, 2), Size("clip-b16", 16, 2, 1, 1, 1))


def methods(layers: int) -> list[str]:
    """From nothing that is shared to all blocks."""
    last = dict.fromkeys(f"adaptformer@{first}:{layers}" for first in (layers // 2, layers - 2, layers - 1))
    return ["adaptformer", *last, "head-only"]


def run(bench: Bench) -> dict[str, Any]:
    """A row for each backbone, source of images, method and stage."""
    sizes, rows = QUICK if bench.quick else SIZES, []
    try:
        for size in sizes:
            tower = make_tower(size.backbone)
            with tempfile.TemporaryDirectory() as folder:
                for source, split in _sources(size, Path(folder)):
                    for method in methods(tower.transformer.layers):
                        rows += _measure(bench, size, method, source, split, tower)
    except KeyboardInterrupt:
        if not rows:
            raise
        bench.say("interrupted: what was measured so far is kept")
    return {"settings": {"classes": CLASSES, "sizes": [vars(size) for size in sizes]}, "rows": rows}


def _sources(size: Size, folder: Path) -> Iterator[tuple[str, Split]]:
    """Images as the demo has them, an array of 20 pixels, and as JPEG files: of a photograph's size for the large network."""
    count = max(size.images, size.batch * size.steps)
    width, height = (500, 375) if size.backbone == "clip-b16" else (64, 48)
    labels = np.arange(count) % CLASSES
    if size.backbone != "clip-b16":
        yield "20x20 array", Split(labels, generator(0, "bench", "sweep").integers(0, 256, (count, 20, 20, 3), np.uint8))
    yield f"{width}x{height} JPEG", Split(labels, None, [str(path) for path in make_files(folder, count, width, height)])


def _measure(bench: Bench, size: Size, method: str, source: str, split: Split, tower: Any) -> Iterator[Row]:
    for stage, works in (("training", TrainingSweep), ("evaluation", EvaluationSweep)):
        row: Row = {"stage": stage, "backbone": size.backbone, "method": method, "source": source, "runs": size.runs}
        sweep = works(size, method, split, tower, bench.device)
        found, others = bench.quietly(partial(_timed, sweep, size.repeats, bench.device))
        yield (row := row | found | {"others": others})
        bench.say(spell(row))


def _timed(sweep: Any, repeats: int, device: torch.device) -> Row:
    """Seconds in turns, of outcomes that are equal, and what reading the images once takes."""
    ends: dict[str, list[Tensor]] = {}

    def work(way: str) -> None:
        ends[way] = getattr(sweep, way)()

    sweep.read()  # a first time
    taken = alternate({way: partial(work, way) for way in ("separate", "together")}, repeats, device, warm=0)
    if not all(torch.equal(a, b) for a, b in zip(*ends.values(), strict=True)):
        raise PelError(f"{sweep.spec.slug}: runs that share a process end elsewhere than runs of their own: no time counts")
    reading = [seconds(sweep.read, device) for _ in range(repeats)]
    return {
        "seconds": taken,
        "reads": sweep.reads,
        "reading_seconds": reading,
        "ratio": ratio(taken["separate"], taken["together"]),
    }


def copies(spec: RunSpec, tower: Any, count: int, device: torch.device) -> list[Classifier]:
    """Classifiers with the same numbers that hold what is frozen once."""
    made = [make_ours(spec, tower, CLASSES).to(device)]
    frozen = {name: value for name, value in made[0].named_parameters() if not value.requires_grad}
    for _ in range(count - 1):
        made.append(make_ours(spec, tower, CLASSES).to(device))
        for name, value in made[-1].named_parameters():
            if name in frozen:
                value.data = frozen[name].data
    return made


def behind(classifier: Classifier, depth: int) -> Classifier:
    """The classifier's part behind its first ``depth`` blocks."""
    return Classifier(RemainingBlocks(classifier.vit, depth), classifier.head, classifier.tuned)


class TrainingSweep:
    """Runs that differ in their learning rate alone."""

    def __init__(self, size: Size, method: str, split: Split, tower: Any, device: torch.device):
        choice = {"init": "random", "precision": "fp32", "batch_size": size.batch, "epochs": 1}
        rates = [0.001 * 1.3**number for number in range(size.runs)]
        self.specs = [RunSpec.make("cifar100-ir100", size.backbone, method, 0, **choice, lr=round(rate, 5)) for rate in rates]
        self.spec, self.size, self.device = self.specs[0], size, device
        self.classifiers = copies(self.spec, tower, size.runs, device)
        self.start = self.classifiers[0].trainable_state()
        self.reads = size.runs  # passes over the images, one by one
        self.batches = TrainBatches(split, self.spec, self.spec.pixels, self.spec.vit.mean, self.spec.vit.std, device)

    def _steps(self) -> Iterator[tuple[Tensor, Tensor, Any]]:
        return islice(self.batches.epoch(0), self.size.steps)

    def separate(self) -> list[Tensor]:
        """Each run reads, steps and ends; what it trained."""
        ends = []
        for spec in self.specs:
            classifier = self.classifiers[0]
            classifier.load_trainable(self.start)
            step = make_step(classifier, spec, CLASSES, self.device)
            for images, labels, _ in self._steps():
                step(images, labels)
            ends += classifier.trainable_state().values()
        return ends

    def together(self) -> list[Tensor]:
        """Every batch and its frozen blocks once, then a step of each run."""
        depth, runs = self.spec.num_frozen_prefix_blocks, []
        for spec, classifier in zip(self.specs, self.classifiers, strict=True):
            classifier.load_trainable(self.start)
            runs.append(make_step(behind(classifier, depth) if depth else classifier, spec, CLASSES, self.device))
        for images, labels, _ in self._steps():
            x = _prefix(self.classifiers[0], images, depth) if depth else images
            for step in runs:
                step(x, labels)
        return [value for classifier in self.classifiers for value in classifier.trainable_state().values()]

    def read(self) -> None:
        """The batches of one run without a network."""
        for images, *_ in self._steps():
            images.sum()


class EvaluationSweep:
    """Rows of a table, all evaluated on the same five crops of the same images."""

    def __init__(self, size: Size, method: str, split: Split, tower: Any, device: torch.device):
        self.spec = RunSpec.make("cifar100-ir100", size.backbone, method, 0, init="random", precision="fp32")
        self.classifiers = copies(self.spec, tower, size.runs, device)
        how = self.spec.pixels, self.spec.vit.mean, self.spec.vit.std, device
        self.batches = EvalBatches(split.take(np.arange(size.images)), "fivecrop", self.spec.expand, *how)
        depth, vit = self.spec.num_frozen_prefix_blocks, self.classifiers[0].vit
        self.reads = 1 if depth and worth_reading(vit, depth, device) else size.runs  # else from the prefix cache

    def separate(self) -> list[Tensor]:
        """Each row with its own pass; the first one leaves what is frozen in the prefix cache, where that is worth a file."""
        with tempfile.TemporaryDirectory() as folder:
            depth = self.spec.num_frozen_prefix_blocks
            return [PrefixCache(folder).predict(each, self.batches, depth, {}) for each in self.classifiers]

    def together(self) -> list[Tensor]:
        """Every batch and its frozen blocks once, then each row's logits."""
        depth, found = self.spec.num_frozen_prefix_blocks, [[] for _ in self.classifiers]
        rows = [behind(each, depth) if depth else each for each in self.classifiers]
        for crops, labels in self.batches:
            x = crops
            if depth:
                x = _prefix(self.classifiers[0], crops.flatten(0, 1), depth, evaluated=True).unflatten(0, crops.shape[:2])
            for logits, row in zip(found, rows, strict=True):
                logits.append(predict(row, [(x, labels)]))
        return [torch.cat(logits) for logits in found]

    def read(self) -> None:
        """The crops of one row without a network."""
        for crops, _ in self.batches:
            crops.sum()


@torch.no_grad()
def _prefix(classifier: Classifier, images: Tensor, depth: int, evaluated: bool = False) -> Tensor:
    """What the first ``depth`` blocks make of images (B, 3, R, R), in the parts in which a run computes them."""
    vit = classifier.vit
    size = crops_per_pass(vit, images.device) if evaluated else len(images)
    with autocast("fp32", images.device):
        return torch.cat([vit.prefix(part, depth) for part in images.split(size)])


def spell(row: Row) -> str:
    """A row in words."""
    about = f"{row['stage']}, {row['backbone']}, {row['method']}, {row['source']}: {row['runs']} runs"
    return f"{about} together {row['ratio']['median']:.2f}x as fast as one by one"
