"""Figures of stored predictions: what they show is what the results say; blanks, empty classes and one seed give a picture."""

import csv
import io
from math import exp, pi, sqrt

import numpy as np
import pytest
import yaml
from drawn_figures import check, drawn, words
from fake_results import write_predicted, write_results
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import chi2, friedmanchisquare, rankdata

from pel_core.common.errors import PelError
from pel_core.reporting.figure_budget import Point, budget_figure, draw_budget, front, places, side_by_side
from pel_core.reporting.figure_class_difference import difference_figure, draw_differences
from pel_core.reporting.figure_confusion import confusion_figure, draw_confusion, shares_of
from pel_core.reporting.figure_critical_difference import Ranks, cliques, ranks_of, require_datasets
from pel_core.reporting.figure_interaction import interaction_figure
from pel_core.reporting.figure_per_class import class_figure, draw_classes, smoothed, window_of
from pel_core.reporting.figure_reliability import bins_of, draw_reliability, reliability_figure
from pel_core.reporting.figure_seeds import draw_seeds, seeds_figure
from pel_core.reporting.figure_style import style
from pel_core.reporting.figure_training import draw_training, training_figure
from pel_core.reporting.runs_table import runs_files
from pel_core.reporting.statistics.reading import Reader
from pel_core.reporting.statistics.runs import Row, Run
from pel_core.spec.results import metrics_file
from pel_core.studies.study import load

METHODS = [{"label": "A", "method": "ln"}, {"label": "B", "method": "bias"}, {"label": "Z", "method": "zero-shot"}]


@pytest.fixture
def study(tmp_path):
    """Makes a study of one figure ``f``, with results and predictions of its runs."""

    def make(seeds="0, 1, 2", partial=False, methods=METHODS, **entry):
        figure = {"title": "T", "where": {"dataset": "toy-ir20"}, "methods": methods, **entry}
        figure = {key: value for key, value in figure.items() if value is not None}
        content = {"title": "T", "roles": {"toy": "Toy"}, "figures": {"f": figure}}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
        (tmp_path / "config.yaml").write_text(f"{{title: T, backbone: toy, seeds: [{seeds}], data: {{toy: toy}}}}")
        made = load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path / "r", figures=tmp_path / "f")
        write_results(made.results, made.specs)
        write_predicted(made.results, made.specs)
        object.__setattr__(made, "partial", partial)
        return made

    return make


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


MAKE = {
    "per-class": (class_figure, draw_classes),
    "budget": (budget_figure, draw_budget),
    "class-difference": (difference_figure, draw_differences),
    "seeds": (seeds_figure, draw_seeds),
    "reliability": (reliability_figure, draw_reliability),
    "training": (training_figure, draw_training),
    "confusion": (confusion_figure, draw_confusion),
}


@pytest.mark.parametrize("kind", MAKE)
def test_a_run_without_a_result_is_named_and_the_others_are_drawn(kind, study):
    make, made = MAKE[kind], study(kind=kind, partial=True)
    gone = [slug for slug in made.specs if ".ln." in slug]
    metrics_file(made.results, gone[0]).unlink()
    filled = make[0](made, "f")
    assert f"Run {gone[0]} is missing" in "\n".join(filled.sheet.lines())
    with style():
        check(drawn(make[1], filled))
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


def test_the_front_is_what_nothing_dominates():
    points = [Point(name, count, mean, None, None) for name, count, mean in
              (("a", 0, 50.0), ("b", 10, 60.0), ("c", 10, 55.0), ("d", 100, 60.0), ("e", 1000, 61.0))]  # fmt: skip
    assert [point.label for point in front(points, "higher")] == ["a", "b", "e"]
    assert [point.label for point in front(points, "lower")] == ["a"] and front(points, "neither") == []
    apart = side_by_side(np.array([1.0, 3.0, 1.0, 1.0]))
    assert len(set(apart)) == 4 and apart[1] == 3 and sorted(apart[[0, 2, 3]]) == list(apart[[0, 2, 3]]) and apart[2] == 1
    at = places([0, 10, 1000])
    assert at[0] < at[1] - 0.3 and at[2] - at[1] == pytest.approx(2) and places([0, 0]).tolist() == [-0.5, -0.5]


def test_a_budget_shows_what_the_results_say(study):
    made = budget_figure(study(kind="budget", seeds="0"), "f")
    assert [point.label for point in made.points] == ["A", "B", "Z"] and made.points[0].training is None
    assert "One seed (0)" in made.sheet.caption[0] and made.points[0].general[0] < made.points[0].mean < made.points[0].general[1]


def test_a_difference_is_that_of_the_stored_accuracies(study):
    shown, plain = difference_figure(study(kind="class-difference"), "f"), class_figure(study(kind="per-class"), "f")
    accuracies = dict(plain.lines)
    assert [panel.label for panel in shown.panels] == ["B", "Z"] and shown.baseline == "A"
    for panel in shown.panels:
        assert np.array_equal(panel.values, accuracies[panel.label] - accuracies["A"], equal_nan=True)
        assert set(panel.groups) == {"head", "med", "tail"}
        for group, places_ in (("head", [0, 1]), ("med", [2]), ("tail", [3])):  # the last class has no test image
            assert panel.groups[group][0] == pytest.approx(panel.values[places_].mean())


def test_strips_show_every_run_and_name_what_is_gone(study):
    made = study(kind="seeds", partial=True)
    gone = next(slug for slug in made.specs if ".bias.s1" in slug)
    metrics_file(made.results, gone).unlink()
    shown = seeds_figure(made, "f")
    assert [sorted(strip.values) for strip in shown.strips] == [[0, 1, 2], [0, 2], [0]] and shown.strips[2].fixed
    said = "\n".join(shown.sheet.lines())
    assert f"Run {gone} is missing" in said and "n = 3 seeds" in said


def test_bins_are_those_of_the_calibration_error(study):
    made = study(kind="reliability", methods=METHODS[:1])
    row = Reader(made.results).row("A", list(made.specs.values()))
    found = bins_of(row)
    assert sum(bins.images.sum() for bins in found.values()) == 3 * 60 and set(found) == {"head", "med", "tail"}
    whole = sum(np.nan_to_num(bins.images * (bins.confidence - bins.right)) for bins in found.values())
    gaps = sum(run.scored().gaps for run in row.runs)
    assert whole == pytest.approx(gaps, abs=1e-9)
    assert all(0 <= bins.error <= 100 for bins in found.values())


def test_training_curves_are_those_of_the_results(study):
    made = training_figure(study(kind="training", shown="loss"), "f")
    assert [trace.label for trace in made.traces] == ["A", "B"] and "Nothing trains in Z." in made.sheet.caption
    assert made.traces[0].values.shape[0] == 3 and made.traces[0].values[0].tolist() == [1 / e for e in made.traces[0].epochs]
    only = training_figure(study(kind="training", methods=METHODS[2:]), "f")
    assert not only.traces and only.sheet.why == "Nothing trains in Z."


def test_confusion_counts_every_image_once():
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 2])
    predicted = np.array([0, 1, 1, 2, 2, 0, 1, 3])
    run = Run.of(labels, predicted, groups=("head", "med", "tail", "tail"))
    found = shares_of(Row.of("a", [run]))
    assert {group: shares.tolist() for group, shares in found.items()} == {
        "head": [50, 0, 50, 0], "med": [50, 0, 0, 50], "tail": [25, 25, 25, 25]}  # fmt: skip
    assert set(shares_of(Row.of("a", [Run.of(labels[:2], predicted[:2], groups=("head", "med"))]))) == {"head"}


FACTORS = {
    "levels": [{"label": "one", "tte": "none"}, {"label": "five", "tte": "fivecrop"}],
    "series": [{"label": "A", "method": "ln"}, {"label": "B", "method": "bias"}],
}


def test_an_interaction_says_the_difference_of_differences(study):
    made = study(kind="interaction", methods=None, **FACTORS)
    shown = interaction_figure(made, "f")
    at = {(cell.level, cell.series): cell.mean for cell in shown.cells}
    expected = (at[1, 1] - at[0, 1]) - (at[1, 0] - at[0, 0])
    assert f"B changes by {expected:+.1f} more than A" in shown.sheet.caption[1]
    two = interaction_figure(study(kind="interaction", methods=None, seeds="0, 1", **FACTORS), "f")
    assert "no verdict from two seeds; at least three" in two.sheet.caption[1]
    with pytest.raises(PelError, match="series has 1 entries; an interaction is seen from 2 on"):
        study(kind="interaction", methods=None, **{**FACTORS, "series": FACTORS["series"][:1]})
    with pytest.raises(PelError, match=r"value: parameters\.head is no metric"):
        study(kind="interaction", methods=None, where={"dataset": "toy-ir20", "value": "parameters.head"}, **FACTORS)


def nemenyi(k, n):
    """Demšar (2006), section 3.2.2: q sqrt(k (k + 1) / (6 n)); q is the 95 % quantile of the range of k normals, over sqrt(2)."""

    def within(most):  # the probability that the range is at most this, by the place z of the largest
        return quad(lambda z: k * exp(-z * z / 2) / sqrt(2 * pi) * (ndtr(z) - ndtr(z - most)) ** (k - 1), -9, 9)[0]

    return brentq(lambda most: within(most) - 0.95, 0.1, 20) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))


def test_ranks_and_the_critical_difference_are_those_of_demsars_paper():
    # Table 6 of Demšar (2006), AUC of C4.5 and three variants on 14 data sets: ranks 3.143, 2.000, 2.893, 1.964.
    # Of `voting` it prints .975 twice, and ranks the first 2 and the second 3: .9751 stands for that.
    auc = """.763 .768 .771 .798  .599 .591 .590 .569  .954 .971 .968 .967  .628 .661 .654 .657  .882 .888 .886 .898
        .936 .931 .916 .931  .661 .668 .609 .685  .583 .583 .563 .625  .775 .838 .866 .875  1 1 1 1
        .940 .962 .965 .962  .619 .666 .614 .669  .972 .981 .9751 .975  .957 .978 .946 .970"""
    values = np.array(auc.split(), float).reshape(14, 4)
    made = ranks_of(values)
    ranks = np.stack([rankdata(-row) for row in values]).mean(0)
    assert made.means == pytest.approx(ranks) and made.means == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=0.0006)
    assert made.critical == pytest.approx(nemenyi(4, 14), abs=1e-4) and made.critical == pytest.approx(1.25, abs=0.005)
    assert made.p == pytest.approx(friedmanchisquare(*values.T).pvalue)
    for k, n in ((3, 10), (10, 6), (20, 40)):
        values = np.random.default_rng(k).normal(size=(n, k))
        made_of = ranks_of(values)
        statistic = 12 * n / (k * (k + 1)) * (np.sum(made_of.means**2) - k * (k + 1) ** 2 / 4)  # Friedman, without ties
        assert made_of.critical == pytest.approx(nemenyi(k, n), abs=1e-4) and made_of.p == pytest.approx(
            chi2.sf(statistic, k - 1)
        )
    assert made.p < 0.05
    assert cliques(made) == [(pytest.approx(1.964, abs=0.001), pytest.approx(3.143, abs=0.001))]
    assert cliques(Ranks(np.array([1.0, 2, 3, 4]), 1.5, 0.001)) == [(1, 2), (2, 3), (3, 4)]
    assert cliques(Ranks(np.array([1.0, 2, 3, 4]), 0.5, 0.001)) == [] and cliques(Ranks(np.array([1.0, 4]), 0.5, 0.2)) == [(1, 4)]
    assert ranks_of(np.ones((6, 3))).p == 1.0


def test_fewer_than_six_data_sets_are_refused_with_the_reason(study):
    versions = [{"label": str(ratio), "dataset": f"toy-ir{ratio}"} for ratio in (2, 5, 10, 20, 50, 100)]
    with pytest.raises(PelError, match=r"needs 6 data sets or more, and there are 1 \(toy\).*same test images and count once"):
        study(kind="critical-difference", where=None, datasets=versions)


@pytest.mark.parametrize(
    ("columns", "count"),
    [
        ([("a", "a"), ("a", "b"), ("a", "c"), ("a", "d"), ("a", "e"), ("a", "f")], 1),  # one training on many test sets
        ([("a", "x"), ("b", "x"), ("c", "x"), ("d", "x"), ("e", "x"), ("f", "x")], 1),  # many trainings on one test set
        ([("a", "a"), ("b", "b"), ("c", "c"), ("d", "d"), ("e", "e"), ("a", "f")], 5),
        ([("a", "a"), ("b", "b"), ("c", "c"), ("d", "d"), ("e", "e"), ("f", "a")], 5),
        ([("a-ir10", ""), ("b", ""), ("c", ""), ("d", ""), ("e", ""), ("f", "x")], 6),
        ([("a", "x"), ("a", "y"), ("b", "x"), ("c", ""), ("d", ""), ("e", ""), ("f", "")], 6),  # a on y, b on x
    ],
)
def test_a_data_set_counts_once_whichever_way_it_is_tested(columns, count):
    if count == 6:
        return require_datasets(columns)
    with pytest.raises(PelError, match=f"and there are {count} \\("):
        require_datasets(columns)


def test_ranks_over_test_sets_of_one_training_are_refused_as_the_study_is_read(tmp_path):
    roles = {name: name for name in ("toy", "imagenet-lt", "places-lt", "inat2018", "demo-imagenet", "demo-places", "demo-inat")}
    columns = [{"label": role, "dataset": "toy", "evaluate_on": role} for role in roles if role != "toy"]

    def read(columns, methods=METHODS):
        entry = {"title": "T", "kind": "critical-difference", "methods": methods, "datasets": columns}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump({"title": "T", "roles": roles, "figures": {"f": entry}}))
        config = {"title": "T", "backbone": "toy", "seeds": [0], "data": roles}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path / "r")

    with pytest.raises(PelError, match=r"there are 1 \(toy on demo-imagenet, .*one training, or one test set, has in common"):
        read(columns)
    own = [{"label": role, "dataset": role} for role in roles]
    assert len(read(own).specs) == 7 * 3
    with pytest.raises(PelError, match="methods: evaluate_on: methods are ranked on the same images"):
        read(own, [*METHODS[:2], {**METHODS[2], "evaluate_on": "toy"}])


def test_a_caption_says_whose_images_are_shown(tmp_path):
    where = {"dataset": "toy-ir20", "evaluate_on": "seen"}
    figure = {"title": "T", "kind": "per-class", "where": where, "methods": METHODS[:2]}
    content = {"title": "T", "roles": {"toy": "Toy", "seen": "Seen"}, "figures": {"f": figure}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "config.yaml").write_text("{title: T, backbone: toy, seeds: [0], data: {toy: toy, seen: demo-sketch}}")
    made = load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path / "r")
    write_results(made.results, made.specs)
    write_predicted(made.results, made.specs)
    assert "toy-ir20 on demo-sketch" in " ".join(class_figure(made, "f").sheet.caption)
    runs = runs_files(made)
    row = next(csv.DictReader(io.StringIO(runs["csv"])))
    assert (row["data"], row["test_set"], row["test_set_sha256"]) == ("toy-ir20", "demo-sketch", "0" * 64)
    assert "| test_set | test_set_sha256 |" in runs["md"] and "| demo-sketch |" in runs["md"]
