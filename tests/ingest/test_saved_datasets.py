"""Directories that Hugging Face's save_to_disk leaves."""

from pathlib import Path

import pytest
from own_trees import counts, draw, fill, make
from PIL import Image

from pel_core.common.errors import PelError
from pel_core.data.datasets import open_prepared


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A DatasetDict with ClassLabels and encoded images, and a plain Dataset, as their library saves them."""
    datasets = pytest.importorskip("datasets", reason="needs the extra 'hf'")
    folder = tmp_path_factory.mktemp("saved")
    datasets.disable_progress_bars()
    images = [str(path) for path in sorted(fill(folder / "files", {"a": 6, "b": 4}).rglob("*.png"))]
    Image.new("RGB", (9, 9)).save(folder / "photo.jpg")
    labels = [1] * 6 + [0] * 4
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["sea_lion", "orca", "seal"])})
    table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=kinds)
    test = datasets.Dataset.from_dict({"image": [str(folder / "photo.jpg")] * 2, "label": [0, 1]}, features=kinds)
    datasets.DatasetDict({"train": table, "test": test, "extra": test}).with_format("numpy").save_to_disk(folder / "dict")
    plain = datasets.Dataset.from_dict({"picture": images, "id": list(range(10)), "label": [f"kind {x}" for x in labels]})
    plain.cast_column("picture", datasets.Image()).shuffle(seed=0).save_to_disk(folder / "one")
    datasets.Dataset.from_dict({"image": images[:2], "label": [0, -1]}, features=kinds).save_to_disk(folder / "unlabelled")
    raw = {"content": [Path(path).read_bytes() for path in images], "labels": labels}
    datasets.Dataset.from_dict(raw).save_to_disk(folder / "raw")
    datasets.Dataset.from_dict({"text": ["x"], "label": [1]}).save_to_disk(folder / "text")
    return folder


def test_a_saved_dictionary(saved, tmp_path, capsys):
    data = make(saved / "dict", tmp_path / "out")
    told = capsys.readouterr().err
    assert "12 images" in told and f"into {tmp_path / 'out/images'}" in told and "split 'extra'" in told
    assert data.class_names == ["sea lion", "orca"]  # as the data set numbers them; 'seal' has no image
    assert counts(data.train, 2) == [4, 6] and data.test.labels.tolist() == [0, 1]
    originals = sorted(path.read_bytes() for path in (saved / "files").rglob("*.png"))
    assert sorted(Path(path).read_bytes() for path in data.train.paths) == originals, "images were encoded again"
    assert Path(data.test.paths[0]).suffix == ".jpg" and Path(data.train.paths[0]).suffix == ".png"
    assert make(saved / "dict", tmp_path / "out").sha256 == data.sha256, "it cannot be prepared again in place"
    assert not (tmp_path / "out/.images-new").exists()
    (tmp_path / "out").rename(tmp_path / "moved")
    assert Path(open_prepared(tmp_path / "moved", "mine").train.paths[0]).is_file()


def test_bytes_and_numbers_in_a_saved_table(saved, tmp_path):
    data = make(saved / "raw", tmp_path / "out")
    assert data.class_names == ["0", "1"] and Path(data.train.paths[0]).suffix == ".png"


def test_a_saved_table_is_divided(saved, tmp_path):
    data = make(saved / "one", tmp_path / "out", kind="huggingface", profile="step", ratios=[2], name="mine-ir2")
    assert data.class_names == ["kind 0", "kind 1"] and len(data.test) == 2 and data.train_counts.tolist() == [2, 5]


@pytest.mark.parametrize(
    "folder, keys, message",
    [
        ("unlabelled", {}, r"image 1: its label is -1, which is no class"),
        ("text", {}, "has no image in text, label"),
        ("one", {"image_column": "id"}, r"image_column: 'id' of .* expected images"),
        ("one", {"image_column": "pictures"}, "Did you mean 'picture'"),
        ("one", {"label_column": "lable"}, "Did you mean 'label'"),
    ],
)
def test_saved_directories_that_do_not_do(saved, tmp_path, folder, keys, message):
    with pytest.raises(PelError, match=f"data set 'mine': .*{message}"):
        make(saved / folder, tmp_path / "out", **keys)
    assert not (tmp_path / "out/.images-new").exists()


def test_a_damaged_directory_and_somebody_elses_images(saved, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "state.json").write_text("{")
    with pytest.raises(PelError, match="cannot be read as a Hugging Face directory"):
        make(broken, tmp_path / "out")
    draw(tmp_path / "out/images/mine.png")
    with pytest.raises(PelError, match="images was not written by this program"):
        make(saved / "dict", tmp_path / "out")
    assert (tmp_path / "out/images/mine.png").is_file()


def save(folder: Path, kinds: dict, **columns) -> Path:
    """A saved table of four images and these columns; ``kinds`` for those that are not plain."""
    datasets = pytest.importorskip("datasets", reason="needs the extra 'hf'")
    files = [str(path) for path in sorted(fill(folder / "files", {"a": 4}).rglob("*.png"))]
    table = datasets.Dataset.from_dict({"image": files, **columns}).cast_column("image", datasets.Image())
    for name, names in kinds.items():
        table = table.cast_column(name, datasets.Image() if names is None else datasets.ClassLabel(names=names))
    table.save_to_disk(folder / "saved")
    return folder / "saved"


CAMERA = {"camera": ["canon", "nikon"]}
KINDS = ["cat", "dog", "cat", "dog"]


@pytest.mark.parametrize("name", ["label", "labels", "Label"])
def test_a_column_called_label_is_preferred(tmp_path, capsys, name):
    root = save(tmp_path, CAMERA, camera=[0, 0, 0, 1], **{name: KINDS})
    data = make(root, tmp_path / "out", kind="huggingface")
    assert data.class_names == ["cat", "dog"]
    told = capsys.readouterr().err
    assert f"images from 'image', labels from '{name}' (string); not read: 'camera' (class labels: canon, nikon)" in told
    assert "images of each class: cat 2, dog 2" in told and "first examples: train/00000/00000000.png -> cat;" in told
    assert f"labels from '{name}'" in (tmp_path / "out/notes.json").read_text()
    assert make(root, tmp_path / "other", kind="huggingface", label_column="camera").class_names == ["canon", "nikon"]


@pytest.mark.parametrize(
    "kinds, columns, candidates",
    [
        (CAMERA | {"animal": ["cat", "dog"]}, {"camera": [0, 0, 1, 1], "animal": [0, 1, 0, 1]}, ["'camera' (class", "'animal'"]),
        (CAMERA, {"camera": [0, 0, 0, 1], "species": ["a", "b", "c", "d"]}, ["'camera'", "'species' (string)"]),
        (CAMERA, {"camera": [0, 0, 0, 1], "animal": KINDS}, ["'camera'", "'animal' (string)"]),
        (CAMERA, {"camera": [0, 0, 0, 1], "class_id": [0, 1, 2, 3]}, ["'camera'", "'class_id' (int64)"]),
        ({}, {"label": KINDS, "labels": [1, 2, 1, 2]}, ["'label' (string)", "'labels' (int64)"]),
        ({}, {"animal": KINDS}, ["a column that may hold the labels", "'animal' (string)"]),
    ],
)
def test_several_columns_that_may_be_the_labels_are_refused(tmp_path, kinds, columns, candidates):
    root = save(tmp_path, kinds, **columns)
    with pytest.raises(PelError) as refused:
        make(root, tmp_path / "out")
    assert all(part in str(refused.value) for part in [*candidates, "'label_column: NAME'", "datasets:"])
    assert make(root, tmp_path / "out", label_column=next(iter(columns))).class_names


def test_the_only_class_labels_are_taken_beside_what_is_no_class(tmp_path):
    root = save(tmp_path, CAMERA, camera=[0, 1, 1, 0], name=list("abcd"), width=[9, 9, 8, 8], source=["web"] * 4)
    assert make(root, tmp_path / "out").class_names == ["canon", "nikon"]


def test_several_columns_of_images_are_refused(tmp_path):
    files = [str(path) for path in sorted(fill(tmp_path / "masks", {"m": 4}).rglob("*.png"))]
    root = save(tmp_path, {"mask": None}, mask=files, label=KINDS)
    with pytest.raises(PelError, match=r"2 columns of images \(image, mask\); expected one: say which by 'image_column: NAME'"):
        make(root, tmp_path / "out")
    assert len(make(root, tmp_path / "out", image_column="mask").train) == 2


def test_numbers_and_missing_labels_of_a_saved_table(tmp_path):
    root = save(tmp_path / "a", {}, label=[10.0, 9.0, 10.0, 9.0])
    assert make(root, tmp_path / "out").class_names == ["9", "10"]
    for i, missing in enumerate((None, "nan", "NA", "")):
        root = save(tmp_path / f"b{i}", {}, label=["cat", "dog", missing, "dog"])
        with pytest.raises(PelError, match=f"image 2: the label is {missing!r}, expected a class name"):
            make(root, tmp_path / "out")
    root = save(tmp_path / "c", {}, label=[1.0, float("nan"), 2.0, 1.0])
    with pytest.raises(PelError, match="image 1: the label is nan"):
        make(root, tmp_path / "out")
