"""Settings: what a command line says over a configuration (``snakemake --config seeds=0,1 results=FOLDER``)."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.paths import expand_user
from pel_core.models.backbones import expand_weights
from pel_core.models.by_name import file_safe
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


def typed_settings(config: Mapping[str, Any], words: Sequence[str], command_line: Sequence[str]) -> dict[str, Any]:
    """Settings as they were typed: Snakemake reads a value of ``--config`` as YAML, for which 2024_01_15 is the number 20240115.

    Args:
        config: what Snakemake made of ``--config`` and ``--configfile``.
        words: its ``key=value`` words, as Snakemake keeps and passes them on to jobs.
        command_line: of this process. A word that is not on it comes from a profile, whose text is lost as well.

    Raises:
        PelError: an empty value, or one that is no text and was not typed on the command line.
    """
    typed = dict(word.split("=", 1) for word in words)
    settings = {}
    for key, value in config.items():
        text = typed.get(key)
        if text is not None and any(word.endswith(f"{key}={text}") for word in command_line):
            settings[key] = text
        elif (isinstance(value, str) and text in (None, value)) or _plain(key, value):
            settings[key] = value
        else:
            raise PelError(
                f"{key}: a profile or --configfile gives {value!r}, which need not be what is written there; "
                f"say it on the command line (--config {key}=...), where it is taken as typed"
            )
        if settings[key] == "":
            raise PelError(f"{key}= is empty: say what it is, or leave it out")
    return settings


def require_unmoved(modifier: Any, *folders: Path) -> None:
    """See that another workflow, which uses this one as a module, moves no files: commands name them too.

    Args:
        modifier: Snakemake's path modifier of the module.
        folders: of results and figures.

    Raises:
        PelError: the module has a prefix for them.
    """
    for folder in folders:
        if modifier.replace_prefix(f"{folder}/file") != f"{folder}/file":
            raise PelError(
                "PEL-Lab as a module takes no prefix and replace_prefix for its files; say in the module's config where they go: "
                "config: {'results': FOLDER, 'figures': FOLDER}"
            )


def _plain(key: str, value: Any) -> bool:
    """Whether a value that is no text means what it says: seeds, or a list of plugins."""
    return (key == "seeds" and type(value) in (int, list)) or (key == "plugins" and type(value) is list)


def listed(given: Any) -> list[str]:
    """One value or several, as ``--config`` has them, as a list of texts."""
    return [] if given is None else list(map(str, given)) if isinstance(given, list) else [str(given)]


def apply_settings(values: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Put settings in the place of a configuration's ``values``. The root of data goes to the environment, which jobs inherit.

    Figures lie with their results: a results folder that is said alone has them in its ``figures``.

    Raises:
        PelError: seeds that are none.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    if "seeds" in given:
        values["seeds"] = parse_seeds(given["seeds"])
    if root := given.get("root") or os.environ.get("PEL_DATA"):
        # Data folders name it, and the jobs that read the images inherit it.
        os.environ["PEL_DATA"] = os.path.abspath(expand_user(root))
    if "backbone" in given:
        values["backbone"] = str(given["backbone"])
    if "weights" in given:
        values["weights"] = {**values.get("weights", {}), file_safe(values["backbone"]): expand_weights(str(given["weights"]))}
    if "results" in given:
        values["results"] = expand_user(given["results"])
        if "figures" not in values:
            values["figures"] = os.path.join(values["results"], "figures")
    if "figures" in given:
        values["figures"] = expand_user(given["figures"])
