"""RunSpec: everything that changes a run's numbers, nothing that does not, and its readable name (the slug).

Values resolve once: code defaults < the data set's recipe < the method's recipe < overrides. A slug names every override
and only those: ``cifar100-ir100.clip-b16.adaptformer@6:12+vpt-shallow.s0.loss=ce``.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

from pel_core.backbones import BACKBONES, Backbone
from pel_core.datasets import DATASETS, split_name
from pel_core.errors import PelError, unknown
from pel_core.methods import METHODS, Part, format_method, parse_method

# The version of the numerics. Raise it when the same spec would give other numbers (a changed default, augmentation or
# initialisation): results of another engine are then refused as stale. tests/golden/defaults.json pins the defaults.
ENGINE = 1

CHOICES: dict[str, tuple[str, ...]] = {
    "accumulation": ("exact", "reference"),
    "loss": ("la", "ce", "focal", "ldam", "cb", "grw", "bs", "lade"),
    "head": ("cosine", "linear", "l2norm", "layernorm"),
    "init": ("text", "random"),
    "prompt": ("default", "classname", "ensemble"),
    "precision": ("fp16", "bf16", "fp32"),
    "tte": ("fivecrop", "tencrop", "none"),
    "split": ("test", "val"),
}
EVALUATION = ("tte", "expand", "split")

SLUG = re.compile(
    r"(?P<dataset>[a-z][a-z0-9_-]*(?:(?<=\d)\.\d+)?)\.(?P<backbone>[a-z][a-z0-9_-]*)\.(?P<method>[a-z0-9@:+-]+)"
    r"\.s(?P<seed>\d+)(?P<overrides>(?:\.[a-z_]+=.+)?)"
)


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One training run and how it is evaluated. Build it with ``RunSpec.make`` or ``RunSpec.parse``.

    ``tau`` is the logit adjustment's temperature, ``scale`` the cosine head's, ``adapter_dim`` a width or ``"auto"`` (the
    reference's rule), ``resolution`` pixels or None for the backbone's own, ``expand`` the pixels by which test-time
    ensembling enlarges the image before cropping.
    """

    dataset: str
    backbone: str
    method: str
    seed: int
    epochs: int = 10
    batch_size: int = 128
    accumulate: int = 1
    accumulation: str = "exact"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    loss: str = "la"
    tau: float = 1.0
    head: str = "cosine"
    scale: float = 25.0
    init: str = "text"
    prompt: str = "default"
    resolution: int | None = None
    adapter_dim: int | str = "auto"
    vpt_len: int = 10
    crop_min_scale: float = 0.08
    precision: str = "fp16"
    tte: str = "fivecrop"
    expand: int = 24
    split: str = "test"

    @classmethod
    def make(cls, dataset: str, backbone: str, method: str, seed: int, **overrides: Any) -> "RunSpec":
        """Resolve recipes and overrides into a spec.

        Raises:
            PelError: an unknown backbone, method or field, or a value that is not possible.
        """
        if backbone not in BACKBONES:
            raise unknown("backbone", backbone, BACKBONES)
        layers = BACKBONES[backbone].layers
        method = format_method(parse_method(method, layers), layers)
        values = {**recipe(dataset, method), **overrides}
        for name in values:
            if name not in FIELDS or name in ("dataset", "backbone", "method", "seed"):
                raise unknown("option", name, [field for field in FIELDS if field not in ("dataset", "backbone", "method")])
        values = {name: _convert(name, value) for name, value in values.items()}
        spec = cls(dataset=dataset, backbone=backbone, method=method, seed=seed, **values)
        spec._check()
        return spec

    @classmethod
    def parse(cls, slug: str) -> "RunSpec":
        """The spec a slug names.

        Raises:
            PelError: the text is no slug, or not in its one canonical spelling.
        """
        match = SLUG.fullmatch(slug)
        if not match:
            raise PelError(f"'{slug}' is not a run: expected DATASET.BACKBONE.METHOD.sSEED[.option=value...]")
        pairs = [part.split("=", 1) for part in re.split(r"\.(?=[a-z_]+=)", match["overrides"]) if part]
        spec = cls.make(match["dataset"], match["backbone"], match["method"], int(match["seed"]), **dict(pairs))
        if spec.slug != slug:
            raise PelError(f"'{slug}' is not the name of its run; that is '{spec.slug}'")
        return spec

    @cached_property
    def slug(self) -> str:
        """The run's name: also its folder under results/runs."""
        base = {**DEFAULTS, **recipe(self.dataset, self.method)}
        departures = [f".{name}={_spell(value)}" for name, value in asdict(self).items() if name in base and value != base[name]]
        text = f"{self.dataset}.{self.backbone}.{self.method}.s{self.seed}{''.join(departures)}"
        if len(text) > 200:
            raise PelError(f"the run name '{text}' is longer than a folder name may be; put shared values into a recipe")
        return text

    @property
    def train(self) -> "RunSpec":
        """The spec of the training run this evaluates: evaluation fields back at their recipe's values."""
        base = {**DEFAULTS, **recipe(self.dataset, self.method)}
        return replace(self, **{name: base[name] for name in EVALUATION})

    @property
    def parts(self) -> tuple[Part, ...]:
        """The stacked methods with their block ranges."""
        return parse_method(self.method, self.vit.layers)

    @property
    def trains(self) -> bool:
        """False for zero-shot, which has no training run."""
        return any(METHODS[part.name].trains_head for part in self.parts)

    @property
    def vit(self) -> Backbone:
        """The backbone's registry entry."""
        return BACKBONES[self.backbone]

    @property
    def pixels(self) -> int:
        """Side length of the images the network sees."""
        return self.resolution or self.vit.resolution

    def to_json(self) -> dict[str, Any]:
        """Every resolved field."""
        return asdict(self)

    def _check(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        for name in ("epochs", "seed", "expand", "weight_decay", "momentum", "lr"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("batch_size", "accumulate", "vpt_len"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("scale", "tau"):
            self._require(name, getattr(self, name) > 0, "above 0")
        self._require("crop_min_scale", 0 < self.crop_min_scale <= 1, "above 0 and at most 1")
        self._require("accumulate", self.accumulate <= self.batch_size, f"at most the batch size {self.batch_size}")
        self._require("resolution", self.pixels > 0 and self.pixels % self.vit.patch == 0, f"a multiple of {self.vit.patch}")
        dim, width = self.adapter_dim, self.vit.width
        self._require("adapter_dim", dim == "auto" or (isinstance(dim, int) and 1 <= dim <= width), f"auto or 1..{width}")
        needs_text = self.init == "text" or not self.trains
        self._require("init", self.vit.text or not needs_text, f"random: {self.backbone} has no text tower")
        self._require("epochs", self.trains or self.epochs == 0, "0 for zero-shot, which trains nothing")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise PelError(f"{name}={getattr(self, name)} is not possible for {self.method} on {self.backbone}; it must be {expected}")


FIELDS = {field.name: field for field in fields(RunSpec)}
DEFAULTS: dict[str, Any] = {name: field.default for name, field in FIELDS.items() if name not in ("dataset", "backbone", "method", "seed")}


def recipe(dataset: str, method: str) -> dict[str, Any]:
    """What the data set's and the method's own recipes say; a method's wins. A user's data set has none of its own."""
    base = split_name(dataset)[0]
    values: dict[str, Any] = dict(DATASETS[base].recipe) if base in DATASETS else {}
    for name in (part.partition("@")[0] for part in method.split("+")):
        values.update(METHODS[name].recipe)
    return values


def _convert(name: str, value: Any) -> Any:
    """A field's value from its slug or YAML spelling; the declared default tells the type."""
    default = DEFAULTS[name]
    if isinstance(value, bool):
        raise PelError(f"{name}={value}: expected {'a number' if isinstance(default, int | float) else 'a word'}")
    if name in ("resolution", "adapter_dim"):
        return value if value in (None, "auto") else _number(name, value, int)
    if isinstance(default, int | float):
        return _number(name, value, type(default))
    return str(value)


def _number(name: str, value: Any, kind: type) -> int | float:
    try:
        number = float(value)
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise ValueError
    except (TypeError, ValueError):
        raise PelError(f"{name}={value}: expected {'a whole number' if kind is int else 'a number'}") from None
    return kind(number)


def _spell(value: Any) -> str:
    """One spelling for each value, so that a spec has one slug."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def differences(stored: Mapping[str, Any], spec: RunSpec) -> list[str]:
    """Where a stored spec differs from ``spec``. A field younger than the record counts as its code default."""
    now = spec.to_json()
    then = {**DEFAULTS, **stored}
    return [f"{name}: stored {then.get(name)!r}, now {value!r}" for name, value in now.items() if then.get(name) != value]
