"""Snakemake by hand: ``python -m pel_core.cli.snakemake WORD...``, in an environment that it can use (it needs a folder for
caches before it reads the Snakefile), and with paths that it would stumble over spelled otherwise."""

import os
import sys
from collections.abc import Sequence

import yaml

from pel_core.common.environment import settle_environment


def snakemake_words(words: Sequence[str]) -> list[str]:
    """The words for Snakemake: ``#a`` after ``--config`` as ``./#a``, since it reads values as YAML and fails where that is a
    comment alone."""
    made, config = [], False
    for word in words:
        config = config or word == "--config"
        if config and _is_nothing(word.partition("=")[2]):
            word = word.replace("=", "=./", 1)
        made.append(word)
    return made


def _is_nothing(text: str) -> bool:
    try:
        return bool(text) and yaml.compose(text, Loader=yaml.BaseLoader) is None
    except yaml.YAMLError:
        return False


if __name__ == "__main__":
    settle_environment()
    os.execv(sys.executable, [sys.executable, "-m", "snakemake", *snakemake_words(sys.argv[1:])])
