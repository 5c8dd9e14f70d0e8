"""Does the demo world show what PEL is about? Measures it through the engine, in memory.

    python tests/demo_behaviour.py --draw 3 --out runs.jsonl               # the tables of docs/demo.md: 5 seeds
    python tests/demo_behaviour.py --only demo-cifar --seeds 0 --draw 1    # while tuning: other images, same classes

Prints one markdown row per stand-in and variant (mean ± standard deviation over training seeds), then the claims. With
`--out`, every run is one JSON line; runs found there are not made again, so that a stopped measurement goes on.
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

from pel_core.data.batches import EvalBatches, TrainBatches
from pel_core.data.datasets import Split
from pel_core.data.sampling import long_tail_counts, long_tail_subset, shot_groups
from pel_core.demo import clip_files, stand_ins
from pel_core.demo.stand_ins import EVALUATED_ON, STAND_INS
from pel_core.models.class_texts import encode_text
from pel_core.models.weights import vit_from_clip
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import build
from pel_core.training.loop import predict, train

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

# The targets, as (at least, at most) of `values`, and the slack of the slow test, which has one seed, not five. Where
# the measured margin is many times the noise of seeds there is none. What must be gained stays a gain with slack, too: on draw 3
# every single seed of five passes on demo-cifar, and none does with CE, a random head or no adapter in place of PEL.
CLAIMS: dict[str, tuple[float | None, float | None, float]] = {
    "zero-shot over chance": (8, None, 0.5),
    "zero-shot": (None, 50, 1),
    "PEL - zero-shot": (15, None, 0),
    "PEL - head only": (2.5, None, 0),
    "PEL": (None, 90, 2),
    "LA - CE, tail": (15, None, 4),
    "LA - CE": (3, None, 0),
    "text - random init, epoch 1": (5, None, 1),
    "text - random init, tail": (5, None, 0),
    "five crops - one, worst of four": (-0.5, None, 1),
    "spread of the four methods": (None, 8, 2.5),
}
FIVE_CROPS_GAIN, FIVE_CROPS_SLACK = 1.5, 0.75  # PEL's, on average over the stand-ins
# What the claims need of each variant; other columns are for the table alone.
NEEDED = {"zero-shot": ("five",), "head only": ("five",), "PEL": ("one", "five", "first"), "PEL, CE": ("five",),
          "PEL, random init": ("five", "first"), **dict.fromkeys(FOUR[1:], ("one", "five"))}  # fmt: skip


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

    def epoch(self, epoch: int, first: int = 0):
        if epoch == 1:
            self.after_first()
        return super().epoch(epoch, first)


def measure(
    name: str, variant: str, seed: int, draw: int = 0, ratio: int = 100, columns: tuple = COLUMNS, per_class: int = 0, **overrides
) -> dict:
    """Percent right: `one` and `five` crops, `head`, `med`, `tail` (with `five`), after the `first` epoch (one crop); of five
    crops also on the pictures of each of `EVALUATED_ON` that has the same classes, by its name.

    Of one, five, first and these names, those not among `columns` are left out, which saves their time; `per_class`: at most so
    many test images of each class.
    """
    data = task(name, draw, ratio)
    images, labels = data.test.images, data.test.labels
    few = np.concatenate([np.flatnonzero(labels == label)[: per_class or None] for label in range(len(data.groups))])
    test = Split(labels[few], images[few])
    options = {**VARIANTS[variant], **overrides}
    spec = RunSpec.make(data.dataset, "clip-mini", options.pop("method"), seed, **options)
    width = clip().visual.transformer.resblocks[0].attn.head_dim
    vit, _ = vit_from_clip(clip().state_dict(), head_width=width)
    classifier = build(spec, vit, len(data.groups), data.text)
    picture = (32, spec.vit.mean, spec.vit.std, "cpu")
    found: dict[str, float] = {}

    def right(tte: str, test: Split = test) -> np.ndarray:
        return predict(classifier, EvalBatches(test, tte, spec.expand, *picture)).argmax(1).numpy() == test.labels

    clock = time.perf_counter()
    if spec.trains:
        batches = Watched(data.train, spec, *picture)
        batches.after_first = lambda: found.update(first=100 * right("none").mean()) if "first" in columns else None
        found["images_per_second"] = train(classifier, batches, spec, torch.as_tensor(data.counts)).images_per_second
    found["train_s"] = time.perf_counter() - clock
    if "one" in columns:
        found["one"] = 100 * right("none").mean()
    clock = time.perf_counter()
    if "five" in columns:
        five, group_of = right("fivecrop"), np.array(data.groups)[test.labels]
        found.update({"five": 100 * five.mean(), **{group: 100 * five[group_of == group].mean() for group in GROUPS}})
    for other in (other for other in EVALUATED_ON if other in columns):
        images, labels = stand_ins.render(other, "test", draw)
        assert STAND_INS[other].class_names == STAND_INS[name].class_names
        found[other] = 100 * right("fivecrop", Split(labels, images)).mean()
    found["evaluate_s"] = time.perf_counter() - clock
    return {key: float(value) for key, value in found.items()}


def mean_over_seeds(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}


def values(name: str, mean: dict[str, dict[str, float]]) -> dict[str, float]:
    """The quantities of CLAIMS, in points, from the means over seeds of every variant."""
    pel, zero, ce, random = (mean[v] for v in ("PEL", "zero-shot", "PEL, CE", "PEL, random init"))
    return {
        "zero-shot over chance": zero["five"] * len(STAND_INS[name].classes) / 100,
        "zero-shot": zero["five"],
        "PEL - zero-shot": pel["five"] - zero["five"],
        "PEL - head only": pel["five"] - mean["head only"]["five"],
        "PEL": pel["five"],
        "LA - CE, tail": pel["tail"] - ce["tail"],
        "LA - CE": pel["five"] - ce["five"],
        "text - random init, epoch 1": pel["first"] - random["first"],
        "text - random init, tail": pel["tail"] - random["tail"],
        "five crops - one, worst of four": min(mean[v]["five"] - mean[v]["one"] for v in FOUR),
        "spread of the four methods": float(np.ptp([mean[v]["five"] for v in FOUR])),
    }


def missed(found: dict[str, float], slack: bool = False) -> list[str]:
    """The claims that `found` (of `values`) misses, in words; empty when all hold."""
    misses = []
    for claim, (low, high, give) in CLAIMS.items():
        give = give if slack else 0
        if low is not None and found[claim] < low - give:
            misses.append(f"{claim}: {found[claim]:.1f}, wanted at least {low - give}")
        if high is not None and found[claim] > high + give:
            misses.append(f"{claim}: {found[claim]:.1f}, wanted at most {high + give}")
    return misses


class Record:
    """Runs as JSON lines in a file, or only in memory; what is there already is not measured again."""

    def __init__(self, path: Path | None):
        self.path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        self.runs = {self.key(run): run for run in map(json.loads, lines)}

    @staticmethod
    def key(run: dict) -> tuple:
        return run["name"], run["variant"], run["seed"], run["draw"], run.get("ratio", 100), json.dumps(run.get("set", {}))

    def run(self, name: str, variant: str, seed: int, draw: int, ratio: int, overrides: dict) -> dict[str, float]:
        run = {"name": name, "variant": variant, "seed": seed, "draw": draw, "ratio": ratio, "set": overrides}
        key = self.key(run)
        if key not in self.runs:
            self.runs[key] = {**run, **measure(name, variant, seed, draw, ratio, **overrides)}
            if self.path:
                with self.path.open("a") as file:
                    file.write(json.dumps(self.runs[key]) + "\n")
        return {key: value for key, value in self.runs[key].items() if isinstance(value, float)}


def table(name: str, record: Record, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure and print; the mean over seeds of every quantity by variant."""
    mean = {}
    for variant in arguments.variants:
        seeds, overrides = ([0], {}) if variant == "zero-shot" else (arguments.seeds, arguments.set)
        runs = [record.run(name, variant, seed, arguments.draw, arguments.ratio, overrides) for seed in seeds]
        mean[variant] = mean_over_seeds(runs)
        spread = {key: f" ± {np.std([run[key] for run in runs], ddof=1):.1f}" if len(runs) > 1 else "" for key in runs[0]}
        cells = [f"{mean[variant][key]:.1f}{spread[key]}" if key in spread else "" for key in COLUMNS]
        print(f"| {name} | {variant} | {' | '.join(cells)} |", flush=True)
    return mean


def print_claims(means: dict[str, dict[str, dict[str, float]]]) -> None:
    found = {name: values(name, mean) for name, mean in means.items()}
    print(f"\n| claim | wanted | {' | '.join(means)} |\n" + "|---" * (2 + len(means)) + "|")
    for claim, (low, high, _) in CLAIMS.items():
        wanted = f"≥ {low}" if high is None else f"≤ {high}"
        print(f"| {claim} | {wanted} | {' | '.join(f'{found[name][claim]:.1f}' for name in means)} |")
    gains = [mean["PEL"]["five"] - mean["PEL"]["one"] for mean in means.values()]
    print(f"| five crops - one, PEL | ≥ {FIVE_CROPS_GAIN} on average | {' | '.join(f'{gain:.1f}' for gain in gains)} |")
    print(f"\nfive crops - one, PEL, average: {np.mean(gains):.1f}")
    for name in means:
        print(f"{name}: {'; '.join(missed(found[name])) or 'every claim holds'}")


TRAINED_ON = [name for name in STAND_INS if name not in EVALUATED_ON]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=TRAINED_ON, choices=list(STAND_INS))
    parser.add_argument("--variants", nargs="+", default=list(NEEDED), choices=list(VARIANTS))
    parser.add_argument("--ratio", type=int, default=100, help="of demo-cifar")
    parser.add_argument("--set", type=json.loads, default={}, help="RunSpec fields as JSON, while tuning")
    parser.add_argument("--out", type=Path, help="JSON lines file of the runs; those in it are not made again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| stand-in | variant | one crop | five crops | head | med | tail | after epoch 1 |")
    print("|---" * 8 + "|")
    record = Record(arguments.out)
    means = {name: table(name, record, arguments) for name in arguments.only}
    if set(NEEDED) <= set(arguments.variants):
        print_claims(means)


if __name__ == "__main__":
    main()
