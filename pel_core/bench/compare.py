"""A new record beside the stored one of the same kind of machine: what got slower or larger, and by how much.

For a person to read: times move with what else a machine does, so no test asks for them. What is deterministic (operations,
operator calls, files, bytes) is held by `counters`.
"""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

Record = Mapping[str, Any]
SAME = 0.05  # a part by which figures of one machine differ anyway
KIND = ("cpu", "cores", "flags", "gpu", "threads", "clock")  # of `machine`: where one differs, so do times
# Figures of which more is better, and of which less is, wherever they stand in a record; other numbers are neither.
MORE = frozenset({"images_per_second"})
LESS = frozenset({
    "seconds", "plan_seconds", "snakemake_seconds", "score_seconds", "read_seconds", "compare_seconds", "reading_seconds",
    "wall_seconds", "core_seconds", "compile_seconds", "gflop_per_image", "memory_mb", "peak_memory_mb", "max_logit_difference",
})  # fmt: skip
Figures = dict[tuple[str, str], float]


def comparison(stored: Record | None, record: Record) -> list[str]:
    """Lines about what got worse since ``stored``, worst first, and how much was compared; or why nothing was."""
    if reason := _incomparable(stored, record):
        return [f"not compared: {reason}"]
    assert stored is not None
    before, now = dict(_figures(stored)), dict(_figures(record))
    both = [key for key in now if key in before and before[key] > 0 and now[key] > 0]
    worse = {key: _worse(key[1], before[key], now[key]) for key in both}
    lines = [_line(key, before[key], now[key]) for key in sorted(both, key=lambda key: -worse[key]) if worse[key] > 1 + SAME]
    better = sum(value < 1 / (1 + SAME) for value in worse.values())
    commit = (stored["machine"].get("commit") or "unknown")[:9]
    told = f"{len(both)} figures against commit {commit}, {stored['machine']['started'][:10]}: {len(lines)} worse by more than"
    told += f" {SAME:.0%}, {better} better"
    gone, new = len(before.keys() - now.keys()), len(now.keys() - before.keys())
    told += f"; {gone} are not there any more, {new} are new" if gone or new else ""
    return [*lines, told]


def _incomparable(stored: Record | None, record: Record) -> str:
    """Why the two say nothing of each other; empty where they do."""
    if stored is None:
        return "no record of this part and device is stored"
    if stored["quick"] or record["quick"]:
        return "a quick record says nothing of speed"
    kinds = [[each["machine"].get(name) for name in KIND] for each in (stored, record)]
    differing = [f"{name} {a}, now {b}" for name, a, b in zip(KIND, *kinds, strict=True) if a != b]
    if differing:
        return f"the stored record is of another kind of machine ({'; '.join(differing)})"
    settings = (stored.get("settings", {}), record.get("settings", {}))
    changed = sorted(name for name in settings[0].keys() | settings[1].keys() if settings[0].get(name) != settings[1].get(name))
    return f"other settings: {', '.join(changed)}" if changed else ""


def _figures(record: Record) -> Iterator[tuple[tuple[str, str], float]]:
    """(Row, figure) and its value, lists at their median. A row is named by its words and counts."""
    top = {name: value for name, value in record.items() if name in MORE | LESS}
    lists = {name: value for name, value in record.items() if isinstance(value, list)}
    for part, rows in {"whole": [top], **lists}.items():
        for row in rows:
            words = [str(value) for name, value in row.items() if _names(name, value)]
            speed = "images_per_second" in row
            for name, value in row.items():
                if name in MORE | LESS and not (speed and name == "seconds"):  # which say the same
                    for which, number in _numbers(value):
                        yield (", ".join([part, *words]), " ".join(filter(None, [name, which]))), number


def _names(name: str, value: Any) -> bool:
    """Whether it says which row this is: words, and whole numbers that were chosen, not found."""
    return name not in MORE | LESS and isinstance(value, str | int) and not isinstance(value, bool)


def _numbers(value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for which, item in value.items():
            yield from ((which, number) for _, number in _numbers(item))
    elif isinstance(value, list) and value:
        yield "", statistics.median(value)
    elif isinstance(value, int | float):
        yield "", float(value)


def _worse(figure: str, before: float, now: float) -> float:
    """How many times as bad as before."""
    return before / now if figure.split()[0] in MORE else now / before


def _line(key: tuple[str, str], before: float, now: float) -> str:
    row, figure = key
    word = "slower" if "second" in figure else "larger"
    return f"{word} by {_worse(figure, before, now) - 1:.0%}: {row}: {figure.replace('_', ' ')} {before:.4g} -> {now:.4g}"
