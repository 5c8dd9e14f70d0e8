"""List files and class-name files: what is read, and that every other thing is one error naming file and line."""

import json
import re
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pel_core.common.errors import PelError
from pel_core.data.class_name_files import read_categories, read_class_names
from pel_core.data.lists import check_files, read_image_list, read_lines, require_every_class

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

# Any text that can be a relative path in a line: no line ends, no white space at its ends, no way up.
components = st.text(st.characters(exclude_characters="/\n\r\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
paths = (
    st.lists(components.filter(lambda c: c not in (".", "..")), min_size=1, max_size=3)
    .map("/".join)
    .filter(lambda p: p == p.strip() and not p.startswith("\ufeff"))
)


@in_one_folder
@given(
    entries=st.lists(st.tuples(paths, st.integers(0, 11)), min_size=1, unique_by=lambda e: e[0]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_written_is_read(tmp_path, entries, end):
    file = tmp_path / "list.txt"
    file.write_bytes("".join(f"{path} {label}{end}" for path, label in entries).encode())
    images = read_image_list(file, 12)
    assert images.paths == [path for path, _ in entries]
    assert images.labels.tolist() == [label for _, label in entries]
    assert images.labels.dtype == np.int64


@in_one_folder
@given(text=st.text(max_size=60) | st.from_regex(r"([a-c./ ]{0,4} ?-?[0-9]{0,2}\n){0,4}", fullmatch=True))
def test_any_text_is_a_list_or_one_error(tmp_path, text):
    file = tmp_path / "list.txt"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        images = read_image_list(file, 12)
    except PelError as error:
        assert str(file) in str(error)
        return
    assert len(set(images.paths)) == len(images.paths) == len(images.labels) > 0
    assert images.labels.min() >= 0 and images.labels.max() < 12
    for path in images.paths:
        assert not path.startswith("/") and ".." not in path.split("/")


@given(content=st.binary(max_size=60))
@in_one_folder
def test_any_bytes_are_a_list_or_one_error(tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content)
    try:
        read_image_list(tmp_path / "list.txt", 12)
    except PelError as error:
        assert "list.txt" in str(error)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a.jpg 0\nb.jpg\n", r":2: found 'b.jpg', expected 'path label'"),
        ("a.jpg 0\n\nb.jpg 1\n", r":2: found '', expected 'path label'"),
        (" a.jpg 0\n", r":1: found ' a.jpg 0', expected 'path label'"),
        ("a.jpg 0\rb.jpg 1\n", r":1: found 'a.jpg 0\\rb.jpg 1'"),
        ("a.jpg 0\nb.jpg one\n", r":2: found 'one' as the last token.*expected a label from 0 to 2"),
        ("a.jpg 1.0\n", r":1: found '1.0'"),
        ("a.jpg 1_0\n", r":1: found '1_0'"),
        ("a.jpg \u0661\n", r":1: found '\u0661'"),
        ("a.jpg +1\n", r":1: found '\+1'"),
        ("a.jpg -1\n", r":1: label -1 is negative; expected a label from 0 to 2"),
        ("a.jpg 3\n", r":1: label 3 has no class name; expected a label from 0 to 2 \(3 class names\)"),
        (f"a.jpg {'9' * 5000}\n", r":1: label 9+ has no class name"),
        ("/etc/a.jpg 0\n", r":1: path '/etc/a.jpg' is absolute"),
        ("b/../../a.jpg 0\n", r":1: path 'b/../../a.jpg' climbs"),
        (".. 0\n", r":1: path '..' climbs"),
        ("a.jpg 0\nb.jpg 1\na.jpg 2\n", r":3: path 'a.jpg' repeats line 1"),
        ("a.jpg 0\n./a.jpg 0\n", r":2: path 'a.jpg' repeats line 1"),
        ("a/b.jpg 0\na//b.jpg 0\n", r":2: path 'a/b.jpg' repeats line 1"),
        ("", r"list file .* is empty"),
        ("\n \n", r"list file .* is empty"),
    ],
)
def test_bad_lines(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text, newline="")
    with pytest.raises(PelError, match=message) as caught:
        read_image_list(tmp_path / "list.txt", 3)
    assert str(tmp_path / "list.txt") in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(PelError, match=r"list file .*none\.txt does not exist"):
        read_image_list(tmp_path / "none.txt", 3)
    with pytest.raises(PelError, match=r"cannot be read \(Is a directory\)"):
        read_image_list(tmp_path, 3)
    (tmp_path / "latin.txt").write_bytes("é.jpg 0".encode("latin-1"))
    with pytest.raises(PelError, match="is not UTF-8 text"):
        read_image_list(tmp_path / "latin.txt", 3)


def test_marks_of_other_systems(tmp_path):
    (tmp_path / "list.txt").write_bytes("\ufeffa b.jpg\t0\r\nc..d.jpg  1".encode())
    images = read_image_list(tmp_path / "list.txt", 2)
    assert images.paths == ["a b.jpg", "c..d.jpg"] and images.where(1) == f"{tmp_path}/list.txt:2"


def test_a_million_lines_are_quick(tmp_path):
    (tmp_path / "list.txt").write_text(
        "".join(f"train_val/Plantae/{i % 8142}/{i:032x}.jpg {i % 8142}\n" for i in range(1_000_000))
    )
    start = time.process_time()
    images = read_image_list(tmp_path / "list.txt", 8142)
    assert time.process_time() - start < 5
    assert require_every_class(images, ["x"] * 8142).sum() == 1_000_000


def test_a_skipped_class(tmp_path):
    (tmp_path / "list.txt").write_text("a 0\nb 3\n")
    with pytest.raises(PelError, match=r"list\.txt: 2 of 4 classes have no training image: 1 \(dog\), 2 \(emu\)"):
        require_every_class(read_image_list(tmp_path / "list.txt", 4), ["cat", "dog", "emu", "fox"])


def test_sizes_of_files(tmp_path):
    for i in range(3000):
        (tmp_path / f"{i}.jpg").write_bytes(b"x" * (i + 1))
    (tmp_path / "list.txt").write_text("".join(f"{i}.jpg 0\n" for i in range(3000)))
    assert check_files(tmp_path, read_image_list(tmp_path / "list.txt", 1)).tolist() == list(range(1, 3001))


# Class names


@pytest.mark.parametrize(
    "text, form, names",
    [
        ("n03891332 parking meter\nn03649909 lawn mower\n", "auto", ["parking meter", "lawn mower"]),
        ("parking meter\nlawn mower\n", "auto", ["parking meter", "lawn mower"]),
        ("n03891332 parking meter\nlawn mower\n", "auto", ["n03891332 parking meter", "lawn mower"]),
        ("airplane_cabin airplane_cabin\nairfield airfield\n", "id name", ["airplane_cabin", "airfield"]),
        ("n03891332 parking meter\n", "name", ["n03891332 parking meter"]),
        ("missile\nmissile\n", "auto", ["missile", "missile"]),
        ("Ærø\r\nÅl\r\n", "auto", ["Ærø", "Ål"]),
    ],
)
def test_class_names(tmp_path, text, form, names):
    (tmp_path / "names.txt").write_bytes(text.encode())
    assert read_class_names(tmp_path / "names.txt", form) == names


@pytest.mark.parametrize(
    "text, form, message",
    [
        ("cat\n\ndog\n", "auto", r"names\.txt:2: found '', expected a class name"),
        (
            "n03891332 parking meter\nn03649909\n",
            "auto",
            r"names\.txt:2: found 'n03649909', expected an identifier and a class name",
        ),
        ("cat\n", "id name", r"names\.txt:1: found 'cat', expected an identifier and a class name"),
        ("", "auto", "is empty"),
        ("cat\n", "csv", "names_format 'csv' is unknown"),
    ],
)
def test_bad_class_names(tmp_path, text, form, message):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(PelError, match=message):
        read_class_names(tmp_path / "names.txt", form)


@in_one_folder
@given(names=st.permutations(["Abies alba", "Bufo bufo", "Corvus corax", "Danaus plexippus", "Esox lucius"]))
def test_categories(tmp_path, names):
    (tmp_path / "categories.json").write_text(json.dumps([{"name": name, "id": i} for i, name in enumerate(names)]))
    found, labels = read_categories(tmp_path / "categories.json")
    assert found == sorted(names)
    assert [found[labels[i]] for i in range(5)] == list(names)


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '{"id": 0}', '[{"id": 0}]', '[{"id": 1, "name": "a"}]', '[{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]'],
)
def test_bad_categories(tmp_path, text):
    (tmp_path / "categories.json").write_text(text)
    with pytest.raises(PelError, match=re.escape(str(tmp_path / "categories.json"))):
        read_categories(tmp_path / "categories.json")


def test_public_splits(shared, tmp_path):
    """The real data sets' lists and names parse, and their label spaces fit."""
    import tarfile

    with tarfile.open(shared / "data" / "lt-splits.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "lt-splits"
    places = read_class_names(root / "Places_LT/classnames.txt", "id name")
    train = read_image_list(root / "Places_LT/Places_LT_train.txt", len(places))
    counts = require_every_class(train, places)
    assert (counts.sum(), counts.max(), counts.min()) == (62_500, 4_980, 5)
    for split, images in (("val", 7_300), ("test", 36_500)):
        other = read_image_list(root / f"Places_LT/Places_LT_{split}.txt", len(places))
        assert len(other.paths) == images and not set(other.paths) & set(train.paths)
    imagenet = read_class_names(root / "ImageNet_LT/classnames.txt", "id name")
    assert len(read_image_list(root / "ImageNet_LT/ImageNet_LT_test.txt", len(imagenet)).paths) == 50_000
    assert imagenet.count("missile") == imagenet.count("sunglasses") == 2
    species, labels = read_categories(root / "iNaturalist18/categories.json")
    assert len(species) == 8142 and (labels == np.arange(8142)).sum() == 4
    assert len(read_image_list(root / "iNaturalist18/iNaturalist18_val.txt", 8142).paths) == 24_426


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("path,label\nx.png,Grün\n".encode("latin-1"), r"line 2 has the bytes 'Gr\xfcn', 'Grün' if it is Latin-1"),
        ("\ufeffa 0\n".encode() + b"b\xe9 1", r"line 2 has the bytes 'b\xe9', 'bé' if it is Latin-1"),
        ("path".encode("utf-16"), r"line 1 has the bytes '\xff\xfep\x00a\x00t\x00h\x00'; save"),  # Excel's "Unicode text"
    ],
)
def test_what_is_not_utf8_is_said_with_line_and_word(tmp_path, content, told):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(PelError, match=re.escape(told)):
        read_lines(tmp_path / "list.csv", "table")
