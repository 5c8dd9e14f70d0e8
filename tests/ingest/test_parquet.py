"""Parquet files of images and labels."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from own_trees import counts, fill, make
from PIL import Image
from pyarrow import parquet

from pel_core.common.errors import PelError
from pel_core.ingest.entries import declared
from pel_core.ingest.sources import open_source
from pel_core.ingest.user_outline import outline

LABELS = ["sea lion", "orca", "orca", "sea lion", "orca", "seal", "seal", "seal"]


def encoded(number: int, form: str = "PNG") -> bytes:
    """A small image of its number."""
    out = io.BytesIO()
    Image.new("RGB", (9, 8), (number * 20, 255 - number * 20, 90)).save(out, form)
    return out.getvalue()


def struct(content: list[bytes]) -> list[dict]:
    return [{"bytes": each, "path": f"{i}.png"} for i, each in enumerate(content)]


IMAGES = [encoded(i, "JPEG" if i % 2 else "PNG") for i in range(8)]


def save(path: Path, metadata: dict | None = None, /, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": metadata}})})
    parquet.write_table(table, path, row_group_size=3)
    return path


def prepare(root: Path, out: Path, **keys):
    return make(root, out, kind="parquet", **keys)


@pytest.mark.parametrize("form", ["bytes", "structs", "large"])
def test_one_file_of_encoded_images(tmp_path, form):
    images = {"bytes": IMAGES, "structs": struct(IMAGES), "large": pa.array(IMAGES, pa.large_binary())}[form]
    file = save(tmp_path / "in/all.parquet", image=images, label=LABELS, width=[9] * 8)
    data = make(file, tmp_path / "out", test_fraction=0.4)  # kind: auto
    assert data.class_names == ["orca", "sea lion", "seal"]
    assert sorted(Path(path).read_bytes() for path in data.train.paths + data.test.paths) == sorted(IMAGES)
    assert {Path(path).suffix for path in data.train.paths + data.test.paths} == {".jpg", ".png"}
    config = {"datasets": {"mine": {"kind": "parquet", "root": str(file), "test_fraction": 0.4}}}
    planned = outline(open_source("mine", declared(config)["mine"], config).locate())
    assert planned.splits == {"train": len(data.train), "test": len(data.test)} and planned.classes == 3


def test_shards_as_the_hub_has_them(tmp_path):
    features = {"label": {"names": ["seal", "orca", "walrus", "sea_lion"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    for shard in (0, 1):
        part = slice(4 * shard, 4 * shard + 4)
        numbers = [[3, 1, 1, 0], [1, 0, 0, 3]][shard]
        save(tmp_path / f"in/data/train-0000{shard}-of-00002.parquet", features, image=struct(IMAGES[part]), label=numbers)
    save(tmp_path / "in/data/test-00000-of-00001.parquet", features, image=struct(IMAGES[:2]), label=[0, 3])
    data = prepare(tmp_path / "in", tmp_path / "out")
    assert data.class_names == ["seal", "orca", "sea lion"], "as the data set numbers them, less those without an image"
    assert counts(data.train, 3) == [3, 3, 2] and data.test.labels.tolist() == [0, 2] and data.val is None
    assert [Path(path).read_bytes() for path in data.train.paths] == IMAGES
    named = prepare(tmp_path / "in", tmp_path / "two", train="data/train-*.parquet", test=["data/test-00000-of-00001.parquet"])
    assert named.sha256 == data.sha256


def test_a_column_of_splits_and_a_long_tail(tmp_path):
    splits = ["train"] * 6 + ["Validation", "test"]
    file = save(tmp_path / "in/a.parquet", picture=IMAGES, species=[2, 10, 10, 2, 10, 10, 2, 2], split=splits)
    data = prepare(file, tmp_path / "out", label_column="species", profile="step", ratios=[2], name="mine-ir2", largest=4)
    assert data.class_names == ["2", "10"] and data.train_counts.tolist() == [2, 4]
    assert len(data.val) == len(data.test) == 1
    save(tmp_path / "train.parquet", picture=IMAGES, label=LABELS, split=splits)
    with pytest.raises(PelError, match="called by a split and has a column 'split'; say which"):
        prepare(tmp_path / "train.parquet", tmp_path / "out2")


def test_paths_stay_where_they_are(tmp_path):
    root = fill(tmp_path / "in", {"a": 4, "b": 4})
    paths = [str(path.relative_to(root)) for path in sorted(root.rglob("*.png"))]
    save(root / "table.parquet", path=paths, label=pa.array([p[0] for p in paths]).dictionary_encode())
    data = prepare(root, tmp_path / "out", test_fraction=0.25)
    assert data.class_names == ["a", "b"] and data.train.paths[0] == str(root / "a/000.png")
    assert not (tmp_path / "out/images").exists()
    save(root / "table.parquet", where=[*paths[:-1], "b/999.png"], label=[p[0] for p in paths])
    with pytest.raises(PelError, match=r"b/999\.png cannot be used"):
        prepare(root, tmp_path / "other", image_column="where", test_fraction=0.25)
    save(root / "table.parquet", path=[*paths[:-1], paths[0]], label=[p[0] for p in paths])
    with pytest.raises(PelError, match=r"row 7: 'a/000\.png' repeats .*row 0; expected each image once"):
        prepare(root, tmp_path / "other")


@pytest.mark.parametrize(
    "columns, keys, message",
    [
        ({"image": IMAGES, "label": [0.5] * 8}, {}, r"'label' of .* holds (double|float64?) .*expected class labels"),
        ({"image": IMAGES, "label": [1.0] * 8}, {}, r"'label' of .* holds (double|float64?)"),
        ({"image": IMAGES, "label": [0, 1, None, 0, 1, 0, 1, 0]}, {}, r"in\.parquet, row 2: the label is None"),
        ({"image": IMAGES, "label": [0, 1, -1, 0, 1, 0, 1, 0]}, {}, r"in\.parquet, row 2: the label is -1"),
        ({"image": [*IMAGES[:5], b"not an image", *IMAGES[6:]], "label": LABELS}, {}, r"in\.parquet, row 5: .*not an image"),
        ({"image": [*IMAGES[:5], b"", *IMAGES[6:]], "label": LABELS}, {}, r"in\.parquet, row 5: the image is empty"),
        ({"image": [{"bytes": None, "path": "x.png"}] * 8, "label": LABELS}, {}, r"row 0: the image is only a path \(x\.png\)"),
        ({"image": IMAGES, "mask": IMAGES, "label": LABELS}, {}, r"2 columns of images .*'image_column: NAME'"),
        ({"image": IMAGES, "label": LABELS}, {"image_column": "imgae"}, "unknown column of .*'imgae'.*Did you mean 'image'"),
        ({"image": IMAGES, "label": LABELS}, {"label_column": "lable"}, "Did you mean 'label'"),
        ({"image": IMAGES, "label": LABELS}, {"split_column": "fold"}, "unknown split_column of .*'fold'"),
        ({"image": IMAGES, "animal": LABELS}, {}, "a column that may hold the labels"),
        ({"words": LABELS, "label": LABELS}, {}, "no image in words, label"),
        ({"image": IMAGES, "label": LABELS, "split": ["tain"] * 8}, {}, "unknown split in .*row 0: 'tain'.*Did you mean 'train'"),
        ({"image": IMAGES, "label": LABELS, "split": ["test"] * 8}, {}, "rows of test and none to train on"),
        ({"image": IMAGES, "label": LABELS, "split": ["train"] * 8, "x": [1] * 8}, {"split_column": "x"}, "unknown split in"),
        ({"image": IMAGES, "label": [*LABELS[:7], "x"], "split": ["train"] * 7 + ["val"]}, {}, "row 7: class 'x' .* no training"),
        ({"image": IMAGES, "label": LABELS}, {"files": "*.parq"}, r"no file of .* fits '\*\.parq'"),
        ({"image": IMAGES, "label": LABELS}, {"train": "in.parquet", "test": "*.parquet"}, "is of the splits train and test"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_meant(tmp_path, columns, keys, message):
    save(tmp_path / "in/in.parquet", **columns)
    with pytest.raises(PelError, match=f"data set 'mine': .*{message}"):
        prepare(tmp_path / "in", tmp_path / "out", **keys)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()], "something was written"


def test_unlabelled_class_labels(tmp_path):
    features = {"label": {"names": ["seal", "orca"], "_type": "ClassLabel"}}
    save(tmp_path / "in/a.parquet", features, image=IMAGES[:3], label=[0, 1, -1])
    with pytest.raises(PelError, match="row 2: its label is -1, which is no class"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_files_that_do_not_fit_each_other_or_are_damaged(tmp_path):
    save(tmp_path / "in/a.parquet", image=IMAGES[:4], label=LABELS[:4])
    save(tmp_path / "in/b.parquet", image=IMAGES[4:], name=LABELS[4:])
    with pytest.raises(PelError, match=r"unknown column of .*b\.parquet: 'label'; known: image, name"):
        prepare(tmp_path / "in", tmp_path / "out")
    save(tmp_path / "in/b.parquet", image=IMAGES[4:], label=[1, 2, 3, 4])
    with pytest.raises(PelError, match=r"b\.parquet: the column 'label' is int64, and string in .*a\.parquet"):
        prepare(tmp_path / "in", tmp_path / "out")
    whole = save(tmp_path / "in/b.parquet", image=IMAGES[4:], label=LABELS[4:]).read_bytes()
    (tmp_path / "in/b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PelError, match=r"b\.parquet cannot be read as a Parquet file .*cut off"):
        prepare(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/b.parquet").rename(tmp_path / "in/train.parquet")
    with pytest.raises(PelError, match=r"train\.parquet is called by a split, and a\.parquet is not"):
        prepare(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"files": "a", "train": "b"}, "expected one or the other"),
        ({"test": "b"}, "expected train beside"),
        ({"train": "b", "split_column": "x"}, "need no column of splits"),
        ({"files": [1]}, "is no file: expected a name, a pattern"),
    ],
)
def test_entries_that_cannot_be_meant(tmp_path, keys, message):
    with pytest.raises(PelError, match=message):
        prepare(tmp_path, tmp_path / "out", **keys)


def test_prepared_again_when_a_label_changes(tmp_path):
    """A table of the same size with another label makes another data set."""
    file = save(tmp_path / "in/all.parquet", image=IMAGES, label=LABELS)
    first = prepare(file, tmp_path / "out")
    size = file.stat().st_size
    save(file, image=IMAGES, label=[*LABELS[:6], "orca", "seal"])
    assert abs(file.stat().st_size - size) < 50
    assert prepare(file, tmp_path / "out").sha256 != first.sha256
