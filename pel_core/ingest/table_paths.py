"""Paths as people write them into tables: with spaces around them, with Windows' backslashes, in full. Torch-free.

Only what is unlike a plain relative path is looked for on disk; nothing is guessed silently.
"""

import os
import re

from pel_core.common.errors import PelError
from pel_core.ingest.catalogue import check_path

WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # how a path in full starts there


class TablePaths:
    """Paths of a table, relative to the folder ``root``."""

    def __init__(self, root: str):
        self.root, self.real_root = root, os.path.realpath(root)
        self.turned: list[str] = []  # read with slashes for backslashes

    def read(self, where: str, text: str) -> str:
        """The path relative to the root.

        White space around it and backslashes are taken as they stand where such a file exists; else white space is left out,
        and backslashes are slashes where that file exists.

        Raises:
            PelError: two of these files exist, or the path does not lie below the root.
        """
        check_path(text.strip())
        if text and not text[0].isspace() and not text[-1].isspace() and "\\" not in text:
            return self._inside(where, text, text)
        bare = text.strip()
        ways = dict.fromkeys((text, bare, bare.replace("\\", "/")))
        there = [way for way in ways if way.strip() and os.path.lexists(os.path.join(self.root, way))]
        if len(there) > 1:
            raise PelError(f"{where}: path {text!r} may be {' or '.join(map(repr, there))}, which are both there; rename one")
        chosen = there[0] if there else bare
        check_path(chosen)
        if "\\" in bare and "\\" not in chosen:
            self.turned.append(bare)
        return self._inside(where, chosen, text)

    def notes(self) -> list[str]:
        """What was read otherwise than it is written."""
        if not self.turned:
            return []
        return [f"{len(self.turned):,} paths have backslashes, which are read as slashes ({self.turned[0]!r})"]

    def _inside(self, where: str, name: str, text: str) -> str:
        if name and name[0] not in "/\\" and "./" not in name and "//" not in name and ".." not in name and name[1:2] != ":":
            return name.rstrip("/")  # nearly every one; the rest is for those with dots and slashes
        there = os.path.lexists(os.path.join(self.root, name))
        if os.path.isabs(name) or (WINDOWS.match(name) and not there):
            below = next((os.path.relpath(name, each) for each in (self.root, self.real_root) if name.startswith(f"{each}/")), "")
            if not below:
                raise PelError(f"{where}: path {text!r} is not below the image folder {self.root}; {self._elsewhere(name)}")
            name = below
        name = os.path.normpath(name) if name else ""
        if not name or name == "." or name.split("/")[0] == "..":
            raise PelError(f"{where}: path {text!r} is not below the image folder {self.root}; expected a path relative to it")
        return name

    def _elsewhere(self, name: str) -> str:
        """What to do about a path in full that lies elsewhere, by what is there."""
        parts = name.replace("\\", "/").split("/")
        ends = ("/".join(parts[i:]) for i in range(1, len(parts)))
        found = next((end for end in ends if end and os.path.isfile(os.path.join(self.root, end))), "")
        if found:
            before = name[: len(name) - len(found)]
            return f"{os.path.join(self.root, found)} is there: if that is meant, take {before!r} off the paths of the table"
        how = "by 'root' and the table by 'file' (datasets: in a configuration)"
        if os.path.isfile(name):
            return f"it exists: name the folder that holds all images {how}"
        return f"expected a path relative to it; where the images are elsewhere, name their folder {how}"
