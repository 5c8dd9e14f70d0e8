"""What several kinds of figure share: their sheet, methods with their stored predictions, how each looks, intervals, bands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.lazy import plt
from pel_core.common.registry import Knob, one_of
from pel_core.data.sampling import GROUPS
from pel_core.reporting.figure_counts import SHADES, TITLES, apart
from pel_core.reporting.figure_sheet import Legend, Sheet, grid
from pel_core.reporting.figure_style import COLOURS, COLUMN, LINES, PAGE, SHAPES
from pel_core.reporting.figure_text import text_width
from pel_core.reporting.runs import Record, Runs, read_runs
from pel_core.reporting.statistics.effects import LEAST_SEEDS, Effect
from pel_core.reporting.statistics.reading import Reader
from pel_core.reporting.statistics.runs import Row, require_same_images
from pel_core.spec.choices import METRICS
from pel_core.spec.records import data_name
from pel_core.studies.cells import Artefact
from pel_core.studies.kinds import Declaration
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTHS = {"column": COLUMN, "page": PAGE}
WIDTH = Knob("width", "column", "how wide: a column of a paper or its page", one_of(*WIDTHS))
WIDE = Knob("width", "page", WIDTH.meaning, WIDTH.check)


Ends = tuple[float, float] | None
# What a caption says of whiskers, by the number of seeds (at most the last). Student's t of two seeds is 12.7: no thick line.
WHISKERS = (
    "Thin: 95 % interval over test images.",
    "Thin: 95 % interval over training runs and test images, which from two seeds misses in up to 13 % of cases. A thick line, "
    "over training runs alone, takes three seeds.",
    "Thick: 95 % interval over training runs (another run, this test set); thin: over training runs and test images.",
)


def sheet_of(artefact: Artefact, runs: Runs, about: Iterable[str], anything: object, reason: str = "") -> Sheet:
    """A figure's sheet: title, width, and a caption of what the kind says, blanks, the declared note and the notice.

    Args:
        about: what the kind says of the figure.
        anything: whether there is something to draw; empty lists are nothing.
        reason: why there is not, where runs have results.
    """
    none = reason if reason and runs else no_result(runs)
    return Sheet(
        artefact.title,
        [*about, *runs.notes(), artefact.declaration.get("note", ""), artefact.banner[1]],
        artefact.banner[0],
        WIDTHS[artefact.knobs.get("width", "column")],
        "" if anything else none,
    )


def axis_label(artefact: Artefact) -> str:
    """What the values are called: as declared, else the metric's name; "Accuracy (%)" where several are drawn."""
    paths = list(dict.fromkeys(cell.value for cell in artefact.cells))
    labels = [METRICS[path.removeprefix("metrics.")].label for path in paths if path.removeprefix("metrics.") in METRICS]
    if len(paths) > 1 and all(label.endswith("accuracy (%)") for label in labels) and len(labels) == len(paths):
        labels = ["Accuracy (%)"]
    return artefact.knobs["axis"] or (labels[0] if labels else paths[0])


@dataclass(frozen=True)
class Method:
    """A row of a figure: its label, its runs' predictions (None where a run has no result) and what is known of its runs."""

    label: str
    row: Row | None
    records: list[Record]


def read_methods(study: Study, name: str) -> tuple[Artefact, list[Method], Runs]:
    """A figure without columns, its rows, and all results.

    Raises:
        PelError: a run is missing or cannot be used, or its predictions are damaged.
    """
    artefact = study.artefact(name)
    runs, reader, made = read_runs(study, artefact), Reader(study.results), []
    for cell in artefact.cells:
        label = str(artefact.declaration[artefact.how.rows][cell.row]["label"])
        row = None if runs.without(cell.slugs) else reader.row(label, cell.specs)
        made.append(Method(label, row, runs.described(cell.slugs)))
    return artefact, made, runs


def about_whiskers(seeds: Sequence[int], drawn: Iterable[tuple[Ends, Ends]]) -> str:
    """What a caption says of intervals over so many seeds, those that are drawn among them: training and general."""
    beyond = any(one and two and (one[0] < two[0] or one[1] > two[1]) for one, two in drawn)
    more = f" Where the thick one is longer, {len(seeds)} seeds tell their own spread badly." if beyond else ""
    return WHISKERS[min(len(seeds), len(WHISKERS)) - 1] + more


def ends_of(found: Effect) -> tuple[Ends, Ends]:
    """The ends of the training and of the general interval, None of one that has no width; below three seeds of the former."""
    pairs = [(each.low, each.high) for each in (found.training, found.general)]
    first, second = (None if low is None or high is None else (low, high) for low, high in pairs)
    return first if len(found.seeds) >= LEAST_SEEDS else None, second


def whiskers(axes: Axes, at: float, training: Ends, general: Ends, colour: str, upright: bool = True) -> None:
    """Both intervals of a value at a place: the general one thin, the training one thick over it."""
    for ends, width in ((general, 0.8), (training, 2.2)):
        if ends:
            xy = ([at, at], ends) if upright else (ends, [at, at])
            axes.plot(*xy, color=colour, linewidth=width, solid_capstyle="butt", zorder=2)


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


def classes_without(values: np.ndarray) -> str:
    """What a caption says of classes without a test image, whose values (C,) are NaN; empty where there are none."""
    none = int(np.isnan(values).sum())
    return f"{none:,} of {len(values):,} classes have no test image and no value." if none else ""


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
    """Colour, line and marker of a row: of eight each of the three is its own, of 64 the pair of colour and marker."""
    return {"color": COLOURS[number % 8], "linestyle": LINES[number % 8], "marker": SHAPES[(number + number // 8) % 8]}


def legend_of(labels: Sequence[str], **other: Any) -> Legend:
    """A legend of rows as they `look`, but for what is given."""
    shape = {"linewidth": 1.1, "markersize": 3.4}
    return [(plt.Line2D([], [], **{**shape, **look(i), **other}), label) for i, label in enumerate(labels)]


def name_rows(axes: Axes, labels: Sequence[str], size: float) -> None:
    """Lying rows at 0, 1, ... from the top, their labels at the left, and a grid behind them."""
    axes.set_yticks(range(len(labels)), labels, fontsize=size, linespacing=1.0)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(plt.MaxNLocator(5))
    if len(labels) > 30:  # the axis is far from the first rows
        axes.tick_params(axis="x", top=True, labeltop=True)
    grid(axes, "both")


def say_blank(axes: Axes, y: float, reason: str, room: float) -> None:
    """In a lying row without a value a dash, and why there is none if that fits into ``room`` inches; the caption has it too."""
    text = f"– {reason}"
    place = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 5.6, "color": "#444444"}
    axes.text(0.01, y, text if text_width(text, 5.6) < room else "–", **place)


def no_result(runs: Runs) -> str:
    """Why nothing is drawn."""
    return "Nothing to draw: no run that it needs has a result" + ("; the caption names them." if runs.blanks else ".")


def seeds_of(seeds: Sequence[int], what: str = "Mean") -> str:
    """What a caption says of the seeds."""
    return f"{what} over n = {len(seeds)} seeds" if len(seeds) > 1 else f"One seed ({seeds[0]})"


def data_names(runs: Runs) -> str:
    """The data sets that results are of, and whose images where runs are evaluated on another's."""
    return ", ".join(sorted({data_name(record) for record in runs.described()})) or "no result"


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
