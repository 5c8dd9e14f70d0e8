"""Markdown of tables and claims as a part of the HTML report, and files as addresses. Torch-free."""

import base64
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

TYPES = {"svg": "image/svg+xml", "png": "image/png"}
LARGEST = 500_000  # bytes of an SVG that is shown; beyond it the PNG is, where that is smaller
UNDERLINED = re.compile(r"<u>([-+]?[\d.]+)</u>")
PROSE = 30  # letters from which on a table's cell may be wrapped


def markdown_html(markdown: str) -> str:
    """Markdown as HTML. Raw HTML in a name stays text, and addresses that run code are no links.

    Headings come one level lower, below the section's own; a table has a box of its own to scroll in; what is bold in a
    heading (a verdict) carries its words as a class.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: '<div class="wide" tabindex="0"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    parser.inline.ruler.before("html_inline", "underline", _underline)
    tokens = parser.parse(markdown)
    for token, inline in pairwise(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"
        if token.type == "heading_open":
            _mark_verdicts(inline.children)
        if token.type in ("td_open", "th_open"):
            _mark_cell(token, inline.content)
    return parser.renderer.render(tokens, parser.options, {})


def _underline(state: Any, silent: bool) -> bool:
    """``<u>78.8</u>``: the mark of a number that Markdown has no letters for."""
    if not (found := UNDERLINED.match(state.src, state.pos)):
        return False
    if not silent:
        state.push("u_open", "u", 1)
        state.push("text", "", 0).content = found[1]
        state.push("u_close", "u", -1)
    state.pos = found.end()
    return True


def _mark_verdicts(tokens: list[Any]) -> None:
    for token, text in pairwise(tokens):
        if token.type == "strong_open":
            token.attrSet("class", f"verdict {re.sub('[^a-z]+', '-', text.content.lower())}")


def _mark_cell(token: Any, content: str) -> None:
    """Numbers stand to the right, as the Markdown says; long sentences may be wrapped."""
    if token.attrs.pop("style", "") == "text-align:right":
        token.attrSet("class", "number")
    elif token.type == "td_open" and len(content) > PROSE:
        token.attrSet("class", "prose")


def picture(svg: Path) -> str:
    """A figure as an address that holds the file itself: the SVG, or the PNG beside it where the SVG is large."""
    png = svg.with_suffix(".png")
    size = svg.stat().st_size
    file = png if size > LARGEST and png.is_file() and png.stat().st_size < size else svg
    return f"data:{TYPES[file.suffix[1:]]};base64,{base64.b64encode(file.read_bytes()).decode()}"


def address(path: str | Path, page: Path) -> str:
    """The address of a file or folder relative to the folder of a page, whatever letters are in it."""
    where = Path(os.path.relpath(Path(path).absolute(), page.absolute().parent)).as_posix()
    return quote(f"./{where}" if ":" in where.split("/")[0] else where)
