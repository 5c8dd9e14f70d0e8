"""Changes of what a few runs' numbers are, for the same name: those runs alone are made again. Torch-free.

A stage's version (`common.versions`) makes every run of that stage again. Where a change concerns some entries only, it stands
here: a run that it concerns says so in its resolved values, ``revised``, by which what was stored before is known as another's.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pel_core.models.backbones import BACKBONES
from pel_core.models.inits import INITS

if TYPE_CHECKING:
    from pel_core.spec.run_spec import RunSpec

KEY = "revised"


def _cache_by_class(spec: "RunSpec") -> bool:
    return spec.head in ("tip-adapter", "tip-adapter-f") and bool(spec.knobs_of("head")["per_class"])


def _shared_as_last(spec: "RunSpec") -> bool:
    decays = spec.knobs_of("optimizer").get("layer_decay", 1) != 1
    return decays and any(part.name in ("fact-tt", "fact-tk") for part in spec.parts)


def _batch_norms(spec: "RunSpec") -> bool:
    exempt = str(spec.knobs_of("optimizer").get("no_decay", "none"))
    trains_them = any(part.blocks for part in spec.parts) and bool(BACKBONES[spec.backbone].stages)
    return trains_them and ("norms" in exempt or "biases" in exempt)


def _shots_by_class(spec: "RunSpec") -> bool:
    return spec.starts_rows and INITS[spec.init].shots > 0


REVISIONS: tuple[tuple[str, Callable[["RunSpec"], bool]], ...] = (
    ("the images in Tip-Adapter's cache are drawn class by class", _cache_by_class),
    ("what several blocks share learns at the rate of the last of them", _shared_as_last),
    ("the BatchNorms of a ResNet are norms to optimizer.no_decay", _batch_norms),
    ("the images that init=shot-K looks at are drawn class by class", _shots_by_class),
)


def revised(spec: "RunSpec") -> dict[str, Any]:
    """What a training's resolved values and its identity hold beside its options; nothing of nearly all runs."""
    found = [what for what, concerns in REVISIONS if spec.trains and concerns(spec)]
    return {KEY: "; ".join(found)} if found else {}
