"""Where the images and lists of a data set lie: as the user says it, checked with one wording, and found again after a move.

A prepared data set of image files has a ``root.json`` beside its ``data.json``: where the images were when it was prepared.
Snakemake's jobs are told where they are now by the environment variable PEL_ROOTS, so that moving them makes nothing again.
Torch-free.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.common.problems import Problems

SAID = "make study DATA=FOLDER, snakemake's --config root=FOLDER or the environment variable PEL_DATA"


def given_root(base: str, entry: Any, config: Mapping[str, Any]) -> str:
    """The image folder of ``lists`` and ``cifar``, as the user gave it; a variable in it stays a variable.

    A data set of the configuration says its own; a built-in one has it from ``roots: {BASE: FOLDER}``, else it lies in the
    folder that the environment variable PEL_DATA names, or in ./data.
    """
    if base in (config.get("datasets") or {}):
        return entry.root
    roots = config.get("roots") or {}
    return str(roots[base]) if base in roots else os.path.join("$PEL_DATA" if "PEL_DATA" in os.environ else "data", entry.root)


def expand_root(root: str) -> str:
    """A folder as the user gave it, with ``~`` and environment variables filled in; a variable that is not set is an error."""
    path = os.path.expandvars(os.path.expanduser(root))
    if "$" in path:
        raise PelError(f"folder '{root}' names an environment variable that is not set")
    return path.rstrip("/") or "/"


def list_names(entry: Any) -> list[str]:
    """The list files of an entry of kind ``lists``, as it names them: class names, training lists, test, val."""
    trains = [entry.train.replace("{ir}", f"{ratio:g}") for ratio in entry.ratios or (0.0,)]
    return [file for file in (entry.names, *trains, entry.test, entry.val) if file]


def find_root(base: str, entry: Any, config: Mapping[str, Any]) -> str:
    """The image folder, which exists.

    Raises:
        PelError: it does not; the message says how to name it.
    """
    try:
        root = expand_root(given_root(base, entry, config))
        if not os.path.isdir(root):
            what = "is a file, expected a folder" if os.path.exists(root) else "does not exist"
            raise PelError(f"image folder {root} {what}")
    except PelError as error:
        raise PelError(f"data set '{base}': {error}{_how_to_say(base, entry, config)}") from None
    return root


def lists_folder(base: str, entry: Any, config: Mapping[str, Any]) -> Path:
    """The folder of an entry's list files: the image folder or ``lists`` below it; ``lists: {BASE: FOLDER}`` says otherwise."""
    given = str((config.get("lists") or {}).get(base) or entry.lists)
    return Path(expand_root(given_root(base, entry, config)), expand_root(given) if given else "")


def find_lists(base: str, entry: Any, config: Mapping[str, Any], problems: Problems | None = None) -> dict[str, Path]:
    """The list files of an entry of kind ``lists``, which exist, by the name that the entry gives them.

    ``problems`` takes those that do not, which are left out; None stops at the first.

    Raises:
        PelError: the image folder or a list file does not exist.
    """
    find_root(base, entry, config)
    folder = lists_folder(base, entry, config)
    files = {name: folder / name for name in list_names(entry)}
    for name, path in list(files.items()):
        if path.is_file():
            continue
        what = "class-names file" if name == entry.names else "list file"
        text, hint = f"data set '{base}': {what} {path} does not exist", _how_to_say(base, entry, config).removeprefix("; ")
        if problems is None:
            raise PelError(f"{text}; {hint}")
        problems.add("missing list files", text, hint)
        del files[name]
    return files


def _how_to_say(base: str, entry: Any, config: Mapping[str, Any]) -> str:
    if base not in (config.get("datasets") or {}):
        where = f"name it by 'roots: {{{base}: FOLDER}}' in the configuration, or the folder that holds '{entry.root}'"
        fetch = f"`python -m pel_core data fetch {base}` gets what can be had, and says how to get the rest"
        return f"; {where} by {SAID}; {fetch}"
    where = f"say where the images are by 'root' of 'datasets: {base}' in the configuration"
    return f"; {where}" + (f", that is here by {SAID}" if "PEL_DATA" in entry.root else "")


def write_root(folder: str | Path, root: str) -> None:
    """Say where the images of a prepared data set are, as the user gave it."""
    write_json(Path(folder) / "root.json", {"root": root, "was": expand_root(root)})


def tell_roots(roots: Mapping[str, str]) -> None:
    """Tell the jobs that are started from here where the images of each data set are."""
    os.environ["PEL_ROOTS"] = json.dumps(roots)


def read_root(folder: str | Path, base: str) -> tuple[str, bool]:
    """The image folder of a prepared data set, variables filled in, and whether the images moved there since.

    Raises:
        PelError: it is not said, or names a variable that is not set.
    """
    stored = read_json(Path(folder) / "root.json")
    root = expand_root(json.loads(os.environ.get("PEL_ROOTS") or "{}").get(base, stored["root"]))
    return root, root != stored["was"]
