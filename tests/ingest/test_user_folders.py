"""Folders of class folders: what is found, left out, refused, and how entries of a configuration are checked."""

import os
from pathlib import Path

import pytest
from own_trees import CLASSES, counts, draw, fill, make
from PIL import Image

from pel_core.common.errors import PelError
from pel_core.ingest.entries import declared
from pel_core.ingest.prepare import prepare
from pel_core.ingest.sources import open_source
from pel_core.ingest.sources.folders import Walk


@pytest.fixture
def tree(tmp_path) -> Path:
    return fill(tmp_path / "my images")


def test_class_folders_become_a_data_set(tree, capsys):
    data = make(tree)
    assert data.class_names == ['it\'s; a "moose"', "red deer", "Зубр"]  # in the order of the folders' names
    assert data.train_counts.tolist() == counts(data.train, 3) == [2, 6, 4] and counts(data.test, 3) == [1, 2, 1]
    assert not set(data.train.paths) & set(data.test.paths) and all(os.path.isfile(path) for path in data.train.paths)
    assert all(
        data.class_names[label].split()[0] in path.replace("_", " ") for path, label in zip(data.train.paths, data.train.labels)
    )
    told = capsys.readouterr().err
    assert "3 classes" in told and "12 train, 4 test" in told and "held out of every class: 20 % for test" in told
    assert not list((tree.parent / "out").glob("*.npy")), "images were copied"


def test_the_same_again_and_another_seed(tree):
    first, again = make(tree), make(tree, tree.parent / "again")
    assert first.sha256 == again.sha256 and first.test.paths == again.test.paths
    assert make(tree, tree.parent / "other", split_seed=1).test.paths != first.test.paths


def test_a_class_more_moves_no_image_of_the_others(tree):
    before = set(make(tree).test.paths)
    fill(tree, {"another": 4})
    assert {path for path in make(tree).test.paths if "/another/" not in path} == before


@pytest.mark.parametrize("names", [("train", "test", "val"), ("Training", "testing", "Validation")])
def test_split_folders_are_recognised(tmp_path, names):
    for name, scale in zip(names, (4, 2, 1), strict=True):
        fill(tmp_path / "root" / name, {"cat": scale, "dog": scale + 1})
    data = make(tmp_path / "root")
    assert [counts(split, 2) for split in (data.train, data.test, data.val)] == [[4, 5], [2, 3], [1, 2]]


def test_a_validation_folder_is_the_test_split_where_there_is_no_other(tmp_path, capsys):
    for name in ("train", "val"):
        fill(tmp_path / "root" / name, {"cat": 5, "dog": 5})
    data = make(tmp_path / "root")
    assert len(data.test) == 10 and data.val is None and "the validation split is taken as such" in capsys.readouterr().err
    data = make(tmp_path / "root", test_fraction=0.2)
    assert counts(data.train, 2) == [4, 4] and counts(data.test, 2) == [1, 1] and counts(data.val, 2) == [5, 5]


def test_vehicles_may_have_a_class_called_train(tmp_path):
    assert make(fill(tmp_path / "root", {"train": 3, "bus": 3})).class_names == ["bus", "train"]


def test_what_is_left_out_is_said(tree, capsys):
    draw(tree / "loose.png")
    draw(tree / "red_deer/more/deeper/photo.JPG", 3)
    draw(tree / ".thumbnails/x.png")
    (tree / "red_deer/.DS_Store").touch()
    (tree / "red_deer/notes.txt").touch()
    (tree / "red_deer/Thumbs.db").touch()
    (tree / "nothing here").mkdir()
    data = make(tree)
    told = capsys.readouterr().err
    assert sum(data.train_counts) + len(data.test) == 17  # the nested .JPG is one more
    for words in (
        "left out: 1 image beside the class folders",
        "left out: 2 files",
        "1 .txt",
        "1 .db",
        "2 hidden",
        "(nothing here)",
    ):
        assert words in told


@pytest.mark.parametrize(
    "copy, words", [("red_deer/copy.png", "in one class"), ("Зубр/copy.png", "in two classes"), (None, "in two splits")]
)
def test_images_that_are_there_twice_are_told(tmp_path, copy, words, capsys):
    root = fill(tmp_path / "root/train")
    fill(tmp_path / "root/test", dict.fromkeys(CLASSES, 1))  # the same images as the first of each class
    if copy:
        for seed, path in enumerate(sorted((tmp_path / "root/test").rglob("*.png"))):
            draw(path, 70 + seed)
        draw(root / copy, 0)
    make(tmp_path / "root")
    told = capsys.readouterr().err
    assert f"{'1 image' if copy else '3 images'} there twice {words}" in told
    make(tmp_path / "root", tmp_path / "quick")
    prepare("mine", tmp_path / "none", {"datasets": {"mine": {"kind": "folders", "root": str(tmp_path / "root")}}}, "none")
    assert "twice" not in capsys.readouterr().err.split("found:")[-1]


def test_class_names_are_mapped(tree):
    assert make(tree, class_names={"Зубр": "European bison"}).class_names[2] == "European bison"
    (tree / "names.yaml").write_text("red_deer: stag\n")
    assert make(tree, class_names="names.yaml").class_names[1] == "stag"
    (tree / "names.txt").write_text("red_deer  a stag\n")
    assert make(tree, class_names="names.txt").class_names == ['it\'s; a "moose"', "a stag", "Зубр"]


def test_names_that_say_nothing_are_noted(tmp_path, capsys):
    make(fill(tmp_path / "root", {"n01440764": 3, "n01443537": 3}))
    assert "tell CLIP nothing" in capsys.readouterr().err
    make(fill(tmp_path / "twice", {"sea_lion": 3, "sea lion": 3}), tmp_path / "out2")
    assert "1 name of several classes ('sea lion')" in capsys.readouterr().err


def spoil_loop(root):
    (root / "red_deer/again").symlink_to(root, target_is_directory=True)


def spoil_self(root):
    (root / "red_deer/self").symlink_to("self")


def spoil_escape(root):
    fill(root.parent / "elsewhere", {"x": 1})
    (root / "stolen").symlink_to(root.parent / "elsewhere", target_is_directory=True)


def spoil_file_escape(root):
    draw(root.parent / "elsewhere.png")
    (root / "red_deer/stolen.png").symlink_to(root.parent / "elsewhere.png")


def spoil_newline(root):
    draw(root / "red_deer" / "a\nb.png")


def spoil_newline_class(root):
    draw(root / "red\ndeer" / "a.png")


def spoil_bytes(root):
    folder = os.fsencode(root / "red_deer")
    os.rename(folder + b"/000.png", folder + b"/\xff.png")


def spoil_text(root):
    (root / "red_deer/000.png").write_text("this is no image")


def spoil_empty(root):
    (root / "red_deer/000.png").write_bytes(b"")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (spoil_loop, "again is a symbolic link back to a folder that holds it; remove it"),
        (spoil_self, r"red_deer/self cannot be read \(Too many levels of symbolic links"),
        (spoil_escape, "stolen is a symbolic link that leads out of"),
        (spoil_file_escape, "symbolic link that leads out of"),
        (spoil_newline, r"the name 'red_deer/a\\nb\.png' holds a line break; rename it"),
        (spoil_newline_class, r"holds a line break"),
        (spoil_bytes, r"is not UTF-8; rename it"),
        (spoil_text, r"000\.png cannot be decoded"),
        (spoil_empty, r"000\.png is empty"),
    ],
)
def test_bad_trees(tree, spoil, message):
    spoil(tree)
    with pytest.raises(PelError, match=message) as error:
        prepare("mine", tree.parent / "out", {"datasets": {"mine": {"kind": "folders", "root": str(tree)}}}, check_images="all")
    assert "data set 'mine'" in str(error.value) and "\n" not in str(error.value)
    assert not (tree.parent / "out/data.json").exists()


def test_an_unreadable_folder_is_named(tree, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("red_deer"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # chmod would not stop a test that runs as root
    with pytest.raises(PelError, match=r"red_deer cannot be read \(Permission denied\)"):
        list(Walk(str(tree)).images(""))


@pytest.mark.parametrize(
    "classes, message",
    [
        ({}, "holds no images and no folder for each class"),
        ({"inner/a": 2, "inner/b": 2}, r"one folder with images \('inner'\).*if 'inner' holds the class folders, give .*inner"),
        ({"a": 1, "b": 1}, "has no image for the split 'test'"),
        ({"train": 2, "val/a": 2, "val/b": 2}, r"train holds 2 images and no class folders; expected train/CLASS/image\.jpg"),
        ({"train/a": 2, "train/b": 2, "val": 9}, r"val holds 9 images and no class folders"),
        (
            {"train/a": 2, "train/b": 2, "test/c": 1},
            r"1 class folder of .*test has no training images: 'c';.*`exclude: ",
        ),
        ({"train/a": 2, "train/b": 2, "val/a": 1, "valid/b": 1}, "several folders for the split 'val'"),
        ({"train/a": 5, "val/a": 5}, "has one class"),
    ],
)
def test_layouts_that_cannot_be_meant(tmp_path, classes, message):
    (tmp_path / "root").mkdir()
    fill(tmp_path / "root", classes)
    with pytest.raises(PelError, match=message):
        make(tmp_path / "root")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "folder"}, "unknown kind .*Did you mean 'folders'"),
        ({"file": "x.csv"}, "unknown key .*'file'.*it is|'file' is a key of kind: csv"),
        ({"train": "list.txt"}, "'train' is a key of kind: lists"),
        ({"recipe": {"epochs": 1}}, "beside `datasets:`"),
        ({"profile": "exponental", "ratios": [2]}, "Did you mean 'exponential'"),
        ({"profile": "step"}, "needs both"),
        ({"ratios": [10]}, "needs both"),
        ({"largest": 5}, "means nothing without a profile"),
        ({"largest": 0, "profile": "step", "ratios": [2]}, "largest is 0"),
        ({"sampling_seed": "x"}, "sampling_seed is 'x'"),
        ({"split_seed": True}, "split_seed is True"),
        ({"test_fraction": 20}, "between 0 and 1"),
        ({"test_fraction": 0.5, "val_fraction": 0.5}, "leave nothing"),
        ({"class_names": ["a"]}, "expected a mapping"),
        ({"class_names": {"a": 3}}, "class_names: 'a': 3"),
        ({"groups_from": 3}, "one of its ratios"),
        ({"native_resolution": 0}, "number of pixels"),
    ],
)
def test_entries_are_checked_before_anything_is_read(change, message):
    with pytest.raises(PelError, match=message):
        declared({"datasets": {"mine": {"kind": "folders", "root": "somewhere", **change}}})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"class_names": {"red_der": "x"}}, "'red_der' is none of the 3 classes; .*'red_deer'"),
        ({"class_names": "no.yaml"}, "class_names: .*no.yaml does not exist"),
        ({"profile": "exponential", "ratios": [50]}, r"ratio 50 leaves .*pool: 6 images of 'red_deer' down to 2 of"),
        ({"profile": "step", "ratios": [2], "largest": 500}, "largest is 500, but ratio 2 allows"),
    ],
)
def test_what_the_images_do_not_allow(tree, change, message):
    with pytest.raises(PelError, match=f"data set 'mine': .*{message}"):
        make(tree, **change)


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_fraction_for_a_split_that_is_there(tmp_path, split):
    for name in ("train", "test", "val"):
        fill(tmp_path / "root" / name, {"a": 3, "b": 3})
    with pytest.raises(PelError, match=f"has a {split} split of its own; leave out {split}_fraction"):
        make(tmp_path / "root", **{f"{split}_fraction": 0.5})


@pytest.mark.parametrize("kind, made, message", [
    ("auto", None, "does not exist; say where the images are by 'root'"),
    ("auto", "photo.png", "is a file, expected a folder; a table"),
    ("folders", "table.csv", "is a file, expected a folder"),
    ("csv", "folder/", "is a folder; expected a table"),
    ("huggingface", "folder/", "holds neither dataset_dict.json nor state.json"),
])  # fmt: skip
def test_something_else_than_the_kind_asks_for(tmp_path, kind, made, message):
    path = tmp_path / (made or "gone")
    if made:
        path.mkdir() if made.endswith("/") else path.touch()
    entry = declared({"datasets": {"mine": {"kind": kind, "root": str(path)}}})["mine"]
    with pytest.raises(PelError, match=message):
        open_source("mine", entry).locate()


def test_images_that_share_size_and_ends_are_not_there_twice(tmp_path, capsys):
    """BMP files with black borders begin and end alike: only their whole content tells them apart."""
    for number in range(15):
        image = Image.new("RGB", (64, 64))
        image.putpixel((32, 32), (number + 1, 0, 0))
        path = tmp_path / "root" / f"class {number % 3}" / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    make(tmp_path / "root")
    assert "twice" not in capsys.readouterr().err
    (tmp_path / "root/class 1/copy.bmp").write_bytes((tmp_path / "root/class 0/3.bmp").read_bytes())
    make(tmp_path / "root")
    told = capsys.readouterr().err
    assert "1 image there twice in two" in told and "class 0/3.bmp" in told and "class 1/copy.bmp" in told


def test_a_quick_check_says_that_it_did_not_look(tmp_path, capsys, monkeypatch):
    from pel_core.ingest import duplicate_images

    monkeypatch.setattr(duplicate_images, "MOST", 2)
    fill(tmp_path / "root", {"a": 6, "b": 6})
    make(tmp_path / "root")
    assert "not looked for images that are there twice" in capsys.readouterr().err
