"""Classes of one's own images: none is dropped in silence, one may be left out by name, and what looks odd is said."""

import json
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_trees import counts, draw, fill, make, write
from PIL import Image

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.data.image_files import SUFFIXES, is_system
from pel_core.data.transforms import load_rgb
from pel_core.ingest.class_keys import kept, odd_keys
from pel_core.ingest.entries import declared
from pel_core.ingest.notes import read_notes

SYSTEM = ("@eaDir", ".thumbnails", "$RECYCLE.BIN", "__MACOSX", ".ipynb_checkpoints", "lost+found", "System Volume Information")


def notes(root: Path) -> str:
    return "\n".join(read_notes(root.parent / "out"))


@pytest.mark.parametrize("suffix", [".avif", ".heic", ".HEIF"])
def test_a_class_of_a_newer_format_is_read(tmp_path, suffix):
    if suffix != ".avif":
        pytest.importorskip("pillow_heif")
    root = fill(tmp_path / "root", {"cat": 4})
    for seed in range(3):
        draw(root / "dog" / f"{seed}.png", seed)
        image = Image.open(root / "dog" / f"{seed}.png").resize((64, 64))
        image.save(root / "dog" / f"{seed}{suffix}", None if suffix == ".avif" else "HEIF")
        (root / "dog" / f"{seed}.png").unlink()
    data = make(root)
    assert data.class_names == ["cat", "dog"] and data.train_counts.tolist() == [3, 2] and counts(data.test, 2) == [1, 1]
    shown = load_rgb(next(path for path in data.train.paths if path.endswith(suffix)))
    assert shown.mode == "RGB" and shown.size == (64, 64)


def test_heic_without_its_library_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    root = fill(tmp_path / "root", {"cat": 4, "dog": 4})
    (root / "dog/9.heic").write_bytes(b"an image")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PelError, match=r"1 \.heic image found, such as dog/9\.heic; .*pip install 'pel-lab\[heic\]'"):
        make(root)
    with pytest.raises(PelError, match=r"9\.heic cannot be decoded .*pip install 'pel-lab\[heic\]'"):
        load_rgb(root / "dog/9.heic")


@pytest.mark.parametrize("layout", ["", "train/"])
@pytest.mark.parametrize(
    "name, content",
    [("1.dcm", b"x"), ("1.svg", b"<svg/>"), ("1.cr2", b"x"), ("1", "image"), ("1.img", "image"), ("1.jp_", "image")],
)
def test_a_class_that_cannot_be_read_is_an_error_that_names_it(tmp_path, layout, name, content):
    root = fill(tmp_path / "root", {f"{layout}cat": 4, f"{layout}dog": 4} | ({"test/cat": 1} if layout else {}))
    file = root / layout / "scans/deep" / name
    draw(file.with_suffix(".png"))
    file.with_suffix(".png").rename(file)
    if content != "image":
        file.write_bytes(content)
    with pytest.raises(
        PelError, match=rf"none of the 1 files in the class folder .*scans .*\(1 .*such as {layout}scans/deep/1"
    ) as error:
        make(root)
    assert 'exclude: ["scans"]' in str(error.value)
    assert make(root, exclude=["scans"]).class_names == ["cat", "dog"]


def test_a_folder_that_is_plainly_no_class_is_noted_with_what_it_holds(tmp_path):
    root = fill(tmp_path / "root", {"cat": 4, "dog": 4})
    for name in ("annotations/1.xml", "annotations/2.xml", "notes/readme"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("text")
    assert make(root).class_names == ["cat", "dog"]
    assert "2 folders without an image" in notes(root) and "(annotations: 2 .xml; notes: 1 no suffix)" in notes(root)


def test_an_error_of_no_images_names_the_suffixes_it_saw(tmp_path):
    for name in ("a/1.xml", "a/2.xml", "b/1.txt"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    with pytest.raises(PelError, match=r"holds no images \(2 \.xml, 1 \.txt are no images by their suffix\)"):
        make(tmp_path / "root")


@pytest.mark.parametrize(("name", "kind"), [("data/a.parquet", "parquet"), ("data/a.parquet", "hub"), ("a.tar.gz", "webdataset")])
def test_files_of_another_kind_of_data_set_are_named(tmp_path, name, kind):
    (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "root" / name).touch()
    with pytest.raises(PelError, match=rf"read by kind: .*{kind}.*docs/data\.md"):
        make(tmp_path / "root")


@pytest.mark.parametrize("layout", [("",), ("train/", "test/")])
def test_what_programs_leave_is_no_class_and_no_image(tmp_path, layout):
    root = tmp_path / "root"
    for part in layout:
        fill(root, {f"{part}cat": 4, f"{part}dog": 4})
        for i, name in enumerate(SYSTEM):
            draw(root / part / name / "thumb.jpg", i)
            draw(root / part / "cat" / name / "thumb.jpg", i)
    data = make(root)
    assert data.class_names == ["cat", "dog"] and sum(data.train_counts) + len(data.test) == 8 * len(layout)
    assert f"{2 * len(SYSTEM) * len(layout)} hidden or system files or folders ($RECYCLE.BIN" in notes(root)
    assert all(map(is_system, SYSTEM)) and not any(map(is_system, ("train", "found", "cat@home", "recycle")))


# ---- classes that are left out


def images(root: Path, kind: str) -> tuple[Path, dict]:
    """Three classes with 6, 5 and 4 images, as a kind of source has them."""
    fill(root / "images", {"BACKGROUND_Google": 6, "cat": 5, "dog": 4})
    paths = sorted(path.relative_to(root / "images") for path in (root / "images").rglob("*.png"))
    if kind == "folders":
        return root / "images", {"kind": kind}
    if kind == "csv":
        write(root / "images/table.csv", [["path", "label"], *[[str(path), path.parts[0]] for path in paths]])
        return root / "images", {"kind": kind, "file": "table.csv"}
    datasets = pytest.importorskip("datasets")
    names = sorted({path.parts[0] for path in paths})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {
        "image": [{"bytes": (root / "images" / path).read_bytes(), "path": None} for path in paths],
        "label": [names.index(path.parts[0]) for path in paths],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(root / "saved")
    return root / "saved", {"kind": kind}


@pytest.mark.parametrize("kind", ["folders", "csv", "huggingface"])
def test_a_class_is_left_out_by_name(tmp_path, kind):
    root, keys = images(tmp_path, kind)
    whole = make(root, tmp_path / "whole", **keys)
    assert whole.class_names == ["BACKGROUND Google", "cat", "dog"] and whole.train_counts.tolist() == [5, 4, 3]
    told = "\n".join(read_notes(tmp_path / "whole"))
    assert 'no kind of thing, by the name: BACKGROUND_Google; if so, leave it out (`exclude: ["BACKGROUND_Google"]`' in told
    data = make(root, tmp_path / "out", exclude=["BACKGROUND_Google"], **keys)
    assert data.class_names == ["cat", "dog"] and data.train_counts.tolist() == [4, 3] and counts(data.test, 2) == [1, 1]
    told = "\n".join(read_notes(tmp_path / "out"))
    assert "left out as `exclude` says: BACKGROUND_Google (6 images)" in told and "no kind of thing" not in told


def test_a_class_that_is_left_out_moves_no_image_of_the_others(tmp_path):
    root = fill(tmp_path / "root", {"a": 9, "b": 8, "c": 7})
    before = {path for path in make(root).test.paths if "/b/" not in path}
    assert set(make(root, exclude=["b"], class_names={"a": "x", "b": "named, and left out"}).test.paths) == before


def test_a_class_of_the_test_folder_alone_may_be_left_out(tmp_path):
    root = fill(tmp_path / "root", {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1, "test/other": 5})
    with pytest.raises(PelError, match=r"1 class folder of .*test has no training images: 'other'"):
        make(root)
    data = make(root, exclude=["other"])
    assert data.class_names == ["a", "b"] and counts(data.test, 2) == [1, 1]
    assert "left out as `exclude` says: other (5 images)" in notes(root)


def divided(tmp_path, train: str, test: str) -> Path:
    """A divided folder whose class is called otherwise in train and in test."""
    return fill(tmp_path / "root", {"train/a": 3, f"train/{train}": 3, "test/a": 1, f"test/{test}": 1})


def test_the_reason_why_a_class_has_no_training_image_is_said(tmp_path):
    root = fill(tmp_path / "root", {"train/a": 3, "train/b": 3, "test/a": 1, "test/line": 1})
    (root / "train/line").mkdir()
    with pytest.raises(PelError, match=r"'line' \(it is in the training folder too, and holds no image there\).*exclude"):
        make(root)
    with pytest.raises(PelError, match=r"'Circle' \(for training it is 'circle': capital letters differ\)"):
        make(divided(tmp_path / "case", "circle", "Circle"))


def test_a_single_problem_is_counted_as_one(tmp_path, capsys):
    root = divided(tmp_path, "circle", "Circle")
    assert main(["data", "check", "mine", "--config", "own", "--root", str(root)]) == 1
    told = capsys.readouterr()
    assert "wrong:\n  1 problem\n" in told.out and "data set 'mine': 1 problem; listed above" in told.err


@pytest.mark.parametrize(("train", "test"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_coded_differently_are_one_class_and_said(tmp_path, train, test):
    name = "Grüner Kreis"
    root = divided(tmp_path, unicodedata.normalize(train, name), unicodedata.normalize(test, name))
    data = make(root)
    assert data.class_names == ["Grüner Kreis", "a"] and counts(data.test, 2) == [1, 1]
    assert "letters are coded otherwise than in the training folder" in notes(root)


def test_accents_that_may_mean_two_classes_are_not_guessed(tmp_path):
    both = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    root = fill(divided(tmp_path, both[0], both[1]), {f"test/{both[0]}": 1})
    with pytest.raises(PelError, match=r"equal letters coded differently: 'e\\u0301', for training '\\xe9'"):
        make(root)


@pytest.mark.parametrize(
    "exclude, message",
    [
        (
            ["BACKGROUND_google"],
            "'BACKGROUND_google' is none of the 3 classes; expected names such as 'BACKGROUND_Google'",
        ),
        (["cat", "dog"], "exclude leaves 1 of 3 classes"),
        ([True], "exclude is \\[True\\], expected a list of classes"),
        ({"cat": 1}, "expected a list of classes"),
    ],
)
def test_what_cannot_be_left_out(tmp_path, exclude, message):
    root, keys = images(tmp_path, "folders")
    with pytest.raises(PelError, match=message):
        make(root, exclude=exclude, **keys)


def test_what_is_left_out_is_a_part_of_the_data_sets_identity():
    entry = {"kind": "folders", "root": "x"}
    options = [declared({"datasets": {"mine": {**entry, **more}}})["mine"].options for more in ({}, {"exclude": [7, "a"]})]
    assert "exclude" not in options[0] and options[1]["exclude"] == ("7", "a")


@given(st.lists(st.text(min_size=1), min_size=3, max_size=8, unique_by=lambda key: unicodedata.normalize("NFC", key)), st.data())
def test_the_others_keep_their_order(keys, drawn):
    gone = drawn.draw(st.lists(st.sampled_from(keys), unique=True, max_size=len(keys) - 2))
    labels = kept([unicodedata.normalize("NFD", key) for key in gone], keys).tolist()
    assert [key for key, label in zip(keys, labels, strict=True) if label < 0] == [key for key in keys if key in gone]
    assert [label for label in labels if label >= 0] == list(range(len(keys) - len(gone)))


# ---- names that look alike


@pytest.mark.parametrize(
    "pair, words",
    [
        (("Cat", "cat"), "'Cat' and 'cat'"),
        (("sea_lion", "sea lion"), "'sea lion' and 'sea_lion'"),
        (("caf\u00e9", "cafe\u0301"), "'cafe\\u0301' and 'caf\\xe9' (of equal letters, coded differently)"),
    ],
)
def test_a_class_split_in_two_is_said(tmp_path, pair, words):
    root = fill(tmp_path / "root", {pair[0]: 4, pair[1]: 5, "dog": 6})
    if len(list(root.iterdir())) < 3:
        pytest.skip("this file system takes the two names for one")
    assert len(make(root).class_names) == 3
    assert f"classes that look alike are told apart, as found: {words}; if they are one, merge them" in notes(root)


@pytest.mark.parametrize("key", ["BACKGROUND_Google", "257.clutter", "background", "Others", "unknown", "0_misc", "unlabelled"])
def test_names_of_no_kind_of_thing(key):
    assert len(odd_keys(["cat", key])) == 1 and json.dumps([key]) in odd_keys(["cat", key])[0]


@pytest.mark.parametrize("key", ["miscanthus", "mother", "other tools", "unknown pleasures", "none such", "backgrounder", "12"])
def test_names_that_are_no_such(key):
    assert odd_keys(["cat", key]) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    st.sets(st.sampled_from([*sorted(SUFFIXES - {".heic", ".heif", ".avif"}), ".txt", ".xml", "", ".db"]), min_size=1, max_size=5)
)
def test_every_file_is_an_image_or_in_the_notes(tmp_path_factory, suffixes):
    root = fill(tmp_path_factory.mktemp("root") / "root", {"cat": 3, "dog": 3})
    content = (root / "cat/000.png").read_bytes()  # what a file is called says nothing about its content
    for i, suffix in enumerate(sorted(suffixes)):
        (root / "cat" / f"more{i}{suffix}").write_bytes(content + bytes(i))
    data = make(root)
    read = len(suffixes & SUFFIXES)
    assert sum(data.train_counts) + len(data.test) == 6 + read
    left = len(suffixes) - read
    assert (f"left out: {left} file{'s' * (left != 1)}, no image by suffix" in notes(root)) == bool(left)
