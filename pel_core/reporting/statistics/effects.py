"""Effects: a value, a paired difference, the mean of differences over data sets, a difference of differences.

An effect is a sum of weight x row (a method's runs on a data set) for one metric, with both intervals. Rows on one test set are
paired by seed and by image; test sets are independent of each other, and so are runs on different ones. Two long-tailed versions
of one data set have the same test images: their rows are paired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pel_core.reporting.statistics.image_part import ImagePart, closed_form, resampled, strata_of
from pel_core.reporting.statistics.intervals import Interval, Variances, general, quantile, training
from pel_core.reporting.statistics.resample import draw_values, resamples
from pel_core.reporting.statistics.runs import Row, require_same_images
from pel_core.reporting.statistics.values import is_linear, linear, metric_name, outcomes, value
from pel_core.spec.choices import METRICS

LEAST_SEEDS = 3  # below, no mark and no verdict: at two seeds the error is up to 13 % instead of 5
Term = tuple[Row, Fraction]


@dataclass(frozen=True)
class Effect:
    """A value or contrast of one metric with both intervals.

    Args:
        metric: its name; points are percent (nats for nll).
        mean: over seeds and data sets; None where there is no value, see ``reason``.
        sd: sample standard deviation over seeds; None for one seed, for deterministic rows, and over several test sets.
        values: at each seed of ``seeds``; of several test sets the mean there, if all have these seeds, else empty.
        seeds: those that every row has; of several test sets of the one with the fewest.
        images: how many test images take part, all test sets together.
        deterministic: nothing depends on the seed.
        training: "another run, this test set".
        general: "another run, other test images"; marks and verdicts use this one.
        parts: the variances of what each test set contributes to the mean.
        reason: why there is no mean.
        notes: what a reader has to know besides, in sentences.
    """

    metric: str
    mean: float | None
    sd: float | None
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    images: int
    deterministic: bool
    training: Interval
    general: Interval
    parts: tuple[Variances, ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def p(self) -> float | None:
        """Two-sided p-value of "no effect" by the general interval; None where that has no width."""
        return self.general.p()

    @property
    def undecidable(self) -> str:
        """Why no mark and no verdict may rest on it; empty where one may."""
        if self.reason:
            return self.reason
        fewest = min(part.seeds for part in self.parts if not part.deterministic) if not self.deterministic else LEAST_SEEDS
        if fewest < LEAST_SEEDS:
            return f"{'one seed' if fewest == 1 else 'two seeds'}; at least three"
        return self.general.reason


def value_of(row: Row, metric: str) -> Effect:
    """A row's value with both intervals."""
    return _effect(metric_name(metric), [[(row, Fraction(1))]])


def difference(a: Row, b: Row, metric: str) -> Effect:
    """a minus b, paired by seed and by image.

    Raises:
        PelError: their test sets differ; naming two runs.
    """
    return contrast([(a, b)], metric)


def contrast(pairs: Sequence[tuple[Row, Row]], metric: str, minus: Sequence[tuple[Row, Row]] = ()) -> Effect:
    """The mean over pairs, one per data set, of a minus b; less that of ``minus``, which makes it an interaction.

    Raises:
        PelError: no pair, or one whose test sets differ; naming two runs.
    """
    name = metric_name(metric)
    terms: list[Term] = []
    for group, sign in ((pairs, 1), (minus, -1)):
        for a, b in group:
            require_same_images(a.runs[0], b.runs[0])
            share = Fraction(sign, len(group))
            terms += [(a, share), (b, -share)]
    return _effect(name, _by_test_set(terms))


def combination(terms: Sequence[Term], metric: str) -> Effect:
    """The sum of weight x row, of whatever test sets; rows of weight 0 take no part. ``parts`` are in the order in which the test
    sets come."""
    return _effect(metric_name(metric), _by_test_set([term for term in terms if term[1]]))


def _by_test_set(terms: Sequence[Term]) -> list[list[Term]]:
    blocks: dict[str, list[Term]] = {}
    for term in terms:
        blocks.setdefault(term[0].images.digest, []).append(term)
    return list(blocks.values())


def _effect(metric: str, blocks: Sequence[Sequence[Term]]) -> Effect:
    """The sum over test sets of the sum over their rows of weight x value."""
    if not blocks:
        return _none(metric, "there is nothing to compare", ())
    made = [_Block(metric, terms) for terms in blocks]
    notes = tuple(dict.fromkeys(note for block in made for note in block.notes))
    if reason := next((block.reason for block in made if block.reason), ""):
        return _none(metric, reason, notes)
    mean = float(sum((sum(block.values, Fraction(0)) / len(block.values) for block in made), Fraction(0)))
    parts = [block.variances for block in made]
    bounds = _bounds(metric) if len(blocks) == 1 and len(blocks[0]) == 1 else (-math.inf, math.inf)
    intervals = [how(mean, parts) for how in (training, general)]
    intervals = [Interval(each.mean, each.se, each.df, each.reason, *bounds) for each in intervals]
    seeded = [block for block in made if not block.deterministic]
    fewest = min((block.seeds for block in seeded), key=len, default=())
    together = bool(seeded) and all(block.seeds == fewest for block in seeded)
    at = [sum((b.values[0 if b.deterministic else i] for b in made), Fraction(0)) for i in range(len(fewest))] if together else []
    one = parts[0].v if len(parts) == 1 else None
    return Effect(
        metric, mean, None if one is None else math.sqrt(one), tuple(map(float, at)), fewest, sum(part.images for part in parts),
        not seeded, *intervals, parts=tuple(parts), notes=notes,
    )  # fmt: skip


def _none(metric: str, reason: str, notes: tuple[str, ...]) -> Effect:
    empty = Interval(None, None, reason=reason)
    return Effect(metric, None, None, (), (), 0, False, empty, empty, reason=reason, notes=notes)


def _bounds(metric: str) -> tuple[float, float]:
    percent = metric not in METRICS or METRICS[metric].percent
    return (0.0, 100.0) if percent else (0.0 if metric == "nll" else -math.inf, math.inf)


class _Block:
    """The rows of an effect that share a test set: ``values`` at each of ``seeds``, ``variances``, or the ``reason`` for none."""

    def __init__(self, metric: str, terms: Sequence[Term]):
        self.metric, self.terms, self.reason = metric, terms, ""
        self.rows = [row for row, _ in terms]
        self.notes = [note for row in self.rows for note in row.notes]
        seeded = [row for row in self.rows if not row.deterministic]
        self.deterministic = not seeded
        self.seeds = tuple(sorted(set.intersection(*(set(row.seeds) for row in seeded)))) if seeded else ()
        for row in seeded:
            if len(row.seeds) > len(self.seeds):
                left = ", ".join(str(seed) for seed in row.seeds if seed not in self.seeds)
                self.notes.append(f"{row.name}: seed {left} left out, which not every method has")
        if seeded and not self.seeds:
            self.reason = f"no seed is common to {' and '.join(dict.fromkeys(row.name for row in seeded))}"
            return
        at = self.seeds or (0,)
        self.values: list[Fraction] = []
        for seed in at:
            total = Fraction(0)
            for row, weight in terms:
                found = value(metric, row.run(seed))
                if isinstance(found, tuple):
                    self.reason = f"{row.name}: {found[1]}"
                    return
                total += weight * found
            self.values.append(total)
        self.variances = self._variances(at)

    def _variances(self, at: Sequence[int]) -> Variances:
        count = len(at)
        part, images, reason = self._linear(at) if is_linear(self.metric) else self._resampled(at)
        v = _variance(self.values) if count > 1 else None
        if part is None:
            return Variances(count, images, self.deterministic, v, None, 0.0, 0, reason)
        cov = part.single if part.cov is None else part.cov
        within = 0.0 if part.cov is None else part.within
        if not part.single and not v:
            if not is_linear(self.metric) or self.metric == "nll":
                none = "no test image makes a difference at any seed, so there is no width to estimate"
                return Variances(count, images, self.deterministic, v, None, 0.0, part.df, none)
            cov = _unseen(images, part.df) * float(max(abs(weight) for _, weight in self.terms)) ** 2
        return Variances(count, images, self.deterministic, v, cov, within, part.df)

    def _linear(self, at: Sequence[int]) -> tuple[ImagePart | None, int, str]:
        """Closed form; ``z`` is the sum over rows of weight x outcome, for each seed and image."""
        images = self.rows[0].images
        z, taken = np.zeros((len(at), len(images))), np.zeros(len(images), bool)
        for row, weight in self.terms:
            how = linear(self.metric, row.images, row.runs[0].groups)
            assert how is not None, "a null metric has no value"
            scale = float(weight) * how.weights
            taken |= how.weights != 0
            for i, seed in enumerate(at):
                z[i] += scale * outcomes(self.metric, row.run(seed))
        strata = strata_of(images.labels, taken)
        if strata is None:
            return None, int(taken.sum()), "one test image says nothing of other images"
        return closed_form(z, strata), int(taken.sum()), ""

    def _resampled(self, at: Sequence[int]) -> tuple[ImagePart | None, int, str]:
        images = self.rows[0].images
        total = None
        for row, weight in self.terms:
            found = []
            for seed in at:
                run = row.run(seed)
                draw_values(run, [self.metric])
                draws = run.draws[self.metric]
                if isinstance(draws, str):
                    return None, len(images), f"{row.name}: {draws}"
                found.append(float(weight) * draws)
            total = np.stack(found) if total is None else total + np.stack(found)
        made = resamples(images)
        assert total is not None and made is not None
        return resampled(total, made.df), len(images), ""


def _variance(values: Sequence[Fraction]) -> float:
    """Sample variance in exact arithmetic: 0 only of equal values."""
    mean = sum(values, Fraction(0)) / len(values)
    return float(sum(((value - mean) ** 2 for value in values), Fraction(0)) / (len(values) - 1))


def _unseen(images: int, df: int) -> float:
    """Variance to assume where no image tells the seeds or methods apart, in squared points.

    Of N images of which none differs, up to 1 - 0.025^(1/N) of all images may (Clopper and Pearson 1934; about 3.7 / N): an
    interval from the variance reaches as far.
    """
    reach = 100.0 * (1 - 0.025 ** (1 / images))
    return (reach / quantile(0.975, df)) ** 2
