"""Where a data set of the user's own lies, of which kind it is, and what tells two of them apart. Torch-free: planning asks."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, sha256, write_json
from pel_core.data.datasets import LongTailed
from pel_core.data.image_folders import tree_lines
from pel_core.data.roots import expand_root

TABLES = (".csv", ".tsv")
SAVED = ("dataset_dict.json", "state.json")  # what Hugging Face's save_to_disk leaves


def locate(base: str, entry: LongTailed) -> LongTailed:
    """The entry with its ``kind`` settled (not ``auto``), its ``root`` a folder that exists and, for a table, its ``file``.

    Raises:
        PelError: nothing is there, or not what the kind asks for.
    """
    try:
        root = os.path.abspath(expand_root(entry.root))
        if not os.path.exists(root):
            raise PelError(f"{root} does not exist")
        kind = entry.kind if entry.kind != "auto" else _guess(root, entry.file)
        found = replace(entry, kind=kind, root=root)
        if kind == "csv":
            return _table(found)
        if not os.path.isdir(root):
            hint = "; a table of images has a name that ends in .csv or .tsv" if entry.kind == "auto" else ""
            raise PelError(f"{root} is a file, expected a folder{hint}")
        if kind == "huggingface" and not any(os.path.isfile(f"{root}/{name}") for name in SAVED):
            raise PelError(f"{root} holds neither {' nor '.join(SAVED)}, expected what Dataset.save_to_disk leaves")
    except PelError as error:
        raise PelError(f"data set '{base}': {error}{_how_to_say(base, entry)}") from None
    return found


def _how_to_say(base: str, entry: LongTailed) -> str:
    if "PEL_DATA" in entry.root:
        return "; say where the images are by make study DATA=PATH, --config root=PATH or the environment variable PEL_DATA"
    return f"; say where the images are by 'root' of 'datasets: {base}' in the configuration"


def _guess(root: str, file: str) -> Any:
    if file or root.lower().endswith(TABLES):
        return "csv"
    return "huggingface" if any(os.path.isfile(f"{root}/{name}") for name in SAVED) else "folders"


def _table(entry: LongTailed) -> LongTailed:
    if os.path.isfile(entry.root) and not entry.file:
        return replace(entry, root=os.path.dirname(entry.root), file=os.path.basename(entry.root))
    if not entry.file:
        raise PelError(f"{entry.root} is a folder; expected a table, or its name below the folder by 'file'")
    path = os.path.join(entry.root, expand_root(entry.file))
    if not os.path.isfile(path):
        raise PelError(f"the table {path} does not exist")
    return replace(entry, file=path)


def table_path(entry: LongTailed) -> str:
    """The table of a located entry of kind ``csv``."""
    return os.path.join(entry.root, entry.file)


def names_file(entry: LongTailed) -> str:
    """The file of a located entry's class names; empty where there is none.

    Raises:
        PelError: it does not exist.
    """
    if not isinstance(entry.class_names, str) or not entry.class_names:
        return ""
    path = os.path.join(entry.root, expand_root(entry.class_names))
    if not os.path.isfile(path):
        raise PelError(f"class_names: {path} does not exist; expected a file below {entry.root}, or one that is given in full")
    return path


def content_print(base: str, entry: LongTailed) -> dict[str, str]:
    """What the data of a located entry are known by, wherever they lie: paths and sizes of images, or the bytes of their table.

    Raises:
        PelError: something cannot be read; the message names the data set ``base``.
    """
    try:
        return _prints(entry)
    except PelError as error:
        raise PelError(f"data set '{base}': {error}") from None


def _prints(entry: LongTailed) -> dict[str, str]:
    if entry.kind == "csv":
        prints = {"table": sha256(table_path(entry))}
    elif entry.kind == "folders":
        prints = {"tree": _digest(tree_lines(entry.root))}
    else:
        files = sorted(path for path in Path(entry.root).rglob("*") if path.suffix in (".json", ".arrow"))
        known = ((path, sha256(path) if path.suffix == ".json" else str(path.stat().st_size)) for path in files)
        prints = {"tables": _digest(f"{path.relative_to(entry.root)}\t{content}" for path, content in known)}
    return prints | ({"names": sha256(file)} if (file := names_file(entry)) else {})


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()[:16]


def write_source(folder: str | Path, root: str, params: str) -> None:
    """Say what a folder was prepared from: where that lies, and what it is known by (``provenance.data_params``)."""
    write_json(Path(folder) / "source.json", {"root": root, "source": json.loads(params)["source"]})


def is_other(folder: str | Path, params: str) -> bool:
    """Whether a prepared folder was made from other content than ``params`` tell of; False where nothing is prepared."""
    path = Path(folder) / "source.json"
    return path.is_file() and read_json(path, ("source",))["source"] != json.loads(params)["source"]


def require_same_source(folder: str | Path, base: str, root: str, params: str) -> None:
    """Refuse to prepare other images, from another place, over those that a results folder has runs of.

    Images that changed where they are, or that moved, are the same data set: Snakemake prepares again what changed.

    Raises:
        PelError: both differ; the message says how to keep the two apart.
    """
    path = Path(folder) / "source.json"
    if not path.is_file():
        return
    was = read_json(path, ("root", "source"))
    if was["root"] != root and was["source"] != json.loads(params)["source"]:
        raise PelError(
            f"data set '{base}': {folder} was prepared from {was['root']}, and {root} holds other images; choose another "
            "results folder for them (make study RESULTS=FOLDER, or --config results=FOLDER), "
            f"or delete {folder} to make everything again from the new ones"
        )
