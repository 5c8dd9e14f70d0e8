"""Claims: conclusions, tested. A contrast a - b is paired by seed and by test image and averaged over data sets.

A part holds, is refuted or undecided by its general interval (another run, other test images; docs/statistics.md). The training
interval beside it says how much a repetition on this test set would differ.
"""

import statistics
from pathlib import Path

from pel_core.reporting.compare import read_reported, reported_name
from pel_core.reporting.paired import Rows, contrast_effect
from pel_core.reporting.runs import read_runs
from pel_core.reporting.screen import verdict_lines
from pel_core.reporting.statistics.verdicts import Part, judge
from pel_core.reporting.tables import md_row, write_csv, write_texts
from pel_core.studies.cells import Cell, Claim, Contrast
from pel_core.studies.kinds import SUMMARY, TABLES, ArtefactKind
from pel_core.studies.registered import IN_ADVANCE, registered
from pel_core.studies.study import Study

# Columns of the CSV. low, high: the general interval; p: two-sided, of no effect, p_against: of what the claim says; both once
# more by Holm over the claim's contrasts; seeds_needed, images_needed: what would decide.
HEADER = (
    "claim", "statement", "source", "contrast", "value", "data", "expected", "margin", "effect", "sd", "training_low",
    "training_high", "low", "high", "n", "images", "p", "p_holm", "p_against", "p_against_holm", "reported", "verdict", "reason",
    "would_decide", "seeds_needed", "images_needed", "registered", "note",
)  # fmt: skip
Line = dict[str, str]
EXPLAINED = (
    "`effect` is a minus b in points, paired by seed and by test image, averaged over the data sets named, over n seeds and N "
    "test images. Intervals are of 95 %: `training`, where another run on this test set would lie (Student's t over seeds); "
    "`general`, where another run on other test images would (seeds x images). Verdicts use `general`. `p` is of no effect, by "
    "Holm's correction over the claim's contrasts."
)
REPORTED = " `reported` is the same contrast in the report's own numbers (one run each)."


def reported_effect(study: Study, contrast: Contrast) -> float | None:
    """The same contrast in the report's own numbers; None where it does not give them all, or one is suspect."""
    if contrast.minus:
        return None
    values = read_reported(study)

    def find(cell: Cell) -> float | None:
        key = (cell.tested, reported_name(study, cell.method), cell.value.removeprefix("metrics."))
        entry = next((row for name, row in values.items() if name[1:] == key), None)
        return float(entry["value"]) if entry and not entry["note"].startswith("suspect") else None

    pairs = [[find(cell) for cell in pair] for pair in contrast.pairs]
    if not pairs or any(value is None for pair in pairs for value in pair):
        return None
    return statistics.fmean(a - b for a, b in pairs)  # type: ignore[operator]


def claim_rows(study: Study) -> list[Line]:
    """Per claim one line with the verdict, then one line per contrast where there are several; by the names of HEADER.

    Raises:
        PelError: a run is missing or cannot be used, or two that are compared have different test images.
    """
    artefact = study.summary("claims")
    runs, rows = read_runs(study, artefact), Rows(study.results)
    note = "" if study.config.get("comparable", True) else artefact.banner[1]
    lines: list[Line] = []
    for claim in artefact.claims:
        effects = [contrast_effect(contrast, runs, rows) for contrast in claim.contrasts]
        judged = judge([(effect, each.expect, each.margin) for effect, each in zip(effects, claim.contrasts, strict=True)])
        parts = [_line(study, *both) for both in zip(claim.contrasts, judged.parts, strict=True)]
        about = {"claim": claim.name, "statement": claim.statement, "source": claim.source, "note": note}
        about["registered"] = registered(study, artefact, claim)
        head = parts[0] if len(parts) == 1 else _whole(parts) | {"verdict": judged.verdict, "reason": judged.reason}
        lines += [dict.fromkeys(HEADER, "") | line | about for line in (head, *(parts if len(parts) > 1 else ()))]
    return lines


def _whole(parts: list[Line]) -> Line:
    """What a claim of several contrasts says besides its verdict."""
    undecided = [line["would_decide"] for line in parts if line["verdict"] == "undecided" and line["would_decide"]]
    return {
        "contrast": "all",
        "n": min((line["n"] for line in parts), key=int),
        "would_decide": "; ".join(dict.fromkeys(undecided)),
    }


def _line(study: Study, contrast: Contrast, part: Part) -> Line:
    """A contrast's numbers and verdict."""
    found, needed = part.effect, part.needed
    reason, reported = "; ".join([part.reason, *found.notes]), reported_effect(study, contrast)
    if contrast.absent:
        absent = f"not measured on {', '.join(contrast.absent)}: this configuration has no data for it"
        reason = f"{absent}; {reason}" if contrast.pairs else absent
    told = needed.text if needed and needed.text not in reason else ""
    return {
        "contrast": contrast.label,
        "value": contrast.value,
        "data": ", ".join(pair[0].tested for pair in contrast.pairs) or ", ".join(contrast.absent),
        "expected": contrast.expect,
        "margin": f"{contrast.margin:g}" if contrast.margin else "",
        "effect": _plain(found.mean, "+.2f"),
        "sd": _plain(found.sd, ".2f"),
        "training_low": _plain(found.training.low, "+.2f"),
        "training_high": _plain(found.training.high, "+.2f"),
        "low": _plain(found.general.low, "+.2f"),
        "high": _plain(found.general.high, "+.2f"),
        "n": str(len(found.seeds)),
        "images": str(found.images),
        "p": _plain(part.p, ".3g"),
        "p_holm": _plain(part.p_adjusted, ".3g"),
        "p_against": _plain(part.p_against, ".3g"),
        "p_against_holm": _plain(part.p_against_adjusted, ".3g"),
        "reported": _plain(reported, "+.2f"),
        "verdict": part.verdict,
        "reason": reason,
        "would_decide": told,
        "seeds_needed": _plain(needed and needed.seeds, "d"),
        "images_needed": _plain(needed and needed.images, "d"),
    }


def _plain(value: float | None, how: str) -> str:
    return "" if value is None else f"{value:{how}}"


def claim_files(study: Study) -> dict[str, str]:
    """The text of the claims in each format, by suffix."""
    artefact, lines = study.summary("claims"), claim_rows(study)
    mark, notice = artefact.banner
    title = f"{artefact.title}, tested" if study.reported else f"{study.title}: verdicts"
    parts = [f"## {f'[{mark}] ' if mark else ''}{title}", ""]
    parts += [f"> **{notice}**", ""] if notice else []
    parts += [
        EXPLAINED + (REPORTED if study.reported else ""),
        "",
    ]
    for claim in artefact.claims:
        parts += _claim_md(claim, [line for line in lines if line["claim"] == claim.name], bool(study.reported))
    parts += [artefact.declaration["note"], ""] if "note" in artefact.declaration else []  # of settings that were chosen
    rows = [[line[word] for word in HEADER] for line in lines]
    return {"csv": write_csv([HEADER, *rows]), "md": "\n".join(parts).rstrip() + "\n"}


def _claim_md(claim: Claim, lines: list[Line], reported: bool) -> list[str]:
    """A claim in Markdown: the verdict as heading, the reason, what would decide, a table of its contrasts."""
    head, *rest = lines
    source = f" ({claim.source})" if claim.source else ""
    text = [f"### {claim.statement}: **{head['verdict']}**", "", f"{head['reason'][:1].upper()}{head['reason'][1:]}{source}.", ""]
    if not rest and head["would_decide"]:
        text += [f"{head['would_decide'][:1].upper()}{head['would_decide'][1:]}.", ""]
    if head["registered"] != IN_ADVANCE:
        text += [f"{head['registered'][:1].upper()}{head['registered'][1:]}.", ""]
    columns = ["contrast", "value", "data", "expected", "effect", "training", "general", "n", "N", "p"]
    columns += ["reported"] * reported + ["verdict", "reason"]
    table = [columns]
    for line in rest or [head]:
        decide = f"; {line['would_decide']}" if rest and line["would_decide"] else ""
        shown = line | {
            "expected": line["expected"] + (f" (±{line['margin']})" if line["margin"] else ""),
            "training": _span(line["training_low"], line["training_high"]),
            "general": _span(line["low"], line["high"]),
            "N": f"{int(line['images']):,}" if line["images"] != "0" else "",
            "p": "< 0.001" if line["p_holm"] and float(line["p_holm"]) < 0.001 else line["p_holm"],
            "reason": line["reason"] + decide,
        }
        table.append([shown[word] for word in columns])
    rows = [md_row(row) for row in table]
    return [*text, rows[0], "|" + "---|" * len(columns), *rows[1:], ""]


def _span(low: str, high: str) -> str:
    return f"{low} to {high}" if low else ""


def save_claims(study: Study, name: str, folder: str | Path) -> None:
    """Make the verdicts into ``folder`` as csv and md.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    write_texts(claim_files(study), name, folder)


TABLES.register(
    "claims",
    ArtefactKind(SUMMARY, save_claims, reads_reported=True, version=2, on_screen=verdict_lines),
    about="conclusions, each with the contrasts that test it and its verdict",
)
