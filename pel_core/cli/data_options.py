"""Options of the command ``data``. Apart from what they start, which imports more."""

import argparse

from pel_core.common.paths import user_path

ACTIONS = """\
fetch     get what is free to download, with checksum and resume, and say what to get by hand
check     see that everything is there and as published; list all that is wrong, by kind
describe  print the numbers of images and draw the curve of the class sizes
prepare   check, and write what a run reads (Snakemake does this)
cache     decode the image files of a prepared one for runs with image_cache=SIZE (so does Snakemake); again: check that"""


def data_options(sub: argparse.ArgumentParser) -> None:
    """Declare them on the parser of ``data``."""
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.description = ACTIONS
    sub.add_argument("action", choices=[line.split()[0] for line in ACTIONS.splitlines()])
    sub.add_argument("base", help="a data set's name without -irRATIO: every ratio is meant")
    sub.add_argument(
        "--out",
        type=user_path,
        help="prepare: folder to write (needed); describe: folder of the figure",
    )
    sub.add_argument("--root", help="the data set's own folder, instead of the configuration's or the one below PEL_DATA")
    sub.add_argument("--config", help="the study's configuration: data sets of your own and image folders")
    sub.add_argument("--check-images", default="sample", choices=("none", "sample", "all"), help="how many files to decode")
    sub.add_argument("--size", type=int, default=256, help="cache: pixels of the shorter side (256)")
    sub.add_argument(
        "--results",
        type=user_path,
        help="cache: holds data/BASE (results); describe: its figures/ is drawn into",
    )
    sub.add_argument("--threads", type=int, default=0, help="cache: how many decode at once (0: one per core)")
    sub.add_argument("--mirror", default="", help="fetch: an address that has the same files, by name; checksums stay")
