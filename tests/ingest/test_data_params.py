"""What a prepared data set depends on is one text, which Snakemake compares: were it another, all would be made again.

The golden texts were written before the sources were classes of their own.
"""

import json
import os
from pathlib import Path

import pytest

from pel_core.data.datasets import DATASETS
from pel_core.ingest.entries import declared
from pel_core.ingest.identity import data_params
from pel_core.ingest.sources import SOURCES, open_source
from pel_core.ingest.split_formats import beside

GOLDEN = Path(__file__).parents[1] / "golden" / "data-params.json"
DRAWN = {"profile": "exponential", "ratios": [10, 50], "groups_from": 10, "largest": 40, "sampling_seed": 3}
SPLIT = {"test_fraction": 0.25, "val_fraction": 0.1, "split_seed": 7}
# Entries of a configuration, each on a tree of `write_trees`.
ENTRIES: dict[str, dict] = {
    "lists-one": {"root": "lists", "train": "train.txt", "test": "test.txt", "names": "names.txt"},
    "lists-many": {
        "kind": "lists", "root": "lists", "lists": "more", "train": "train_{ir}.txt", "test": "test.txt", "val": "test.txt",
        "names": "names.txt", "names_format": "name", "ratios": [10, 50.5], "groups_from": 10, "native_resolution": 32,
    },
    "folders": {"kind": "folders", "root": "folders"},
    "folders-drawn": {"kind": "folders", "root": "folders", **DRAWN, **SPLIT, "class_names": {"a": "an A", "b": "a B"}},
    "folders-one-ratio": {"kind": "folders", "root": "folders", "profile": "step", "ratios": 2, "class_names": "names.txt"},
    "folders-as-default": {"kind": "folders", "root": "folders", "class_names": "", "split_seed": 0, "groups_from": None},
    "auto-folders": {"kind": "auto", "root": "folders", "native_resolution": 64},
    "csv": {"kind": "csv", "root": "tables/all.csv"},
    "csv-file": {
        "kind": "csv", "root": "tables", "file": "all.csv", "image_column": "p", "label_column": "l", "split_column": "s",
        "class_names": {0: "zero", 1: "one"},
    },
    "auto-csv": {"kind": "auto", "root": "tables", "file": "all.csv", **DRAWN},
    "huggingface": {"kind": "huggingface", "root": "saved", "image_column": "image", "label_column": "label"},
    "auto-huggingface": {"kind": "auto", "root": "saved"},
    "hub": {"kind": "hub", "repository": "someone/seals", "revision": f"v1@{'0' * 40}", "splits": {"train": "all"}, **SPLIT},
    "hub-folder": {"kind": "hub", "root": "folders", "configuration": "small", "image_column": "picture"},
    "webdataset": {"kind": "webdataset", "root": "shards", "train": "a-{0..1}.tar", "test": "b.tar"},
    "torchvision": {"kind": "torchvision", "root": "torchvision-cifar10", "set": "CIFAR10", **DRAWN},
    "split_file": {"kind": "split_file", "root": "lists", "train": "train.txt", "test": "test.txt", "class_names": {0: "zero"}},
}  # fmt: skip
# Kinds of which no entry stands here: Parquet's bytes are its library's to choose, so that no golden text can hold their hash.
ELSEWHERE = {"parquet"}
NAMING = {"toy": {"clean": "-"}, "folders": {"file": "names.txt"}}


USERS = [base for base, entry in DATASETS.items() if SOURCES[entry.kind].is_users]  # published data that are read as a user's


def published_files(base: str) -> list[str]:
    """The files that the identity of a published data set is read from, and an image of it, below a folder of all of them."""
    source = open_source(base, DATASETS[base])
    options = source.options
    if source.kind == "torchvision":
        places = {place.replace("{part}", part) for place in source.known.places for part in source.splits.values()}
        return [f"{base}/{place.replace('*', 'x')}" + ("" if Path(place).suffix else "/1.png") for place in places]
    given = [options.file] if options.file else [options.train, options.test]
    files = [os.path.normpath(f"{options.root}/{file}") for file in given]
    return [each for file in files for each in (file, *beside(file))] + [f"{options.root}/train/n1/images/1.JPEG"]


def write_trees(root: Path) -> None:
    """Bytes that no decoder has to like: an identity never looks into images."""
    files = {
        "lists/train.txt": "a/1.png 0\nb/1.png 1\n", "lists/test.txt": "a/2.png 0\n", "lists/names.txt": "a\nb\n",
        "lists/more/train_10.txt": "a/1.png 0\nb/1.png 1\n", "lists/more/train_50.5.txt": "a/1.png 0\n",
        "lists/more/test.txt": "a/2.png 0\n", "lists/more/names.txt": "a\nb\n",
        "folders/a/1.png": "one", "folders/a/2.jpg": "three", "folders/b/x/3.PNG": "", "folders/notes.md": "no image",
        "folders/names.txt": "a first\nb second\n",
        "tables/all.csv": "p,l,s\n1.png,0,train\n", "tables/1.png": "one",
        "saved/state.json": "{}", "saved/dataset_info.json": "{}", "saved/data-00000.arrow": "four",
        "names.txt": "first\nsecond\n",
        "shards/a-0.tar": "five", "shards/a-1.tar": "six", "shards/b.tar": "seven!",
        "torchvision-cifar10/cifar-10-batches-py/data_batch_1": "eight", "lists/a/1.png": "one",
    }  # fmt: skip
    for base in ("imagenet-lt", "places-lt", "inat2018"):
        for name in ("classnames.txt", "categories.json", *(f"{kind}_{split}.txt" for kind in ("ImageNet_LT", "Places_LT",
                     "iNaturalist18") for split in ("train", "val", "test"))):  # fmt: skip
            files[f"{base}/{name}"] = f"{base} {name}"
    for base in USERS:
        files |= {f"published/{name}": f"{base} {Path(name).name}" for name in published_files(base)}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def texts(root: Path) -> dict[str, str]:
    """The text of every built-in data set and of every entry above; ``root`` holds their trees."""
    config: dict = {"datasets": {name: {**entry, "root": str(root / entry.get("root", ""))} for name, entry in ENTRIES.items()}}
    config["datasets"]["hub"].pop("root")
    config["roots"] = {base: str(root / base) for base in ("imagenet-lt", "places-lt", "inat2018")}
    for base in USERS:
        config["roots"][base] = str(
            root / "published" / (base if DATASETS[base].kind == "torchvision" else DATASETS[base].options["root"])
        )
    datasets = declared(config)
    made = {base: data_params(base, datasets, config) for base in [*DATASETS, *ENTRIES]}
    named = config | {"naming": {**NAMING, "folders": {"file": str(root / "names.txt")}}}
    return made | {f"{base}+naming": data_params(base, datasets, named) for base in NAMING}


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("trees")
    write_trees(root)
    return root


def test_every_text_is_as_it_was(trees):
    made, before = texts(trees), json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert made == before


def test_every_kind_has_a_text():
    kinds = {entry.kind for entry in DATASETS.values()} | {entry.get("kind", "lists") for entry in ENTRIES.values()}
    assert kinds == {*SOURCES} - ELSEWHERE


def test_a_tree_that_moved_has_the_same_text(trees, tmp_path):
    write_trees(tmp_path / "elsewhere")
    assert texts(tmp_path / "elsewhere") == texts(trees)
