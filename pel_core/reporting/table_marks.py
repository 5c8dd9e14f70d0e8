"""What a table marks, and the footnote that says what the marks claim: docs/statistics.md.

A column is one metric on one test set. Its rows are compared by the general interval, which needs the stored predictions; a
column of which some cannot be read is not marked, and the footnote names the file and the command that makes it again.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from pel_core.common.errors import PelError
from pel_core.reporting.paired import Rows
from pel_core.reporting.runs import Runs
from pel_core.reporting.statistics import marks
from pel_core.reporting.statistics.effects import value_of
from pel_core.reporting.statistics.marks import Column, Marked
from pel_core.reporting.statistics.runs import Row, require_same_images
from pel_core.reporting.statistics.values import is_metric
from pel_core.studies.cells import Cell
from pel_core.studies.factorial import images_of

OTHER_IMAGES = "the rows are on different test images"
NO_MARKS = "a value that no test image makes"
BEST, LIKE_BEST = "Bold: the best of a column.", "Underlined: not separable from it."
QUIET = (NO_MARKS, "there is nothing to compare", "neither end of this value is better")  # go without saying


def mark_columns(cells: Sequence[Sequence[Cell]], runs: Runs, rows: Rows, baseline: int | None) -> list[Column | str]:
    """Each column with its marks, or why it has none.

    Args:
        cells: of each row of the table.
        baseline: the row that arrows compare with.

    Raises:
        PelError: two rows that are to have the same test images have others; naming two runs.
    """
    found: list[Column | str] = []
    readable: dict[int, tuple[list[Row | None], str]] = {}
    others: dict[int, tuple[int, ...]] = {}
    for j, column in enumerate(zip(*cells, strict=True)):
        values = {cell.value for cell in column}
        if not all(map(is_metric, values)):
            found.append(NO_MARKS)
            continue
        if len(values) > 1:
            found.append("its rows are different values")
            continue
        read = [None if runs.without(cell.slugs) else rows.row(cell) for cell in column]
        found.append(next((row for row in read if isinstance(row, str)), ""))
        others[j] = _on_other_images(column, baseline)
        if not found[-1] and len(column) - len(others[j]) == 1 < len(column):
            found[-1] = OTHER_IMAGES
        if not found[-1]:
            _refuse_other_images([row for i, row in enumerate(read) if i not in others[j]])  # type: ignore[arg-type]
            readable[j] = read, column[0].value  # type: ignore[assignment]
    alike = [[None if i in others[j] else row for i, row in enumerate(read)] for j, (read, _) in readable.items()]
    made = _columns(alike, [value for _, value in readable.values()], baseline)
    for j, column in zip(readable, made, strict=True):
        found[j] = column if isinstance(column, str) else _with_others(column, readable[j][0], others[j])
    return found


def _on_other_images(cells: Sequence[Cell], baseline: int | None) -> tuple[int, ...]:
    """The rows that are to have other test images than most rows of their data set: of fewer classes, or held out in another way.
    Where as many rows have the one as the other, the baseline's count, else those of the first row."""
    groups = dict[tuple[object, ...], list[int]]()
    for i, cell in enumerate(cells):
        groups.setdefault(images_of(cell), []).append(i)
    if len(groups) == len({images[0] for images in groups}):
        return ()
    if len({images[0] for images in groups}) > 1:  # the data sets are not compared either
        return tuple(range(1, len(cells)))
    most = max(groups.values(), key=lambda rows: (len(rows), baseline in rows))
    return tuple(i for i in range(len(cells)) if i not in most)


def _with_others(column: Column, rows: Sequence[Row | None], others: Sequence[int]) -> Column:
    """A column with the values of rows that were compared with none."""
    marked = [_value(rows[i], column.metric) if i in others else each for i, each in enumerate(column.rows)]
    return replace(column, rows=tuple(marked), apart=tuple(i for i in others if rows[i]))


def _value(row: Row | None, metric: str) -> Marked:
    try:
        return Marked(value_of(row, metric) if row else None)
    except PelError:  # its confidences cannot be read
        return Marked(None)


def _refuse_other_images(rows: Sequence[Row | None]) -> None:
    for a, b in combinations([row for row in rows if row], 2):
        if (a.images.dataset, a.images.split) == (b.images.dataset, b.images.split):
            require_same_images(a.runs[0], b.runs[0])


def _columns(columns: Sequence[Sequence[Row | None]], metrics: Sequence[str], baseline: int | None) -> list[Column | str]:
    try:
        return [*marks.table(list(zip(*columns, strict=True)), metrics, baseline)]
    except PelError:  # confidences of a run cannot be read: not every metric needs them
        return [_column(rows, metric, baseline) for rows, metric in zip(columns, metrics, strict=True)]


def _column(rows: Sequence[Row | None], metric: str, baseline: int | None) -> Column | str:
    try:
        return marks.column(rows, metric, baseline)
    except PelError as error:
        return str(error)


def mark_of(columns: Sequence[Column | str], row: int, column: int) -> Marked:
    """What is known of a cell; nothing where its column is not marked."""
    found = columns[column]
    return Marked(None) if isinstance(found, str) else found.rows[row]


def mark_notes(columns: Sequence[Column | str], labels: Sequence[str], baseline: str, rows: Sequence[str] = ()) -> list[str]:
    """The footnote: what marks claim, the test and its family, what is not marked and why, and what can be seen at all. ``rows``:
    their labels."""
    names = [label or "the column" for label in labels]
    reasons = [found if isinstance(found, str) else found.reason for found in columns]
    marked = [found for found, reason in zip(columns, reasons, strict=True) if not reason]
    lines = [_claims(marked, baseline)] if marked else []  # type: ignore[arg-type]
    for reason in dict.fromkeys(reason for reason in reasons if reason and reason not in QUIET):
        where = [name for name, why in zip(names, reasons, strict=True) if why == reason]
        place = f" in {', '.join(where)}" if len(where) < len(columns) else ""
        lines.append(f"Nothing is marked{place}: {reason}.")
    apart = dict.fromkeys(i for found in columns if not isinstance(found, str) for i in found.apart)
    if apart:
        lines.append(f"Compared with none, being on other test images than the other rows: {', '.join(rows[i] for i in apart)}.")
    known = [(name, found) for name, found in zip(names, columns, strict=True) if not isinstance(found, str)]
    if sizes := [(name, found) for name, found in known if found.detectable]:
        seeds = min((found.seeds for _, found in sizes if found.seeds), default=0)
        what = f"{seeds} seeds and N test images" if seeds else "N test images"
        each = [f"{name}: {found.detectable:.2g} (N = {found.images:,})" for name, found in sizes]
        lines.append(f"The smallest difference that {what} show with 80 % power: {'; '.join(each)}.")
    return lines


def _claims(marked: Sequence[Column], baseline: str) -> str:
    best, base = (max(found.family[i] for found in marked) for i in (0, 1))
    text = f"{BEST} {LIKE_BEST}"
    family = f"{best} comparison{'s' * (best != 1)} with the best"
    if baseline and base:
        text += f" Arrows: separably above or below {baseline}, as a number."
        family += f" and {base} with {baseline}"
    elif baseline:
        text += f" No arrows: there is nothing to compare with {baseline}."
    return (
        f"{text} Tests are paired by seed and by test image: intervals of 95 % over seeds x images, Holm's correction over a "
        f"column's {family}."
    )
