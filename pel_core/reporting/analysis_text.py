"""Tables that are no grid of a study's cells (an analysis of variance, variance components) in Markdown and LaTeX."""

from collections.abc import Sequence

from pel_core.reporting.latex_text import tex_needs, tex_row, tex_text
from pel_core.reporting.tables import md_row
from pel_core.studies.cells import Artefact

Lines = Sequence[Sequence[str]]


def md_table(header: Sequence[str], rows: Lines) -> list[str]:
    """Header and rows of cells as lines, and an empty one."""
    return [md_row(header), "|" + "---|" * len(header), *map(md_row, rows), ""]


def analysis_tex(artefact: Artefact, header: Sequence[str], rows: Lines, notes: Sequence[str], recipe: str) -> str:
    """A complete ``table``, its notes in small print, ``recipe`` as a comment; empty columns are left out."""
    small = [*([artefact.banner[1]] if artefact.banner[1] else []), *notes]
    tabular, comments, checks = _tabular(artefact, header, rows, small)
    lines = [f"% {' '.join(artefact.title.split())}", *comments, f"% {recipe}"]
    lines += [r"\begin{table}[tb]", r"\centering", rf"\caption{{{tex_text(artefact.title)}.}}", rf"\label{{tab:{artefact.name}}}"]
    lines += [r"\begingroup\footnotesize\setlength{\tabcolsep}{4pt}%", *checks, *tabular]
    lines += [r"\par\smallskip\footnotesize\raggedright", *(rf"{tex_text(line)}\par" for line in small), r"\endgroup"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def analysis_tabular(artefact: Artefact, header: Sequence[str], rows: Lines, recipe: str) -> str:
    """The ``tabular`` alone, for ``\\input``; ``recipe`` as a comment."""
    tabular, comments, checks = _tabular(artefact, header, rows, ())
    return "\n".join([f"% {' '.join(artefact.title.split())}", *comments, f"% {recipe}", *checks, *tabular]) + "\n"


def _tabular(
    artefact: Artefact, header: Sequence[str], rows: Lines, small: Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """The tabular, comments on what it needs, and checks that it is there."""
    shown = [i for i in range(len(header)) if any(row[i] for row in rows)]
    table = [[each[i] for i in shown] for each in (header, *rows)]
    words = [artefact.title, *(cell for row in table for cell in row), *small, artefact.banner[0]]
    comments, checks = tex_needs(words, ["{booktabs}"])
    lines = [rf"\begin{{tabular}}{{@{{}}l{'r' * (len(shown) - 1)}@{{}}}}", r"\toprule"]
    if artefact.banner[0]:
        said = rf"\textbf{{{tex_text(artefact.banner[0])}}}: not for comparison"
        lines += [rf"\multicolumn{{{len(shown)}}}{{c}}{{{said}}} \\", r"\midrule"]
    lines += [tex_row(map(tex_text, table[0])), r"\midrule", *(tex_row(map(tex_text, row)) for row in table[1:])]
    return [*lines, r"\bottomrule", r"\end{tabular}%"], comments, checks
