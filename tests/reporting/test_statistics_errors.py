"""Error rates and power of the general interval, by simulation of runs whose truth is known (STATISTICS: 2,000 repetitions).

Probit model: an image is right for a method at a seed where its latent value exceeds 0: level + image + (method x seed) + (method
x image) + rest. Both methods are equal on new seeds and new images, so every "difference" is an error of the first kind.
"""

import numpy as np
import pytest

from pel_core.reporting.statistics.effects import difference
from pel_core.reporting.statistics.image_part import closed_form
from pel_core.reporting.statistics.intervals import Variances, general
from pel_core.reporting.statistics.marks import column
from pel_core.reporting.statistics.power import power
from pel_core.reporting.statistics.runs import Row, Run
from pel_core.reporting.statistics.verdicts import judge

REPETITIONS = 2000
# Standard deviations of method x seed, method x image, rest, beside 1 of the images: where the noise mostly comes from.
NOISE = {"seeds": (0.14, 0.02, 0.3), "images": (0.018, 0.5, 0.3), "both": (0.057, 0.3, 0.35)}
LEVEL = 0.6  # accuracy about 70 %


def outcomes(generator, seeds, images, noise, shift=0.0):
    """Of one method, bool (S, N), given the images' own difficulty."""
    seed, image, rest = noise
    latent = LEVEL + shift + generator.normal(0, seed, (seeds, 1)) + generator.normal(0, image, len(images)) + images
    return latent + generator.normal(0, rest, (seeds, len(images))) > 0


def simulate(seeds, images, kind, repetitions=REPETITIONS, shift=0.0, strata=None):
    """Intervals (low, high) of b - a, and those of t over seeds, each (R, 2)."""
    generator = np.random.default_rng([seeds, images, len(kind)])
    strata = np.zeros(images, int) if strata is None else strata
    ends = []
    for _ in range(repetitions):
        difficulty = generator.normal(0, 1, images)
        d = 1.0 * outcomes(generator, seeds, difficulty, NOISE[kind], shift) - outcomes(generator, seeds, difficulty, NOISE[kind])
        part, values = closed_form(100 * d / images, strata), 100 * d.mean(axis=1)
        v, mean = float(values.var(ddof=1)), float(values.mean())
        both = [
            Variances(seeds, images, False, v, part.cov, part.within, part.df),
            Variances(seeds, images, False, v, 0.0, 0.0, 1),
        ]
        found = [general(mean, [variances]) for variances in both]
        ends.append([(each.low, each.high) if each.se else (mean, mean) for each in found])
    return np.moveaxis(np.array(ends), 1, 0)


def rejected(ends):
    return float(((ends[:, 0] > 0) | (ends[:, 1] < 0)).mean())


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize(("seeds", "most"), [(3, 0.085), (5, 0.07), (8, 0.07)])
def test_the_error_of_the_first_kind(seeds, most, kind):
    found, t_over_seeds = simulate(seeds, 480, kind)
    assert rejected(found) <= most
    if kind == "images":
        assert rejected(t_over_seeds) > 0.1  # what the interval is for


@pytest.mark.slow
@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize(("seeds", "most"), [(3, 0.085), (5, 0.07)])
def test_the_error_of_the_first_kind_on_many_images(seeds, most, kind):
    assert rejected(simulate(seeds, 10_000, kind)[0]) <= most


def test_a_real_difference_is_found():
    """0.2 of the latent scale is about 5 points: with power close to what the variances promise."""
    found, _ = simulate(5, 480, "both", shift=0.25)
    widths = (found[:, 1] - found[:, 0]) / 2
    effect = float(found.mean())
    assert rejected(found) > 0.8 and abs(effect) > widths.mean()
    assert rejected(simulate(5, 480, "both", shift=0.25)[0]) == rejected(found)  # repeatable


def test_power_is_that_of_simulated_experiments():
    """Contrasts with the assumed variances, drawn from their model."""
    generator = np.random.default_rng(0)
    seeds, seed_sd, size = 4, 1.0, 2.5
    values = size + generator.normal(0, seed_sd, (REPETITIONS, seeds))
    se = values.std(axis=1, ddof=1) / 2
    t = np.abs(values.mean(axis=1) / se)
    assert (t > 3.182446).mean() == pytest.approx(power(size, seed_sd / 2, 3), abs=0.03)


ROUNDS = 400


def rows(generator, labels, classes, shifts, noise, seeds):
    """Methods on classes of unequal size."""
    difficulty = generator.normal(0, 1, len(labels))
    result = []
    for m, shift in enumerate(shifts):
        right = outcomes(generator, seeds, difficulty, noise, shift)
        wrong = (labels + generator.integers(1, classes, len(labels))) % classes
        runs = [Run.of(labels, np.where(one, labels, wrong), s, ("head",) * classes) for s, one in enumerate(right)]
        result.append(Row.of(f"m{m}", runs))
    return result


LABELS = np.repeat(np.arange(12), [90, 80, 70, 60, 50, 40, 30, 20, 15, 10, 8, 7])


@pytest.mark.parametrize("metric", ["mean_class", "macro_f1"])
def test_the_error_with_classes_of_unequal_size(metric):
    """By closed form and by resampling; 400 rounds have a standard error of 1.1 points."""
    generator, errors = np.random.default_rng(3), 0
    for _ in range(ROUNDS):
        a, b = rows(generator, LABELS, 12, (0, 0), NOISE["images"], 3)
        errors += difference(a, b, metric).p <= 0.05
    assert errors / ROUNDS <= 0.085


def test_claims_that_are_not_true_seldom_hold_and_true_ones_are_seldom_refuted():
    generator, verdicts = np.random.default_rng(4), []
    for _ in range(ROUNDS):
        a, b = rows(generator, LABELS, 12, (0, 0), NOISE["both"], 3)
        verdicts.append(judge([(difference(a, b, "overall"), "higher", 0.0)]).verdict)
    assert verdicts.count("holds") / ROUNDS <= 0.0425 and verdicts.count("refuted") / ROUNDS <= 0.0425  # each half of 8.5 %


def test_a_column_of_equal_rows_seldom_has_an_arrow():
    """Holm keeps the chance of any false arrow among nine rows at 5 %."""
    generator, wrong = np.random.default_rng(5), 0
    for _ in range(ROUNDS // 2):
        found = column(rows(generator, LABELS, 12, (0,) * 10, NOISE["both"], 5), "overall", baseline=0)
        wrong += any(mark.arrow for mark in found.rows)
    assert wrong / (ROUNDS // 2) <= 0.085
