"""A tuning's candidates as they came out -> which is chosen, and why. A pure function of their metrics.json. Torch-free.

Nothing here reads what was chosen before: another score, another candidate or another rule chooses anew. The files under
``results/selections`` are a record for people.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pel_core.common.counts import count_of
from pel_core.common.files import sha256
from pel_core.spec.choices import METRICS
from pel_core.spec.outcomes import reason_of
from pel_core.spec.posthoc import stored_runs
from pel_core.spec.records import number, why_none
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.cells import Artefact, Cell, Claim, Contrast
from pel_core.studies.gflop import training_gflop
from pel_core.studies.selection_rules import SELECTION_RULES, BestMean, Scored
from pel_core.studies.tuning import Candidate, Tuning

if TYPE_CHECKING:
    from pel_core.studies.study import Study

NOTHING = "no candidate{on} has a score, so the row keeps the settings nearest to its own"


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
    """A candidate and its outcomes on a rung. It has a ``mean`` if every run of it has a score: one of survivors says nothing."""

    candidate: Candidate
    outcomes: tuple[Outcome, ...]
    rung: int = 0

    @property
    def epochs(self) -> int:
        """Of a run on its rung."""
        return self.outcomes[0].spec.epochs

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
    """What was chosen of a tuning. ``tried``: its candidates, rung by rung; ``note`` says where nothing could be compared."""

    tuning: Tuning
    tried: tuple[Tried, ...]
    chosen: Candidate
    note: str = ""

    @property
    def runs(self) -> int:
        """Runs that it took."""
        return sum(len(each.outcomes) for each in self.tried)

    @property
    def hours(self) -> float:
        """Hours on one device that these took, as far as they say."""
        return hours_of(outcome for tried in self.tried for outcome in tried.outcomes)

    @property
    def untimed(self) -> int:
        """Runs that do not say how long they took: those that diverged."""
        return sum(outcome.hours is None for tried in self.tried for outcome in tried.outcomes)


@dataclass(frozen=True)
class Progress:
    """How far a tuning has come. ``made``: the candidates of each rung that is known, ``tried``: those of the rungs whose runs
    all have an outcome; ``selection``: what is chosen, once it is."""

    tuning: Tuning
    made: tuple[tuple[Candidate, ...], ...]
    tried: tuple[tuple[Tried, ...], ...]
    selection: Selection | None = None

    @cached_property
    def specs(self) -> dict[str, RunSpec]:
        """The runs that are known to be needed, by slug."""
        return self.specs_to(len(self.made))

    def specs_to(self, rungs: int) -> dict[str, RunSpec]:
        """Those of the first rungs."""
        members = enumerate(self.made[:rungs])
        return {spec.slug: spec for rung, each in members for candidate in each for spec in candidate.rungs[rung]}

    @property
    def decided(self) -> tuple[str, ...]:
        """The steps of the tuning that are decided, its own name once one is chosen."""
        steps = self.tuning.steps
        return (*steps[: len(self.tried) - 1], steps[-1]) if self.selection else steps[: len(self.tried)]

    @property
    def to_come(self) -> list[RunSpec]:
        """Runs on rungs whose candidates are not known yet, at most: those of the settings nearest to the row's own."""
        if self.selection:
            return []
        places = range(len(self.made), len(self.tuning.sizes))
        nearest = self.tuning.by_change
        return [spec for rung in places for each in nearest[: self.tuning.sizes[rung]] for spec in each.rungs[rung]]


def hours_of(outcomes: Iterable[Outcome]) -> float:
    """Hours on one device that runs took, as far as they say: a training that several evaluations share counts once,
    and so do predictions."""
    training, evaluation = dict[str, float](), dict[str, float]()
    for outcome in outcomes:
        if outcome.hours is not None:
            training[outcome.spec.train.slug], evaluation[stored_runs(outcome.spec)[0].slug] = outcome.hours
    return sum(training.values()) + sum(evaluation.values())


def follow(study: "Study", tuning: Tuning) -> Progress:
    """How far a tuning has come: rung by rung, until runs have no outcome yet or one candidate is chosen."""
    members, reached, made = tuning.candidates, list[tuple[Tried, ...]](), list[tuple[Candidate, ...]]()
    while True:
        place = len(reached)
        made.append(members)
        tried = tuple(takewhile(bool, (_tried(study, tuning, candidate, place) for candidate in members)))
        if len(tried) < len(members):
            return Progress(tuning, tuple(made), tuple(reached))
        reached.append(tried)
        if (members := survivors(tuning, reached[-1])) is None:
            return Progress(tuning, tuple(made), tuple(reached), choose(tuning, tuple(reached)))


def survivors(tuning: Tuning, tried: tuple[Tried, ...]) -> tuple[Candidate, ...] | None:
    """The candidates of a rung that go on to the next: those of the highest means, in the order of the grid; of equal means the
    smaller change. None where there is nothing more to compare: after the last rung, or where fewer than two have a score."""
    place, scored = tried[0].rung + 1, _scored(tuning, tried)
    if place == len(tuning.sizes) or len(scored) < 2:
        return None
    left, kept = dict(scored), set[int]()
    while left and len(kept) < tuning.sizes[place]:
        best = BestMean().choose(list(left.values()))
        found = next(i for i, each in left.items() if each is best)
        kept.add(found)
        del left[found]
    return tuple(each.candidate for i, each in enumerate(tried) if i in kept)


def choose(tuning: Tuning, rungs: tuple[tuple[Tried, ...], ...]) -> Selection:
    """Apply a tuning's rule to what came out on the last rung that was reached."""
    every, last = tuple(each for rung in rungs for each in rung), rungs[-1]
    scored = _scored(tuning, last)
    on = f" of those on the rung of {count_of(last[0].epochs, 'epoch')}" if len(tuning.sizes) > 1 else ""
    if not scored:
        return Selection(tuning, every, tuning.nearest, NOTHING.format(on=on))
    note = f"the only one{on} with a score, so it was tried no further" if len(rungs) < len(tuning.sizes) else ""
    chosen = SELECTION_RULES[tuning.declaration["select"]]().choose(list(scored.values()))
    place = next(place for place, each in scored.items() if each is chosen)
    return Selection(tuning, every, last[place].candidate, note)


def _scored(tuning: Tuning, tried: Iterable[Tried]) -> dict[int, Scored]:
    """Candidates of a rung as rules see them, by their place; those that have a score."""
    sign = -1 if METRICS[tuning.declaration["by"]].better == "lower" else 1
    return {
        place: Scored(sign * each.mean, each.error, each.cost, (*each.candidate.change, place))
        for place, each in enumerate(tried)
        if each.mean is not None
    }


def _tried(study: "Study", tuning: Tuning, candidate: Candidate, place: int) -> Tried | None:
    """A candidate with its outcomes on a rung; None where a run of it has none yet."""
    outcomes = []
    for spec in candidate.rungs[place]:
        state, record = study.outcome(spec.slug)
        if state not in ("done", "diverged"):
            return None
        outcomes.append(_outcome(study, spec, tuning.declaration["by"], state, record))
    return Tried(candidate, tuple(outcomes), place)


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
