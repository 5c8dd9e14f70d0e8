"""CPU cores: those of the affinity mask where there is one, all elsewhere."""

import os

import pytest

from pel_core.hardware.cores import usable_cpus


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity masks")
def test_the_affinity_mask_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7})
    assert usable_cpus() == 3


@pytest.mark.parametrize("count, expected", [(6, 6), (None, 1)])
def test_without_affinity_masks_all_cores_count(monkeypatch, count, expected):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert usable_cpus() == expected
