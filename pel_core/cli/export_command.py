"""`pel export`: a trained run for other libraries."""

import argparse

from pel_core.common.files import require_writable
from pel_core.common.paths import expand_user, user_path


def export(arguments: argparse.Namespace) -> None:
    """Write a trained run for other programs: open_clip, timm, ONNX, torch.export."""
    from pel_core.export.folder import export_run

    require_writable(arguments.out.absolute().parent)
    out = export_run(arguments.run, arguments.results, arguments.form, arguments.out)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def export_options(command: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    command.add_argument("run", type=expand_user, help="a run by name, or its folder")
    told = "open_clip or timm (a state dict with the deltas merged), onnx or torch (the whole classifier as a graph)"
    command.add_argument("--as", dest="form", required=True, metavar="FORMAT", help=told)
    command.add_argument("--out", required=True, type=user_path, help="the folder to make")
    command.add_argument("--results", type=user_path, help="what holds it and its backbone (that of its folder, else results)")
