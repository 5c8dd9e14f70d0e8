"""Registries: entries of several files come in one order, by which schemas and documents are written."""

import subprocess
import sys

import pytest

from pel_core.data.datasets import DATASETS
from pel_core.spec.choices import LOSSES

REGISTRIES = {"pel_core.spec.choices:LOSSES": LOSSES, "pel_core.data.datasets:DATASETS": DATASETS}


@pytest.mark.parametrize("where, module", [(where, name) for where, each in REGISTRIES.items() for name in each.filled_by])
def test_entries_have_one_order_whichever_file_is_imported_first(where, module):
    home, _, name = where.partition(":")
    code = f"import {module}; from {home} import {name}; print(*{name})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == [entry.name for entry in REGISTRIES[where].entries() if not entry.plugin]
