"""Text sets: what a class-text feature is made of, from a configuration's ``texts`` or a prompt's templates. Torch-free.

A text set has templates (of its own, or those of a prompt) and perhaps class names as they are to be spoken, or else sentences
for each class. Its digest is of their content, so that other texts under the same name are noticed. C classes.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.fingerprints import canonical, fingerprint
from pel_core.models.prompts import DESCRIBED, PROMPTS, TEXTS, check_templates, prompt_parts, spoken, templates

KEYS = ("templates", "prompt", "descriptions", "names", "source")
FIRST = ("default", "classname", "ensemble", DESCRIBED)  # whose text features have had no digest since before text sets


@dataclass(frozen=True)
class TextSet:
    """The texts of one data set's classes. Exactly one of ``templates``, ``prompt`` and ``descriptions`` (a file) is there;
    ``names`` is a file of class names as they are spoken, ``source`` says where the texts are from."""

    base: str
    templates: tuple[str, ...] = ()
    prompt: str = ""
    descriptions: str = ""
    names: str = ""
    source: str = ""

    @property
    def files(self) -> list[str]:
        """The files that it reads."""
        return [file for file in (self.descriptions, self.names) if file]

    def digest(self) -> str:
        """SHA-256 of what is said, wherever its files lie."""
        entry = PROMPTS.get(self.prompt)
        lines = self.templates or (entry.by_dataset.get(self.base, entry.templates) if entry else ())
        content = {"templates": list(lines), "prompt": self.prompt if entry and not lines else ""}
        content |= {"descriptions": self.descriptions and fingerprint(self.descriptions)}
        return hashlib.sha256(canonical(content | {"names": self.names and fingerprint(self.names)}).encode()).hexdigest()

    def sentences(self, class_names: Sequence[str]) -> list[list[str]]:
        """The sentences of each class (C lists).

        Raises:
            PelError: a file that does not fit the classes.
        """
        if self.descriptions:
            return read_descriptions(self.descriptions, class_names)
        names = read_names(self.names, class_names) if self.names else spoken(class_names)
        lines = self.templates or templates(self.prompt, self.base)
        return [[line.format(name) for line in lines] for name in names]


def text_set(prompt: str, base: str, given: Mapping[str, Any] | None = None) -> TextSet | None:
    """The text set of a prompt for a data set; None of the first four prompts, whose features are made as they always were.

    Args:
        given: of ``texts:NAME``: what the configuration says of it, files with their folders.

    Raises:
        PelError: an unknown prompt, a text set that nobody gave or that contradicts itself, a data set without templates.
    """
    kind, _ = prompt_parts(prompt)
    if kind == TEXTS:
        if given is None:
            raise PelError(f"prompt={prompt}: no text set is given; a configuration has them under `texts`, by hand: --texts")
        return make_text_set(f"{prompt} of {base}", base, given)
    if kind in FIRST:
        return None
    templates(prompt, base)  # which says what is lacking
    return TextSet(base, prompt=kind, source=PROMPTS[kind].source)


def written(
    class_names: Sequence[str], prompt: str, descriptions: str | Path | None, texts: TextSet | None
) -> list[list[str]] | None:
    """The sentences of each class (C lists) of a text set or a file of descriptions; None where the prompt has templates alone.

    Raises:
        PelError: a file that does not fit the classes.
    """
    if texts:
        return texts.sentences(class_names)
    return read_descriptions(descriptions, class_names) if prompt == DESCRIBED else None


def make_text_set(where: str, base: str, given: Mapping[str, Any]) -> TextSet:
    """A text set as a configuration or ``--texts`` says it.

    Raises:
        PelError: unknown or contradicting keys, templates that are none; ``where`` is what the message begins with.
    """
    given = {key: value for key, value in given.items() if value}
    if strange := next((key for key in given if key not in KEYS), ""):
        raise unknown(f"key of {where}:", strange, KEYS)
    if len(told := [key for key in KEYS[:3] if key in given]) > 1:
        raise PelError(f"{where}: {' and '.join(told)} exclude each other; give each a text set of its own")
    if not told and "names" not in given:
        raise PelError(f"{where}: says no text; expected templates, prompt, descriptions or names")
    if "descriptions" in given and "names" in given:
        raise PelError(f"{where}: names have no effect beside descriptions, which are found by the data set's own class names")
    lines = given.get("templates", ())
    if isinstance(lines, str):
        lines = read_templates(lines)
    check_templates(lines, where)
    prompt = "" if told and told[0] != "prompt" else given.get("prompt", "default")
    if prompt and (":" in prompt or prompt_parts(prompt)[0] == DESCRIBED):
        raise PelError(f"{where}: prompt: {prompt}: expected a prompt of templates: {', '.join(_with_templates())}")
    if prompt and not PROMPTS[prompt].load:
        templates(prompt, base)
    files = {key: given.get(key, "") for key in ("descriptions", "names", "source")}
    return TextSet(base, tuple(lines), prompt, **files)


def text_set_of(text: str) -> dict[str, Any] | None:
    """What the option --texts says; None of an empty one.

    Raises:
        PelError: it is no JSON mapping.
    """
    try:
        held = json.loads(text) if text else {}
    except ValueError as error:
        raise PelError(f"--texts={text}: not valid JSON ({error})") from None
    if not isinstance(held, dict):
        raise PelError(f"--texts={text}: expected a mapping of {', '.join(KEYS)}")
    return held or None


def _with_templates() -> list[str]:
    return [name for name, prompt in PROMPTS.items() if prompt.templates or prompt.by_dataset or prompt.load]


def read_templates(path: str | Path) -> list[str]:
    """The templates of a text file, one a line; empty lines and those that begin with # are left out.

    Raises:
        PelError: it cannot be read, holds none, or a line is no template.
    """
    lines = [line.strip() for line in _text(path).splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise PelError(f"{path}: holds no template; expected sentences with {{}} in the place of the class name, one a line")
    return check_templates(found, str(path))


def read_descriptions(path: str | Path | None, class_names: Sequence[str]) -> list[list[str]]:
    """The sentences of each class from a JSON file, ``{class name: [sentence, ...]}``; it may hold other classes too.

    Raises:
        PelError: no file is given or it is not of that form, a class is there twice, or a class has no sentence.
    """
    if path is None:
        raise PelError("prompt=descriptions needs a JSON file {class name: [sentences]}: name it with --descriptions FILE")
    held = _read_json(path, "{class name: [sentences]}")
    for name in class_names:
        found = held.get(name)
        if found is None:
            raise unknown("class", name, held, f"(in {path}, which has to describe all {len(class_names)} classes)")
        if not isinstance(found, list) or not found or not all(isinstance(each, str) and each.strip() for each in found):
            raise PelError(f"{path}: class '{name}' has {str(found)[:60]!r}, expected a list of sentences")
    return [held[name] for name in class_names]


def read_names(path: str | Path, class_names: Sequence[str]) -> list[str]:
    """How each class is spoken (C,), from a JSON file ``{class name: spoken name}`` or a CSV file of ``class,name`` lines.

    Raises:
        PelError: it is not of that form, a class is there twice or not at all, or it names one that the data set does not have.
    """
    held = _read_json(path, "{class name: spoken name}") if Path(path).suffix.lower() == ".json" else _read_csv(path)
    known = set(class_names)
    for name, other in held.items():
        if not isinstance(other, str) or not other.strip():
            raise PelError(f"{path}: class '{name}' has {other!r}, expected the name as it is spoken")
        if name not in known:
            raise unknown(f"class in {path}:", name, class_names[:20], f"(of {len(class_names)} classes)")
    if absent := [name for name in class_names if name not in held]:
        few = ", ".join(absent[:3]) + ", ..." * (len(absent) > 3)
        raise PelError(f"{path} leaves out {len(absent)} of {len(class_names)} classes: {few}; name each as it is to be spoken")
    return [held[name].strip() for name in class_names]


def _read_csv(path: str | Path) -> dict[str, str]:
    rows = [row for row in csv.reader(io.StringIO(_text(path))) if row]
    if not rows or [cell.strip() for cell in rows[0]] != ["class", "name"]:
        raise PelError(f"{path}: begins with {rows[0] if rows else 'nothing'}, expected the header class,name (or a .json file)")
    if bad := next((row for row in rows if len(row) != 2), None):
        raise PelError(f"{path}: the line {bad} has {len(bad)} cells, expected 2: class,name (a name with a comma in quotes)")
    return _once(path, [(row[0], row[1]) for row in rows[1:]])


def _read_json(path: str | Path, expected: str) -> dict[str, Any]:
    text = _text(path)
    try:
        held = json.loads(text, object_pairs_hook=lambda pairs: _once(path, pairs))
    except ValueError as error:
        raise PelError(f"{path} cannot be read as JSON ({error})") from None
    if not isinstance(held, dict):
        raise PelError(f"{path} holds a {type(held).__name__}, expected {expected}")
    return held


def _once(path: str | Path, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise PelError(f"{path}: '{twice}' is there twice, and nothing says which is meant")
    return held


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PelError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise PelError(f"{path} cannot be read ({error})") from None
