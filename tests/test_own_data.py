"""Data sets of one's own: class folders, tables, Hugging Face directories; what is held out of them and drawn from them."""

import csv
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pel_core.datasets import find_dataset, open_prepared
from pel_core.errors import PelError
from pel_core.image_folders import Walk, class_order
from pel_core.own_data import KEYS, LISTS, declared
from pel_core.own_files import locate
from pel_core.prepare import prepare
from pel_core.sampling import (
    PROFILES,
    held_out,
    held_out_counts,
    largest_fitting,
    long_tail_counts,
    profile_counts,
    profile_subset,
)
from pel_core.studies import load, load_settings

CLASSES = {"red_deer": 8, "Зубр": 5, 'it\'s; a "moose"': 3}


def draw(path: Path, seed: int = 0) -> None:
    """A small image whose bytes follow from the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8 + seed % 5, 8), (seed * 7 % 256, seed * 31 % 256, 90)).save(path)


def fill(root: Path, classes: dict[str, int] = CLASSES, suffix: str = ".png") -> Path:
    """A folder for each class with its number of images."""
    for label, (name, count) in enumerate(classes.items()):
        for i in range(count):
            draw(root / name / f"{i:03d}{suffix}", 100 * label + i)
    return root


@pytest.fixture
def tree(tmp_path) -> Path:
    return fill(tmp_path / "my images")


def make(root: Path, out: Path | None = None, name: str = "mine", **keys):
    """Prepare one entry and open it."""
    config = {"datasets": {"mine": {"kind": "auto", "root": str(root), **keys}}}
    out = out or root.parent / "out"
    prepare("mine", out, config)
    return open_prepared(out, name)


def counts(split, classes: int) -> list[int]:
    return np.bincount(split.labels, minlength=classes).tolist()


# Class folders.


def test_class_folders_become_a_data_set(tree, capsys):
    data = make(tree)
    assert data.class_names == ['it\'s; a "moose"', "red deer", "Зубр"]  # in the order of the folders' names
    assert data.train_counts.tolist() == counts(data.train, 3) == [2, 6, 4] and counts(data.test, 3) == [1, 2, 1]
    assert not set(data.train.paths) & set(data.test.paths) and all(os.path.isfile(path) for path in data.train.paths)
    assert all(
        data.class_names[label].split()[0] in path.replace("_", " ") for path, label in zip(data.train.paths, data.train.labels)
    )
    told = capsys.readouterr().out
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
    assert len(data.test) == 10 and data.val is None and "the validation split is taken as such" in capsys.readouterr().out
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
    told = capsys.readouterr().out
    assert sum(data.train_counts) + len(data.test) == 17  # the nested .JPG is one more
    for words in ("1 images beside the class folders", "2 files are left out", "1 .txt", "1 .db", "2 hidden", "(nothing here)"):
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
    told = capsys.readouterr().out
    assert f"{1 if copy else 3} images are there twice {words}" in told
    make(tmp_path / "root", tmp_path / "quick")
    prepare("mine", tmp_path / "none", {"datasets": {"mine": {"kind": "folders", "root": str(tmp_path / "root")}}}, "none")
    assert "twice" not in capsys.readouterr().out.split("found:")[-1]


def test_class_names_are_mapped(tree):
    assert make(tree, class_names={"Зубр": "European bison"}).class_names[2] == "European bison"
    (tree / "names.yaml").write_text("red_deer: stag\n")
    assert make(tree, class_names="names.yaml").class_names[1] == "stag"
    (tree / "names.txt").write_text("red_deer  a stag\n")
    assert make(tree, class_names="names.txt").class_names == ['it\'s; a "moose"', "a stag", "Зубр"]


def test_names_that_say_nothing_are_noted(tmp_path, capsys):
    make(fill(tmp_path / "root", {"n01440764": 3, "n01443537": 3}))
    assert "tell CLIP nothing" in capsys.readouterr().out
    make(fill(tmp_path / "twice", {"sea_lion": 3, "sea lion": 3}), tmp_path / "out2")
    assert "1 names stand for several classes ('sea lion')" in capsys.readouterr().out


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
        ({"train/a": 2, "train/b": 2, "test/c": 1}, r"1 class folders of .*test are not in its training folder: 'c'"),
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
        locate("mine", entry)


# Held out, and drawn.


@given(images=st.integers(0, 500), test=st.floats(0.01, 0.5), val=st.floats(0.01, 0.45))
def test_every_class_that_can_has_one_of_each(images, test, val):
    tests, vals = held_out_counts(images, test, val)
    assert min(tests, vals) >= 0 and images - tests - vals >= min(images, 1)
    assert (tests > 0) == (images > 1) and (vals > 0) == (images > 2)
    assert tests == held_out_counts(images, test, 0)[0] and (images < 10 or abs(tests - test * images) <= 1)


@given(pool=st.lists(st.integers(1, 60), min_size=2, max_size=12), seed=st.integers(0, 5), test=st.floats(0.05, 0.6))
def test_a_held_out_split_is_stratified_and_settled(pool, seed, test):
    labels, keys = np.repeat(np.arange(len(pool)), pool), [f"c{i}" for i in range(len(pool))]
    parts = held_out(labels, keys, test, 0, seed)
    assert np.bincount(labels[parts == 1], minlength=len(pool)).tolist() == [held_out_counts(n, test, 0)[0] for n in pool]
    with_val = held_out(labels, keys, test, 0.2, seed)
    assert ((with_val == 1) == (parts == 1)).all(), "a validation split moved the test split"


@given(
    profile=st.sampled_from(sorted(PROFILES)), classes=st.integers(2, 60), largest=st.integers(1, 2000), ratio=st.floats(1, 300)
)
def test_a_profile_falls_from_the_largest_class_to_the_ratio(profile, classes, largest, ratio):
    if largest < ratio:
        with pytest.raises(PelError, match="without an image"):
            profile_counts(profile, classes, largest, ratio)
        return
    try:
        made = profile_counts(profile, classes, largest, ratio)
    except PelError:
        assert largest < ratio + 1  # rounding at the border
        return
    assert made[0] == largest and made[-1] == pytest.approx(largest / ratio, abs=1) and (np.diff(made) <= 0).all()
    assert (profile_counts(profile, classes, largest, 1) == largest).all()
    smaller = profile_counts(profile, classes, largest, max(1.0, ratio / 2))
    assert (smaller >= made).all(), "a larger ratio keeps more of a class"


def test_profiles_are_what_their_sources_say():
    assert profile_counts("exponential", 100, 500, 100).tolist() == long_tail_counts(100, 500, 100).tolist()
    assert profile_counts("step", 4, 500, 100).tolist() == [500, 500, 5, 5]
    assert profile_counts("step", 5, 500, 100).tolist() == [500, 500, 500, 5, 5]
    assert abs(profile_counts("pareto", 365, 4980, 996).sum() - 184_500) < 2500  # Places-LT as its paper describes it


@given(
    profile=st.sampled_from(sorted(PROFILES)), pool=st.lists(st.integers(1, 300), min_size=2, max_size=20), ratio=st.floats(1, 50)
)
def test_the_largest_class_is_as_large_as_the_images_allow(profile, pool, ratio):
    available = np.sort(pool)[::-1]
    largest = largest_fitting(profile, available, ratio)
    shares = PROFILES[profile](len(pool), ratio)
    fits = [all(int(n * s) <= a for s, a in zip(shares, available)) for n in (largest, largest + 1)]
    assert fits[0] and (largest == available[0] or not fits[1])


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_drawn_ratios_are_nested_and_follow_the_natural_order(tmp_path, profile):
    root = fill(tmp_path / "root", {"few": 12, "many": 60, "some": 30, "also": 30})
    keys = {"profile": profile, "ratios": [2, 4, 8], "test_fraction": 0.1, "groups_from": 4}
    made = {name: make(root, name=name, **keys) for name in ("mine", "mine-ir2", "mine-ir4", "mine-ir8")}
    paths = [set(made[name].train.paths) for name in ("mine-ir8", "mine-ir4", "mine-ir2", "mine")]
    assert paths[0] < paths[1] < paths[2] < paths[3]
    assert made["mine"].train_counts.tolist() == [27, 11, 54, 27]  # as found: also, few, many, some
    for name in ("mine-ir2", "mine-ir4", "mine-ir8"):
        data = made[name]
        assert data.train_counts.tolist() == counts(data.train, 4)
        assert data.train_counts[2] == data.train_counts.max() and data.train_counts[1] == data.train_counts.min()
        assert data.train_counts[0] >= data.train_counts[3], "of equal classes the first comes first"
        assert data.test.paths == made["mine"].test.paths and data.groups == made["mine"].groups
    assert made["mine-ir4"].train_counts.max() / made["mine-ir4"].train_counts.min() == pytest.approx(4, rel=0.3)
    assert set(make(root, **keys, sampling_seed=1, name="mine-ir8").train.paths) != paths[0]


def test_a_ratio_that_was_not_drawn(tree):
    entries = declared({"datasets": {"mine": {"kind": "folders", "root": "x", "profile": "step", "ratios": [2, 3]}}})
    assert find_dataset("mine", entries) is find_dataset("mine-ir3", entries)
    with pytest.raises(PelError, match="mine comes as mine, mine-ir2, mine-ir3"):
        find_dataset("mine-ir9", entries)


@given(labels=st.lists(st.integers(0, 4), min_size=5, max_size=60), seed=st.integers(0, 3))
def test_a_subset_has_its_counts_each_image_once(labels, seed):
    labels, keys = np.array(labels), list("abcde")
    pool = np.bincount(labels, minlength=5)
    chosen = profile_subset(labels, keys, pool // 2, seed)
    assert len(set(chosen.tolist())) == len(chosen) and np.bincount(labels[chosen], minlength=5).tolist() == (pool // 2).tolist()


# Tables.


def write(path: Path, rows: list[list[str]], **form) -> Path:
    with open(path, "w", newline="", encoding=form.pop("encoding", "utf-8")) as handle:
        csv.writer(handle, **form).writerows(rows)
    return path


@pytest.fixture
def rows(tree) -> list[list[str]]:
    """Every image of the tree with its folder as label."""
    return [[str(path.relative_to(tree)), path.parent.name] for path in sorted(tree.rglob("*.png"))]


@pytest.mark.parametrize(
    "form", [{}, {"delimiter": ";"}, {"delimiter": "\t"}, {"quoting": csv.QUOTE_ALL, "encoding": "utf-8-sig"}]
)
def test_a_table_is_as_good_as_folders(tree, rows, form):
    path = write(tree / "labels.csv", [["path", "label"], *rows], **form)
    table, folders = make(path), make(tree, tree.parent / "folders")
    assert table.class_names == folders.class_names and table.train.paths == folders.train.paths
    assert table.test.paths == folders.test.paths and table.test.labels.tolist() == folders.test.labels.tolist()


def test_a_table_with_splits_numbers_and_other_columns(tree, rows):
    table = [["Split", "size", "file name", "class"]]
    splits = ["train", "test", "Validation"]
    table += [[splits[i % 3], "9", str(tree / path), ["10", "2"][i % 2]] for i, (path, _) in enumerate(rows)]
    write(tree.parent / "all.tsv", table, delimiter="\t")
    keys = {"file": str(tree.parent / "all.tsv"), "image_column": "File name", "label_column": "class"}
    data = make(tree, class_names={10: "ten"}, **keys)
    assert data.class_names == ["2", "ten"]  # numbers in the order of numbers
    assert [len(split) for split in (data.train, data.test, data.val)] == [6, 5, 5]


@pytest.mark.parametrize(
    "table, message",
    [
        ("", "table .*labels.csv is empty"),
        ("file,label\nx.png,a\n", r"unknown column of .* 'path'; known: file, label.*image_column"),
        ("path\nx.png\n", r"unknown column .*'label'; known: path"),
        ("path,label,label\nx.png,a,b\n", "'label' is there 2 times"),
        ("red_deer/000.png,red\n", "unknown column .*The first line must name the columns"),
        ("path,label\nred_deer/000.png,a,b\n", r"labels\.csv:2: 3 values, expected 2"),
        ("path,label\nred_deer/000.png\n", r"labels\.csv:2: 1 values, expected 2"),
        ("path,label\n\nred_deer/000.png,\n", r"labels\.csv:3: the label is ''"),
        ("path,label\nred_deer/000.png,-1\n", r"labels\.csv:2: the label is '-1'"),
        ("path,label\n,a\n", r"labels\.csv:2: path '' is not below"),
        ("path,label\n../x.png,a\n", r"labels\.csv:2: path '\.\./x\.png' is not below the image folder"),
        ("path,label\n/etc/passwd,a\n", r"labels\.csv:2: path '/etc/passwd' is not below"),
        ("path,label\nred_deer/000.png,a\nred_deer/./000.png,b\n", r"labels\.csv:3: 'red_deer/000\.png' repeats line 2"),
        ('path,label\n"a\nb.png",a\n', r"holds a line break"),
        ('path,label\n"red_deer/000.png,a\n', r"labels\.csv:\d: is not CSV"),
        ("path,label,split\nred_deer/000.png,a,tain\n", r"unknown split in .*:2: 'tain'.*Did you mean 'train'"),
        ("path,label,split\nred_deer/000.png,a,test\n", "lists test and no training image"),
        ("path,label,split\nred_deer/000.png,a,train\nred_deer/001.png,b,test\n", r":3: class 'b' of .* has no training image"),
        ("path,label\nred_deer/000.png,a\nred_deer/001.png,a\n", "has one class"),
        ("path,label\nred_deer/000.png,a\nred_deer/777.png,b\nred_deer/001.png,a\nred_deer/002.png,b\n", r"labels\.csv:3: .*777"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_meant(tree, table, message):
    (tree / "labels.csv").write_text(table)
    with pytest.raises(PelError, match=f"data set 'mine': .*{message}"):
        make(tree, file="labels.csv", test_fraction=0.5)


def test_a_table_that_is_not_utf8(tree):
    (tree / "labels.csv").write_bytes("path,label\nx,é\n".encode("latin-1"))
    with pytest.raises(PelError, match=r"labels\.csv is not UTF-8"):
        make(tree / "labels.csv")


def test_long_tables_load_in_seconds(tmp_path):
    import time

    from pel_core.image_tables import read_table

    with open(tmp_path / "long.csv", "w") as handle:
        handle.write("path,label\n" + "".join(f"{i % 500}/{i}.jpg,class {i % 500}\n" for i in range(100_000)))
    start = time.process_time()
    found = read_table(str(tmp_path / "long.csv"), str(tmp_path))
    assert len(found.splits["train"].paths) == 100_000 and len(found.keys) == 500
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "keys, order",
    [(["b", "a"], ["a", "b"]), (["10", "9"], ["9", "10"]), (["9", "10", "x"], ["10", "9", "x"]), (["1", "01"], ["01", "1"])],
)
def test_order_of_classes(keys, order):
    assert class_order(keys) == order


# Hugging Face directories.


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
    told = capsys.readouterr().out
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


# The command: make study DATA=...


@pytest.fixture
def plain(monkeypatch):
    """PEL_DATA and PEL_ROOTS are put back afterwards: settings set them."""
    for name in ("PEL_DATA", "PEL_ROOTS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_the_shipped_study_on_a_folder(tree, tmp_path, plain):
    settings = {"study": "own-table", "config": "own", "root": tree, "results": tmp_path / "results"}
    study = load_settings(settings)
    assert list(study.artefacts) == ["own-table"] and {spec.backbone for spec in study.specs.values()} == {"clip-b16"}
    assert {spec.method for spec in study.specs.values()} == {
        "adaptformer", "adaptformer@6:12+vpt-shallow", "adaptformer@6:12", "adaptformer+ln"
    }  # fmt: skip
    assert all(spec.loss == "la" and spec.init == "text" for spec in study.specs.values())
    assert {spec.backbone for spec in load_settings({**settings, "backbone": "clip-mini"}).specs.values()} == {"clip-mini"}
    assert json.loads(os.environ["PEL_ROOTS"]) == {"mine": str(tree)}
    with pytest.raises(PelError, match="unknown backbone 'clip-b61'"):
        load_settings({**settings, "backbone": "clip-b61"})


@pytest.mark.parametrize("study", ["losses", "components", "epochs", "tte", "classifiers"])
@pytest.mark.parametrize("config", ["own", "own-mini"])
def test_the_ablations_run_on_ones_own_images(study, config):
    made = load(study, config)
    assert made.specs and {spec.dataset for spec in made.specs.values()} == {"mine"}


def test_without_data_the_error_says_how(plain):
    with pytest.raises(PelError, match="make study DATA=PATH"):
        load_settings({"study": "own-table", "config": "own"})


def test_other_images_do_not_slip_into_the_same_results(tree, tmp_path, plain):
    settings = {"study": "own-table", "config": "own", "results": tmp_path / "results"}
    first = load_settings({**settings, "root": tree})
    prepare("mine", tmp_path / "results/data/mine", first.config)
    before = first.data_params("mine")
    moved = tree.rename(tmp_path / "moved")
    assert load_settings({**settings, "root": moved}).data_params("mine") == before
    draw(moved / "red_deer/one more.png")
    other = fill(tmp_path / "other", {"x": 3, "y": 3})
    with pytest.raises(PelError, match=r"was prepared from .*my images, and .*other holds other images.*RESULTS="):
        load_settings({**settings, "root": other})
    load_settings({**settings, "root": other, "results": tmp_path / "results-2"})
    moved.rename(tree)  # where it was: the same data set with an image more, which Snakemake prepares again
    assert load_settings({**settings, "root": tree}).data_params("mine") != before


def test_a_makefile_that_asks_for_the_right_study():
    import shutil
    import subprocess

    if not shutil.which("make"):
        pytest.skip("needs make")
    root = Path(__file__).parents[1]

    def told(*words: str) -> Counter:
        done = subprocess.run(["make", "-n", "study", *words], cwd=root, capture_output=True, text=True, check=True)
        return Counter(word for line in done.stdout.splitlines() if "--config" in line for word in line.split())

    assert told("DATA=/some where/it's")["study=own-table"] == told("DATA=x")["config=own"] == 1
    assert told("DATA=x", "CONFIG=images")["study=report"] == told("DATA=x", "CONFIG=images")["config=images"] == 1
    assert told()["config=demo"] == told()["study=report"] == 1
    mini = told("DATA=x", "STUDY=losses", "BACKBONE=clip-mini")
    assert mini["backbone=clip-mini"] == mini["config=own-mini"] == mini["study=losses"] == 1


def test_the_configurations_in_the_docs_are_possible(tmp_path):
    text = (Path(__file__).parents[1] / "docs/own-data.md").read_text(encoding="utf-8")
    examples = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    assert len(examples) == 2
    for example, study in zip(examples, ("own-table", "report")):
        (tmp_path / "my.yaml").write_text(example)
        assert load(study, tmp_path / "my.yaml").specs
    for key in {key for kind in KEYS.values() for key in kind} - {*LISTS}:
        assert f"`{key}`" in text, f"docs/own-data.md does not say what {key} is"


STUDY = """
title: Small
roles: {own: Mine}
tables:
  small:
    title: "{own}"
    where: {dataset: own, method: adaptformer}
    rows: [{label: As found, dataset: own}, {label: Drawn, dataset: own-ir2}]
    columns: [{label: Overall, value: overall}, {label: Head, value: head}, {label: Tail, value: tail}]
"""
CONFIG = """
title: Toy
backbone: toy
seeds: [0]
data: {own: mine}
datasets:
  mine: {kind: auto, root: $PEL_DATA, profile: step, ratios: [2]}
recipe: {epochs: 1, precision: fp32}
resources: {threads: 1, mem_mb: 1000, runtime: 5}
"""


@pytest.mark.slow
def test_from_a_table_of_images_to_a_table_of_numbers(tree, tmp_path):
    """As a person runs it: a name with a space, quotes and a semicolon, labels in another script, then images that moved."""
    import subprocess
    import sys

    rows = [[str(path.relative_to(tree)), path.parent.name] for path in sorted(tree.rglob("*.png"))]
    write(tree / "my; labels.csv", [["path", "label"], *rows])
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "config.yaml").write_text(CONFIG)
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "snakemake", "-s", str(root / "Snakefile"), "--cores", "2", "--resources", "gpu=2"]
    command += [
        "--workflow-profile",
        str(root / "workflow/profiles/default"),
        "--config",
        "study=study.yaml",
        "config=config.yaml",
    ]

    def snakemake(data: Path, *words: str) -> str:
        environment = {**os.environ, "PEL_DATA": os.path.relpath(data, tmp_path)}
        done = subprocess.run([*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    snakemake(tree / "my; labels.csv")
    text = (tmp_path / "results/tables/small.md").read_text()
    assert "As found" in text and "–" in text and "Head: none, no class is in this group (more than 100 training images)" in text
    moved = tree.rename(tmp_path / "it's moved")
    assert "Nothing to be done" in snakemake(moved / "my; labels.csv", "-n")
