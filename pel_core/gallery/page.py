"""The page itself: everything in one file. What it shows lies in it as JSON, and its script writes names as text only."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pel_core import __version__
from pel_core.common.errors import PelError
from pel_core.common.files import write_text
from pel_core.gallery.answers import AnsweredSet
from pel_core.gallery.choice import chosen, confusions
from pel_core.gallery.thumbnails import thumbnails

PAGE = Path(__file__).parent / "page"
IMAGES = 10_000  # shown at most, of all test sets together
BUDGET = 26_000_000  # bytes of thumbnails; a page stays under 30 MB


def save_gallery(
    out: Path, title: str, sets: Sequence[AnsweredSet], images: int = IMAGES, budget: int = BUDGET, notices: Iterable[str] = ()
) -> str:
    """Write the page, and say what it holds.

    Args:
        notices: what has to be known before any number, at the top of the page.

    Raises:
        PelError: ``out`` is not called .html, or fewer than one image is asked for.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise PelError(f"the gallery is one HTML page: found {out}, expected a file that ends in .html")
    if images < 1:
        raise PelError(f"--images {images}: expected 1 or more")
    picked = [chosen(one, most) for one, most in zip(sets, shares([len(one.split) for one in sets], images), strict=True)]
    found, unread, pixels = thumbnails(
        ((one.split, int(at)) for one, positions in zip(sets, picked, strict=True) for at in positions), budget
    )
    content, start = [], 0
    for one, positions in zip(sets, picked, strict=True):
        mine = found[start : start + len(positions)]
        start += len(positions)
        content.append(_content(one, positions[: len(mine)], mine))
    write_text(out, page_html(title, content, unread, notices))
    shown, there = len(found), sum(len(one.split) for one in sets)
    told = f"{shown} of {there} images at {pixels} pixels" + (f"; {unread} could not be read" if unread else "")
    return f"Gallery: {out} ({told}, {out.stat().st_size / 1e6:.1f} MB)"


def shares(sizes: Sequence[int], whole: int) -> list[int]:
    """How many images of each test set are shown: alike, but what a small one leaves goes to the others; one of each at least."""
    found, left = [0] * len(sizes), whole
    for place, at in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        found[at] = min(sizes[at], max(1, left // (len(sizes) - place)))
        left -= found[at]
    return found


def page_html(title: str, content: Sequence[dict[str, Any]], unread: int = 0, notices: Iterable[str] = ()) -> str:
    """The page of test sets, as `_content` describes each."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined)
    held = json.dumps({"sets": list(content)}, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    words = {"title": title, "held": _safe(held), "unread": unread, "notices": [*notices], "version": __version__}
    return environment.get_template("gallery.html").render(words)


def _safe(text: str) -> Any:
    """JSON for a script element: it holds no ``<``, so that nothing in it can end the element."""
    from markupsafe import Markup

    return Markup(text)


def _content(one: AnsweredSet, positions: np.ndarray, addresses: list[str]) -> dict[str, Any]:
    """A test set for the script: names, groups and counts of the classes, shown images by position, and every run's answers."""
    labels, classes = one.split.labels, len(one.data.class_names)
    return {
        "name": one.name,
        "classes": one.data.class_names,
        "groups": one.data.groups,
        "train": one.data.train_counts.tolist(),
        "test": np.bincount(labels, minlength=classes).tolist(),
        "total": len(labels),
        "labels": labels[positions].tolist(),
        "thumbs": addresses,
        "runs": [
            {
                "label": answers.label,
                "slug": answers.slug,
                "accuracy": one.summary(answers),
                "hits": np.bincount(labels[labels == answers.predicted], minlength=classes).tolist(),
                "taken": confusions(one, answers.predicted),
                "predicted": answers.predicted[positions].tolist(),
                "sure": np.round(1000 * answers.probability[positions]).astype(int).tolist(),
            }
            for answers in one.answers
        ],
    }
