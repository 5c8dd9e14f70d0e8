"""Trees that bite: circles of links, other scripts, disks that can only be read, folders that are not there; and describing."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from real_trees import check, draw, inaturalist, of_imagenet, of_places, places, publish

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.ingest.facts import blob_id
from pel_core.ingest.prepare import prepare


@of_imagenet
def test_links_that_go_in_circles(tree, tmp_path, capsys):
    first = tree.paths("train")[0]
    first.unlink()
    first.symlink_to(first.name)
    folder = tree.paths("test")[0].parent
    os.system(f"rm -r '{folder}'")
    folder.symlink_to(f"../val/{folder.name}")
    status, out, _ = check(capsys, "imagenet-lt", tree.root)
    assert status == 1 and out.count("Too many levels of symbolic links") >= 2 and "3 x files that cannot be used" in out
    with pytest.raises(PelError, match="Too many levels of symbolic links"):
        prepare("imagenet-lt", tmp_path / "out", {"roots": {"imagenet-lt": str(tree.root)}})


def test_names_in_other_scripts(tmp_path, capsys):
    """Folders, files and class names in any script, through the same commands."""
    names = ["青蛙", "лягушка", "βάτραχος", "frosch 🐸"]
    entries = {"train": [], "test": []}
    for label, name in enumerate(names):
        for split, count in (("train", 5 - label), ("test", 1)):
            for i in range(count):
                path = f"{split}/{name}/картинка {i}.png"
                draw(tmp_path / "tree" / path, label, i, 8)
                entries[split].append(f"{path} {label}\n")
    for split, lines in entries.items():
        (tmp_path / f"tree/{split}.txt").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "tree/names.txt").write_text("\n".join(names), encoding="utf-8")
    entry = {"root": str(tmp_path / "tree"), "train": "train.txt", "test": "test.txt", "names": "names.txt"}
    config = tmp_path / "настройки.yaml"
    config.write_text(json.dumps({"datasets": {"frogs": entry}}, ensure_ascii=False), encoding="utf-8")
    assert main(["data", "check", "frogs", "--config", str(config), "--check-images", "all"]) == 0
    assert main(["data", "prepare", "frogs", "--config", str(config), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/data.json").read_text(encoding="utf-8"))["class_names"] == names


@of_places
def test_a_disk_that_can_only_be_read(tree, tmp_path, capsys, monkeypatch):
    """Images and lists are only read; where the results would go is one clear error, and so is a download's folder."""
    before = {path: path.stat().st_mtime_ns for path in tree.root.rglob("*")}
    assert check(capsys, "places-lt", tree.root)[0] == 0
    assert main(["data", "prepare", "places-lt", "--root", str(tree.root), "--out", str(tmp_path / "out")]) == 0
    assert {path: path.stat().st_mtime_ns for path in tree.root.rglob("*")} == before
    place = "/proc/pel" if os.path.isdir("/proc") else "/dev/null/pel"  # nobody can write there, root neither
    capsys.readouterr()
    assert main(["data", "prepare", "places-lt", "--root", str(tree.root), "--out", place]) == 1
    assert place in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert main(["data", "fetch", "places-lt", "--root", place]) == 1
    assert f"cannot write into {place}" in capsys.readouterr().err


@of_places
def test_lists_in_a_folder_of_their_own(tree, tmp_path, capsys, monkeypatch):
    """For images on a disk that one cannot write to."""
    (tmp_path / "lists").mkdir()
    for name in (*tree.lists.values(), "classnames.txt"):
        (tree.root / name).rename(tmp_path / "lists" / name)
    (tmp_path / "config.yaml").write_text(json.dumps({"lists": {"places-lt": str(tmp_path / "lists")}}))
    assert check(capsys, "places-lt", tree.root)[0] == 1
    assert check(capsys, "places-lt", tree.root, "--config", str(tmp_path / "config.yaml"))[0] == 0


def test_no_folder_at_all(tmp_path, capsys):
    status, _, error = check(capsys, "imagenet-lt", tmp_path / "nowhere")
    assert status == 1 and "nowhere does not exist" in error and "data fetch imagenet-lt" in error
    (tmp_path / "empty").mkdir()
    status, out, _ = check(capsys, "imagenet-lt", tmp_path / "empty")
    assert status == 1 and "4 x missing list files" in out


def test_a_truncated_image_is_found_by_decoding(tmp_path, capsys, monkeypatch):
    tree = inaturalist(tmp_path / "tree")
    publish(monkeypatch, tree)
    path = tree.paths("val")[-1]
    path.write_bytes(path.read_bytes()[:-50])
    assert check(capsys, "inat2018", tree.root, "--check-images", "none")[0] == 0
    status, out, _ = check(capsys, "inat2018", tree.root, "--check-images", "all")
    assert status == 1 and "1 x images that cannot be decoded" in out and f"{tree.lists['val']}:8:" in out


def test_other_kinds_are_checked_too(tmp_path, capsys):
    assert main(["data", "check", "toy"]) == 0
    assert "6 classes, 720 training images" in capsys.readouterr().out
    assert main(["data", "check", "toy-ir20"]) == 0
    assert main(["data", "check", "toi"]) == 1
    assert "Did you mean 'toy'?" in capsys.readouterr().err
    assert main(["data", "prepare", "toy"]) == 1
    assert "needs --out" in capsys.readouterr().err


def test_blob_ids_are_those_of_git(tmp_path):
    (tmp_path / "a").write_bytes(b"what is up, doc?")
    assert blob_id(tmp_path / "a") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_describe_draws_without_images(tmp_path, capsys, monkeypatch):
    tree = places(tmp_path / "tree", side=8)
    os.system(f"rm -r '{tree.root}/train' '{tree.root}/val'")
    publish(monkeypatch, tree)
    assert main(["data", "describe", "places-lt", "--root", str(tree.root), "--out", str(tmp_path / "figures")]) == 0
    out = capsys.readouterr().out
    assert "places-lt: 45 training images, 4 classes, 24 to 3 each; head 0, medium 1, tail 3" in out
    assert "places-lt test: 8 images" in out and "places-lt val: 8 images" in out
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"places-lt-classes.{suffix}" for suffix in ("pdf", "svg", "png", "txt")
    }
    with Image.open(tmp_path / "figures/places-lt-classes.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize("base, lines", [("cifar100-ir50", 4), ("toy", 3), ("demo-inat", 1)])
def test_describe_what_is_sampled_or_made(base, lines, tmp_path, capsys):
    assert main(["data", "describe", base, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("training images") == lines
    if base.startswith("cifar"):
        assert "cifar100-ir100: 10,847 training images, 100 classes, 500 to 5 each; head 35, medium 35, tail 30" in out
