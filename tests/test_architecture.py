"""The order of modules (a file imports only from above it) and what planning may not import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pel_core"
ORDER = [
    "errors", "problems", "numerics", "files", "seeds", "gpu_slots", "job_options", "hub",
    "methods", "backbones", "demo.stand_ins",
    "image_cache", "lists", "naming", "published", "sampling", "roots", "datasets", "own_data", "image_folders", "image_tables",
    "own_files",
    "options", "spec", "results", "config", "layout", "artefacts", "provenance", "studies", "recipe_text",
    "cost", "plan", "lease", "status", "failures",
    "metrics", "tables", "compare", "claims", "runs_table", "pages", "figure_style", "figures", "figure_curve",
    "tensors", "devices", "world",
    "recompute", "attention", "vit", "deltas", "surgery", "state_names", "upstream", "weights",
    "transforms", "resample",
    "layouts", "data_check", "cifar", "fetch", "sources", "saved_datasets", "duplicate_images", "own_sources", "prepare",
    "cache_build",
    "figure_counts", "describe", "data_commands",
    "loading", "batches", "heads", "losses", "inits", "classifier", "figure_map",
    "signals", "progress", "events", "checkpoint", "step", "distributed", "engine", "prefix_cache",
    "outputs", "model_card", "run_inputs", "runs", "predict",
    "calibrate", "data_options", "report", "conformance", "bench", "cli", "warm", "__main__",
]  # fmt: skip


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports at its top level or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pel_core."):
            found.add(node.module.removeprefix("pel_core."))
    return found


def rank(module: str) -> int:
    """A subpackage ranks as itself; the demo's own workshop (rendering, pre-training) ranks with its stand-ins."""
    names = [module, module.split(".")[0]]
    if module.startswith("demo"):
        return ORDER.index("demo.stand_ins")
    return next((ORDER.index(name) for name in names if name in ORDER), -1)


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_above(path):
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    assert rank(module) >= 0, f"{module} has no place in ORDER"
    if path.name == "pretrain.py":
        return  # a program of its own: it may use the ViT to check what it made
    below = [name for name in imports(path) if rank(name) > rank(module)]
    assert not below, f"{module} imports {below}, which come after it"


def test_planning_imports_neither_torch_nor_pandas():
    code = "import sys, pel_core.studies; print([m for m in ('torch', 'pandas', 'matplotlib', 'timm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_training_imports_none_of_the_slow_libraries():
    slow = ("open_clip", "timm", "torchvision", "pandas", "matplotlib", "pyarrow")
    code = f"import sys, pel_core.runs; print([m for m in {slow} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
