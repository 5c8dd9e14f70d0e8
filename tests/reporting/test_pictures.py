"""Figures of stored predictions: what they show is what the results say; blanks, empty classes and one seed give a picture."""

import numpy as np
import pytest
import yaml
from fake_results import write_predicted, write_results
from test_layouts import BANNER, NOTES, check, drawn, label, texts

from pel_core.common.errors import PelError
from pel_core.reporting.figure_budget import BudgetFigure, Point, budget_figure, draw_budget, front, places
from pel_core.reporting.figure_per_class import ClassFigure, class_figure, draw_classes, smoothed, window_of
from pel_core.reporting.figure_style import COLUMN, PAGE, style
from pel_core.spec.results import metrics_file
from pel_core.studies.study import load

METHODS = [{"label": "A", "method": "ln"}, {"label": "B", "method": "bias"}, {"label": "Z", "method": "zero-shot"}]
SIZES = [3, 24, 365, 8142]


@pytest.fixture
def study(tmp_path):
    """Makes a study of one figure ``f``, with results and predictions of its runs."""

    def make(seeds="0, 1, 2", partial=False, methods=METHODS, **entry):
        figure = {"title": "T", "where": {"dataset": "toy-ir20"}, "methods": methods, **entry}
        content = {"title": "T", "roles": {"toy": "Toy"}, "figures": {"f": figure}}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
        (tmp_path / "config.yaml").write_text(f"{{title: T, backbone: toy, seeds: [{seeds}], data: {{toy: toy}}}}")
        made = load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path / "r", figures=tmp_path / "f")
        write_results(made.results, made.specs)
        write_predicted(made.results, made.specs)
        object.__setattr__(made, "partial", partial)
        return made

    return make


def words(figure) -> str:
    return " ".join(text.get_text() for text in texts(figure)).replace("\n", " ")


def long_tail(classes):
    counts = np.maximum(1, (1000 * 0.002 ** (np.arange(classes) / max(1, classes - 1))).astype(int))
    return counts, tuple("head" if count > 100 else "tail" if count < 20 else "med" for count in counts)


def per_class(classes, lines=3, long=False, width=COLUMN):
    rng, (counts, groups) = np.random.default_rng(0), long_tail(classes)
    made = [(label(i, long), np.clip(rng.normal(80 - 5 * i, 12, classes), 0, 100)) for i in range(lines)]
    for _, values in made:
        values[::17] = np.nan  # classes without a test image
    return draw_classes(ClassFigure("Accuracy per class", counts, groups, made, 0.1, width, NOTES, BANNER))


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize(("lines", "long", "width"), [(1, False, COLUMN), (3, True, PAGE), (8, True, COLUMN)])
def test_per_class_is_legible(classes, lines, long, width):
    with style():
        figure = drawn(per_class, classes, lines, long, width)
        check(figure)
        assert "have no test image" in words(figure)


def test_smoothing_is_a_mean_of_neighbours_and_skips_what_is_not_known():
    values = np.array([10.0, np.nan, 30.0, 40.0, 50.0])
    assert smoothed(values, 3).tolist() == [10.0, 20.0, 35.0, 40.0, 45.0]
    assert np.isnan(smoothed(np.array([np.nan, np.nan]), 1)).all()
    assert [window_of(0.1, n) for n in (1, 2, 3, 24, 100, 8142)] == [1, 1, 3, 3, 11, 815] and window_of(0, 50) == 1


def test_per_class_shows_the_stored_accuracies(study):
    made = class_figure(study(kind="per-class"), "f")
    assert made.counts.tolist() == [400, 120, 40, 9, 2] and [name for name, _ in made.lines] == ["A", "B", "Z"]
    for _, values in made.lines:
        assert np.isnan(values).tolist() == [False] * 4 + [True] and (values[:4] * 45 / 100 % 1 < 1e-9).any()


@pytest.mark.parametrize("kind", ["per-class", "budget"])
def test_a_run_without_a_result_is_named_and_the_others_are_drawn(kind, study):
    make = {"per-class": (class_figure, draw_classes), "budget": (budget_figure, draw_budget)}[kind]
    made = study(kind=kind, partial=True)
    gone = [slug for slug in made.specs if ".ln." in slug]
    metrics_file(made.results, gone[0]).unlink()
    with style():
        said = words(drawn(lambda: make[1](make[0](made, "f"))))
    assert gone[0] in said.replace(" ", "") or "is missing" in said
    for slug in made.specs:
        metrics_file(made.results, slug).unlink(missing_ok=True)
    with style():
        figure = drawn(lambda: make[1](make[0](made, "f")))
        check(figure)
        assert "Nothing to draw" in words(figure)


def test_rows_of_other_data_are_refused(study):
    rows = [{"label": "A", "method": "ln"}, {"label": "B", "method": "ln", "dataset": "toy-ir10"}]
    with pytest.raises(PelError, match=r"shows 1 to 8"):
        study(kind="per-class", methods=[{"label": str(i), "method": "ln", "lr": i / 100 + 0.01} for i in range(9)])
    with pytest.raises(PelError, match=r"value: tail: a figure of kind per-class shows no single number"):
        study(kind="per-class", methods=[{"label": "A", "method": "ln", "value": "tail"}])
    made = study(kind="per-class", methods=rows)
    assert class_figure(made, "f").lines  # the same test images and class sizes in these made-up results


def budget(entries, long, zero=True):
    points = [
        Point(label(i, long), 0 if zero and not i else 1000 * 2**i if i < 20 else 10**6 + i, 60.0 + i % 7, None, (58.0, 72.0))
        for i in range(entries)
    ]
    return draw_budget(
        BudgetFigure("Accuracy against parameters", "Overall accuracy (%)", points, "higher", COLUMN, NOTES, BANNER)
    )


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("entries", [1, 2, 9, 40])
def test_a_budget_is_legible(entries, long):
    with style():
        check(drawn(budget, entries, long))
        check(drawn(budget, entries, long, False))


def test_the_front_is_what_nothing_dominates():
    points = [Point(name, count, mean, None, None) for name, count, mean in
              (("a", 0, 50.0), ("b", 10, 60.0), ("c", 10, 55.0), ("d", 100, 60.0), ("e", 1000, 61.0))]  # fmt: skip
    assert [point.label for point in front(points, "higher")] == ["a", "b", "e"]
    assert [point.label for point in front(points, "lower")] == ["a"] and front(points, "neither") == []
    at = places([0, 10, 1000])
    assert at[0] < at[1] - 0.3 and at[2] - at[1] == pytest.approx(2) and places([0, 0]).tolist() == [-0.5, -0.5]


def test_a_budget_shows_what_the_results_say(study):
    made = budget_figure(study(kind="budget", seeds="0"), "f")
    assert [point.label for point in made.points] == ["A", "B", "Z"] and made.points[0].training is None
    assert "One seed (0)" in made.notes[0] and made.points[0].general[0] < made.points[0].mean < made.points[0].general[1]
