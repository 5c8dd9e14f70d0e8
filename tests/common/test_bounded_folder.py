"""A bounded folder: never over its limit, whoever writes, is killed or reads; the least recently used files go first."""

import os
import random
import signal
import time
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pel_core.common import bounded_folder
from pel_core.common.bounded_folder import ABANDONED, BoundedFolder, NoRoom


def keep(folder: BoundedFolder, name: str, size: int) -> Path:
    """Write a file as a user of the folder does."""
    path = folder.folder / name
    temporary = folder.reserve(path, size)
    temporary.write_bytes(b"x" * size)
    os.replace(temporary, path)
    time.sleep(0.01)  # two files should not be of one tick
    return path


def names(folder: BoundedFolder) -> list[str]:
    return sorted(os.listdir(folder.folder))


def taken(folder: Path) -> int:
    """Bytes of all files, reservations that are not written yet left out: those take no disk."""
    total = 0
    for entry in os.scandir(folder):
        try:
            stat = entry.stat()
        except FileNotFoundError:
            continue
        total += min(stat.st_size, 512 * stat.st_blocks) if entry.name.startswith(".") else stat.st_size
    return total


def test_the_least_recently_used_go_first(tmp_path):
    folder = BoundedFolder(tmp_path / "made", 1000, ".bin")
    for name in ("a", "b", "c"):
        path = keep(folder, f"{name}.bin", 300)
    folder.touch(folder.folder / "a.bin")
    time.sleep(0.01)
    keep(folder, "d.bin", 300)
    assert names(folder) == ["a.bin", "c.bin", "d.bin"]
    keep(folder, "e.bin", 900)
    assert names(folder) == ["e.bin"] and path.name == "c.bin"


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 1200)), max_size=12), st.integers(0, 1000))
def test_it_never_takes_more_than_its_limit(tmp_path_factory, files, limit):
    folder = BoundedFolder(tmp_path_factory.mktemp("bounded"), limit, ".bin")
    for name, size in files:
        try:
            temporary = folder.reserve(folder.folder / f"{name}.bin", size)
            temporary.write_bytes(b"x" * size)
            os.replace(temporary, folder.folder / f"{name}.bin")
        except NoRoom:
            assert size > limit
        else:
            assert f"{name}.bin" in names(folder)
        assert taken(folder.folder) <= limit


def test_what_does_not_fit_removes_nothing(tmp_path, monkeypatch):
    folder = BoundedFolder(tmp_path, 1000, ".bin")
    keep(folder, "a.bin", 900)
    with pytest.raises(NoRoom, match="are allowed"):
        folder.reserve(tmp_path / "b.bin", 1001)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(bounded_folder.shutil, "disk_usage", lambda _: usage(0, 0, 2000))
    with pytest.raises(NoRoom, match="the disk has"):
        folder.reserve(tmp_path / "b.bin", 950)
    assert names(folder) == ["a.bin"]


def test_what_others_are_writing_counts(tmp_path):
    folder = BoundedFolder(tmp_path, 1000, ".bin")
    keep(folder, "a.bin", 300)
    other = tmp_path / f".b.abcdef-{os.getpid()}.bin"
    other.write_bytes(b"x" * 800)
    with pytest.raises(NoRoom, match="other processes are writing"):
        folder.reserve(tmp_path / "c.bin", 250)
    assert names(folder) == [other.name, "a.bin"], "what would not help is not removed"
    keep(folder, "c.bin", 150)
    assert names(folder) == [other.name, "c.bin"]
    os.utime(other, (1, time.time() - ABANDONED - 1))  # its process was killed on another host
    keep(folder, "d.bin", 850)
    assert names(folder) == ["c.bin", "d.bin"]


def test_many_processes_at_once_stay_within_the_limit(tmp_path):
    """Each writes files of random sizes; one of them is killed amid a file now and then."""
    children = []
    for seed in range(4):
        if not (child := os.fork()):
            draw, folder = random.Random(seed), BoundedFolder(tmp_path, 100_000, ".bin")
            for _ in range(60):
                path = tmp_path / f"{draw.randrange(12)}.bin"
                try:
                    temporary = folder.reserve(path, size := draw.randrange(40_000))
                    with open(temporary, "r+b") as stream:
                        stream.write(b"x" * (size // 2))
                        stream.flush()
                        if seed == 3 and draw.random() < 0.05:
                            os.kill(os.getpid(), signal.SIGKILL)
                        stream.write(b"y" * (size - size // 2))
                    os.replace(temporary, path)
                except NoRoom:
                    pass
            os._exit(0)
        children.append(child)
    ends: dict[int, int] = {}
    while len(ends) < len(children):
        time.sleep(0.005)
        working = [child for child in children if child not in ends]
        for child in working:  # a look at a folder is no snapshot, unless nobody works
            os.kill(child, signal.SIGSTOP)
        for child in working:
            _, status = os.waitpid(child, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                ends[child] = os.waitstatus_to_exitcode(status)
        assert taken(tmp_path) <= 100_000
        for child in set(working) - set(ends):
            os.kill(child, signal.SIGCONT)
    assert [ends[child] for child in children] == [0, 0, 0, -signal.SIGKILL]
    folder = BoundedFolder(tmp_path, 100_000, ".bin")
    keep(folder, "last.bin", 100_000)
    assert names(folder) == ["last.bin"], "what the killed process left is gone"


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "made").write_text("a file in its place")
    with pytest.raises(OSError):
        BoundedFolder(tmp_path / "made", 1000, ".bin").reserve(tmp_path / "made" / "a.bin", 10)
