"""Conformance: this project's numbers against a folder of golden ones, made by running the reference implementation.

``python -m pel_core.conformance DIR`` reads ``DIR/index.json`` and every array it names, drives the production code (surgery,
heads, losses, training loop, sampling, transforms, metrics) and prints one line per check. Nothing is skipped: an option that has
no counterpart is ``unsupported``, an array that no check looked at is FAILED, and either makes the exit status non-zero.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from pel_core.common.errors import PelError
from pel_core.conformance.configs import check_config
from pel_core.conformance.golden import CPU, Golden
from pel_core.conformance.head_init import check_head_init
from pel_core.conformance.images import check_images
from pel_core.conformance.loop import check_loop
from pel_core.conformance.numbers import check_evaluator, check_losses, check_sampling
from pel_core.conformance.report import FAILED, OK, UNSUPPORTED, Check, Report
from pel_core.hardware.devices import pick_device, tune_process

FILES = {
    "losses": check_losses,
    "head_init": check_head_init,
    "sampling": check_sampling,
    "evaluator": check_evaluator,
    "transforms": check_images,
    "loop": check_loop,
}


def check_folder(folder: str | Path, device: torch.device = CPU) -> Report:
    """Every check that the folder's index asks for, networks on the device."""
    report = Report()
    try:
        golden = Golden(folder, device)
    except PelError as error:
        report.fail("index.json", str(error))
        return report
    for file, reason in golden.broken.items():
        report.fail(file, reason)
    for name, config in golden.configs.items():
        with report.section(f"{name}: configuration"):
            check_config(golden, report, name, config)
    for file in golden.names:
        with report.section(f"{file}: contents"):
            check_file(golden, report, file)
    for file in golden.names:
        check_complete(golden, report, file)
    if not report.checks:
        report.fail("index.json", "names no configuration and no file")
    return report


def check_file(golden: Golden, report: Report, file: str) -> None:
    """The checks of one file by what it holds; backbones are inputs, configurations come from the index."""
    kind = golden.kind(file)
    if kind in FILES:
        FILES[kind](golden, report, file)
    elif kind == "batch":
        check_batch(golden, report, file)
    elif kind in ("clip", "timm"):
        golden.vit(file)
    elif not kind:
        report.fail(f"{file}: contents", "no configuration names this file, and its arrays are of no known kind")


def check_batch(golden: Golden, report: Report, file: str) -> None:
    """A batch is an input; CLIP's image features of it, where given, are after the projection."""
    arrays = golden.arrays(file)
    arrays.declare_inputs("images", "labels", "cls_num_list")
    if "clip_image_features" in arrays:
        expected = arrays["clip_image_features"]
        vit, projection = golden.vit(golden.backbone("clip"))
        with torch.no_grad():
            features = vit(arrays.tensor("images")) @ projection["text.projection"]
        report.close(f"{file}: clip_image_features", features, expected, golden.tolerance("feature_logits"))


def check_complete(golden: Golden, report: Report, file: str) -> None:
    """All arrays that the index lists are there, and every array of the file was looked at."""
    arrays = golden.arrays(file)
    listed = (golden.named.get(file) or {}).get("arrays") or {}
    absent = sorted(set(listed) - set(arrays))
    wrong = [*(f"{name} is missing" for name in absent), *(f"{name} was not checked" for name in arrays.unread())]
    report.measure(f"{file}: every array is checked", len(wrong), 0, "; ".join(wrong[:3]))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; 0 where everything holds."""
    parser = argparse.ArgumentParser(prog="python -m pel_core.conformance", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", help="golden folder with an index.json")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    arguments = parser.parse_args(argv)
    tune_process(arguments.device)  # as a run does
    report = check_folder(arguments.folder, pick_device(arguments.device))
    print(f"{'check':<60} {'deviation':>9} {'tolerance':>9}")
    for check in report.checks:
        print(check)
    counts = {status: sum(check.status == status for check in report.checks) for status in (OK, FAILED, UNSUPPORTED)}
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 0 if report.holds else 1


__all__ = ["Check", "Report", "check_folder", "main"]
