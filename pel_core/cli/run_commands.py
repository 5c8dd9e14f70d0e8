"""``pel run``: the workflow that comes with the package, started on the study of this folder; ``make`` calls the same.

Snakemake does the work, in a process of its own, and takes further words: ``pel run -- --executor slurm``.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pel_core.cli import study_commands
from pel_core.cli.snakemake import snakemake_words
from pel_core.common.errors import PelError, unknown
from pel_core.common.paths import user_path
from pel_core.common.shipped import PROFILES, SNAKEFILE, WORKFLOW, require
from pel_core.hardware.cores import usable_cpus
from pel_core.studies.job_options import slots
from pel_core.studies.tuning_words import goes_on

if TYPE_CHECKING:
    from pel_core.studies.study import Study

Arguments = argparse.Namespace
SETTINGS = ("seeds", "backbone", "weights", "root", "results", "figures")  # options that Snakemake's `--config` has as well
QUIET = ("--quiet", "rules", "reason", "host")
# Snakemake's options that say how much goes at once, and where; what is said after `--` is not said by us as well.
CORES = ("--cores", "-c", "--jobs", "-j")
RESOURCES = ("--resources", "--res")
ELSEWHERE = ("--executor", "-e", "--profile")
EXTRAS = {"slurm": "slurm", "cluster-generic": "generic"}  # executor: the extra that brings its plugin


def run(arguments: Arguments) -> None:
    """Train and evaluate what is missing, then build every table and figure, and print the tables."""
    study = study_commands.open_results(arguments)
    call = snakemake_call(arguments, study)  # what is refused is refused before the plan
    print(study_commands.plan_text(study), flush=True)
    status = start(call)
    # A candidate of `tune` that diverges ends Snakemake's call, but is an outcome: the next call chooses among the others, of
    # whom some may diverge on another rung. The second call for the same stands for its error.
    was = ""
    while 0 < status < 128 and (told := goes_on(study_commands.open_study(arguments))) and told != was:
        print(told, flush=True)
        status, was = start(call), told
    if arguments.report:
        arguments.out = user_path(arguments.report)
        study_commands.report(arguments)  # which names what failed
    if status:
        raise SystemExit(status)
    if not arguments.report and not given(arguments.snakemake, ("-n", "--dry-run", "--dryrun")):
        study_commands.show(arguments)


def unlock(arguments: Arguments) -> None:
    """Unlock this folder after Snakemake itself was killed ("Directory cannot be locked")."""
    study = study_commands.open_study(arguments)
    if status := start([*program(), "--unlock", *settings(arguments, study)]):
        raise SystemExit(status)


def where(arguments: Arguments) -> None:
    """Say where the workflow lies: for Snakemake itself, and for workflows that use it as a module."""
    print(require(WORKFLOW, "its workflow"))


# The commands of this file on a study and their positional arguments, as in `study_commands`.
COMMANDS: tuple[tuple[Callable[[Arguments], None], tuple[str, ...]], ...] = ((run, ()), (unlock, ()))


def study_options(function: Callable[[Arguments], None], sub: argparse.ArgumentParser) -> None:
    """Declare the options of a command on a study."""
    if function in (run, unlock, *(getattr(study_commands, name) for name in ("plan", "status", "show", "report"))):
        sub.add_argument("named", nargs="?", metavar="STUDY", help="the same as --study, right after the command")
    study_commands.add_options(sub)
    if function is run:
        run_options(sub)
    if function is study_commands.plan:
        told = "measure this machine where no run says how fast it is (seconds)"
        sub.add_argument("--measure", action="store_true", help=told)
    if function is study_commands.status:
        sub.add_argument("--all", action="store_true", help="list every run")
    if function is study_commands.report:
        sub.add_argument("--out", default="report.html", type=user_path, help="the page to write (report.html)")


def run_options(command: argparse.ArgumentParser) -> None:
    """Options of ``run``, besides those that choose a study."""
    command.add_argument("--cores", help="CPU cores to use (all of this machine's)")
    command.add_argument("--gpus", help="jobs that may train at once (what fits on the GPUs; without one, a job a core)")
    command.add_argument("--profile", default="default", help="of Snakemake: slurm, generic, or a folder of your own (default)")
    told = "instead of the tables on screen, write the report: one page of tables, figures, claims, runs (report.html)"
    command.add_argument("--report", nargs="?", const="report.html", metavar="FILE", help=told)
    command.usage = "%(prog)s [STUDY] [options] [-- SNAKEMAKE'S OPTIONS]"
    command.epilog = "What follows -- goes to Snakemake as it is: -n, --executor, --forcerun, a file to make, ..."


def program() -> list[str]:
    """Snakemake on the workflow."""
    return [sys.executable, "-m", "snakemake", "-s", str(require(SNAKEFILE, "its workflow"))]


def snakemake_call(arguments: Arguments, study: "Study") -> list[str]:
    """The whole command. The user's options come first and are not said again; files to make come last, after a ``--``.

    Raises:
        PelError: an unknown profile, one whose executor is not installed, an option that would replace ours, no number of cores.
    """
    words, _, targets = (list(part) for part in divided(arguments.snakemake))
    refuse(words)
    profile = find_profile(arguments.profile)
    call = [*program(), *words]
    if not given(words, ("--workflow-profile",)):
        call += ["--workflow-profile", str(profile)]
    here = arguments.profile == "default" and not given(words, ELSEWHERE)  # elsewhere a limit would be of the whole cluster
    if not given(words, CORES) and (here or arguments.cores):
        call += ["--cores", arguments.cores or str(usable_cpus())]
    if not given(words, RESOURCES) and (here or arguments.gpus):
        call += ["--resources", f"gpu={arguments.gpus or free_slots(arguments, study)}"]
    if not given(words, ("--quiet", "-q")):
        call += QUIET
    targets += ["provenance"] * bool(arguments.report)
    return [*call, *settings(arguments, study), *(["--", *targets] if targets else [])]


def divided(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """Words before the first ``--``, it, and those after it."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at : at + 1], words[at + 1 :]


def free_slots(arguments: Arguments, study: "Study") -> int:
    """Jobs that may train at once on this machine."""
    cores = arguments.cores or str(usable_cpus())
    if not (cores.isascii() and cores.isdigit()):
        raise PelError(f"--cores {cores}: expected a number of CPU cores")
    return slots(study.config, int(cores))


def settings(arguments: Arguments, study: "Study") -> list[str]:
    """The study and what was said over its configuration, as Snakemake takes them."""
    said: Mapping[str, str | None] = {
        "study": str(study.path),
        "config": str(study.config_path),
        **{name: getattr(arguments, name) for name in SETTINGS},
        "plugins": os.pathsep.join(arguments.plugins),
    }
    return snakemake_words(["--config", *(f"{name}={value}" for name, value in said.items() if value)])


def refuse(words: Sequence[str]) -> None:
    """Refuse Snakemake's options that would take the place of ours.

    Raises:
        PelError: naming it, and what says the same.
    """
    if given(words, ("--config", "-C")):
        raise PelError("--config after --: say it by the options of this command: --study, --config, --seeds, --results, ...")
    if given(words, ("--snakefile", "-s")):
        raise PelError("--snakefile after --: this command starts the workflow of PEL-Lab; another one is started by snakemake")


def given(words: Sequence[str], options: Sequence[str]) -> bool:
    """Whether one of Snakemake's options is among its words, in any of its forms: ``--cores 2``, ``--cores=2``, ``-c2``."""
    long = [option for option in options if option.startswith("--")]
    short = [option for option in options if not option.startswith("--")]
    return any(word.partition("=")[0] in long or (word[:2] in short and not word.startswith("--")) for word in words)


def find_profile(name: str) -> Path:
    """The folder of a profile: a path, ``profiles/NAME`` of this folder as Snakemake has it, or one of ours.

    Raises:
        PelError: there is none of that name; or its executor is not installed.
    """
    places = [Path("profiles") / name, PROFILES / name]
    if len(user_path(name).parts) > 1 or not any((place / "config.yaml").is_file() for place in places):
        places = [user_path(name)]
    found = next((place for place in places if (place / "config.yaml").is_file()), None)
    if found is None:
        known = {path.parent.name for folder in (Path("profiles"), PROFILES) for path in folder.glob("*/config.yaml")}
        raise unknown("profile", name, known, "Or give the folder of one: it holds config.yaml.")
    require_executor(found)
    return found


def require_executor(profile: Path) -> None:
    """See that the plugin of a profile's executor is there.

    Raises:
        PelError: it is not; the message says how to get it.
    """
    from pel_core.common.yaml_files import load_yaml

    executor = str(load_yaml(profile / "config.yaml").get("executor", "local"))
    module = f"snakemake_executor_plugin_{executor.replace('-', '_')}"
    if executor not in ("local", "dryrun", "touch") and find_spec(module) is None:
        get = f"'pel-lab[{EXTRAS[executor]}]'" if executor in EXTRAS else module.replace("_", "-")
        raise PelError(f"the profile {profile} needs Snakemake's executor {executor}, which is not installed: pip install {get}")


def start(call: Sequence[str]) -> int:
    """Run Snakemake; its exit status, 128 + N where a signal N ended it or was passed on. Ctrl-C reaches it by itself, TERM is
    passed on; it ends as it would alone."""
    met: list[int] = []
    process: subprocess.Popen | None = None

    def note(number: int, frame: FrameType | None = None) -> None:
        met.append(number)
        if process and number != signal.SIGINT:
            process.send_signal(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process = subprocess.Popen(call)
        for number in list(met):  # between the two lines above
            process.send_signal(number)
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + met[0] if met else status if status >= 0 else 128 - status
