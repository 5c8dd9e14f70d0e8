"""What differences a study will be able to show at its seeds and test sizes, said before its first run."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from zipfile import BadZipFile

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.registry import spell
from pel_core.data.datasets import split_name
from pel_core.data.factors import AS_IS, SCOPE, Factors
from pel_core.data.sampling import GROUPS, long_tail_counts, shot_groups
from pel_core.ingest.facts import FACTS
from pel_core.reporting.paired import Rows
from pel_core.reporting.statistics.effects import LEAST_SEEDS, difference
from pel_core.reporting.statistics.power import assumed, detectable
from pel_core.reporting.statistics.runs import Row
from pel_core.spec.results import metrics_file
from pel_core.studies.cells import Cell
from pel_core.studies.data_sizes import data_size, images_of_test_set
from pel_core.studies.study import Study

# Assumed of two methods that are alike, before anything was run.
DISAGREE = 0.1  # the share of images on which one is right and the other wrong
SEED_SD = 1.0  # how much seeds move their difference, in points
PAIRS = 3  # of finished methods that are looked at, on a data set
METRICS = ("overall", *GROUPS)
ASSUMED = (
    f"* assumed that two methods disagree on {DISAGREE:.0%} of the images and seeds move their difference by {SEED_SD:g}, in\n"
    "  every shot group alike; N: test images, of a mean over classes of unequal size as many as count"
)
MEASURED = "by the variance of finished runs"


def will_show(study: Study) -> str:
    """The smallest difference in accuracy on each data set that is shown with 80 % power, a line each: overall and by shot group.

    Variances are those of finished runs on the data set where two methods have two seeds there, else assumed, which is said.
    Groups are those of the prepared data, else the published ones.
    """
    seeds = max(len(study.seeds), LEAST_SEEDS)
    cells = [cell for artefact in study.artefacts.values() for cell in artefact.cells]
    by_data: dict[tuple[str, Factors, str], dict[tuple[str, ...], Cell]] = {}
    for cell in cells:
        specs = cell.expected  # settings that are still to be chosen move no data set
        if specs and specs[0].split == "test":
            key = specs[0].dataset, specs[0].factors, specs[0].evaluate_on
            by_data.setdefault(key, {})[tuple(spec.slug for spec in specs)] = cell
    if not by_data:
        return ""
    rows, said = Rows(study.results), {}
    for (name, factors, other), found in by_data.items():
        if told := _measured(_finished(rows, study, list(found.values())), seeds):
            words = f"{told} ({MEASURED})"
        elif sizes := images_of(study, name, factors) if not other else _other_images(study, found):
            each = [_guess(metric, sizes[metric], seeds) for metric in METRICS if metric in sizes]
            none = "" if len(sizes) > 1 else "; its groups are not known before it is prepared"
            words = f"{', '.join(each)} *{none}"
        else:
            words = "not known before it is prepared"
        said.setdefault(words, []).append(_named(name, factors) + f" on {other}" * bool(other))
    lines = [f"  {', '.join(names)}: {words}" for words, names in said.items()]
    text = f"Differences in accuracy that {seeds} seeds will show with 80 % power, in points:"
    few = f"At {len(study.seeds)} seed{'s' * (len(study.seeds) > 1)} nothing is marked and no claim is decided; at least three."
    head = [few, text] if len(study.seeds) < LEAST_SEEDS else [text]
    return "\n".join([*head, *lines, *([ASSUMED] if any(" *" in line for line in lines) else [])])


def _other_images(study: Study, cells: Mapping[tuple[str, ...], Cell]) -> dict[str, float]:
    """Of another data set that is evaluated on: all of its images at most, of groups that are known when they are predicted."""
    size = images_of_test_set(study, next(iter(cells.values())).expected[0])
    return {"overall": float(size)} if size else {}


def _named(name: str, factors: Factors) -> str:
    departing = {field.name: getattr(factors, field.name) for field in fields(Factors)}
    told = [f"{SCOPE}.{key}={spell(value)}" for key, value in departing.items() if value != getattr(AS_IS, key)]
    return " ".join([name, *told])


def _guess(metric: str, images: float, seeds: int) -> str:
    least = detectable([assumed(max(round(images), 2), SEED_SD, DISAGREE)], seeds)
    return f"{metric} {least:.2g} (N = {images:,.0f})"


def images_of(study: Study, name: str, factors: Factors = AS_IS) -> dict[str, float]:
    """Test images that count, overall and in each shot group with classes; as prepared, else as published, of a test set with
    equally many of every class. Overall alone where groups are not known (of other factors), nothing where that is not either."""
    base, ratio = split_name(name)
    size = data_size(study, name, factors)
    if not size or not size[1]:
        return {}
    overall = {"overall": float(size[1])}
    if factors != AS_IS:
        return overall
    folder = study.results / "data" / base
    if (folder / "data.json").is_file():
        about = read_json(folder / "data.json")
        counts = about["train_counts"]
        if about["ratios"] == "any":
            reference = long_tail_counts(len(counts[""]), counts[""][0], about["groups_from"])
        else:
            reference = counts[f"{about['groups_from']:g}" if about["groups_from"] else f"{ratio:g}" if ratio else ""]
        try:
            with np.load(folder / "test.npz", allow_pickle=False) as arrays:
                tested = np.bincount(arrays["labels"], minlength=len(reference))
        except (OSError, ValueError, KeyError, BadZipFile):  # damaged: named where it is loaded
            return overall
        return overall | _group_sizes(shot_groups(reference), tested)
    entry, known = study.bindings.datasets[base], FACTS.get(base)
    if entry.ratios == "any" and entry.groups_from:
        classes = entry.pool[0]
        return overall | _group_sizes(
            shot_groups(long_tail_counts(*entry.pool, entry.groups_from)), [size[1] // classes] * classes
        )
    if known and known.groups and "test" in known.each:
        numbers = zip(GROUPS, known.groups, strict=True)
        return overall | {group: float(classes * known.each["test"]) for group, classes in numbers if classes}
    return overall


def _group_sizes(groups: Sequence[str], tested: Sequence[int]) -> dict[str, float]:
    """The images that count for the mean over a group's classes: k classes of n images each count k n, of unequal size
    k^2 / (1 / n_1 + ... + 1 / n_k). Classes without a test image take no part."""
    found = {}
    for group in GROUPS:
        sizes = [size for size, of in zip(tested, groups, strict=True) if of == group and size]
        if sizes:
            found[group] = len(sizes) ** 2 / sum(1 / size for size in sizes)
    return found


def _finished(rows: Rows, study: Study, cells: list[Cell]) -> list[Row]:
    """Some rows with two finished seeds or more."""
    finished: list[Row] = []
    for cell in cells:
        specs = tuple(spec for spec in cell.specs if metrics_file(study.results, spec.slug).is_file())
        if len(specs) < 2 or not specs[0].seeded or len(finished) > PAIRS:
            continue
        try:
            row = rows.row(replace(cell, specs=specs))
        except PelError:  # planning says what is there; drawing refuses it by name
            continue
        finished += [row] if isinstance(row, Row) else []
    return finished


def _measured(finished: Sequence[Row], seeds: int) -> str:
    """The smallest differences by pairs of finished rows with two seeds or more in common; empty where there are none."""
    told = []
    for metric in METRICS:
        effects = [difference(a, b, metric) for a, b in pairwise(finished) if a.images == b.images]
        known = [(detectable(effect.parts, seeds), effect.images) for effect in effects if len(effect.seeds) > 1]
        if sizes := [size for size, _ in known if size is not None]:
            told.append(f"{metric} {statistics.median(sizes):.2g} (N = {known[0][1]:,})")
    return ", ".join(told)
