"""Measured beside reported: every cell of the tables and figures, and every learnable-parameter column.

The reported numbers are data to compare with, read from a committed file; no result is ever made from them. A reported value is
of one run, so it is held against where one more run is expected (`statistics.intervals.prediction`), not against a mean's.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.reporting.runs import Runs, read_runs
from pel_core.reporting.statistics.intervals import Interval, prediction
from pel_core.reporting.tables import md_row, statistic, write_csv, write_texts
from pel_core.spec.records import number
from pel_core.studies.cells import Artefact, Cell
from pel_core.studies.kinds import SUMMARY, TABLES, ArtefactKind
from pel_core.studies.study import Study

COLUMNS = ("artifact", "dataset", "method", "epochs", "learnable_param_m", "metric", "value", "note")
HEADER = [
    "artefact",
    "dataset",
    "measured on",
    "method",
    "metric",
    "measured",
    "std",
    "n",
    "reported",
    "difference",
    "low",
    "high",
    "comparable",
    "flag",
    "note",
]
NUMBERS = ("measured", "std", "n", "reported", "difference", "low", "high")  # columns of numbers
OUTSIDE = {  # by whether measured and reported values are of the same thing
    True: "`outside` flags a reported value that lies beyond them.",
    False: "here no reported value is held against them.",
}
Key = tuple[str, str, str, str]  # artefact, data set, method, metric


def read_reported(study: Study) -> dict[Key, dict[str, str]]:
    """The reported values by artefact, data set, method and metric; none where the study names no file.

    Raises:
        PelError: the file is missing, or has other columns.
    """
    if not study.reported:
        return {}
    path = Path(study.reported["path"])
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise PelError(f"{path}: expected the columns {', '.join(COLUMNS)}; found {', '.join(reader.fieldnames or ())}")
            return {(row["artifact"], row["dataset"], row["method"], row["metric"]): row for row in reader}
    except FileNotFoundError:
        raise PelError(f"the reported values {path} do not exist (key 'reported' of {study.path})") from None


def reported_name(study: Study, method: str) -> str:
    """How the reported file calls a method of the study."""
    return study.reported.get("methods", {}).get(method, method)


def compare_rows(study: Study) -> list[list[str]]:
    """One line per cell and per parameter count, in the order of the study.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    runs, reported = read_runs(study, study.artefact("compare")), read_reported(study)
    lines = []
    for artefact in study.artefacts.values():
        if artefact.how.compared:
            lines += [_cell_line(study, artefact, cell, runs, reported) for cell in artefact.cells]
            lines += _parameter_lines(study, artefact, runs, reported)
    return lines


def _cell_line(study: Study, artefact: Artefact, cell: Cell, runs: Runs, reported: Mapping[Key, Any]) -> list[str]:
    stat = statistic(cell, runs)
    metric = cell.value.removeprefix("metrics.")
    entry = reported.get((artefact.name, cell.tested, reported_name(study, cell.method), metric))
    target = float(entry["value"]) if entry else None
    expected = _expected(study, cell, runs)
    note = ". ".join(filter(None, [entry["note"] if entry else "", stat.blank, _unknown(expected)]))
    return _line(study, artefact, cell, metric, (stat.mean, stat.std, stat.n), target, note, 2, expected)


def _expected(study: Study, cell: Cell, runs: Runs) -> Interval | None:
    """Where one more run is expected to come out; None where a run is without a result, which the cell says."""
    if runs.without(cell.slugs):
        return None
    values = [number(runs[slug], cell.value) for slug in cell.slugs]
    return prediction([value for value in values if value is not None])


def _unknown(expected: Interval | None) -> str:
    """Why there is no interval, for a note."""
    return f"no prediction interval: {expected.reason}" if expected and expected.se is None else ""


def _parameter_lines(study: Study, artefact: Artefact, runs: Runs, reported: Mapping[Key, Any]) -> list[list[str]]:
    """Learnable parameters in millions, the head left out, at the report's two decimals: one line per method and count."""
    lines: dict[tuple[str, float, str], list[str]] = {}
    for cell in artefact.cells:
        entry = reported.get((artefact.name, cell.tested, reported_name(study, cell.method), cell.value.removeprefix("metrics.")))
        known = runs.described(cell.slugs)
        if known and entry and entry["learnable_param_m"]:
            count = round(known[0]["parameters"]["learnable"] / 1e6, 2)
            target = entry["learnable_param_m"]
            line = _line(study, artefact, cell, "learnable_param_m", (count, None, len(cell.specs)), float(target), "", 2)
            lines.setdefault((cell.method, count, target), line)
    return list(lines.values())


def _line(
    study: Study,
    artefact: Artefact,
    cell: Cell,
    metric: str,
    measured: tuple[float | None, float | None, int],
    target: float | None,
    note: str,
    digits: int,
    expected: Interval | None = None,
) -> list[str]:
    mean, std, n = measured
    low, high = (expected.low, expected.high) if expected else (None, None)
    shown = ["" if value is None else f"{value:.{digits}f}" for value in (mean, std)]
    difference = "" if mean is None or target is None else f"{mean - target:+.{digits}f}"
    words = [note] if note else []
    if target is None:
        words.append("the report does not give this value")
    words += [study.artefact("compare").banner[1]] if not _comparable(study) else []
    comparable, flags = "yes" if _comparable(study) else "no", ["suspect"] if note.startswith("suspect") else []
    if _comparable(study) and None not in (low, high, target) and not low <= target <= high:  # type: ignore[operator]
        flags.append("outside")
    ends = ["" if value is None else f"{value:.{digits}f}" for value in (low, high)]
    reported = "" if target is None else f"{target:g}"
    names = [artefact.name, cell.tested, cell.specs[0].dataset, cell.method, metric]
    return [*names, *shown, str(n), reported, difference, *ends, comparable, ", ".join(flags), ". ".join(words)]


def _comparable(study: Study) -> bool:
    return study.config.get("comparable", True)


def compare_files(study: Study) -> dict[str, str]:
    """The text of the comparison in each format, by suffix."""
    lines = compare_rows(study)
    mark, notice = study.artefact("compare").banner
    parts = [f"## {f'[{mark}] ' if mark else ''}Measured beside reported", ""]
    if not _comparable(study):
        parts += [f"> **Not comparable.** The differences below are between different things. **{notice}**", ""]
    parts += [
        "`difference` is measured minus reported; `suspect` flags a reported value that is probably a slip of the report. "
        "`low` and `high` are the ends of the 95 % prediction interval, in which one more run is expected "
        "(mean ± t s sqrt(1 + 1/n)); " + OUTSIDE[_comparable(study)],
        "",
    ]
    # Where the study's data sets are the ones that were measured, the second name says nothing.
    same = ["measured on"] if all(line[1] == line[2] for line in lines) else []
    left_out = {HEADER.index(name) for name in ("comparable", *same)}
    for name in dict.fromkeys(line[0] for line in lines):
        shown = [[cell for i, cell in enumerate(line) if i not in left_out] for line in lines if line[0] == name]
        if notice:
            shown = [[*line[:-1], line[-1].removesuffix(notice).removesuffix(". ")] for line in shown]
        header = [word for i, word in enumerate(HEADER) if i not in left_out]
        parts += [
            f"### {name}",
            "",
            md_row(header[1:]),
            "|" + "|".join("---:" if word in NUMBERS else "---" for word in header[1:]) + "|",
            *(md_row(line[1:]) for line in shown),
            "",
        ]
    return {"csv": write_csv([HEADER, *lines]), "md": "\n".join(parts).rstrip() + "\n"}


def save_comparison(study: Study, name: str, folder: str | Path) -> None:
    """Make the comparison into ``folder`` as csv and md.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    write_texts(compare_files(study), name, folder)


TABLES.register(
    "compare",
    ArtefactKind(SUMMARY, save_comparison, reads_reported=True, version=2),
    about="every measured value beside the reported one",
)
