"""Commands that draw (table, figure, compare, claims, partial, report) and tell (plan, status, show): COMMANDS of `cli.main`."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pel_core.common.errors import PelError
from pel_core.common.files import write_text
from pel_core.common.logs import logger
from pel_core.studies.kinds import FIGURE, TABLE, Form

if TYPE_CHECKING:  # planning's imports are for the commands that plan; training has none of them
    from pel_core.reporting.screen import Screen
    from pel_core.studies.study import Study

Arguments = argparse.Namespace
COMPARED = "PEL_COMPARED"  # Snakemake's jobs find it set: the inputs were looked at when they were planned


def add_options(command: argparse.ArgumentParser) -> None:
    """The options that choose a study, as ``snakemake --config`` does."""
    told = "a name (of a YAML file of this folder, or of one that comes with PEL-Lab) or a path"
    command.add_argument("--study", help=f"{told} (study.yaml of this folder, else report)")
    command.add_argument("--config", help=f"{told} (config.yaml of this folder, else demo)")
    command.add_argument("--seeds", help="instead of the config's, e.g. 0,1,2")
    command.add_argument("--backbone", help="instead of the config's")
    command.add_argument("--weights", help="of that backbone: a file or folder, or a hub name; instead of the config's")
    command.add_argument("--root", help="where images of your own are, if the config says $PEL_DATA")
    command.add_argument("--results", help="the results folder, instead of the config's")
    command.add_argument("--figures", help="the figures folder, instead of the config's")


def open_study(arguments: Arguments) -> "Study":
    """The study that the options choose."""
    from pel_core.studies.config import default_name
    from pel_core.studies.study import load

    named = getattr(arguments, "named", None)
    if named and named.lower().endswith((".html", ".htm")):
        raise PelError(f"{named} is no study; a report is written there by --out {named}, after a run by `run --report {named}`")
    if named and arguments.study:
        raise PelError(f"two studies are named: {named} and --study {arguments.study}; leave one of them out")
    chosen = {name: getattr(arguments, name) for name in ("seeds", "backbone", "weights", "root", "results", "figures")}
    study = named or arguments.study or default_name("study", "report")
    return load(study, arguments.config or default_name("config", "demo"), **chosen)


def open_results(arguments: Arguments) -> "Study":
    """As `open_study`, with results of an earlier version moved to where they lie now, which is said."""
    from pel_core.studies.migrate import migrate

    study = open_study(arguments)
    for line in migrate(study.results):
        logger.info(line)
    return study


def table(arguments: Arguments) -> None:
    """Make a table: csv, md, tex."""
    study = open_study(arguments)
    _require(study, arguments.artefact, TABLE)
    _draw(study, arguments.artefact)


def figure(arguments: Arguments) -> None:
    """Draw a figure: pdf, svg, png, and its caption: txt."""
    study = open_study(arguments)
    _require(study, arguments.artefact, FIGURE)
    _draw(study, arguments.artefact)


def compare(arguments: Arguments) -> None:
    """Put every measured value beside the reported one: csv, md."""
    study = open_study(arguments)
    _draw(study, study.summary("compare").name)


def claims(arguments: Arguments) -> None:
    """Test the study's claims: csv, md."""
    study = open_study(arguments)
    _draw(study, study.summary("claims").name)


def partial(arguments: Arguments) -> None:
    """Draw what runs without a result keep Snakemake from drawing, with a named blank for each of them."""
    from pel_core.reporting.partial import draw_partly

    for line in draw_partly(open_study(arguments)):
        print(line)


def select(arguments: Arguments) -> None:
    """Choose settings of a `tune` from its candidates' results, and write down what was tried: json, csv."""
    from pel_core.studies.selection_files import write_selection
    from pel_core.studies.tuning_words import step_words

    step = arguments.selection
    print(f"{step}: {step_words(write_selection(open_study(arguments), step), step)}")


def goes_on(arguments: Arguments) -> None:
    """Say whether another call of Snakemake goes on where candidates of a `tune` diverged in the last one."""
    from pel_core.studies.tuning_words import goes_on

    told = goes_on(open_study(arguments))
    if not told:
        raise SystemExit(1)
    print(told)


def provenance(arguments: Arguments) -> None:
    """Say where each run comes from (code, data, weights, machine, times, numbers): csv, md."""
    from pel_core.reporting.runs_table import runs_files

    study = open_study(arguments)
    for suffix, text in runs_files(study).items():
        write_text(study.results / f"provenance.{suffix}", text)


def report(arguments: Arguments) -> None:
    """Write the study's report: one HTML page of its tables, figures, claims, runs, and what is missing."""
    from pel_core.reporting.html_report import save_report
    from pel_core.studies.config import shown

    save_report(open_results(arguments), arguments.out)
    print(f"Report: {shown(arguments.out)}")


def plan(arguments: Arguments) -> None:
    """Say what is missing, what it will cost, and what differences it will be able to show."""
    study = open_results(arguments)
    if arguments.measure:
        _measure(study)
    print(plan_text(study))


def plan_text(study: "Study") -> str:
    """What `plan` says of a study."""
    from pel_core.reporting.factorial_power import designs_will_show
    from pel_core.reporting.sensitivity import will_show
    from pel_core.studies.plan import plan as words

    return "\n".join(filter(None, (words(study), will_show(study), designs_will_show(study), _dry_run(study))))


def _dry_run(study: "Study") -> str:
    """What a configuration of full size is not, where its backbone was changed to a miniature one; else empty."""
    from pel_core.models.backbones import BACKBONES
    from pel_core.studies.config import shown

    minis = sorted({spec.backbone for spec in study.planned.values() if BACKBONES[spec.backbone].source == "bundled"})
    if not minis or study.config.get("size", "full") != "full":
        return ""
    found = f"{', '.join(minis)} is a miniature backbone, and {shown(study.config_path)} is made for a large one:"
    kept = "epochs, precision and crops stay as there, and tables are not marked."
    mini = "\nFor a dry run of minutes, marked so: --config own-mini" if Path(study.config_path).stem == "own" else ""
    return f"{found} {kept}{mini}"


def measure_throughput(arguments: Arguments) -> None:
    """Measure how fast this machine is with the study's backbones, where no finished run says so: seconds each."""
    _measure(open_study(arguments))


def _measure(study: "Study") -> None:
    from pel_core.studies.cost import measured

    specs = {spec.backbone: spec for spec in study.specs.values() if spec.trains and spec.epochs}
    for backbone, spec in specs.items():
        if measured(study, backbone) is None:
            from pel_core.studies.measure_throughput import measure_throughput as measure

            print(measure(spec, study.results, study.resource("threads")))


def status(arguments: Arguments) -> None:
    """Say what is done, running, failed and missing, and how long the rest will take."""
    from pel_core.studies.status import status as words

    print(words(open_results(arguments), arguments.all))


def slots(arguments: Arguments) -> None:
    """How many jobs may train at once here, given the CPU cores: what fits on the GPUs, without one a job per core."""
    from pel_core.studies.config import default_name, find, read_config
    from pel_core.studies.job_options import slots as count

    if not (arguments.cores.isascii() and arguments.cores.isdigit()):
        raise PelError(f"slots: found {arguments.cores}, expected a number of CPU cores")
    print(count(read_config(find(arguments.config or default_name("config", "demo"))), int(arguments.cores)))


def show(arguments: Arguments) -> None:
    """Print the finished tables and say where everything is."""
    from pel_core.reporting.screen import Screen

    print(show_text(open_results(arguments), Screen.of(sys.stdout)))


def schema(arguments: Arguments) -> None:
    """See that the JSON schemas for editors are as the code says, or write them."""
    from pel_core.common.shipped import WORKFLOW, command
    from pel_core.studies.config import shown
    from pel_core.studies.schema.generate import json_schemas

    for name, text in json_schemas().items():
        path = WORKFLOW / "schemas" / name
        if arguments.write:
            write_text(path, text)
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise PelError(f"{shown(path)} is not as the code says; write it anew: {command('schema --write')}")
        print(shown(path))


# The commands and their positional arguments.
COMMANDS: tuple[tuple[Callable[[Arguments], None], tuple[str, ...]], ...] = (
    (table, ("artefact",)),
    (figure, ("artefact",)),
    (claims, ()),
    (partial, ()),
    (select, ("selection",)),
    (goes_on, ()),
    (provenance, ()),
    (report, ()),
    (plan, ()),
    (measure_throughput, ()),
    (status, ()),
    (slots, ("cores",)),
    (show, ()),
)


def show_text(study: "Study", screen: "Screen | None" = None) -> str:
    """The study's tables as on paper, its verdicts, their recipe, and where the files are. What was drawn before the study or its
    results changed says so above it; what is not made yet is named, with what will help."""
    from pel_core.ingest.notes import notes_lines
    from pel_core.reporting.recipe_text import study_recipe
    from pel_core.reporting.runs import find_runs
    from pel_core.reporting.screen import Screen
    from pel_core.reporting.standing import Standing
    from pel_core.studies.config import shown

    screen = screen or Screen()
    parts, absent, outdated, standing, tables = [], [], [], Standing(study), {}
    for name, artefact in study.artefacts.items():
        if not standing.made(name):
            absent.append(name)
            continue
        if reason := standing.outdated(name):
            outdated.append(name)
        if artefact.how.on_screen:
            text = Path(study.files(name)[1]).read_text(encoding="utf-8")
            parts += [f"! {name} was {reason}:"] if reason else []
            parts += [*artefact.how.on_screen(artefact.title, text, screen), ""]
            tables[name] = artefact
    folders = [f"{shown(study.results)}/tables", shown(study.figures), f"{shown(study.results)}/runs/<run>/metrics.json"]
    recipe = study_recipe(tables, find_runs(replace(study, partial=True), study.specs)).lines()
    parts += [*(part for line in recipe for part in screen.wrap(line, "  ")), ""] if recipe else []
    parts += [*noted, ""] if (noted := notes_lines(study.data_notes())) else []
    parts += [f"Tables: {folders[0]}   Figures: {folders[1]}   Every run: {folders[2]}"]
    return "\n".join([*parts, *standing.advice(absent, outdated)])


def _require(study: "Study", name: str, *forms: Form) -> None:
    artefact = study.artefact(name)
    if artefact.how.form not in forms:
        made = ", ".join(other.name for other in study.artefacts.values() if other.how.form in forms)
        raise PelError(f"'{name}' is of the kind {artefact.kind}; this command makes: {made or 'nothing here'}")


def _draw(study: "Study", name: str) -> None:
    if not os.environ.get(COMPARED):
        from pel_core.studies.inputs import require_same_data

        require_same_data(study, name)
    study.artefact(name).how.draw(study, name, study.folder(name))
