"""Figures with 1 to 100 entries and labels of 60 characters: no two texts overlap, and none is cut off by the canvas."""

import warnings
from itertools import pairwise

import numpy as np
import pytest

from pel_core.reporting.figure_bar_layouts import draw_bars
from pel_core.reporting.figure_bars import Bar, BarFigure
from pel_core.reporting.figure_counts import draw_counts
from pel_core.reporting.figure_curve import CurveFigure, Line, draw_curve
from pel_core.reporting.figure_map import CensusRow, draw_map
from pel_core.reporting.figure_style import PAGE, plt, style
from pel_core.reporting.figure_text import text_width, wrapped
from pel_core.reporting.tables import Statistic

LONG = "A label of just sixty characters, as methods have, no. {:03d} $"
BANNER = ("DEMO", "DEMO: made up, and not comparable with anything.")
NOTES = ["Mean, standard deviation and single seeds of places-lt, n = 3.", "Our reading of what the report says."]
ENTRIES = [1, 3, 12, 30, pytest.param(100, marks=pytest.mark.slow)]


def label(number: int, long: bool) -> str:
    return LONG.format(number) if long else f"M{number}"


def bars(groups: int, long: bool, series: int = 0, title: str = "Overall accuracy of methods on several data sets"):
    made = []
    for group in range(groups):
        for each in range(max(1, series)):
            mean = 70 + (group * 7 + each * 3) % 11
            value = Statistic(float(mean), 0.4, 3) if (group, each) != (1, 1) else Statistic(None, None, 0, "no tail class")
            made.append(
                Bar(group, each, label(group, long), value, [mean - 0.4, mean, mean + 0.4], 36_864 * (group % 5 + 1) + each)
            )
    names = [label(each, long) for each in range(series)]
    return draw_bars(BarFigure(title, label(1, True) if long else "Accuracy (%)", made, names, NOTES, BANNER, 1))


def curve(entries: int, long: bool):
    places = [0.001 * 1.37**i if long else float(i + 1) for i in range(entries)]
    lines = [
        Line(label(i, long), places, [Statistic(70 + 5 * np.sin(i + 3 * j / entries), 0.4, 3) for j in range(entries)])
        for i in range(entries)
    ]
    axes = ("blocks", "Overall accuracy (%)") if not long else (LONG.format(1), LONG.format(2))
    return draw_curve(CurveFigure("Accuracy against blocks", *axes, long, lines, NOTES, BANNER))


def method_map(entries: int, long: bool, layers: int = 12):
    parts = (("ffn", "adaptformer"), ("attn.norm", "ln"), ("", "vpt-shallow"))
    rows = [CensusRow(label(i, long), b, *part, 7_087_872) for i in range(entries) for b in range(layers) for part in parts]
    return draw_map(
        rows, [label(i, long) for i in range(entries)], layers, "Which sites of which block carry what", NOTES, BANNER
    )


def counts(entries: int, long: bool):
    reference = np.concatenate([np.linspace(2000, 110, 98), [30, 3]]).astype(int)
    return draw_counts("cifar100", {label(i, long): reference // (i % 7 + 1) + 1 for i in range(entries)}, reference)


DRAW = {"bars": bars, "curve": curve, "map": method_map, "counts": counts}


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


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("entries", ENTRIES)
@pytest.mark.parametrize("kind", DRAW)
def test_no_two_texts_overlap_and_none_is_cut_off(kind, entries, long):
    with style():
        figure = drawn(DRAW[kind], entries, long)
        check(figure)
        said = "".join(text.get_text() for text in texts(figure)).replace("\n", "").replace(" ", "")
        if kind != "counts" or entries > 1:  # every label is there, whole
            assert [i for i in range(entries) if label(i, long).replace(" ", "") not in said] == []


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize(("groups", "series"), [(1, 2), (3, 2), (4, 3), (2, 6), (7, 2), (10, 3), (3, 12)])
def test_bars_in_series(groups, series, long):
    with style():
        figure = drawn(bars, groups, long, series)
        check(figure)
        assert "No value (no tail class): " in "\n".join(text.get_text() for text in texts(figure)) or groups == 1


@pytest.mark.parametrize("layers", [4, 24, 40])
def test_a_map_of_any_depth(layers):
    with style():
        check(drawn(method_map, 3, False, layers))


def test_bars_stand_lie_and_become_dots():
    with style():
        for entries, panels, upright in ((3, 2, True), (6, 2, True), (8, 2, False), (14, 2, False), (15, 1, False)):
            figure = bars(entries, False)
            assert len(figure.axes) == panels, entries
            sizes = [(patch.get_width(), patch.get_height()) for patch in figure.axes[0].patches]
            assert len(sizes) == (entries if panels == 2 else 0)
            assert all((wide < high) == upright for wide, high in sizes), (entries, sizes)
            if panels == 2:
                low = figure.axes[0].get_ylim() if upright else figure.axes[0].get_xlim()
                assert low[0] == 0


def test_a_long_title_is_wrapped_and_dollars_are_dollars():
    with style():
        figure = drawn(bars, 3, False, title=f"{LONG.format(1)} {LONG.format(2)} $x$ \\bad{{")
        check(figure)
        assert figure.get_figwidth() <= PAGE


def test_wrapped_text_fits_and_loses_nothing():
    for text in ("", "a", LONG, "x" * 100, "one two  three\nfour", "$5 and $6"):
        for width in (0.05, 0.5, 2.0):
            lines = wrapped(text, width, 6)
            assert "".join(lines).replace(" ", "") == "".join(text.split())
            assert all(text_width(line, 6) <= width or len(line) == 1 for line in lines)
    assert all(text_width("x" * a, 6) < text_width("x" * b, 6) for a, b in pairwise((1, 2, 3)))
