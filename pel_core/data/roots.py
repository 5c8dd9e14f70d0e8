"""Where the image files of a prepared data set lie: as the user said it, and found again after a move.

A prepared data set of image files has a ``root.json`` beside its ``data.json``: where the images were when it was prepared.
Snakemake's jobs are told where they are now by the environment variable PEL_ROOTS, so that moving them makes nothing again.
Torch-free.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from string import Template

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.common.paths import expand_user


def expand_root(root: str) -> str:
    """A folder as the user gave it, with environment variables and ``~`` filled in.

    What a variable holds is taken as it is, but for a ``~`` that it begins with: PEL_DATA may be ``~/a$b``. A path in full that
    is there is taken as it is too.

    Raises:
        PelError: a variable that is not set, or a path that is there with and without its variables filled in.
    """
    try:
        filled = expand_user(Template(root).substitute(os.environ))
    except (KeyError, ValueError):
        filled = ""
    literal = expand_user(root)
    if filled != literal and os.path.isabs(literal) and os.path.exists(literal):
        if filled and os.path.exists(filled):
            raise PelError(f"folder '{root}' may be {literal} or {filled}, and both are there; rename one, or name a link to it")
        filled = literal
    if not filled:
        raise PelError(f"folder '{root}' names an environment variable that is not set")
    return filled.rstrip("/") or "/"


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
