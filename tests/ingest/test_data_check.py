"""``data check``: what is wrong is found at once and by kind, and the mistakes that people make are called by their names."""

import json
import os
import re
import tarfile

import pytest
from real_trees import check, draw, every, imagenet, of_imagenet, of_inaturalist, of_places, places, publish

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.problems import Problems
from pel_core.data.datasets import DATASETS
from pel_core.ingest.data_check import check_lists, unlike
from pel_core.ingest.facts import FACTS
from pel_core.ingest.prepare import prepare
from pel_core.ingest.sources import open_source


@every
def test_nothing_is_wrong(tree, tmp_path, capsys):
    status, out, error = check(capsys, tree.base, tree.root, "--check-images", "all")
    assert (status, error) == (0, "") and f"{tree.base}: nothing is wrong" in out
    assert "train: 45 images, 4 classes, 24 to 3 each; head 0, medium 1, tail 3" in out
    prepare(tree.base, tmp_path / "out", {"roots": {tree.base: str(tree.root)}})


def test_everything_that_is_wrong_is_told_by_kind(tmp_path, monkeypatch, capsys):
    tree = places(tmp_path / "tree", side=8)
    paths = tree.paths("train")
    for path in paths[:5]:
        path.unlink()
    paths[5].write_bytes(b"")
    paths[6].write_bytes(paths[7].read_bytes()[:100])
    paths[8].unlink()
    paths[8].symlink_to("/etc/hostname")
    paths[9].unlink()
    paths[9].mkdir()
    with open(tree.root / tree.lists["val"], "a") as handle:
        handle.write("no label\n../outside.jpg 1\n/absolute.jpg 1\ntrain/airfield/x.jpg 9\n")
    publish(monkeypatch, tree)
    status, out, error = check(capsys, "places-lt", tree.root, "--check-images", "all")
    kinds = dict(reversed(pair) for pair in re.findall(r"^  (\d+) x (.*)$", out, re.M))
    assert kinds == {
        "bad lines in lists": "4", "missing files": "5", "empty files": "1", "images that cannot be decoded": "1",
        "symbolic links that lead out of the image folder": "1", "paths that are no file": "1",
    }  # fmt: skip
    assert f"{tree.lists['train']}:1: {paths[0]} cannot be used (No such file" in out
    assert out.count("cannot be used") == 3  # examples, not all five
    assert status == 1 and error.startswith("error: data set 'places-lt': 4 x bad lines") and error.count("\n") == 1
    with pytest.raises(PelError, match=r"val\.txt:9: .*5 x missing files.*see `python -m pel_core data check places-lt`"):
        prepare("places-lt", tmp_path / "out", {"roots": {"places-lt": str(tree.root)}})
    assert not (tmp_path / "out").exists()


@every
def test_a_list_that_is_cut_off(tree, tmp_path, capsys):
    path = tree.root / tree.lists["train"]
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))
    status, out, _ = check(capsys, tree.base, tree.root)
    assert status == 1 and "1 x lists that are not the published ones" in out
    assert "42 lines, expected 45" in out and "perhaps a download that was cut off" in out
    assert "classes without a training image" in out and "published: 24 to 3" in out
    with pytest.raises(PelError, match=rf"is not the published file.*user_lists: \[{tree.base}\]"):
        prepare(tree.base, tmp_path / "out", {"roots": {tree.base: str(tree.root)}})


@of_places
def test_line_ends_of_windows_are_the_same_list(tree, capsys):
    for name in tree.lists.values():
        path = tree.root / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert check(capsys, "places-lt", tree.root)[0] == 0


@of_imagenet
def test_numbers_that_differ(tree, capsys):
    """How a list differs from the published one is told in numbers: classes, images a class, head to tail."""
    (tree.root / "classnames.txt").write_text("n01440764 tench\nn03773504 missile\nn04008634 missile\n")
    status, out, _ = check(capsys, "imagenet-lt", tree.root)
    assert status == 1 and "3 classes, published: 4" in out and "label 3 has no class name" in out
    problems = Problems()
    checked = check_lists(open_source("imagenet-lt", DATASETS["imagenet-lt"], tree.config), "none", problems)
    assert unlike(checked, FACTS["imagenet-lt"]) == [
        "3 classes, published: 4",
        "train: 24 to 6 images a class, published: 24 to 3",
        "train: head, medium, tail classes (0, 1, 2), published: (0, 1, 3)",
    ]


# Mistakes by name


@of_imagenet
def test_imagenet_of_another_year(tree, capsys):
    for path in tree.paths("test"):
        path.rename(path.with_name(path.name.replace("2012", "2010")))
    (tree.root / "train/n04355933").rename(tree.root / "train/n02342885")
    status, out, _ = check(capsys, "imagenet-lt", tree.root)
    assert status == 1 and "ImageNet of another year" in out and "which is of ILSVRC 2010" in out
    assert "train lacks 1 of 4 class folders (n04355933, ...) and has 4" in out


@of_imagenet
def test_imagenet_as_its_archives(tree, capsys):
    for path in (tree.root / "train").iterdir():
        os.system(f"rm -r '{path}'")
        tarfile.open(f"{path}.tar", "w").close()
    status, out, _ = check(capsys, "imagenet-lt", tree.root)
    assert status == 1 and "archives that may not be unpacked" in out and "n01440764.tar and 3 more" in out


@of_places
@pytest.mark.parametrize(
    "folder, kind",
    [
        ("data_large", "Places in high resolution"), ("val_large", "Places in high resolution"),
        ("data_256", "Places without the easy directory structure"), ("data_challenge", "Places365-Challenge"),
    ],
)  # fmt: skip
def test_another_variant_of_places(tree, folder, kind, capsys):
    (tree.root / "train").rename(tree.root / folder)
    status, out, _ = check(capsys, "places-lt", tree.root)
    assert status == 1 and kind in out and "Small images (256 * 256) with easy directory structure" in out


def test_places_in_high_resolution_under_the_right_names(tmp_path, monkeypatch, capsys):
    tree = places(tmp_path / "tree", side=300)
    publish(monkeypatch, tree)
    status, out, _ = check(capsys, "places-lt", tree.root)
    assert status == 1 and "x images larger than 256 pixels" in out and "is 300 x 300" in out and "high-resolution" in out
    with pytest.raises(PelError, match=r"is 300 x 300; this is the high-resolution variant"):
        prepare("places-lt", tmp_path / "out", {"roots": {"places-lt": str(tree.root)}})


@of_places
def test_validation_images_of_places_that_are_not_split(tree, capsys):
    for path in tree.paths("test"):
        path.rename(tree.root / "val" / path.name)
    status, out, _ = check(capsys, "places-lt", tree.root)
    assert status == 1 and "folders 'val' that are not split into class folders" in out and "Places_LT_test.txt" in out


@of_inaturalist
@pytest.mark.parametrize("folder", ["train_val2017", "train_val2019", "2021_train", "train_mini"])
def test_inaturalist_of_another_year(tree, folder, capsys):
    (tree.root / "train_val2018").rename(tree.root / folder)
    status, out, _ = check(capsys, "inat2018", tree.root)
    assert status == 1 and "iNaturalist of another year" in out and folder in out


@of_inaturalist
def test_inaturalist_without_its_outer_folder(tree, capsys):
    for path in (tree.root / "train_val2018").iterdir():
        path.rename(tree.root / path.name)
    status, out, _ = check(capsys, "inat2018", tree.root)
    assert status == 1 and "folders one level too high" in out


@of_places
def test_images_one_folder_deeper(tree, capsys):
    (tree.root / "places365_standard").mkdir()
    for split in ("train", "val"):
        (tree.root / split).rename(tree.root / "places365_standard" / split)
    status, out, _ = check(capsys, "places-lt", tree.root)
    assert status == 1 and f"name {tree.root}/places365_standard as the data set's folder" in out


@of_places
def test_a_root_that_is_one_folder_too_deep_or_a_file(tree, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(f"roots: {{places-lt: {tree.root}/train}}\nlists: {{places-lt: {tree.root}}}\n")
    assert main(["data", "check", "places-lt", "--config", str(tmp_path / "c.yaml")]) == 1
    assert f"name {tree.root} as the data set's folder" in capsys.readouterr().out
    status, _, error = check(capsys, "places-lt", tree.root / "classnames.txt")
    assert status == 1 and "classnames.txt is a file, expected a folder" in error and "make study DATA=FOLDER" in error


@of_places
def test_a_list_of_the_right_length_with_other_lines(tree, capsys):
    path = tree.root / tree.lists["train"]
    path.write_text("".join(sorted(path.read_text().splitlines(keepends=True), reverse=True)))
    status, out, _ = check(capsys, "places-lt", tree.root)
    assert status == 1 and "as many lines, other content" in out


@every
def test_permuted_class_names(tree, capsys, tmp_path, monkeypatch):
    name = "categories.json" if tree.base == "inat2018" else "classnames.txt"
    path = tree.root / name
    if tree.base == "inat2018":  # ids that the folders are not called by
        for file in tree.lists.values():
            text = (tree.root / file).read_text()
            (tree.root / file).write_text(re.sub(r" (\d)$", lambda m: f" {(int(m[1]) + 1) % 4}", text, flags=re.M))
    else:
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[1:] + lines[:1]))
    publish(monkeypatch, tree)
    status, out, _ = check(capsys, tree.base, tree.root)
    assert status == 1 and "labels that do not fit the class names" in out and "row i of the names must be label i" in out
    with pytest.raises(PelError, match="which the class names call"):
        prepare(tree.base, tmp_path / "out", tree.config)  # also where the lists are one's own


def test_labels_of_ones_own_may_differ_from_folders(tmp_path, capsys):
    """Noisy labels are a subject of research; a note says so."""
    tree = imagenet(tmp_path / "tree", side=8)
    path = tree.root / tree.lists["train"]
    path.write_text(path.read_text().replace("n04355933_2.JPEG 3", "n04355933_2.JPEG 0"))
    entry = {"root": str(tree.root), "names": "classnames.txt", "names_format": "id name"}
    entry |= {split: tree.lists[split] for split in ("train", "val", "test")}
    (tmp_path / "config.yaml").write_text(json.dumps({"datasets": {"noisy": entry}}))
    assert main(["data", "check", "noisy", "--config", str(tmp_path / "config.yaml")]) == 0
    assert "note: " in (out := capsys.readouterr().out) and "images in folder n04355933 have label 0" in out


def test_the_published_places_names_are_wrong_for_five_classes(shared, tmp_path, capsys):
    """A mistake of the published files, which the check knows and lets pass: the reference has it too."""
    with tarfile.open(shared / "data" / "lt-splits.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "lt-splits/Places_LT"
    problems = Problems()
    config = {"roots": {"places-lt": str(root)}}
    checked = check_lists(open_source("places-lt", DATASETS["places-lt"], config), "none", problems, files=False)
    assert not problems and checked.ids == checked.names
    wrong = {i: folder for i, (name, folder) in enumerate(zip(checked.ids, checked.folders, strict=True)) if name != folder}
    assert wrong == FACTS["places-lt"].swapped and sorted(wrong.values()) == sorted(checked.names[i] for i in wrong)


@pytest.mark.slow
def test_the_whole_of_places(shared, tmp_path, capsys):
    """106,300 files under the real lists pass as the published data set, in seconds."""
    with tarfile.open(shared / "data" / "lt-splits.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "lt-splits/Places_LT"
    lines = [line for split in ("train", "val", "test") for line in (root / f"Places_LT_{split}.txt").read_text().splitlines()]
    for folder in {os.path.dirname(line) for line in lines}:
        (root / folder).mkdir(parents=True)
    for number, line in enumerate(lines):
        if number % 60_000 == 0:  # links that one file may have
            draw(source := tmp_path / f"{number}.jpg", 0, 0, 256)
        os.link(source, root / line.split()[0])
    status, out, _ = check(capsys, "places-lt", root)
    assert status == 0 and "head 131, medium 163, tail 71" in out
    os.unlink(root / "train/airfield/00004851.jpg")
    status, out, _ = check(capsys, "places-lt", root, "--check-images", "none")
    assert status == 1 and "1 x missing files" in out and "Places_LT_train.txt:1:" in out
