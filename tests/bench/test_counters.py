"""What a step and an evaluation cost does not change unnoticed: operations, operator calls, files opened, bytes read."""

import copy
from pathlib import Path

import pytest
import torch

from pel_core.bench import counters
from pel_core.common.files import read_json, write_json

AGAIN = "if that is meant: python -m pel_core.bench.counters --write"


@pytest.fixture(scope="module")
def stored():
    return read_json(counters.FILE)


@pytest.fixture(scope="module")
def found():
    return counters.count_all()


def differing(kind: str, stored, found) -> list[str]:
    return [line for line in counters.changes(stored, found) if line.startswith(f"{kind}, ")]


def test_operations_are_what_they_were(stored, found):
    assert differing("flop", stored, found) == [], AGAIN


def test_operator_calls_are_what_they_were(stored, found):
    if stored["torch"] != found["torch"]:
        pytest.skip(f"counted with torch {stored['torch']}, and this is {found['torch']}: operators are cut in other ways there")
    assert differing("operators", stored, found) == [], AGAIN


def test_files_are_opened_and_read_once_an_epoch(stored, found):
    if None in found["files"].values():
        pytest.skip("this system does not tell how many bytes a process reads (no /proc/self/io)")
    assert differing("files", stored, found) == [], AGAIN
    assert stored["files"]["training epoch, JPEG files"] == {"opened": counters.FILES, "read": 1.0}
    assert stored["files"]["evaluation, image cache"] == {"opened": 0, "read": 0.0}  # a map: nothing goes through calls


def test_sums_that_follow_from_others(stored):
    """An evaluation of eight images of five crops is 5 forward passes of a training step's; freezing blocks saves operations."""
    flop = stored["flop"]
    assert flop["evaluation, head-only, fp32"] / 5 == pytest.approx(flop["training, head-only, fp32"], rel=0.01)
    assert flop["training, head-only, fp32"] < flop["training, adaptformer@2:4, fp32"] < flop["training, adaptformer, fp32"]
    assert flop["training, adaptformer, fp32"] == flop["training, adaptformer, bf16"]


def test_a_known_function_is_counted(tmp_path):
    a = torch.ones(3, 3)
    assert counters.operator_calls(lambda: (a @ a).add_(a)) == 2
    file = tmp_path / "a.bin"
    file.write_bytes(bytes(300_000))
    counts = counters.files_and_bytes(lambda: [file.read_bytes(), file.read_bytes()], 300_000)
    assert counts == ({"opened": 2, "read": 2.0} if Path("/proc/self/io").exists() else None)


def test_what_grew_is_named_and_other_versions_operators_are_left_out(stored, monkeypatch, tmp_path, capsys):
    now = copy.deepcopy(stored)
    name = "training, full, fp32"
    now["operators"][name] *= 2
    now["files"]["evaluation, JPEG files"] = {"opened": 24, "read": 2.0}
    del now["flop"][name]
    before = stored["operators"][name]
    lines = counters.changes(stored, now)
    assert f"operators, {name}: {before} -> {2 * before} (+100.0%)" in lines and len(lines) == 3
    assert f"flop, {name}: {stored['flop'][name]} -> nothing" in lines
    other = now | {"torch": "1.0.0"}
    assert len(counters.changes(stored, other)) == 2
    monkeypatch.setattr(counters, "FILE", tmp_path / "counters.json")
    monkeypatch.setattr(counters, "count_all", lambda: other)
    write_json(counters.FILE, stored)
    assert counters.main([]) == 1 and "they were not compared" in capsys.readouterr().out
    assert read_json(counters.FILE) == stored
    assert counters.main(["--write"]) == 0 and "all are new" in capsys.readouterr().out
    assert counters.main([]) == 0 and "every count is as it was" in capsys.readouterr().out
