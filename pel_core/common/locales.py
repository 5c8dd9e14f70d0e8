"""Names of files under a locale that is not UTF-8. Python then reads them from the disk as surrogate escapes, and cannot open
what a table names in UTF-8; the files are as they should be, and renaming them would be wrong."""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress

from pel_core.common.errors import PelError


def check_locale(names: Iterable[str]) -> None:
    """See that this process can spell names of files that are UTF-8. Where its locale is UTF-8, as nearly everywhere, it can.

    Raises:
        PelError: a name is UTF-8, and the locale is another; the message says what to set.
    """
    encoding = sys.getfilesystemencoding().lower()
    if encoding == "utf-8":
        return
    for name in names:
        if name.isascii():
            continue
        try:
            real = os.fsencode(name).decode()  # read from the disk, as bytes that are UTF-8
        except UnicodeDecodeError:
            continue  # bytes that are not
        except UnicodeEncodeError:
            real = name  # read from a table, or kept by a process of another locale
        said = (f"{key}={os.environ[key]}" for key in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(key))
        raise PelError(
            f"the name {real!a} is UTF-8, but this process takes names of files for {encoding} ({next(said, 'no locale')}); "
            "set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8"
        )


def print_anything() -> None:
    """Let standard output take every character: what the locale cannot spell is escaped, as on standard error."""
    with suppress(AttributeError, ValueError):  # a stream of somebody else's, or one that is closed
        if sys.stdout.encoding.lower() != "utf-8":
            sys.stdout.reconfigure(errors="backslashreplace")
