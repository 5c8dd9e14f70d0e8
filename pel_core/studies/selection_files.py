"""The record of a selection under ``results/selections``: what was tried, what came out, what was chosen. Torch-free."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import write_json, write_text
from pel_core.common.registry import spell
from pel_core.studies.selection import Progress, Tried, follow, hours_of

if TYPE_CHECKING:
    from pel_core.studies.study import Study


def selection_folder(results: str | Path) -> Path:
    """Where the records of selections lie."""
    return Path(results) / "selections"


def write_selection(study: "Study", step: str) -> Progress:
    """Write what is chosen of a tuning: ``selections/NAME.json``, and the candidates' curve as ``.csv``; or which of its
    candidates go on after a rung: ``NAME.rung1``.

    Raises:
        PelError: there is no such selection, or a run of a candidate has no usable result; the message names it.
    """
    if step not in study.steps:
        raise unknown("selection", step, study.steps)
    tuning, rung = study.steps[step]
    progress = follow(study, tuning)
    if not progress.selection and step not in progress.decided:
        states = {slug: study.state(slug) for slug in progress.specs}
        lacking = next(slug for slug, state in states.items() if state not in ("done", "diverged"))
        raise PelError(f"nothing can be chosen yet: {lacking}: {states[lacking]}")
    folder = selection_folder(study.results)
    tried = [each for rung in progress.tried[: rung + 1] for each in rung]
    write_text(folder / f"{step}.csv", _curve(progress, tried))
    write_json(folder / f"{step}.json", _record(progress, tried, step))
    return progress


def outcome_word(progress: Progress, tried: Tried) -> str:
    """What becomes of a candidate after a rung: ``chosen``, ``goes on``, or nothing."""
    rung = tried.rung + 1
    if rung < len(progress.made):
        return "goes on" if tried.candidate in progress.made[rung] else ""
    found = progress.selection
    return "chosen" if found and found.chosen is tried.candidate else ""


def _record(progress: Progress, every: Sequence[Tried], step: str) -> dict[str, Any]:
    tuning, found, halving = progress.tuning, progress.selection, len(progress.tuning.sizes) > 1
    candidates = [
        {
            "settings": dict(each.candidate.settings),
            **({"epochs": each.epochs, "goes_on": outcome_word(progress, each) == "goes on"} if halving else {}),
            "mean": each.mean,
            "standard_error": each.error,
            "gflop_per_image": each.cost[0],
            "learnable_with_head": each.cost[1],
            "reason": each.reason,
            "runs": [{"run": run.slug, "score": run.score, "sha256": run.sha256} for run in each.outcomes],
        }
        for each in every
    ]
    outcomes = [run for each in every for run in each.outcomes]
    chosen = found and step == tuning.name
    return {
        "selection": step,
        "declaration": {key: value for key, value in tuning.declaration.items() if value is not None},
        "chosen": dict(found.chosen.settings) if chosen else None,
        "edges": tuning.edges(found.chosen) if chosen else {},
        "note": found.note if chosen else "",
        "runs": len(outcomes),
        "hours": hours_of(outcomes),
        "candidates": candidates,
    }


def _curve(progress: Progress, every: Sequence[Tried]) -> str:
    """A line for each candidate, in the order of the grid, rung by rung."""
    fields, halving = list(every[0].candidate.settings), len(progress.tuning.sizes) > 1
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    seeds = [f"s{run.spec.seed}" for run in every[0].outcomes]
    names = [*(["epochs"] if halving else []), *fields, "mean", "standard_error", *seeds, "gflop_per_image"]
    writer.writerow([*names, "learnable_with_head", "chosen", "reason"])
    for each in every:
        numbers = [each.mean, each.error, *(run.score for run in each.outcomes)]
        values = [*([each.epochs] if halving else []), *(spell(each.candidate.settings[name]) for name in fields)]
        word = {"chosen": "yes"}.get(told := outcome_word(progress, each), told)
        writer.writerow([*values, *("" if value is None else repr(value) for value in numbers), *each.cost, word, each.reason])
    return out.getvalue()
