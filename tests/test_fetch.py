"""Downloads: resumed, not trusted before their checksum, not unpacked out of their folder; against a server on this machine."""

import hashlib
import io
import os
import pickle
import shutil
import subprocess
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from real_trees import TREES, publish

from pel_core import cifar, fetch
from pel_core.cli import main
from pel_core.datasets import open_prepared


class Server(ThreadingHTTPServer):
    """Serves bytes by name. ``cut``: bytes after which an answer breaks off; ``ranges``: whether it can go on in the middle."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str | None] = []
        self.cut: int | None = None
        self.ranges = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files.get(self.path.lstrip("/"))
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if content is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE", 0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def make_archive(extra=()) -> tuple[bytes, dict[str, bytes]]:
    """A miniature of CIFAR's archive; ``extra`` are members of one's own, (TarInfo, bytes)."""
    random = np.random.default_rng(0)
    labels = {"train": np.repeat(np.arange(3), 100), "test": np.repeat(np.arange(3), 2)}
    records = {"meta": {"fine_label_names": ["apple", "aquarium_fish", "baby"]}}
    for split, each in labels.items():
        pixels = random.integers(0, 256, (len(each), 3072)).astype(np.uint8)
        records[split] = {"data": pixels, "fine_labels": each.tolist()}
    files = {name: pickle.dumps(record, 2).replace(b"numpy._core", b"numpy.core") for name, record in records.items()}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{cifar.FOLDER}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member, content in extra:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue(), files


@pytest.fixture
def archive(server, monkeypatch):
    """The archive on the server, with its checksums known."""

    def put(extra=()):
        content, files = make_archive(extra)
        for name, each in files.items():
            monkeypatch.setitem(cifar.CIFAR_MD5, name, hashlib.md5(each).hexdigest())
        monkeypatch.setattr(cifar, "ARCHIVE_MD5", hashlib.md5(content).hexdigest())
        server.files[cifar.ARCHIVE] = content
        return content

    return put


def run(capsys, *words) -> tuple[int, str, str]:
    status = main(["data", *map(str, words)])
    out = capsys.readouterr()
    return status, out.out, out.err


def test_cifar_from_nothing_to_a_prepared_folder(server, archive, tmp_path, capsys, monkeypatch):
    archive()
    root = tmp_path / "data" / cifar.FOLDER
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "fetch", "cifar100", "--mirror", server.address)[0] == 0
    assert sorted(file.name for file in root.iterdir()) == ["meta", "test", "train"]
    status, out, _ = run(capsys, "check", "cifar100")
    assert status == 0 and "3 classes, 300 training images" in out and "nothing is wrong" in out
    assert main(["data", "prepare", "cifar100", "--out", "prepared"]) == 0
    data = open_prepared(tmp_path / "prepared", "cifar100-ir4")
    assert data.class_names == ["apple", "aquarium_fish", "baby"] and data.train_counts.tolist() == [100, 50, 25]
    asked = len(server.asked)
    status, out, _ = run(capsys, "fetch", "cifar100", "--mirror", server.address)
    assert status == 0 and "is there already" in out and len(server.asked) == asked


@pytest.mark.parametrize("where", ["inside", "beside", "unpacked below"])
def test_a_local_archive_of_cifar(archive, tmp_path, where, capsys):
    content, root = archive(), tmp_path / "pictures"
    root.mkdir()
    (root if where == "inside" else tmp_path).joinpath(cifar.ARCHIVE).write_bytes(content)
    if where == "unpacked below":
        assert run(capsys, "fetch", "cifar100", "--root", root / cifar.FOLDER, "--mirror", "http://127.0.0.1:9")[0] == 1
        (tmp_path / cifar.ARCHIVE).rename(root / cifar.ARCHIVE)
        assert run(capsys, "fetch", "cifar100", "--root", root / cifar.FOLDER)[0] == 0
        (root / cifar.ARCHIVE).unlink()
    assert main(["data", "prepare", "cifar100", "--root", str(root), "--out", str(tmp_path / "out")]) == 0
    assert len(open_prepared(tmp_path / "out", "cifar100").train) == 300


def test_a_read_only_folder_with_an_archive_is_enough(archive, tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    (root / cifar.ARCHIVE).write_bytes(archive())
    before = sorted(root.rglob("*"))
    assert main(["data", "prepare", "cifar100", "--root", str(root), "--out", str(tmp_path / "out")]) == 0
    assert sorted(root.rglob("*")) == before


def test_a_damaged_local_archive(archive, tmp_path, capsys):
    root = tmp_path / cifar.FOLDER
    root.mkdir()
    (root / cifar.ARCHIVE).write_bytes(archive()[:-100])
    for action in ("prepare", "fetch", "check"):
        status, out, error = run(capsys, action, "cifar100", "--root", root, "--out", tmp_path / "out")
        assert status == 1 and "it is damaged or another archive" in out + error
    assert not (root / "train").exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(server, archive, tmp_path, capsys, monkeypatch, ranges):
    content, root = archive(), tmp_path / cifar.FOLDER
    part = tmp_path / f"{cifar.ARCHIVE}.part"
    server.cut, server.ranges = len(content) // 3, ranges
    monkeypatch.setattr(fetch, "TRIES", 2)
    status, _, error = run(capsys, "fetch", "cifar100", "--root", root, "--mirror", server.address)
    assert status == 1 and "the same command goes on from there" in error and error.count("\n") == 1
    assert part.read_bytes() == content[: part.stat().st_size] and part.stat().st_size > server.cut - fetch.BLOCK
    assert not root.exists() and not (tmp_path / cifar.ARCHIVE).exists()
    server.cut = None
    kept = part.stat().st_size
    assert run(capsys, "fetch", "cifar100", "--root", root, "--mirror", server.address)[0] == 0
    assert server.asked[-1] == f"bytes={kept}-" and not part.exists()
    assert (tmp_path / cifar.ARCHIVE).read_bytes() == content


def test_one_call_survives_interruptions(server, archive, tmp_path, capsys):
    content, root = archive(), tmp_path / cifar.FOLDER
    server.cut = len(content) // 3 + fetch.BLOCK
    assert run(capsys, "fetch", "cifar100", "--root", root, "--mirror", server.address)[0] == 0
    assert len(server.asked) in (2, 3)


def test_a_part_that_is_whole_already(server, archive, tmp_path, capsys):
    content, root = archive(), tmp_path / cifar.FOLDER
    (tmp_path / f"{cifar.ARCHIVE}.part").write_bytes(content)
    assert run(capsys, "fetch", "cifar100", "--root", root, "--mirror", server.address)[0] == 0
    assert server.asked == [f"bytes={len(content)}-"]


def test_a_part_of_something_longer_is_begun_anew(server, archive, tmp_path, capsys):
    content, root = archive(), tmp_path / cifar.FOLDER
    (tmp_path / f"{cifar.ARCHIVE}.part").write_bytes(content + b"more")
    assert run(capsys, "fetch", "cifar100", "--root", root, "--mirror", server.address)[0] == 0
    assert server.asked == [f"bytes={len(content) + 4}-", None]


def test_another_checksum_is_not_trusted(server, archive, tmp_path, capsys):
    content, root = archive(), tmp_path / cifar.FOLDER
    server.files[cifar.ARCHIVE] = content[:-1] + bytes([content[-1] ^ 1])
    status, _, error = run(capsys, "fetch", "cifar100", "--root", root, "--mirror", server.address)
    assert status == 1 and "is deleted; nothing of it was used" in error
    assert list(tmp_path.iterdir()) == []


def test_no_server_and_no_such_file(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fetch, "TRIES", 2)
    root = tmp_path / cifar.FOLDER
    for address in ("http://127.0.0.1:9", server.address):
        status, _, error = run(capsys, "fetch", "cifar100", "--root", root, "--mirror", address)
        assert status == 1 and "cannot be had" in error and f"put it there as {tmp_path / cifar.ARCHIVE}" in error


def member(name: str, **values) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "evil",
    [
        member("../evil"),
        member("cifar-100-python/../../evil"),
        member("/evil"),
        member("cifar-100-python/link", type=tarfile.SYMTYPE, linkname="../../evil"),
        member("cifar-100-python/pipe", type=tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_an_archive_cannot_leave_its_folder(server, archive, tmp_path, capsys, evil):
    archive([(evil, b"x" if evil.isfile() else b"")])
    root = tmp_path / "deep" / cifar.FOLDER
    root.parent.mkdir()
    status, _, error = run(capsys, "fetch", "cifar100", "--root", root, "--mirror", server.address)
    if evil.name == "/evil":  # the filter takes the leading slash away: it lands inside
        assert not os.path.exists("/evil")
    else:
        assert status == 1 and "cannot be unpacked" in error
    assert not list(tmp_path.glob("**/evil")) or (root / "evil").exists()


def test_preparing_cifar_fetches_it(server, archive, tmp_path, monkeypatch, capsys):
    """What CONFIG=cifar needs comes by itself; without a network, how to get it is said, and nothing is left."""
    root = tmp_path / "data" / cifar.FOLDER
    monkeypatch.setattr(fetch, "CIFAR_ADDRESS", server.address)
    status, _, error = run(capsys, "prepare", "cifar100", "--root", root, "--out", tmp_path / "out")
    assert status == 1 and "where there is a network, `python -m pel_core data fetch cifar100` gets it" in error
    archive()
    assert run(capsys, "prepare", "cifar100", "--root", root, "--out", tmp_path / "out")[0] == 0
    assert len(open_prepared(tmp_path / "out", "cifar100").train) == 300
    assert sorted(file.name for file in root.iterdir()) == ["meta", "test", "train"]


# Lists


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
    assert {file.suffix for file in (tmp_path / "figures").iterdir()} == {".pdf", ".svg", ".png"}


def test_nothing_to_fetch(capsys):
    status, _, error = run(capsys, "fetch", "toy")
    assert status == 1 and "nothing to download" in error
