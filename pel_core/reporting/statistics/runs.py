"""Runs as statistics see them: what each network said of each test image, by the image's identity, in small arrays.

An image's identity is its path below the data set's image folder, as `predictions.parquet` holds it; of a data set that is held
as an array, its place there. Images lie in one order, by class and identity, so that the order in which they were stored changes
nothing.
Shapes: N images, C classes.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.shipped import command
from pel_core.evaluation.predictions import Predictions
from pel_core.evaluation.scored import Scored


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a test set, by class and then by identity.

    Args:
        dataset: base name of the data set, which owns the identities.
        split: test or val.
        labels: int (N,), rising.
        names: identities, str (N,); None where an image is known by its place.
        digest: of all of these, which tells two test sets apart.
    """

    dataset: str
    split: str
    labels: np.ndarray
    names: np.ndarray | None
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Images) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __str__(self) -> str:
        return f"{len(self):,} images of {self.dataset}" + (f" ({self.split})" if self.split != "test" else "")


class Lazy(Scored):
    """`Scored` of labels and predictions alone; confidences and likelihoods are read when a metric first asks for them."""

    def __init__(self, labels: np.ndarray, predicted: np.ndarray, groups: Sequence[str], load: Callable[[], Predictions]):
        self.__dict__.update(labels=labels, predicted=predicted, groups=groups, load=load)

    labels = None  # type: ignore[assignment]  # no properties here: what was given is found in the instance
    predicted = None  # type: ignore[assignment]

    @cached_property
    def predictions(self) -> Predictions:  # type: ignore[override]
        return self.load()


@dataclass(eq=False)
class Run:
    """A run's predictions.

    Args:
        slug: its name.
        seed: of its training.
        images: its test set.
        groups: "head", "med" or "tail" of each class (C,).
        predicted: the most probable class of each image (N,), as small an integer as holds C.
        load: gives everything else that is stored, in the images' order.
    """

    slug: str
    seed: int
    images: Images
    groups: tuple[str, ...]
    predicted: np.ndarray
    load: Callable[[], Predictions] = field(repr=False)
    draws: dict[Any, Any] = field(default_factory=dict, repr=False)  # metric -> its resampled values, `resample`
    values: dict[str, Any] = field(default_factory=dict, repr=False)  # metric -> its value, `values`

    @cached_property
    def right(self) -> np.ndarray:
        """bool (N,): whether the most probable class is the label."""
        return self.predicted == self.images.labels

    @cached_property
    def hits(self) -> np.ndarray:
        """int (C,): test images of each class that are right."""
        return np.bincount(self.images.labels[self.right], minlength=len(self.groups))

    @cached_property
    def nll(self) -> np.ndarray:
        """float64 (N,): negative log-likelihood of each label in nats."""
        return self.scored().nll

    def scored(self) -> Scored:
        """What formulas of metrics take; not kept, since it grows with what they read."""
        return Lazy(self.images.labels, self.predicted, self.groups, self.load)

    @classmethod
    def of(
        cls,
        labels: np.ndarray,
        predicted: np.ndarray,
        seed: int = 0,
        groups: Sequence[str] = (),
        names: Sequence[str] | None = None,
        predictions: Predictions | None = None,
        slug: str = "",
        dataset: str = "data",
    ) -> "Run":
        """A run from arrays (N,) in any order of images; classes without a group count as "med".

        Raises:
            PelError: no images, or labels that are no classes.
        """
        images, order = make_images(dataset, "test", np.asarray(labels), None if names is None else np.asarray(names))
        classes = max(int(np.max(labels)), int(np.max(predicted))) + 1
        groups = tuple(groups) or ("med",) * classes

        def load() -> Predictions:
            if predictions is None:
                raise PelError(f"{slug or 'this run'} has class predictions alone, no confidences")
            return ordered(predictions, order)

        return cls(slug or f"run.s{seed}", seed, images, groups, small(np.asarray(predicted)[order], len(groups)), load)


@dataclass(frozen=True, eq=False)
class Row:
    """A method on a data set: its runs, one per seed.

    Args:
        name: how messages call it.
        runs: of different seeds on one test set.
        deterministic: nothing in it depends on the seed (zero-shot), so that its one run stands for every seed.
        notes: what was done to the list of runs, in words.
    """

    name: str
    runs: tuple[Run, ...]
    deterministic: bool = False
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> Images:
        """Its test set."""
        return self.runs[0].images

    @property
    def seeds(self) -> tuple[int, ...]:
        """Its seeds, rising; none where it is deterministic."""
        return () if self.deterministic else tuple(sorted(run.seed for run in self.runs))

    def run(self, seed: int) -> Run:
        """The run that stands for a seed."""
        return self.runs[0] if self.deterministic else next(run for run in self.runs if run.seed == seed)

    @classmethod
    def of(cls, name: str, runs: Sequence[Run], deterministic: bool = False) -> "Row":
        """A row of runs; a seed that is listed twice counts once, and the notes say so.

        Raises:
            PelError: no run, runs of different test sets, or two different runs of a seed.
        """
        if not runs:
            raise PelError(f"{name}: there is no run")
        by_seed: dict[int, Run] = {}
        notes = []
        for run in runs:
            require_same_images(runs[0], run)
            other = by_seed.setdefault(run.seed, run)
            if other is not run and deterministic:
                continue
            if other.slug != run.slug:
                raise PelError(f"{name}: {other.slug} and {run.slug} have the same seed; one run per seed makes a row")
        if len(by_seed) < len(runs) and not deterministic:
            notes.append(f"{len(runs)} runs are listed with {len(by_seed)} different seeds; each seed counts once")
        kept = list(by_seed.values())[:1] if deterministic else [by_seed[seed] for seed in sorted(by_seed)]
        return cls(name, tuple(kept), deterministic, tuple(notes))


def require_same_images(one: Run, two: Run) -> None:
    """Refuse to compare two runs image by image whose test sets differ.

    Raises:
        PelError: naming both, and an image that one of them lacks.
    """
    a, b = one.images, two.images
    if a.digest == b.digest:
        return
    start = f"{one.slug} and {two.slug} have different test sets, so they cannot be compared image by image: {a} and {b}"
    if (a.dataset, a.split) != (b.dataset, b.split):
        raise PelError(f"{start}; compare methods on one data set, or take the difference of contrasts (`minus` of a claim)")
    again = f"; predict again the one whose data are not those that are prepared now ({command('evaluate')})"
    if a.names is not None and b.names is not None:
        for here, there, slug in ((a, b, one.slug), (b, a, two.slug)):
            only = np.setdiff1d(here.names, there.names)
            if len(only):
                raise PelError(f"{start}; {len(only):,} are in {slug} alone, {only[0]} first{again}")
        raise PelError(f"{start}; the same images, with other labels or another number of times{again}")
    raise PelError(f"{start}; their labels differ{again}")


def make_images(dataset: str, split: str, labels: np.ndarray, names: np.ndarray | None) -> tuple[Images, np.ndarray]:
    """A test set from labels and identities (N,) in any order, and the order that sorts them, int (N,).

    Raises:
        PelError: no images, or labels below 0.
    """
    if not len(labels) or labels.min() < 0:
        raise PelError(f"data set {dataset}: there are no test images, or labels below 0")
    order = np.arange(len(labels)) if names is None else np.argsort(names, kind="stable")
    order = order[np.argsort(labels[order], kind="stable")]
    labels, names = labels[order].astype(np.intp), None if names is None else names[order]
    content = hashlib.sha256(f"{dataset}\0{split}\0{len(labels)}\0".encode() + labels.astype("<i8").tobytes())
    places = order.astype("<i8").tobytes()  # of an array the image of a place is known by that alone
    content.update(places if names is None else "\0".join(names.tolist()).encode("utf-8", "surrogateescape"))
    return Images(dataset, split, labels, names, content.hexdigest()), order


def ordered(predictions: Predictions, order: np.ndarray) -> Predictions:
    """Predictions with their images in another order, int (N,)."""
    return Predictions(**{name: getattr(predictions, name)[order] for name in Predictions.__dataclass_fields__})


def small(classes: np.ndarray, count: int) -> np.ndarray:
    """Classes below ``count`` as small unsigned integers."""
    return classes.astype(np.uint16 if count <= 1 << 16 else np.uint32)
