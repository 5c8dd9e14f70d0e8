"""CSV tables of one's own images."""

import csv
import time
from pathlib import Path

import pytest
from own_trees import fill, make, write

from pel_core.common.errors import PelError
from pel_core.ingest.catalogue import class_order
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
    with pytest.raises(PelError, match=r"labels\.csv is not UTF-8"):
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
