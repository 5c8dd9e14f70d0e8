"""Settings: what a command line says over a configuration (``snakemake --config seeds=0,1 results=FOLDER``)."""

import os
from collections.abc import Mapping
from typing import Any

from pel_core.common.errors import unknown
from pel_core.studies.config import parse_seeds

SETTINGS = ("study", "config", "seeds", "results", "figures", "root", "backbone", "weights", "plugins")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse a key of ``--config`` that is no setting.

    Raises:
        PelError: naming it and the nearest one.
    """
    for key in settings:
        if key not in SETTINGS:
            raise unknown("setting of --config:", key, SETTINGS, "Other values belong into a configuration file.")


def listed(given: Any) -> list[str]:
    """One value or several, as ``--config`` has them, as a list of texts."""
    return [] if given is None else list(map(str, given)) if isinstance(given, list) else [str(given)]


def apply_settings(values: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Put settings in the place of a configuration's ``values``. The root of data goes to the environment, which jobs inherit.

    Raises:
        PelError: seeds that are none.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    if "seeds" in given:
        values["seeds"] = parse_seeds(given["seeds"])
    if root := given.get("root") or os.environ.get("PEL_DATA"):
        # Data folders name it, and the jobs that read the images inherit it.
        os.environ["PEL_DATA"] = os.path.abspath(os.path.expanduser(str(root)))
    if "backbone" in given:
        values["backbone"] = str(given["backbone"])
    if "weights" in given:
        path = os.path.expandvars(os.path.expanduser(str(given["weights"])))
        values["weights"] = {**values.get("weights", {}), values["backbone"]: path}
    values.update({key: str(given[key]) for key in ("results", "figures") if key in given})
