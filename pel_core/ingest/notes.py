"""What preparing a data set has to tell a person: kept beside the prepared data, so that it is told wherever results are shown.

A prepared folder has a ``notes.json``, a list of sentences, beside its ``data.json``. Torch-free.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from pel_core.common.files import read_json, write_json
from pel_core.data.datasets import split_name

FILE = "notes.json"
MARK = "note: "  # starts the lines of a source's account that are notes


def write_notes(folder: str | Path, lines: Iterable[str]) -> None:
    """Keep the notes among the lines that a source tells of its content."""
    write_json(Path(folder) / FILE, {"notes": [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]})


def read_notes(folder: str | Path) -> list[str]:
    """The notes on a prepared data set; none where it is not prepared, or was by a version that kept none."""
    path = Path(folder) / FILE
    if not path.is_file() or not path.with_name("data.json").is_file():
        return []
    return read_json(path, ("notes",))["notes"]


def data_notes(results: str | Path, datasets: Iterable[str]) -> dict[str, list[str]]:
    """The notes on the prepared data sets of a results folder by name: of those among ``datasets`` (with or without -irN)
    that have any, in their order."""
    bases = dict.fromkeys(split_name(name)[0] for name in datasets)
    notes = {base: read_notes(Path(results) / "data" / base) for base in bases}
    return {base: found for base, found in notes.items() if found}


def without_place(notes: Iterable[str], results: str | Path, base: str) -> list[str]:
    """Notes for a page that others read: without where the images lie on this machine, but for the last folder's name."""
    path = Path(results) / "data" / base / "root.json"
    root = str(read_json(path).get("was", "")).rstrip("/") if path.is_file() else ""
    if not root:
        return list(notes)
    return [note.replace(f"{root}/", "").replace(root, Path(root).name) for note in notes]


def text_notes(path: str | Path) -> list[str]:
    """What class-text features had to tell, which their file keeps; none where they are not made, or cannot be read."""
    try:
        with safe_open(path, "numpy") as file:
            return json.loads((file.metadata() or {}).get("notes", "[]"))
    except (OSError, SafetensorError):
        return []  # whoever reads the features says what is wrong with them


def notes_lines(notes: dict[str, Sequence[str]]) -> list[str]:
    """All of them for a screen, a line each."""
    told = {f"Notes on the data set {base}:": [f"  - {note}" for note in found] for base, found in notes.items()}
    return [line for title, lines in told.items() for line in (title, *lines)]


def notes_footnote(notes: dict[str, Sequence[str]]) -> list[str]:
    """One line for under a table: how many there are, and where to read them; nothing where there are none."""
    told = "; ".join(f"{len(found)} on {base} (data/{base}/{FILE})" for base, found in notes.items())
    return [f"Notes on the data, in the results folder: {told}."] if told else []
