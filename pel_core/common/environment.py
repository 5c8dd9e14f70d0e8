"""What a user's environment brings and jobs cannot use: a notebook's drawing backend, a home or cache folder that cannot be
written to, a folder for temporary files that is not there. Set right once, before libraries read it; jobs inherit it. Torch-free.
"""

import os
import tempfile
from pathlib import Path

from pel_core.common.errors import PelError
from pel_core.common.logs import logger


def settle_environment() -> None:
    """Set MPLBACKEND, TMPDIR, XDG_CACHE_HOME, MPLCONFIGDIR and TRITON_HOME to what a job can use; what is not used is noted.

    Raises:
        PelError: somebody else's folder is in the place of this user's for caches.
        FileNotFoundError: there is no folder for temporary files at all.
    """
    os.environ["MPLBACKEND"] = "Agg"  # a notebook's is not even a valid name elsewhere; nothing of ours opens a window
    if (given := os.environ.get("TMPDIR")) and not (os.path.isdir(given) and _usable(given)):
        del os.environ["TMPDIR"]
        tempfile.tempdir = None  # what Python remembers of it
        os.environ["TMPDIR"] = tempfile.gettempdir()
        _note("TMPDIR", given, os.environ["TMPDIR"])
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not (usable := _usable(cache)):
        instead = str(own_folder("pel-lab-cache"))
        _note("the folder for caches", cache, instead)
        if "HF_HOME" not in os.environ and os.path.isdir(hub := os.path.join(cache, "huggingface")):
            os.environ["HF_HOME"] = hub  # weights that were fetched before are read where they are
        os.environ["XDG_CACHE_HOME"] = cache = instead
    config = os.environ.get("MPLCONFIGDIR") or os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    if not (usable and _usable(config)):  # else matplotlib lists all fonts anew in every job
        os.environ["MPLCONFIGDIR"] = os.path.join(cache, "matplotlib")
    if not _usable(os.path.expanduser("~")):
        os.environ.setdefault("TRITON_HOME", cache)


def own_folder(name: str) -> Path:
    """A folder of this user alone on this machine, for what may be made again: the same in every job.

    Raises:
        PelError: somebody else made it.
    """
    # Not TMPDIR where it can be helped: two shells may set it differently, and their jobs must see each other.
    root = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
    folder = root / f"{name}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PelError(f"{folder} is not yours; remove it")
    return folder


def _usable(folder: str) -> bool:
    """Whether files can be written into a folder, or into one that is made there. Nothing is made to find out."""
    if not os.path.isabs(folder):
        return False  # a home that is not known
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _note(what: str, given: str, instead: str) -> None:
    logger.warning("%s: %s cannot be written to; %s is used", what, given, instead)
