"""A study's declarations on a configuration's bindings -> artefacts with their cells, and why others are left out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.data.datasets import split_name
from pel_core.ingest.entries import declared
from pel_core.models.backbones import backbone_name
from pel_core.models.prompts import DESCRIBED, TEXTS
from pel_core.spec.values import value_path
from pel_core.studies.bindings import Bindings, UnboundRole
from pel_core.studies.cells import Artefact, Claim, Contrast, Selection
from pel_core.studies.config import shown
from pel_core.studies.factor_claims import factor_contrast
from pel_core.studies.factorial import design_artefacts, images_of
from pel_core.studies.kinds import FIGURES, TABLES
from pel_core.studies.layout import check_method, expand, grid, make_contrast, spread
from pel_core.studies.variance import variance_artefact

DESIGN, VARIANCE = "factorial", "variance"  # sections of a study


def make_bindings(content: Mapping[str, Any], values: Mapping[str, Any], path: Path) -> Bindings:
    """What a configuration brings to a study.

    Raises:
        PelError: an unknown data set or backbone, or a role that is a slip of one of the study's.
    """
    where = shown(path)
    entries = {role: {"dataset": entry} if isinstance(entry, str) else entry for role, entry in values["data"].items()}
    unbound = [role for role in content["roles"] if role not in entries]
    for role in entries:
        # A config may serve studies with other roles; a near miss of a role of this one is a slip.
        if role not in content["roles"] and get_close_matches(role, unbound, n=1):
            raise PelError(f"{where}: data: {unknown('role', role, content['roles'])}")
    try:
        datasets = declared(values)
        for role, entry in entries.items():
            if entry["dataset"] not in datasets:
                raise unknown("data set", entry["dataset"], datasets, f"(data: {role}; without -irRATIO)")
        backbone = backbone_name(values["backbone"])
    except PelError as error:
        raise PelError(f"{where}: {error}") from None
    titles = {role: entries.get(role, {}).get("title", title) for role, title in content["roles"].items()}
    data = {role: entry["dataset"] for role, entry in entries.items()}
    tune = content.get("tune") or None
    return Bindings(titles, data, datasets, backbone, tuple(values["seeds"]), values.get("recipe", {}), tune)


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
            entry, wordless = _with_texts(entry, values)
            for artefact in _made(section, name, entry, bindings):
                if isinstance(artefact, tuple):
                    left_out.update([artefact])
                elif artefact.name in made:
                    raise PelError(f"there are two artefacts of the name {artefact.name}")
                else:
                    made[artefact.name] = replace(artefact, banner=banner)
            left_out |= {f"{label} of {name}": reason for label, reason in wordless.items()}
        except UnboundRole as reason:
            left_out[name] = str(reason)
        except PelError as error:
            raise PelError(f"{shown(path)}: {section}.{name}: {error}") from None
    if content.get("reported") and (compared := [artefact for artefact in made.values() if artefact.how.compared]):
        made["compare"] = replace(_comparison(content, values, compared), banner=banner)
    if claims := _claims(content, bindings, path):
        # A study beside the report's has a file of its own, so that both may share a results folder.
        name = "claims" if content.get("reported") else f"{path.stem}-claims"
        verdicts = _verdicts(name, content, values, claims)
        if verdicts.cells:
            made[name] = replace(verdicts, banner=banner)
        else:
            left_out[name] = "the configuration binds no data set to their roles"
    return made, left_out


def _with_texts(entry: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, str]]:
    """A declaration without the swept prompts that a configuration without `descriptions`, or without `texts`, of any data set
    has no words for, as an artefact is left out whose role is not bound; and their labels with the reason."""
    gone: dict[str, str] = {}

    def there(prompt: Any, label: str) -> bool:
        key = str(prompt).partition(":")[0]
        if key not in (DESCRIBED, TEXTS) or values.get(key):
            return True
        gone[label] = f"the config has no `{key}`"
        return False

    def kept(each: Any) -> Any:
        if not isinstance(each, Mapping) or each.get("sweep") != "prompt":
            return each
        return {
            **each,
            "values": [value for value in each["values"] if there(value, str(each.get("label", "{}")).replace("{}", value))],
        }

    return {key: [kept(each) for each in value] if isinstance(value, list) else value for key, value in entry.items()}, gone


def _made(section: str, name: str, entry: Mapping[str, Any], bindings: Bindings) -> Iterable[Artefact | tuple[str, str]]:
    """The artefacts of a declaration; a name and a reason in place of one that cannot be made."""
    if section == DESIGN:
        return design_artefacts(name, entry, bindings)
    return [variance_artefact(name, entry, bindings) if section == VARIANCE else _artefact(name, entry, bindings)]


def _comparison(content: Mapping[str, Any], values: Mapping[str, Any], compared: Iterable[Artefact]) -> Artefact:
    """Every cell of some artefacts beside its reported value."""
    cells = tuple(cell for artefact in compared for cell in artefact.cells)
    declaration = {"reported": content["reported"], "comparable": values.get("comparable", True)}
    declaration["of"] = {artefact.name: len(artefact.cells) for artefact in compared}
    return Artefact("compare", TABLES.entry("compare"), "Measured beside reported", declaration, cells)


def _verdicts(name: str, content: Mapping[str, Any], values: Mapping[str, Any], claims: tuple[Claim, ...]) -> Artefact:
    """The study's claims, tested."""
    pairs = [pair for claim in claims for contrast in claim.contrasts for pair in (*contrast.pairs, *contrast.minus)]
    declaration = {"claims": content["claims"], "reported": content.get("reported")}
    declaration["comparable"] = values.get("comparable", True)
    title = "The report's conclusions" if content.get("reported") else "Verdicts"
    cells = tuple(cell for pair in pairs for cell in pair)
    return Artefact(name, TABLES.entry("claims"), title, declaration, cells, claims=claims)


def _declared(content: Mapping[str, Any], bindings: Bindings, each: str) -> Iterator[tuple[str, str, Mapping[str, Any], bool]]:
    """Section, name and declaration of every table, figure and design, and whether it is one too many.

    An entry's ``each`` gives one for each of its data sets; where the configuration says ``first``, all after the first that
    it binds are too many.
    """
    for section in ("tables", "figures", DESIGN, VARIANCE):
        for name, entry in content.get(section, {}).items():
            rest, bound = {key: value for key, value in entry.items() if key != "each"}, 0
            for text in entry.get("each", []):
                title = entry["title"].replace("{data}", bindings.words(text))
                made = {**rest, "title": title, "where": {**entry.get("where", {}), "dataset": text}}
                yield section, f"{name}-{text}", made, each == "first" and bound > 0
                bound += split_name(text)[0] in bindings.data
            if "each" not in entry:
                yield section, name, entry, False


def _artefact(name: str, declaration: Mapping[str, Any], bindings: Bindings) -> Artefact:
    entry = FIGURES.entry(declaration["kind"]) if "kind" in declaration else TABLES.entry("table")
    kind = entry.value
    lists = {key: spread(bindings, expand(declaration[key])) for key in (kind.rows, kind.columns) if key in declaration}
    declaration = {**declaration, **lists}
    rows, columns = declaration[kind.rows], declaration.get(kind.columns, [{}])
    if not rows or not columns:
        raise PelError(f"{kind.columns if rows else kind.rows} holds no value at this configuration's size")
    where = declaration.get("where", {})
    _check_names(where, rows, columns, declaration.get("info", []))
    if kind.places:
        _require_places(rows)
    kind.check(declaration)
    seeds = tuple(declaration.get("seeds", bindings.seeds))
    if "tune" in declaration:
        where = {"tune": declaration["tune"], **where}
    if kind.from_models:  # of one seed, and no value of theirs is shown
        bindings = replace(bindings, tune=None)
        if any(selection.get("tune") for selection in (where, *rows, *columns)):
            raise PelError(f"tune: a figure of kind {declaration['kind']} is drawn from models, and shows no result to choose by")
        cells = grid(bindings, seeds[:1], {"value": "overall", **where}, rows, columns)
    else:
        cells = grid(bindings, seeds, {**({"value": kind.value} if kind.value else {}), **where}, rows, columns)
    return Artefact(name, entry, bindings.title(declaration["title"]), declaration, cells, seeds=seeds)


def _check_names(where: Selection, rows: list[Selection], columns: list[Selection], info: Iterable[Any]) -> None:
    """Refuse unknown methods and values even where the artefact is left out."""
    for selection in (where, *rows, *columns):
        if "method" in selection:
            check_method(selection["method"])
        if "value" in selection:
            value_path(selection["value"])
    for item in info:
        if isinstance(item, dict):
            value_path(item["value"])


def _require_places(rows: Iterable[Selection]) -> None:
    for row in rows:
        if "at" not in row:
            raise PelError(f"point {row['label']}: a value that is no number needs a place: {{at: NUMBER, ...}}")


def _claims(content: Mapping[str, Any], bindings: Bindings, path: Path) -> tuple[Claim, ...]:
    claims, designs = [], {name: made for section, name, made, _ in _declared(content, bindings, "all") if section == DESIGN}
    for name, entry in content.get("claims", {}).items():
        seeds = tuple(entry.get("seeds", bindings.seeds))
        try:
            contrasts = tuple(
                factor_contrast(bindings, seeds, part, designs) if DESIGN in part else make_contrast(bindings, seeds, part)
                for part in entry["parts"]
            )
            _require_same_images(contrasts)
        except PelError as error:
            raise PelError(f"{shown(path)}: claims.{name}: {error}") from None
        claims.append(Claim(name, entry["statement"], entry.get("source", ""), contrasts))
    return tuple(claims)


def _require_same_images(contrasts: Iterable[Contrast]) -> None:
    """Refuse a pair that could not be compared image by image, before it is trained."""
    for part in contrasts:
        for a, b in (*part.pairs, *part.minus):
            if value_path(part.value).startswith("metrics.") and images_of(a) != images_of(b):
                raise PelError("a and b are on different test images; compare on each data set, and take one off by `minus`")
