"""Results from before: an evaluation that departs from its training's own had a folder beside it, and moves into it now.

``runs/x.s0.tte=none`` becomes ``runs/x.s0/tte=none``. Every move is one rename within a folder, so that a process which is
killed leaves each evaluation in one of the two places, and the next moves the rest. Records stay as they are: ``engine: 1`` in
them counts as all stages at version 1. Torch-free.
"""

import errno
import os
from pathlib import Path

from pel_core.spec.results import run_folder
from pel_core.studies.config import shown


def migrate(results: Path) -> list[str]:
    """Move what lies in the old places; what was done, and what could not be, in a line each. Nothing found: no line."""
    moved, kept, blocked = 0, [], {}
    for name in _names(results / "runs"):
        old, new = results / "runs" / name, run_folder(results, name)
        if new == old or old.is_symlink() or not old.is_dir():
            continue
        try:
            new.parent.mkdir(exist_ok=True)
            old.rename(new)
            moved += 1
        except FileNotFoundError:
            continue  # another process has moved it
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                kept.append(shown(old))
            else:
                blocked[shown(old)] = error.strerror
    lines = [f"results of an earlier version: {_count(moved)} moved into the folders of their trainings"] if moved else []
    lines += [f"{_count(len(kept))} of an earlier version left alone, since a newer one is there: {kept[0]}"] if kept else []
    if blocked:
        first, reason = next(iter(blocked.items()))
        lines.append(
            f"{_count(len(blocked))} of an earlier version cannot be moved into the folders of their trainings ({reason}), "
            f"and count as missing until they can: {first}"
        )
    return lines


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _count(number: int) -> str:
    return f"{number} evaluation{'' if number == 1 else 's'}"
