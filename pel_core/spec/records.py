"""What a ``metrics.json`` holds: whether it can be a result, and the values at its dotted paths."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import non_finite
from pel_core.common.shipped import command
from pel_core.spec.choices import METRICS

# Whole numbers that tables and figures print of every run, where the record has the part.
COUNTS = {"parameters": ("learnable", "learnable_with_head"), "data": ("classes", "train_images", "test_images")}


def damage(record: Mapping[str, Any]) -> str:
    """The first value of a result that no evaluation writes, by its key; empty where there is none. A metric or count that the
    program of another version did not know may be absent."""
    if found := non_finite(record):
        return f"{found[0]} is {found[1]}, not a number"
    metrics = record["metrics"]
    if not isinstance(metrics, Mapping):
        return f"metrics is {metrics!r:.60}, not a mapping"
    reasons = metrics.get("null_reasons", {})
    for name in METRICS:
        value = metrics.get(name, 0)
        if value is None and name not in reasons:
            return f"metrics.{name} is null, and metrics.null_reasons does not say why"
        if value is not None and not _is_number(value):
            return f"metrics.{name} is {value!r:.60}, not a number"
    for index, value in enumerate(metrics.get("per_class", [])):
        if value is not None and not _is_number(value):
            return f"metrics.per_class.{index} is {value!r:.60}, not a number"
    return next(_no_counts(record), "")


def _no_counts(record: Mapping[str, Any]) -> Iterator[str]:
    for part, names in COUNTS.items():
        values = record.get(part, {})
        if not isinstance(values, Mapping):
            yield f"{part} is {values!r:.60}, not a mapping"
            continue
        for name in names:
            value = values.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                yield f"{part}.{name} is {value!r:.60}, not a count"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def data_name(record: Mapping[str, Any]) -> str:
    """The data set of a record, and whose images it is evaluated on where these are another's: ``toy-ir20 on demo-sketch``."""
    other = record.get("test_set") or {}
    return f"{record['data']['name']} on {other['name']}" if other else str(record["data"]["name"])


def data_sets(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every data set that records are of: those of the trainings, and others whose images are evaluated."""
    names = (each["name"] for record in records for each in (record["data"], record.get("test_set")) if each)
    return list(dict.fromkeys(names))


def lookup(record: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of a result.

    Raises:
        PelError: nothing is there; the message names the run, the part that is missing and what there is.
    """
    here: Any = record
    words = path.split(".")
    for index, word in enumerate(words):
        if isinstance(here, Mapping) and (rest := ".".join(words[index:])) in here:
            return here[rest]  # a knob's name holds a point: spec.loss.gamma
        if isinstance(here, list) and word.isascii() and word.isdigit() and int(word) < len(here):
            here = here[int(word)]
        elif isinstance(here, list) and word == "last" and here:
            here = here[-1]
        elif isinstance(here, Mapping) and word in here:
            here = here[word]
        else:
            where, known = ".".join(words[:index]) or "the result", here if isinstance(here, Mapping) else ()
            hint = f"in {where} of {record['slug']}. A result older than a metric: score the run again ({command('score')})"
            raise unknown("value", word, known, hint)
    return here


def number(record: Mapping[str, Any], path: str) -> float | None:
    """A number of a result; None where the result says that there is none (an empty shot group).

    Raises:
        PelError: nothing is there, or it is no number.
    """
    value = lookup(record, path)
    if value is not None and not _is_number(value):
        raise PelError(f"{path} of {record['slug']} is {str(value)[:60]!r}, not a number")
    return value


def why_none(record: Mapping[str, Any], path: str) -> str:
    """The stated reason for a null metric."""
    reasons, name = record["metrics"].get("null_reasons", {}), path.removeprefix("metrics.")
    return reasons.get(name) or reasons.get(name.split(".")[0], "no reason is stored")  # of per_class.3: that of per_class


def require_same_inputs(records: Iterable[Mapping[str, Any]]) -> None:
    """Refuse to take one mean over runs that were made from different data or weights.

    Raises:
        PelError: naming two of the runs.
    """
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for record in records:
        for part, word in (("data", "data"), ("backbone", "weights"), ("test_set", "test images")):
            about = record.get(part, {})
            key = part, " ".join(str(about.get(name, "")) for name in ("name", "factors", "images"))
            other = first.setdefault(key, record)
            if (here := about.get("sha256")) != (there := other.get(part, {}).get("sha256")):
                raise PelError(
                    f"{other['slug']} and {record['slug']} were made from different {word} "
                    f"({str(there)[:12]} and {str(here)[:12]}): delete the older one and run again"
                )
