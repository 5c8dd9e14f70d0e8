"""Downloads: resumed, not trusted before their checksum, not unpacked out of their folder; against a server on this machine."""

import hashlib
import io
import os
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from pel_core.cli.main import main
from pel_core.data.datasets import open_prepared
from pel_core.ingest import fetch
from pel_core.ingest.facts import FACTS
from pel_core.ingest.sources import cifar


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
    status, _, told = run(capsys, "fetch", "cifar100", "--mirror", server.address)
    assert status == 0 and "is there already" in told and len(server.asked) == asked


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
    monkeypatch.setitem(FACTS, "cifar100", replace(FACTS["cifar100"], address=server.address))
    status, _, error = run(capsys, "prepare", "cifar100", "--root", root, "--out", tmp_path / "out")
    assert status == 1 and "where there is a network, `python -m pel_core data fetch cifar100` gets it" in error
    archive()
    assert run(capsys, "prepare", "cifar100", "--root", root, "--out", tmp_path / "out")[0] == 0
    assert len(open_prepared(tmp_path / "out", "cifar100").train) == 300
    assert sorted(file.name for file in root.iterdir()) == ["meta", "test", "train"]
