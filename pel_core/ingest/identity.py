"""What a prepared data set depends on, as one text: its entry, the content of its source, the naming of its classes."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pel_core.common.errors import unknown
from pel_core.common.fingerprints import canonical, departing_fields, fingerprint, later_preparation
from pel_core.common.versions import PREPARE
from pel_core.data.datasets import FORMAT, USER_KINDS, LongTailed
from pel_core.data.naming import naming_of
from pel_core.data.roots import find_lists
from pel_core.data.user_files import content_print, locate
from pel_core.demo.stand_ins import STAND_INS


def data_params(base: str, datasets: Mapping[str, LongTailed], config: Mapping[str, Any]) -> str:
    """Of a prepared data set: its entry and the content of its list files, wherever they lie.

    Raises:
        PelError: it is not declared, or a list file does not exist.
    """
    if base not in datasets:
        raise unknown("data set", base, datasets)
    entry = datasets[base]
    plain = {key: value for key, value in departing_fields(entry).items() if key not in ("root", "recipe", "pool")}
    source: Any = {}
    if entry.kind == "lists":
        source = {name: fingerprint(path) for name, path in find_lists(base, entry, config).items()}
    if entry.kind in USER_KINDS:
        source = content_print(base, locate(base, entry))
    if entry.kind == "rendered":  # a change of the renderer itself raises PREPARE
        world = {key: value for key, value in asdict(STAND_INS[base]).items() if key != "recipe"}
        source = {"engine": PREPARE, "world": world}
    return canonical({"format": FORMAT, "entry": plain, "source": source, **_naming(base, config), **later_preparation()})


def _naming(base: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says about class names, where it does, and the content of a names file of the user's own."""
    options = departing_fields(naming_of(config, base))
    if "file" in options:
        options["file"] = fingerprint(options["file"])
    return {"naming": options} if options else {}
