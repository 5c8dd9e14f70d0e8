"""What several kinds of figure share: methods with their stored predictions, how each looks, shot-group bands, stated reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.registry import Knob, one_of
from pel_core.data.sampling import GROUPS
from pel_core.reporting.figure_counts import SHADES, TITLES, apart
from pel_core.reporting.figure_style import COLOURS, COLUMN, PAGE
from pel_core.reporting.figure_text import wrapped
from pel_core.reporting.runs import Record, Runs, read_runs
from pel_core.reporting.statistics.reading import Reader
from pel_core.reporting.statistics.runs import Row, require_same_images
from pel_core.studies.cells import Artefact
from pel_core.studies.kinds import Declaration
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (6, 2)), (0, (3, 1, 1, 1)), (0, (1, 2)))
SHAPES = "oDs^vPX*"
WIDTHS = {"column": COLUMN, "page": PAGE}
WIDTH = Knob("width", "column", "how wide: a column of a paper or its page", one_of(*WIDTHS))
WIDE = Knob("width", "page", WIDTH.meaning, WIDTH.check)


@dataclass(frozen=True)
class Method:
    """A row of a figure: its label, its runs' predictions (None where a run has no result) and what is known of its runs."""

    label: str
    row: Row | None
    records: list[Record]


def read_methods(study: Study, artefact: Artefact) -> tuple[list[Method], Runs]:
    """The rows of a figure without columns, and all results.

    Raises:
        PelError: a run is missing or cannot be used, or its predictions are damaged.
    """
    runs, reader, made = read_runs(study, artefact), Reader(study.results), []
    for cell in artefact.cells:
        label = str(artefact.declaration[artefact.how.rows][cell.row]["label"])
        row = None if runs.without(cell.slugs) else reader.row(label, cell.specs)
        made.append(Method(label, row, runs.described(cell.slugs)))
    return made, runs


def class_counts(methods: Sequence[Method]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Training images int (C,) and shot group (C,) of each class, which rows of a per-class figure have in common.

    Raises:
        PelError: two have different test images, class sizes or groups.
    """
    known = [method for method in methods if method.row]
    first = known[0]
    assert first.row
    counts, groups = first.records[0]["data"]["train_counts"], first.row.runs[0].groups
    for other in known[1:]:
        assert other.row
        require_same_images(first.row.runs[0], other.row.runs[0])
        if (other.records[0]["data"]["train_counts"], other.row.runs[0].groups) != (counts, groups):
            raise PelError(
                f"{first.label} and {other.label} were trained with different class sizes, so that their classes share no axis; "
                "give each data set a figure of its own (`each`)"
            )
    return np.asarray(counts), groups


def class_accuracy(row: Row) -> np.ndarray:
    """Accuracy of each class in percent, the mean over seeds, float (C,); NaN without a test image."""
    images = np.bincount(row.images.labels, minlength=len(row.runs[0].groups))
    hits = np.mean([run.hits for run in row.runs], axis=0)
    return np.where(images > 0, 100 * hits / np.maximum(images, 1), np.nan)


def class_order(counts: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Classes from the one with the most training images to that with the fewest, group by group, int (C,)."""
    return np.lexsort((-counts, [GROUPS.index(group) for group in groups]))


def shade_groups(axes: Axes, groups: Sequence[str], width: float, named: bool = True) -> None:
    """Bands of the shot groups behind classes that stand in order at 0.5, 1.5, ...; ``width`` of the axes in inches."""
    sizes = {group: groups.count(group) for group in TITLES if group in groups}
    start = 0
    for group, size in sizes.items():
        axes.axvspan(start, start + size, color=SHADES[group], linewidth=0, zorder=0)
        if start:
            axes.axvline(start, color="#888888", linewidth=0.5, zorder=0.5)
        start += size
    axes.set_xlim(0, start)
    if named:
        names = axes.secondary_xaxis("top")
        names.tick_params(length=0, pad=1)
        names.spines["top"].set_visible(False)
        names.set_xticks(apart(sizes, start, width), [f"{TITLES[name]}\n{size:,}" for name, size in sizes.items()], fontsize=6)


def class_ticks(counts: np.ndarray, order: np.ndarray, most: int = 7) -> tuple[list[float], list[str]]:
    """Places on an axis of classes in order, and what is said there: the training images of the class."""
    places = np.unique(np.linspace(0, len(order) - 1, most).round().astype(int))
    return [float(place) + 0.5 for place in places], [f"{counts[order[place]]:,}" for place in places]


def look(number: int) -> dict[str, Any]:
    """Colour, line and marker of one of eight rows: told apart in grey by line or marker."""
    return {"color": COLOURS[number % 8], "linestyle": LINES[number % 8], "marker": SHAPES[number % 8]}


def say_why(axes: Axes, reason: str, width: float) -> None:
    """A reason in place of a picture."""
    axes.set_axis_off()
    axes.set(xticks=[], yticks=[])
    text = axes.text(0.5, 0.5, "\n".join(wrapped(reason, width, 7)), ha="center", va="center", transform=axes.transAxes)
    text.set_in_layout(False)  # it is in the middle, not beside the axes


def no_result(runs: Runs) -> str:
    """Why nothing is drawn."""
    return "Nothing to draw: no run that it needs has a result" + ("; the small print names them." if runs.blanks else ".")


def seeds_of(seeds: Sequence[int], what: str = "Mean") -> str:
    """What small print says of the seeds."""
    return f"{what} over n = {len(seeds)} seeds" if len(seeds) > 1 else f"One seed ({seeds[0]})"


def data_names(runs: Runs) -> str:
    """The data sets that results are of."""
    return ", ".join(sorted({record["data"]["name"] for record in runs.described()})) or "no result"


def at_most(rows: str, most: int, least: int = 1) -> Any:
    """A check of a declaration: how many rows a kind has room for, and no ``value`` that it would not show."""

    def check(declaration: Declaration) -> None:
        found: Sequence[Mapping[str, Any]] = declaration[rows]
        if not least <= len(found) <= most:
            raise PelError(f"{rows} has {len(found)} entries; a figure of kind {declaration['kind']} shows {least} to {most}")

    return check


def no_value(check: Any, *keys: str) -> Any:
    """``check``, and a refusal of ``value`` where the kind of figure shows no single number."""

    def both(declaration: Declaration) -> None:
        check(declaration)
        for item in (declaration.get("where", {}), *(item for key in keys for item in declaration[key])):
            if "value" in item:
                raise PelError(
                    f"value: {item['value']}: a figure of kind {declaration['kind']} shows no single number; leave it out"
                )

    return both
