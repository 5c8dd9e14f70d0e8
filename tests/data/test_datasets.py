"""Data-set names, user entries, the CIFAR-LT sampler."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pel_core.common.errors import PelError
from pel_core.data.datasets import DATASETS, find_dataset, split_name
from pel_core.data.sampling import long_tail_counts, long_tail_subset, shot_groups
from pel_core.demo.stand_ins import STAND_INS
from pel_core.ingest.sources import open_source

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def cifar():
    return np.load(GOLDEN / "cifar_lt.npz")


# Sampling


@pytest.mark.parametrize("ratio, total", [(10, 19573), (50, 12608), (100, 10847), (200, 9502)])
def test_cifar_counts_are_the_references(cifar, ratio, total):
    counts = long_tail_counts(100, 500, ratio)
    assert counts.tolist() == cifar[f"counts_ir{ratio}"].tolist()
    assert counts.sum() == total
    assert long_tail_subset(cifar["labels"], ratio).shape == (total,)


def test_cifar_indices_are_the_references(cifar):
    assert long_tail_subset(cifar["labels"], 100).tolist() == cifar["indices_ir100"].tolist()


def test_subsets_are_nested_and_leave_the_global_generator_alone(cifar):
    state = np.random.get_state()[1].copy()
    subsets = [set(long_tail_subset(cifar["labels"], ratio).tolist()) for ratio in (200, 100, 50, 10, 1)]
    assert all(a < b for a, b in itertools.pairwise(subsets))
    assert len(subsets[-1]) == 50_000
    assert (np.random.get_state()[1] == state).all()


def test_groups_of_cifar_are_the_references(cifar):
    groups = np.array(shot_groups(cifar["counts_ir100"]))
    for name, key in (("head", "many_idxs"), ("med", "med_idxs"), ("tail", "few_idxs")):
        assert np.flatnonzero(groups == name).tolist() == cifar[key].tolist()


def test_group_borders():
    assert shot_groups(np.array([101, 100, 20, 19, 1])) == ["head", "med", "med", "tail", "tail"]


@given(classes=st.integers(1, 40), per_class=st.integers(1, 60), ratio=st.floats(1, 80), data=st.data())
def test_any_subset_has_its_counts(classes, per_class, ratio, data):
    labels = np.array(data.draw(st.permutations(list(np.repeat(np.arange(classes), per_class)))) if classes < 5 else [])
    labels = labels if len(labels) else np.tile(np.arange(classes), per_class)
    try:
        counts = long_tail_counts(classes, per_class, ratio)
    except PelError:
        assert per_class < ratio + 1
        return
    chosen = long_tail_subset(labels, ratio)
    assert len(set(chosen.tolist())) == len(chosen)
    assert np.bincount(labels[chosen], minlength=classes).tolist() == counts.tolist()
    assert (np.diff(labels[chosen]) >= 0).all()
    assert (np.diff(counts) <= 0).all() and counts[0] == per_class


@pytest.mark.parametrize("ratio", [0, 0.5, -3, float("nan"), float("inf")])
def test_impossible_ratios(ratio):
    with pytest.raises(PelError, match="1 or more"):
        long_tail_counts(10, 100, ratio)


def test_a_ratio_that_empties_a_class():
    with pytest.raises(PelError, match="at most 100"):
        long_tail_counts(10, 100, 1000)


def test_a_pool_must_be_balanced():
    with pytest.raises(PelError, match="balanced"):
        long_tail_subset(np.array([0, 0, 1]), 2)


# Names


@pytest.mark.parametrize(
    "name, parts",
    [
        ("cifar100-ir100", ("cifar100", 100.0)),
        ("cifar100", ("cifar100", None)),
        ("cifar100-ir12.5", ("cifar100", 12.5)),
        ("my-ir-set-ir5", ("my-ir-set", 5.0)),
        ("demo-cifar-ir200", ("demo-cifar", 200.0)),
        ("toy-irish", ("toy-irish", None)),
    ],
)
def test_split_name(name, parts):
    assert split_name(name) == parts


@pytest.mark.parametrize(
    "name", ["", "Cifar100", "cifar100-ir100.0", "a/b", "../a", "cifar 100", "cifar100-ir1.50", "1a", "a.b", "a\n"]
)
def test_names_that_are_none(name):
    with pytest.raises(PelError, match="not a data-set name"):
        split_name(name)


@given(base=st.from_regex(r"[a-z][a-z0-9_-]{0,12}", fullmatch=True), ratio=st.integers(1, 10**6))
def test_names_round_trip(base, ratio):
    assert split_name(f"{base}-ir{ratio}") == (base, float(ratio))


def test_find_dataset():
    assert find_dataset("cifar100-ir37") is DATASETS["cifar100"]
    with pytest.raises(PelError, match="Did you mean 'cifar100'"):
        find_dataset("cifar1000-ir100")
    with pytest.raises(PelError, match="ask for 'imagenet-lt'"):
        find_dataset("imagenet-lt-ir10")


def test_every_entry_is_whole():
    assert {"cifar100", "imagenet-lt", "places-lt", "inat2018", "toy", *STAND_INS} <= set(DATASETS)
    assert DATASETS["inat2018"].recipe == {"epochs": 20}
    for name, entry in DATASETS.items():
        assert split_name(name) == (name, None)
        assert entry.ratios == "any" or not entry.groups_from
        source = open_source(name, entry)
        assert (source.root is not None) == (entry.held_as == "files")
        assert source.options.model_dump(exclude_defaults=True) == dict(entry.options), "a default need not be said"


def test_importing_is_light():
    slow = ("torch", "PIL", "torchvision", "pandas", "yaml")
    code = f"import sys, pel_core.data.datasets; print([m for m in {slow} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
