"""Two runs on the same test images: which images one has right and the other has not, one by one and by class. Torch-free."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pel_core.common.errors import PelError
from pel_core.evaluation.outputs import CLASSES, PREDICTIONS
from pel_core.reporting.statistics.reading import Reader
from pel_core.reporting.statistics.runs import Run, require_same_images
from pel_core.reporting.table_text import md_row, write_csv
from pel_core.spec.results import run_folder
from pel_core.spec.run_spec import RunSpec

GAINED, LOST, OTHER = "gained", "lost", "other mistake"  # by B: right now, wrong now, wrong in another way
LISTED = 20  # classes in the text; the files have all
IMAGES = ("image", "label", "label_name", "group", "change", "prediction_a", "name_a", "prediction_b", "name_b")
PER_CLASS = ("label", "name", "group", "images", "right_a", "right_b", GAINED, LOST, "other_mistake")


@dataclass(frozen=True, eq=False)
class Changes:
    """What run ``b`` says otherwise than run ``a``. ``names`` of the classes (C,), ``known``: each image's path, or its place in
    the data set (N,)."""

    a: Run
    b: Run
    names: Sequence[str]
    known: Sequence[str]

    def of(self, kind: str) -> np.ndarray:
        """bool (N,): the images that B gained, lost, or has wrong in another way."""
        right_a, right_b = self.a.right, self.b.right
        if kind == GAINED:
            return right_b & ~right_a
        if kind == LOST:
            return right_a & ~right_b
        return ~right_a & ~right_b & (self.a.predicted != self.b.predicted)

    def images(self) -> Iterator[tuple[str, ...]]:
        """A row of IMAGES for each image that changed, by class, then by image."""
        labels, kinds = self.a.images.labels, {kind: self.of(kind) for kind in (GAINED, LOST, OTHER)}
        for place in np.flatnonzero(self.a.predicted != self.b.predicted).tolist():
            kind = next(kind for kind, chosen in kinds.items() if chosen[place])
            label, a, b = int(labels[place]), int(self.a.predicted[place]), int(self.b.predicted[place])
            said = (str(a), self.names[a], str(b), self.names[b])
            yield self.known[place], str(label), self.names[label], self.a.groups[label], kind, *said

    def classes(self) -> list[tuple[int, ...]]:
        """Of each class with test images: label, images, right in A, right in B, gained, lost, other mistakes."""
        labels, count = self.a.images.labels, len(self.names)
        parts = [np.ones(len(labels), bool), self.a.right, self.b.right, *(self.of(kind) for kind in (GAINED, LOST, OTHER))]
        columns = [np.bincount(labels[part], minlength=count).tolist() for part in parts]
        return [(label, *row) for label, row in enumerate(zip(*columns, strict=True)) if row[0]]


def compare_runs(a: RunSpec, b: RunSpec, results: str | Path) -> Changes:
    """Read two runs' stored predictions.

    Raises:
        PelError: they are missing or damaged, of other test images, or the two are one run.
    """
    if a == b:
        raise PelError(f"both runs are {a.slug}: name two different ones")
    reader = Reader(results)
    one, two = reader.run(a), reader.run(b)
    require_same_images(one, two)
    names, others = (_class_names(results, spec) for spec in (a, b))
    if names != others:
        raise PelError(f"{a.slug} and {b.slug} name their classes otherwise, so that their answers are not comparable")
    return Changes(one, two, names, _identities(one, run_folder(results, a.slug) / PREDICTIONS))


def _identities(run: Run, file: Path) -> list[str]:
    """What the images of a run are known by, in its order: their paths; of those that are held as an array their places there."""
    from pyarrow import parquet

    table, known = parquet.read_table(file, columns=["index", "path", "label"]), run.images.names
    if known is None:
        places, labels = (table.column(name).to_numpy() for name in ("index", "label"))
        return [str(place) for place in places[np.argsort(labels, kind="stable")].tolist()]
    of_array = table.column("path").null_count > 0  # some of its images: `Reader` knows them by padded numbers
    return [str(int(name)) if of_array else str(name) for name in known]


def _class_names(results: str | Path, spec: RunSpec) -> list[str]:
    import csv

    with open(run_folder(results, spec.slug) / CLASSES, encoding="utf-8", newline="") as handle:  # which `Reader` has read
        return [row.get("name", row["label"]) for row in csv.DictReader(handle)]


def changes_text(changes: Changes) -> str:
    """Counts, then a table of the classes in which most images changed."""
    a, b, total = changes.a, changes.b, len(changes.a.images)
    sums = {kind: int(changes.of(kind).sum()) for kind in (GAINED, LOST, OTHER)}
    rights = [f"{run.right.sum():,} of {total:,} right ({100 * run.right.mean():.1f} %)" for run in (a, b)]
    lines = [f"A: {a.slug}: {rights[0]}", f"B: {b.slug}: {rights[1]}"]
    lines.append(f"B gains {sums[GAINED]:,} images, loses {sums[LOST]:,}, and is wrong in another way on {sums[OTHER]:,}.")
    rows = sorted(changes.classes(), key=lambda row: (-(row[4] + row[5]), row[0]))
    moved = [row for row in rows if row[4] + row[5]]
    if moved:
        head = md_row(["Class", "Group", "Images", "Right in A", "Right in B", "Gained", "Lost"])
        lines += ["", head, "|---|---|---:|---:|---:|---:|---:|"]
        for label, images, right_a, right_b, gained, lost, _ in moved[:LISTED]:
            numbers = map(str, (images, right_a, right_b, gained, lost))
            lines.append(md_row([changes.names[label], a.groups[label], *numbers]))
        if (more := len(moved) - LISTED) > 0:
            lines.append(f"and {more:,} more classes")
    return "\n".join(lines)


def changes_files(changes: Changes) -> dict[str, str]:
    """CSV by the word behind the file's name: ``images`` that changed, and every class with test images (``classes``)."""
    groups, names = changes.a.groups, changes.names
    classes = [(str(label), names[label], groups[label], *map(str, rest)) for label, *rest in changes.classes()]
    return {"images": write_csv([IMAGES, *changes.images()]), "classes": write_csv([PER_CLASS, *classes])}
