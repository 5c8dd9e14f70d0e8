"""The recipe of a set of runs in words, taken from their stored specs.

A page that shows several tables says it once: what all of them share, and what each has besides (`Recipe`). A table's own file
says what of its recipe is not the default: a function of its runs alone, so that no other table's runs change it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pel_core.common.counts import count_of
from pel_core.common.registry import spell
from pel_core.common.versions import STAGES, made_by
from pel_core.models.backbones import BACKBONES
from pel_core.reporting.runs import Runs
from pel_core.spec import posthoc
from pel_core.spec.choices import REGISTRIES, entry_of
from pel_core.spec.run_spec import DEFAULTS, RunSpec
from pel_core.studies.bindings import OWN
from pel_core.studies.cells import Artefact

Record = Mapping[str, Any]
LONGEST_START = 160  # characters of what a run starts from that are told in full


@dataclass(frozen=True)
class Recipe:
    """Of a page: parts that every artefact on it shares, and what is the artefacts' own: parts -> their names."""

    shared: list[str]
    own: dict[str, list[str]]

    def lines(self) -> list[str]:
        """In words, a line each; none where nothing is known."""
        lines = [f"Recipe of all: {'; '.join(self.shared)}."] if self.shared else []
        besides = " besides" if self.shared else ""
        return lines + [f"Recipe of {', '.join(names)}{besides}: {part}." for part, names in self.own.items()]


MOST = 4  # values of one option in a sentence: what each row has is in its label, and all of it in the CSV
# How entries are called in a sentence; others by their names.
LOSSES = {"la": "logit adjustment", "ce": "cross-entropy", "focal": "focal", "ldam": "LDAM", "cb": "class-balanced",
          "grw": "generalised re-weighting", "bs": "balanced softmax", "lade": "LADE", "vs": "VS",
          "las": "label-aware smoothing", "bcl": "logit adjustment and balanced contrast",
          "paco": "parametric contrast with a momentum encoder", "gpaco": "generalised parametric contrast"}  # fmt: skip
OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW", "nadam": "NAdam", "lion": "Lion"}
SCHEDULES = {"cosine": "cosine schedule per epoch", "cosine-step": "cosine schedule per step", "constant": "constant rate"}
TTES = {"none": "one centre crop", "fivecrop": "five crops", "tencrop": "ten crops", "randaug": "random crops"}


def _reads(spec: Mapping[str, Any], scope: str, option: str) -> bool:
    """Whether the entry that a stored spec chose reads an option; of an entry that is not known here, no."""
    registry = REGISTRIES[scope]
    return spec[scope] in registry and option in registry.entry(spec[scope]).reads


def _loss(spec: Mapping[str, Any]) -> str:
    return LOSSES.get(spec["loss"], spec["loss"]) + (f" (tau {spec['tau']:g})" if _reads(spec, "loss", "tau") else "")


def _head(spec: Mapping[str, Any]) -> str:
    told = [f"scale {spec['scale']:g}"] if _reads(spec, "head", "scale") else []
    told += [f"sentences of prompt {spec['prompt']}"] if _has_sentences(spec) else []
    return spec["head"] + (f" ({', '.join(told)})" if told else "")


def _has_sentences(spec: Mapping[str, Any]) -> bool:
    """Whether the head takes the prompt's sentences one by one, and so starts from nothing else."""
    entry = entry_of("head", spec["head"])
    return bool(entry and getattr(entry.value, "sentences", False))


def _batch(spec: Mapping[str, Any]) -> str:
    return f"{spec['batch_size']}" + (
        f" in {spec['accumulate']} parts ({spec['accumulation']})" if spec["accumulate"] > 1 else ""
    )


def _init(spec: Mapping[str, Any]) -> str:
    if _has_sentences(spec):
        return ""
    prompt = "" if spec["prompt"] == "default" else f" (prompt {spec['prompt']})"
    return f"class-text features{prompt}" if spec["init"] == "text" else spec["init"]


def _start(spec: Mapping[str, Any]) -> str:
    what = {"all": "", "delta": "the delta of ", "head": "the classifier of "}[spec["take"]]
    return f"{what}{_shortened(spec['parents'])}" if spec["parents"] else "nothing that was trained"


def _shortened(parents: str) -> str:
    """Parents as a spec spells them; of long ones the first, without what it starts from itself, and how many there are more."""
    if len(parents) <= LONGEST_START:
        return parents
    first, *others = re.split("(?<!~)~(?!~)", parents)
    own, older, _ = first.partition(",parents:")
    told = f"{own}{', which starts from others' if older else ''}"
    return f"{told} and {count_of(len(others), 'other run')}" if others else told


def _tte(spec: Mapping[str, Any]) -> str:
    return TTES.get(spec["tte"], spec["tte"]) + (f" (expand {spec['expand']} px)" if "crop" in spec["tte"] else "")


# A label names the entries; a word that is empty for every run is left out.
WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "loss": _loss,
    "classifier": _head,
    "initialised from": _init,
    "{optimizer} lr": lambda spec: f"{spec['lr']:g}",
    "momentum": lambda spec: f"{spec['momentum']:g}" if _reads(spec, "optimizer", "momentum") else "",
    "weight decay": lambda spec: f"{spec['weight_decay']:g}",
    "{schedule}, epochs": lambda spec: str(spec["epochs"]),
    "batch": _batch,
    "training crops from scale": lambda spec: f"{spec['crop_min_scale']:g}",
    "precision": lambda spec: spec["precision"],
    "test-time ensembling": _tte,
    "split": lambda spec: spec["split"],
}


# Fields that the words above or the lines below speak of, or that name the run; any other is told where it departs from
# its code default, so that a new field is never silent.
# fmt: off
TOLD = {
    "dataset", "backbone", "method", "seed", "resolution", "native", "adapter_dim", "vpt_len", "loss", "tau", "head", "scale",
    "init", "prompt", "optimizer", "schedule", "lr", "momentum", "weight_decay", "epochs", "batch_size", "accumulate",
    "accumulation", "crop_min_scale", "precision", "tte", "expand", "split", "parents", "take",
}
# fmt: on
UNSAID = {"evaluate_on": f"{OWN[0].lower()}{OWN[1:]}"}  # fields whose default is no word, and what it is called beside others


def recipe_line(records: Sequence[Record]) -> str:
    """``Recipe: loss logit adjustment (tau 1); classifier cosine (scale 25); ...``; values that differ are joined by " / "."""
    return f"Recipe: {'; '.join(recipe_parts(records))}."


def recipe_parts(records: Sequence[Record]) -> list[str]:
    """The parts of the recipe: ``loss logit adjustment (tau 1)``, ``classifier cosine (scale 25)``, ..."""
    specs = [{**DEFAULTS, **_no_steps(), **record["spec"]} for record in records]
    names = {
        "optimizer": _joined(OPTIMIZERS.get(spec["optimizer"], spec["optimizer"]) for spec in specs),
        "schedule": _joined(SCHEDULES.get(spec["schedule"], f"{spec['schedule']} schedule") for spec in specs),
    }
    told = {label.format(**names): _joined(word(spec) for spec in specs) for label, word in WORDS.items()}
    parts = [f"{label} {words}" for label, words in told.items() if words]
    parts.append(f"resolution {_joined(map(_pixels, records))}")
    if any(record["spec"].get("native") for record in records):
        natives = [record["spec"].get("native") for record in records]
        parts.append(f"images first reduced to {_joined(f'{pixels} px' if pixels else 'nothing less' for pixels in natives)}")
    if any("adapt" in record["spec"]["method"] for record in records):
        parts.append(f"adapter dimension {_joined(map(_dimension, records))}")
    if any("vpt" in record["spec"]["method"] for record in records):
        parts.append(f"prompt length {_joined(str(record['spec']['vpt_len']) for record in records)}")
    if any(spec["parents"] for spec in specs):
        parts.append(f"starts from {_joined(map(_start, specs))}")
    others = [name for name in DEFAULTS if name not in TOLD]
    for name in others:
        values = [spell(record["spec"].get(name, DEFAULTS[name])) for record in records]
        told = [value or UNSAID.get(name, "") for value in values]
        parts += [f"{name} {_joined(told)}"] if set(values) != {spell(DEFAULTS[name])} else []
    parts += _knobs(specs)
    parts.append(f"versions {', '.join(_versions(records))}")
    return parts


def _no_steps() -> dict[str, Any]:
    """What the records of runs without post-hoc steps leave out."""
    return {f"{posthoc.SCOPE}.{knob.name}": knob.default for knob in posthoc.scope_entry().knobs}


def recipe_note(records: Sequence[Record]) -> str:
    """What of the recipe is not the default, in a line: short, and yet a table says what it is of wherever it is put."""
    departs = departing_parts(records)
    return f"Recipe: PEL-Lab's defaults{', but ' if departs else ''}{'; '.join(departs)}."


def departing_parts(records: Sequence[Record]) -> list[str]:
    """The parts of the recipe that would be others if every option had its default (`RunSpec`, docs/options.md)."""
    default = recipe_parts([_default_record(record) for record in records])
    return [part for part in recipe_parts(records) if part not in default]


def _default_record(record: Record) -> Record:
    """A run's record as it were with every option at its default."""
    stored = {**DEFAULTS, **record["spec"]}
    chosen = {} if stored["adapter_dim"] == DEFAULTS["adapter_dim"] else {"adapter_dim": None}
    spec = {name: value for name, value in stored.items() if "." not in name} | DEFAULTS
    made = {stage: STAGES[stage] for stage in made_by(record)}
    return {**record, "spec": spec, "parameters": {**record["parameters"], **chosen}, "versions": made}


def study_recipe(artefacts: Mapping[str, Artefact], runs: Runs) -> Recipe:
    """The recipe of the artefacts of a page, by the runs that have a result."""
    found = {name: runs.described(artefact.specs) for name, artefact in artefacts.items()}
    return common_recipe({name: recipe_parts(records) for name, records in found.items() if records})


def planned_parts(specs: Iterable[RunSpec]) -> list[str]:
    """The parts of a recipe before any run of it has a result: without versions, a bottleneck as it was asked for."""
    parts = recipe_parts([{"spec": spec.to_json(), "parameters": {}} for spec in specs])
    return [part for part in parts if not part.startswith("versions ")]


def common_recipe(parts: Mapping[str, Sequence[str]]) -> Recipe:
    """What the recipes of several artefacts have in common, and what each has besides."""
    shared = [part for part in next(iter(parts.values()), []) if all(part in own for own in parts.values())]
    own: dict[str, list[str]] = {}
    for name, found in parts.items():
        own.setdefault("; ".join(part for part in found if part not in shared), []).append(name)
    return Recipe(shared, {part: names for part, names in own.items() if part})


def _knobs(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """``loss.gamma 3``: the knobs that depart in a run; where others leave them at their defaults, these too."""
    values: dict[str, list[tuple[str, bool]]] = {}
    for spec in specs:
        for name, value in spec.items():
            if "." in name:
                shown = spell(tuple(value) if isinstance(value, list) else value) or "none"
                values.setdefault(name, []).append((shown, shown != _default(spec, name)))
    return [f"{name} {_joined(shown for shown, _ in found)}" for name, found in values.items() if any(own for _, own in found)]


def _default(spec: Mapping[str, Any], name: str) -> str | None:
    """The default of a knob of the entry that a stored spec chose; None where there is no such entry here."""
    scope, _, short = name.partition(".")
    entry = entry_of(scope, spec.get(scope, ""))
    knob = entry.knob(short) if entry else None
    return spell(knob.default) or "none" if knob else None


def _versions(records: Sequence[Record]) -> list[str]:
    """``train 1`` of every stage that had a part in the records."""
    made = [made_by(record) for record in records]
    numbers = {stage: [str(each[stage]) for each in made if stage in each] for stage in STAGES}
    return [f"{stage} {_joined(found)}" for stage, found in numbers.items() if found]


def data_line(records: Sequence[Record]) -> str:
    """``Data: cifar100-ir100 (100 classes, 10847 training and 10000 test images); ...``."""
    shown = [
        f"{data['name']} ({data['classes']} classes, {data['train_images']} training and {data['test_images']} test images"
        + (f" of {other['name']})" if (other := record.get("test_set")) else ")")
        for record in records
        for data in [record["data"]]
    ]
    return f"Data: {'; '.join(dict.fromkeys(shown))}."


def _pixels(record: Record) -> str:
    spec = record["spec"]
    name = spec["backbone"]
    return f"{spec['resolution'] or (BACKBONES[name].resolution if name in BACKBONES else 'native')} px"


def _dimension(record: Record) -> str:
    return str(record["parameters"].get("adapter_dim") or record["spec"]["adapter_dim"])


def _joined(words: Iterable[str]) -> str:
    """Different words, joined; where there are more than a reader would look at, that each row has its own."""
    different = list(dict.fromkeys(filter(None, words)))
    return " / ".join(different) if len(different) <= MOST else "by row"
