"""Options as data: the words each field of RunSpec may take, the named recipes, and how a value is read and spelled."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.data.datasets import DATASETS, split_name
from pel_core.demo.stand_ins import STAND_INS
from pel_core.models.methods import METHODS

CHOICES: dict[str, tuple[str, ...]] = {
    "accumulation": ("exact", "reference"),
    "loss": ("la", "ce", "focal", "ldam", "cb", "grw", "bs", "lade"),
    "head": ("cosine", "linear", "l2norm", "layernorm"),
    "init": ("text", "class-mean", "shot-1", "shot-10", "shot-100", "linear-probe", "random"),
    "prompt": ("default", "classname", "ensemble", "descriptions"),
    "augment": ("rrc", "mda", "mda-linear", "mda-concave", "mda-min", "mda-max"),
    "interpolation": ("bilinear", "bicubic"),
    "precision": ("fp16", "bf16", "fp32"),
    "tte": ("fivecrop", "tencrop", "randaug", "none"),
    "split": ("test", "val"),
    "eval_precision": ("fp32", "bf16", "fp16"),
}
# Fields that are a number or one of these words.
WORDS: dict[str, tuple[tuple[Any, ...], type]] = {
    "resolution": ((None,), int),
    "native": ((None,), int),
    "image_cache": ((None,), int),
    "adapter_dim": (("auto", "auto-tuned"), int),
    "adapter_scale": (("learnable",), float),
    "mask_ratio": (("auto",), float),
    "mask_seed": (("run",), int),
}
EVALUATION = ("tte", "expand", "crops", "split", "eval_precision")
VIEWS = {"fivecrop": 5, "tencrop": 10, "none": 1}
IMAGE_INITS = tuple(name for name in CHOICES["init"] if name not in ("text", "random"))


@dataclass(frozen=True)
class Recipe:
    """A published way to train, by name: values of RunSpec fields, and those it changes for some data sets."""

    about: str
    values: Mapping[str, Any] = field(default_factory=dict)
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# The demo trains for 2 epochs (Places 3) in the place of 10, with a bottleneck of its own; LIFT+ halves the epochs.
_DEMO = {"epochs": 1, "adapter_dim": 4}
RECIPES: dict[str, Recipe] = {
    "lift": Recipe("PEL / LIFT (Shi et al. 2024): the code defaults"),
    "lift+": Recipe(
        "LIFT+ (Shi et al. 2025): half the epochs at twice the rate, minimalist augmentation, bicubic resizing",
        {"epochs": 5, "lr": 0.02, "augment": "mda", "interpolation": "bicubic", "adapter_dim": "auto-tuned"},
        {"inat2018": {"epochs": 15}} | dict.fromkeys(STAND_INS, _DEMO),
    ),
}


def recipe(dataset: str, method: str = "", name: str = "lift") -> dict[str, Any]:
    """What the data set's, the named and the method's own recipes say, the latter winning. A user's data set has none.

    Raises:
        PelError: no recipe of that name.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    base = split_name(dataset)[0]
    values: dict[str, Any] = dict(DATASETS[base].recipe) if base in DATASETS else {}
    values |= {**RECIPES[name].values, **RECIPES[name].datasets.get(base, {})}
    for part in filter(None, (part.partition("@")[0] for part in method.split("+"))):
        values.update(METHODS[part].recipe)
    return values


def fixed_by(dataset: str, method: str, name: str | None) -> set[str]:
    """The fields that the method and a recipe asked for by name decide, whatever a configuration shares among its runs."""
    fields = {key for part in method.split("+") for key in METHODS[part.partition("@")[0]].recipe}
    if name is not None:
        fields |= {"recipe", *RECIPES[name].values, *RECIPES[name].datasets.get(split_name(dataset)[0], {})}
    return fields


def convert(name: str, value: Any, default: Any) -> Any:
    """A field's value from its slug or YAML spelling; the declared default tells the type.

    Raises:
        PelError: the value is not of that type.
    """
    if isinstance(value, bool):
        raise PelError(f"{name}={value}: expected {'a number' if isinstance(default, int | float) else 'a word'}")
    if name in WORDS:
        words, kind = WORDS[name]
        return value if value in words else _number(name, value, kind, words)
    if isinstance(default, int | float):
        return _number(name, value, type(default))
    return str(value)


def _number(name: str, value: Any, kind: type, words: tuple[Any, ...] = ()) -> int | float:
    try:
        number = float(value)
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise ValueError
    except (TypeError, ValueError):
        also = "".join(f" or {word}" for word in words if word)
        raise PelError(f"{name}={value}: expected {'a whole number' if kind is int else 'a number'}{also}") from None
    return kind(number)


def spell(value: Any) -> str:
    """One spelling for each value, so that a spec has one slug."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
