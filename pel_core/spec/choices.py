"""The registries a run chooses from, by the field of RunSpec that names the entry; and METRICS, which score it. Torch-free.

Those whose code comes in a later room (losses, optimizers, ...) are declared here and filled there, so that a spec can be checked
without knowing how anything is done.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pel_core.common.registry import Entry, Knob, Registry
from pel_core.data.augmentations import AUGMENTATIONS
from pel_core.data.ensembling import TTE
from pel_core.data.factors import FACTORS, SCOPE
from pel_core.models.heads import HEADS
from pel_core.models.inits import INITS
from pel_core.models.methods import METHODS
from pel_core.models.prompts import PROMPTS
from pel_core.spec import posthoc

LOSS_FILES = ("losses", "contrastive", "clouded", "paco")
LOSSES: Registry[Any] = Registry("loss", tuple(f"pel_core.training.{name}" for name in LOSS_FILES))
OPTIMIZERS: Registry[Any] = Registry("optimizer", ("pel_core.training.optimizers",))
SCHEDULES: Registry[Any] = Registry("schedule", ("pel_core.training.schedules",))
SAMPLERS: Registry[Any] = Registry("sampler", ("pel_core.training.samplers",))
AVERAGES: Registry[Any] = Registry("average", ("pel_core.training.averages",))
SOUPS: Registry[Any] = Registry("soup", ("pel_core.training.soups",))
SHARPNESS: Registry[Any] = Registry("sharpness", ("pel_core.training.sharpness",))
REWEIGHTS: Registry[Any] = Registry("reweight", ("pel_core.training.reweights",))
MIXES: Registry[Any] = Registry("mix", ("pel_core.training.mixing",))


@dataclass(frozen=True)
class Metric:
    """A number of a result: how it is called, which end of it is good, its formula, and what a reader has to know of it.

    Args:
        label: how tables and axes call it. One that ends with ``(%)`` promises a value in 0..100.
        better: which end of it is good.
        formula: maps what a network said of the test images (`evaluation.scored.Scored`) to the value, or to None and the
            reason why there is none.
        definition: the formula in one line of text.
        unit: of the value; of a percentage nothing need be said.
        least, most: between which the value lies; of a percentage nothing need be said.
        floor: the least that a part of it counts as, with its unit; empty where there is no floor.
        absent: what becomes of a class without a test image.
    """

    label: str
    better: Literal["higher", "lower", "neither"]
    formula: Callable[[Any], float | tuple[None, str]]
    definition: str = ""
    unit: str = ""
    least: float = -math.inf
    most: float = math.inf
    floor: str = ""
    absent: str = ""

    @property
    def about(self) -> str:
        """The first line of its formula's docstring."""
        return (self.formula.__doc__ or "").strip().split("\n")[0]

    @property
    def percent(self) -> bool:
        """Whether it is a percentage."""
        return self.label.endswith("(%)")

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that it can have."""
        return (max(self.least, 0.0), min(self.most, 100.0)) if self.percent else (self.least, self.most)


METRICS: Registry[Metric] = Registry("metric", ("pel_core.evaluation.metrics",))


def metric(name: str, label: str, better: Literal["higher", "lower", "neither"] = "higher", **told: Any) -> Callable[[Any], Any]:
    """Register the decorated formula as a metric, which every run is then scored by. A new name trains nothing anew.

    ``told``: what else `Metric` holds for its readers: ``definition``, ``unit``, ``least``, ``most``, ``floor``, ``absent``.
    """

    def add(formula: Callable[[Any], Any]) -> Callable[[Any], Any]:
        METRICS.register(name, Metric(label, better, formula, **told))
        return formula

    return add


# Field of RunSpec -> its registry. A knob of a chosen entry is called FIELD.KNOB, one of a method METHOD.KNOB, one that every
# data set has (FACTORS) data.KNOB.
REGISTRIES: dict[str, Registry[Any]] = {
    "head": HEADS,
    "loss": LOSSES,
    "init": INITS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "sampler": SAMPLERS,
    "average": AVERAGES,
    "soup": SOUPS,
    "reweight": REWEIGHTS,
    "sharpness": SHARPNESS,
    "augment": AUGMENTATIONS,
    "mix": MIXES,
    "tte": TTE,
}
# Registries of data alone: their entries have no knobs and no code that a run would call.
DATA_FIELDS: dict[str, Registry[Any]] = {"prompt": PROMPTS}
# Fields that are one of some words, without code of their own.
WORD_FIELDS: dict[str, tuple[str, ...]] = {
    "accumulation": ("exact", "reference"),
    "interpolation": ("bilinear", "bicubic"),
    "precision": ("fp16", "bf16", "fp32"),
    "take": ("all", "delta", "head"),
    "split": ("test", "val"),
    "eval_precision": ("fp32", "bf16", "fp16"),
}


class _Choices(Mapping[str, tuple[str, ...]]):
    """The words each field of RunSpec may take; a plugin's entries are among them."""

    def __getitem__(self, name: str) -> tuple[str, ...]:
        return WORD_FIELDS[name] if name in WORD_FIELDS else tuple({**REGISTRIES, **DATA_FIELDS}[name])

    def __iter__(self) -> Iterator[str]:
        return iter((*REGISTRIES, *DATA_FIELDS, *WORD_FIELDS))

    def __len__(self) -> int:
        return len(REGISTRIES) + len(DATA_FIELDS) + len(WORD_FIELDS)


CHOICES: Mapping[str, tuple[str, ...]] = _Choices()


def entry_of(scope: str, chosen: str) -> Entry[Any] | None:
    """The entry that a stored run chose for a scope: of a field, a method, or what every data set has; None if unknown here."""
    if scope == SCOPE:
        return FACTORS
    if scope == posthoc.SCOPE:
        return posthoc.scope_entry()
    registry = REGISTRIES.get(scope, METHODS)
    name = chosen if scope in REGISTRIES else scope
    return registry.entry(name) if name in registry else None


def scoped_knobs(entries: Mapping[str, Entry[Any]]) -> dict[str, Knob]:
    """The knobs of some entries by their full names: ``loss.gamma``. ``entries``: scope (a field or a method) -> entry."""
    return {f"{scope}.{knob.name}": knob for scope, entry in entries.items() for knob in entry.knobs}


def knob_owners() -> dict[str, list[str]]:
    """Every knob there is by its full name, and the entries that have it: ``loss.gamma`` -> ``["loss=focal"]``."""
    owners: dict[str, list[str]] = {}
    for scope, registry in REGISTRIES.items():
        for entry in registry.entries():
            for knob in entry.knobs:
                owners.setdefault(f"{scope}.{knob.name}", []).append(f"{scope}={entry.name}")
    owners |= {f"{SCOPE}.{knob.name}": [FACTORS.name] for knob in FACTORS.knobs}
    owners |= {f"{posthoc.SCOPE}.{knob.name}": [posthoc.scope_entry().name] for knob in posthoc.scope_entry().knobs}
    for entry in METHODS.entries():
        for knob in entry.knobs:
            owners.setdefault(f"{entry.name}.{knob.name}", []).append(f"the method {entry.name}")
    return owners


def readers(option: str) -> list[str]:
    """What has to be chosen for an option of every run to be read, in words: ``tau`` -> ``["loss=la"]``."""
    words = []
    for scope, registry in REGISTRIES.items():
        names = [entry.name for entry in registry.entries() if option in entry.reads]
        if names and len(names) == len(registry) and scope != "tte":
            words.append("a method that trains")
        elif names:
            words.append(f"{scope}={' or '.join(names)}")
    methods = [entry.name for entry in METHODS.entries() if option in entry.reads]
    return words + ([f"the method {' or '.join(methods)}"] if methods else [])
