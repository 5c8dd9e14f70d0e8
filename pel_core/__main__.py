"""``python -m pel_core``, and the command ``pel``, which is the same by a shorter name."""

import os
import sys

from pel_core.fork_server import client


def run() -> int:
    """Run the command that the process was given; its exit status."""
    if (status := client.ask(sys.argv[1:])) is not None:
        return status

    from pel_core.cli.main import main
    from pel_core.common.signals import exit_cleanly

    with exit_cleanly():
        return main()


def pel() -> int:
    """The console script: messages spell commands as it is called."""
    from pel_core.common.shipped import SPELLING

    os.environ[SPELLING] = "pel"
    return run()


if __name__ == "__main__":
    sys.exit(run())
