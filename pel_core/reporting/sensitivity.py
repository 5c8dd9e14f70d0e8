"""What differences a study will be able to show at its seeds and test sizes, said before its first run."""

import statistics
from dataclasses import replace
from itertools import pairwise

from pel_core.common.errors import PelError
from pel_core.reporting.paired import Rows
from pel_core.reporting.statistics.effects import LEAST_SEEDS, difference
from pel_core.reporting.statistics.power import assumed, detectable
from pel_core.reporting.statistics.runs import Row
from pel_core.spec.results import metrics_file
from pel_core.studies.cells import Cell
from pel_core.studies.cost import data_size
from pel_core.studies.study import Study

# Assumed of two methods that are alike, before anything was run.
DISAGREE = 0.1  # the share of images on which one is right and the other wrong
SEED_SD = 1.0  # how much seeds move their difference, in points
PAIRS = 3  # of finished methods that are looked at, on a data set


def will_show(study: Study) -> str:
    """The smallest difference in overall accuracy on each data set that is shown with 80 % power, in a line or two.

    Variances are those of finished runs on the data set where two methods have two seeds there, else assumed, which is said.
    """
    seeds = max(len(study.seeds), LEAST_SEEDS)
    cells = [cell for artefact in study.artefacts.values() for cell in artefact.cells]
    by_data: dict[str, dict[tuple[str, ...], Cell]] = {}
    for cell in cells:
        specs = cell.expected  # settings that are still to be chosen move no data set
        if specs and specs[0].split == "test":
            by_data.setdefault(specs[0].dataset, {})[tuple(spec.slug for spec in specs)] = cell
    rows, measured, guessed, unknown = Rows(study.results), [], [], []
    for name, found in by_data.items():
        size = data_size(study, name)
        if sizes := _measured(rows, study, list(found.values()), seeds):
            measured.append(f"{name} {statistics.median(sizes):.2g}")
        elif size and size[1]:
            least = detectable([assumed(size[1], SEED_SD, DISAGREE)], seeds)
            guessed.append(f"{name} {least:.2g} (N = {size[1]:,})")
        else:
            unknown.append(name)
    if not by_data:
        return ""
    parts = [f"{', '.join(measured)} (by the variance of finished runs)"] if measured else []
    if guessed:
        how = f"assumed that two methods disagree on {DISAGREE:.0%} of the images and seeds move their difference by {SEED_SD:g}"
        parts.append(f"{', '.join(guessed)} ({how})")
    parts += [f"{', '.join(unknown)} not known before it is prepared"] if unknown else []
    text = f"Differences that {seeds} seeds will show with 80 % power, in points of overall accuracy: {'; '.join(parts)}. " + (
        "Of head, med and tail, which have fewer images, larger ones (docs/statistics.md)."
    )
    few = f"At {len(study.seeds)} seed{'s' * (len(study.seeds) > 1)} nothing is marked and no claim is decided; at least three.\n"
    return (few if len(study.seeds) < LEAST_SEEDS else "") + text


def _measured(rows: Rows, study: Study, cells: list[Cell], seeds: int) -> list[float]:
    """The smallest differences by pairs of finished rows with two seeds or more in common; none where there are none."""
    finished: list[Row] = []
    for cell in cells:
        specs = tuple(spec for spec in cell.specs if metrics_file(study.results, spec.slug).is_file())
        if len(specs) < 2 or not specs[0].trains or len(finished) > PAIRS:
            continue
        try:
            row = rows.row(replace(cell, specs=specs))
        except PelError:  # planning says what is there; drawing refuses it by name
            continue
        finished += [row] if isinstance(row, Row) else []
    found = []
    for a, b in pairwise(finished):
        if a.images == b.images:
            effect = difference(a, b, "overall")
            size = detectable(effect.parts, seeds)
            found += [size] if size is not None and len(effect.seeds) > 1 else []
    return found
