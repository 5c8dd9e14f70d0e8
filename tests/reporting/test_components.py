"""Variance components: against numbers that are known, against a direct computation, and where there are none."""

import numpy as np
import pytest

from pel_core.common.errors import PelError
from pel_core.reporting.statistics.components import SOURCES, Component, _mean_squares, components


def test_mean_squares_are_those_of_a_direct_computation():
    y = np.random.default_rng(0).random((3, 4, 5)) > 0.4
    m = y.mean()
    a, s, i = y.mean((1, 2)), y.mean((0, 2)), y.mean((0, 1))
    got, df = _mean_squares(y, np.zeros(5, int))
    assert got["a"] == pytest.approx(20 * ((a - m) ** 2).sum() / 2)
    assert got["s"] == pytest.approx(15 * ((s - m) ** 2).sum() / 3)
    both = y.mean(2) - a[:, None] - s[None] + m
    assert got["as"] == pytest.approx(5 * (both**2).sum() / 6)
    rest = (
        y - y.mean(2)[:, :, None] - y.mean(1)[:, None] - y.mean(0)[None]
        + a[:, None, None] + s[None, :, None] + i[None, None] - m
    )  # fmt: skip
    assert got["asi"] == pytest.approx((rest**2).sum() / 24)
    assert df == {"a": 2, "s": 3, "i": 4, "as": 6, "ai": 8, "si": 12, "asi": 24}


def simulated(rng, subset=0.0, seed=0.0, both=0.0, image=0.0, shape=(4, 5, 400)) -> np.ndarray:
    """Right and wrong answers whose probability has these standard deviations (of the mean over images)."""
    a, s, n = shape
    p = 0.6 + subset * rng.standard_normal((a, 1, 1)) + seed * rng.standard_normal((1, s, 1))
    p = p + both * rng.standard_normal((a, s, 1)) + image * rng.standard_normal((1, 1, n))
    return rng.random(shape) < np.clip(p, 0, 1)


@pytest.mark.parametrize(
    "known", [{"subset": 0.03}, {"seed": 0.03}, {"both": 0.03}, {"image": 0.2}, {"subset": 0.02, "seed": 0.01}]
)
def test_the_mean_of_many_estimates_is_the_truth(known):
    """Unbiased: over 300 simulated studies each component's mean lies within four standard errors of what was put in."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        parts = components(simulated(rng, **known)).parts
        found.append([parts[source].estimate for source in SOURCES])
    mean, error = np.mean(found, 0), np.std(found, 0) / np.sqrt(300)
    # Images: those of a run's mean, p (1 - p) + the other variances, over N.
    put = {"subset": "subset", "seed": "seed", "subset x seed": "both"}
    truth = np.array([1e4 * known.get(put[source], 0) ** 2 if source in put else 1e4 * 0.24 / 400 for source in SOURCES])
    assert np.all(np.abs(mean - truth) < 4 * error + 0.02 * truth)


def test_a_spread_that_is_there_lies_in_its_interval():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        low, high = components(simulated(rng, seed=0.03, shape=(3, 8, 300))).parts["seed"].interval or (0, 0)
        inside += low <= 3 <= high
    assert 175 <= inside <= 200  # 95 % nominal, with Satterthwaite's approximation


def test_equal_runs_vary_by_the_images_alone():
    one = np.random.default_rng(3).random(1000) < 0.7
    found = components(np.broadcast_to(one, (3, 3, 1000)))
    assert [found.parts[source].variance for source in SOURCES[:3]] == [0, 0, 0]
    assert found.parts["test images"].variance == pytest.approx(1e4 * one.var(ddof=1) / 1000)
    assert found.share("test images") == 1 and found.parts["seed"].interval is None


def test_classes_are_fixed_and_images_are_drawn_within_them():
    """Classes of accuracy 1 and 0: other images of the same classes give the same accuracy, so that nothing varies."""
    classes = np.repeat([0, 1], 50)
    correct = np.broadcast_to(classes == 0, (3, 3, 100))
    assert components(correct, classes).variance == pytest.approx(0, abs=1e-9)
    assert components(correct).parts["test images"].variance == pytest.approx(1e4 * 0.25 / 99)


def test_what_is_lost_in_the_noise_has_no_interval():
    """Found in the tour: 0.13 to 266876348906163 points."""
    part = Component("subset", 0.2, 0.1)
    assert part.sd == pytest.approx(0.447, abs=1e-3) and part.interval is None
    low, high = Component("subset", 0.2, 2.0).interval
    assert (low / part.sd, high / part.sd) == pytest.approx((0.5207, 6.285), abs=1e-3)


def test_nothing_varies():
    found = components(np.ones((2, 2, 5), bool))
    assert found.variance == 0 and found.share("seed") is None


@pytest.mark.parametrize("shape", [(1, 3, 10), (3, 1, 10), (3, 3, 1)])
def test_too_few(shape):
    with pytest.raises(PelError, match="need two subsets, two seeds and two test images of each class; there are"):
        components(np.zeros(shape, bool))
