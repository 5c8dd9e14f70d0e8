"""Data factors on labels alone, and on prepared folders: which images are drawn, held out and mislabelled, and how they nest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from own_trees import counts, fill, make

from pel_core.common.errors import PelError
from pel_core.data.datasets import content_hash, open_prepared, read_about
from pel_core.data.factors import AS_IS, FACTORS, Factors
from pel_core.data.sampling import PROFILES, long_tail_counts, long_tail_subset, profile_counts, terciles
from pel_core.data.subsets import chosen_classes, draw, group_rules, grouped
from pel_core.ingest.prepare import prepare

GOLDEN = Path(__file__).parents[1] / "golden"
POOLS = st.lists(st.integers(2, 40), min_size=3, max_size=9)
SEEDS = st.integers(0, 3)


def labelled(pool, seed=0):
    """Labels of which each class has its number, in a mixed order."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(pool)), pool))


def drawn(labels, pool, ratio=None, **factors):
    return draw(labels, len(pool), ratio, Factors(**factors))


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    prepare("toy", folder)
    return folder


# What stays as it was


@pytest.mark.parametrize("ratio", [1, 10, 50, 100, 200])
def test_the_default_is_the_references_subset_index_for_index(ratio):
    labels = np.load(GOLDEN / "cifar_lt.npz")["labels"]
    found = draw(labels, 100, ratio, AS_IS, reference=True)
    assert found.rows.tolist() == long_tail_subset(labels, ratio).tolist()
    assert found.counts.tolist() == long_tail_counts(100, 500, ratio).tolist() and not len(found.val_rows)
    assert found.labels.tolist() == labels[found.rows].tolist()


def test_the_default_is_the_data_set_as_it_is_found(toy):
    labels = labelled([5, 9, 2])
    assert (draw(labels, 3, None, AS_IS).rows == np.arange(16)).all()
    about = read_about(toy, "toy")
    assert content_hash(about, "toy-ir20") == content_hash(about, "toy-ir20", Factors(groups="terciles", groups_from="subset"))
    assert content_hash(about, "toy-ir20") != content_hash(about, "toy-ir20", Factors(seed=1))
    assert open_prepared(toy, "toy").train.rows is None, "nothing is copied"


def test_a_default_is_said_once():
    assert {knob.name: knob.default for knob in FACTORS.knobs} == Factors().__dict__
    assert AS_IS.content() == {}


# Nesting and exactness, whatever the data


@given(pool=POOLS, seed=SEEDS, few=st.integers(2, 8), more=st.integers(2, 8))
def test_fewer_classes_lie_inside_more(pool, seed, few, more):
    few, more = sorted((min(few, len(pool) - 1), min(more, len(pool) - 1)))
    a, b = (chosen_classes(len(pool), Factors(classes=n, class_seed=seed)) for n in (few, more))
    assert len(a) == few and set(a) <= set(b) and (np.diff(a) > 0).all()
    labels = labelled(pool)
    one, two = (drawn(labels, pool, classes=n, class_seed=seed) for n in (few, more))
    assert set(one.rows) <= set(two.rows) and set(np.unique(one.labels)) == set(range(few))
    assert (a[one.labels] == labels[one.rows]).all()


@given(pool=POOLS, seed=SEEDS, caps=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_a_smaller_cap_lies_inside_a_larger_one(pool, seed, caps):
    labels, (low, high) = labelled(pool), sorted(caps)
    one, two = (drawn(labels, pool, per_class=cap, seed=seed) for cap in (low, high))
    assert set(one.rows) <= set(two.rows) and len(set(one.rows)) == len(one.rows)
    assert np.bincount(one.labels, minlength=len(pool)).tolist() == np.minimum(pool, low).tolist() == one.counts.tolist()


@given(
    pool=POOLS,
    caps=st.tuples(st.floats(1, 9), st.floats(1, 9)),
    seed=SEEDS,
    ratio=st.sampled_from([None, 1.5, 3]),
    val=st.sampled_from([0, 0.3]),
)
def test_a_largest_ratio_is_drawn_after_the_long_tail_and_what_is_held_out(pool, caps, seed, ratio, val):
    """By its definition: no class has more than so many times the smallest class's images, and the others keep theirs."""
    assume(max(pool) >= (ratio or 1))  # else the ratio leaves the smallest class without an image, which is refused
    labels, shared = labelled(pool), {"val": val, "cap_seed": seed}
    whole = drawn(labels, pool, ratio, val=val)
    left = np.bincount(whole.labels, minlength=len(pool))
    one, two = (drawn(labels, pool, ratio, cap_ratio=cap, **shared) for cap in sorted(caps))
    for found, cap in zip((one, two), sorted(caps), strict=True):
        assert np.bincount(found.labels).tolist() == np.minimum(left, int(left.min() * cap)).tolist()
        assert found.val_rows.tolist() == whole.val_rows.tolist() and found.counts.tolist() == whole.counts.tolist()
        assert (labels[found.rows] == found.labels).all() and set(found.rows) <= set(whole.rows)
    assert set(one.rows) <= set(two.rows), "of one seed the smaller lies inside the larger"
    again, other = (drawn(labels, pool, ratio, cap_ratio=1, val=val, cap_seed=s) for s in (seed, seed + 1))
    assert len(again.rows) == len(other.rows) == left.min() * len(pool)


def test_which_images_a_largest_ratio_leaves_of_a_class_is_the_business_of_this_class():
    pools = [[30, 9, 3], [30, 9, 3, 3], [30, 20, 3]]
    taken = [draw(np.repeat(np.arange(len(pool)), pool), len(pool), None, Factors(cap_ratio=2)) for pool in pools]
    assert len({tuple(found.rows[found.labels == 0].tolist()) for found in taken}) == 1


def test_a_largest_ratio_keeps_the_order_of_the_literature():
    labels = np.load(GOLDEN / "cifar_lt.npz")["labels"]
    whole = draw(labels, 100, 100, AS_IS, reference=True)
    found = draw(labels, 100, 100, Factors(cap_ratio=4), reference=True)
    assert found.rows.tolist() == whole.rows[np.isin(whole.rows, found.rows)].tolist()
    assert np.bincount(found.labels).tolist() == np.minimum(whole.counts, 20).tolist()


@given(pool=POOLS, ratio=st.floats(1, 8), profile=st.sampled_from(sorted(PROFILES)), cap=st.integers(8, 50), seed=SEEDS)
def test_the_ratio_asked_for_is_the_ratio_reached(pool, ratio, profile, cap, seed):
    pool = [count + 8 for count in pool]
    labels = labelled(pool)
    found = drawn(labels, pool, ratio, profile=profile, per_class=cap, seed=seed)
    largest = found.counts.max()
    assert largest <= cap and sorted(found.counts)[::-1] == profile_counts(profile, len(pool), largest, ratio).tolist()
    assert found.counts.min() == pytest.approx(largest / ratio, abs=1) and (found.counts <= pool).all()
    again, other = (drawn(labels, pool, ratio, profile=profile, per_class=cap, seed=s) for s in (seed, seed + 1))
    assert (again.rows == found.rows).all() and (other.counts == found.counts).all()
    assert len(set(other.rows) ^ set(found.rows)) or (found.counts == pool).all() or len(found.rows) > len(labels) - 12


@given(pool=POOLS, val=st.floats(0.01, 0.9), rule=st.sampled_from(["unused", "train"]), ratio=st.sampled_from([None, 1.5, 3]))
def test_held_out_images_are_not_trained_on_and_no_class_is_emptied(pool, val, rule, ratio):
    labels = labelled(pool)
    whole, found = drawn(labels, pool, ratio), drawn(labels, pool, ratio, val=val, val_rule=rule)
    train, held = set(found.rows), set(found.val_rows)
    assert not train & held and train <= set(whole.rows) and len(held) == len(found.val_rows)
    assert set(whole.rows) - train <= held, "what is not trained on is held out"
    assert (np.bincount(found.labels, minlength=len(pool)) >= 1).all() and (found.counts == whole.counts).all()
    assert (labels[found.val_rows] == found.val_labels).all()
    if rule == "train":
        assert held <= set(whole.rows)
    else:
        each = np.bincount(found.val_labels, minlength=len(pool))
        spare, taken = np.array(pool) - whole.counts, whole.counts - np.bincount(found.labels, minlength=len(pool))
        assert (each >= 1).all() and ((taken == 0) | (each == spare + taken)).all(), "unused images come first"


@given(pool=POOLS, rates=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)), seed=SEEDS, cap=st.sampled_from(["all", 5]))
def test_noise_changes_its_share_of_the_labels_and_more_of_it_the_same_ones(pool, rates, seed, cap):
    labels = labelled(pool)
    right = drawn(labels, pool, per_class=cap)
    one, two = (drawn(labels, pool, per_class=cap, noise=rate, noise_seed=seed) for rate in sorted(rates))
    for found, rate in zip((one, two), sorted(rates), strict=True):
        changed = found.labels != right.labels
        assert changed.sum() == min(int(rate * len(labels[right.rows]) + 0.5), len(right.labels) - len(pool))
        assert (np.bincount(found.labels, minlength=len(pool)) >= 1).all() and (found.rows == right.rows).all()
    changed = one.labels != right.labels
    assert (two.labels[changed] == one.labels[changed]).all()


def test_wrong_labels_are_of_any_other_class_alike():
    labels = np.repeat(np.arange(5), 4000)
    noisy = draw(labels, 5, None, Factors(noise=0.5)).labels
    table = np.array([[np.sum((labels == a) & (noisy == b)) for b in range(5)] for a in range(5)])
    off = table[~np.eye(5, dtype=bool)]
    assert abs(np.diag(table) - 2000).max() < 150 and abs(off - 500).max() < 120


def test_a_validation_set_of_cifar_is_balanced_and_spares_all_but_the_head():
    labels = np.load(GOLDEN / "cifar_lt.npz")["labels"]
    whole = draw(labels, 100, 100, AS_IS, reference=True)
    found = draw(labels, 100, 100, Factors(val=0.1), reference=True)
    assert (np.bincount(found.val_labels) == 50).all()
    left = np.bincount(found.labels)
    assert left.tolist() == np.minimum(whole.counts, 450).tolist(), "only what is not unused comes out of training images"
    assert found.rows.tolist() == whole.rows[np.isin(whole.rows, found.rows)].tolist(), "in the order of before"
    other = draw(labels, 100, 100, Factors(val=0.1, val_seed=1), reference=True)
    assert set(other.val_rows) != set(found.val_rows)
    own = draw(labels, 100, 100, Factors(val=0.1, val_rule="train"), reference=True)
    assert np.bincount(own.val_labels)[[0, 99]].tolist() == [50, 1]


@given(head=st.floats(0.05, 0.95), classes=st.integers(4, 60), profile=st.sampled_from(["exponential", "step"]))
def test_the_share_of_head_classes_at_an_equal_ratio(head, classes, profile):
    made = profile_counts(profile, classes, 100_000, 100, head)
    assert made[0] == 100_000 and made[-1] == pytest.approx(1000, abs=1) and (np.diff(made) <= 0).all()
    assert abs((made > 10_000).sum() - head * classes) <= 1.01
    assert (profile_counts(profile, classes, 500, 100, 0.5) == profile_counts(profile, classes, 500, 100)).all()


def test_groups_by_other_numbers_and_by_thirds():
    sizes = np.array([50, 9, 200, 10, 9, 1, 30])
    assert grouped(sizes, Factors(groups=(40.0, 10.0))) == ["head", "tail", "head", "med", "tail", "tail", "med"]
    assert terciles(sizes) == ["head", "med", "head", "med", "tail", "tail", "head"]
    assert grouped(sizes, Factors(groups="terciles")) == terciles(sizes)
    assert group_rules(Factors(groups=(40.0, 10.0)))["med"] == "10 to 40 training images"


# On prepared folders


@pytest.mark.parametrize("name", ["toy-ir20", "toy"])
def test_a_run_of_some_classes_has_their_names_and_test_images(toy, name):
    whole, some = open_prepared(toy, name), open_prepared(toy, name, factors=Factors(classes=3, class_seed=2))
    names = [whole.class_names[label] for label in some.classes]
    assert some.class_names == names and len(some.test) == 30 and counts(some.test, 3) == [10] * 3
    assert (some.test.images == whole.test.images[some.test.rows]).all()
    assert (whole.test.labels[some.test.rows] == some.classes[some.test.labels]).all()
    assert some.sha256 != whole.sha256 and len(some.groups) == 3
    ratio = some.train_counts.max() / some.train_counts.min()
    assert ratio == (20 if name == "toy-ir20" else 1), "the ratio is that of the classes there are"


def test_counts_are_of_what_is_trained_on_and_groups_of_what_was_drawn(toy):
    plain = open_prepared(toy, "toy-ir10")
    for factors in (Factors(noise=0.4), Factors(val=0.2), Factors(noise=0.1, val=0.1)):
        found = open_prepared(toy, "toy-ir10", factors=factors)
        assert found.train_counts.tolist() == counts(found.train, 6) != plain.train_counts.tolist()
        assert found.groups == plain.groups and (found.test.labels == plain.test.labels).all()
    capped = Factors(per_class=15)
    assert open_prepared(toy, "toy-ir10", factors=capped).groups == plain.groups
    assert open_prepared(toy, "toy-ir10", factors=replace(capped, groups_from="subset")).groups == ["tail"] * 6


def test_held_out_images_are_the_split_val(toy):
    data = open_prepared(toy, "toy-ir20", factors=Factors(val=0.25))
    pool = open_prepared(toy, "toy")
    assert counts(data.split("val"), 6) == [30] * 6
    assert (data.val.images == pool.train.images[data.val.rows]).all()
    assert not set(data.val.rows) & set(data.train.rows)
    with pytest.raises(PelError, match=r"no split 'val'; data.val=0.1 holds one out"):
        pool.split("val")


def test_users_images_by_the_same_words(tmp_path):
    root = fill(tmp_path / "root", {"few": 12, "many": 60, "some": 30, "also": 30})
    keys = {"profile": "step", "ratios": [4], "test_fraction": 0.1}
    whole = make(root, **keys)
    out = tmp_path / "out"

    def opened(name="mine", **factors):
        return open_prepared(out, name, factors=Factors(**factors))

    drawn = opened(ratio=3.0, profile="step", seed=5)
    assert max(drawn.train_counts) / min(drawn.train_counts) == pytest.approx(3, rel=0.1) and drawn.train_counts[2] == max(
        drawn.train_counts
    )
    assert set(drawn.train.paths) < set(whole.train.paths) and drawn.groups == whole.groups
    again, other = (opened(seed=seed, ratio=3.0, profile="step").train.paths for seed in (5, 0))
    assert again == drawn.train.paths != other
    some = opened(classes=2, val=0.2)
    assert [Path(path).parent.name for path in some.val.paths] == [some.class_names[label] for label in some.val.labels]
    theirs = {path for path in whole.train.paths if Path(path).parent.name in some.class_names}
    assert set(some.val.paths) | set(some.train.paths) == theirs
    assert opened("mine-ir4", per_class=3).train_counts.tolist() == [3] * 4
    with pytest.raises(PelError, match=r"data.ratio=4: data set 'mine' is prepared at that ratio; ask for 'mine-ir4'"):
        opened(ratio=4.0)
    with pytest.raises(PelError, match=r"data.classes=4: there are 4 classes; expected 2\.\.3, or all"):
        opened(classes=4)
    with pytest.raises(PelError, match="use a ratio of at most"):
        opened(ratio=1000.0)


def test_validation_images_of_ones_own_are_not_held_out_twice(tmp_path):
    make(fill(tmp_path / "root", {"a": 20, "b": 30}), val_fraction=0.2)
    with pytest.raises(PelError, match=r"has validation images of its own; leave it out"):
        open_prepared(tmp_path / "out", "mine", factors=Factors(val=0.1))
