"""SOUPS: how several trained runs become one, by averaging what was trained (model soups, Wortsman et al. 2022).

An entry chooses the runs that are averaged: a function of how many there are, of what a mean of some of them (by their positions)
scores on the validation split in percent, and of its own knobs; it returns positions. The score is asked for where an entry
``validates``. What is averaged are tensors as they train: docs/averaging.md says of which methods their mean means something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.lazy import torch
from pel_core.common.registry import Knob, one_of
from pel_core.spec.choices import SOUPS

if TYPE_CHECKING:
    from torch import Tensor

    from pel_core.spec.run_spec import RunSpec
    from pel_core.training.classifier import Classifier
    from pel_core.training.parents import Parent

Score = Callable[[tuple[int, ...]], float]


@dataclass(frozen=True)
class Soup:
    """How the runs of a soup are chosen. ``validates``: whether validation images are looked at."""

    choose: Callable[..., Sequence[int]]
    validates: bool = False


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


SOUPS.register("none", Soup(nothing), about="No soup: a run starts from one other at most.")
SOUPS.register("uniform", Soup(uniform), about="The mean of all runs that are named (Wortsman et al. 2022).")
SOUPS.register(
    "greedy",
    Soup(greedy, validates=True),
    about="The mean of the best run on the validation split and of each other, from better to worse, that does not make it worse "
    "there (recipe 1 of Wortsman et al. 2022).",
    knobs=(METRIC,),
)


def mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of tensors of the same names and shapes, summed in float64."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype) for name, value in states[0].items()
    }


def cook(
    classifier: Classifier, spec: RunSpec, parents: Sequence[Parent], validation: Callable[[], tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    """Put the mean of the chosen parents into the classifier, as far as the run takes them over.

    Args:
        parents: each fits the classifier (`parents.take_over` has seen to it).
        validation: predicts the validation split: logits (N, C), labels (N,).

    Returns:
        What train.json says of it: the slugs that were averaged, the best first; and where a validation split was asked what each
        mean scored, by the positions of its runs.

    Raises:
        PelError: the runs hold different tensors.
    """
    for parent in parents[1:]:
        if other := sorted(parent.state.keys() ^ parents[0].state.keys()):
            found = f"'{other[0]}' is in one of {parents[0].spec.slug} and {parent.spec.slug} alone"
            raise PelError(f"{spec.slug}: the runs of a soup hold the same tensors, and {found}")
    scores: dict[str, float] = {}
    states = [parent.state for parent in parents]
    metric = spec.knobs_of("soup").get("metric", "overall")
    own = {name: value for name, value in classifier.trainable_state().items() if name == "head.scales"}

    def put(positions: Sequence[int]) -> None:  # factors that the parents' classes do not have start at 1, as in `take_over`
        classifier.load_trainable(own | mean([states[position] for position in sorted(positions)]), spec.take)

    @cache
    def score(positions: tuple[int, ...]) -> float:
        put(positions)
        scores[",".join(map(str, positions))] = found = accuracy(*validation(), metric)
        return found

    taken = SOUPS[spec.soup].choose(len(states), lambda positions: score(tuple(sorted(positions))), **spec.knobs_of("soup"))
    put(taken)
    record: dict[str, Any] = {"taken": [parents[position].spec.slug for position in taken]}
    return record | ({"validation": {"metric": metric, "scores": scores}} if scores else {})


def accuracy(logits: Tensor, labels: Tensor, metric: str) -> float:
    """Percent of images (N) that logits (N, C) have right: of all, or the mean over the classes that have some."""
    right = (logits.argmax(1) == labels).double()
    if metric == "overall":
        return 100 * float(right.mean())
    return 100 * float(torch.stack([right[labels == label].mean() for label in labels.unique()]).mean())
