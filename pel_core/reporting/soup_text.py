"""What footnotes say of soups: that one of several seeds is one value, and which runs a greedy one took."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pel_core.common.counts import count_of
from pel_core.spec.run_spec import RunSpec

Record = Mapping[str, Any]


def soup_lines(records: Iterable[Record]) -> list[str]:
    """A line on each soup of several seeds, and one on what greedy ones of a row took; none where there is no soup."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if "soup" in record:
            groups.setdefault(re.sub(r"[.]s[0-9]+", "", record["slug"], count=1), []).append(record)
    return [line for found in groups.values() for line in (_one_value(found[0]), _taken(found)) if line]


def _name(record: Record) -> str:
    """A run without its seed and without those that it is made of: ``adaptformer.epochs=0.soup=uniform on cifar100-ir100``."""
    spec = record["spec"]
    name = record["slug"].removeprefix(f"{spec['dataset']}.{spec['backbone']}.")
    name = re.sub(r"[.]parents=.*?(?=[.][a-z_]+=|$)", "", name)
    return f"{re.sub(r'[.]s[0-9]+', '', name, count=1)} on {spec['dataset']}"


def _one_value(record: Record) -> str:
    spec = RunSpec.parse(record["slug"])
    if not spec.pooled:
        return ""
    seeds = ", ".join(map(str, sorted({parent.seed for parent in spec.parent_specs})))
    return (
        f"{_name(record)} is one value (n = 1), the mean of {count_of(len(spec.parent_specs), 'training')} (seeds {seeds}): its "
        "interval, and its comparisons, are over test images for this soup alone; other seeds would make another."
    )


def _taken(records: Iterable[Record]) -> str:
    chosen = [record for record in records if "validation" in record["soup"]]
    if not chosen:
        return ""
    told = ", ".join(f"{len(record['soup']['taken'])} of {len(record['parents'])}" for record in chosen)
    metric = chosen[0]["soup"]["validation"]["metric"]
    return f"{_name(chosen[0])} took, by {metric} on the validation split, {told} runs."
