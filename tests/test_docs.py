"""README and docs: every link, file and module that they name exists."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of headings."""
    titles = re.findall(r"^#+ +(.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    text, wrong = page.read_text(encoding="utf-8"), []
    for link in LINK.findall(text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target.read_text("utf-8"))):
            wrong.append(link)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_files_and_modules_exist(page):
    known = {path.name for folder in ("pel_core", "tests", "workflow") for path in (ROOT / folder).rglob("*.py")}
    wrong = []
    for code in CODE.findall(page.read_text(encoding="utf-8")):
        for path in re.findall(r"(?<![\w./<-])((?:[\w-]+/)*[\w-]+\.py)\b", code):
            inside = re.match(r"(pel_core|tests|workflow)/", path)
            if not (ROOT / path).is_file() if inside else path.rsplit("/", 1)[-1] not in known | EXAMPLES:
                wrong.append(path)
        for module in re.findall(r"python -m (pel_core(?:\.\w+)*)", code):
            if importlib.util.find_spec(module) is None:
                wrong.append(module)
        for path in re.findall(r"(?<![\w./-])((?:pel_core|tests|workflow|docs)/[\w./-]*\w)", code):
            if not (ROOT / path).exists() and not path.startswith("workflow/config/my"):
                wrong.append(path)
    assert not wrong


EXAMPLES = {"a.py", "b.py", "file.py", "mine.py", "my_method.py"}  # files that a reader would write
