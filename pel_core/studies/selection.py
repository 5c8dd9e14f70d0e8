"""A tuning's candidates as they came out -> which is chosen, and why. A pure function of their metrics.json. Torch-free.

Nothing here reads what was chosen before: another score, another candidate or another rule chooses anew. The files under
``results/selections`` are a record for people.
"""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.files import sha256, write_json, write_text
from pel_core.common.registry import spell
from pel_core.spec.choices import METRICS
from pel_core.spec.outcomes import reason_of
from pel_core.spec.posthoc import stored_runs
from pel_core.spec.records import number, why_none
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.cells import Artefact, Cell, Claim, Contrast
from pel_core.studies.gflop import training_gflop
from pel_core.studies.selection_rules import SELECTION_RULES, Scored
from pel_core.studies.tuning import Candidate, Tuning

if TYPE_CHECKING:
    from pel_core.studies.study import Study

NOTHING = "no candidate has a score, so the row keeps the settings nearest to its own"


@dataclass(frozen=True)
class Outcome:
    """What came out of one run of a candidate: its score, or ``reason`` why there is none; hours on one device of training and
    of evaluation, if known."""

    spec: RunSpec
    score: float | None
    reason: str
    hours: tuple[float, float] | None
    parameters: int
    sha256: str
    diverged: bool = False

    @property
    def slug(self) -> str:
        """The run's name."""
        return self.spec.slug


@dataclass(frozen=True)
class Tried:
    """A candidate and its outcomes. It has a ``mean`` if every run of it has a score: a mean of survivors says nothing."""

    candidate: Candidate
    outcomes: tuple[Outcome, ...]

    @property
    def mean(self) -> float | None:
        """Of the scores over seeds."""
        scores = [outcome.score for outcome in self.outcomes]
        return None if None in scores else statistics.fmean(scores)

    @property
    def error(self) -> float | None:
        """The standard error of the mean over seeds; None of one seed."""
        if self.mean is None or len(self.outcomes) < 2:
            return None
        return statistics.stdev(outcome.score for outcome in self.outcomes) / math.sqrt(len(self.outcomes))

    @property
    def diverged(self) -> bool:
        """Whether the training of a run of it diverged."""
        return any(outcome.diverged for outcome in self.outcomes)

    @property
    def reason(self) -> str:
        """Why it is no choice; empty where it is one."""
        return "; ".join(dict.fromkeys(outcome.reason for outcome in self.outcomes if outcome.reason))

    @property
    def cost(self) -> tuple[float, int]:
        """Of one run: GFLOP for each training image, epochs counted, and parameters that are learnt."""
        spec = self.outcomes[0].spec
        return spec.epochs * training_gflop(spec), self.outcomes[0].parameters


@dataclass(frozen=True)
class Selection:
    """What was chosen of a tuning. ``note`` says where nothing could be compared."""

    tuning: Tuning
    tried: tuple[Tried, ...]
    chosen: Candidate
    note: str = ""

    @property
    def runs(self) -> int:
        """Runs that it took."""
        return len(self.tuning.specs)

    @property
    def hours(self) -> float:
        """Hours on one device that these took, as far as they say."""
        return hours_of(outcome for tried in self.tried for outcome in tried.outcomes)

    @property
    def untimed(self) -> int:
        """Runs that do not say how long they took: those that diverged."""
        return sum(outcome.hours is None for tried in self.tried for outcome in tried.outcomes)


def hours_of(outcomes: Iterable[Outcome]) -> float:
    """Hours on one device that runs took, as far as they say: a training that several evaluations share counts once,
    and so do predictions."""
    training, evaluation = dict[str, float](), dict[str, float]()
    for outcome in outcomes:
        if outcome.hours is not None:
            training[outcome.spec.train.slug], evaluation[stored_runs(outcome.spec)[0].slug] = outcome.hours
    return sum(training.values()) + sum(evaluation.values())


def select(study: "Study", tuning: Tuning) -> Selection | None:
    """What is chosen of a tuning; None where a run of a candidate has no outcome yet."""
    by, tried = tuning.declaration["by"], []
    for candidate in tuning.candidates:
        outcomes = []
        for spec in candidate.specs:
            state, record = study.outcome(spec.slug)
            if state not in ("done", "diverged"):
                return None
            outcomes.append(_outcome(study, spec, by, state, record))
        tried.append(Tried(candidate, tuple(outcomes)))
    return choose(tuning, tuple(tried))


def choose(tuning: Tuning, tried: tuple[Tried, ...]) -> Selection:
    """Apply a tuning's rule to what came out."""
    sign = -1 if METRICS[tuning.declaration["by"]].better == "lower" else 1
    scored: dict[int, Scored] = {}
    for place, each in enumerate(tried):
        if each.mean is not None:
            scored[place] = Scored(sign * each.mean, each.error, each.cost, (*each.candidate.change, place))
    if not scored:
        return Selection(tuning, tried, tuning.nearest, NOTHING)
    chosen = SELECTION_RULES[tuning.declaration["select"]]().choose(list(scored.values()))
    place = next(place for place, each in scored.items() if each is chosen)
    return Selection(tuning, tried, tried[place].candidate)


def _outcome(study: "Study", spec: RunSpec, by: str, state: str, record: Mapping[str, Any]) -> Outcome:
    digest = sha256(Path(study.result_file(spec.slug)))
    if state == "diverged":
        return Outcome(spec, None, f"diverged: {reason_of(record)}", None, _learnt(record), digest, True)
    score = number(record, f"metrics.{by}")
    training, evaluation = ((record.get(part) or {}).get("seconds") or 0.0 for part in ("training", "evaluation"))
    reason = "" if score is not None else f"no {by}: {why_none(record, f'metrics.{by}')}"
    return Outcome(spec, score, reason, (training / 3600, evaluation / 3600), _learnt(record), digest)


def _learnt(record: Mapping[str, Any]) -> int:
    return record.get("parameters", {}).get("learnable_with_head", 0)


def with_choices(artefact: Artefact, selections: Mapping[str, Selection]) -> Artefact:
    """An artefact whose tuned cells have their runs, as far as their settings are chosen."""

    def cell(old: Cell) -> Cell:
        found = selections.get(old.tuned.tuning.name) if old.tuned else None
        return replace(old, specs=old.tuned.finals(found.chosen)) if old.tuned and found else old

    def pairs(old: Sequence[tuple[Cell, Cell]]) -> tuple[tuple[Cell, Cell], ...]:
        return tuple((cell(a), cell(b)) for a, b in old)

    def contrast(old: Contrast) -> Contrast:
        return replace(old, pairs=pairs(old.pairs), minus=pairs(old.minus))

    def claim(old: Claim) -> Claim:
        return replace(old, contrasts=tuple(map(contrast, old.contrasts)))

    if not artefact.tunings:
        return artefact
    return replace(artefact, cells=tuple(map(cell, artefact.cells)), claims=tuple(map(claim, artefact.claims)))


def selection_folder(results: str | Path) -> Path:
    """Where the records of selections lie."""
    return Path(results) / "selections"


def write_selection(study: "Study", name: str) -> Selection:
    """Write what is chosen of a tuning: ``selections/NAME.json``, and the candidates' curve as ``.csv``.

    Raises:
        PelError: a run of a candidate has no usable result; the message names it.
    """
    tuning = study.tunings[name]
    found = select(study, tuning)
    if found is None:
        states = {slug: study.state(slug) for slug in tuning.specs}
        lacking = next(slug for slug, state in states.items() if state not in ("done", "diverged"))
        raise PelError(f"nothing can be chosen yet: {lacking}: {states[lacking]}")
    folder = selection_folder(study.results)
    write_text(folder / f"{name}.csv", _curve(found))
    write_json(folder / f"{name}.json", _record(found))
    return found


def _record(found: Selection) -> dict[str, Any]:
    tuning = found.tuning
    about = {key: value for key, value in tuning.declaration.items() if value is not None}
    candidates = [
        {
            "settings": dict(each.candidate.settings),
            "mean": each.mean,
            "standard_error": each.error,
            "gflop_per_image": each.cost[0],
            "learnable_with_head": each.cost[1],
            "reason": each.reason,
            "runs": [{"run": run.slug, "score": run.score, "sha256": run.sha256} for run in each.outcomes],
        }
        for each in found.tried
    ]
    return {
        "selection": tuning.name,
        "declaration": about,
        "chosen": dict(found.chosen.settings),
        "edges": tuning.edges(found.chosen),
        "note": found.note,
        "runs": found.runs,
        "hours": found.hours,
        "candidates": candidates,
    }


def _curve(found: Selection) -> str:
    """A line for each candidate, in the order of the grid."""
    fields = list(found.chosen.settings)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    seeds = [f"s{run.spec.seed}" for run in found.tried[0].outcomes]
    writer.writerow([*fields, "mean", "standard_error", *seeds, "gflop_per_image", "learnable_with_head", "chosen", "reason"])
    for each in found.tried:
        numbers = [each.mean, each.error, *(run.score for run in each.outcomes)]
        values = [spell(each.candidate.settings[name]) for name in fields]
        cells = ["" if value is None else repr(value) for value in numbers]
        chosen = "yes" if each.candidate is found.chosen else ""
        writer.writerow([*values, *cells, *each.cost, chosen, each.reason])
    return out.getvalue()
