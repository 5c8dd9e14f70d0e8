"""FIGURES, TABLES, DESIGNS: the kinds of artefact drawn from results. A kind is a file of `reporting`, which declares it.

FIGURES are what a study's ``figures`` may hold, by the key ``kind``; TABLES are a declared table, the comparison with reported
values, and claims; DESIGNS what a factorial design makes besides its table. Planning reads the declarations, so a kind's file
imports matplotlib, torch and the like where it draws.
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
FIGURE: Form = ("pdf", "svg", "png", "txt")
TABLE: Form = ("csv", "md", "tex", "tabular.tex", "long.csv")
SUMMARY: Form = ("csv", "md")


@dataclass(frozen=True)
class ArtefactKind:
    """How artefacts of one kind are laid out and made.

    Args:
        form: the files that ``draw`` writes.
        draw: study, artefact's name and folder -> files in the folder, called NAME.SUFFIX.
        rows, columns: the keys of its two lists of selections, which are laid over each other; no ``columns`` is one column.
        value: the value of cells that name none.
        places: whether each of the rows stands at a number, ``at``.
        check: refuses a declaration, its sweeps unrolled, with a PelError.
        from_models: whether it is drawn from the prepared models, of one seed, and needs no results.
        compared: whether its cells stand beside reported values in ``compare``.
        reads_reported: whether it shows reported values itself.
        version: of what is drawn; artefacts that another version drew are drawn anew.
        on_screen: title, Markdown and `reporting.screen.Screen` -> the lines that a terminal shows; None where it shows nothing.
    """

    form: Form
    draw: Callable[[Any, str, Path], None]
    rows: str = ""
    columns: str = ""
    value: str = ""
    places: bool = False
    check: Callable[[Declaration], None] = lambda declaration: None
    from_models: bool = False
    compared: bool = False
    reads_reported: bool = False
    version: int = 1
    on_screen: Callable[[str, str, Any], list[str]] | None = None


# A figure's knobs are its own keys in a study, beside title, each, where, seeds, note and its lists (`schema.study_file`
# makes its model of them). REQUIRED stands for the default of a key that has to be given.
FIGURES: Registry[ArtefactKind] = Registry("kind of figure", ("pel_core.reporting",))
TABLES: Registry[ArtefactKind] = Registry("kind of table", ("pel_core.reporting",))
DESIGNS: Registry[ArtefactKind] = Registry("kind of artefact of a design", ("pel_core.reporting",))
REQUIRED: Any = ...

AXIS = Knob("axis", "", "the title of the y axis, in place of the metric's name")
UP_TO_SIX = Check("a whole number from 0 to 6", lambda value: 0 <= value <= 6)
DIGITS = Knob("digits", 1, "how many digits after the decimal point", UP_TO_SIX)


def read_knobs(entry: Entry[ArtefactKind], declaration: Declaration) -> dict[str, Any]:
    """A kind's own keys in a declaration, defaults where they are not given."""
    given = {knob: declaration.get(knob.name, knob.default) for knob in entry.knobs}
    return {knob.name: knob.convert(knob.name, value) if knob.name in declaration else value for knob, value in given.items()}
