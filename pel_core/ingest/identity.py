"""What a prepared data set depends on, as one text: its entry, the content of its source, the naming of its classes."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import read_json, write_json
from pel_core.common.fingerprints import canonical, departing_fields, fingerprint, later_preparation
from pel_core.common.plugins import used
from pel_core.common.shipped import results_said
from pel_core.data.datasets import DATASETS, FORMAT, LongTailed
from pel_core.data.naming import naming_of
from pel_core.data.roots import expand_root
from pel_core.ingest.sources import SOURCES, open_source


def data_params(base: str, datasets: Mapping[str, LongTailed], config: Mapping[str, Any]) -> str:
    """Of a prepared data set: its entry and the content of its list files, wherever they lie.

    Raises:
        PelError: it is not declared, or a list file does not exist.
    """
    if base not in datasets:
        raise unknown("data set", base, datasets)
    source = open_source(base, datasets[base], config)
    about = {"format": FORMAT, "entry": source.declared_options(), "source": source.locate().fingerprint()}
    return canonical({**about, **_plugins(base, source.entry.kind), **_naming(base, config), **later_preparation()})


def _plugins(base: str, kind: str) -> dict[str, Any]:
    """The content of the plugins that declare the data set or read its kind; of most, nothing."""
    entries = [SOURCES.entry(kind), *([DATASETS.entry(base)] if base in DATASETS else [])]
    return {"plugins": found} if (found := used(entries)) else {}


def _naming(base: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says about class names, where it does, and the content of a names file of the user's own."""
    options = departing_fields(naming_of(config, base))
    if "file" in options:
        options["file"] = fingerprint(options["file"])
    return {"naming": options} if options else {}


def write_source(folder: str | Path, root: str | None, params: str) -> None:
    """Say what a folder was prepared from: where that lies, and what it is known by (`data_params`)."""
    write_json(Path(folder) / "source.json", {"root": root, "source": json.loads(params)["source"], "params": params})


def other_params(folder: str | Path, params: str) -> str:
    """What of ``params`` is other than what a prepared folder was made from, in words; empty where nothing is, or is known."""
    path = Path(folder) / "source.json"
    if not path.is_file() or not (Path(folder) / "data.json").is_file():
        return ""
    stored, now = read_json(path, ("source",)), json.loads(params)
    if stored["source"] != now["source"]:
        return "paths, sizes, lists or tables are others"
    if "params" not in stored:  # of before all of them were kept
        return ""
    was = json.loads(stored["params"])
    other = [key for key in sorted({*was, *now}) if was.get(key) != now.get(key)]
    return f"declared otherwise ({', '.join(other)})" if other else ""


def is_other(folder: str | Path, params: str) -> bool:
    """Whether a prepared folder was made from another source (paths, sizes, a table) than ``params`` tell of."""
    path = Path(folder) / "source.json"
    return path.is_file() and read_json(path, ("source",))["source"] != json.loads(params)["source"]


def keep_params(folder: str | Path, root: str | None, params: str) -> None:
    """Write down what a folder was prepared from, where it is of before that was said in full, and nothing contradicts it."""
    path, known = Path(folder) / "source.json", (Path(folder) / "data.json").is_file()
    if known and not (path.is_file() and "params" in read_json(path)):
        with suppress(OSError):  # a folder that may only be read: next time
            write_source(folder, root, params)


def require_same_place(folder: str | Path, base: str, root: str) -> None:
    """Refuse to prepare other images, from another place, over those that a results folder has runs of.

    Images that changed where they are are the same data set: they are prepared again.

    Raises:
        PelError: they lie elsewhere; the message says how to keep the two apart.
    """
    path = Path(folder) / "root.json"
    if not path.is_file():
        return
    was, now = read_json(path, ("was",))["was"], expand_root(root)
    if was != now:
        raise PelError(
            f"data set '{base}': {folder} was prepared from {was}, and {now} holds other images; choose another "
            f"results folder for them ({results_said()}), "
            f"or delete {folder} to make everything again from the new ones"
        )
