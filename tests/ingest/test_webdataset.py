"""Shards of tar: which are meant, what is what in them, and what is wrong with some."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from own_trees import counts
from PIL import Image

from pel_core.common.errors import PelError
from pel_core.data.datasets import open_prepared
from pel_core.ingest import taken_images
from pel_core.ingest.prepare import prepare
from pel_core.ingest.shards import expand_braces, label_of, read_shard

FORMS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}


def encoded(i: int, extension: str = "png") -> bytes:
    handle = io.BytesIO()
    Image.new("RGB", (9, 9), (i * 7 % 256, 20, 30)).save(handle, FORMS[extension])
    return handle.getvalue()


def shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def samples(
    start: int, count: int, label: str = "cls", write=lambda i: str(i % 2), image: str = "png"
) -> list[tuple[str, bytes]]:
    members = []
    for i in range(start, start + count):
        members += [(f"s/{i:04d}.{image}", encoded(i, image)), (f"s/{i:04d}.{label}", write(i).encode())]
    return members


def make(out: Path, root: Path, name: str = "mine", **keys):
    prepare("mine", out, {"datasets": {"mine": {"kind": "webdataset", "root": str(root), "train": "train-*.tar", **keys}}})
    return open_prepared(out, name)


@pytest.mark.parametrize(
    "label, keys, write, names",
    [
        ("cls", {}, lambda i: f"{i % 2 + 9}\n", ["9", "10"]),
        ("cls.txt", {}, lambda i: "ab"[i % 2], ["a", "b"]),
        ("label", {}, lambda i: ["red_deer", "orca"][i % 2], ["orca", "red deer"]),
        ("txt", {"label": "txt"}, lambda i: "ab"[i % 2], ["a", "b"]),
        ("json", {"label_key": "kind"}, lambda i: json.dumps({"kind": "ab"[i % 2], "score": 0.5}), ["a", "b"]),
        ("meta.json", {"label": "meta.json", "label_key": "a.n"}, lambda i: json.dumps({"a": {"n": i % 2}}), ["0", "1"]),
        ("cls", {"class_names": {"0": "sea lion", "1": "orca"}}, lambda i: str(i % 2), ["sea lion", "orca"]),
    ],
)
def test_labels_are_spelt_in_many_ways(tmp_path, label, keys, write, names):
    shard(tmp_path / "in/train-0.tar", samples(0, 10, label, write))
    data = make(tmp_path / "out", tmp_path / "in", **keys)
    assert data.class_names == names and counts(data.train, 2) == [4, 4]


@pytest.mark.parametrize("image", FORMS)
def test_images_are_taken_byte_for_byte(tmp_path, image, capsys):
    shard(tmp_path / "in/train-0.tar", samples(0, 6, image=image))
    shard(
        tmp_path / "in/train-1.tar",
        [("__meta__.json", b"{}"), ("._x.cls", b"?"), ("s/readme", b"x"), *samples(6, 6, image=image)],
    )
    shard(tmp_path / "in/eval/a.tar", samples(50, 2, image=image))
    shard(tmp_path / "in/eval/b.tar", samples(50, 2, image=image))
    data = make(tmp_path / "out", tmp_path / "in", test="eval/{a,b}.tar")
    assert [Path(path).read_bytes() for path in data.train.paths] == [encoded(i, image) for i in range(12)]
    assert len(data.test) == 4 and "labels from 'cls'; 4 shards" in capsys.readouterr().err
    assert not (tmp_path / "out/.images-new").exists()


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("a-{008..011}.tar", ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]),
        ("{a,b}-{0..1}.tar", ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]),
        ("a.tar", ["a.tar"]),
    ],
)
def test_braces(pattern, names):
    assert expand_braces(pattern) == names


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"train": "train-{0..3}.tar"}, "the shard .*train-2.tar does not exist"),
        ({"train": "x-*.tar"}, r"no shard in .* fits 'x-\*.tar'"),
        ({"train": "train-{0..1.tar"}, "a brace that is not closed"),
        ({"train": "train-{3..1}.tar"}, "goes down"),
        ({"train": "train-{x}.tar"}, "neither a range .* nor a list"),
        ({"train": ["train-*.tar", "train-0.tar"]}, "train-0.tar is meant twice"),
        ({"test": "train-1.tar"}, "train-1.tar is meant for train and for test"),
        ({"train": "https://x/train-0.tar"}, "is an address"),
        ({"train": []}, "expected a pattern such as"),
        ({"label": "txt"}, r"train-0.tar: key 's/0000' has no label: expected a member 'txt', found png, cls"),
        ({"label_key": "kind"}, "key 's/0000' has no label: expected a member 'json'"),
        ({"image": "jpg"}, "key 's/0000' has the members png, cls; expected 'jpg'"),
    ],
)
def test_shards_and_members_that_are_not_there(tmp_path, keys, message):
    shard(tmp_path / "in/train-0.tar", samples(0, 6))
    shard(tmp_path / "in/train-1.tar", samples(6, 6))
    with pytest.raises(PelError, match=f"data set 'mine'.*{message}"):
        make(tmp_path / "out", tmp_path / "in", **keys)
    assert not list((tmp_path / "out").glob("*"))


GOOD = samples(0, 6)


@pytest.mark.parametrize(
    "members, message",
    [
        ([*GOOD, *samples(3, 1)], "train-0.tar: key 's/0003' is there twice in the shard"),
        ([*GOOD, ("s/9.png", encoded(9)), ("s/9.PNG", encoded(9))], "key 's/9' has two members 'png'"),
        ([*GOOD, ("s/9.png", encoded(9))], "key 's/9' has no label: expected a member 'cls', found png"),
        ([*GOOD, ("s/9.cls", b"1")], "key 's/9' has the members cls; expected one image"),
        ([*GOOD, ("s/9.png", encoded(9)), ("s/9.jpg", encoded(9, "jpg")), ("s/9.cls", b"1")], "expected one image .* 'image'"),
        ([*GOOD, ("s/9.png", b"<html>"), ("s/9.cls", b"1")], "key 's/9': its 6 bytes are not an image"),
        (
            [*GOOD, ("s/9.png", encoded(9)), ("s/9.cls", b"0.5")],
            "key 's/9': its label is '0.5'; expected a class name or a whole",
        ),
        ([*GOOD, ("s/9.png", encoded(9)), ("s/9.cls", b"\xff\xfe")], "key 's/9': its 'cls' is not text"),
        ([*GOOD, ("s/9.png", encoded(9)), ("s/9.cls", b"")], r"\(train\), image 6: the cls is ''"),
        ([("a.png", encoded(1)), ("a.cls", b"1"), ("a.label", b"x")], "cls, label: several that may be the label"),
        ([("a.png", encoded(1)), ("a.json", b"{}")], "none of cls, .*; say which key is the label by 'label_key'"),
        ([("a.png", encoded(1)), ("a.txt", b"")], "png, txt: none that may be the label"),
        ([], "train-0.tar has no sample"),
    ],
)
def test_samples_that_do_not_do(tmp_path, members, message):
    shard(tmp_path / "in/train-0.tar", members)
    with pytest.raises(PelError, match=f"data set 'mine': .*{message}"):
        make(tmp_path / "out", tmp_path / "in")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("value, message", [(1.0, "1.0"), (True, "True"), (None, "None"), ([1], r"\[1\]")])
def test_json_labels_that_name_no_class(tmp_path, value, message):
    path = shard(tmp_path / "x.tar", samples(0, 1, "json", lambda i: json.dumps({"kind": value})))
    with pytest.raises(PelError, match=f"its label is {message}; expected"):
        label_of(next(read_shard(str(path))), "json", "kind")
    with pytest.raises(PelError, match=r"unknown label_key .*'king'; known: kind. Did you mean"):
        label_of(next(read_shard(str(path))), "json", "king")


def test_a_shard_that_is_cut_off_anywhere(tmp_path):
    """At every block of it, and inside one; also where a member has just ended, which tarfile takes for the end."""
    whole = shard(tmp_path / "whole.tar", GOOD).read_bytes()
    assert len(list(read_shard(str(tmp_path / "whole.tar")))) == 6
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    cut = tmp_path / "cut.tar"
    for size in [0, 1, *range(512, end + 1, 512), 700, end - 200]:
        cut.write_bytes(whole[:size])
        with pytest.raises(PelError, match=r"cut.tar is cut off, or no tar file .*; get it again"):
            list(read_shard(str(cut)))
    packed = gzip.compress(whole)
    (tmp_path / "cut.tar.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(PelError, match=r"cut.tar.gz is cut off"):
        list(read_shard(str(tmp_path / "cut.tar.gz")))
    (tmp_path / "whole.tar.gz").write_bytes(packed)
    assert len(list(read_shard(str(tmp_path / "whole.tar.gz")))) == 6


def test_a_process_that_was_stopped_goes_on(tmp_path, monkeypatch, caplog):
    shard(tmp_path / "in/train-0.tar", samples(0, 10))
    monkeypatch.setattr(taken_images, "PART", 2)
    old, count = taken_images.require_image, iter(range(100))

    def stopped(content, where):
        if next(count) == 7:
            raise KeyboardInterrupt
        old(content, where)

    monkeypatch.setattr(taken_images, "require_image", stopped)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "out", tmp_path / "in")
    monkeypatch.setattr(taken_images, "require_image", old)
    data = make(tmp_path / "out", tmp_path / "in", test_fraction=0.2)  # another entry begins anew
    assert "going on" not in caplog.text and len(data.train) == 8
    with pytest.raises(KeyboardInterrupt):
        count = iter(range(100))
        monkeypatch.setattr(taken_images, "require_image", stopped)
        make(tmp_path / "again", tmp_path / "in")
    monkeypatch.setattr(taken_images, "require_image", old)
    with caplog.at_level("INFO"):
        data = make(tmp_path / "again", tmp_path / "in")
    assert "going on with train after 6 images" in caplog.text
    paths = sorted((tmp_path / "again/images").rglob("*.png"))
    assert [path.read_bytes() for path in paths] == [encoded(i) for i in range(10)]
