"""A table's texts: wide and long CSV for programs, Markdown for people, LaTeX for papers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pel_core.reporting.latex_text import tex_needs, tex_row, tex_text
from pel_core.reporting.statistics.intervals import quantile
from pel_core.reporting.table_marks import OTHER_IMAGES, mark_of

if TYPE_CHECKING:
    from pel_core.reporting.statistics.marks import Comparison, Marked
    from pel_core.reporting.tables import Grid, Statistic

SPREADS = {
    "sd": "standard deviation (of a sample)",
    "se": "standard error",
    "ci": "half of the 95 % interval (Student's t over seeds)",
}
LONG = (
    "row", "column", "dataset", "method", "value", "mean", "sd", "n", "images", "training_low", "training_high", "low", "high",
    "mark", "minus_best", "p_best", "p_best_holm", "minus_baseline", "p_baseline", "p_baseline_holm", "reason", "note",
)  # fmt: skip
MACROS = (
    r"\providecommand{\pelbest}[1]{\textbf{#1}}% the best of its column",
    r"\providecommand{\pellike}[1]{\underline{#1}}% not separable from it",
    r"\providecommand{\pelabove}{\,$\uparrow$}% separably above the baseline",
    r"\providecommand{\pelbelow}{\,$\downarrow$}% separably below it",
)


def spread_of(stat: Statistic, how: str) -> float | None:
    """What is printed behind ±: a standard deviation, standard error, or half of the interval over seeds."""
    if stat.std is None or how == "sd":
        return stat.std
    error = stat.std / math.sqrt(stat.n)
    return error if how == "se" else quantile(0.975, stat.n - 1) * error


def table_csv(grid: Grid) -> str:
    """For programs: plain numbers, a column of standard deviations where there are several seeds, and the banner in ``note``."""
    several = any(stat.n > 1 for row in grid.values for stat in row)
    spread = [f"{label} std" for label in grid.value_labels] if several else []
    header = [grid.corner, *grid.info_labels, *grid.value_labels, *spread, "n", "parameters", "recipe", "note"]
    lines = []
    for i, row in enumerate(grid.values):
        means = [_plain(stat.mean) for stat in row]
        stds = [_plain(stat.std) for stat in row] if several else []
        count = " / ".join(dict.fromkeys(str(stat.n) for stat in row))
        lines.append([grid.row_labels[i], *grid.info[i], *means, *stds, count, grid.parameters[i], grid.recipe, grid.banner[1]])
    return write_csv([header, *lines])


def table_long(grid: Grid) -> str:
    """For programs: a line for each cell, with both intervals, marks and the tests that they rest on (docs/statistics.md)."""
    lines = []
    for i, row in enumerate(grid.values):
        for j, stat in enumerate(row):
            lines.append(
                [grid.row_labels[i], grid.value_labels[j], *grid.places[i][j], *_numbers(grid, stat, i, j), grid.banner[1]]
            )
    return write_csv([LONG, *lines])


def _numbers(grid: Grid, stat: Statistic, i: int, j: int) -> list[str]:
    column, found = grid.columns[j], mark_of(grid.columns, i, j)
    reason = column if isinstance(column, str) else OTHER_IMAGES if i in column.apart else column.reason
    value = found.value
    ends = [value.training.low, value.training.high, value.general.low, value.general.high] if value else [None] * 4
    words = ["best" * found.best, "like best" * found.like_best, found.arrow and f"{found.arrow} baseline"]
    return [
        _plain(stat.mean),
        _plain(stat.std),
        str(stat.n),
        str(value.images) if value else "",
        *map(_plain, ends),
        ", ".join(filter(None, words)),
        *_compared(found.to_best),
        *_compared(found.to_baseline),
        "; ".join(dict.fromkeys(filter(None, (stat.blank or stat.reason, reason)))),
    ]


def _compared(found: Comparison | None) -> list[str]:
    if found is None:
        return ["", "", ""]
    return [_plain(found.effect.mean), *("" if p is None else f"{p:.4g}" for p in (found.p, found.adjusted))]


def write_csv(rows: Sequence[Sequence[str]]) -> str:
    """Rows as CSV text with Unix line ends."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4):g}" if abs(value) >= 1e6 else str(round(value, 4))


def table_md(grid: Grid) -> str:
    """For people: a banner, what all rows share, the table with its marks, and below it what of the recipe is not the
    default, and what the marks claim."""
    header = [grid.corner, *(grid.info_labels[k] for k in grid.shown), *grid.value_labels]
    rules = ["---"] * (1 + len(grid.shown)) + ["---:"] * len(grid.value_labels)
    body = []
    for i, row in enumerate(grid.values):
        cells = [_spell(stat, grid, (i, j), "±", "–", _mark_md) for j, stat in enumerate(row)]
        body.append([grid.row_labels[i], *(grid.info[i][k] for k in grid.shown), *cells])
    mark = f"[{grid.banner[0]}] " if grid.banner[0] else ""
    parts = [f"## {mark}{grid.title}", ""]
    if grid.banner[1]:
        parts += [f"> **{grid.banner[1]}**", ""]
    parts += [grid.shared, ""] if grid.shared else []
    parts += [
        md_row(header),
        "|" + "|".join(rules) + "|",
        *map(md_row, body),
        "",
        f"{grid.departs} All of it: `{grid.name}.csv`.",
        "",
    ]
    return "\n".join([*parts, *(f"{note}\n" for note in grid.notes)]).rstrip() + "\n"


def md_row(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _mark_md(text: str, found: Marked) -> tuple[str, str]:
    text = f"**{text}**" if found.best else f"<u>{text}</u>" if found.like_best else text
    return text, {"": "", "above": " ↑", "below": " ↓"}[found.arrow]


def _mark_tex(text: str, found: Marked) -> tuple[str, str]:
    text = rf"\pelbest{{{text}}}" if found.best else rf"\pellike{{{text}}}" if found.like_best else text
    return text, {"": "", "above": r"\pelabove{}", "below": r"\pelbelow{}"}[found.arrow]


Mark = Callable[[str, "Marked"], tuple[str, str]]


def _spell(stat: Statistic, grid: Grid, at: tuple[int, int], sign: str, dash: str, mark: Mark) -> str:
    """A cell: the mean with its mark, its spread or interval, arrow, and n where it is less than elsewhere."""
    if stat.mean is None:
        return stat.blank or dash
    found, digits = mark_of(grid.columns, *at), grid.digits
    text, arrow = mark(f"{stat.mean:.{digits}f}", found)
    spread = spread_of(stat, grid.spread)
    if grid.intervals:
        ends = found.value.general if found.value else None
        if ends and ends.low is not None:
            text += f" [{ends.low:.{digits}f}, {ends.high:.{digits}f}]"
    elif spread is not None:
        text += f" {sign} {spread:.{digits}f}"
    few = stat.n < max(other.n for row in grid.values for other in row)
    return f"{text}{arrow} (n={stat.n})" if few else f"{text}{arrow}"


def _tabular(grid: Grid) -> tuple[list[str], list[str], list[str]]:
    """What a table's LaTeX needs, its checks, and its ``tabular``."""
    header = [grid.corner, *(grid.info_labels[k] for k in grid.shown), *grid.value_labels]
    columns = "l" * (1 + len(grid.shown)) + "r" * len(grid.value_labels)
    words = [*header, *grid.row_labels, *(word for row in grid.info for word in row), grid.title, grid.shared, *_small(grid)]
    comments, checks = tex_needs([*words, grid.banner[0]], ["{booktabs}"])
    lines = [rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule"]
    if grid.banner[0]:
        words = rf"\textbf{{{tex_text(grid.banner[0])}}}: not for comparison"
        lines += [rf"\multicolumn{{{len(header)}}}{{c}}{{{words}}} \\", r"\midrule"]
    lines += [tex_row(map(tex_text, header)), r"\midrule"]
    for i, row in enumerate(grid.values):
        cells = [_spell(stat, grid, (i, j), r"$\pm$", "--", _mark_tex) for j, stat in enumerate(row)]
        lines.append(tex_row([*map(tex_text, [grid.row_labels[i], *(grid.info[i][k] for k in grid.shown)]), *cells]))
    return comments, checks, [*lines, r"\bottomrule", r"\end{tabular}%"]


def _small(grid: Grid) -> list[str]:
    return [*([grid.banner[1]] if grid.banner[1] else []), grid.departs, *grid.notes]


def table_tex(grid: Grid) -> str:
    r"""For a paper: a complete ``table`` with caption and label (``\usepackage{booktabs}``), marks as macros that a preamble may
    define otherwise, in small print what of the recipe is not the default; all of it is a comment, to be said once in a paper."""
    comments, checks, tabular = _tabular(grid)
    caption = " ".join(f"{text.rstrip('.')}." for text in (grid.title, grid.shared) if text)
    title, recipe = (f"% {' '.join(line.split())}" for line in (grid.title, grid.recipe))
    lines = [title, *comments, recipe, *MACROS, r"\begin{table}[tb]", r"\centering"]
    lines += [rf"\caption{{{tex_text(caption)}}}", rf"\label{{tab:{grid.name}}}"]
    lines += [r"\begingroup\footnotesize\setlength{\tabcolsep}{4pt}%", *checks, *tabular]
    lines += [r"\par\smallskip\footnotesize\raggedright", *(rf"{tex_text(line)}\par" for line in _small(grid)), r"\endgroup"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def table_tabular(grid: Grid) -> str:
    r"""For a paper with a ``table`` of its own: the ``tabular`` alone, for ``\input``."""
    comments, checks, tabular = _tabular(grid)
    banner = f" [{grid.banner[0]}] {grid.banner[1]}" if grid.banner[1] else ""
    return "\n".join([f"% {' '.join(f'{grid.title}{banner}'.split())}", *comments, *MACROS, *checks, *tabular]) + "\n"


def table_texts(grid: Grid) -> Mapping[str, str]:
    """The text of a table in each format, by suffix."""
    how = {"csv": table_csv, "md": table_md, "tex": table_tex, "tabular.tex": table_tabular, "long.csv": table_long}
    return {suffix: spell(grid) for suffix, spell in how.items()}
