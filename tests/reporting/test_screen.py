"""Tables and verdicts in a terminal: marks that it can show, explained as they look, text wrapped to its width."""

import io
import re

import pytest

from pel_core.reporting.screen import Screen, table_lines, verdict_lines
from pel_core.reporting.table_marks import BEST, LIKE_BEST

MARKDOWN = f"""## [DEMO] A **table**

> **Made up.**

| Method | A | B |
|---|---:|---:|
| one | **79.7** ± 2.8 ↑ | 5.0 |
| 模型 a\\|b | <u>-8.1</u> ± 0.5 | – |
| three | 78.9 ± 0.8 | diverged (2 of 3) |

Recipe: all of it.

{BEST} {LIKE_BEST} {"And a sentence that goes on. " * 6}

Data: some.
"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def usual(monkeypatch):
    """No terminal's own size or colours."""
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_without_styles_marks_are_letters_and_columns_stand_in_line():
    lines = table_lines(MARKDOWN, Screen(100))
    assert lines[:7] == [
        "[DEMO] A table",
        "Made up.",
        "Method    A               B",
        "--------  --------------  -----------------",
        "one       *79.7* ± 2.8 ↑  5.0",
        "模型 a|b  _-8.1_ ± 0.5    –",
        "three      78.9  ± 0.8    diverged (2 of 3)",
    ]
    assert lines[7].startswith("*1.0*: the best of a column. _1.0_: not separable from it. And a")
    assert not any(line.startswith(("Recipe", "Data")) for line in lines)


def test_on_a_terminal_marks_are_bold_and_underlined_and_so_is_what_explains_them():
    lines = table_lines(MARKDOWN, Screen(100, styled=True))
    assert "\x1b[1m79.7\x1b[0m ± 2.8 ↑  5.0" in lines[4] and "\x1b[4m-8.1\x1b[0m ± 0.5" in lines[5] and "  78.9 ± 0.8" in lines[6]
    assert lines[7].startswith("\x1b[1mBold\x1b[0m: the best of a column. \x1b[4mUnderlined\x1b[0m: not separable from it.")
    plain = [re.sub(r"\x1b\[\dm", "", line) for line in lines]
    assert plain[4].index("5.0") == plain[6].index("diverged") and "*" not in "".join(plain)


@pytest.mark.parametrize("styled", [False, True])
@pytest.mark.parametrize("width", [80, 97, 120])
def test_notes_are_wrapped_to_the_width_and_rows_are_not(width, styled):
    lines = [re.sub(r"\x1b\[\dm", "", line) for line in table_lines(MARKDOWN, Screen(width, styled))]
    assert all(len(line) <= width for line in lines[7:]) and len(lines) > 8
    assert "".join(lines[8:]).replace(" ", "").endswith("goeson.") and len(lines[2:7]) == 5
    assert len(table_lines(MARKDOWN, Screen(0, styled))) == 8


def test_a_table_without_marks_is_padded_alone():
    assert table_lines("| a | b |\n|---|---:|\n| 1 | 2.0 |", Screen(80)) == ["a  b", "-  ---", "1  2.0"]
    assert table_lines("", Screen(80)) == []


@pytest.mark.parametrize(("columns", "width"), [("", 100), ("40", 80), ("100", 100), ("300", 120)])
def test_the_width_is_the_terminals_within_bounds(columns, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("os.get_terminal_size", lambda *_: (_ for _ in ()).throw(OSError))
    assert Screen.of(Terminal()) == Screen(width, True)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_wants_no_styles_gets_letters(name, value, monkeypatch):
    assert Screen.of(Terminal()).styled and not Screen.of(io.StringIO()).styled
    monkeypatch.setenv(name, value)
    assert not Screen.of(Terminal()).styled


def test_verdicts_are_wrapped_below_their_claims():
    statement = "A statement of many words that says a lot and takes more than one line, which happens: as here"
    markdown = f"## T\n\n### {statement}: **holds**\n\ntext\n\n### Short: **undecided**\n"
    assert verdict_lines("C", markdown, Screen()) == ["C here:", f"  {statement}: holds", "  Short: undecided"]
    lines = verdict_lines("C", markdown, Screen(80))
    assert len(lines) == 4 and lines[2].startswith("    ") and lines[2].endswith(": holds") and max(map(len, lines)) <= 80
