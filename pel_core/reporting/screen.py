"""Tables and verdicts in a terminal: bold and underlined where it shows them, else marks of plain letters; text is wrapped."""

import os
import re
import shutil
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from pel_core.reporting.table_marks import BEST, LIKE_BEST

NARROW, WIDE, USUAL = 80, 120, 100  # columns of text at least, at most, and where no terminal says how many it has
LEFT_OUT = ("Data: ", "Recipe: ", "Notes on the data, ")  # lines under a table that `show` says once for all
CELL = re.compile(r"(?:\*\*(?P<best>[-+]?[\d.]+)\*\*|<u>(?P<like>[-+]?[\d.]+)</u>|(?P<plain>[-+]?[\d.]+))(?P<rest>.*)")
BETWEEN = re.compile(r"(?<!\\)\|")  # of two cells; a bar inside of one is escaped
ESCAPE = re.compile(r"\x1b\[\d+m")


@dataclass(frozen=True)
class Screen:
    """What a terminal shows.

    Args:
        width: columns to which text is wrapped; 0 leaves it as it is. Rows of a table are never wrapped.
        styled: whether it shows bold and underlined letters.
    """

    width: int = 0
    styled: bool = False

    @classmethod
    def of(cls, stream: IO[str]) -> "Screen":
        """Of an output: styled on a terminal, unless NO_COLOR (https://no-color.org) is set or it is a dumb one."""
        styled = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return cls(min(max(shutil.get_terminal_size((USUAL, 24)).columns, NARROW), WIDE), styled)

    def bold(self, text: str) -> str:
        """The best of a column, a verdict."""
        return f"\x1b[1m{text}\x1b[0m" if self.styled else f"*{text}*"

    def underlined(self, text: str) -> str:
        """What is not separable from the best."""
        return f"\x1b[4m{text}\x1b[0m" if self.styled else f"_{text}_"

    def wrap(self, text: str, indent: str = "") -> list[str]:
        """Text as lines; ``indent`` begins all but the first."""
        if not self.width:
            return [text]
        return textwrap.wrap(text, self.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def table_lines(markdown: str, screen: Screen) -> list[str]:
    """A table's Markdown as lines of a terminal: columns padded, marks shown, notes wrapped; data and recipe are left out."""
    lines = [line for line in markdown.splitlines() if line and not line.startswith(LEFT_OUT)]
    table = iter(_table([line for line in lines if line.startswith("|")], screen))
    text: list[str] = []
    for line in lines:
        text += [next(table)] if line.startswith("|") else _note(line, screen)
    return text


def _note(line: str, screen: Screen) -> list[str]:
    """A title, banner or footnote; the footnote on marks says how they look here."""
    line = line.removeprefix("## ").removeprefix("> ").replace("**", "")
    (bold, best), (under, like) = (mark.split(":") for mark in (BEST, LIKE_BEST))
    if not screen.styled:
        bold, under = screen.bold("1.0"), screen.underlined("1.0")
        return screen.wrap(line.replace(f"{BEST} {LIKE_BEST}", f"{bold}:{best} {under}:{like}"))
    shown = f"{screen.bold(bold)}:{best} {screen.underlined(under)}:{like}"
    return [part.replace(f"{BEST} {LIKE_BEST}", shown) for part in screen.wrap(line)]


def _table(lines: Sequence[str], screen: Screen) -> list[str]:
    rows = [[cell.strip().replace("\\|", "|") for cell in BETWEEN.split(line)[1:-1]] for line in lines]
    columns = [_column([row[i] for row in rows], screen) for i in range(len(rows[0]))] if rows else []
    widths = [max(map(_width, column)) for column in columns]
    text = []
    for row in zip(*columns, strict=True):
        cells = [cell + " " * (width - _width(cell)) if cell else "-" * width for cell, width in zip(row, widths, strict=True)]
        text.append("  ".join(cells).rstrip())
    return text


def _column(cells: Sequence[str], screen: Screen) -> list[str]:
    """The cells of a column with their marks, "" for the rule; where marks are letters, those without stand apart as far."""
    found = [CELL.fullmatch(cell) for cell in cells]
    marked = any(match and not match["plain"] for match in found)
    shown = []
    for cell, match in zip(cells, found, strict=True):
        if cell.startswith("---"):
            shown.append("")
        elif not match or not marked:
            shown.append(cell or " ")
        elif match["plain"]:
            shown.append(cell if screen.styled else f" {match['plain']} {match['rest']}")
        else:
            mark = screen.bold(match["best"]) if match["best"] else screen.underlined(match["like"])
            shown.append(f"{mark}{match['rest']}")
    return shown


def _width(text: str) -> int:
    """How many columns a text takes; letters of East Asian scripts take two."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in ESCAPE.sub("", text))


def verdict_lines(title: str, markdown: str, screen: Screen) -> list[str]:
    """The headings of the verdicts' Markdown, which carry them."""
    lines = [f"{title} here:"]
    for line in markdown.splitlines():
        if line.startswith("### "):
            statement, _, verdict = line.removeprefix("### ").rpartition(": **")
            *before, last = screen.wrap(f"  {statement}: {verdict.removesuffix('**')}", "    ")
            lines += [*before, last]
    return lines
