"""What the command ``data`` does: fetch, check, describe, prepare, cache."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pel_core.common.errors import PelError, unknown
from pel_core.common.problems import Problems
from pel_core.data.datasets import USER_KINDS, LongTailed, split_name
from pel_core.data.roots import find_root
from pel_core.data.user_data import declared
from pel_core.ingest.data_check import Advance, check_lists, describe_split
from pel_core.studies.config import find, read_config


def run(arguments: argparse.Namespace) -> None:
    """Do what ``action`` says.

    Raises:
        PelError: an unknown data set, or what the action finds wrong.
    """
    if arguments.action == "cache":
        from pel_core.ingest.cache_build import build

        build(arguments.base, arguments.size, arguments.results, arguments.threads, bar)
        return
    config = read_configuration(arguments.config)
    base = split_name(arguments.base)[0] if arguments.action != "prepare" else arguments.base
    if arguments.root:
        config = with_root(base, config, arguments.root)
    datasets = declared(config)
    if base not in datasets:
        raise unknown("data set", base, datasets, "(one of your own is declared in a configuration: --config)")
    if arguments.action == "prepare":
        from pel_core.ingest.prepare import prepare

        if arguments.out is None:
            raise PelError("data prepare needs --out FOLDER")
        prepare(base, arguments.out, config, arguments.check_images)
    elif arguments.action == "fetch":
        from pel_core.ingest.fetch import fetch

        fetch(base, datasets[base], config, arguments.mirror)
    elif arguments.action == "check":
        check(base, datasets[base], config, arguments.check_images)
    else:
        from pel_core.reporting.describe import describe

        describe(base, datasets[base], config, arguments.out or Path("figures"))


def read_configuration(path: str | None) -> dict[str, Any]:
    """A configuration by name or path, validated, as a study reads it; nothing without one."""
    return read_config(find(path), complete=False) if path else {}


def with_root(base: str, config: Mapping[str, Any], root: str) -> dict[str, Any]:
    """The configuration with another folder for one data set."""
    own = config.get("datasets") or {}
    if base in own:
        return {**config, "datasets": {**own, base: {**own[base], "root": root}}}
    return {**config, "roots": {**(config.get("roots") or {}), base: root}}


def check(base: str, entry: LongTailed, config: Mapping[str, Any], check_images: str) -> None:
    """Print what a data set holds and all that is wrong with it.

    Raises:
        PelError: something is.
    """
    problems = Problems()
    if entry.kind == "lists":
        _check_lists(base, entry, config, check_images, problems)
    else:
        try:
            _check_other(base, entry, config, check_images, problems)
        except PelError as error:
            if not problems:
                problems.add("problems", error)
    if problems:
        print("\n".join(["wrong:", *(f"  {line}" for line in problems.lines())]))
        sys.stdout.flush()
        raise PelError(f"data set '{base}': {problems.summary()}; listed above")
    print(f"{base}: nothing is wrong" + (" (images were not decoded)" if check_images == "none" else ""))


def _check_lists(base: str, entry: LongTailed, config: Mapping[str, Any], check_images: str, problems: Problems) -> None:
    print(f"{base}: {entry.kind} in {find_root(base, entry, config)}")
    checked = check_lists(base, entry, config, check_images, problems, bar)
    for split, images in checked.images.items() if checked else ():
        print(f"  {describe_split(split, images, len(checked.names))}")
    for note in checked.notes if checked else ():
        print(f"  note: {note}")


def _check_other(base: str, entry: LongTailed, config: Mapping[str, Any], check_images: str, problems: Problems) -> None:
    """A source without a check of its own is read: it stops at the first thing that is wrong, but looks at all files."""
    if entry.kind in USER_KINDS:
        from tempfile import TemporaryDirectory

        from pel_core.ingest.prepare import prepare

        with TemporaryDirectory() as folder:
            prepare(base, folder, config, check_images, problems)
        return
    from pel_core.ingest.sources import SOURCES

    content = SOURCES[entry.kind](base, entry, config, check_images)
    print(f"{base}: {len(content.class_names):,} classes, {len(content.splits['train']['labels']):,} training images")


def bar(title: str, total: int) -> Advance:
    """A progress bar where someone watches; returns what is told of progress."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return lambda done: None
    progress = tqdm(total=total, desc=title, unit="file", dynamic_ncols=True)

    def advance(done: int) -> None:
        progress.update(done)
        if progress.n >= total:
            progress.close()

    return advance
