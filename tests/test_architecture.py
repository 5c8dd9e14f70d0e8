"""The order of rooms (a package imports only from those above it) and what planning and training may not import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pel_core"
# docs/architecture.md says what each holds.
ORDER = [
    "common", "hardware", "demo", "data", "models", "spec", "ingest", "training", "evaluation", "studies", "reporting",
    "door", "export", "gallery", "cli", "bench", "conformance", "fork_server",
]  # fmt: skip
PRETRAIN = "demo/pretrain.py"  # a program of its own: it may use the ViT to check what it made


def imported(source: str, package: str = "") -> set[str]:
    """The rooms that a source text imports, in whatever form and wherever; ``package`` is the dotted package it lies in."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute) and node.args:
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            word = node.args[0]
            if name in ("import_module", "__import__") and isinstance(word, ast.Constant):
                found.add(str(word.value))
    return {name.split(".")[1] for name in found if name.startswith("pel_core.")}


def below(room: str, names: set[str]) -> list[str]:
    """Those of the rooms that come after this one."""
    return sorted(name for name in names if name in ORDER and ORDER.index(name) > ORDER.index(room))


MODULES = sorted(path for path in PACKAGE.glob("*/**/*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_above(path):
    parts = path.relative_to(PACKAGE).parts
    assert parts[0] in ORDER, f"the room {parts[0]} has no place in ORDER"
    if "/".join(parts) != PRETRAIN:
        wrong = below(parts[0], imported(path.read_text(), ".".join(["pel_core", *parts[:-1]])))
        assert not wrong, f"{'/'.join(parts)} imports {wrong}, which come after {parts[0]}"


@pytest.mark.parametrize(
    "text",
    [
        "import pel_core.training.loop",
        "import pel_core.training as t",
        "from pel_core import training",
        "from pel_core.training import loop",
        "from pel_core.training.loop import train",
        "from ..training import loop",
        "from .. import training",
        "def f():\n    from pel_core.training.loop import train",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pel_core.training.loop import train",
        "import importlib\nimportlib.import_module('pel_core.training.loop')",
        "__import__('pel_core.training')",
    ],
)
def test_every_form_of_import_is_seen(text):
    assert below("data", imported(text, "pel_core.data")) == ["training"]


def test_a_room_says_what_it_holds():
    for room in ORDER:
        text = (PACKAGE / room / "__init__.py").read_text()
        tree = ast.parse(text)
        assert len(ast.get_docstring(tree) or "") > 60, f"{room}/__init__.py should say what lives there and where to start"


def test_planning_imports_neither_torch_nor_pandas():
    code = "import sys, pel_core.studies.study; print([m for m in ('torch', 'pandas', 'matplotlib', 'timm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_package_imports_no_library():
    code = "import sys, pel_core; print([m for m in ('torch', 'pandas', 'matplotlib', 'numpy', 'tqdm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_training_imports_none_of_the_slow_libraries():
    slow = ("open_clip", "timm", "torchvision", "pandas", "matplotlib", "pyarrow")
    code = f"import sys, pel_core.training.run; print([m for m in {slow} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_what_is_called_a_digit_can_be_read_as_one():
    """``"²".isdigit()`` is true, and ``int("²")`` fails: a number is ASCII, or ``isdecimal``."""
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "workflow").rglob("*.py")]:
        for line in path.read_text().splitlines():
            assert "isdigit()" not in line or "isascii()" in line, f"{path}: {line}"
            assert "isnumeric()" not in line, f"{path}: {line}"
