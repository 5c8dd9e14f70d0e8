"""DATASETS: every long-tailed data set by name, as data, and reading the folder that ``prepare.py`` makes of one.

A name is ``BASE`` or ``BASE-irRATIO`` (imbalance ratio): cifar100-ir100. Torch-free and quick to import, because the
workflow's planning reads it. Shapes: N images, H x W pixels, C classes.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import read_json
from pel_core.common.locales import check_locale
from pel_core.common.registry import Registry
from pel_core.common.versions import check_versions
from pel_core.data.image_cache import CachedImages
from pel_core.data.lists import ImageList, check_files, digest
from pel_core.data.manifest import make_manifest, read_manifest, renew
from pel_core.data.roots import read_root
from pel_core.data.sampling import long_tail_counts, long_tail_subset, shot_groups
from pel_core.demo.stand_ins import STAND_INS

FORMAT = 1  # of a prepared folder
MARK = ".written-by-pel-lab"  # in the folder ``images`` of a prepared data set whose images were taken out of tables, into files
NOTHING: Mapping[str, Any] = MappingProxyType({})
NAME = re.compile(r"(?P<base>[a-z][a-z0-9_-]*?)(?:-ir(?P<ratio>[1-9]\d*(?:\.\d*[1-9])?))?")


@dataclass(frozen=True, kw_only=True)
class LongTailed:
    """A data set as every kind of source declares it.

    ``kind``: the name of the source that reads it (`pel_core.ingest.sources`); ``options``: what that source has to be told, such
    as where the images lie. They are checked by the source's own model; nothing else looks into them.
    ``ratios``: the imbalance ratios there are; "any" samples one from a balanced pool; empty means that the set comes
    with one profile of its own. ``as_found``: it also comes without a ratio, beside those that are drawn from it.
    ``groups_from``: the ratio whose training counts say which classes are head, medium and tail, whatever ratio is trained on;
    None takes the counts trained on.
    ``pool``: classes and training images of each, where ratios are "any"; a ratio that leaves a class empty is refused.
    ``recipe``: RunSpec fields that this data set sets.
    ``held_as``: whether prepared images are files that stay where they are, or one array of pixels.
    ``synthetic``: images are drawn by this program, so that numbers cannot be compared with published ones.
    """

    kind: str
    native_resolution: int | None = None
    ratios: tuple[float, ...] | Literal["any"] = ()
    as_found: bool = False
    groups_from: float | None = None
    pool: tuple[int, int] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    held_as: Literal["files", "pixels"] = "files"
    synthetic: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


DATASETS: Registry[LongTailed] = Registry("data set")


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


def split_name(name: str) -> tuple[str, float | None]:
    """Base and imbalance ratio of a data-set name: ``"cifar100-ir100"`` -> ``("cifar100", 100.0)``.

    Raises:
        PelError: the text is not of that form, or spells the ratio in another way than its one way.
    """
    match = NAME.fullmatch(name)
    if not match:
        raise PelError(f"'{name}' is not a data-set name: expected lower-case letters, digits, - and _, then perhaps -irRATIO")
    return match["base"], float(match["ratio"]) if match["ratio"] else None


def find_dataset(name: str, datasets: Mapping[str, LongTailed] = DATASETS) -> LongTailed:
    """The entry behind a name, its ratio checked.

    Raises:
        PelError: an undeclared data set, or a ratio that it does not have.
    """
    base, ratio = split_name(name)
    if base not in datasets:
        raise unknown("data set", base, datasets)
    ratios = datasets[base].ratios
    if ratios == "any":
        _check_pool(name, datasets[base], ratio)
        return datasets[base]
    found = datasets[base].as_found
    if ratios and ratio not in ratios and not (ratio is None and found):
        known = ", ".join([*([base] if found else []), *(f"{base}-ir{r:g}" for r in ratios)])
        raise PelError(f"data set '{name}' does not exist; {base} comes as {known}")
    if not ratios and ratio is not None:
        raise PelError(f"data set '{name}' does not exist; {base} has one profile of its own, ask for '{base}'")
    return datasets[base]


def held_as_files(name: str) -> bool:
    """Whether the images of a data set stay files when it is prepared; a user's own do."""
    entry = DATASETS.get(split_name(name)[0])
    return entry is None or entry.held_as == "files"


def _check_pool(name: str, entry: LongTailed, ratio: float | None) -> None:
    try:
        long_tail_counts(*entry.pool, ratio or 1) if entry.pool else None
    except PelError as error:
        raise PelError(f"data set '{name}': {error}") from None


@dataclass(frozen=True)
class Split:
    """Images of one purpose, as an array or files: ``labels`` int64 (N,), ``images`` uint8 (N, H, W, 3), ``paths``, and the
    ``native`` pixels to which files are reduced when they are read, or ``cache``, which holds them decoded."""

    labels: np.ndarray
    images: np.ndarray | None = None
    paths: list[str] | None = None
    native: int | None = None
    cache: CachedImages | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Prepared:
    """A data set as a run uses it: ``train_counts`` int64 (C,), ``groups`` head, med or tail (C,), ``sha256`` of its content."""

    name: str
    class_names: list[str]
    native_resolution: int | None
    train: Split
    test: Split
    val: Split | None
    train_counts: np.ndarray
    groups: list[str]
    sha256: str

    def split(self, name: str) -> Split:
        """The split evaluated on: ``test`` or ``val``."""
        chosen = {"test": self.test, "val": self.val}.get(name)
        if chosen is None:
            raise PelError(f"data set {self.name} has no split '{name}'")
        return chosen


def open_prepared(folder: str | Path, name: str, compare: Collection[str] = ()) -> Prepared:
    """Open what ``prepare`` wrote for the base of ``name``. Images stay on disk until they are read.

    Args:
        compare: the splits (train, val, test) whose image files are to be those that were prepared, as `require_unchanged` sees
            it; where images moved, all are.

    Raises:
        PelError: the folder is missing, incomplete or of another format or data set, the ratio is not there, or files are others.
    """
    folder = Path(folder)
    base, ratio = split_name(name)
    about = read_about(folder, base)
    counts = about["train_counts"]
    if about["ratios"] != "any":
        if (key := f"{ratio:g}" if ratio else "") not in counts:
            known = ", ".join(f"{base}-ir{r}" if r else base for r in counts)
            raise PelError(f"data set '{name}' is not in {folder}; it holds {known}")
        train = _open_split(folder, about, train_split(about, name), "train" in compare)
        train_counts = np.array(counts[key], np.int64)
        reference = counts[f"{about['groups_from']:g}"] if about["groups_from"] else train_counts
    else:
        train = _open_split(folder, about, train_split(about, name))
        per_class, classes = counts[""][0], len(counts[""])
        if ratio is not None:
            chosen = long_tail_subset(train.labels, ratio)
            train = Split(train.labels[chosen], images=train.images[chosen])
        train_counts = long_tail_counts(classes, per_class, ratio or 1)
        reference = long_tail_counts(classes, per_class, about["groups_from"])
    return Prepared(
        name=name,
        class_names=about["class_names"],
        native_resolution=about["native_resolution"],
        train=train,
        test=_open_split(folder, about, "test", "test" in compare),
        val=_open_split(folder, about, "val", "val" in compare) if "val.npz" in about["files"] else None,
        train_counts=train_counts,
        groups=shot_groups(reference),
        sha256=content_hash(about, name),
    )


def content_hash(about: Mapping[str, Any], name: str) -> str:
    """What identifies the content that a run on ``name`` sees: class names, images, labels, ratio. ``about`` is data.json."""
    ratio = split_name(name)[1]
    content = [about["class_names"], about["digests"][train_split(about, name)], about["digests"]["test"], ratio]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def train_split(about: Mapping[str, Any], name: str) -> str:
    """The file, without suffix, of the training images of ``name``. ``about`` is data.json."""
    ratio = split_name(name)[1]
    return f"train-ir{ratio:g}" if ratio and about["ratios"] != "any" else "train"


def read_about(folder: Path, base: str) -> dict[str, Any]:
    """The data.json of a prepared folder.

    Raises:
        PelError: the folder is missing, incomplete or of another format or data set.
    """
    about = read_json(folder / "data.json")
    again = f"; delete {folder} and prepare '{base}' again"
    if not isinstance(about, Mapping) or about.get("format") != FORMAT:
        raise PelError(f"{folder / 'data.json'} is not of data format {FORMAT}{again}")
    check_versions(folder / "data.json", about)
    if about["name"] != base:
        raise PelError(f"{folder} holds data set '{about['name']}', not '{base}'{again}")
    for file, size in about["files"].items():
        path = folder / file
        if not path.is_file():
            raise PelError(f"{path} is missing{again}")
        if path.stat().st_size != size:
            raise PelError(f"{path} has {path.stat().st_size} bytes, expected {size}{again}")
    return about


def _open_split(folder: Path, about: Mapping[str, Any], name: str, compare: bool = False) -> Split:
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        labels = arrays["labels"]
        if "paths" not in arrays:
            # Mapped copy-on-write: jobs of one machine share the pages, and torch takes the array as it is.
            return Split(labels, images=np.load(folder / f"images-{name}.npy", mmap_mode="c", allow_pickle=False))
    root, images, moved = image_list(folder, about, name)
    if moved or compare:
        require_unchanged(folder, about, name)
    return Split(labels, paths=[f"{root}/{path}" for path in images.paths])


def require_unchanged(folder: Path, about: Mapping[str, Any], name: str) -> None:
    """See that the image files of a split are, by content, those that it was prepared from.

    Only files whose size or times are others than the manifest has are read. Of a folder that was prepared before there were
    manifests, and that no planning has looked at since, sizes are compared.

    Raises:
        PelError: a file is another one, or cannot be used.
    """
    root, images, _ = image_list(folder, about, name)
    manifest = read_manifest(folder)
    if manifest is not None and name not in manifest.rows:
        return  # its images lie in the prepared folder itself
    if manifest is not None:
        changed = renew(manifest, root, manifest.rows[name]).changed
        if not len(changed):
            return
        wrong = [manifest.paths[row] for row in changed.tolist()]
        check_files(root, ImageList(images.source, wrong, np.zeros(len(wrong), np.int64)))  # one that is not there is said so
        what = f"{len(wrong)} of them hold something else, such as {wrong[0]}"
    else:
        sizes = check_files(root, images)
        made = make_manifest(root, {name: images.paths}) if digest(images, sizes) != about["digests"][name] else None
        if made is None or digest(images, sizes, made.of(name)) == about["digests"][name]:
            return
        what = "sizes or contents of files differ"
    raise PelError(
        f"the images under {root} are not those that {folder} was prepared from: {what}. Start snakemake (or make study) again, "
        "which prepares them and makes again what was made from the earlier ones, or put these back"
    )


def image_list(folder: Path, about: Mapping[str, Any], name: str) -> tuple[str, ImageList, bool]:
    """Where the images of a split held as files are, the split as a list of them, and whether they moved since then."""
    path = folder / f"{name}.npz"
    with np.load(path, allow_pickle=False) as arrays:
        images = ImageList(str(path), arrays["paths"].tobytes().decode().split("\n"), arrays["labels"])
    check_locale(images.paths)
    if (folder / "images" / MARK).is_file():
        return f"{folder}/images", images, False
    root, moved = read_root(folder, about["name"])
    return root, images, moved
