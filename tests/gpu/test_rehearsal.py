"""`run.sh` from its first line to its last, on the CPU at toy size: the one call on a borrowed GPU must not fail on a slip."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pel_core.common.files import read_json

SCRIPT = Path(__file__).with_name("run.sh")


@pytest.mark.slow
def test_the_script_for_a_borrowed_gpu_runs(tmp_path):
    words = {"DEVICE": "cpu", "QUICK": "1", "PATIENCE": "20", "OUT": str(tmp_path), "PYTHON": sys.executable}
    done = subprocess.run([SCRIPT], env=os.environ | words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "summary.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["machine", "golden", "bench"] and all("exit 0" in line for line in lines)
    assert "0 FAILED, 0 unsupported" in (tmp_path / "golden.log").read_text()
    record = read_json(tmp_path / "gpu.cpu.json")
    assert record["quick"] and not [row for row in record["rows"] if "why" in row]
    assert all({"part", "name", "took"} <= row.keys() for row in record["rows"])
    assert (tmp_path / "gpu.cpu.png").stat().st_size > 1000
    assert "On the GPU: not measured." in (tmp_path / "README.md").read_text()
