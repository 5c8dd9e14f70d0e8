"""Artefacts that are drawn although runs of them failed: each of these is a named blank, and everything else is shown."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pel_core.common.errors import PelError
from pel_core.common.shipped import make
from pel_core.studies.study import Study
from pel_core.studies.tuning_words import goes_on, waits


def draw_partly(study: Study) -> Iterator[str]:
    """Draw every artefact that has a result and lacks others, or whose runs diverged in this call of Snakemake; a line on each.
    Nothing, where the configuration is ``strict``.
    """
    if study.config.get("strict"):
        return
    study = replace(study, partial=True)
    if told := goes_on(study):
        yield f"{told} Start it again (`{make('study')}` does)."
    lacking = set(study.missing())
    for name, artefact in study.artefacts.items():
        if artefact.pending:
            yield f"{name}: not drawn: it waits for settings: {waits(study, artefact.pending)}"
            continue
        blank = [slug for slug in artefact.specs if slug in lacking]
        if len(blank) == len(artefact.specs) or not (blank or _is_older(study, name)):
            continue
        count = f" without {len(blank)} of its {len(artefact.specs)} runs" if blank else ""
        try:
            artefact.how.draw(study, name, study.folder(name))
        except PelError as error:
            yield f"{name}: not drawn{count}: {error}"
            continue
        _make_old(study, name)
        yield f"{name}: drawn{count}{', which are named in it' if blank else ''}"


def _is_older(study: Study, name: str) -> bool:
    """Whether a file of an artefact is missing, or was there before something that it is drawn from."""
    made, inputs = map(Path, study.files(name)), [os.stat(path).st_mtime for path in study.inputs(name)]
    return any(not file.is_file() or file.stat().st_mtime < max(inputs) for file in made)


def _make_old(study: Study, name: str) -> None:
    """Date an artefact before what it was drawn from, so that Snakemake draws it anew, whatever becomes of the runs."""
    inputs = [path for path in map(Path, study.inputs(name)) if path.exists()]
    before = min(path.stat().st_mtime for path in inputs) - 1
    for file in study.files(name):
        os.utime(file, (before, before))
