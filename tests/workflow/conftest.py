"""What tests of the workflow share."""

import shutil

import pytest
from lab import Lab


@pytest.fixture
def lab(built, tmp_path) -> Lab:
    """A copy of a file's ``built`` study that a test may change: Snakemake's records are of relative paths."""
    shutil.copytree(built, tmp_path / "lab", copy_function=shutil.copy2)
    return Lab(tmp_path / "lab")
