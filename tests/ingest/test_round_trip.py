"""Odd labels, names, paths and dialects through every kind of source to the classes and predictions of a run: what went in is
what the counts say."""

import csv
import io
import unicodedata
from collections import Counter
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from pel_core.data.datasets import open_prepared
from pel_core.evaluation.outputs import write_outputs
from pel_core.evaluation.predictions import Predictions
from pel_core.ingest.prepare import prepare
from pel_core.spec.run_spec import RunSpec

# Any script, white space and punctuation, but no control characters, surrogates and byte-order marks.
LETTERS = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/\ufeff")
ODD = (
    "10.0", "9", "2", "007", "0.5", "cat", "Cat", "red  deer", "red_deer", "café", "cafe\u0301", "Зубр", "寺", 'it\'s; a "moose"',
    "a,b", "a;b", "a\tb", "a|b", '"', "=1+1", "#1", "back\\slash", "{}", "*", "[x]", "$HOME", "%d", "'", "none", "-", "1e3", "🦌",
)  # fmt: skip
MISSING = {"", "NA", "N/A", "n/a", "NULL", "null", "None", "NaT", "<NA>", "#N/A", "#NA"}


def plain(text: str) -> bool:
    """Whether a text can be a class of every source: it is a name, or a number that is spelled as all others are."""
    words = " ".join(text.replace("_", " ").split())
    if not words or text != text.strip() or text[0] in ".-" or len(text.encode()) > 200:
        return False
    number = text.replace(".", "", 1).replace(",", "", 1).isdecimal()
    return not number and text not in MISSING and text.lower() not in ("nan", "train", "test")


NAMES = st.one_of(st.sampled_from([name for name in ODD if plain(name)]), st.text(LETTERS, min_size=1, max_size=12).filter(plain))
NUMBERS = st.integers(0, 30).flatmap(lambda n: st.sampled_from([f"{n}", f"{n}.0", f"{n}.00", f"{n}.5"]))
COLUMNS = st.one_of(
    st.lists(NAMES, min_size=2, max_size=5, unique=True),
    st.lists(NUMBERS, min_size=2, max_size=5, unique_by=lambda text: Decimal(text)),
)
STEMS = st.text(LETTERS, min_size=1, max_size=8).filter(lambda text: text[0] != "." and len(text.encode()) < 200)


def expected_name(key: str, number: bool) -> str:
    """How a class is called that the data call ``key``."""
    if number:
        return f"{Decimal(key).normalize():f}"
    return " ".join(unicodedata.normalize("NFC", key.replace("_", " ")).split())


@st.composite
def worlds(draw, keys=COLUMNS):
    """Classes, and (split, class, name of the file) of each image: some of each class to train on, perhaps some to test on."""
    classes = draw(keys)
    images = []
    for label in range(len(classes)):
        stems = draw(st.lists(STEMS, min_size=2, max_size=4, unique_by=lambda text: text.strip().replace("\\", "/")))
        train = draw(st.integers(1, len(stems)))
        images += [("train" if i < train else "test", label, f"{stem}.png") for i, stem in enumerate(stems)]
    assume(any(split == "test" for split, _, _ in images))
    return classes, images


def outcome(config: dict, out: Path, folder: Path) -> tuple[Counter, dict[str, tuple[int, int]]]:
    """(split, class, content) of each image as it was prepared, and the classes of a run that predicts every label."""
    prepare("mine", out / "data" / "mine", {"datasets": {"mine": config}}, "none")
    data = open_prepared(out / "data" / "mine", "mine")
    found = Counter(
        (name, data.class_names[label], Path(path).read_bytes())
        for name, split in (("train", data.train), ("test", data.test))
        for path, label in zip(split.paths, split.labels.tolist(), strict=True)
    )
    labels = data.test.labels
    spec = RunSpec(dataset="mine", backbone="toy", method="ln", seed=0)
    write_outputs(folder, spec, data, out, Predictions.of(np.eye(len(data.class_names))[labels], labels))
    with open(folder / "classes.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    table = parquet.read_table(folder / "predictions.parquet").to_pydict()
    assert table["label_name"] == table["prediction_name"] == [data.class_names[label] for label in labels]
    assert [row["name"] for row in rows] == data.class_names and all(row["correct"] == row["test_images"] for row in rows)
    counts: dict[str, tuple[int, int]] = {}
    for row in rows:
        before = counts.get(row["name"], (0, 0))  # classes that differ in Unicode form alone have one name
        counts[row["name"]] = before[0] + int(row["train_images"]), before[1] + int(row["test_images"])
    return found, counts


def check(names: list[str], images: list[tuple[str, int, str]], config: dict, folder: Path) -> None:
    """What went in is what the counts say. ``names`` (C,): how the classes are to be called."""
    (folder / "run").mkdir()
    found, counts = outcome(config, folder / "results", folder / "run")
    assert found == Counter((split, names[label], str(i).encode()) for i, (split, label, _) in enumerate(images))
    for name in names:
        splits = Counter(split for split, label, _ in images if names[label] == name)
        assert counts[name] == (splits["train"], splits["test"])


def lay(root: Path, images: list[tuple[str, int, str]], folder_of) -> list[str]:
    """Write a file for each image, whose content is its number; their paths relative to the root."""
    paths = []
    for i, (split, label, name) in enumerate(images):
        path = root / folder_of(split, label) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(i).encode())
        paths.append(str(path.relative_to(root)))
    return paths


QUICK = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@QUICK
@given(worlds(st.lists(NAMES, min_size=2, max_size=5, unique=True)))
def test_folders(world):
    keys, images = world
    with TemporaryDirectory() as folder:
        root = Path(folder, "images")
        lay(root, images, lambda split, label: f"{split}/{keys[label]}")
        check([expected_name(key, False) for key in keys], images, {"kind": "folders", "root": str(root)}, Path(folder))


@st.composite
def dialects(draw):
    """How a program may write a table: what the text of a list of rows is, as bytes."""
    delimiter, quoting = draw(st.sampled_from(",;\t|")), draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    end, mark, told = draw(st.sampled_from(["\n", "\r\n", "\r"])), draw(st.booleans()), draw(st.booleans())
    pad = draw(st.sampled_from(["", " ", "  "])) if quoting == csv.QUOTE_ALL else ""

    def write(rows: list[list[str]]) -> bytes:
        lines = [f"sep={delimiter}"] if told else []
        for row in rows:
            text = io.StringIO()
            csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator="").writerow(row)
            cells = [text.getvalue()] if not pad else [f'{pad}"{cell.replace(chr(34), chr(34) * 2)}"{pad}' for cell in row]
            lines.append(delimiter.join(cells))
        return (end.join(lines) + end).encode("utf-8-sig" if mark else "utf-8")

    return write


@QUICK
@given(worlds(), dialects(), st.permutations([0, 1, 2]), st.booleans())
def test_tables(world, dialect, order, windows):
    keys, images = world
    is_number = all(key.replace(".", "").isdecimal() for key in keys)
    with TemporaryDirectory() as folder:
        root = Path(folder, "images")
        paths = lay(root, images, lambda split, label: f"{split}/{label}")
        if windows and not any("\\" in path for path in paths):
            paths = [path.replace("/", "\\") for path in paths]
        rows = [["path", "label", "split"]]
        rows += [[path, keys[label], split] for path, (split, label, _) in zip(paths, images, strict=True)]
        (root / "labels.csv").write_bytes(dialect([[row[column] for column in order] for row in rows]))
        names = [expected_name(key, is_number) for key in keys]
        check(names, images, {"kind": "csv", "root": str(root), "file": "labels.csv"}, Path(folder))


@QUICK
@given(worlds(), st.sampled_from(["\n", "\r\n"]))
def test_lists(world, end):
    keys, images = world
    with TemporaryDirectory() as folder:
        root = Path(folder, "images")
        paths = lay(root, images, lambda split, label: f"{split}/{label}")
        for each in ("train", "test"):
            lines = [f"{path} {label}" for path, (split, label, _) in zip(paths, images, strict=True) if split == each]
            (root / f"{each}.txt").write_bytes((end.join(lines) + end).encode())
        (root / "names.txt").write_bytes((end.join(keys) + end).encode())
        lists = {"train": "train.txt", "test": "test.txt", "names": "names.txt", "names_format": "name"}
        check(keys, images, {"kind": "lists", "root": str(root), **lists}, Path(folder))


@settings(QUICK, max_examples=10)
@given(worlds(), st.sampled_from(["string", "ClassLabel"]))
def test_saved_data_sets(world, kind):
    datasets = pytest.importorskip("datasets", reason="needs the extra 'hf'")
    datasets.disable_progress_bars()
    keys, images = world
    is_number = kind == "string" and all(key.replace(".", "").isdecimal() for key in keys)
    with TemporaryDirectory() as folder:
        of_kind = datasets.ClassLabel(names=keys) if kind == "ClassLabel" else datasets.Value("string")
        features = datasets.Features(
            {"camera": datasets.ClassLabel(names=["a", "b"]), "label": of_kind, "raw": datasets.Value("binary")}
        )
        tables = {}
        for each in ("train", "test"):
            rows = [(i % 2, keys[label], str(i).encode()) for i, (split, label, _) in enumerate(images) if split == each]
            columns = dict(zip(("camera", "label", "raw"), map(list, zip(*rows, strict=True)), strict=True))
            tables[each] = datasets.Dataset.from_dict(columns, features=features)
        datasets.DatasetDict(tables).save_to_disk(f"{folder}/saved")
        names = [expected_name(key, is_number) for key in keys]
        check(names, images, {"kind": "huggingface", "root": f"{folder}/saved"}, Path(folder))
