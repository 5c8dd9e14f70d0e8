"""Options of ``predict``."""

import argparse

from pel_core.common.paths import expand_user, user_path


def predict_options(sub: argparse.ArgumentParser) -> None:
    """Declare the options of ``predict``."""
    sub.add_argument(
        "images", nargs="+", type=_images, metavar="IMAGE", help="files, folders, 'patterns', or @FILE with a path a line"
    )
    sub.add_argument(
        "--run", required=True, type=expand_user, help="a run by name (in full or as its study writes it), or its folder"
    )
    told = "the evaluation in words, e.g. tte=tencrop.expand=4, or default (as recorded)"
    sub.add_argument("--evaluation", default="", metavar="OPTIONS", help=told)
    sub.add_argument("--study", help="of several runs or evaluations, those of this study alone (of --config: report)")
    sub.add_argument("--config", help="... on this configuration (of --study: demo)")
    sub.add_argument("--results", type=user_path, help="what holds it and its backbone (that of its folder, else results)")
    sub.add_argument("--out", type=user_path, help="a .csv or .parquet file to write instead of printing a table")
    sub.add_argument("--top", type=int, default=5, help="how many classes to tell of each image (5)")
    sub.add_argument("--device", default="auto", help="auto (a free GPU, locked; else the CPU), cpu, cuda or cuda:N")
    sub.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's own choice)")


def _images(word: str) -> str:
    return f"@{expand_user(word[1:])}" if word.startswith("@") else expand_user(word)
