"""What the command ``data`` does: fetch, check, describe, prepare, cache."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from tqdm import tqdm

from pel_core.common.errors import PelError, unknown
from pel_core.common.logs import logger
from pel_core.common.paths import expand_user
from pel_core.common.problems import Problems
from pel_core.common.shipped import program
from pel_core.data.datasets import LongTailed, split_name
from pel_core.data.roots import expand_root
from pel_core.ingest.entries import declared
from pel_core.ingest.sources import open_source
from pel_core.studies.config import find, read_config


def run(arguments: argparse.Namespace) -> None:
    """Do what ``action`` says.

    Raises:
        PelError: an unknown data set, or what the action finds wrong.
    """
    if arguments.action == "cache":
        from pel_core.ingest.cache_build import build

        build(arguments.base, arguments.size, arguments.results or Path("results"), arguments.threads, bar)
        return
    config = read_configuration(arguments.config)
    base = split_name(arguments.base)[0] if arguments.action != "prepare" else arguments.base
    if arguments.root is not None:
        root = expand_user(arguments.root)
        config = with_root(base, config, os.path.abspath(root) if "$" in root else root)
    datasets = declared(config)
    if base not in datasets:
        raise unknown("data set", base, datasets, "(one of your own is declared in a configuration: --config)")
    if arguments.action == "prepare":
        from pel_core.ingest.prepare import prepare

        if arguments.out is None:
            raise PelError("data prepare needs --out FOLDER")
        prepare(base, arguments.out, config, arguments.check_images)
    elif arguments.action == "fetch":
        fetch(base, datasets[base], config, arguments.mirror)
    elif arguments.action == "check":
        check(base, datasets[base], config, arguments.check_images)
    else:
        from pel_core.reporting.describe import describe

        describe(base, datasets[base], config, arguments.out or figures_folder(config, arguments.results))


def read_configuration(path: str | None) -> dict[str, Any]:
    """A configuration by name or path, validated, as a study reads it; nothing without one."""
    return read_config(find(path), complete=False) if path else {}


def figures_folder(config: Mapping[str, Any], results: Path | None) -> Path:
    """Where figures go: beside the results that the command line names, else where the configuration says."""
    return results / "figures" if results else Path(config.get("figures") or "figures")


def with_root(base: str, config: Mapping[str, Any], root: str) -> dict[str, Any]:
    """The configuration with another folder for one data set."""
    own = config.get("datasets") or {}
    if base in own:
        return {**config, "datasets": {**own, base: {**own[base], "root": root}}}
    return {**config, "roots": {**(config.get("roots") or {}), base: root}}


def fetch(base: str, entry: LongTailed, config: Mapping[str, Any], mirror: str) -> None:
    """Get what is free to download of a data set, and say how to get the rest and what comes next."""
    source, unsaid = open_source(base, entry, config), open_source(base, entry)
    source.fetch(mirror)
    if not source.given_root:  # of the hub, which has a cache
        print(f"Then: {program()} data check {base} --config CONFIGURATION")
        return
    root, usual = (Path(expand_root(each.given_root)) for each in (source, unsaid))
    said = "" if root.exists() and usual.exists() and root.samefile(usual) else f" --root {quote(str(root))}"
    print(f"Then: {program()} data check {base}{said}")


def check(base: str, entry: LongTailed, config: Mapping[str, Any], check_images: str) -> None:
    """Print what a data set holds and all that is wrong with it.

    Raises:
        PelError: something is.
    """
    problems = Problems()
    open_source(base, entry, config).check(problems, check_images, bar)
    if problems:
        print("\n".join(["wrong:", *(f"  {line}" for line in problems.lines())]))
        sys.stdout.flush()
        raise PelError(f"data set '{base}': {problems.summary()}; listed above")
    print(f"{base}: nothing is wrong" + (" (images were not decoded)" if check_images == "none" else ""))


def bar(title: str, total: int) -> Callable[[int], None]:
    """A progress bar where someone watches; returns what is told of progress."""
    if not (sys.stderr.isatty() and logger.isEnabledFor(logging.INFO)) or os.environ.get("TERM") == "dumb":
        return lambda done: None
    progress = tqdm(total=total, desc=title, unit="file", dynamic_ncols=True)

    def advance(done: int) -> None:
        progress.update(done)
        if progress.n >= total:
            progress.close()

    return advance
