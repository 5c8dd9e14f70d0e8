"""`pel gallery`: what runs said of the test images, as a page to look at."""

import argparse

from pel_core.cli.study_commands import add_options, open_results
from pel_core.common.paths import user_path


def gallery(arguments: argparse.Namespace) -> None:
    """Write a page of test images and what runs said of them: a study's, or those of runs by name."""
    from pathlib import Path

    from pel_core.gallery.answers import named_runs, of_runs, of_study
    from pel_core.gallery.page import save_gallery
    from pel_core.training.model_card import demo_notice

    if arguments.run:
        results = Path(arguments.results or "results")
        specs = named_runs(arguments.run, results)
        sets, title = of_runs(specs, results), " and ".join(specs)  # no place of this machine
        notices = [demo_notice(spec) for spec in specs.values()]
    else:
        study = open_results(arguments)
        sets, title, notices = of_study(study), study.title, [study.config.get("notice", "")]
    print(save_gallery(arguments.out, title, sets, arguments.images, notices=filter(None, dict.fromkeys(notices))))


def gallery_options(command: argparse.ArgumentParser) -> None:
    """The options of `gallery`."""
    command.add_argument("run", nargs="*", help="runs by name; without any, those of the study, the first seed of each row")
    add_options(command)
    command.add_argument("--out", default="gallery.html", type=user_path, help="the page to write (gallery.html)")
    command.add_argument("--images", default=10_000, type=int, help="images that it shows at most (10000)")
