"""Options as data: the named recipes, and how a field's value is read. The words there are: `choices`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.registry import read_bool, read_number
from pel_core.common.registry import spell as spell
from pel_core.data.datasets import DATASETS, split_name
from pel_core.data.factors import FACTORS, GROUPING, SCOPE
from pel_core.demo.stand_ins import STAND_INS
from pel_core.models.methods import METHODS
from pel_core.spec.posthoc import SCOPE as POSTHOC_SCOPE

if TYPE_CHECKING:
    from pel_core.spec.run_spec import RunSpec

# Fields that are a number or one of these words.
WORDS: dict[str, tuple[tuple[Any, ...], type]] = {
    "resolution": ((None,), int),
    "native": ((None,), int),
    "image_cache": ((None,), int),
    "adapter_dim": (("auto", "auto-tuned"), int),
    "adapter_scale": (("learnable",), float),
    "mask_ratio": (("auto",), float),
    "mask_seed": (("run",), int),
    "delta_seed": (("run",), int),
}
# Fields that training does not read; nor does it the knobs of TTE, of groups and of post-hoc steps.
EVALUATION = ("tte", "expand", "crops", "split", "eval_precision", "wise_ft", "evaluate_on")
SCOPES = ("tte.", f"{POSTHOC_SCOPE}.")

GROUPING_KNOBS = tuple(f"{SCOPE}.{name}" for name in GROUPING)


def is_evaluation(name: str) -> bool:
    """Whether a field or knob is read by evaluation alone."""
    return name in EVALUATION or name.startswith(SCOPES) or name in GROUPING_KNOBS


def evaluation_options(spec: "RunSpec") -> dict[str, Any]:
    """What an evaluation does with an image: its options by name, those that have an effect here."""
    read = spec.entries["tte"].reads
    fields = {name: getattr(spec, name) for name in EVALUATION if name in ("tte", "eval_precision", *read)}
    fields |= {"wise_ft": spec.wise_ft} if spec.wise_ft != 1 else {}
    fields |= {"evaluate_on": spec.evaluate_on} if spec.evaluate_on else {}
    posthoc = {name: spell(value) for name, value in spec.knobs if name.startswith(f"{POSTHOC_SCOPE}.")}
    return fields | {f"tte.{name}": value for name, value in spec.knobs_of("tte").items()} | posthoc


@dataclass(frozen=True)
class Recipe:
    """A published way to train, by name: values of RunSpec fields, and those it changes for some data sets."""

    about: str
    values: Mapping[str, Any] = field(default_factory=dict)
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# The demo trains for 2 epochs in the place of 10, with a bottleneck of its own; LIFT+ halves the epochs.
_DEMO = {"epochs": 1, "adapter_dim": 4}
RECIPES: dict[str, Recipe] = {
    "lift": Recipe("PEL / LIFT (Shi et al. 2024): the code defaults"),
    "lift+": Recipe(
        "LIFT+ (Shi et al. 2025): half the epochs at twice the rate, minimalist augmentation, bicubic resizing",
        {"epochs": 5, "lr": 0.02, "augment": "mda", "interpolation": "bicubic", "adapter_dim": "auto-tuned"},
        {"inat2018": {"epochs": 15}} | dict.fromkeys(STAND_INS, _DEMO),
    ),
    "coop": Recipe(
        "CoOp (Zhou et al. 2022), with the method head-only: the released code's loss, scale and rate; the rest as in lift",
        {"head": "coop", "scale": 100, "loss": "ce", "lr": 0.002},
    ),
    "clip-adapter": Recipe(
        "CLIP-Adapter (Gao et al. 2021), with the method head-only: cross-entropy at CLIP's scale; rate and epochs as in lift",
        {"head": "clip-adapter", "scale": 100, "loss": "ce"},
    ),
    "tip-adapter": Recipe(
        "Tip-Adapter (Zhang et al. 2022), with the method head-only: a cache of training features; nothing trains",
        {"head": "tip-adapter", "scale": 100, "epochs": 0},
    ),
    "tip-adapter-f": Recipe(
        "Tip-Adapter-F (Zhang et al. 2022), with the method head-only: the cache's keys train, as in the released code but "
        "for epochs, crops, batch, weight decay (theirs 0.01) and AdamW's eps (1e-4); it takes the best epoch, alpha and beta by "
        "the images that it is scored on, which nothing here does",
        {"head": "tip-adapter-f", "scale": 100, "loss": "ce", "optimizer": "adamw", "lr": 1e-3, "schedule": "cosine-step"},
    ),
    "vl-ltr": Recipe(
        "VL-LTR's second stage (Tian et al. 2022), with the method head-only, on the data set's file of sentences: the released "
        "code's loss, sampling, AdamW, rate and weight decay for ImageNet-LT, at CLIP's scale; epochs and batch (theirs 50 and "
        "1024) as in lift",
        {
            "head": "language-guided",
            "prompt": "descriptions",
            "scale": 100,
            "loss": "ce",
            "sampler": "square-root",
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.05,
        },
    ),
    "lt-soups": Recipe(
        "LT-Soups (arXiv 2511.10683), both stages, with the method full: AdamW at 3e-5; the moving average of the weights, the "
        "subsets (data.cap_ratio), the soup and the schedule are the row's",
        {"optimizer": "adamw", "lr": 3e-5, "weight_decay": 0.01},
    ),
    "ballad-a": Recipe(
        "BALLAD (Ma et al. 2021), phase A, with the method full: cross-entropy at CLIP's scale; the rate is the row's",
        {"scale": 100, "loss": "ce", "optimizer": "adamw"},
    ),
    "ballad": Recipe(
        "BALLAD, phase B, from a run of phase A: an adapter on balanced batches; its rate is the row's",
        {"head": "clip-adapter", "scale": 100, "loss": "ce", "sampler": "balanced"},
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


RATIO = f"{SCOPE}.ratio"


def name_ratio(
    dataset: str, shared: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A data set with its imbalance ratio in the one place where a run names it: in its name where it is drawn from a balanced
    pool (``cifar100`` with ``data.ratio`` 50 is ``cifar100-ir50``), else in ``data.ratio``. Returns also the options without it.

    Raises:
        PelError: the name has another ratio than is asked for, or the ratio is none.
    """
    given = {**shared, **overrides}.get(RATIO)
    if given is None:
        return dataset, dict(shared), dict(overrides)
    base, named = split_name(dataset)
    pool = base in DATASETS and DATASETS[base].ratios == "any"
    if not (pool or named):
        return dataset, dict(shared), dict(overrides)
    ratio = FACTORS.knob("ratio").convert(RATIO, given)  # type: ignore[union-attr]
    if named and RATIO in overrides and ratio not in ("own", named):
        raise PelError(
            f"{RATIO}={spell(ratio)}: the name '{dataset}' has a ratio; ask for '{base}' with {RATIO}, or for the name"
        )
    name = dataset if named or ratio == "own" else f"{base}-ir{spell(ratio)}"
    return name, *({key: value for key, value in values.items() if key != RATIO} for values in (shared, overrides))


def convert(name: str, value: Any, default: Any) -> Any:
    """A field's value from its slug or YAML spelling; the declared default tells the type.

    Raises:
        PelError: the value is not of that type.
    """
    if isinstance(default, bool):
        return read_bool(name, value)
    if isinstance(value, bool):
        raise PelError(f"{name}={value}: expected {'a number' if isinstance(default, int | float) else 'a word'}")
    if name in WORDS:
        words, kind = WORDS[name]
        return value if value in words else read_number(name, value, kind, words)
    if isinstance(default, int | float):
        return read_number(name, value, type(default))
    return str(value)
