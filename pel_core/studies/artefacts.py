"""A study's declarations on a configuration's bindings -> artefacts with their cells, and why others are left out."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.data.datasets import split_name
from pel_core.ingest.entries import declared
from pel_core.models.backbones import BACKBONES
from pel_core.spec.results import value_path
from pel_core.studies.cells import Artefact, Bindings, Claim, Selection, UnboundRole, check_method, expand, grid, make_contrast
from pel_core.studies.config import shown

# Which keys of a declaration hold its two lists of selections.
LISTS = {"table": ("rows", "columns"), "bars": ("bars", "series"), "curve": ("points", "series"), "map": ("methods", "")}


def make_bindings(content: Mapping[str, Any], values: Mapping[str, Any], path: Path) -> Bindings:
    """What a configuration brings to a study.

    Raises:
        PelError: an unknown data set or backbone, or a role that is a slip of one of the study's.
    """
    where = shown(path)
    entries = {role: {"dataset": entry} if isinstance(entry, str) else entry for role, entry in values["data"].items()}
    unplayed = [role for role in content["roles"] if role not in entries]
    for role in entries:
        # A config may serve studies with other roles; a near miss of a role of this one is a slip.
        if role not in content["roles"] and get_close_matches(role, unplayed, n=1):
            raise PelError(f"{where}: data: {unknown('role', role, content['roles'])}")
    try:
        datasets = declared(values)
        for role, entry in entries.items():
            if entry["dataset"] not in datasets:
                raise unknown("data set", entry["dataset"], datasets, f"(data: {role}; without -irRATIO)")
        if values["backbone"] not in BACKBONES:
            raise unknown("backbone", values["backbone"], BACKBONES)
    except PelError as error:
        raise PelError(f"{where}: {error}") from None
    titles = {role: entries.get(role, {}).get("title", title) for role, title in content["roles"].items()}
    data = {role: entry["dataset"] for role, entry in entries.items()}
    return Bindings(titles, data, datasets, values["backbone"], tuple(values["seeds"]), values.get("recipe", {}))


def make_artefacts(
    content: Mapping[str, Any], values: Mapping[str, Any], bindings: Bindings, path: Path
) -> tuple[dict[str, Artefact], dict[str, str]]:
    """The artefacts that the configuration covers, by name, and why it leaves others out.

    Raises:
        PelError: a declaration that is not possible; the message says which.
    """
    banner = (values.get("mark", ""), values.get("notice", ""))
    made: dict[str, Artefact] = {}
    left_out: dict[str, str] = {}
    for section, name, entry, surplus in _declared(content, bindings, values.get("each", "all")):
        try:
            if name in made or name in left_out:
                raise PelError("there are two artefacts of this name")
            if surplus:
                left_out[name] = "the config takes the first data set alone (each: first)"
                continue
            made[name] = replace(_artefact(name, entry, bindings), banner=banner)
        except UnboundRole as reason:
            left_out[name] = str(reason)
        except PelError as error:
            raise PelError(f"{shown(path)}: {section}.{name}: {error}") from None
    comparable = values.get("comparable", True)
    numbers = {name: artefact for name, artefact in made.items() if artefact.kind in ("table", "bars")}
    if content.get("reported") and numbers:
        cells = tuple(cell for artefact in numbers.values() for cell in artefact.cells)
        declaration = {"reported": content["reported"], "comparable": comparable}
        declaration["of"] = {name: len(artefact.cells) for name, artefact in numbers.items()}
        made["compare"] = Artefact("compare", "compare", "Measured beside reported", declaration, cells, banner)
    if claims := _claims(content, bindings, path):
        # A study beside the report's has a file of its own, so that both may share a results folder.
        name = "claims" if content.get("reported") else f"{path.stem}-claims"
        title = "The report's conclusions" if content.get("reported") else "Verdicts"
        cells = tuple(cell for claim in claims for part in claim.parts for pair in (*part.pairs, *part.minus) for cell in pair)
        if cells:
            declaration = {"claims": content["claims"], "reported": content.get("reported"), "comparable": comparable}
            made[name] = Artefact(name, "claims", title, declaration, cells, banner, claims)
        else:
            left_out[name] = "the config plays none of their roles"
    return made, left_out


def _declared(content: Mapping[str, Any], bindings: Bindings, each: str) -> Iterator[tuple[str, str, Mapping[str, Any], bool]]:
    """Section, name and declaration of every table and figure, and whether it is one too many.

    An entry's ``each`` gives one for each of its data sets; where the configuration says ``first``, all after the first that
    it plays are too many.
    """
    for section in ("tables", "figures"):
        for name, entry in content.get(section, {}).items():
            rest, played = {key: value for key, value in entry.items() if key != "each"}, 0
            for text in entry.get("each", []):
                title = entry["title"].replace("{data}", bindings.words(text))
                made = {**rest, "title": title, "where": {**entry.get("where", {}), "dataset": text}}
                yield section, f"{name}-{text}", made, each == "first" and played > 0
                played += split_name(text)[0] in bindings.data
            if "each" not in entry:
                yield section, name, entry, False


def _artefact(name: str, entry: Mapping[str, Any], bindings: Bindings) -> Artefact:
    kind = entry.get("kind", "table")
    first, second = LISTS[kind]
    entry = {**entry, **{key: expand(entry[key]) for key in (first, second) if key in entry}}
    rows, columns = entry[first], entry.get(second, [{}])
    if not rows or not columns:
        raise PelError(f"{second if rows else first} holds no value at this configuration's size")
    for selection in (entry.get("where", {}), *rows, *columns):
        if "method" in selection:
            check_method(selection["method"])
        if "value" in selection:
            value_path(selection["value"])
    for info in entry.get("info", []):
        if isinstance(info, dict):
            value_path(info["value"])
    if kind == "curve":
        _check_points(rows, entry.get("log", False))
    where = {"value": "overall", **entry.get("where", {})} if kind == "map" else entry.get("where", {})
    seeds = tuple(entry.get("seeds", bindings.seeds))
    cells = grid(bindings, seeds[:1] if kind == "map" else seeds, where, rows, columns)
    return Artefact(name, kind, bindings.title(entry["title"]), entry, cells, seeds=seeds)


def _check_points(points: list[Selection], log: bool) -> None:
    for point in points:
        if "at" not in point:
            raise PelError(f"point {point['label']}: a value that is no number needs a place: {{at: NUMBER, ...}}")
        if log and point["at"] <= 0:
            raise PelError(f"point {point['at']}: a logarithmic axis has no place for it")


def _claims(content: Mapping[str, Any], bindings: Bindings, path: Path) -> tuple[Claim, ...]:
    claims = []
    for name, entry in content.get("claims", {}).items():
        seeds = tuple(entry.get("seeds", bindings.seeds))
        try:
            parts = tuple(make_contrast(bindings, seeds, part) for part in entry["parts"])
        except PelError as error:
            raise PelError(f"{shown(path)}: claims.{name}: {error}") from None
        claims.append(Claim(name, entry["statement"], entry.get("source", ""), parts))
    return tuple(claims)
