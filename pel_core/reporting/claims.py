"""Claims: conclusions, tested. A contrast a - b is paired by seed and averaged over data sets; the interval is
Student's t over seeds, 95 %.

The seeds vary what is random in training on one fixed data set, so an interval says how much a repetition would differ,
not what other data would show.
"""

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from pel_core.reporting.compare import read_reported, reported_name
from pel_core.reporting.runs import Runs, read_runs
from pel_core.reporting.tables import md_row, write_csv, write_texts
from pel_core.spec.records import number
from pel_core.studies.cells import Cell, Claim, Contrast
from pel_core.studies.kinds import SUMMARY, TABLES, ArtefactKind
from pel_core.studies.study import Study

HEADER = [
    "claim",
    "statement",
    "source",
    "contrast",
    "value",
    "data",
    "expected",
    "effect",
    "low",
    "high",
    "n",
    "reported",
    "verdict",
    "reason",
    "note",
]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Effect:
    """A mean difference with its interval over ``n`` seeds; ``low`` and ``high`` are None for n < 2. ``reason``: why there
    is no mean."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    reason: str = ""


def effect(differences: list[float]) -> Effect:
    """Mean and t interval of one difference per seed. Equal differences give an interval of no width."""
    n = len(differences)
    mean = statistics.fmean(differences) if n else None
    if n < 2 or mean is None:
        return Effect(mean, None, None, n)
    from scipy.stats import t

    half = float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    return Effect(mean, mean - half, mean + half, n)


def verdict(found: Effect, expect: str, margin: float = 0.0) -> tuple[str, str]:
    """``holds``, ``does not`` or ``undecided``, and why.

    higher: the interval lies above ``margin``; lower: below minus ``margin``; equal: inside plus and minus ``margin``.
    """
    if found.mean is None:
        return "undecided", found.reason or "there is no value to compare"
    if found.low is None or found.high is None:
        return "undecided", "one seed gives no interval; ask for more (seeds=0,1,2)"
    if found.low == found.high:  # accuracies are counts of images: two seeds can agree by accident
        return "undecided", "all seeds agree to the last digit, so the interval has no width; ask for more seeds"
    low, high = (found.low, found.high) if expect != "lower" else (-found.high, -found.low)
    if expect == "equal":
        if -margin <= low and high <= margin:
            return "holds", f"the interval lies within ±{margin:g}"
        if low > margin or high < -margin:
            return "does not", f"the interval lies outside ±{margin:g}"
        return "undecided", f"the interval reaches over the margin of ±{margin:g}"
    if low > margin:
        return "holds", "the interval lies on the claimed side"
    if high <= margin:
        return "does not", "the interval lies on the other side"
    return "undecided", "the interval covers both sides"


def contrast_effect(contrast: Contrast, runs: Runs) -> Effect:
    """A contrast's effect over seeds; a seed counts if it has every value."""
    slugs = list(dict.fromkeys(slug for pair in (*contrast.pairs, *contrast.minus) for cell in pair for slug in cell.slugs))
    if blank := runs.without(slugs):  # what is left would be of the survivors alone
        return Effect(None, None, None, 0, f"runs without a result: {blank}")
    differences = []
    for index in range(len(contrast.pairs[0][0].specs) if contrast.pairs else 0):
        here, there = (_mean_difference(pairs, index, runs) for pairs in (contrast.pairs, contrast.minus))
        if here is not None and (there is not None or not contrast.minus):
            differences.append(here - (there or 0.0))
    return effect(differences)


def _mean_difference(pairs: tuple[tuple[Cell, Cell], ...], index: int, runs: Runs) -> float | None:
    """Mean of a - b at one seed; None where a value is missing."""
    values = [[number(runs[cell.slugs[index]], cell.value) for cell in pair] for pair in pairs]
    if not values or any(value is None for pair in values for value in pair):
        return None
    return statistics.fmean(a - b for a, b in values)  # type: ignore[operator]


def reported_effect(study: Study, contrast: Contrast) -> float | None:
    """The same contrast in the report's own numbers; None where it does not give them all, or one is suspect."""
    if contrast.minus:
        return None
    values = read_reported(study)

    def find(cell: Cell) -> float | None:
        key = (cell.dataset, reported_name(study, cell.method), cell.value.removeprefix("metrics."))
        entry = next((row for name, row in values.items() if name[1:] == key), None)
        return float(entry["value"]) if entry and not entry["note"].startswith("suspect") else None

    pairs = [[find(cell) for cell in pair] for pair in contrast.pairs]
    if not pairs or any(value is None for pair in pairs for value in pair):
        return None
    return statistics.fmean(a - b for a, b in pairs)  # type: ignore[operator]


def claim_rows(study: Study) -> list[list[str]]:
    """Per claim one line with the verdict, then one line per contrast where there are several.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    artefact = study.summary("claims")
    runs = read_runs(study, artefact)
    note = "" if study.config.get("comparable", True) else artefact.banner[1]
    lines = []
    for claim in artefact.claims:
        parts = [_contrast_line(study, claim, contrast, runs) for contrast in claim.contrasts]
        overall, reason = _combine([line[-3] for line in parts])
        least = min((line[10] for line in parts), key=int)
        ends = [claim.name, claim.statement, claim.source, "all", "", "", "", "", "", "", least, "", overall, reason, note]
        if len(parts) == 1:
            ends = [*ends[:3], *parts[0][3:-1], note]
        lines += [ends, *([*line[:-1], note] for line in parts if len(parts) > 1)]
    return lines


def _contrast_line(study: Study, claim: Claim, contrast: Contrast, runs: Runs) -> list[str]:
    found, reported = contrast_effect(contrast, runs), reported_effect(study, contrast)
    result, reason = verdict(found, contrast.expect, contrast.margin)
    if contrast.absent:
        reason = f"not measured on {', '.join(contrast.absent)}: this configuration has no data for it" + (
            f"; {reason}" if contrast.pairs else ""
        )
    numbers = ["" if value is None else f"{value:+.2f}" for value in (found.mean, found.low, found.high)]
    data = ", ".join(pair[0].dataset for pair in contrast.pairs) or ", ".join(contrast.absent)
    expected = contrast.expect + (f" (±{contrast.margin:g})" if contrast.margin else "")
    shown = "" if reported is None else f"{reported:+.2f}"
    return [
        claim.name,
        claim.statement,
        claim.source,
        contrast.label,
        contrast.value,
        data,
        expected,
        *numbers,
        str(found.n),
        shown,
        result,
        reason,
        "",
    ]


def _combine(results: list[str]) -> tuple[str, str]:
    """A claim holds if all its contrasts do, and fails if one does."""
    if all(result == "holds" for result in results):
        return "holds", "every contrast holds"
    failed = sum(result == "does not" for result in results)
    if failed:
        return "does not", f"{failed} of {len(results)} contrasts do not hold"
    return "undecided", f"{sum(result == 'undecided' for result in results)} of {len(results)} contrasts are undecided"


def claim_files(study: Study) -> dict[str, str]:
    """The text of the claims in each format, by suffix."""
    artefact, lines = study.summary("claims"), claim_rows(study)
    mark, notice = artefact.banner
    title = f"{artefact.title}, tested" if study.reported else f"{study.title}: verdicts"
    shown = [i for i, word in enumerate(HEADER[:-1]) if i > 2 and (study.reported or word != "reported")]
    parts = [f"## {f'[{mark}] ' if mark else ''}{title}", ""]
    parts += [f"> **{notice}**", ""] if notice else []
    parts += [
        "`effect` is a minus b in points, paired by seed, averaged over the data sets named; low and high are the ends of the "
        f"{CONFIDENCE:.0%} t interval over n seeds"
        + ("; `reported` is the same contrast in the report's own numbers (one run each)." if study.reported else "."),
        "",
    ]  # fmt: skip
    for claim in artefact.claims:
        head, *rest = [line for line in lines if line[0] == claim.name]
        source = f" ({claim.source})" if claim.source else ""
        word = "does not hold" if head[-3] == "does not" else head[-3]
        parts += [f"### {claim.statement}: **{word}**", "", f"{head[-2].capitalize()}{source}.", ""]
        rest = rest or [head]
        table = [md_row([line[i] for i in shown]) for line in (HEADER, *rest)]
        parts += [table[0], "|" + "---|" * len(shown), *table[1:], ""]
    return {"csv": write_csv([HEADER, *lines]), "md": "\n".join(parts).rstrip() + "\n"}


def save_claims(study: Study, name: str, folder: str | Path) -> None:
    """Make the verdicts into ``folder`` as csv and md.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    write_texts(claim_files(study), name, folder)


def on_screen(title: str, markdown: str) -> list[str]:
    """The headings of the verdicts' Markdown, which carry them."""
    headings = [line.removeprefix("### ") for line in markdown.splitlines() if line.startswith("### ")]
    return [f"{title} here:", *("  " + line.replace("**", "") for line in headings)]


TABLES.register(
    "claims",
    ArtefactKind(SUMMARY, save_claims, reads_reported=True, on_screen=on_screen),
    about="conclusions, each with the contrasts that test it and its verdict",
)
