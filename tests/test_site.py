"""The documentation builds as a site, without a warning: no link leads nowhere, every key is described."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs/_site"))

from docstrings import as_rst
from generated import keys_page


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    words = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees"), "docs", str(tmp_path / "site")]
    made = subprocess.run(
        [sys.executable, "-m", "sphinx", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert made.returncode == 0, made.stderr[-4000:]
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert "export_run" in (tmp_path / "site/generated/api/export.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["study", "config"])
def test_every_key_is_described(name):
    schema = json.loads((ROOT / f"workflow/schemas/{name}.schema.json").read_text(encoding="utf-8"))
    page = keys_page("Keys", schema)
    for part in (schema, *schema["$defs"].values()):
        for key, about in part.get("properties", {}).items():
            if not about.get("$ref", "").startswith("#/$defs/Fields/"):
                assert f"| `{key}` |" in page
    del schema["properties"]["title"]["description"]
    with pytest.raises(ValueError, match="the key title of the top has no description"):
        keys_page("Keys", schema)


@pytest.mark.parametrize(
    ("plain", "made"),
    [
        ("the mean of `x` (B, N)", "the mean of ``x`` (B, N)"),
        ("x * scale + |y|", r"x \* scale + \|y\|"),
        ("``a * b`` and `c`s", r"``a * b`` and ``c``\ s"),
        ("grad_ of x_BD", r"grad\_ of x_BD"),
        ("  * one `a` * two", r"  * one ``a`` \* two"),
    ],
)
def test_docstrings_become_restructured_text(plain, made):
    lines = [plain]
    as_rst(None, "function", "f", None, None, lines)
    assert lines == [made]
