"""How classes are called: the data set's own names as they are, or as a configuration's ``naming:`` wants them.

Names start the head (text initialisation), so that they are part of a data set's content. What is not asked for changes
nothing: the default is the reference's behaviour, in which prompts replace underscores only. Torch-free.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.paths import user_path
from pel_core.data.class_name_files import read_class_names

# Two pairs of ImageNet's 1,000 classes share a name in the usual list; of each, the second word of WordNet's synset.
DISTINCT = {"n04008634": "projectile", "n04355933": "sunglass"}
KEYS = ("file", "clean", "distinct", "by_folder")


@dataclass(frozen=True)
class Naming:
    """Options for the names of one data set.

    ``file``: names of one's own: a text file, line i for label i, or .json, {name: other name}. ``clean``: characters that
    become spaces (prompts replace ``_`` anyway). ``distinct``: tell ImageNet's two pairs of equal names apart.
    ``by_folder``: class i is called as the folder that its images lie in, which the published names of Places-LT get wrong
    for five classes.
    """

    file: str = ""
    clean: str = ""
    distinct: bool = False
    by_folder: bool = False


def naming_of(config: Mapping[str, Any] | None, base: str) -> Naming:
    """The options that a configuration gives for a data set.

    Raises:
        PelError: an unknown option.
    """
    options = ((config or {}).get("naming") or {}).get(base) or {}
    for key in options:
        if key not in KEYS:
            raise unknown(f"option of naming: {base}:", key, KEYS)
    return Naming(**options)


def located(config: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The configuration with the files of ``naming`` found relative to the configuration file at ``path``."""
    for options in (config.get("naming") or {}).values():
        if isinstance(options, dict) and options.get("file"):
            options["file"] = str(Path(path).parent / user_path(options["file"]))
    return config


def renamed(
    base: str, names: Sequence[str], options: Naming, ids: Sequence[str] | None = None, folders: Sequence[str] | None = None
) -> list[str]:
    """Class names (C,) as the options want them.

    Args:
        base: the data set's name, for messages.
        names: the data set's own names, label order.
        options: what is wanted.
        ids: an identifier for each name (WordNet's, or Places' folder), where the names file has them.
        folders: the folder of each class's training images.

    Raises:
        PelError: an option that this data set has no use for, or a names file that does not fit.
    """
    names = list(names)
    if options.by_folder:
        if ids is None or folders is None or sorted(ids) != sorted(folders):
            raise PelError(f"naming: {base}: by_folder needs a names file of `folder name` lines for the folders in the lists")
        by_id = dict(zip(ids, names, strict=True))
        ids, names = folders, [by_id[folder] for folder in folders]
    if options.distinct:
        if ids is None or not set(DISTINCT) & set(ids):
            raise PelError(f"naming: {base}: distinct knows ImageNet's names only; give names of your own with 'file'")
        names = [DISTINCT.get(key, name) for key, name in zip(ids, names, strict=True)]
    if options.file:
        names = _own(base, names, options.file)
    for character in options.clean:
        names = [" ".join(name.replace(character, " ").split()) for name in names]
    if empty := [i for i, name in enumerate(names) if not name]:
        raise PelError(f"naming: {base}: nothing is left of the name of class {empty[0]}")
    return names


def _own(base: str, names: list[str], file: str) -> list[str]:
    if not file.endswith(".json"):
        own = read_class_names(file)
        if len(own) != len(names):
            raise PelError(f"naming: {base}: {file} holds {len(own)} names, expected {len(names)}, line i for label i")
        return own
    try:
        other = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PelError(f"naming: {base}: {file} cannot be read as JSON ({error})") from None
    if not isinstance(other, dict) or not all(isinstance(value, str) and value.strip() for value in other.values()):
        raise PelError(f"naming: {base}: {file} is not a mapping of name to other name")
    for name in other:
        if name not in names:
            raise unknown(f"class in {file}:", name, names[:20], f"(of {len(names)} classes of {base})")
    return [other.get(name, name) for name in names]
