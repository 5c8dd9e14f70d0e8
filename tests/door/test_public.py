"""`import pel_core as pel`: light, complete, typed; plugins in a session."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pel_core as pel
from pel_core.common import plugins

ROOT = Path(__file__).parents[2]
LIBRARIES = ("torch", "pandas", "matplotlib", "numpy", "tqdm", "timm", "open_clip")


def python(code: str, **environment: str) -> str:
    words = [sys.executable, "-c", code]
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=True).stdout.strip()


def test_the_import_brings_no_library():
    assert python(f"import sys, pel_core; print([name for name in {LIBRARIES} if name in sys.modules])") == "[]"


def test_every_name_is_there_at_its_first_use():
    assert {"results", "load_run", "train", "study", "PelError"} <= set(pel.__all__) <= set(dir(pel))
    assert all(getattr(pel, name) is getattr(pel, name) for name in pel.__all__)
    assert "load_run" in python("from pel_core import *; print(dir())")
    with pytest.raises(AttributeError, match="module 'pel_core' has no attribute 'lode_run'"):
        _ = pel.lode_run


def test_what_is_public_has_a_docstring():
    names = [name for name in pel.__all__ if name != "__version__"]
    assert all(getattr(pel, name).__doc__ for name in names)


def test_type_checkers_are_told_of_the_types():
    assert (ROOT / "pel_core" / "py.typed").is_file()


def test_a_plugin_that_was_edited_needs_a_new_interpreter(tmp_path, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "")
    file = tmp_path / "my_door_metric.py"
    file.write_text("LIMIT = 1\n")
    try:
        pel.use_plugins(file)
        pel.use_plugins(file)
        file.write_text("LIMIT = 2\n")
        with pytest.raises(pel.PelError, match=r"was changed since it was loaded .* restart the kernel"):
            pel.use_plugins(file)
    finally:
        plugins.unload(plugins.loaded()[file.name])
    with pytest.raises(pel.PelError, match=r"nowhere\.py does not exist"):
        pel.use_plugins(tmp_path / "nowhere.py")
