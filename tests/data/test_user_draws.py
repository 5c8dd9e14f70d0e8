"""What is held out of one's own images, and the long-tailed profiles that are drawn from them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from own_trees import counts, fill, make

from pel_core.common.errors import PelError
from pel_core.data.datasets import find_dataset
from pel_core.data.sampling import (
    PROFILES,
    held_out,
    held_out_counts,
    largest_fitting,
    long_tail_counts,
    profile_counts,
    profile_subset,
)
from pel_core.ingest.entries import declared


@pytest.fixture
def tree(tmp_path) -> Path:
    return fill(tmp_path / "my images")


@given(images=st.integers(0, 500), test=st.floats(0.01, 0.5), val=st.floats(0.01, 0.45))
def test_every_class_that_can_has_one_of_each(images, test, val):
    tests, vals = held_out_counts(images, test, val)
    assert min(tests, vals) >= 0 and images - tests - vals >= min(images, 1)
    assert (tests > 0) == (images > 1) and (vals > 0) == (images > 2)
    assert tests == held_out_counts(images, test, 0)[0] and (images < 10 or abs(tests - test * images) <= 1)


@given(pool=st.lists(st.integers(1, 60), min_size=2, max_size=12), seed=st.integers(0, 5), test=st.floats(0.05, 0.6))
def test_a_held_out_split_is_stratified_and_settled(pool, seed, test):
    labels, keys = np.repeat(np.arange(len(pool)), pool), [f"c{i}" for i in range(len(pool))]
    parts = held_out(labels, keys, test, 0, seed)
    assert np.bincount(labels[parts == 1], minlength=len(pool)).tolist() == [held_out_counts(n, test, 0)[0] for n in pool]
    with_val = held_out(labels, keys, test, 0.2, seed)
    assert ((with_val == 1) == (parts == 1)).all(), "a validation split moved the test split"


@given(
    profile=st.sampled_from(sorted(PROFILES)), classes=st.integers(2, 60), largest=st.integers(1, 2000), ratio=st.floats(1, 300)
)
@example(profile="pareto", classes=9, largest=2, ratio=1.0000000000000002)
def test_a_profile_falls_from_the_largest_class_to_the_ratio(profile, classes, largest, ratio):
    if largest < ratio:
        with pytest.raises(PelError, match="without an image"):
            profile_counts(profile, classes, largest, ratio)
        return
    try:
        made = profile_counts(profile, classes, largest, ratio)
    except PelError:
        assert largest < ratio + 1  # rounding at the border
        return
    assert made[0] == largest and made[-1] == pytest.approx(largest / ratio, abs=1) and (np.diff(made) <= 0).all()
    assert (profile_counts(profile, classes, largest, 1) == largest).all()
    smaller = profile_counts(profile, classes, largest, max(1.0, ratio / 2))
    assert (smaller >= made).all(), "a larger ratio keeps more of a class"


def test_profiles_are_what_their_sources_say():
    assert profile_counts("exponential", 100, 500, 100).tolist() == long_tail_counts(100, 500, 100).tolist()
    assert profile_counts("step", 4, 500, 100).tolist() == [500, 500, 5, 5]
    assert profile_counts("step", 5, 500, 100).tolist() == [500, 500, 500, 5, 5]
    assert abs(profile_counts("pareto", 365, 4980, 996).sum() - 184_500) < 2500  # Places-LT as its paper describes it


@given(
    profile=st.sampled_from(sorted(PROFILES)), pool=st.lists(st.integers(1, 300), min_size=2, max_size=20), ratio=st.floats(1, 50)
)
def test_the_largest_class_is_as_large_as_the_images_allow(profile, pool, ratio):
    available = np.sort(pool)[::-1]
    largest = largest_fitting(profile, available, ratio)
    shares = PROFILES[profile](len(pool), ratio)
    fits = [all(int(n * s) <= a for s, a in zip(shares, available)) for n in (largest, largest + 1)]
    assert fits[0] and (largest == available[0] or not fits[1])


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_drawn_ratios_are_nested_and_follow_the_natural_order(tmp_path, profile):
    root = fill(tmp_path / "root", {"few": 12, "many": 60, "some": 30, "also": 30})
    keys = {"profile": profile, "ratios": [2, 4, 8], "test_fraction": 0.1, "groups_from": 4}
    made = {name: make(root, name=name, **keys) for name in ("mine", "mine-ir2", "mine-ir4", "mine-ir8")}
    paths = [set(made[name].train.paths) for name in ("mine-ir8", "mine-ir4", "mine-ir2", "mine")]
    assert paths[0] < paths[1] < paths[2] < paths[3]
    assert made["mine"].train_counts.tolist() == [27, 11, 54, 27]  # as found: also, few, many, some
    for name in ("mine-ir2", "mine-ir4", "mine-ir8"):
        data = made[name]
        assert data.train_counts.tolist() == counts(data.train, 4)
        assert data.train_counts[2] == data.train_counts.max() and data.train_counts[1] == data.train_counts.min()
        assert data.train_counts[0] >= data.train_counts[3], "of equal classes the first comes first"
        assert data.test.paths == made["mine"].test.paths and data.groups == made["mine"].groups
    assert made["mine-ir4"].train_counts.max() / made["mine-ir4"].train_counts.min() == pytest.approx(4, rel=0.3)
    assert set(make(root, **keys, sampling_seed=1, name="mine-ir8").train.paths) != paths[0]


def test_a_ratio_that_was_not_drawn(tree):
    entries = declared({"datasets": {"mine": {"kind": "folders", "root": "x", "profile": "step", "ratios": [2, 3]}}})
    assert find_dataset("mine", entries) is find_dataset("mine-ir3", entries)
    with pytest.raises(PelError, match="mine comes as mine, mine-ir2, mine-ir3"):
        find_dataset("mine-ir9", entries)


@given(labels=st.lists(st.integers(0, 4), min_size=5, max_size=60), seed=st.integers(0, 3))
def test_a_subset_has_its_counts_each_image_once(labels, seed):
    labels, keys = np.array(labels), list("abcde")
    pool = np.bincount(labels, minlength=5)
    chosen = profile_subset(labels, keys, pool // 2, seed)
    assert len(set(chosen.tolist())) == len(chosen) and np.bincount(labels[chosen], minlength=5).tolist() == (pool // 2).tolist()
