"""List files of one's own that hold ``CLASS/image.jpg`` and no label, as Caltech-101's train.txt does."""

from pathlib import Path

import pytest
from own_trees import counts, fill, make
from real_trees import check, imagenet

from pel_core.common.errors import PelError
from pel_core.common.problems import Problems
from pel_core.ingest.entries import declared
from pel_core.ingest.notes import read_notes
from pel_core.ingest.sources import open_source
from pel_core.ingest.unlabelled_lists import folder_of, label_by_folder, read_unlabelled

SIZES = {"BACKGROUND_Google": 6, "accordion": 5, "sea_horse": 4}


@pytest.fixture
def root(tmp_path) -> Path:
    """Images of three classes; of each the first two in test.txt, the others in train.txt."""
    root = fill(tmp_path / "caltech", SIZES)
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    test = [path for path in paths if path.endswith(("000.png", "001.png"))]
    (root / "test.txt").write_text("".join(f"{path}\n" for path in test))
    (root / "train.txt").write_text("".join(f"{path}\n" for path in paths if path not in test))
    return root


def lists(root: Path, **keys):
    return make(root, kind="lists", train="train.txt", test="test.txt", **keys)


def test_they_are_read_as_they_are(root):
    data = lists(root)
    assert data.class_names == ["BACKGROUND Google", "accordion", "sea horse"]
    assert data.train_counts.tolist() == counts(data.train, 3) == [4, 3, 2] and counts(data.test, 3) == [2, 2, 2]
    assert all(
        data.class_names[label].replace(" ", "_") == Path(path).parent.name
        for split in (data.train, data.test)
        for path, label in zip(split.paths, split.labels.tolist(), strict=True)
    )
    told = "\n".join(read_notes(root.parent / "out"))
    assert "the lists have no labels: each image is of the class that its folder is called (3 classes)" in told
    assert 'exclude: ["BACKGROUND_Google"]' in told


def test_a_class_of_them_is_left_out_even_if_its_files_are_gone(root):
    for path in (root / "BACKGROUND_Google").iterdir():
        path.unlink()
    data = lists(root, exclude=["BACKGROUND_Google"])
    assert data.class_names == ["accordion", "sea horse"]
    assert counts(data.train, 2) == [3, 2] and counts(data.test, 2) == [2, 2]
    assert "left out as `exclude` says: BACKGROUND_Google (6 images)" in "\n".join(read_notes(root.parent / "out"))


def test_a_file_of_names_says_the_order(root):
    (root / "names.txt").write_text("sea horse\naccordion\nBACKGROUND_Google\n")
    data = lists(root, names="names.txt")
    assert data.class_names == ["sea horse", "accordion", "BACKGROUND_Google"] and counts(data.train, 3) == [2, 3, 4]
    (root / "names.txt").write_text("sea_horse a small fish\naccordion a squeezebox\nBACKGROUND_Google anything\n")
    assert lists(root, names="names.txt", names_format="id name").class_names[0] == "a small fish"


def test_labelled_lists_of_a_users_own_leave_classes_out_as_well(root):
    order = ["sea_horse", "accordion", "BACKGROUND_Google"]
    for name in ("train.txt", "test.txt"):
        lines = (root / name).read_text().splitlines()
        (root / name).write_text("".join(f"{line} {order.index(folder_of(line))}\n" for line in lines))
    (root / "names.txt").write_text("".join(f"{name}\n" for name in order))
    data = lists(root, names="names.txt", exclude=["accordion"])
    assert data.class_names == ["sea_horse", "BACKGROUND_Google"]
    assert counts(data.train, 2) == [2, 4] and counts(data.test, 2) == [2, 2]
    assert {folder_of(path) for path, label in zip(data.train.paths, data.train.labels) if label == 1} == {"BACKGROUND_Google"}
    entry = declared({"datasets": {"mine": {"root": str(root), "train": "train.txt", "test": "test.txt"}}})["mine"]
    with pytest.raises(PelError, match=r"'mine': .*train\.txt has labels, and 'names' is missing, the file that says how"):
        open_source("mine", entry).locate()  # when a study is planned


@pytest.mark.parametrize(
    "file, line, message",
    [
        ("train.txt", "accordion/004.png 1", r"train\.txt:10: found 'accordion/004\.png 1', expected the path of an image alone"),
        ("train.txt", "loose.png", r"train\.txt:10: found 'loose\.png', expected CLASS/image\.jpg, as no line has a label"),
        ("train.txt", "more/accordion/1.png", r"images without labels lie in accordion and in more/accordion; expected a label"),
        ("train.txt", "../accordion/1.png", "climbs with"),
        ("train.txt", "accordion/002.png", r"'accordion/002\.png' repeats line \d"),
        ("test.txt", "new/1.png", r"test\.txt:7: its folder 'new' is none of the 3 classes \(BACKGROUND_Google, \.\.\.\)"),
    ],
)
def test_lines_that_cannot_be_meant(root, file, line, message):
    with open(root / file, "a") as handle:
        handle.write(f"{line}\n")
    with pytest.raises(PelError, match=message):
        lists(root)


def test_labels_in_one_list_and_none_in_the_other(root):
    (root / "test.txt").write_text("accordion/000.png 1\n")
    with pytest.raises(PelError, match=r"test\.txt has labels, and the training list has none; expected both alike"):
        lists(root)


def test_a_published_list_has_labels(tmp_path, capsys):
    tree = imagenet(tmp_path / "tree", side=8)
    path = tree.root / tree.lists["train"]
    path.write_text("".join(f"{line.split()[0]}\n" for line in path.read_text().splitlines()))
    status, out, _ = check(capsys, tree.base, tree.root)
    assert status == 1 and "expected 'path label'" in out


def test_spaces_in_paths_and_underscores_in_names(tmp_path):
    (tmp_path / "train.txt").write_text("sea lion/my image.JPG\nAbies_alba/1.webp\n")
    images = read_unlabelled(tmp_path / "train.txt")
    assert images.paths == ["sea lion/my image.JPG", "Abies_alba/1.webp"]
    assert label_by_folder(images, ["Abies alba", "sea_lion"], Problems()).labels.tolist() == [1, 0]
