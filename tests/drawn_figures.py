"""Made-up figures of every kind with any number of entries and labels of any length, and what a drawn figure must keep to."""

import warnings

import numpy as np

from pel_core.reporting import (
    figure_budget,
    figure_class_difference,
    figure_confusion,
    figure_critical_difference,
    figure_interaction,
    figure_per_class,
    figure_reliability,
    figure_seeds,
    figure_shift,
    figure_training,
)
from pel_core.reporting.figure_bar_layouts import draw_bars
from pel_core.reporting.figure_bars import Bar, BarFigure
from pel_core.reporting.figure_budget import BudgetFigure, Point, draw_budget
from pel_core.reporting.figure_class_difference import DifferenceFigure, Differences, draw_differences
from pel_core.reporting.figure_confusion import ConfusionFigure, Flow, draw_confusion
from pel_core.reporting.figure_counts import draw_counts
from pel_core.reporting.figure_critical_difference import CriticalFigure, draw_critical, ranks_of
from pel_core.reporting.figure_curve import CurveFigure, Line, draw_curve
from pel_core.reporting.figure_interaction import InteractionFigure, Level, draw_interaction
from pel_core.reporting.figure_main_effects import ROOMY, MainFigure, draw_main
from pel_core.reporting.figure_map import CensusRow, MapFigure, draw_map
from pel_core.reporting.figure_per_class import ClassFigure, draw_classes, window_of
from pel_core.reporting.figure_reliability import Bins, ReliabilityFigure, draw_reliability
from pel_core.reporting.figure_seeds import SeedsFigure, Strip, draw_seeds
from pel_core.reporting.figure_sheet import Sheet
from pel_core.reporting.figure_shift import Point as ShiftPoint
from pel_core.reporting.figure_shift import ShiftFigure, Side, draw_shift
from pel_core.reporting.figure_style import COLUMN, PAGE, plt
from pel_core.reporting.figure_training import Trace, TrainingFigure, draw_training
from pel_core.reporting.statistics.effects import Effect
from pel_core.reporting.statistics.intervals import Interval
from pel_core.reporting.tables import Statistic

LONG = "A label of just sixty characters, as methods have, no. {:03d} $"


def label(number: int, long: bool) -> str:
    return LONG.format(number) if long else f"M{number}"


def sheet(title: str = "Overall accuracy of methods on several data sets", width: float = COLUMN, why: str = "") -> Sheet:
    """With a caption, which no picture may show."""
    return Sheet(title, ["A caption."], "DEMO", width, why)


def bars(groups: int, long: bool, series: int = 0, form: str = "points", sheet: Sheet = sheet()):  # noqa: B008
    made = []
    for group in range(groups):
        for each in range(max(1, series)):
            mean = 70 + (group * 7 + each * 3) % 11
            value = Statistic(float(mean), 0.4, 3) if (group, each) != (1, 1) else Statistic(None, None, 0, "no tail class")
            ends = ((mean - 0.4, mean + 0.4), (mean - 2, mean + 2)) if value.mean else (None, None)
            made.append(Bar(group, each, label(group, long), value, *ends, 36_864 * (group % 5 + 1) + each))
    names = [label(each, long) for each in range(series)]
    return draw_bars(BarFigure(sheet, label(1, True) if long else "Accuracy (%)", made, names, 1, form))


def standing(groups: int, long: bool):
    return bars(groups, long, form="bars")


def curve(entries: int, long: bool):
    places = [0.001 * 1.37**i if long else float(i + 1) for i in range(entries)]
    lines = [
        Line(label(i, long), places, [Statistic(70 + 5 * np.sin(i + 3 * j / entries), 0.4, 3) for j in range(entries)])
        for i in range(entries)
    ]
    axes = ("blocks", "Overall accuracy (%)") if not long else (LONG.format(1), LONG.format(2))
    return draw_curve(CurveFigure(sheet("Accuracy against blocks"), *axes, long, lines))


def method_map(entries: int, long: bool, layers: int = 12):
    parts = (("ffn", "adaptformer"), ("attn.norm", "ln"), ("", "vpt-shallow"))
    rows = [CensusRow(label(i, long), b, *part, 7_087_872) for i in range(entries) for b in range(layers) for part in parts]
    titled = sheet("Which sites of which block carry what", PAGE)
    return draw_map(MapFigure(titled, rows, [label(i, long) for i in range(entries)], layers))


def counts(entries: int, long: bool):
    reference = np.concatenate([np.linspace(2000, 110, 98), [30, 3]]).astype(int)
    return draw_counts(sheet("cifar100"), {label(i, long): reference // (i % 7 + 1) + 1 for i in range(entries)}, reference)


def strips(entries: int, long: bool, seeds: int = 3):
    made = [Strip(label(i, long), {s: 60.0 + i % 7 + 0.3 * s for s in range(seeds) if (i, s) != (2, 1)}) for i in range(entries)]
    made[-1:] = [Strip(label(entries - 1, long), {0: 50.0}, True)] if entries > 3 else made[-1:]
    return draw_seeds(SeedsFigure(sheet("Seeds"), "Overall accuracy (%)", tuple(range(seeds)), made))


def budget(entries: int, long: bool, zero: bool = True):
    points = [
        Point(label(i, long), 0 if zero and not i else 1000 * 2**i if i < 20 else 10**6 + i, 60.0 + i % 7, None, (58.0, 72.0))
        for i in range(entries)
    ]
    return draw_budget(BudgetFigure(sheet("Accuracy against parameters"), "Overall accuracy (%)", points, "higher"))


def per_class(entries: int, long: bool, classes: int = 365, width: float = COLUMN):
    rng, (counts, groups) = np.random.default_rng(0), long_tail(classes)
    made = [(label(i, long), np.clip(rng.normal(80 - 5 * i, 12, classes), 0, 100)) for i in range(entries)]
    for _, values in made:
        values[::17] = np.nan  # classes without a test image
    return draw_classes(ClassFigure(sheet("Accuracy per class", width), counts, groups, made, window_of(0.1, classes)))


def differences(entries: int, long: bool, classes: int = 365, width: float = COLUMN):
    rng, (counts, groups) = np.random.default_rng(1), long_tail(classes)
    made = []
    for i in range(entries):
        values = rng.normal(2, 9, classes).round()
        values[::17] = np.nan
        made.append(Differences(label(i, long), values, dict.fromkeys(set(groups), (2.0 + i, -1.0, 5.0))))
    return draw_differences(DifferenceFigure(sheet("Difference per class", width), label(999, long), counts, groups, made))


def long_tail(classes: int):
    """Training images and shot group of each class."""
    counts = np.maximum(1, (1000 * 0.002 ** (np.arange(classes) / max(1, classes - 1))).astype(int))
    return counts, tuple("head" if count > 100 else "tail" if count < 20 else "med" for count in counts)


def reliability(entries: int, long: bool, width: float = PAGE):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 40, 15)
    bins = Bins(images, np.where(images, (np.arange(15) + 0.5) / 15, np.nan), np.where(images, rng.random(15), np.nan))
    made = [(label(i, long), {"head": bins, "tail": bins} | ({"med": bins} if i else {})) for i in range(entries)]
    return draw_reliability(ReliabilityFigure(sheet("Reliability", width), made))


def training(entries: int, long: bool, epochs: int = 10, seeds: int = 3):
    values = 90 - 60 / np.arange(2, epochs + 2) + np.arange(seeds)[:, None]
    traces = [Trace(label(i, long), np.arange(1, epochs + 1), values + i) for i in range(entries)]
    return draw_training(TrainingFigure(sheet("Training"), "training loss", traces))


def confusion(entries: int, long: bool):
    shares = {"head": np.array([90.0, 4, 3, 3]), "med": np.array([0.0, 100, 0, 0]), "tail": np.array([25.0, 25, 25, 25])}
    return draw_confusion(ConfusionFigure(sheet("Flow"), [Flow(label(i, long), shares) for i in range(entries)]))


def interaction(levels: int, long: bool, series: int = 2, width: float = COLUMN):
    cells = [
        Level(i, j, 60.0 + i * j, None if i else (55.0, 63.0)) for i in range(levels) for j in range(series) if (i, j) != (1, 1)
    ]
    names = [[label(i, long) for i in range(count)] for count in (levels, series)]
    return draw_interaction(InteractionFigure(sheet("Interaction", width), "Tail (%)", *names, cells))


def critical(methods: int, long: bool, datasets: int = 8, width: float = COLUMN):
    made = ranks_of(np.random.default_rng(0).normal(size=(datasets, methods)) - np.arange(methods))
    return draw_critical(CriticalFigure(sheet("Mean ranks", width), [label(i, long) for i in range(methods)], made))


def shift(methods: int, long: bool, sets: int = 2, width: float = COLUMN):
    def side(value: float) -> Side:
        return Side(value, (value - 0.5, value + 0.5), (value - 2, value + 2))

    pairs = [(i, j) for i in range(methods) for j in range(sets)]
    points = [ShiftPoint(i, j, side(70.0 + i), side(60.0 + i - 5 * j)) for i, j in pairs]
    names = [[label(i, long) for i in range(count)] for count in (methods, sets)]
    return draw_shift(ShiftFigure(sheet("On other images", width), "Accuracy (%)", *names, points))


def main_effects(levels: int, long: bool, factors: int = 2):
    effects = [
        Effect("overall", 60.0 + i, 1.0, (), (0, 1, 2), 90, False, Interval(60.0 + i, 0.5, 2), Interval(60.0 + i, 1.0, 9))
        for i in range(levels)
    ]
    made = [(label(900 + f, long), tuple(label(i, long) for i in range(levels)), effects) for f in range(factors)]
    return draw_main(MainFigure(sheet("Main effects", COLUMN if factors * levels <= ROOMY else PAGE), "Tail (%)", made))


# Kind: what draws it, and the most entries that there is room for (its declaration refuses more).
DRAW = {
    "bars": (bars, 100),
    "bars from zero": (standing, 100),
    "curve": (curve, 100),
    "map": (method_map, 100),
    "counts": (counts, 100),
    "seeds": (strips, figure_seeds.MOST),
    "budget": (budget, figure_budget.MOST),
    "per-class": (per_class, figure_per_class.MOST),
    "class-difference": (differences, figure_class_difference.MOST - 1),
    "reliability": (reliability, figure_reliability.MOST),
    "training": (training, figure_training.MOST),
    "confusion": (confusion, figure_confusion.MOST),
    "interaction": (interaction, figure_interaction.MOST_LEVELS),
    "main-effects": (main_effects, 6),
    "critical-difference": (critical, figure_critical_difference.MOST),
    "shift": (shift, figure_shift.MOST),
}
UNNAMED = {"counts": 1, "class-difference": 0}  # kinds that name no row where there are so few
LEAST = {"interaction": 2, "critical-difference": 3}


def texts(figure) -> list[plt.Text]:
    """Every text that is drawn, but for the word across the figure."""
    figure.draw_without_rendering()
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.findobj(lambda artist: hasattr(artist, "get_xaxis")):
        found += [*axes.texts, axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label]
        ticks = [tick for axis in (axes.xaxis, axes.yaxis) for tick in axis._update_ticks()]  # those in view
        found += [label for tick in ticks for label in (tick.label1, tick.label2)]
    return [text for text in found if text.get_visible() and text.get_text().strip() and text.get_rotation() != 20]


def check(figure) -> None:
    """No text leaves the canvas or touches another."""
    found = texts(figure)
    boxes = np.array([text.get_window_extent().extents for text in found])
    low, high = boxes[:, :2], boxes[:, 2:]
    outside = (low < -0.5).any(1) | (high > np.array([figure.bbox.x1, figure.bbox.y1]) + 0.5).any(1)
    assert not outside.any(), [found[i].get_text() for i in np.flatnonzero(outside)][:5]
    over = ((low[:, None] < high[None] - 0.5) & (low[None] < high[:, None] - 0.5)).all(-1)
    pairs = np.argwhere(np.triu(over, 1))
    assert not len(pairs), [(found[i].get_text(), found[j].get_text()) for i, j in pairs[:5]]


def drawn(make, *arguments, **settings):
    """A figure, drawn with warnings as errors: a layout that is given up is one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = make(*arguments, **settings)
        figure.draw_without_rendering()
    return figure


def words(figure) -> str:
    """Every text of a figure in one line."""
    return " ".join(text.get_text() for text in texts(figure)).replace("\n", " ")
