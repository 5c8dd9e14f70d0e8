"""Every kind of source on small data sets: found, known by its content, read; and what is known of published ones."""

import hashlib
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from own_trees import draw, fill, write
from pydantic import Field
from torchvision_trees import food101

from pel_core.common.errors import PelError
from pel_core.common.problems import Problems
from pel_core.data.datasets import DATASETS, LongTailed, open_prepared
from pel_core.demo.stand_ins import STAND_INS
from pel_core.ingest.content import Content
from pel_core.ingest.entries import declared
from pel_core.ingest.facts import FACTS
from pel_core.ingest.identity import data_params
from pel_core.ingest.options import Declared
from pel_core.ingest.prepare import prepare
from pel_core.ingest.sources import SOURCES, Source, cifar, open_source, register, require_split


@dataclass
class Example:
    """A data set of a kind: its name, what a configuration says of it, and a change of its content that its fingerprint shows."""

    base: str
    config: dict
    change: Callable[[], object] | None = None

    def open(self) -> Source:
        return open_source(self.base, declared(self.config)[self.base], self.config)


def _user(root: Path, kind: str, change: Callable[[], object], **more) -> Example:
    return Example("mine", {"datasets": {"mine": {"kind": kind, "root": str(root), **more}}}, change)


def _folders(root: Path, monkeypatch, kind: str = "folders") -> Example:
    fill(root)
    return _user(root, kind, lambda: draw(root / "red_deer/new.png", 99))


def _csv(root: Path, monkeypatch) -> Example:
    fill(root)
    rows = [[str(path.relative_to(root)), path.parent.name] for path in sorted(root.rglob("*.png"))]
    table = write(root / "all.csv", [["path", "label"], *rows])
    return _user(root, "csv", lambda: write(table, [["path", "label"], *rows[1:]]), file="all.csv")


def _lists(root: Path, monkeypatch) -> Example:
    fill(root, {"a": 3, "b": 3})
    lines = [f"{path.relative_to(root)} {'ab'.index(path.parent.name)}\n" for path in sorted(root.rglob("*.png"))]
    (root / "train.txt").write_text("".join(lines[1:3] + lines[4:]))
    (root / "test.txt").write_text(lines[0] + lines[3])
    (root / "names.txt").write_text("a\nb\n")
    names = {"train": "train.txt", "test": "test.txt", "names": "names.txt"}
    return _user(root, "lists", lambda: (root / "test.txt").write_text(lines[0]), **names)


def _huggingface(root: Path, monkeypatch) -> Example:
    datasets = pytest.importorskip("datasets", reason="needs the extra 'hf'")
    datasets.disable_progress_bars()
    images = [str(path) for path in sorted(fill(root / "files", {"a": 6, "b": 4}).rglob("*.png"))]

    def save(count: int) -> None:
        table = datasets.Dataset.from_dict({"image": images[:count], "label": ([1] * 6 + [0] * 4)[:count]})
        table.cast_column("image", datasets.Image()).save_to_disk(root / "saved")

    save(10)
    return _user(root / "saved", "huggingface", lambda: save(9))


def _hub(root: Path, monkeypatch) -> Example:
    datasets = pytest.importorskip("datasets", reason="needs the extra 'hf'")
    datasets.disable_progress_bars()
    images = [
        {"bytes": path.read_bytes(), "path": None}
        for path in sorted(fill(root.parent / "files", {"a": 6, "b": 4}).rglob("*.png"))
    ]
    root.mkdir(parents=True)

    def save(count: int) -> None:
        table = datasets.Dataset.from_dict({"image": images[:count], "label": ([1] * 6 + [0] * 4)[:count]})
        table.cast_column("image", datasets.Image()).to_parquet(root / "train.parquet")

    save(10)
    return _user(root, "hub", lambda: save(9))


def _webdataset(root: Path, monkeypatch) -> Example:
    images = sorted(fill(root.parent / "files", {"a": 6, "b": 4}).rglob("*.png"))
    root.mkdir(parents=True)

    def save(count: int) -> None:
        with tarfile.open(root / "train-0.tar", "w") as shard:
            for i, path in enumerate(images[:count]):
                for name, content in ((f"{i:04d}.png", path.read_bytes()), (f"{i:04d}.cls", path.parent.name.encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))

    save(10)
    return _user(root, "webdataset", lambda: save(9), train="train-*.tar")


def _cifar(root: Path, monkeypatch) -> Example:
    labels = {"train": np.repeat(np.arange(3), 4).tolist(), "test": [0, 1, 2]}
    records = {split: {"data": np.zeros((len(each), 3072), np.uint8), "fine_labels": each} for split, each in labels.items()}
    root.mkdir(parents=True)
    for name, record in {"meta": {"fine_label_names": ["x", "y", "z"]}, **records}.items():
        content = pickle.dumps(record, 2)
        (root / name).write_bytes(content)
        monkeypatch.setitem(cifar.CIFAR_MD5, name, hashlib.md5(content).hexdigest())
    return Example("cifar100", {"roots": {"cifar100": str(root)}})


def _split_file(root: Path, monkeypatch) -> Example:
    fill(root, {"a": 3, "b": 3})
    splits = {"train": (0, 1), "test": (2,)}
    listed = {s: [[f"{name}/{i:03d}.png", "ab".index(name), name] for name in "ab" for i in at] for s, at in splits.items()}
    (root / "split.json").write_text(json.dumps(listed))
    return _user(
        root, "split_file", lambda: (root / "split.json").write_text(json.dumps(listed | {"val": []})), file="split.json"
    )


def _parquet(root: Path, monkeypatch) -> Example:
    images = [path.read_bytes() for path in sorted(fill(root.parent / "files", {"a": 6, "b": 4}).rglob("*.png"))]
    root.mkdir()

    def save(count: int) -> None:
        table = pyarrow.table({"image": images[:count], "label": ([1] * 6 + [0] * 4)[:count]})
        pyarrow.parquet.write_table(table, root / "all.parquet")

    save(10)
    return _user(root, "parquet", lambda: save(9))


def _torchvision(root: Path, monkeypatch) -> Example:
    food101(root, monkeypatch.setattr)
    return _user(root, "torchvision", lambda: draw(root / "food-101/images/waffles/99.jpg", 99), set="Food101")


EXAMPLES: dict[str, Callable[[Path, pytest.MonkeyPatch], Example]] = {
    "toy": lambda root, monkeypatch: Example("toy", {}),
    "rendered": lambda root, monkeypatch: Example("demo-cifar", {}),
    "cifar": _cifar,
    "lists": _lists,
    "folders": _folders,
    "csv": _csv,
    "huggingface": _huggingface,
    "split_file": _split_file,
    "parquet": _parquet,
    "torchvision": _torchvision,
    "hub": _hub,
    "webdataset": _webdataset,
    "auto": lambda root, monkeypatch: _folders(root, monkeypatch, "auto"),
}


@pytest.fixture
def example(request, tmp_path, monkeypatch) -> Example:
    assert request.param in EXAMPLES, f"a source of the kind '{request.param}' needs a small data set in EXAMPLES"
    return EXAMPLES[request.param](tmp_path / "here", monkeypatch)


every = pytest.mark.parametrize("example", list(SOURCES), indirect=True)


@every
def test_a_source_is_read_as_it_says(example, tmp_path):
    """Splits and classes fit each other, images are files or pixels as declared, and files lie below the root that jobs get."""
    source = example.open().locate()
    content = source.read(tmp_path / "out", "all")
    if content.finish:
        content.finish()
    counts = np.bincount(content.splits["train"]["labels"], minlength=len(content.class_names))
    assert content.train_counts[""] == counts.tolist() and counts.min() > 0
    assert {"train", "test"} <= set(content.splits) == set(content.digests)
    assert example.open().may_have_val or "val" not in content.splits
    if source.entry.held_as == "pixels":
        assert source.root is None and set(content.images) == set(content.splits)
        assert all(images.shape[1:3] == (source.entry.native_resolution,) * 2 for images in content.images.values())
    else:
        root = tmp_path / "out/images" if (tmp_path / "out/images").is_dir() else Path(source.root)
        paths = content.splits["train"]["paths"].tobytes().decode().split("\n")
        assert not content.images and all((root / path).is_file() for path in paths)


@every
def test_a_fingerprint_follows_the_content_and_not_the_place(example, tmp_path):
    before = example.open().locate().fingerprint()
    assert before == example.open().locate().fingerprint()
    entries = example.config.get("datasets", {})
    for name, entry in entries.items():
        here, there = Path(entry["root"]), tmp_path / "there"
        shutil.copytree(here, there)
        moved = {"datasets": {name: {**entry, "root": str(there)}}}
        assert open_source(name, declared(moved)[name], moved).locate().fingerprint() == before
        example.change()
        assert example.open().locate().fingerprint() != before
        shutil.rmtree(here)
        with pytest.raises(PelError, match=r"data set 'mine': .*does not exist"):
            example.open().locate()


@every
def test_a_check_tells_what_there_is(example, capsys):
    problems = Problems()
    example.open().check(problems, "sample")
    assert not problems and capsys.readouterr().out


@every
def test_counts_are_those_that_are_prepared(example, tmp_path):
    counts, _ = example.open().class_counts()
    made = example.open().locate().read(tmp_path / "out", "none").train_counts
    assert all(name.startswith(example.base) for name in counts)
    if example.open().entry.ratios != "any":
        assert {name: each.tolist() for name, each in counts.items()} == {example.base: made[""]}


@pytest.mark.parametrize("kind", list(SOURCES))
def test_a_kind_says_what_it_is(kind):
    source = SOURCES[kind]
    assert source.kind == kind and SOURCES.entry(kind).about
    for name, key in source.Options.model_fields.items():
        assert key.description, f"{kind}: {name} has no description"
    if source.Entry:
        assert set(source.Options.model_fields) <= set(source.Entry.model_fields)
        assert source.Entry.model_fields["kind"].annotation.__args__ == (kind,)


def test_a_new_kind_is_one_class(tmp_path, monkeypatch):
    """Entries of it are declared, known, prepared and told apart without a change anywhere else."""
    monkeypatch.setattr(SOURCES, "_entries", {entry.name: entry for entry in SOURCES.entries()})

    class StripesEntry(Declared):
        kind: Literal["stripes"]
        width: Annotated[int, Field(ge=1, description="pixels of a stripe")] = 2

    @register
    class Stripes(Source):
        """Images of stripes."""

        kind = "stripes"
        Entry = Options = StripesEntry

        def read(self, out, check_images="sample", problems=None):
            content = Content(["down", "across"], {"": [2, 2]})
            stripe = np.arange(8)[:, None] // self.options.width % 2 * 255 * np.ones((1, 8), int)
            for split in ("train", "test"):
                images = np.stack([stripe, stripe.T] * 2)[..., None].repeat(3, -1)
                content.add_images(split, images, np.array([0, 1] * 2))
            return content

    config = {"datasets": {"mine": {"kind": "stripes", "root": "x", "width": 4}}}
    prepare("mine", tmp_path, config)
    assert open_prepared(tmp_path, "mine").train.images.shape == (4, 8, 8, 3)
    assert '"width":4' in data_params("mine", declared(config), config)
    with pytest.raises(PelError, match=r"unknown key .*\(kind: stripes\): 'widht'.*Did you mean 'width'"):
        declared({"datasets": {"mine": {"kind": "stripes", "root": "x", "widht": 4}}})
    with pytest.raises(PelError, match="has no validation split"):
        require_split("mine", "val", declared(config))


def test_a_kind_that_is_there_already():
    with pytest.raises(PelError, match="'toy' is there already"):

        @register
        class Other(Source):
            """Another one."""

            kind = "toy"


def test_a_kind_that_is_not_there():
    with pytest.raises(PelError, match=r"unknown kind of data set 'x': 'list'.*Did you mean 'lists'"):
        open_source("x", LongTailed(kind="list"))


# What is known before anything is read


@pytest.mark.parametrize("base", list(FACTS))
def test_facts_fit_each_other(base):
    """Images are the lines of the lists, classes are those of the groups; the entry reads the files that are known."""
    facts, source = FACTS[base], open_source(base, DATASETS[base])
    assert source.size(None) == (*facts.images, facts.classes)
    if pool := source.entry.pool:
        assert facts.images[0] == pool[0] * pool[1] and facts.classes == pool[0]
    if facts.files:
        assert set(source.list_names()) == set(facts.files) and sum(facts.groups) == facts.classes
        splits = source.split_files()
        assert facts.images == tuple(facts.files[splits[split]].lines for split in ("train", "test"))
        assert all(facts.files[splits[split]].lines == each * facts.classes for split, each in facts.each.items())


def test_sizes_of_what_is_made_here():
    assert open_source("toy", DATASETS["toy"]).size(20) is None
    for name, world in STAND_INS.items():
        size = open_source(name, DATASETS[name]).size(None if world.profile else 10)
        assert size.classes == len(world.classes) and size.test == world.test_per_class * size.classes
        assert size.train == sum(world.train_counts(None if world.profile else 10))
    assert open_source("cifar100", DATASETS["cifar100"]).size(100) == (10_847, 10_000, 100)
