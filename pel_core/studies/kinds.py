"""FIGURES and TABLES: the kinds of artefact that are drawn from results. A kind is one file of `reporting`, which declares it.

FIGURES are what a study's ``figures`` may hold, by the key ``kind``; TABLES are a declared table, the comparison with reported
values, and claims. Planning reads the declarations, so a kind's file imports matplotlib, torch and the like where it draws.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pel_core.common.registry import Check, Entry, Knob, Registry

Declaration = Mapping[str, Any]


# The files of an artefact by their suffixes: a figure lies in the figures folder, the others in `tables` of the results.
# report.smk has a rule for each of the three.
Form = tuple[str, ...]
FIGURE: Form = ("pdf", "svg", "png")
TABLE: Form = ("csv", "md", "tex")
SUMMARY: Form = ("csv", "md")


@dataclass(frozen=True)
class ArtefactKind:
    """How artefacts of one kind are laid out and made.

    Args:
        form: the files that ``draw`` writes.
        draw: study, artefact's name and folder -> files in the folder, called NAME.SUFFIX.
        rows, columns: the keys of its two lists of selections, which are laid over each other; no ``columns`` is one column.
        places: whether each of the rows stands at a number, ``at``.
        check: refuses a declaration, its sweeps unrolled, with a PelError.
        from_models: whether it is drawn from the prepared models, of one seed, and needs no results.
        compared: whether its cells stand beside reported values in ``compare``.
        reads_reported: whether it shows reported values itself.
        on_screen: title and Markdown -> the lines that a terminal shows; None where it shows nothing.
    """

    form: Form
    draw: Callable[[Any, str, Path], None]
    rows: str = ""
    columns: str = ""
    places: bool = False
    check: Callable[[Declaration], None] = lambda declaration: None
    from_models: bool = False
    compared: bool = False
    reads_reported: bool = False
    on_screen: Callable[[str, str], list[str]] | None = None


# A figure's knobs are its own keys in a study, beside title, each, where, seeds, note and its lists. REQUIRED stands for the
# default of a key that has to be given.
FIGURES: Registry[ArtefactKind] = Registry("kind of figure", ("pel_core.reporting",))
TABLES: Registry[ArtefactKind] = Registry("kind of table", ("pel_core.reporting",))
REQUIRED: Any = ...

AXIS = Knob("axis", "", "the title of the axis of values; without it the metric's name")
DIGITS = Knob("digits", 1, "decimals of a printed value", Check("a whole number from 0 to 6", lambda value: 0 <= value <= 6))


def read_knobs(entry: Entry[ArtefactKind], declaration: Declaration) -> dict[str, Any]:
    """A kind's own keys in a declaration, defaults where they are not given.

    Raises:
        PelError: a value that is not possible.
    """
    given = {knob: declaration.get(knob.name, knob.default) for knob in entry.knobs}
    return {knob.name: knob.convert(knob.name, value) if knob.name in declaration else value for knob, value in given.items()}


_FORMS = {bool: {"type": "boolean"}, int: {"type": "integer"}, float: {"type": "number"}, str: {"$ref": "#/$defs/text"},
          tuple: {"type": "array", "items": {"type": "number"}}}  # fmt: skip


def figure_schema() -> dict[str, Any]:
    """The JSON schema of an entry of ``figures``: what stands in it is told by its ``kind``."""
    cases = [
        {"if": {"properties": {"kind": {"const": entry.name}}, "required": ["kind"]}, "then": _kind_schema(entry)}
        for entry in FIGURES.entries()
    ]
    return {"type": "object", "required": ["kind"], "properties": {"kind": {"enum": [*FIGURES]}}, "allOf": cases}


def _kind_schema(entry: Entry[ArtefactKind]) -> dict[str, Any]:
    kind = entry.value
    keys: dict[str, Any] = {"kind": {"const": entry.name}}
    keys |= {name: {"$ref": f"#/$defs/{name}"} for name in ("title", "each", "where", "note")}
    keys |= {} if kind.from_models else {"seeds": {"$ref": "#/$defs/seeds"}}
    keys |= {kind.rows: {"$ref": f"#/$defs/{'points' if kind.places else 'selections'}"}}
    keys |= {kind.columns: {"$ref": "#/$defs/selections"}} if kind.columns else {}
    keys |= {knob.name: _FORMS[knob.kind or type(knob.default)] for knob in entry.knobs}
    required = [knob.name for knob in entry.knobs if knob.default is REQUIRED]
    return {
        "type": "object",
        "properties": keys,
        "required": ["kind", "title", *required, kind.rows],
        "additionalProperties": False,
    }
