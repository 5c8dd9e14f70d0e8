"""CSV tables of one's own images."""

import csv
import json
import time
from pathlib import Path

import pytest
from own_trees import draw, fill, make, write

from pel_core.common.errors import PelError
from pel_core.common.problems import Problems
from pel_core.ingest.catalogue import class_order
from pel_core.ingest.entries import declared
from pel_core.ingest.sources import open_source
from pel_core.ingest.sources.csv import read_table


@pytest.fixture
def tree(tmp_path) -> Path:
    return fill(tmp_path / "my images")


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
    with pytest.raises(
        PelError, match=r"labels\.csv is not UTF-8 text: line 2 has the bytes '\\xe9', 'é' if it is Latin-1; save it"
    ):
        make(tree / "labels.csv")


def test_long_tables_load_in_seconds(tmp_path):

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


def table(folder: Path, text: str, files=()) -> Path:
    """A table, with its bytes as they are, and files beside it."""
    for name in files:
        draw(folder / name, len(name))
    path = folder / "labels.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def read(folder: Path, text: str, files=()):
    return read_table(str(table(folder, text, files)), str(folder))


def labels_of(found) -> dict[str, str]:
    images = found.splits["train"]
    return {path: found.keys[label] for path, label in zip(images.paths, images.labels.tolist(), strict=True)}


@pytest.mark.parametrize(
    "text",
    [
        'path,label\na.jpg, "cat"\nb.jpg,cat\nc.jpg,dog\n',
        'path, label\n a.jpg , cat \nb.jpg\t,"cat" \n"c.jpg" ,  " dog "  \n',
        '"path" , "label"\n"a.jpg" , "cat"\n"b.jpg","cat"\n"c.jpg" ,dog\n',
        "\ufeffpath;label\r\na.jpg; cat\r\nb.jpg;cat\r\nc.jpg;dog\r\n",
        "sep=;\r\npath;label\r\na.jpg; cat\r\nb.jpg;cat\r\nc.jpg;dog\r\n",
        "path\tlabel\ra.jpg\t cat\rb.jpg\tcat\rc.jpg\t dog\r",
        'path|label\na.jpg|"cat"\nb.jpg| "cat"\nc.jpg|dog',
    ],
)
def test_white_space_and_quotes_mean_nothing(tmp_path, text):
    assert labels_of(read(tmp_path, text)) == {"a.jpg": "cat", "b.jpg": "cat", "c.jpg": "dog"}


def test_quotes_and_delimiters_inside_a_value_stay(tmp_path):
    text = 'path,label\n"a, ""1"" , x.jpg" , "6"" pipe, ""old"" "\nb.jpg,5" pipe\n'
    assert labels_of(read(tmp_path, text)) == {'a, "1" , x.jpg': '6" pipe, "old"', "b.jpg": '5" pipe'}


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    with pytest.raises(PelError, match=r"labels\.csv:6: the label is 'nan'"):
        read(tmp_path, 'sep=,\n\npath,label,about\na.jpg,cat,"two\nlines"\nb.jpg, nan ,\n')


def test_labels_that_are_numbers_are_numbers(tmp_path):
    found = read(tmp_path, "path,label\na.jpg,10.0\nb.jpg,9.0\nc.jpg,2\nd.jpg,10\ne.jpg,2.50\n")
    assert found.keys == ["2", "2.5", "9", "10"]
    assert labels_of(found) == {"a.jpg": "10", "b.jpg": "9", "c.jpg": "2", "d.jpg": "10", "e.jpg": "2.5"}
    assert "the labels are numbers: '10.0' is class 10" in found.notes


def test_numbers_among_words_are_names_and_codes_are_no_numbers(tmp_path):
    found = read(tmp_path, "path,label\na.jpg,10.0\nb.jpg,ace\nc.jpg,9\n")
    assert found.keys == ["10.0", "9", "ace"]
    assert any("words and numbers ('ace', '10.0'): all are names" in note for note in found.notes)
    found = read(tmp_path, "path,label\na.jpg,007\nb.jpg,010\nc.jpg,100\n")
    assert found.keys == ["007", "010", "100"] and not any("are numbers" in note or "and numbers" in note for note in found.notes)


@pytest.mark.parametrize(
    "labels, message",
    [
        *((["cat", missing, "dog", missing], rf":3: the label is '{missing}', .*\(2 such images\)")
          for missing in ("nan", "NaN", "NAN", "NA", "N/A", "None", "null", "NULL", "#N/A", "<NA>")),
        (["cat", " ", "dog"], ":3: the label is ''"),
        (["1", "-1.0"], r":3: the label is '-1\.0'"),
        (["cat", "1", "1.0"], r":4: the label '1\.0' is the same number as '1' \(.*:3\)"),
        (["01", "1", "2"], r":3: the label '1' is the same number as '01'"),
        (["10,0", "9", "2,5"], r":2: the label is '10,0', a number with a decimal comma or several labels"),
    ],
)  # fmt: skip
def test_labels_that_name_no_class(tmp_path, labels, message):
    with pytest.raises(PelError, match=message):
        read(tmp_path, "path;label\n" + "".join(f"{i}.jpg;{label}\n" for i, label in enumerate(labels)))


def test_no_class_is_refused_that_only_looks_like_a_missing_one(tmp_path):
    names = ["none", "naan", "not available", "Nan Ren", "-", "nullah", "1e3", "٣"]
    found = read(tmp_path, "path,label\n" + "".join(f"{i}.jpg,{name}\n" for i, name in enumerate(names)))
    assert found.keys == sorted(names)


def test_what_was_taken_is_told_and_kept(tmp_path, capsys):
    files = [f"{name}/{i}.png" for name in "ab" for i in range(4)]
    text = "nr,file,class\n" + "".join(f"{i},{name},{'Cat' if name[0] == 'a' else 'cat'}\n" for i, name in enumerate(files))
    path = table(tmp_path / "data", text, files)
    make(path, tmp_path / "out", image_column="file", label_column="class")
    told = capsys.readouterr().err
    assert f"columns of {path}: path from 'file', label from 'class'" in told
    assert "images of each class: Cat 4, cat 4" in told and "first examples: a/0.png -> Cat; a/1.png -> Cat" in told
    assert "'Cat' and 'cat'" in told, "two classes of equal text are not told"
    kept = " ".join(json.loads((tmp_path / "out/notes.json").read_text())["notes"])
    assert "path from 'file'" in kept and "Cat 4, cat 4" in kept and "a/0.png -> Cat" in kept


def test_backslashes_are_slashes_where_that_file_is(tmp_path):
    files = ["cat/a.png", "cat/b.png", "dog/deep/c.png"]
    found = read(tmp_path, "path,label\ncat\\a.png,cat\n.\\cat\\b.png,cat\ndog\\deep\\c.png,dog\n", files)
    assert labels_of(found) == {"cat/a.png": "cat", "cat/b.png": "cat", "dog/deep/c.png": "dog"}
    assert r"3 paths have backslashes, which are read as slashes ('cat\\a.png')" in found.notes


def test_a_name_with_a_backslash_or_space_that_is_there_is_meant(tmp_path):
    files = ["cat\\a.png", " b.png", "c.png"]
    found = read(tmp_path, 'path,label\ncat\\a.png,cat\n" b.png",dog\n c.png ,dog\n', files)
    assert labels_of(found) == {"cat\\a.png": "cat", " b.png": "dog", "c.png": "dog"}
    assert not any("backslashes" in note for note in found.notes)
    for both in ("cat/a.png", "b.png"):
        draw(tmp_path / both)
    with pytest.raises(PelError, match=r":2: path 'cat.*' may be 'cat.*' or 'cat/a\.png', which are both there"):
        read(tmp_path, "path,label\ncat\\a.png,cat\n")
    with pytest.raises(PelError, match=r":2: path ' b\.png' may be ' b\.png' or 'b\.png'"):
        read(tmp_path, 'path,label\n" b.png",cat\n')


def test_backslash_paths_stay_inside_and_are_no_second_image(tmp_path):
    draw(tmp_path / "out.png")
    with pytest.raises(PelError, match="is not below the image folder"):
        read(tmp_path / "in", "path,label\n..\\out.png,cat\n", ["cat/a.png"])
    with pytest.raises(PelError, match=r":3: 'cat/a\.png' repeats line 2"):
        read(tmp_path / "in", "path,label\ncat\\a.png,cat\ncat/a.png,dog\n")


def test_missing_files_with_backslashes_say_so(tmp_path):
    path = table(tmp_path / "data", "path,label\n" + "".join(f"kat\\{i}.png,{'ab'[i % 2]}\n" for i in range(11)), ["x.png"])
    seen = r"11 missing paths hold backslashes \('kat.*'\), as Windows writes paths: expected .* with '/' in their place"
    with pytest.raises(PelError, match=seen):
        make(path, tmp_path / "out")


def test_lists_with_backslashes_say_so(tmp_path):
    fill(tmp_path, {"cat": 2})
    for name, text in {"train.txt": "cat\\000.png 0\n", "test.txt": "cat\\001.png 0\n", "names.txt": "cat\n"}.items():
        (tmp_path / name).write_text(text)
    lists = {"train": "train.txt", "test": "test.txt", "names": "names.txt"}
    source = open_source("mine", declared({"datasets": {"mine": {"kind": "lists", "root": str(tmp_path), **lists}}})["mine"],
                         {"datasets": {"mine": {}}})  # fmt: skip
    problems = Problems()
    source.check(problems, "none")
    told = " ".join(problems.lines())
    assert "1 missing paths hold backslashes" in told and "write '/' in their place, with which 1 of 1" in told


@pytest.mark.parametrize(
    "full",
    ["/home/x/data/img/a.png", "C:\\data\\img\\a.png", "\\\\server\\share\\img\\a.png", "C:/data/img/a.png"],
)
def test_paths_in_full_that_lie_elsewhere(tmp_path, full):
    before = full.replace("\\", "/").rpartition("img/")[0].replace("/", ".+")
    with pytest.raises(PelError, match=rf":2: path .* is not below the image folder .*img/a\.png is there: .*{before}.* off"):
        read(tmp_path / "data", f"path,label\n{full},cat\n", ["img/a.png"])
    with pytest.raises(PelError, match=r"is not below .*expected a path relative to it.*'root'.*'file'"):
        read(tmp_path / "empty", f"path,label\n{full},cat\n")


def test_a_path_in_full_that_exists_elsewhere(tmp_path):
    draw(tmp_path / "images/a.png")
    with pytest.raises(PelError, match="it exists: name the folder that holds all images by 'root' and the table by 'file'"):
        read(tmp_path / "data", f"path,label\n{tmp_path}/images/a.png,cat\n")


def test_tables_of_images_one_folder_deeper_say_so(tmp_path):
    path = table(tmp_path / "data", "path,label\na.png,x\nb.png,y\nc.png,x\n", [f"images/{name}.png" for name in "abc"])
    with pytest.raises(PelError, match=r"a\.png cannot be used .*data/images holds listed files: name .*data/images as"):
        make(path, tmp_path / "out")
