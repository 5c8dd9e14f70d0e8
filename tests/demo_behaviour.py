"""Does the demo world show what PEL is about? Measures it through the engine, in memory.

    python tests/demo_behaviour.py --seeds 0 1 2 3 4 --draw 0              # the table of docs/demo.md
    python tests/demo_behaviour.py --only demo-cifar --seeds 0 --draw 1    # while tuning: other images, same classes

Prints one markdown row per stand-in and variant (mean +- standard deviation over training seeds), then the claims.
"""

import argparse
import functools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pel_core.batches import EvalBatches, TrainBatches
from pel_core.classifier import build
from pel_core.datasets import Split
from pel_core.demo import clip_files, stand_ins
from pel_core.demo.stand_ins import STAND_INS
from pel_core.engine import predict, train
from pel_core.sampling import long_tail_counts, long_tail_subset, shot_groups
from pel_core.spec import RunSpec
from pel_core.weights import encode_text, vit_from_clip

VARIANTS: dict[str, dict] = {
    "zero-shot": {"method": "zero-shot"},
    "head only": {"method": "head-only"},
    "PEL": {"method": "adaptformer"},
    "PEL, CE": {"method": "adaptformer", "loss": "ce"},
    "PEL, random init": {"method": "adaptformer", "init": "random"},
    "VPT-S+Partial": {"method": "vpt-shallow+adaptformer@6:12"},
    "Partial": {"method": "adaptformer@6:12"},
    "LN+AdaptFormer": {"method": "ln+adaptformer"},
    "ssf-attn": {"method": "ssf-attn"},
    "ssf-ln": {"method": "ssf-ln"},
    "ssf-mlp": {"method": "ssf-mlp"},
}
FOUR = ("PEL", "VPT-S+Partial", "Partial", "LN+AdaptFormer")
GROUPS = ("head", "med", "tail")
FOLDER = Path(os.environ.get("CLIP_MINI", clip_files.FOLDER))  # another model, while tuning
COLUMNS = ("one", "five", *GROUPS, "first")


@dataclass
class Task:
    """One stand-in's pictures of one draw, and what is read off its class names."""

    train: Split
    test: Split
    counts: np.ndarray
    groups: list[str]
    text: dict[str, torch.Tensor]
    dataset: str


@functools.cache
def clip():
    return clip_files.load_model(FOLDER)


@functools.cache
def task(name: str, draw: int, ratio: int = 100) -> Task:
    stand_in = STAND_INS[name]
    (images, labels), (test_images, test_labels) = (stand_ins.render(name, split, draw) for split in ("train", "test"))
    classes = len(stand_in.classes)
    if stand_in.profile:
        groups, dataset = shot_groups(stand_in.train_counts()), name
    else:
        chosen = long_tail_subset(labels, ratio)
        images, labels = images[chosen], labels[chosen]
        groups, dataset = shot_groups(long_tail_counts(classes, stand_in.largest, 100)), f"{name}-ir{ratio}"
    with torch.inference_mode():
        features = encode_text(clip(), clip_files.tokenizer(FOLDER), stand_in.class_names, ("a photo of a {}.",))
    text = {"text.features": features.clone(), "text.projection": clip().visual.proj.detach(),
            "text.logit_scale": clip().logit_scale.detach().exp()}  # fmt: skip
    counts = np.bincount(labels, minlength=classes)
    return Task(Split(labels, images), Split(test_labels, test_images), counts, groups, text, dataset)


class Watched(TrainBatches):
    """Training batches that call `after_first` when the second epoch begins."""

    def epoch(self, epoch: int):
        if epoch == 1:
            self.after_first()
        return super().epoch(epoch)


def measure(name: str, variant: str, seed: int, draw: int = 0, ratio: int = 100, **overrides) -> dict[str, float]:
    """Percent right: `one` and `five` crops, `head`, `med`, `tail` (five crops), after the `first` epoch (one crop)."""
    data = task(name, draw, ratio)
    options = {**VARIANTS[variant], **overrides}
    spec = RunSpec.make(data.dataset, "clip-mini", options.pop("method"), seed, **options)
    width = clip().visual.transformer.resblocks[0].attn.head_dim
    vit, _ = vit_from_clip(clip().state_dict(), head_width=width)
    classifier = build(spec, vit, len(data.groups), data.text)
    picture = (32, spec.vit.mean, spec.vit.std, "cpu")
    found: dict[str, float] = {}

    def accuracy(tte: str, each: dict | None = None) -> float:
        batches = EvalBatches(data.test, tte, spec.expand, *picture)
        right = predict(classifier, batches).argmax(1).numpy() == data.test.labels
        if each is not None:
            group_of = np.array(data.groups)[data.test.labels]
            each.update({group: 100 * right[group_of == group].mean() for group in GROUPS})
        return 100 * right.mean()

    clock = time.perf_counter()
    if spec.trains:
        batches = Watched(data.train, spec, *picture)
        batches.after_first = lambda: found.update(first=accuracy("none"))
        training = train(classifier, batches, spec, torch.as_tensor(data.counts))
        found["images_per_second"] = training.images_per_second
    found["train_s"] = time.perf_counter() - clock
    found["one"] = accuracy("none")
    clock = time.perf_counter()
    found["five"] = accuracy("fivecrop", found)
    found["evaluate_s"] = time.perf_counter() - clock
    return found


def claims(name: str, mean: dict[str, dict[str, float]]) -> dict[str, tuple[float, str, bool]]:
    """What the demo is to show, as (value, what is wanted, whether it holds)."""
    pel, chance = mean["PEL"], 100 / len(STAND_INS[name].classes)
    values = {
        "zero-shot over chance": (mean["zero-shot"]["five"] / chance, ">= 8", 8, None),
        "zero-shot": (mean["zero-shot"]["five"], "< 50", None, 50),
        "PEL - zero-shot": (pel["five"] - mean["zero-shot"]["five"], ">= 15", 15, None),
        "PEL - head only": (pel["five"] - mean["head only"]["five"], ">= 2.5", 2.5, None),
        "PEL": (pel["five"], "< 90", None, 90),
        "LA - CE, tail": (pel["tail"] - mean["PEL, CE"]["tail"], ">= 15", 15, None),
        "LA - CE": (pel["five"] - mean["PEL, CE"]["five"], ">= 3", 3, None),
        "text - random init, epoch 1": (pel["first"] - mean["PEL, random init"]["first"], ">= 5", 5, None),
        "text - random init, tail": (pel["tail"] - mean["PEL, random init"]["tail"], ">= 5", 5, None),
        "five crops - one, PEL": (pel["five"] - pel["one"], ">= 1.5 on average over the stand-ins", None, None),
        "five crops - one, worst of four": (min(mean[v]["five"] - mean[v]["one"] for v in FOUR), ">= -0.5", -0.5, None),
        "spread of the four methods": (np.ptp([mean[v]["five"] for v in FOUR]), "<= 8", None, 8),
    }
    return {key: (float(value), want, (low is None or value >= low) and (high is None or value <= high))
            for key, (value, want, low, high) in values.items()}  # fmt: skip


def table(name: str, seeds: list[int], draw: int, variants: list[str], ratio: int = 100, **overrides) -> dict[str, dict]:
    """Measure and print; the mean over seeds of every quantity by variant."""
    mean = {}
    for variant in variants:
        runs = [measure(name, variant, seed, draw, ratio, **({} if variant == "zero-shot" else overrides))
                for seed in (seeds if variant != "zero-shot" else [0])]  # fmt: skip
        mean[variant] = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        spread = {key: np.std([run[key] for run in runs], ddof=len(runs) > 1) for key in runs[0]}
        cells = [f"{mean[variant][key]:.1f}+-{spread[key]:.1f}" if key in spread else "" for key in COLUMNS]
        timing = f"{mean[variant]['train_s']:.1f}+{mean[variant]['evaluate_s']:.1f}"
        print(f"| {name} | {variant} | {' | '.join(cells)} | {timing} |", flush=True)
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(STAND_INS), choices=list(STAND_INS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--ratio", type=int, default=100, help="of demo-cifar")
    parser.add_argument("--set", type=json.loads, default={}, help="RunSpec fields as JSON, while tuning")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| stand-in | variant | one crop | five crops | head | med | tail | after epoch 1 | train + evaluate, s |")
    print("|---" * 9 + "|")
    means = {name: table(name, arguments.seeds, arguments.draw, arguments.variants, arguments.ratio, **arguments.set)
             for name in arguments.only}  # fmt: skip
    if "PEL" in arguments.variants:
        gain = np.mean([mean["PEL"]["five"] - mean["PEL"]["one"] for mean in means.values()])
        print(f"\nfive crops - one, PEL, average: {gain:.1f}")
    if set(VARIANTS) - {"ssf-attn", "ssf-ln", "ssf-mlp"} <= set(arguments.variants):
        for name, mean in means.items():
            print(f"\n{name}")
            for key, (value, want, holds) in claims(name, mean).items():
                print(f"- {key}: {value:.1f} (wanted {want}{'' if holds else '; MISSED'})")


if __name__ == "__main__":
    main()
