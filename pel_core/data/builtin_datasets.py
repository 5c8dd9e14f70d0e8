"""The entries of DATASETS: the published data sets, the toy one for tests, and the demo's stand-ins. Torch-free."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pel_core.data.datasets import DATASETS, LongTailed
from pel_core.demo.stand_ins import STAND_INS

NOTHING: Mapping[str, Any] = MappingProxyType({})


def register_lists(name: str, about: str, recipe: Mapping[str, Any] = NOTHING, **options: str) -> None:
    """Add a data set of image files and list files, of which ``options`` tell (`pel_core.ingest.sources.lists.ListsOptions`)."""
    DATASETS.register(name, LongTailed(kind="lists", recipe=recipe, options=options), about=about)


register_lists(
    "imagenet-lt", "ImageNet-LT (Liu et al. 2019): 1,000 classes of ILSVRC 2012", root="imagenet",
    names="classnames.txt", names_format="id name",
    train="ImageNet_LT_train.txt", val="ImageNet_LT_val.txt", test="ImageNet_LT_test.txt",
)  # fmt: skip
register_lists(
    "places-lt", "Places-LT (Liu et al. 2019): 365 scenes", root="places", names="classnames.txt", names_format="id name",
    train="Places_LT_train.txt", val="Places_LT_val.txt", test="Places_LT_test.txt",
)  # fmt: skip
# Its validation images are its test set in the literature, so that there is no split to choose on.
register_lists(
    "inat2018", "iNaturalist 2018: 8,142 species", root="inat2018", names="categories.json", recipe={"epochs": 20},
    train="iNaturalist18_train.txt", test="iNaturalist18_val.txt",
)  # fmt: skip


def _register_pixels(name: str, kind: str, about: str, **more: Any) -> None:
    DATASETS.register(name, LongTailed(kind=kind, held_as="pixels", **more), about=about)


_register_pixels(
    "cifar100", "cifar", "CIFAR-100, long-tailed at any ratio (Cui et al. 2019)", native_resolution=32,
    ratios="any", groups_from=100, pool=(100, 500), options={"root": "cifar-100-python"},
)  # fmt: skip
_register_pixels(
    "toy", "toy", "six tinted textures, for tests", native_resolution=20, ratios="any", groups_from=20, pool=(6, 120),
    synthetic=True, recipe={"epochs": 2, "batch_size": 32, "precision": "fp32"},
)  # fmt: skip
for _name, _world in STAND_INS.items():
    _pool = len(_world.classes), _world.largest
    _many: dict[str, Any] = {} if _world.profile else {"ratios": "any", "groups_from": 100, "pool": _pool}
    _register_pixels(
        _name, "rendered", f"the demo's rendered stand-in for {_name.removeprefix('demo-')}", synthetic=True,
        native_resolution=_world.native_resolution, recipe=_world.recipe, **_many,
    )  # fmt: skip
