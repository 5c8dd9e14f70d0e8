"""The table of variance components: what a single run's accuracy varies by, and how much of that is which."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pel_core.common.errors import PelError
from pel_core.ingest.notes import data_notes, notes_footnote
from pel_core.reporting.analysis_text import analysis_tabular, analysis_tex, md_table
from pel_core.reporting.paired import Rows
from pel_core.reporting.recipe_text import data_line, recipe_line, recipe_note
from pel_core.reporting.runs import Runs, read_runs
from pel_core.reporting.statistics.components import SOURCES, Components, components
from pel_core.reporting.statistics.runs import Row, require_same_images
from pel_core.reporting.tables import on_screen, write_csv, write_texts
from pel_core.spec.records import data_sets
from pel_core.studies.cells import Artefact
from pel_core.studies.kinds import DESIGNS, TABLE, ArtefactKind
from pel_core.studies.study import Study

LONG = (
    "value", "mean", "source", "variance", "estimate", "sd", "sd_low", "sd_high", "share", "df", "subsets", "n", "images",
    "reason", "note",
)  # fmt: skip
WIDE = ("accuracy", "source", "sd (points)", "95 %", "share of the variance", "df")
EXPLAINED = (
    "How much one run's accuracy would move, in points, if only this were drawn again: the images of the training subset, the "
    "run's seed, both together beyond their sum, the test images of each class. Standard deviations of a single run; `one run` "
    "is all of them at once. A mean over S seeds divides the seed's variance by S and leaves the others. Estimates by the "
    "analysis of variance of subsets x seeds x images (Brennan, 2001); intervals by Satterthwaite's degrees of freedom: with few "
    "subsets or seeds they are wide. There is none where an estimate is lost in the noise (less than one degree of freedom). An "
    "estimate below zero is chance and counts as zero."
)
ALL = "one run"


@dataclass(frozen=True)
class Found:
    """One accuracy's components, or the reason why there are none."""

    value: str
    parts: Components | None
    reason: str = ""


def find_components(artefact: Artefact, runs: Runs, rows: Rows) -> list[Found]:
    """The components of each of its accuracies.

    Raises:
        PelError: runs of different test images.
    """
    values = artefact.declaration["values"]
    if blank := runs.without(list(artefact.specs)):
        return [Found(value, None, f"runs without a result: {blank}") for value in values]
    read = [rows.row(cell) for cell in artefact.cells if cell.column == 0]
    if unread := next((row for row in read if isinstance(row, str)), ""):
        return [Found(value, None, unread) for value in values]
    for row in read[1:]:
        require_same_images(read[0].runs[0], row.runs[0])
    return [_components(value, read) for value in values]


def _components(value: str, read: Sequence[Row]) -> Found:
    first = read[0].runs[0]
    labels, chosen = first.images.labels, np.ones(len(first.images), bool)
    if value != "overall":
        if len({run.groups for row in read for run in row.runs}) > 1:
            return Found(value, None, "the subsets put classes into different groups")
        chosen = np.array([group == value for group in first.groups])[labels]
    labels = labels[chosen]
    if not len(labels):
        return Found(value, None, "no class of this group has a test image")
    sizes = np.unique(labels, return_counts=True)[1]
    if value != "overall" and sizes.min() != sizes.max():
        return Found(value, None, "its classes have unequally many test images, so that the group's mean is no mean over images")
    correct = np.array([[run.right[chosen] for run in row.runs] for row in read])
    try:
        return Found(value, components(correct, labels))
    except PelError as error:
        return Found(value, None, str(error))


def variance_files(study: Study, name: str) -> dict[str, str]:
    """The text of the components in each format, by suffix.

    Raises:
        PelError: a run cannot be used, or two have different test images.
    """
    artefact = study.artefact(name)
    runs = read_runs(study, artefact)
    found, records = find_components(artefact, runs, Rows(study.results)), runs.described()
    noted = notes_footnote(data_notes(study.results, data_sets(records)))
    about = [_design(artefact, found), *(f"{each.value}: {each.reason}." for each in found if each.reason)]
    declared = artefact.declaration.get("note", "")
    notes = list(filter(None, [*about, declared, *runs.notes(), data_line(records), *noted]))
    departs, recipe = recipe_note(records), recipe_line(records)
    rows = [line for each in found for line in _wide(each)]
    return {
        "csv": write_csv([WIDE, *rows]),
        "md": _markdown(artefact, rows, [EXPLAINED, f"{departs} All of it: `{name}.tex`.", *notes]),
        "tex": analysis_tex(artefact, WIDE, rows, [EXPLAINED, departs, *notes], recipe),
        "tabular.tex": analysis_tabular(artefact, WIDE, rows, recipe),
        "long.csv": write_csv([LONG, *(line for each in found for line in _long(artefact, each))]),
    }


def _design(artefact: Artefact, found: Sequence[Found]) -> str:
    images = next((each.parts.shape[2] for each in found if each.parts), 0)
    subsets, seeds = artefact.declaration["subsets"], ", ".join(map(str, artefact.seeds))
    told = f"; N = {images:,} test images" if images else ""
    return f"{len(subsets)} subsets ({', '.join(subsets)}) x seeds {seeds}{told}."


def _wide(found: Found) -> list[list[str]]:
    if found.parts is None:
        return [[found.value, "–", "–", "", "", ""]]
    mean, lines = f"{found.value}, {found.parts.mean:.1f} %", []
    for source in SOURCES:
        part, share = found.parts.parts[source], found.parts.share(source)
        span = f"{part.interval[0]:.2f} to {part.interval[1]:.2f}" if part.interval else ""
        told = "" if share is None else f"{100 * share:.0f} %"
        lines.append([mean, source, f"{part.sd:.2f}", span, told, f"{part.df:.1f}" if math.isfinite(part.df) else ""])
        mean = ""
    return [*lines, ["", ALL, f"{math.sqrt(found.parts.variance):.2f}", "", "", ""]]


def _long(artefact: Artefact, found: Found) -> list[list[str]]:
    design = [str(len(artefact.declaration["subsets"])), str(len(artefact.seeds))]
    if found.parts is None:
        return [[found.value, *[""] * 9, *design, "", found.reason, artefact.banner[1]]]
    lines = []
    for source, part in found.parts.parts.items():
        span = part.interval or (None, None)
        numbers = [part.variance, part.estimate, part.sd, *span, found.parts.share(source), part.df]
        told = ["" if number is None else f"{number:.6g}" for number in numbers]
        about = [*design, str(found.parts.shape[2]), "", artefact.banner[1]]
        lines.append([found.value, f"{found.parts.mean:.6g}", source, *told, *about])
    return lines


def _markdown(artefact: Artefact, rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    mark, notice = artefact.banner
    parts = [f"## {f'[{mark}] ' if mark else ''}{artefact.title}", ""]
    parts += [f"> **{notice}**", ""] if notice else []
    parts += md_table(WIDE, rows)
    return "\n".join([*parts, *(f"{note}\n" for note in notes)]).rstrip() + "\n"


def save_variance(study: Study, name: str, folder: str | Path) -> None:
    """Make a table of variance components into ``folder`` in each format.

    Raises:
        PelError: as `variance_files`.
    """
    write_texts(variance_files(study, name), name, folder)


DESIGNS.register(
    "variance",
    ArtefactKind(TABLE, save_variance, on_screen=on_screen),
    about="how much of a run's spread is its training subset, its seed, and its test images",
)
