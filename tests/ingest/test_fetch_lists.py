"""Lists of the published data sets: fetched against what is known of them, and the images as it is told by hand."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from real_trees import TREES, publish

from pel_core.cli.main import main


def run(capsys, *words) -> tuple[int, str, str]:
    status = main(["data", *map(str, words)])
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.mark.parametrize("base", TREES)
def test_lists_are_fetched_and_the_rest_is_told(base, server, tmp_path, capsys, monkeypatch):
    tree = TREES[base](tmp_path / "tree", side=8)
    publish(monkeypatch, tree)
    names = [name for name in os.listdir(tree.root) if os.path.isfile(tree.root / name)]
    server.files = {name: (tree.root / name).read_bytes() for name in names}
    for name in names:
        (tree.root / name).unlink()
    status, out, _ = run(capsys, "fetch", base, "--root", tree.root, "--mirror", server.address)
    assert status == 0 and all((tree.root / name).read_bytes() == content for name, content in server.files.items())
    assert {"imagenet-lt": "ILSVRC2012_img_train.tar", "places-lt": "easy directory", "inat2018": "train_val2018.tar.gz"}[
        base
    ] in out
    assert f"Then: python -m pel_core data check {base} --root {tree.root}" in out
    assert run(capsys, "check", base, "--root", tree.root)[0] == 0


def test_a_list_that_changed_is_refused(server, tmp_path, capsys, monkeypatch):
    tree = TREES["places-lt"](tmp_path / "tree", side=8)
    publish(monkeypatch, tree)
    server.files = {name: (tree.root / name).read_bytes() for name in ("classnames.txt", *tree.lists.values())}
    server.files["Places_LT_val.txt"] = server.files["Places_LT_val.txt"].replace(b" 1\n", b" 2\n")
    status, out, error = run(capsys, "fetch", "places-lt", "--root", tmp_path / "new", "--mirror", server.address)
    assert "easy directory" in out  # how to get the images is told all the same
    assert status == 1 and "Places_LT_val.txt" in error and "is deleted; nothing of it was used" in error
    assert "Places_LT_val.txt" not in os.listdir(tmp_path / "new")


@pytest.mark.parametrize("base, hint", [("places-lt", "'lists: {places-lt: FOLDER}'"), ("cifar100", "PEL_DATA or --root")])
def test_a_disk_that_cannot_be_written_to(base, hint, tmp_path, capsys):
    (tmp_path / "file").write_text("where a folder cannot be")
    status, _, error = run(capsys, "fetch", base, "--root", tmp_path / "file" / base)
    assert status == 1 and error.startswith("error: cannot write into") and error.count("\n") == 1 and hint in error


def test_lists_that_are_all_there_need_no_writing(tmp_path, capsys, monkeypatch):
    tree = TREES["places-lt"](tmp_path / "tree", side=8)
    publish(monkeypatch, tree)
    monkeypatch.setattr("pel_core.ingest.fetch.require_writable", lambda folder: pytest.fail("nothing is written"))
    assert run(capsys, "fetch", "places-lt", "--root", tree.root)[0] == 0


def test_validation_images_are_sorted_by_the_command_that_is_told(tmp_path, capsys, monkeypatch):
    """The shell line that fetch prints for ImageNet does what it says."""
    tree = TREES["imagenet-lt"](tmp_path / "my tree", side=8)
    publish(monkeypatch, tree)
    for path in tree.paths("test"):
        path.rename(tree.root / "val" / path.name)
    status, out, error = run(capsys, "check", "imagenet-lt", "--root", tree.root)
    assert status == 1 and "folders 'val' that are not split into class folders" in out and "listed above" in error
    command = out.split("in the image folder: `")[1].split("`")[0]
    subprocess.run(["bash", "-c", command], cwd=tree.root, check=True)
    assert run(capsys, "check", "imagenet-lt", "--root", tree.root)[0] == 0


def pack(archive: Path, paths: list[Path], name) -> None:
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as packed:
        for path in paths:
            packed.add(path, name(path))
            path.unlink()


@pytest.mark.parametrize("base", TREES)
def test_the_archives_unpack_as_it_is_told(base, server, tmp_path, capsys, monkeypatch):
    """The shell lines that fetch prints, word for word, on archives of the published form."""
    tree = TREES[base](tmp_path / "my tree", side=8)
    publish(monkeypatch, tree)
    root = tree.root
    files = sorted(path for folder in ("train", "val", "train_val2018") for path in (root / folder).rglob("*") if path.is_file())
    if base == "imagenet-lt":
        for folder in sorted((root / "train").iterdir()):
            pack(root / f"{folder.name}.tar", sorted(folder.iterdir()), lambda path: path.name)
        pack(root / "ILSVRC2012_img_train.tar", sorted(root.glob("n*.tar")), lambda path: path.name)
        pack(root / "ILSVRC2012_img_val.tar", sorted((root / "val").rglob("*.JPEG")), lambda path: path.name)
    elif base == "places-lt":
        pack(tmp_path / "places365standard_easyformat.tar", files, lambda path: f"places365_standard/{path.relative_to(root)}")
    else:
        pack(tmp_path / "train_val2018.tar.gz", files, lambda path: str(path.relative_to(root)))
    for folder in ("train", "val", "train_val2018"):
        shutil.rmtree(root / folder, ignore_errors=True)
    assert run(capsys, "check", base, "--root", root)[0] == 1
    status, out, _ = run(capsys, "fetch", base, "--root", root, "--mirror", server.address)
    lines = [line for line in out.splitlines() if line.startswith(("  cd", "  mkdir", "  for", "  cut", "  tar"))]
    subprocess.run(["bash", "-ec", "\n".join(lines)], cwd=tmp_path, check=True)
    assert status == 0 and all(path.is_file() for path in files)
    status, out, _ = run(capsys, "check", base, "--root", root, "--check-images", "all")
    assert status == 0, out


def test_places_lists_are_those_that_are_known(shared, server, tmp_path, capsys):
    """The real files pass, so that the table of blob ids is theirs."""
    with tarfile.open(shared / "data" / "lt-splits.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    for folder in ("Places_LT", "ImageNet_LT", "iNaturalist18"):
        server.files |= {path.name: path.read_bytes() for path in (tmp_path / "lt-splits" / folder).iterdir()}
    server.files["classnames.txt"] = (tmp_path / "lt-splits/Places_LT/classnames.txt").read_bytes()
    assert run(capsys, "fetch", "places-lt", "--root", tmp_path / "places", "--mirror", server.address)[0] == 0
    server.files["classnames.txt"] = (tmp_path / "lt-splits/ImageNet_LT/classnames.txt").read_bytes()
    for base, missing in (("imagenet-lt", "ImageNet_LT_train.txt"), ("inat2018", "iNaturalist18_train.txt")):
        status, _, error = run(capsys, "fetch", base, "--root", tmp_path / base, "--mirror", server.address)
        assert status == 1 and missing in error  # which the shared folder lacks
    status, out, _ = run(capsys, "describe", "places-lt", "--root", tmp_path / "places", "--out", tmp_path / "figures")
    assert status == 0 and "head 131, medium 163, tail 71" in out
    assert {file.suffix for file in (tmp_path / "figures").iterdir()} == {".pdf", ".svg", ".png", ".txt"}


def test_nothing_to_fetch(capsys):
    status, _, error = run(capsys, "fetch", "toy")
    assert status == 1 and "nothing to download" in error
