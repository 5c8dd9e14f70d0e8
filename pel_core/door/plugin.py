"""Plugins in a session of Python, where a file may be edited after it was loaded."""

import hashlib
import os
from pathlib import Path

from pel_core.common import plugins
from pel_core.common.errors import PelError
from pel_core.common.paths import expand_user


def use_plugins(*files: str | os.PathLike[str]) -> None:
    """Load plugin files, which add entries (methods, losses, figures; docs/extending.md), those that PEL_PLUGINS names, and the
    installed ones. Runs that use their entries are told apart by the files' content. A file that is loaded already stays.

    Raises:
        PelError: a file does not exist, fails to import, defines what is there already, or was changed since it was loaded.
    """
    paths = [os.path.abspath(expand_user(os.fspath(file))) for file in files]
    plugins.use_plugins(paths)
    for path in paths:
        now, then = hashlib.sha256(Path(path).read_bytes()).hexdigest(), plugins.load_file(path).sha256
        if now != then:
            raise PelError(
                f"the plugin {path} was changed since it was loaded ({then[:12]}, now {now[:12]}): restart the kernel or "
                "interpreter to use it as it is now, since what was made of its entries meanwhile stays as it was"
            )
