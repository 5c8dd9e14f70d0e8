"""Figures of every kind with 1 to 100 entries and labels of 60 characters: no two texts overlap, and none is cut off by the
canvas; each is as wide as a column or a page of a paper, and is legible in grey."""

from itertools import pairwise

import pytest
from drawn_figures import (
    DRAW,
    LEAST,
    LONG,
    UNNAMED,
    bars,
    budget,
    check,
    critical,
    curve,
    differences,
    drawn,
    interaction,
    label,
    method_map,
    per_class,
    reliability,
    sheet,
    strips,
    texts,
    training,
    words,
)

from pel_core.reporting.figure_bar_layouts import HATCHES
from pel_core.reporting.figure_rows import look
from pel_core.reporting.figure_style import COLUMN, PAGE, style
from pel_core.reporting.figure_text import text_width, wrapped

# Kind, number of entries (as many as there is room for, and none twice), and whether their labels are long; of many always.
ENTRIES = [
    pytest.param(kind, entries, long, marks=[pytest.mark.slow] if entries > 30 else [])
    for kind, (_, most) in DRAW.items()
    for entries in sorted({max(LEAST.get(kind, 1), min(entries, most)) for entries in (1, 3, 12, 30, 100)})
    for long in ([False, True] if entries <= 30 else [True])
]
SIZES = [3, 24, 8142]


@pytest.mark.parametrize(("kind", "entries", "long"), ENTRIES)
def test_no_two_texts_overlap_and_none_is_cut_off(kind, entries, long):
    with style():
        figure = drawn(DRAW[kind][0], entries, long)
        check(figure)
        assert figure.get_figwidth() in (COLUMN, PAGE) and "A caption." not in words(figure) and "DEMO" in words(figure)
        said = "".join(text.get_text() for text in texts(figure)).replace("\n", "").replace(" ", "")
        if entries > UNNAMED.get(kind, 0):  # every label is there, whole
            assert [i for i in range(entries) if label(i, long).replace(" ", "") not in said] == []


@pytest.mark.parametrize("form", ["points", "bars"])
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize(("groups", "series"), [(1, 2), (3, 2), (4, 3), (2, 6), (7, 2), (10, 3), (3, 12)])
def test_bars_in_series(groups, series, long, form):
    with style():
        figure = drawn(bars, groups, long, series, form)
        check(figure)
        said = [text.get_text() for text in texts(figure)]
        assert [word for word in said if word.startswith("–")] or groups == 1


@pytest.mark.parametrize("layers", [4, 24, 40])
def test_a_map_of_any_depth(layers):
    with style():
        check(drawn(method_map, 3, False, layers))


def test_bars_stand_or_lie_and_start_at_zero():
    with style():
        for entries, upright in ((3, True), (6, True), (8, False), (100, False)):
            axes = bars(entries, False, form="bars").axes[0]
            sizes = [(patch.get_width(), patch.get_height()) for patch in axes.patches]
            assert len(sizes) == entries and all((wide < high) == upright for wide, high in sizes), entries
            assert (axes.get_ylim() if upright else axes.get_xlim())[0] == 0


def test_points_stand_in_rows_on_an_axis_of_their_range():
    with style():
        for entries in (1, 3, 100):
            axes = bars(entries, False).axes[0]
            low, high = axes.get_xlim()
            assert not axes.patches and low > 50 and 1 <= high - low <= 20  # intervals of 68 to 82
        assert (curve(3, False).axes[0].get_ylim()[0]) > 50


def test_a_long_title_is_wrapped_and_dollars_are_dollars():
    with style():
        check(drawn(bars, 3, False, sheet=sheet(f"{LONG.format(1)} {LONG.format(2)} $x$ \\bad{{")))


def test_why_there_is_nothing_stands_in_place_of_the_picture():
    with style():
        figure = drawn(bars, 3, False, sheet=sheet(why=f"Nothing to draw: {LONG.format(1)}"))
        check(figure)
        assert "Nothing to draw: A label" in words(figure) and "M1" not in words(figure)


def test_rows_are_told_apart_in_grey():
    rows = [look(i) for i in range(64)]
    assert all(len({str(row[part]) for row in rows[:8]}) == 8 for part in ("color", "linestyle", "marker"))
    assert len({(row["color"], row["marker"]) for row in rows}) == 64 and len(set(HATCHES)) == len(HATCHES)
    with style():
        patches = bars(2, False, 3, "bars").axes[0].patches
        assert len({patch.get_hatch() for patch in patches}) == 3


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize(("entries", "long", "width"), [(3, True, PAGE), (6, True, COLUMN)])
def test_classes_of_any_number(classes, entries, long, width):
    with style():
        check(drawn(per_class, entries, long, classes, width))
        check(drawn(differences, entries, long, classes, width))


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("entries", [1, 2, 9, 40])
def test_a_budget_without_zero(entries, long):
    with style():
        check(drawn(budget, entries, long, False))


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize(("entries", "seeds"), [(1, 1), (30, 5), (4, 12)])
def test_strips_of_any_number_of_seeds(entries, seeds, long):
    with style():
        check(drawn(strips, entries, long, seeds))


@pytest.mark.parametrize("epochs", [1, 2, 200])
@pytest.mark.parametrize(("entries", "long", "seeds"), [(1, False, 1), (3, True, 3), (8, True, 3)])
def test_training_of_any_number_of_epochs(epochs, entries, long, seeds):
    with style():
        check(drawn(training, entries, long, epochs, seeds))


@pytest.mark.parametrize(("entries", "long"), [(1, False), (3, True), (6, True)])
def test_a_reliability_diagram_of_a_column(entries, long):
    with style():
        check(drawn(reliability, entries, long, COLUMN))


@pytest.mark.parametrize(("levels", "series", "long", "width"), [(6, 4, False, COLUMN), (3, 4, True, PAGE)])
def test_an_interaction_of_several_lines(levels, series, long, width):
    with style():
        check(drawn(interaction, levels, long, series, width))


@pytest.mark.parametrize(("methods", "datasets", "long", "width"), [
    (3, 6, True, COLUMN), (9, 12, False, COLUMN), (20, 8, True, PAGE), (4, 6, False, PAGE)])  # fmt: skip
def test_a_critical_difference_diagram_of_any_size(methods, datasets, long, width):
    with style():
        check(drawn(critical, methods, long, datasets, width))


def test_wrapped_text_fits_and_loses_nothing():
    for text in ("", "a", LONG, "x" * 100, "one two  three\nfour", "$5 and $6"):
        for width in (0.05, 0.5, 2.0):
            lines = wrapped(text, width, 6)
            assert "".join(lines).replace(" ", "") == "".join(text.split())
            assert all(text_width(line, 6) <= width or len(line) == 1 for line in lines)
    assert all(text_width("x" * a, 6) < text_width("x" * b, 6) for a, b in pairwise((1, 2, 3)))
