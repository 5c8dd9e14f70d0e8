"""Names of files under locales that are not UTF-8."""

import os
import subprocess
import sys

import pytest
from own_trees import fill, write

from pel_core.common.locales import check_locale

ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def check(root, **environment: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "pel_core", "data", "check", "mine", "--config", "own", "--root", str(root)]
    return subprocess.run(words, env={**os.environ, **environment}, capture_output=True, check=False)


@pytest.mark.parametrize("kind", ["folders", "table", "root"])
def test_the_locale_is_blamed_and_not_the_name(tmp_path, kind):
    root = fill(tmp_path / ("images" if kind != "root" else "Зубр"), {"a": 3, "寺" if kind != "root" else "b": 3})
    if kind == "table":
        rows = [[str(path.relative_to(root)), path.parent.name] for path in sorted(root.rglob("*.png"))]
        root = write(root / "labels.csv", [["path", "label"], *rows])
    done = check(root, **ASCII)
    told = (done.stdout + done.stderr).decode()
    assert done.returncode == 1 and "Traceback" not in told and "rename it" not in told
    assert "is UTF-8, but this process takes names of files for ascii (LC_ALL=C); set PYTHONUTF8=1" in told
    assert check(root, **ASCII | {"PYTHONUTF8": "1"}).returncode == 0


def test_labels_that_the_screen_cannot_show_stop_nothing(tmp_path):
    root = fill(tmp_path / "images", {"a": 3, "b": 3})
    rows = [[str(path.relative_to(root)), {"a": "Зубр", "b": "寺"}[path.parent.name]] for path in sorted(root.rglob("*.png"))]
    done = check(write(root / "labels.csv", [["path", "label"], *rows]), **ASCII)
    assert done.returncode == 0 and b"\\u0417\\u0443\\u0431\\u0440 3" in done.stdout


def test_every_name_is_let_pass_where_names_are_utf8(monkeypatch):
    check_locale(["Зубр", "a", "\udcff"])
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    check_locale(["a"])
