"""Intervals of seeds x images against libraries, hand calculation and each other; and every case that has no interval."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pel_core.common.errors import PelError
from pel_core.evaluation.metrics import score_predictions
from pel_core.evaluation.predictions import Predictions
from pel_core.reporting.statistics import image_part, resample
from pel_core.reporting.statistics.effects import contrast, difference, value_of
from pel_core.reporting.statistics.intervals import Interval, Variances, general, prediction, quantile, training
from pel_core.reporting.statistics.marks import column, holm, table
from pel_core.reporting.statistics.runs import Row, Run
from pel_core.spec.choices import METRICS

GROUPS = ("head",) * 3 + ("med",) * 4 + ("tail",) * 3
SIZES = (60, 50, 40, 30, 30, 20, 20, 10, 5, 2)
PERCENT = [name for name in METRICS if name != "nll"]


def logits_of(generator, labels, classes, skill):
    """Made-up logits (N, C): noise, and skill for the label."""
    logits = generator.normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += skill
    return logits


def made(name, skill, seeds=3, sizes=SIZES, groups=GROUPS, start=0, dataset="data"):
    """A row of runs on one test set: images differ in difficulty, seeds by chance."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    common = np.random.default_rng(7).normal(size=len(labels))
    runs = []
    for seed in range(seeds):
        generator = np.random.default_rng([start, seed])
        said = Predictions.of(logits_of(generator, labels, len(sizes), skill + common), labels)
        runs.append(Run.of(labels, said.predicted, seed, groups, None, said, f"{name}.s{seed}", dataset))
    return Row.of(name, runs)


def row_of(name, right, labels=None, names=None, groups=("head", "med"), seeds=None, **more):
    """A row from correctness bool (S, N) of classes 0 and 1."""
    right = np.asarray(right, bool)
    labels = np.zeros(right.shape[1], int) if labels is None else np.asarray(labels)
    seeds = range(len(right)) if seeds is None else seeds
    predicted = [np.where(one, labels, (labels + 1) % len(groups)) for one in right]
    runs = [Run.of(labels, p, seed, groups, names, slug=f"{name}.s{seed}") for seed, p in zip(seeds, predicted, strict=True)]
    return Row.of(name, runs, **more)


A, B = made("a", 2.0), made("b", 1.5, start=1)


# Values


@pytest.mark.parametrize("metric", METRICS)
def test_values_are_those_of_the_results(metric):
    for row in (A, B):
        for run, found in zip(row.runs, value_of(row, metric).values, strict=True):
            assert found == pytest.approx(score_predictions(run.load(), GROUPS)[metric], abs=1e-9)
    mean = np.mean([score_predictions(run.load(), GROUPS)[metric] for run in A.runs])
    assert value_of(A, metric).mean == pytest.approx(mean, abs=1e-8)
    assert value_of(A, f"metrics.{metric}") == value_of(A, metric)


def test_the_accuracy_of_a_class_is_a_metric_too():
    run = A.runs[0]
    assert value_of(A, "metrics.per_class.3").values[0] == pytest.approx(100 * run.hits[3] / 30)


def test_an_unknown_metric_names_its_nearest():
    with pytest.raises(PelError, match=r"Did you mean 'metrics\.overall'"):
        value_of(A, "overal")


# The intervals


@pytest.mark.parametrize("metric", ["overall", "mean_class", "tail", "macro_f1"])
def test_the_training_interval_is_scipys_paired_t(metric):
    found = difference(A, B, metric)
    told = stats.ttest_rel(value_of(A, metric).values, value_of(B, metric).values)
    interval = told.confidence_interval()
    assert found.training.p() == pytest.approx(told.pvalue, rel=1e-6)
    assert (found.training.low, found.training.high) == pytest.approx((interval.low, interval.high), rel=1e-6)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8).filter(lambda d: np.var(d) > 1e-3))
def test_without_an_image_part_the_general_interval_is_scipys_paired_t(values):
    seeds, v = len(values), float(np.var(values, ddof=1))
    found = general(float(np.mean(values)), [Variances(seeds, 500, False, v, 0.0, 0.0, 499)])
    told = stats.ttest_rel(values, np.zeros(seeds))
    interval = told.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-7, abs=1e-9)
    assert found.p() == pytest.approx(told.pvalue, rel=1e-6, abs=1e-12) and found.df == pytest.approx(seeds - 1)


def test_a_contrast_by_hand():
    """Two seeds, four images of one class: d = (1, 0, 0, 0) and (1, 1, 0, -1)."""
    a = row_of("a", [[1, 0, 1, 0], [1, 1, 1, 0]])
    b = row_of("b", [[0, 0, 1, 0], [0, 0, 1, 1]])
    found = difference(a, b, "overall")
    d = np.array([[1, 0, 0, 0], [1, 1, 0, -1]])
    cov = np.cov(d)  # over images, with n - 1
    assert found.values == (25.0, 25.0) and found.sd == 0.0
    part = found.parts[0]
    assert part.cov == pytest.approx(1e4 * cov[0, 1] / 4)
    assert part.within == pytest.approx(1e4 * (cov[0, 0] + cov[1, 1]) / 2 / 4 - part.cov)
    assert part.v == 0.0 and part.v_used == part.within
    total = part.within / 2 + part.cov
    df = (part.within + 2 * part.cov) ** 2 / part.within**2
    assert found.general.se == pytest.approx(math.sqrt(total)) and found.general.df == pytest.approx(df)
    assert found.general.half == pytest.approx(stats.t.ppf(0.975, df) * math.sqrt(total))
    assert found.training.se is None and "same at every seed" in found.training.reason


@pytest.mark.parametrize("metric", ["overall", "head", "tail", "mean_class"])
def test_the_image_part_is_the_sum_over_classes_of_weighted_covariances(metric):
    labels = A.images.labels
    d = np.stack([A.run(s).right.astype(float) - B.run(s).right for s in range(3)])
    taken = [c for c in range(10) if metric in ("overall", "mean_class", GROUPS[c])]
    cov = np.zeros((3, 3))
    for c in taken:
        weight = 100 / len(labels) if metric == "overall" else 100 / (len(taken) * SIZES[c])
        cov += weight**2 * SIZES[c] * np.cov(d[:, labels == c])
    part = difference(A, B, metric).parts[0]
    pairs = cov[~np.eye(3, dtype=bool)].mean()
    assert part.cov == pytest.approx(max(pairs, 0)) and part.within == pytest.approx(np.trace(cov) / 3 - max(pairs, 0))
    assert part.images == sum(SIZES[c] for c in taken)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_order_of_images_and_seeds_changes_nothing(seed):
    generator = np.random.default_rng(seed)
    names = np.array([f"c{label}/{i:03}" for i, label in enumerate(A.images.labels)])
    labels = np.asarray(A.images.labels)

    def rows(shuffled):
        result = []
        for row in (A, B):
            runs = []
            for run in generator.permutation(np.array(row.runs, object)) if shuffled else row.runs:
                at = generator.permutation(len(labels)) if shuffled else np.arange(len(labels))
                runs.append(Run.of(labels[at], run.predicted[at], run.seed, GROUPS, names[at], slug=run.slug))
            result.append(Row.of(row.name, runs))
        return result

    for metric in ("overall", "mean_class", "macro_f1", "gmean"):
        assert difference(*rows(True), metric) == difference(*rows(False), metric)  # bit for bit


def test_a_class_without_test_images_changes_nothing():
    def widened(row):
        runs = [Run.of(run.images.labels + 1, run.predicted + 1, run.seed, ("tail", *GROUPS, "head")) for run in row.runs]
        return Row.of(row.name, runs)

    for metric in ("overall", "head", "tail", "mean_class", "macro_f1", "worst_class", "gmean", "hmean"):
        here, there = difference(A, B, metric), difference(widened(A), widened(B), metric)
        assert (there.mean, there.parts, there.general) == (here.mean, here.parts, here.general)


# Resampling


def test_resampled_and_closed_form_agree():
    """Within Monte-Carlo error: the variance of 4,000 draws has a relative standard error of 2.2 %."""
    draws = resample.resamples(A.images, draws=4000)
    totals = []
    for row in (A, B):
        totals.append([])
        for run in row.runs:
            seen = resample.Sums(run, draws).seen(slice(None))
            totals[-1].append(np.stack([seen.mean(axis=0), seen[-3:].mean(axis=0)]))
    difference_of_draws = np.array(totals[0], float) - np.array(totals[1], float)
    for place, metric in enumerate(("mean_class", "tail")):
        closed = difference(A, B, metric).parts[0]
        found = image_part.resampled(difference_of_draws[:, place], draws.df)
        assert found.single == pytest.approx(closed.within + closed.cov, rel=0.1)
        assert found.cov == pytest.approx(closed.cov, abs=0.1 * found.single)


def test_a_formula_that_is_not_known_is_resampled_image_by_image(monkeypatch):
    """As a plugin's is; with classes of equal size both ways differ by (m - 1) / m of rounding alone."""
    even = [made("a", 2.0, sizes=(40,) * 10), made("b", 1.5, sizes=(40,) * 10, start=1)]
    fast = difference(*even, "macro_f1")
    monkeypatch.setattr(resample, "BY_COUNTS", {})
    for row in even:
        for run in row.runs:
            run.draws.clear()
    slow = difference(*even, "macro_f1")
    assert slow.parts[0].within == pytest.approx(fast.parts[0].within, rel=1e-3) and slow.mean == fast.mean


def test_formulas_by_counts_are_those_of_the_metrics():
    """On a draw in which every image is drawn once."""
    run = A.runs[0]
    count = np.ones((len(run.images), 1), np.uint8)
    sums = resample.Sums(run, resample.Resamples(run.images, count, np.ones(len(run.images)), 1, False))
    for metric, formula in resample.BY_COUNTS.items():
        assert formula(sums, slice(None))[0] == pytest.approx(METRICS[metric].formula(run.scored()), rel=1e-5)


def test_draws_are_the_same_bit_for_bit_and_keep_class_sizes():
    made_first = resample.resamples(A.images)
    resample.resamples.cache_clear()
    again = resample.resamples(A.images)
    assert np.array_equal(made_first.counts, again.counts) and again is not made_first
    per_class = np.add.reduceat(again.counts.astype(int), np.flatnonzero(np.diff(A.images.labels, prepend=-1)), axis=0)
    assert np.array_equal(per_class, np.repeat(np.array(SIZES)[:, None] - 1, resample.DRAWS, axis=1))
    assert np.allclose(again.factors * (np.array(SIZES)[A.images.labels] - 1), np.array(SIZES)[A.images.labels])


# Cases without noise, without seeds, without images


def test_equal_runs_have_a_difference_of_zero_with_a_width_from_images_alone():
    found = difference(A, A, "overall")
    assert found.mean == 0 and found.general.half == pytest.approx(100 * (1 - 0.025 ** (1 / sum(SIZES)))) and found.p == 1.0
    again = row_of("a", [[1, 0, 1, 1] * 25] * 3)  # three runs that say the same
    other = row_of("b", [[1, 1, 0, 0] * 25] * 3)
    found = difference(again, other, "overall")
    d = np.tile([0, -1, 1, 1], 25)
    assert found.mean == 25 and found.parts[0].v == 0
    assert found.general.se == pytest.approx(100 * math.sqrt(np.var(d, ddof=1) / 100)) and found.general.df == 99
    assert difference(A, A, "macro_f1").general.reason and difference(A, A, "nll").mean == 0


def test_equal_counts_of_other_images_have_a_width():
    """3.3333333333333430 and 3.3333333333333286 were an interval without width."""
    labels = np.repeat([0, 1, 2], [30, 31, 33])
    a, b = (np.ones((3, 94), bool) for _ in range(2))
    for seed in range(3):
        b[seed, [3 * seed, 30 + seed, 61 + 2 * seed]] = False  # one image of each class, other ones at each seed
    rows = [row_of(name, right, labels, groups=("head",) * 3) for name, right in (("a", a), ("b", b))]
    found = difference(*rows, "mean_class")
    assert found.parts[0].v == 0.0 and found.sd == 0.0 and found.training.se is None
    assert found.general.high - found.general.low > 4
    assert found.mean == pytest.approx(100 * float(sum((Fraction(1, n) for n in (30, 31, 33)), Fraction(0))) / 3)


def test_one_seed_has_the_image_part_alone_and_two_decide_nothing():
    one, two = (difference(made("a", 2.0, n), made("b", 1.5, n, start=1), "overall") for n in (1, 2))
    assert one.general.se > 0 and one.sd is None and one.training.reason == "one seed: a repetition was not measured"
    assert one.undecidable == "one seed; at least three" and two.undecidable == "two seeds; at least three"
    assert two.general.se > 0 and two.training.se > 0 and not difference(A, B, "overall").undecidable


def test_a_deterministic_row_has_no_seed_part():
    zero = Row.of("zero", [*made("zero", 1.0, 3).runs[:1]] * 3, deterministic=True)
    found = value_of(zero, "overall")
    assert found.sd is None and found.deterministic and found.training.reason == "nothing in it depends on the seed"
    assert found.general.se > 0 and not found.undecidable and not zero.notes
    against = difference(A, zero, "overall")
    assert against.seeds == (0, 1, 2) and against.parts[0].v == pytest.approx(value_of(A, "overall").parts[0].v)
    both = difference(zero, Row.of("other", made("other", 1.5, 1).runs, deterministic=True), "macro_f1")
    assert both.general.se > 0 and not both.undecidable


def test_a_seed_that_is_listed_twice_counts_once():
    row = Row.of("a", [*A.runs, A.runs[1]])
    assert row.seeds == (0, 1, 2) and "each seed counts once" in row.notes[0]
    assert difference(row, B, "overall").general == difference(A, B, "overall").general
    with pytest.raises(PelError, match=r"a\.s0 and b\.s0 have the same seed"):
        Row.of("mixed", [A.runs[0], B.runs[0]])


def test_seeds_that_one_method_lacks_are_left_out_by_name():
    found = difference(A, Row.of("b", B.runs[:2]), "overall")
    assert found.seeds == (0, 1) and found.notes == ("a: seed 2 left out, which not every method has",)
    late = Row.of("late", [Run.of(A.images.labels, A.runs[0].predicted, 9, GROUPS)])
    assert difference(A, late, "overall").reason == "no seed is common to a and late"


def test_a_null_group_gives_its_reason():
    found = difference(row_of("a", [[1, 0, 1]] * 3), row_of("b", [[0, 0, 1]] * 3), "tail")
    assert found.mean is None and "no class is in this group" in found.reason and found.general.low is None
    assert value_of(row_of("a", [[1, 0]]), "med").reason == "a: none of the 1 classes of this group has a test image"
    assert value_of(row_of("a", [[1, 0]]), "per_class.1").reason == "a: class 1 has no test image"


@pytest.mark.parametrize("metric", [*METRICS, "per_class.0"])
@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(1,), (2,), (1, 1), (0, 1, 3), (1, 0, 1, 0, 1), (3, 3)])
def test_every_metric_of_few_images_is_a_number_or_says_why_not(metric, seeds, sizes):
    groups = ("head", "tail", "head", "med", "tail")[: len(sizes)]
    rows = [made(name, skill, seeds, sizes, groups, start) for name, skill, start in (("a", 1.0, 0), ("b", 0.5, 1))]
    for found in (value_of(rows[0], metric), difference(*rows, metric), difference(rows[0], rows[0], metric)):
        for interval in (found.training, found.general):
            numbers = (interval.mean, interval.se, interval.low, interval.high, interval.p())
            assert all(number is None or math.isfinite(number) for number in numbers)
            assert interval.se is None or interval.se > 0
            assert (interval.se is None) == bool(interval.reason)
        assert (found.mean is None) == bool(found.reason)


def test_8142_classes():
    sizes = (3,) * 8142
    labels = np.repeat(np.arange(8142), 3)
    generator = np.random.default_rng(0)
    groups = ("head",) * 842 + ("med",) * 4076 + ("tail",) * 3224

    def row(name, skill):
        predicted = [np.where(generator.random(len(labels)) < skill, labels, (labels + 1) % 8142) for _ in range(3)]
        return Row.of(name, [Run.of(labels, p, seed, groups, slug=f"{name}.s{seed}") for seed, p in enumerate(predicted)])

    a, b = row("a", 0.8), row("b", 0.78)
    assert a.runs[0].predicted.dtype == np.uint16 and len(sizes) == 8142
    assert "no test image makes a difference" in difference(a, b, "gmean").general.reason  # 0 at every seed and draw
    for metric in ("overall", "tail", "macro_f1", "hmean"):
        found = difference(a, b, metric)
        assert found.general.se > 0 and math.isfinite(found.general.low)
    assert difference(a, b, "mean_class").general.half == pytest.approx(difference(a, b, "overall").general.half)


@given(
    st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=6, max_size=6),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
@settings(deadline=None)
def test_any_outcomes_give_finite_intervals(right, labels):
    a, b = (row_of(name, part, labels, groups=("head", "med", "tail")) for name, part in (("a", right[:3]), ("b", right[3:])))
    for metric in ("overall", "mean_class", "head", "macro_f1", "gmean"):
        forth, back = difference(a, b, metric), difference(b, a, metric)
        if forth.mean is None:
            assert forth.reason
            continue
        assert forth.mean == pytest.approx(-back.mean, abs=1e-9)
        if forth.general.se is not None:
            assert forth.general.low == pytest.approx(-back.general.high, abs=1e-6) and forth.general.se > 0
            assert 0 <= forth.p <= 1 and forth.general.df > 0


# Several data sets, interactions


def test_several_data_sets_add_variances_with_satterthwaites_df():
    other = made("a", 1.2, dataset="other"), made("b", 1.0, start=4, dataset="other")
    one, two = difference(A, B, "overall"), difference(*other, "overall")
    both = contrast([(A, B), other], "overall")
    assert both.mean == pytest.approx((one.mean + two.mean) / 2) and len(both.parts) == 2 and both.sd is None
    variances = [effect.general.se**2 / 4 for effect in (one, two)]
    assert both.general.se == pytest.approx(math.sqrt(sum(variances)))
    below = sum((effect.parts[0].v_used / 4 / 3) ** 2 / 2 for effect in (one, two))
    assert both.general.df == pytest.approx(sum(variances) ** 2 / below)
    assert both.values == pytest.approx([(a + b) / 2 for a, b in zip(one.values, two.values, strict=True)])
    apart = contrast([(A, B)], "overall", minus=[other])
    assert apart.mean == pytest.approx(one.mean - two.mean) and apart.general.se == pytest.approx(2 * both.general.se)


def test_an_interaction_on_one_test_set_is_paired_image_by_image():
    assert contrast([(A, B)], "overall", minus=[(A, B)]).mean == 0
    c, d = made("c", 1.8, start=2), made("d", 1.4, start=3)
    found = contrast([(A, B)], "overall", minus=[(c, d)])
    right = [[row.run(s).right.astype(float) for s in range(3)] for row in (A, B, c, d)]
    z = np.array(right[0]) - right[1] - right[2] + right[3]
    assert len(found.parts) == 1 and found.values == pytest.approx((100 * z.mean(axis=1)).tolist())
    assert found.parts[0].v == pytest.approx(np.var(found.values, ddof=1))


def test_other_test_sets_are_refused_by_name():
    names = [f"i{n}" for n in range(4)]
    a, b = row_of("a", [[1, 0, 1, 0]], names=names), row_of("b", [[1, 0, 1, 0]], names=[*names[:3], "i9"])
    with pytest.raises(PelError, match=r"a\.s0 and b\.s0 have different test sets.*1 are in a\.s0 alone, i3 first"):
        difference(a, b, "overall")
    with pytest.raises(PelError, match=r"a\.s0 and x\.s0.*`minus` of a claim"):
        difference(A, made("x", 1.0, dataset="other"), "overall")
    with pytest.raises(PelError, match="the same images, with other labels"):
        difference(a, row_of("b", [[1, 0, 1, 0]], labels=[0, 0, 0, 1], names=names), "overall")


# Holm, prediction, columns


@settings(max_examples=20)  # statsmodels takes a tenth of a second a call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_that_of_statsmodels_and_skips_what_has_no_p(p):
    told = multipletests(p, method="holm")[1]
    assert holm(p) == pytest.approx(told.tolist())
    assert holm([None, *p, None])[1:-1] == holm(p) and holm([None]) == [None] and holm([]) == []
    order = np.argsort(p, kind="stable")
    assert all(a <= b for a, b in pairwise(told[order]))


def test_the_prediction_interval():
    values = [80.0, 81.0, 83.0]
    found = prediction(values)
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) * math.sqrt(1 + 1 / 3)
    assert (found.low, found.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    assert prediction([]).mean is None and prediction([80.0]).reason and prediction([80.0, 80.0]).low is None


def test_a_value_stays_within_its_range():
    best = row_of("a", [[1] * 40] * 3)
    assert value_of(best, "overall").general.high == 100.0 and value_of(best, "error_rate").general.low == 0.0
    assert Interval(1.0, 2.0).half == pytest.approx(2 * 1.959964, rel=1e-6) and quantile(0.975, 4) == pytest.approx(2.776445)


def test_a_column_marks_the_best_what_is_like_it_and_what_differs_from_the_baseline():
    rows = [made("weak", 0.3, start=5), made("good", 2.0), made("same", 2.0, start=6), made("base", 0.8, start=7), None]
    found = column(rows, "overall", baseline=3)
    best = max(range(4), key=lambda i: found.rows[i].value.mean)
    assert best in (1, 2) and found.rows[best].best and found.rows[3 - best].like_best and not found.rows[0].like_best
    assert found.rows[0].arrow == "below" and found.rows[1].arrow == "above" and found.rows[3].arrow == ""
    assert found.family == (3, 3) and found.seeds == 3 and found.images == sum(SIZES) and found.detectable > 0
    assert found.rows[4].value is None and not found.rows[4].best and not found.reason
    raw = [mark.to_best.p for mark in found.rows[:4] if mark.to_best]
    told = multipletests(raw, method="holm")[1]
    assert [mark.to_best.adjusted for mark in found.rows[:4] if mark.to_best] == pytest.approx(told)
    lower = column(rows, "error_rate", baseline=3)
    assert lower.rows[best].best and lower.rows[0].arrow == "above"  # a larger number, though a worse one
    assert table([[row, row] for row in rows], ["overall", "error_rate"], 3) == [found, lower]


def test_a_column_marks_nothing_under_three_seeds_and_says_what_it_could_show():
    two = column([made("a", 2.0, 2), made("b", 0.5, 2, start=1)], "overall", 0)
    assert two.reason == "two seeds; at least three" and two.detectable > 0 and not any(mark.best for mark in two.rows)
    one = column([made("a", 2.0, 1), made("b", 0.5, 1, start=1)], "overall")
    assert one.reason == "one seed; at least three" and one.detectable is None
    fixed = [Row.of(row.name, row.runs, True) for row in (made("a", 2.0, 1), made("b", 0.1, 1, start=1))]
    assert column(fixed, "overall", 1).rows[0].arrow == "above"


def test_rows_of_equal_value_are_both_best_and_different_data_are_not_compared():
    twins = column([A, Row.of("twin", A.runs), B], "macro_f1")
    assert [mark.best for mark in twins.rows] == [True, True, False] and not twins.rows[1].like_best
    assert column([A, made("x", 1.0, dataset="other")], "overall").reason == "the rows are on different test sets"
    assert column([A, None], "overall").reason == "there is nothing to compare"


def test_the_training_interval_of_several_data_sets_needs_repetitions_in_each():
    part = Variances(3, 100, False, 2.0, 0.1, 0.1, 99)
    single = Variances(1, 100, False, None, 0.1, 0.0, 99)
    assert training(0.0, [part, single]).reason == "one seed: a repetition was not measured"
    assert training(0.0, [part, part]).df == pytest.approx(4) and training(0.0, [part]).df == pytest.approx(2)
