"""A table's Markdown as a page of the HTML report. Markdown-it renders it; raw HTML in a name stays text. Torch-free."""

import re
from collections.abc import Mapping, Sequence
from html import escape

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #555; position: sticky; top: 0; background: #fff; }
tr:hover td { background: #f3f6fa; }
blockquote { margin: 0; padding: .2rem .8rem; border-left: 4px solid #c33; }
"""


def html_page(markdown: str, title: str) -> str:
    """A page of its own: no script, nothing loaded from anywhere."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = re.sub(r"&lt;u&gt;(-?[\d.]+)&lt;/u&gt;", r"<u>\1</u>", body)  # the mark of a number; other HTML stays text
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{body}</body></html>\n"


def notes_markdown(notes: Mapping[str, Sequence[str]]) -> str:
    """The notes on data sets as a list below a page's table; whatever stands in names stays text."""
    parts = [f"\n## Notes on the data set {base}\n\n" + "".join(f"- {_plain(note)}\n" for note in notes[base]) for base in notes]
    return "".join(parts)


def _plain(text: str) -> str:
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text.replace("\n", " "))
