"""Words that users typed and that have another name now: the old one works for one version, and a warning names the new one.

A rename is one entry here. The next version takes the entry out, and the old word is an unknown one.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.logs import logger

CONFIG_KEYS = {"own_lists": "user_lists"}  # of a configuration's top level
COMMANDS = {"calibrate": "measure-throughput"}
OPTIONS: dict[str, str] = {}  # of any command, without the dashes

TOLD = "PEL_TOLD"  # environment variable: what was warned of, so that Snakemake's jobs do not say it again


def renamed_keys(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A configuration's content under the names of today; ``where`` names its file.

    Raises:
        PelError: a key is given under both names.
    """
    for old, new in CONFIG_KEYS.items():
        if old in content and new in content:
            raise PelError(f"{where}: '{old}' is the old name of '{new}'; both are given, keep '{new}'")
        if old in content:
            _tell(f"{where}: the key '{old}' is called '{new}' now; the old name will go with the next version")
    return {CONFIG_KEYS.get(key, key): value for key, value in content.items()}


def renamed_words(words: Sequence[str]) -> list[str]:
    """A command line under the names of today: the command, which is its first word, and options."""
    made = list(words)
    if made and made[0] in COMMANDS:
        _tell(f"the command '{made[0]}' is called '{COMMANDS[made[0]]}' now; the old name will go with the next version")
        made[0] = COMMANDS[made[0]]
    for i, word in enumerate(made):
        if word == "--":
            break
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and name in OPTIONS:
            _tell(f"the option --{name} is called --{OPTIONS[name]} now; the old name will go with the next version")
            made[i] = f"--{OPTIONS[name]}{equals}{value}"
    return made


def _tell(message: str) -> None:
    """Warn, once in a process and those that it starts."""
    told = os.environ.get(TOLD, "").split("\n")
    if message not in told:
        os.environ[TOLD] = "\n".join([*filter(None, told), message])
        logger.warning(message)
