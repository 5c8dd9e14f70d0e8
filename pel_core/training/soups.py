"""SOUPS: how several trained runs become one, by averaging what was trained (model soups, Wortsman et al. 2022).

An entry chooses the runs that are averaged: a function of how many there are, of what a mean of some of them (by their positions)
scores on the validation split in percent, and of its own knobs; it returns positions. The score is asked for where an entry
``validates``. They are averaged by equal shares, or by those that the entry's ``shares`` says. What is averaged are tensors as
they train: docs/averaging.md says of which methods their mean means something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.lazy import torch
from pel_core.common.registry import Check, Knob, one_of
from pel_core.spec.choices import SOUPS
from pel_core.spec.parents import is_of

if TYPE_CHECKING:
    from torch import Tensor

    from pel_core.spec.run_spec import RunSpec
    from pel_core.training.classifier import Classifier
    from pel_core.training.parents import Parent

Score = Callable[[tuple[int, ...]], float]


@dataclass(frozen=True)
class Soup:
    """How the runs of a soup are chosen. ``validates``: whether validation images are looked at. ``shares``: of the kinds of the
    chosen runs (alike but for their seed: the same kind), in their order, and of the entry's knobs, the share of the start of
    the training, and that of each run; together 1."""

    choose: Callable[..., Sequence[int]]
    validates: bool = False
    shares: Callable[..., tuple[float, list[float]]] | None = None


def nothing(count: int, score: Score) -> Sequence[int]:
    """No soup: a run starts from one other at most."""
    return range(count)


def uniform(count: int, score: Score) -> Sequence[int]:
    """The mean of all runs."""
    return range(count)


METRIC = Knob(
    "metric",
    "overall",
    "accuracy of validation images, or its mean over the classes that have some",
    one_of("overall", "mean_class"),
)


def greedy(count: int, score: Score, metric: str = "overall") -> Sequence[int]:
    """The best run on the validation split, then each other from better to worse as long as the mean's score does not fall
    (recipe 1 of the paper). ``metric`` is what ``score`` measures."""
    alone = [score((position,)) for position in range(count)]
    first, *others = sorted(range(count), key=lambda position: -alone[position])
    taken, best = (first,), alone[first]
    for position in others:
        if (found := score((*taken, position))) >= best:
            taken, best = (*taken, position), found
    return taken


WEIGHT = Knob(
    "weight",
    0.7,
    "a of w <- (1 - a) w + a w_i: what the next run counts beside all before it",
    Check("above 0 and at most 1", lambda value: 0 < value <= 1),
)


def fold(kinds: Sequence[str], weight: float) -> tuple[float, list[float]]:
    """The shares of w <- (1 - a) w + a w_i, from the start of the training on, over the kinds of runs in their order. Runs of one
    kind are averaged first (`train_soups` of LT-Soups' public code, there two of each subset and a = 0.7)."""
    order = list(dict.fromkeys(kinds))
    of_kind = {kind: weight * (1 - weight) ** (len(order) - 1 - place) for place, kind in enumerate(order)}
    return (1 - weight) ** len(order), [of_kind[kind] / list(kinds).count(kind) for kind in kinds]


SOUPS.register("none", Soup(nothing), about="No soup: a run starts from one other at most.")
SOUPS.register("uniform", Soup(uniform), about="The mean of all runs that are named (Wortsman et al. 2022).")
SOUPS.register(
    "greedy",
    Soup(greedy, validates=True),
    about="The mean of the best run on the validation split and of each other, from better to worse, that does not make it worse "
    "there (recipe 1 of Wortsman et al. 2022).",
    knobs=(METRIC,),
)
SOUPS.register(
    "fold",
    Soup(uniform, shares=fold),
    about="w <- (1 - a) w + a w_i from the zero-shot start on, in the order in which runs are named; those that differ in their "
    "seed alone are averaged first (LT-Soups, arXiv 2511.10683).",
    knobs=(WEIGHT,),
)


def mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of tensors of the same names and shapes, summed in float64."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype) for name, value in states[0].items()
    }


def summed(shares: Sequence[float], states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sum of shares of the tensors of the last of ``states``, in float64; each holds their names."""
    last = states[-1]
    total = {name: sum(share * state[name].double() for share, state in zip(shares, states, strict=True)) for name in last}
    return {name: value.to(last[name].dtype) for name, value in total.items()}


def cook(
    classifier: Classifier,
    spec: RunSpec,
    parents: Sequence[Parent],
    validation: Callable[[], tuple[Tensor, Tensor]],
    start: dict[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Put the mean of the chosen parents into the classifier, as far as the run takes them over.

    Args:
        parents: each fits the classifier (`parents.take_over` has seen to it).
        validation: predicts the validation split: logits (N, C), labels (N,).
        start: the classifier's tensors before it took anything over, for an entry with shares.

    Returns:
        What train.json says of it: the slugs that were averaged, the best first; where a validation split was asked what each
        mean scored, by the positions of its runs; and where there are shares, that of the start and of each run.

    Raises:
        PelError: the runs hold different tensors.
    """
    states = [{name: value for name, value in parent.state.items() if is_of(spec.take, name)} for parent in parents]
    for parent, state in zip(parents[1:], states[1:], strict=True):
        if other := sorted(state.keys() ^ states[0].keys()):
            found = f"'{other[0]}' is in one of {parents[0].spec.slug} and {parent.spec.slug} alone"
            raise PelError(f"{spec.slug}: the runs of a soup hold the same tensors, and {found}")
    scores: dict[str, float] = {}
    metric = spec.knobs_of("soup").get("metric", "overall")
    own = {name: value for name, value in classifier.trainable_state().items() if name == "head.scales"}

    def put(positions: Sequence[int]) -> None:  # factors that the parents' classes do not have start at 1, as in `take_over`
        classifier.load_trainable(own | mean([states[position] for position in sorted(positions)]), spec.take)

    @cache
    def score(positions: tuple[int, ...]) -> float:
        put(positions)
        scores[",".join(map(str, positions))] = found = accuracy(*validation(), metric)
        return found

    entry, knobs = SOUPS[spec.soup], spec.knobs_of("soup")
    chosen = {} if entry.shares else knobs
    taken = entry.choose(len(states), lambda positions: score(tuple(sorted(positions))), **chosen)
    record: dict[str, Any] = {"taken": [parents[position].spec.slug for position in taken]}
    if entry.shares:
        first, rest = entry.shares([kind_of(parents[position].spec) for position in taken], **knobs)
        found = summed([first, *rest], [start or {}, *(states[position] for position in taken)])
        classifier.load_trainable(own | found, spec.take)
        record["shares"] = [first, *rest]
    else:
        put(taken)
    return record | ({"validation": {"metric": metric, "scores": scores}} if scores else {})


def kind_of(spec: RunSpec) -> str:
    """A run without its seed."""
    return re.sub(r"[.]s[0-9]+", "", spec.slug, count=1)


def accuracy(logits: Tensor, labels: Tensor, metric: str) -> float:
    """Percent of images (N) that logits (N, C) have right: of all, or the mean over the classes that have some."""
    right = (logits.argmax(1) == labels).double()
    if metric == "overall":
        return 100 * float(right.mean())
    return 100 * float(torch.stack([right[labels == label].mean() for label in labels.unique()]).mean())
