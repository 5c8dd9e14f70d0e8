"""What is said of tunings: below an artefact what was chosen and what it cost, before that how far candidates are. Torch-free."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pel_core.common.counts import count_of
from pel_core.spec.posthoc import with_sources
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.cells import Artefact, Cell
from pel_core.studies.selection import Progress, Selection, hours_of
from pel_core.studies.selection_files import selection_folder
from pel_core.studies.tuning import Tuning
from pel_core.studies.tuning_checks import most_finals

if TYPE_CHECKING:
    from pel_core.studies.study_state import StudyState

LISTED = 3  # candidates without a score that are told of a row


def with_note(artefact: Artefact, selections: Mapping[str, Selection]) -> Artefact:
    """An artefact that says below it which settings its tuned rows have, and what choosing them cost."""
    made = {name: selections[name] for name in artefact.tunings if name in selections}
    if not made:
        return artefact
    note = "\n".join(filter(None, [artefact.declaration.get("note", ""), *chosen_lines(artefact, made)]))
    return replace(artefact, declaration={**artefact.declaration, "note": note})


def chosen_lines(artefact: Artefact, selections: Mapping[str, Selection]) -> list[str]:
    """The chosen settings of an artefact's rows, those at an edge of the grid marked, and the cost in runs and hours."""
    labels, by_how = row_labels(artefact), dict[str, list[str]]()
    for name, found in selections.items():
        by_how.setdefault(how(found.tuning), []).append(f"{labels[name]}: {chosen_words(found)}")
    lines = [f"{told}: {'; '.join(rows)}." for told, rows in by_how.items()]
    return [*lines, f"Tuning took {cost_words(selections.values())}."]


def chosen_words(found: Selection) -> str:
    """``lr=0.02 (highest of its grid)``, and candidates without a score."""
    edges = found.tuning.edges(found.chosen)
    among = "those drawn" if found.tuning.declaration["draws"] else "its grid"
    parts = [
        part + (f" ({edges[name]} of {among})" if name in edges else "")
        for name, part in zip(found.chosen.settings, found.chosen.words.split(", "), strict=True)
    ]
    none = [f"{each.candidate.words} {each.reason}" for each in found.tried if each.reason]  # of whichever rung
    more = [f"and {len(none) - LISTED} more"] if len(none) > LISTED else []
    told = [f"no choice: {', '.join([*none[:LISTED], *more])}"] if none else []
    return " – ".join([", ".join(parts), *filter(None, [found.note]), *told])


def how(tuning: Tuning) -> str:
    """How the settings of a tuning are chosen, in words."""
    about = tuning.declaration
    epochs = "" if about["epochs"] == "same" else f" of {about['epochs']} epochs"
    random = "random " if about["draws"] else ""
    seeds = f"seed{'s' * (len(about['seeds']) > 1)} {', '.join(map(str, about['seeds']))}"
    fraction = tuning.candidates[0].specs[0].factors.val
    held = f" ({fraction:g} of the training images, held out)" if fraction else ""
    return (
        f"Chosen on the split {about['split']}{held} by {about['by']} ({about['select']}) among {len(tuning.candidates)} "
        f"{random}settings{epochs}{rungs_words(tuning)}, {seeds}"
    )


def rungs_words(tuning: Tuning) -> str:
    """The rungs of successive halving, and what their ranking is of; empty of other kinds."""
    if len(tuning.sizes) < 2:
        return ""
    rungs = zip(tuning.sizes, tuning.declaration["rungs"], strict=True)
    told = ", ".join(f"{size} for {count_of(epochs, 'epoch')}" for size, epochs in rungs)
    return f" by successive halving ({told}; each trained anew with the whole schedule of that length, whose ranking it is)"


def step_words(progress: Progress, step: str) -> str:
    """What is decided by a step of a tuning."""
    if progress.selection and step == progress.tuning.name:
        return chosen_words(progress.selection)
    rung = progress.tuning.steps.index(step)
    if rung + 1 >= len(progress.made):
        return "fewer than two of its candidates have a score, so none goes on"
    out = len(progress.made[rung]) - len(progress.made[rung + 1])
    return f"{count_of(len(progress.made[rung + 1]), 'candidate')} of {len(progress.made[rung])} go on, {out} do not"


def cost_words(selections: Iterable[Selection]) -> str:
    """``24 runs, 0.31 hours on one device``."""
    selections = list(selections)
    outcomes = {run.slug: run for found in selections for each in found.tried for run in each.outcomes}
    untimed = sum(run.hours is None for run in outcomes.values())
    told = f" ({untimed} that diverged not counted)" if untimed else ""
    return f"{count_of(len(outcomes), 'run')}, {hours_of(outcomes.values()):.2g} hours on one device{told}"


def row_labels(artefact: Artefact) -> dict[str, str]:
    """How an artefact calls the row of each of its tunings, with data set or column where the row alone does not say which."""
    first: dict[str, Cell] = {}
    for cell in artefact.cells:
        if cell.tuned:
            first.setdefault(cell.tuned.tuning.name, cell)
    rows = artefact.declaration.get(artefact.how.rows, ())
    columns = artefact.declaration.get(artefact.how.columns, ())

    def label(cell: Cell) -> str:
        return str(rows[cell.row].get("label") or rows[cell.row].get("at")) if cell.row < len(rows) else cell.method

    ways = (
        label,
        lambda cell: f"{label(cell)} on {cell.dataset}",
        lambda cell: _with_column(label(cell), cell, columns),
        lambda cell: cell.tuned.tuning.name,
    )
    made = ({name: way(cell) for name, cell in first.items()} for way in ways)
    return next(names for names in made if len({*names.values()}) == len(names))


def _with_column(label: str, cell: Cell, columns: Iterable[Mapping[str, object]]) -> str:
    names = [str(column.get("label", "")) for column in columns]
    return f"{label} on {cell.dataset}, {names[cell.column]}" if cell.column < len(names) else f"{label} on {cell.dataset}"


def waits(study: "StudyState", names: Iterable[str]) -> str:
    """What settings wait for, in words: how many candidates have no outcome, and one that cannot be used."""
    slugs = list(dict.fromkeys(slug for name in names for slug in study.progress[name].specs))
    states = {slug: study.state(slug) for slug in slugs}
    lacking = {slug: state for slug, state in states.items() if state not in ("done", "diverged")}
    text = f"{len(lacking)} of {len(slugs)} candidates have no result yet"
    unusable = next(((slug, state) for slug, state in lacking.items() if state not in ("missing", "to score")), None)
    return text + (f" ({unusable[0]}: {unusable[1]})" if unusable else "")


def rungs_to_come(study: "StudyState") -> dict[str, RunSpec]:
    """Runs of candidates by slug that cost what those of later rungs will: as many, at most."""
    return {spec.slug: spec for each in study.progress.values() for spec in each.to_come}


def runs_to_come(study: "StudyState") -> list[RunSpec]:
    """Runs that cost what those will whose settings are not chosen yet: as many, or fewer where rows share some."""
    cells = [cell for artefact in study.artefacts.values() for cell in artefact.cells if cell.tuned and not cell.specs]
    made = rungs_to_come(study) | {spec.slug: spec for spec in most_finals(cells, study.specs)}
    return [spec for slug, spec in with_sources(made).items() if slug not in study.specs]


def goes_on(study: "StudyState") -> str:
    """What another call of Snakemake does, in words, where a candidate's training diverged in the last one, which left out the
    selection that waited for it; empty where there is no such selection."""
    folder, steps, slugs = selection_folder(study.results), list[str](), list[str]()
    for found in study.progress.values():
        left = [step for step in found.decided if not (folder / f"{step}.json").is_file()]
        if left and any(each.diverged for rung in found.tried for each in rung):
            steps += left
            slugs += found.specs
    if not steps:
        return ""
    names = {study.steps[step][0].name for step in steps}
    cells = [cell for each in study.artefacts.values() for cell in each.cells if cell.tuned and cell.tuned.tuning.name in names]
    slugs += [slug for cell in cells for slug in cell.slugs]
    then = count_of(sum(study.state(slug) == "missing" for slug in {*slugs}), "run")
    told = "Candidates that diverged are no choice: the next call goes on with what was chosen"
    return f"{told}, then {then} ({', '.join(steps)})."


def tuning_lines(study: "StudyState") -> list[str]:
    """How far the tunings of a study are, and what they cost so far."""
    if not study.tunings:
        return []
    done, total = study.selections, len(study.tunings)
    open_ = study.pending
    later = rungs_to_come(study)
    what = f"{count_of(len(study.trying | later), 'candidate run')} for {count_of(total, 'selection')}"
    lines = [f"Tuning: {what}, {total - len(open_)} made."]
    if open_:
        rungs = f"{count_of(len(later), 'candidate run')} of later rungs and " if later else ""
        lines.append(
            f"  {waits(study, open_)}; up to {rungs}{count_of(len(runs_to_come(study)) - len(later), 'run')} to follow whose "
            "settings they decide (counted in images and time at the settings nearest to the rows' own)."
        )
    lines += [f"  {name}: {chosen_words(done[name])}" for name in study.tunings if name in done]
    if made := [done[name] for name in study.tunings if name in done]:
        lines.append(f"  Tuning took {cost_words(made)}.")
    return lines
