"""ENGINE: the version of the numerics, stored in everything that is made and compared with everything that is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError

# Raise it when the same spec would give other numbers (a changed default, augmentation, initialisation, preparation): what
# another engine made is then made again, or refused as stale. tests/golden/defaults.json pins the defaults.
ENGINE = 1


def check_engine(path: str | Path, record: Mapping[str, Any], again: str = "prepare it again (snakemake does)") -> None:
    """Refuse a prepared file of another engine. One without a number is from before numbers were stored: of engine 1.

    Raises:
        PelError: stale.
    """
    if (found := int(record.get("engine", 1))) != ENGINE:
        raise PelError(f"{path} is stale: made by engine {found}, this is engine {ENGINE}, whose numbers may differ; {again}")
