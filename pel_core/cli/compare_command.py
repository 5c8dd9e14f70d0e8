"""`pel compare RUN_A RUN_B`: the images that two runs see differently. Without runs it is the study's comparison, as before."""

import argparse
from pathlib import Path

from pel_core.cli import study_commands
from pel_core.common.errors import PelError
from pel_core.common.files import write_text
from pel_core.common.paths import user_path


def compare(arguments: argparse.Namespace) -> None:
    """Say which images two runs see differently (RUN_A RUN_B), or put a study's values beside the reported ones: csv, md."""
    if not arguments.run:
        if arguments.out is not None:
            raise PelError("--out goes with two runs: compare RUN_A RUN_B --out FOLDER")
        return study_commands.compare(arguments)
    if len(arguments.run) != 2:
        raise PelError(f"compare takes two runs, or none (then it is of the study); found {len(arguments.run)}")
    from pel_core.evaluation.run_names import find_run
    from pel_core.reporting.run_changes import changes_files, changes_text, compare_runs

    results = Path(arguments.results or "results")
    a, b = (find_run(run, results)[1] for run in arguments.run)
    changes = compare_runs(a, b, results)
    print(changes_text(changes))
    if arguments.out is not None:
        for word, text in changes_files(changes).items():
            write_text(arguments.out / f"{word}.csv", text)
        print(f"Every image that changed, and every class: {arguments.out}/images.csv, {arguments.out}/classes.csv")


def compare_options(command: argparse.ArgumentParser) -> None:
    """The options of `compare`."""
    command.add_argument("run", nargs="*", metavar="RUN", help="two runs, by name or folder; without any, the study is meant")
    study_commands.add_options(command)
    command.add_argument("--out", type=user_path, metavar="FOLDER", help="write images.csv and classes.csv of two runs there")
