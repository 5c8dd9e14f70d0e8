"""Which results folder a command on trained runs reads: the one that is said, else the one that the runs' folders lie in."""

import argparse
from pathlib import Path

from pel_core.common.errors import PelError
from pel_core.spec.long_names import look_in


def settle_results(arguments: argparse.Namespace) -> None:
    """Fill in ``--results`` of a command on runs that was not told it, and look for long names of runs there, too. Nothing of a
    command that has no such option, or takes its study's.

    Raises:
        PelError: the runs lie in several results folders.
    """
    said, run = getattr(arguments, "results", None), getattr(arguments, "run", None)
    if said is None and run and hasattr(arguments, "results"):
        from pel_core.evaluation.run_names import results_of

        found = list(dict.fromkeys(results_of(Path(name)) for name in ([run] if isinstance(run, str) else run)))
        if len({folder.absolute() for folder in found}) > 1:
            raise PelError(
                f"the runs lie in {' and '.join(map(str, found))}; expected runs of one results folder: copy the folder of one "
                "into runs/ of the other, or name the runs and say by --results where all of them lie"
            )
        said = arguments.results = found[0]
    if said:
        look_in(said)
