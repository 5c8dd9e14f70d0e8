"""The benchmarks run, compare equal things, and write what they say they write. No test asserts a time."""

import json
import math
import subprocess
import sys
import time

import pytest
import torch

from pel_core.bench import machine
from pel_core.bench.__main__ import main
from pel_core.bench.measure import alternate, gflop, peak_mb, processor_time, ratio, seconds, use_clock
from pel_core.bench.models import make_pair, require_equal
from pel_core.bench.step import cases, methods
from pel_core.bench.study import ABOUT, split
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.spec.run_spec import RunSpec

CPU = torch.device("cpu")
KEYS = {
    "step": ("rows", {"method", "images_per_second", "ratio", "peak_fraction", "ratio_at_peak", "memory_mb"}),
    "input": ("rows", {"way", "source"}),
    "evaluation": ("agreement", {"precision", "max_logit_difference", "top1_agreement"}),
    "scaling": ("runs", {"runs", "plan_seconds", "snakemake_seconds"}),
    "sweep": ("rows", {"stage", "method", "source", "runs", "ratio", "reading_seconds"}),
    "statistics": ("rows", {"dataset", "images", "seconds", "read_seconds", "compare_seconds", "peak_memory_mb"}),
}


@pytest.mark.parametrize("part", KEYS)  # but `gpu`, which tests/gpu/test_rehearsal.py runs
def test_a_quick_benchmark_writes_its_record_plot_and_tables(part, tmp_path):
    assert main([part, "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    record = read_json(tmp_path / f"{part}.cpu.json")
    key, names = KEYS[part]
    assert record["quick"] is True
    assert record["machine"].keys() >= {"clock", "cpu", "cores", "flags", "load", "busy", "torch", "commit"}
    assert record[key]
    assert all(names <= row.keys() for row in record[key])
    assert all(math.isfinite(number) and number >= 0 for number in numbers(record[key]))
    assert (tmp_path / f"{part}.cpu.png").stat().st_size > 1000
    text = (tmp_path / "README.md").read_text()
    assert f"![{part}]({part}.cpu.png)" in text
    assert "On the GPU: not measured." in text  # no number that nobody measured


def test_what_was_disturbed_is_measured_again(monkeypatch):
    shares = iter([0.6, 0.02, 0.5])  # a glance never sees anybody

    class Others:
        def share(self) -> float:
            return next(shares)

    monkeypatch.setattr(machine, "Others", Others)
    monkeypatch.setattr(machine, "glance", lambda: 0.0)
    tries = iter(range(3))
    bench = machine.Bench(CPU, quick=True, flags=[], patience=60)
    assert bench.quietly(lambda: next(tries)) == (1, 0.02)
    assert machine.Bench(CPU, quick=True, flags=[]).quietly(lambda: "once") == ("once", 0.5)  # without patience


def numbers(value) -> list[float]:
    if isinstance(value, dict | list):
        return [number for item in (value.values() if isinstance(value, dict) else value) for number in numbers(item)]
    return [value] if isinstance(value, int | float) else []


def pair(method: str):
    spec = RunSpec.make("cifar100-ir100", "toy", method, 0, init="random", precision="fp32")
    return (*make_pair(spec, 10, CPU), torch.randn(3, 3, spec.pixels, spec.pixels, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("method", [*methods(4), "vpt-deep"])
def test_baseline_and_ours_have_equal_logits_and_gradients(method):
    baseline, ours, images = pair(method)
    assert require_equal(baseline, ours, images) < 1e-4
    for model in (baseline, ours):
        torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2])).backward()
    theirs = baseline.trainable()
    for name, value in ours.trainable().items():
        torch.testing.assert_close(value.grad, theirs[name].grad, rtol=1e-3, atol=1e-5, msg=name)


def test_unequal_models_are_not_timed():
    baseline, ours, images = pair("adaptformer")
    with torch.no_grad():
        ours.vit.blocks[1].attn.proj.bias[:5].add_(1)
    with pytest.raises(PelError, match="nothing was timed"):
        require_equal(baseline, ours, images)


def test_a_method_that_the_baseline_lacks_is_refused():
    with pytest.raises(PelError, match="knows no method 'bias'"):
        pair("bias")


def test_operations_and_memory_of_a_known_function():
    a, b = torch.ones(100, 200), torch.ones(200, 300)
    assert gflop(lambda: a @ b) == pytest.approx(2 * 100 * 200 * 300 / 1e9)
    q = torch.ones(1, 2, 50, 8)
    attention = gflop(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert attention == pytest.approx(2 * 2 * 2 * 50 * 50 * 8 / 1e9)

    def work() -> None:
        first = torch.ones(250_000)
        second = torch.ones(500_000)
        del first, second
        torch.ones(250_000)

    assert peak_mb(work, CPU) == pytest.approx(3.0, rel=0.05)


def test_works_take_turns():
    order = []
    taken = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, CPU)
    assert order == ["a", "b", "a", "b", "a", "b"]  # the first turn is not timed
    assert [len(values) for values in taken.values()] == [2, 2]
    assert ratio([2.0, 6.0, 4.0], [1.0, 2.0, 1.0]) == {"median": 3.0, "min": 2.0, "max": 4.0}


def test_a_cpu_that_emulates_bf16_measures_it_once():
    assert [method for method, precision in cases(12, CPU, ["avx512f"], quick=False) if precision == "bf16"] == ["adaptformer"]
    assert len(cases(12, CPU, ["amx_bf16"], quick=False)) == 16


def test_a_studys_time_is_split_without_rest(tmp_path):
    for number, (argv, wall) in enumerate(
        ((["x/pel_core/__main__.py", "train", "a"], 5.0), (["x/pel_core/__main__.py", "evaluate", "a"], 3.0),
         (["x/pel_core/__main__.py", "table", "one"], 1.0), (["x/snakemake/__main__.py", "-s"], 9.0))
    ):  # fmt: skip
        line = {"argv": argv, "start": 0.0, "end": wall, "cpu": 2.0}
        (tmp_path / "trace").mkdir(exist_ok=True)
        (tmp_path / "trace" / f"{number}.json").write_text(json.dumps(line))
    write_json(tmp_path / "results" / "runs" / "a" / "train.json", {"training": {"seconds": 3.5}})
    write_json(tmp_path / "results" / "runs" / "a" / "metrics.json", {"evaluation": {"seconds": 1.0}})
    rows, runs = split(tmp_path, wall=10.0, cores=2)
    assert runs == 1
    assert {row["phase"]: row["core_seconds"] for row in rows} == pytest.approx(
        dict.fromkeys(ABOUT, 0.0)
        | {"training": 3.5, "evaluation": 1.0, "start-up": 3.5, "drawing": 1.0, "snakemake": 2.0, "idle": 9.0}
    )
    assert sum(row["share"] for row in rows) == pytest.approx(1)


@pytest.mark.slow
def test_a_quick_study_is_run_and_split(tmp_path):
    assert main(["study", "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    record = read_json(tmp_path / "study.cpu.json")
    assert record["runs"] == 3
    assert all(row["core_seconds"] > 0 for row in record["rows"] if row["phase"] != "idle")


def test_processor_time_does_not_count_waiting():
    begun = processor_time()
    use_clock("processor")
    try:
        assert seconds(lambda: time.sleep(0.2), CPU) < 0.1
        child = [sys.executable, "-c", "sum(range(10**6))"]
        assert seconds(lambda: subprocess.run(child, check=True), CPU) > 0.005  # children that ended count
    finally:
        use_clock("wall")
    assert seconds(lambda: time.sleep(0.05), CPU) >= 0.05
    assert processor_time() > begun
