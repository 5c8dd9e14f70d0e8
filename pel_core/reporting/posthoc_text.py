"""What footnotes say of post-hoc runs: the numbers that were fitted on the validation split, and an ensemble's one value."""

from collections.abc import Iterable, Mapping
from typing import Any

from pel_core.reporting.soup_text import name_of
from pel_core.spec.posthoc import ENSEMBLE, POSTHOC, SCOPE, VAL

Record = Mapping[str, Any]


def posthoc_lines(records: Iterable[Record], labels: Mapping[str, str] = {}) -> list[str]:
    """A line on each set of post-hoc runs that differ in their seed alone; none where there is nothing to tell. ``labels``: what
    an artefact calls its runs, by slug."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if any(name.startswith(f"{SCOPE}.") for name in record["spec"]) and "posthoc" in record:
            groups.setdefault(name_of(record, labels), []).append(record)
    return [line for name, found in groups.items() for line in (_fitted(name, found), _ensemble(name, found)) if line]


def _fitted(name: str, records: Iterable[Record]) -> str:
    records = sorted(records, key=lambda record: record["spec"]["seed"])
    steps = [step for step in records[0]["posthoc"] if records[0]["spec"].get(f"{SCOPE}.{step}") == VAL]
    if not steps:
        return ""
    seeds = ", ".join(str(record["spec"]["seed"]) for record in records)
    told = "; ".join(f"{step} {', '.join(_number(step, record['posthoc'][step]) for record in records)}" for step in steps)
    of = "" if ENSEMBLE in records[0]["spec"] else f" (seed{'s' * (len(records) > 1)} {seeds})"
    return f"Fitted on the validation split, {name}: {told}{of}."


def _number(step: str, value: float) -> str:
    ends = getattr(POSTHOC[step], "ends", ()) if step in POSTHOC else ()
    at_end = any(abs(value - end) <= 1e-3 * abs(end) for end in ends)
    return f"{value:.3g}{' (an end of what is tried)' if at_end else ''}"


def _ensemble(name: str, records: Iterable[Record]) -> str:
    record = next(iter(records))
    if ENSEMBLE not in record["spec"]:
        return ""
    seeds = ", ".join(f"{seed:g}" for seed in record["spec"][ENSEMBLE])
    return (
        f"{name} is one value (n = 1), of the mean logit of seeds {seeds}: its interval is over test images alone, "
        "and comparisons are with this ensemble: other seeds would make another."
    )
