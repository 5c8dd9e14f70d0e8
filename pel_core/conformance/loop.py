"""The training loop from a golden start over a few epochs, with and without accumulation; learning rates."""

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pel_core.conformance.configs import Losses, Steps, build, fits, make_spec, set_values, training_loss
from pel_core.conformance.golden import Arrays, Golden
from pel_core.conformance.report import Report, Unsupported, difference
from pel_core.conformance.vocabulary import Options, our_name
from pel_core.models.methods import METHODS, MethodPart
from pel_core.models.vit import ViT
from pel_core.training.loop import train
from pel_core.training.schedules import learning_rate

PLAIN = Options((), {}, "cosine", 25.0, "LA", 1.0)


def check_loop(golden: Golden, report: Report, file: str) -> None:
    """``plain/*``, ``accum/*`` and the like from ``init/*``; ``lr_epochsN``."""
    arrays = golden.arrays(file)
    for match in arrays.match(r"lr_epochs(\d+)"):
        spec = make_spec(PLAIN, epochs=int(match[1]))
        rates = [learning_rate(spec, epoch) for epoch in range(spec.epochs)]
        report.close(f"{file}: {match[0]}", rates, arrays[match[0]], rtol=1e-9)
    for match in arrays.match(r"([^/]+)/lr_per_step"):
        with report.section(f"{file}: {match[1]}"):
            check_run(golden, report, file, arrays, match[1])


def check_run(golden: Golden, report: Report, file: str, arrays: Arrays, run: str) -> None:
    """One run of the training loop: rates, losses, final parameters and logits."""
    where = f"{file}: {run}/"
    images, labels, counts = (arrays.tensor(name) for name in ("images", "labels", "cls_num_list"))
    start = arrays.under("init/")
    vit, _ = golden.vit(golden.backbone(None, start["head.weight"].shape[-1]))
    options, names = options_from(start, vit)
    classifier = build(vit, options, len(counts))
    own = classifier.trainable()
    wrong = sorted(set(own) ^ set(names.values()))
    report.measure(f"{where}what trains", len(wrong), 0, ", ".join(wrong[:3]))
    set_values(own, names, start)
    rates, losses = arrays[f"{run}/lr_per_step"], arrays[f"{run}/micro_losses"]
    epochs = 1 + int(np.count_nonzero(np.diff(rates)))
    batch, micro = sizes(golden.about(file), run, len(images), len(losses) // epochs)
    parts = batch // micro
    way = {"accumulate": parts, "accumulation": "reference"} if parts > 1 else {}
    spec = make_spec(options, epochs=epochs, batch_size=batch, **way)
    steps = -(-len(images) // batch)
    per_epoch = len(rates) // epochs
    found = [learning_rate(spec, step // per_epoch) for step in range(len(rates))]
    report.close(f"{where}lr_per_step", found, rates, rtol=1e-9)
    recorder = Losses(classifier, training_loss(options, counts), labels)
    with recorder:
        curve = train(classifier, Steps(images, labels, batch), spec, counts).curve
    report.close(f"{where}lr per epoch ({steps} steps each)", [entry["lr"] for entry in curve], rates[::per_epoch], rtol=1e-9)
    # A log of the reference may hold the loss before or after its division by the number of micro-batches.
    shares = [np.array(recorder.values) / divisor for divisor in (1, batch // micro)]
    nearest = min(shares, key=lambda values: difference(values, losses))
    report.close(f"{where}micro_losses", nearest, losses, rtol=golden.tolerance("losses"))
    # As many steps as the run has, each with its rounding: the tolerance of three grows with them.
    atol = golden.tolerance("step3") * max(1.0, steps * epochs / 3)
    final = arrays.under(f"{run}/final/")
    same = {key: value for key, value in final.items() if key in names and fits(own[names[key]], value)}
    pairs = [(key, own[names[key]].reshape(value.shape), value) for key, value in same.items()]
    if len(pairs) != len(names):
        report.fail(f"{where}final", f"{len(pairs)} of {len(names)} parameters can be compared")
    report.each(f"{where}final ({len(pairs)} tensors)", pairs, atol)
    if f"{run}/final_logits" in arrays:
        with torch.no_grad():
            logits = classifier(images)
        report.close(f"{where}final_logits", logits, arrays[f"{run}/final_logits"], golden.tolerance("feature_logits"))


def options_from(start: Mapping[str, Tensor], vit: ViT) -> tuple[Options, dict[str, str]]:
    """The method that has exactly these parameters, read off their names and shapes; the head is a cosine or linear one."""
    shallow = not any(re.search(r"vpt_list\.[1-9]", name) for name in start)
    guess = (MethodPart("vpt-shallow", 0, 1),) if shallow else ()
    names = {reference: our_name(reference, guess, {}) for reference in start}
    blocks: dict[str, list[int]] = {}
    for reference, ours in names.items():
        if ours.startswith("blocks."):
            kind = {"ln_tuned": "ln", "bias_tuned": "bias", "block_tuned": "full"}[reference.removeprefix("tuner.").split(".")[0]]
            blocks.setdefault(kind, []).append(int(ours.split(".")[1]))
        elif not ours.startswith("head."):
            blocks.setdefault(ours.split(".")[0], []).append(int(ours.split(".")[1]))
    parts = tuple(MethodPart(name, min(of), max(of) + 1) for name, of in blocks.items() if name in METHODS)
    ranks = [len(value) for name, value in start.items() if name.endswith(("down_proj.weight", "lora_B"))]
    lengths = [value.shape[-2] for name, value in start.items() if name.endswith("prompt")]
    choices = {"adapter_dim": ranks[0] if ranks else 1, "vpt_len": lengths[0] if lengths else 10}
    return Options(parts, choices, "linear" if "head.bias" in start else "cosine", 25.0, "LA", 1.0), names


def sizes(about: str, run: str, images: int, micro_batches: int) -> tuple[int, int]:
    """Batch and micro-batch size of a run, from the index's words: "plain: batches 8,8,4. accum: batch 8 as micro 4"."""
    said = re.search(rf"{re.escape(run)}: batch(?:es)? (\d+)(?:,\d+)*(?: as micro (\d+))?", about)
    if not said:
        raise Unsupported(f"the index does not say the batch size of {run} ({micro_batches} batches of {images} images an epoch)")
    batch = int(said[1])
    micro = int(said[2] or batch)
    if -(-images // micro) != micro_batches or batch % micro:
        raise Unsupported(f"batch {batch} as micro {micro} does not give {micro_batches} batches of {images} images")
    return batch, micro
