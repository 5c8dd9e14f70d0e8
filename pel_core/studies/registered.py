"""Claims are registered before the first run that they use: what they say is hashed into the results folder.

``claims-registered.json`` holds, for each claim, every form of it that planning has met, with how many results of the runs that
it uses were there at that time. A form that was met before any was said in advance; another was changed, or added, after a look.
Seeds are no part of a form: more of them do not change what is claimed.
"""

import hashlib
from dataclasses import replace
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.common.fingerprints import canonical
from pel_core.spec.outcomes import failed_file
from pel_core.spec.results import metrics_file
from pel_core.studies.cells import Artefact, Cell, Claim
from pel_core.studies.study import Study

FILE = "claims-registered.json"
IN_ADVANCE = "before its first result"
NEVER = "not registered: planning with Snakemake does that"


def register_claims(study: Study) -> list[str]:
    """Add the claims that are new or changed to the results folder's register; returns their names.

    Raises:
        PelError: the register is there and damaged.
    """
    known, added = _read(study), []
    for artefact in study.artefacts.values():
        for claim in artefact.claims:
            forms = known.setdefault(f"{artefact.name}/{claim.name}", [])
            if all(form["sha256"] != fingerprint_of(claim) for form in forms):
                about = {"statement": claim.statement, "sha256": fingerprint_of(claim), "results": _seen(study, claim)}
                forms.append(about)
                added.append(claim.name)
    if added:
        write_json(study.results / FILE, known)
    return added


def registered(study: Study, artefact: Artefact, claim: Claim) -> str:
    """When a claim was registered, in words.

    Raises:
        PelError: the register is there and damaged.
    """
    forms = _read(study).get(f"{artefact.name}/{claim.name}", [])
    place = next((i for i, form in enumerate(forms) if form["sha256"] == fingerprint_of(claim)), None)
    if place is None:
        return NEVER
    count = forms[place]["results"]
    if not count:
        return IN_ADVANCE
    results = f"{count} result{'s' * (count > 1)}"
    return f"changed after {results} {'were' if count > 1 else 'was'} seen" if place else f"registered after {results}"


def fingerprint_of(claim: Claim) -> str:
    """A hash of what a claim says: its text, and of each contrast what is compared where, what is expected, and the threshold."""

    def run(cell: Cell) -> list[str]:
        if cell.tuned:  # what will be chosen is no part of what is claimed
            return [cell.tuned.tuning.name, replace(cell.tuned.expected[0], seed=0).slug, cell.value]
        return [replace(cell.specs[0], seed=0).slug, cell.value]

    contrasts: list[Any] = [
        [part.expect, part.margin, *([[run(a), run(b)] for a, b in pairs] for pairs in (part.pairs, part.minus))]
        for part in claim.contrasts
    ]
    return hashlib.sha256(canonical([claim.statement, contrasts]).encode()).hexdigest()


def _seen(study: Study, claim: Claim) -> int:
    """How many runs that the claim uses have an outcome."""
    pairs = [pair for part in claim.contrasts for pair in (*part.pairs, *part.minus)]
    slugs = {slug for pair in pairs for cell in pair for slug in cell.slugs}
    files = ((metrics_file(study.results, slug), failed_file(study.results, slug)) for slug in slugs)
    return sum(any(file.is_file() for file in both) for both in files)


def _read(study: Study) -> dict[str, list[dict[str, Any]]]:
    path = study.results / FILE
    if not path.is_file():
        return {}
    found = read_json(path)
    lists = found.values() if isinstance(found, dict) else [None]
    forms = [form for each in lists for form in (each if isinstance(each, list) else [None])]
    if not all(isinstance(form, dict) and {"sha256", "results"} <= {*form} for form in forms):
        hint = "restore it, or remove it: then every claim is registered after the results there are"
        raise PelError(f"{path} is damaged: expected lists of forms with sha256 and results; {hint}")
    return found
