"""What docs/start.md and docs/extending.md say about adding is done here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pel_core.cli.main import main
from pel_core.common import plugins
from pel_core.common.files import read_json

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def example(tmp_path):
    """The example of docs/start.md, in a file of the name it gives."""
    blocks = BLOCK.findall((ROOT / "docs/start.md").read_text(encoding="utf-8"))
    assert len(blocks) == 1
    path = tmp_path / "my_method.py"
    path.write_text(blocks[0])
    return path


def test_the_example_trains(example, toy_results, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "")
    slug = "toy-ir20.toy.adaptformer-attn@1:3+ln.s0.epochs=1"
    try:
        for command in ("train", "evaluate"):
            assert main([command, slug, "--results", str(toy_results), "--plugins", str(example)]) == 0
    finally:
        for plugin in plugins.loaded().values():
            plugins.unload(plugin)
    (path,) = toy_results.glob(f"runs/{slug}/**/metrics.json")
    record = read_json(path)
    assert record["parameters"]["by_part"]["adaptformer-attn"] > 0 and record["plugins"].keys() == {"my_method.py"}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["plugin", "package"])
def test_the_example_passes_the_tests_of_methods(example, place, tmp_path):
    """As a plugin, and with the same lines in the package: those that its name is among."""
    environment, tests = dict(os.environ), ROOT / "tests"
    if place == "plugin":
        environment[plugins.VARIABLE] = str(example)
    else:
        for name in ("pel_core", "tests", "pyproject.toml", "docs", "workflow"):
            subprocess.run(["cp", "-r", str(ROOT / name), str(tmp_path)], check=True)
        methods, tests = tmp_path / "pel_core" / "models" / "methods.py", tmp_path / "tests"
        methods.write_text(methods.read_text() + example.read_text().split("\n\n", 1)[1])
        environment["PYTHONPATH"] = str(tmp_path)
    words = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-n", "0"]
    words += ["-k", "adaptformer-attn", "models/test_surgery.py"]
    done = subprocess.run(words, cwd=tests, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 5, done.stdout[-3000:]


def test_the_walk_shows_the_file_that_is_tested():
    """Every block of docs/extending.md stands in everything.py, and every entry of it in a block."""
    blocks = BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))
    code = (ROOT / "tests" / "plugins" / "everything.py").read_text(encoding="utf-8")
    assert all(block.strip() in code for block in blocks)
    names = set(re.findall(r'"(my-[a-z-]+)"', code))
    assert names == set(re.findall(r'"(my-[a-z-]+)"', "".join(blocks)))


def test_the_walk_can_be_pasted(tmp_path):
    """The blocks of docs/extending.md in their order are a plugin: the first one has every import."""
    (tmp_path / "pasted.py").write_text("\n\n".join(BLOCK.findall((ROOT / "docs" / "extending.md").read_text("utf-8"))), "utf-8")
    words = [sys.executable, "-c", "from pel_core.common.plugins import load_file; load_file('pasted.py')"]
    done = subprocess.run(words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
