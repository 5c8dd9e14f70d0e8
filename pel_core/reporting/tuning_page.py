"""What the report's page says of tunings: the candidates' curve of each, what was chosen, how often the test split was scored."""

from pathlib import Path
from typing import Any

from pel_core.reporting.html_text import address
from pel_core.studies.selection import Tried
from pel_core.studies.selection_files import outcome_word, selection_folder
from pel_core.studies.study import Study
from pel_core.studies.tuning import Tuning
from pel_core.studies.tuning_checks import scored_on_test
from pel_core.studies.tuning_words import chosen_words, cost_words, how, waits


def tunings_on_page(study: Study, out: Path) -> list[dict[str, Any]]:
    """Each tuning of a study, for the template; links are relative to the folder of ``out``."""
    return [_tuning(study, tuning, out) for tuning in study.tunings.values()]


def tuning_cost(study: Study) -> str:
    """What all tunings of a study took; empty where none is made."""
    made = [study.selections[name] for name in study.tunings if name in study.selections]
    return cost_words(made) if made else ""


def _tuning(study: Study, tuning: Tuning, out: Path) -> dict[str, Any]:
    found = study.selections.get(tuning.name)
    cells = [cell for each in study.artefacts.values() for cell in each.cells if cell.tuned and cell.tuned.tuning is tuning]
    finals = {spec.slug: spec for cell in cells for spec in cell.specs}
    # Whoever chooses again after a look at the test set has left these: of another grid before, or a row with settings given.
    others = {spec.slug: spec for cell in cells for each in tuning.candidates for spec in cell.tuned.finals(each)}
    others = {slug: spec for slug, spec in others.items() if slug not in finals}
    progress, halving = study.progress[tuning.name], len(tuning.sizes) > 1
    every = [each for rung in progress.tried for each in rung] if found or halving else []
    rows = [_row(each, halving, outcome_word(progress, each)) for each in every]
    file = selection_folder(study.results) / f"{tuning.name}.csv"
    scored = [scored_on_test(study.results, each) for each in (finals, others, tuning.specs)]
    return {
        "name": tuning.name,
        "how": how(tuning),
        "by": tuning.declaration["by"],
        "fields": [*(["epochs"] if halving else []), *tuning.declaration["grid"]],
        "chosen": chosen_words(found) if found else "",
        "waits": "" if found else waits(study, [tuning.name]),
        "rows": rows,
        "file": address(file, out) if file.is_file() else "",
        "test": [own for own, _ in scored],
        "elsewhere": sum(others for _, others in scored),
    }


def _row(tried: Tried, halving: bool, word: str) -> tuple[list[str], str, str, str]:
    """A candidate's settings (epochs of its rung before them), its mean over seeds with its standard error, what became of it,
    and why it has no score."""
    settings = [part.partition("=")[2] for part in tried.candidate.words.split(", ")]
    settings = [str(tried.epochs), *settings] if halving else settings
    if tried.mean is None:
        return settings, "", word, tried.reason
    score = f"{tried.mean:.2f}" + (f" ± {tried.error:.2f}" if tried.error is not None else "")
    return settings, score, word, tried.reason
