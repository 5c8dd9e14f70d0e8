"""Verdicts of claims, and what would decide them: seeds, images or nothing."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pel_core.reporting.statistics.effects import Effect
from pel_core.reporting.statistics.intervals import Interval, Variances, general, training
from pel_core.reporting.statistics.power import POWER, assumed, at, detectable, needed, power, smallest
from pel_core.reporting.statistics.verdicts import judge, p_against


def effect(mean, seed_sd=0.5, seeds=5, disagreement=0.02, images=10_000, shared=0.5):
    """An effect with given variances."""
    part = replace(assumed(images, seed_sd, disagreement, shared), seeds=seeds)
    part = replace(part, v=None, within=0.0) if seeds == 1 else part
    intervals = training(mean, [part]), general(mean, [part])
    return Effect("overall", mean, None, (), tuple(range(seeds)), images, False, *intervals, parts=(part,))


def verdict(*parts):
    return judge(parts).verdict


def test_verdicts_of_one_contrast():
    clear, small, none = effect(3.0), effect(0.9, 0.1), effect(0.0, 2.0)
    assert verdict((clear, "higher", 0.0)) == "holds" and verdict((clear, "lower", 0.0)) == "refuted"
    assert verdict((clear, "higher", 1.0)) == "holds" and verdict((small, "higher", 2.0)) == "refuted"
    assert verdict((none, "higher", 0.0)) == "undecided" and verdict((none, "equal", 0.5)) == "undecided"
    assert verdict((small, "equal", 2.0)) == "holds" and verdict((clear, "equal", 1.0)) == "refuted"
    assert judge([]).verdict == "undecided"


def test_reasons_say_where_the_interval_lies():
    assert judge([(effect(3.0), "lower", 0.0)]).reason == "the interval lies above 0"
    assert judge([(effect(0.9, 0.1), "higher", 2.0)]).reason == "the interval lies within ±2, above 0"  # higher, but not by 2
    assert judge([(effect(-3.0), "equal", 1.0)]).reason == "the interval lies below -1"
    assert judge([(effect(0.0, 2.0), "higher", 0.0)]).reason == "the interval covers 0"
    assert judge([(effect(1.0, 1.0), "higher", 1.0)]).reason.startswith("the interval covers")


def test_a_claim_holds_when_all_parts_do_and_is_refuted_after_holm():
    good, bad = (effect(3.0), "higher", 0.0), (effect(-3.0), "higher", 0.0)
    assert (
        verdict(good, good) == "holds"
        and verdict(good, bad) == "refuted"
        and verdict(good, (effect(0.1), "higher", 0.0)) == "undecided"
    )
    part = effect(-1.0)
    half = part.general.half
    edge = replace(part, mean=-1.02 * half, general=replace(part.general, mean=-1.02 * half))
    assert verdict((edge, "higher", 0.0)) == "refuted"  # at the nominal level
    many = judge([(edge, "higher", 0.0), *[(effect(0.0), "higher", 0.0)] * 4])
    assert many.verdict == "undecided" and "after Holm's correction" in many.parts[0].reason
    assert many.parts[0].p_against <= 0.05 < many.parts[0].p_against_adjusted


@given(st.floats(-3, 3), st.floats(0, 2), st.sampled_from(["higher", "lower", "equal"]))
def test_a_contrast_is_refuted_exactly_where_the_interval_lies_outside(mean, margin, expect):
    found = effect(mean)
    low, high = found.general.low, found.general.high
    outside = {"higher": high < margin, "lower": low > -margin, "equal": low > margin or high < -margin}[expect]
    p = p_against(found, expect, margin)
    assert 0 <= p <= 1 and ((p < 0.05) == outside or p == pytest.approx(0.05, rel=1e-6))


def test_nothing_rests_on_two_seeds():
    for seeds, word in ((1, "one seed"), (2, "two seeds")):
        found = judge([(effect(30.0, seeds=seeds), "higher", 0.0)])
        assert found.verdict == "undecided" and found.reason == f"{word}; at least three"


def test_what_would_decide():
    assert needed(effect(1.0, 1.0)).seeds > 5 and "seeds would decide" in needed(effect(1.0, 1.0)).text
    few_images = effect(0.5, 0.1, images=480, disagreement=0.1)
    found = needed(few_images)
    assert found.seeds is None and found.images > 480
    assert "no number of seeds decides this: the test set is too small" in found.text
    enough = general(0.0, at(few_images.parts, found.images_seeds, found.images / 480))
    assert power(0.5, enough.se, enough.df) == pytest.approx(POWER, abs=0.01)
    assert needed(effect(0.0)).seeds is None and "boundary" in needed(effect(0.0)).text
    assert needed(effect(1.0, seeds=1)).seeds == 3
    assert needed(effect(1.0), 2.0).seeds <= needed(effect(1.0), 0.5).seeds


@given(st.floats(0.05, 3), st.floats(0.2, 3))
def test_the_seeds_needed_are_the_fewest(seed_sd, size):
    found = effect(size, seed_sd)
    seeds = needed(found).seeds
    if seeds:
        reached = [general(0.0, at(found.parts, count)) for count in (seeds, seeds - 1)]
        assert power(size, reached[0].se, reached[0].df) >= POWER
        assert seeds == 3 or power(size, reached[1].se, reached[1].df) < POWER


def test_detectable_differences_shrink_with_seeds_and_images():
    part = [assumed(480, 1.0, 0.1)]
    sizes = [detectable(part, seeds) for seeds in (2, 3, 5, 10, 100)]
    assert sizes == sorted(sizes, reverse=True) and detectable(part, 5, 10.0) < detectable(part, 5)
    limit = math.sqrt(part[0].cov) * (1.959964 + 0.841621)
    assert detectable(part, 1000) == pytest.approx(limit, rel=0.01)  # more seeds cannot do better than the images allow
    assert detectable([], 3) is None and detectable(effect(1.0, seeds=1).parts) is None


def test_smallest_is_the_inverse_of_power():
    for df in (2, 4.5, 30, math.inf):
        assert power(smallest(2.0, df), 2.0, df) == pytest.approx(POWER, abs=1e-6)
    assert smallest(1.0, math.inf) == pytest.approx(2.801585, rel=1e-5) and power(0.0, 1.0, 10) == pytest.approx(0.05)
    assert power(100.0, 1.0, 2) > 0.99 and power(1e9, 1.0, 2) == 1.0


def test_power_is_a_number_for_any_degrees_of_freedom():
    for df in (1, 1.5, 2, 2.7, 5, 17, 80, 299, 301, 5412.5, math.inf):
        found = [power(size, 1.0, df) for size in (0, 0.1, 1, 2.8, 4.9, 5.1, 8.7, 15, 29, 40, 1e5)]
        assert all(0.0499 < value <= 1 for value in found) and found == sorted(found)


def test_a_deterministic_effect_needs_images_alone():
    part = Variances(1, 480, True, None, 2.0, 0.0, 479)
    found = Effect("overall", 1.0, None, (), (), 480, True, Interval(1.0, None), general(1.0, [part]), parts=(part,))
    assert needed(found).seeds is None and needed(found).images > 480 and "seeds)" not in needed(found).text
