"""Files of class names, read strictly: text, one a line, and iNaturalist's categories.json."""

import json
import re
from pathlib import Path

import numpy as np

from pel_core.common.errors import PelError
from pel_core.data.lists import read_lines

WNID = re.compile(r"n\d{8}\b")
NAME_FORMATS = ("auto", "name", "id name")


def read_class_names(path: str | Path, names_format: str = "auto") -> list[str]:
    """Class names, line i for label i, of a text file.

    ``names_format``: "name" (the line is the name), "id name" (the first token is an identifier), or "auto": "id name" where
    every line starts with a WordNet id such as n01440764, else "name".

    Raises:
        PelError: naming file and line: an empty line, or a line without a name after its identifier.
    """
    return [name for _, name in read_identified_names(path, names_format)]


def read_identified_names(path: str | Path, names_format: str = "auto") -> list[tuple[str | None, str]]:
    """As `read_class_names`, each name with the identifier before it, or None where there is none."""
    if names_format not in NAME_FORMATS:
        raise PelError(f"names_format {names_format!r} is unknown; known: {', '.join(NAME_FORMATS)}")
    lines = read_lines(path, "class-names file")
    ids = names_format == "id name" or (names_format == "auto" and all(WNID.match(line) for line in lines))
    expected = "an identifier and a class name" if ids else "a class name"
    names: list[tuple[str | None, str]] = []
    for number, line in enumerate(lines, 1):
        parts = line.split(None, 1) if ids else [line.strip()]
        name = parts[-1].strip() if len(parts) == (2 if ids else 1) else ""
        if not name:
            raise PelError(f"{path}:{number}: found {line!r}, expected {expected}")
        names.append((parts[0] if ids else None, name))
    return names


def read_categories(path: str | Path) -> tuple[list[str], np.ndarray]:
    """iNaturalist's categories.json: names in alphabetical order, and the label of each category id.

    Returns:
        (C names sorted, int64 (C,) new label of category id i).

    Raises:
        PelError: the file is missing or is not a list of {"id": 0..C-1 once each, "name": text}.
    """
    try:
        records = json.loads("\n".join(read_lines(path, "categories file")))
        by_id = {int(record["id"]): str(record["name"]) for record in records}
    except (ValueError, TypeError, KeyError):
        raise PelError(f'{path} is not a list of {{"id": number, "name": text}} records') from None
    if sorted(by_id) != list(range(len(records))):
        raise PelError(f"{path}: expected category ids 0 to {len(records) - 1}, each once")
    order = sorted(by_id, key=lambda i: (by_id[i], i))
    labels = np.empty(len(order), np.int64)
    labels[order] = np.arange(len(order))
    return [by_id[i] for i in order], labels
