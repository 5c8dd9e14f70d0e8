"""Verdicts of claims by the general interval: holds, refuted, undecided; and what would decide.

A claim holds when each of its parts does at the nominal level: an intersection-union test, which needs no correction (Berger
1982, Technometrics 24(4), 295-300). It is refuted when at least one part is after Holm's correction over the parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pel_core.reporting.statistics.effects import Effect
from pel_core.reporting.statistics.intervals import LEVEL
from pel_core.reporting.statistics.marks import holm
from pel_core.reporting.statistics.power import Needed, needed

Expect = Literal["higher", "lower", "equal"]
Verdict = Literal["holds", "refuted", "undecided"]


@dataclass(frozen=True)
class Part:
    """A contrast of a claim, judged.

    Args:
        effect: with both intervals.
        expect: higher (than ``margin``), lower (than minus ``margin``), or equal (within ``margin``).
        p, p_adjusted: two-sided, of "no effect"; by Holm over the claim's parts.
        p_against, p_against_adjusted: two-sided, of what the claim says; a part is refuted where the latter is at most 5 %.
        verdict, reason: in words.
        needed: what would decide it, where it is undecided.
    """

    effect: Effect
    expect: Expect
    margin: float
    p: float | None
    p_adjusted: float | None
    p_against: float | None
    p_against_adjusted: float | None
    verdict: Verdict
    reason: str
    needed: Needed | None = None


@dataclass(frozen=True)
class Judged:
    """A claim: its verdict, the reason, and its parts."""

    verdict: Verdict
    reason: str
    parts: tuple[Part, ...]


def judge(parts: Sequence[tuple[Effect, Expect, float]]) -> Judged:
    """Judge a claim by its parts (effect, expect, margin >= 0). One without parts is undecided."""
    p = [effect.p for effect, _, _ in parts]
    against = [p_against(*part) for part in parts]
    rows = zip(parts, p, holm(p), against, holm(against), strict=True)
    judged = tuple(_judge(*part, *numbers) for part, *numbers in rows)
    words = [part.verdict for part in judged]
    if not words:
        return Judged("undecided", "there is nothing to compare", ())
    verdict: Verdict = "refuted" if "refuted" in words else "undecided" if "undecided" in words else "holds"
    if len(words) == 1:
        return Judged(verdict, judged[0].reason, judged)
    count = f"{words.count(verdict)} of {len(words)} contrasts are {verdict}"
    return Judged(verdict, "every contrast holds" if verdict == "holds" else count, judged)


def p_against(effect: Effect, expect: Expect, margin: float) -> float | None:
    """Twice the p-value of the hypothesis that what is expected is true: at most 5 % where the 95 % interval lies outside."""
    interval = effect.general
    if effect.undecidable or interval.mean is None:
        return None
    if expect == "equal":
        outside = interval.p(margin, "greater") if interval.mean > 0 else interval.p(-margin, "less")
    else:
        outside = interval.p(margin, "less") if expect == "higher" else interval.p(-margin, "greater")
    return None if outside is None else min(2 * outside, 1.0)


def _judge(
    effect: Effect,
    expect: Expect,
    margin: float,
    p: float | None,
    adjusted: float | None,
    against: float | None,
    against_adjusted: float | None,
) -> Part:
    low, high = effect.general.low, effect.general.high
    verdict: Verdict = "undecided"
    if effect.undecidable or low is None or high is None:
        reason, more = effect.undecidable or effect.general.reason, needed(effect, distance(effect, expect, margin))
        return Part(effect, expect, margin, p, adjusted, against, against_adjusted, verdict, reason, more)
    within = -margin <= low and high <= margin
    if {"higher": low > margin, "lower": high < -margin, "equal": within}[expect]:
        verdict = "holds"
    elif against_adjusted is not None and against_adjusted <= LEVEL:
        verdict = "refuted"
    more = None if verdict != "undecided" else needed(effect, distance(effect, expect, margin))
    reason = _where(low, high, expect, margin)
    if verdict == "undecided" and against is not None and against <= LEVEL:
        reason += "; after Holm's correction over the claim's contrasts that is not certain"
    return Part(effect, expect, margin, p, adjusted, against, against_adjusted, verdict, reason, more)


def distance(effect: Effect, expect: Expect, margin: float) -> float:
    """From the observed effect to the boundary that decides, in points."""
    mean = effect.mean or 0.0
    return abs(abs(mean) - margin) if expect == "equal" else abs(mean - margin) if expect == "higher" else abs(mean + margin)


def _where(low: float, high: float, expect: Expect, margin: float) -> str:
    """Where the interval lies, in true words."""
    if not margin:
        if low > 0 or high < 0:
            return f"the interval lies {'above' if low > 0 else 'below'} 0"
        return "the interval covers 0"
    if -margin <= low and high <= margin:
        side = "" if low <= 0 <= high else f", {'above' if low > 0 else 'below'} 0"
        return f"the interval lies within ±{margin:g}{side}"
    if low > margin or high < -margin:
        return f"the interval lies {f'above {margin:g}' if low > margin else f'below {-margin:g}'}"
    covered = [f"{edge:g}" for edge in (-margin, 0.0, margin) if low <= edge <= high and (edge != -margin or expect != "higher")]
    if high <= margin and expect == "higher":
        return f"the interval reaches from below {-margin:g} to below {margin:g}"
    if low >= -margin and expect == "lower":
        return f"the interval reaches from above {-margin:g} to above {margin:g}"
    return f"the interval covers {' and '.join(covered)}"
