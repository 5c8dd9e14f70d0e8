"""What footnotes say of soups: that one of several seeds is one value, and which runs a greedy one took."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pel_core.common.counts import count_of
from pel_core.spec.run_spec import RunSpec

Record = Mapping[str, Any]


def soup_lines(records: Iterable[Record], labels: Mapping[str, str] = {}) -> list[str]:
    """A line on each soup of several seeds, one on what greedy ones of a row took, and one where what is scored chose them; none
    where there is no soup. ``labels``: what an artefact calls its runs, by slug."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if "soup" in record:
            groups.setdefault(re.sub(r"[.]s[0-9]+", "", record["slug"], count=1), []).append(record)
    lines = [line for found in groups.values() for line in (_one_value(found[0], labels), _taken(found, labels)) if line]
    return lines + _chosen_by_what_is_scored(records, labels)


def name_of(record: Record, labels: Mapping[str, str]) -> str:
    """What an artefact calls a run and its data set; without a label its name, without its seed and without those that it is made
    of: ``adaptformer.epochs=0.soup=uniform on cifar100-ir100``."""
    spec = record["spec"]
    if label := labels.get(record["slug"]):
        return f"{label} on {spec['dataset']}" + (f" on {spec['evaluate_on']}" if spec.get("evaluate_on") else "")
    name = record["slug"].removeprefix(f"{spec['dataset']}.{spec['backbone']}.")
    name = re.sub(r"[.]parents=.*?(?=[.][a-z_]+=|$)", "", name)
    return f"{re.sub(r'[.]s[0-9]+', '', name, count=1)} on {spec['dataset']}"


def _one_value(record: Record, labels: Mapping[str, str]) -> str:
    spec = RunSpec.parse(record["slug"])
    if not spec.pooled:
        return ""
    seeds = ", ".join(map(str, sorted({parent.seed for parent in spec.parent_specs})))
    made = f"the mean of {count_of(len(spec.parent_specs), 'training')} (seeds {seeds})"
    return (
        f"{name_of(record, labels)} is one value (n = 1), {made}: its interval, and its comparisons, are "
        "over test images for this soup alone; other seeds would make another."
    )


def _taken(records: Iterable[Record], labels: Mapping[str, str]) -> str:
    chosen = [record for record in records if "validation" in record["soup"]]
    if not chosen:
        return ""
    told = ", ".join(f"{len(record['soup']['taken'])} of {len(record['parents'])}" for record in chosen)
    metric = chosen[0]["soup"]["validation"]["metric"]
    return f"{name_of(chosen[0], labels)} took, by {metric} on the validation split, {told} runs."


def _chosen_by_what_is_scored(records: Iterable[Record], labels: Mapping[str, str]) -> list[str]:
    """A line on each row whose runs were chosen, or start from runs that were chosen, by the validation images that it is scored
    on."""
    lines = {}
    for record in records:
        if record["spec"]["split"] != "val":
            continue
        spec = RunSpec.parse(record["slug"])
        if any(run.validates for run in (spec, *spec.ancestors.values())):
            name = name_of(record, labels)
            lines[name] = f"{name} is scored on the validation images that chose what its training gave, which flatters it."
    return list(lines.values())
