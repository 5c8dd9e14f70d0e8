"""The report of a study: one HTML page that a reviewer reads from top to bottom, in a browser, without network and offline.

Question, tables, figures, claims, recipe, data, runs, environment; what is missing, failed or out of date is named. It is made of
what lies in the results folder (the tables and figures as drawn, the runs' records), by the template in ``page``. Torch-free.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pel_core import __version__
from pel_core.common.errors import PelError
from pel_core.common.files import write_text
from pel_core.common.shipped import command, make
from pel_core.ingest.notes import without_place
from pel_core.reporting.html_text import address, markdown_html, picture
from pel_core.reporting.recipe_text import study_recipe
from pel_core.reporting.runs import Record, Runs, find_runs
from pel_core.reporting.runs_table import SHORT, run_row
from pel_core.reporting.screen import Screen
from pel_core.reporting.standing import Standing
from pel_core.reporting.tuning_page import tuning_cost, tunings_on_page
from pel_core.spec.records import data_name, require_same_inputs
from pel_core.spec.results import run_folder
from pel_core.studies.cells import Artefact
from pel_core.studies.kinds import FIGURE
from pel_core.studies.study import Study

PAGE = Path(__file__).parent / "page"  # the template with its style and script
# What a run's line refers to: runs of which all of this is the same are of one environment.
ENVIRONMENT = ("commit", "version_pel_core", "version_python", "version_torch", "version_numpy", "device", "platform", "versions")
NUMBERS = (*SHORT, "learnable_with_head", "train_seconds", "evaluate_seconds")  # of a run's line
ONCE = ("Data: ", "Recipe: ", "Notes on the data, ")  # lines under a table that the page has in sections of their own
PARTS = {"claims": "claims", "compare": "compared"}  # kind of artefact -> the section that shows it; others by their files


def save_report(study: Study, out: Path) -> None:
    """Write the page; the folder is made where it is not there.

    Raises:
        PelError: ``out`` is not called .html.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise PelError(f"the report is one HTML page: found {out}, expected a file that ends in .html")
    write_text(out, report_html(study, out))


def report_html(study: Study, out: Path) -> str:
    """The page of a study, whose links are relative to the folder of ``out``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(PAGE)
    environment = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html").render(_content(replace(study, partial=True), out))


def _content(study: Study, out: Path) -> dict[str, Any]:
    """What the template shows, by the names that it uses."""
    standing, runs = Standing(study), find_runs(study, study.specs)
    shown = [_artefact(standing, artefact, out) for artefact in study.artefacts.values()]
    rows = {slug: _row(slug, runs) for slug in study.specs}
    environments = _environments(rows)
    lines = [_line(study, standing, runs, row, environments, out) for row in rows.values()]
    described = runs.described(study.specs)
    return {
        "title": study.title,
        "mark": study.config.get("mark", ""),
        "notice": study.config.get("notice", ""),
        "configuration": study.config["title"],
        "backbone": study.bindings.backbone,
        "data": [f"{title} ({base})" for role, title in study.bindings.roles.items() if (base := study.bindings.data.get(role))],
        "seeds": study.seeds,
        "verdicts": [line.strip() for each in shown for line in each["verdicts"]],
        "conflict": _conflict(described),
        "blanks": [
            {"run": line["run"], "outcome": line["outcome"], "reason": runs.blanks[line["run"]].reason}
            for line in lines
            if line["run"] in runs.blanks
        ],
        "undrawn": [each for each in shown if each["told"]],
        "left_out": study.left_out,
        **{part: [each for each in shown if each["part"] == part] for part in ("tables", "figures", "claims", "compared")},
        "tunings": tunings_on_page(study, out),
        "tuning_cost": tuning_cost(study),
        "recipe": study_recipe(study.artefacts, runs),
        "datasets": {data_name(record): record["data"] for record in described},
        "backbones": {record["backbone"]["name"]: record["backbone"].get("sha256") for record in described},
        "notes": {base: without_place(found, study.results, base) for base, found in study.data_notes().items()},
        "runs": lines,
        "provenance": address(study.results / "provenance.csv", out),
        "command": make("report"),
        "environments": [{**dict(zip(ENVIRONMENT, key)), "runs": len(slugs)} for key, slugs in environments.items()],
        "version": __version__,
    }


def _row(slug: str, runs: Runs) -> dict[str, Any]:
    """What is known of a run's numbers and origin; of one without a record, nothing."""
    known = runs.described([slug])
    return run_row(known[0]) if known else {"run": slug, **dict.fromkeys((*ENVIRONMENT, *NUMBERS))}


def _conflict(records: Sequence[Record]) -> str:
    """What keeps runs from being of one study: other data or weights; empty where nothing does."""
    try:
        require_same_inputs(records)
    except PelError as error:
        return str(error)
    return ""


def _artefact(standing: Standing, artefact: Artefact, out: Path) -> dict[str, Any]:
    """A table or figure as drawn: its title, text or picture, files, and what is to be told of how it stands."""
    study, name = standing.study, artefact.name
    figure = artefact.how.form == FIGURE
    files = {suffix: Path(file) for suffix, file in zip(artefact.how.form, study.files(name)) if Path(file).is_file()}
    text = files["md"].read_text(encoding="utf-8") if "md" in files else ""
    verdicts = artefact.kind == "claims" and text and artefact.how.on_screen
    return {
        "name": name,
        "part": PARTS.get(artefact.kind, "figures" if figure else "tables"),
        "title": artefact.title,
        "told": _told(standing, name),
        "html": _markup(markdown_html(_body(text, artefact.banner[1]))),
        "picture": picture(files["svg"]) if "svg" in files else "",
        "caption": _caption(files["txt"].read_text(encoding="utf-8"), artefact.banner[1]) if "txt" in files else "",
        "files": [(suffix, address(file, out)) for suffix, file in files.items()],
        "verdicts": verdicts(artefact.title, text, Screen()) if verdicts else [],
    }


def _markup(html: str) -> Any:
    """Text that the template takes as HTML."""
    from markupsafe import Markup

    return Markup(html)


def _body(markdown: str, notice: str) -> str:
    """An artefact's Markdown without what the page says itself: its title, the notice, data and recipe."""
    said = (f"> **{notice}**", f"> {notice}") if notice else ()
    lines = [line for line in markdown.splitlines() if not line.startswith(("## ", *ONCE)) and line not in said]
    return "\n".join(lines)


def _caption(text: str, notice: str) -> str:
    """A figure's caption without what the page says itself: its first line, the title, and the notice."""
    return " ".join(line for line in text.splitlines()[1:] if line != notice)


def _told(standing: Standing, name: str) -> list[str]:
    """What an artefact lacks, and whether it was drawn before something changed; empty where all is well."""
    if not standing.made(name):
        return [line.replace("`", "") for line in standing.advice([name], [])]
    lack = standing.lack(name)
    told = [f'{lack[0].upper()}{lack[1:]}: named under "What is not here".'] if lack else []
    if changed := standing.redrawn(name):
        told.append(f"{changed[0].upper()}{changed[1:]}; {command('partial')}, or {make('study')}, draws it anew.")
    return told


def _environments(rows: Mapping[str, Mapping[str, Any]]) -> dict[tuple[Any, ...], list[str]]:
    """Environment -> the runs that were made in it, in the order of the runs."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for slug, row in rows.items():
        if any(row[key] for key in ENVIRONMENT):
            found.setdefault(tuple(row[key] for key in ENVIRONMENT), []).append(slug)
    return found


def _line(
    study: Study, standing: Standing, runs: Runs, row: Mapping[str, Any], environments: Iterable[tuple[Any, ...]], out: Path
) -> dict[str, Any]:
    """A run's line: its outcome, numbers, where its folder and its environment are."""
    slug, key = row["run"], tuple(row[name] for name in ENVIRONMENT)
    outcome = (standing.states[slug] or runs.blanks[slug].word) if slug in runs.blanks else "done"
    folder = run_folder(study.results, slug)
    return {
        "run": slug,
        "outcome": outcome,
        "numbers": [row[name] for name in NUMBERS],
        "address": f"{address(folder, out)}/" if folder.is_dir() else "",
        "environment": next((i for i, other in enumerate(environments, 1) if other == key), None),
    }
