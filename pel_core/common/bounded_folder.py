"""A folder of files that may be made again, which together never take more than a limit: the least recently used go first.

Without locks, which network file systems break. Whoever writes first reserves: an empty file of the full size (sparse, so that it
takes no disk yet) under the temporary name of what it will become. Then it counts everything, others' reservations too, and makes
room. So of two that reserve at once each sees the other, or both do; what does not fit is given up before a byte is written.
A file that somebody reads while it is removed stays readable to the end on a local disk; on a network one reading may fail
(OSError). Used is what was written or `touch`ed last.
"""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from pel_core.common.files import sweep, temporary_name

FREE = 4  # a file takes at most one part in so many of the disk's free space: results go first
ABANDONED = 86_400.0  # seconds after whose last write a temporary file of another host is of a process that was killed


class NoRoom(Exception):
    """Why a file cannot be kept, in words."""


class BoundedFolder:
    """The files ``*SUFFIX`` of a folder.

    Args:
        limit: bytes that all together may take.
    """

    def __init__(self, folder: Path, limit: float, suffix: str):
        self.folder, self.limit, self.suffix = folder, limit, suffix

    def touch(self, path: Path) -> None:
        """Note that a file is used."""
        with suppress(OSError):  # another user's, or a read-only disk
            os.utime(path)

    def reserve(self, path: Path, size: int) -> Path:
        """Make room for a file of at most ``size`` bytes; returns the temporary file, to be written and renamed, or removed.

        Raises:
            NoRoom: it is larger than the limit, or others are writing at present, or the disk is too full; nothing is removed.
            OSError: the folder cannot be written to.
        """
        need = f"it would take {size / 1e9:.3g} GB"
        if size > self.limit:
            raise NoRoom(f"{need}, {self.limit / 1e9:g} are allowed")
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        try:
            with open(temporary, "wb") as stream:
                stream.truncate(size)
            victims = self._victims(need)
            freed = sum(size for _, size in victims)
            if size * FREE > (free := shutil.disk_usage(self.folder).free) + freed:
                raise NoRoom(f"{need}, the disk has {free / 1e9:.3g} free")
            for victim, _ in victims:
                victim.unlink(missing_ok=True)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _victims(self, need: str) -> list[tuple[Path, int]]:
        """The least recently used files, with sizes, without which everything fits."""
        found = self._files()
        total = sum(stat.st_size for stat in found.values())
        victims = []
        for path in sorted(found, key=lambda path: found[path].st_mtime_ns):
            if total > self.limit and not path.name.startswith("."):
                victims.append((path, found[path].st_size))
                total -= found[path].st_size
        if total > self.limit:
            raise NoRoom(f"{need}, and other processes are writing {(total - self.limit) / 1e9:.3g} GB too many")
        return victims

    def _files(self) -> dict[Path, os.stat_result]:
        """All files, after what killed processes left is removed. Seen twice alike: what is renamed amid a look may be missed."""
        before = self._look()
        while _sizes(found := self._look()) != _sizes(before):
            before = found
        return found

    def _look(self) -> dict[Path, os.stat_result]:
        found = {}
        for name in os.listdir(self.folder):
            path, temporary = self.folder / name, name.startswith(".")
            if temporary and name.endswith(self.suffix):
                sweep(self.folder / f"{name[1:].split('.')[0]}{self.suffix}")  # of a process of this host that is gone
            with suppress(FileNotFoundError):  # removed meanwhile
                if temporary and name.endswith(self.suffix) and time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()
                elif name.endswith(self.suffix):
                    found[path] = path.stat()
        return found


def _sizes(found: dict[Path, os.stat_result]) -> dict[Path, int]:
    return {path: stat.st_size for path, stat in found.items()}
