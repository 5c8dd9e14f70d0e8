"""A new record beside the stored one: what got worse is named with both figures; records of other machines are not compared."""

import copy
from pathlib import Path

import pytest

from pel_core.bench.__main__ import main
from pel_core.bench.compare import comparison
from pel_core.common.files import read_json, write_json

STORED = Path(__file__).parents[2] / "docs" / "benchmarks"
PARTS = sorted(STORED.glob("*.json"))


@pytest.fixture
def step():
    return read_json(STORED / "step.cpu.json")


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)
def test_every_stored_record_compares_with_itself(path):
    record = read_json(path)
    (told,) = comparison(record, record)
    assert int(told.split()[0]) >= 5 and "0 worse by more than 5%, 0 better" in told and "there any more" not in told


def test_what_got_slower_or_larger_is_named_worst_first(step):
    now = copy.deepcopy(step)
    now["rows"][1]["images_per_second"]["ours"] /= 1.3
    now["rows"][0]["memory_mb"]["ours"] *= 1.5
    now["rows"][2]["images_per_second"]["ours"] *= 2
    now["rows"][3]["memory_mb"]["ours"] *= 1.04  # as much as figures differ anyway
    del now["rows"][-1]
    larger, slower, told = comparison(step, now)
    before = step["rows"][0]["memory_mb"]["ours"]
    assert larger == f"larger by 50%: rows, adaptformer, fp32, 16: memory mb ours {before:.4g} -> {before * 1.5:.4g}"
    assert slower.startswith("slower by 30%: rows, adaptformer@6:12, fp32, 16: images per second ours ")
    assert "2 worse by more than 5%, 1 better; 6 are not there any more, 0 are new" in told


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda record: record["machine"].update(cpu="Another"), "machine (cpu Intel(R) Xeon(R) Processor, now Another)"),
        (lambda record: record["machine"].update(cores=8, threads=8), "cores 2, now 8; threads 2, now 8"),
        (lambda record: record["machine"].update(gpu="H100"), "gpu None, now H100"),
        (lambda record: record["machine"].update(clock="processor"), "clock wall, now processor"),
        (lambda record: record.update(quick=True), "a quick record says nothing of speed"),
        (lambda record: record["settings"].update(batch=32), "other settings: batch"),
    ],
)  # fmt: skip
def test_what_says_nothing_of_each_other_is_not_compared(change, why, step):
    now = copy.deepcopy(step)
    change(now)
    (told,) = comparison(step, now)
    assert told.startswith("not compared: ") and why in told


def test_the_command_says_it_before_the_stored_record_is_replaced(tmp_path, monkeypatch, step, capsys):
    slow = copy.deepcopy(step)
    slow["rows"][0]["images_per_second"]["ours"] /= 2
    write_json(tmp_path / "step.cpu.json", step)
    monkeypatch.setattr("pel_core.bench.__main__.measure", lambda part, arguments: ("step.cpu.json", slow))
    monkeypatch.setattr("pel_core.bench.__main__.draw", lambda out: None)
    words = ["step", "--out", str(tmp_path), "--against", str(tmp_path)]
    assert main(words) == 0
    assert "step: slower by 100%: rows, adaptformer, fp32, 16: images per second ours 3.876 -> 1.938" in capsys.readouterr().out
    assert main(words) == 0 and "0 worse" in capsys.readouterr().out


def test_a_first_measurement_has_nothing_to_compare_with(step):
    assert comparison(None, step) == ["not compared: no record of this part and device is stored"]
