"""Fingerprints of files: all of the content counts, also of large files, which are read once."""

import hashlib
import os
from pathlib import Path

import pytest

from pel_core.common import fingerprints
from pel_core.common.errors import PelError
from pel_core.common.fingerprints import fingerprint

LARGE = 1000


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large, written an hour ago, and a cache folder of its own."""
    monkeypatch.setattr(fingerprints, "LARGE", LARGE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(10 * LARGE))
    age(path)
    return path


def age(path: Path, seconds: float = 3600.0) -> None:
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


def memos(path: Path) -> list[Path]:
    return sorted((path.parent / "cache").rglob("*/fingerprints/*"))


def plain(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha256(str(len(content)).encode() + content).hexdigest()[:16]


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_a_small_file_s_text_is_that_of_its_size_and_content(tmp_path, size):
    path = tmp_path / "x"
    path.write_bytes(b"a" * size)
    assert fingerprint(path) == plain(path)
    with pytest.raises(PelError, match="does not exist"):
        fingerprint(tmp_path / "none")


def test_a_change_in_the_middle_of_a_large_file_is_seen(large):
    first = fingerprint(large)
    assert first == plain(large) == fingerprint(large) and len(memos(large)) == 1
    with open(large, "r+b") as handle:  # in place: same inode, same size, the old modification time
        handle.seek(5 * LARGE)
        byte = handle.read(1)[0]
        handle.seek(5 * LARGE)
        handle.write(bytes([byte ^ 1]))
    age(large)
    assert fingerprint(large) == plain(large) != first


def test_a_large_file_is_read_once(large, monkeypatch):
    first = fingerprint(large)
    monkeypatch.setattr(fingerprints.hashlib, "file_digest", lambda *_: pytest.fail("it was read again"))
    assert fingerprint(large) == first


def test_a_copy_has_the_same_fingerprint(large, tmp_path):
    copy = tmp_path / "copy"
    copy.write_bytes(large.read_bytes())
    assert fingerprint(copy) == fingerprint(large)


def test_what_was_written_just_now_is_not_remembered(large):
    large.write_bytes(b"new" * LARGE)
    assert fingerprint(large) == plain(large) and not memos(large)


@pytest.mark.parametrize("content", [b"", b"0123", b"\xff" * 16, b"0123456789abcdeg"])
def test_a_damaged_memory_is_passed_over(large, content):
    first = fingerprint(large)
    memos(large)[0].write_bytes(content)
    assert fingerprint(large) == first and memos(large)[0].read_text() == first


def test_without_a_place_to_remember_it_is_read_each_time(large, monkeypatch):
    (large.parent / "cache").write_text("a file in its place")
    assert fingerprint(large) == plain(large)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert fingerprint(large) == plain(large)
