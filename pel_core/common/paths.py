"""Paths as people type them: on a command line, to make, in a configuration. Torch-free."""

import os
from pathlib import Path

from pel_core.common.errors import PelError


def expand_user(text: str | os.PathLike[str]) -> str:
    """A path with ``~`` and ``~user`` filled in; everything else stays as it was typed, ``$`` and ``%`` too.

    What still begins with ``~`` (``./~x``, or a user that there is not) comes back absolute, so that to expand it once more, as
    a job does with the options that it is given, changes nothing.

    Raises:
        PelError: the text is empty, which would stand for the working folder.
    """
    if not os.fspath(text):
        raise PelError("an empty path was given; say a folder or file ('.' for this one), or leave it out")
    expanded = os.path.expanduser(text)
    return os.path.abspath(expanded) if os.path.normpath(expanded).startswith("~") else expanded


def user_path(text: str | os.PathLike[str]) -> Path:
    """`expand_user` as a Path."""
    return Path(expand_user(text))
