"""Made-up results for tests of everything downstream of the engine: no torch, no training.

``fake_record`` invents one run's metrics.json from its spec (plausible numbers, a fixed function of the slug); ``main`` stands
in for ``python -m pel_core`` and writes the files that each command would.
"""

import argparse
import sys
import zlib
from pathlib import Path
from typing import Any

from pel_core.common.files import read_json, write_bytes, write_json
from pel_core.common.versions import versions
from pel_core.data.datasets import split_name
from pel_core.evaluation.outputs import CLASSES as OUTPUT_CLASSES
from pel_core.evaluation.outputs import PREDICTIONS, write_csv, write_parquet
from pel_core.spec.posthoc import is_posthoc, steps_of
from pel_core.spec.results import METRICS, OUTPUTS, metrics_file, result_files, run_folder, scoring, slug_of
from pel_core.spec.run_spec import RunSpec
from pel_core.spec.stored_predictions import PARQUET
from pel_core.studies.kinds import FIGURE, SUMMARY, TABLE
from pel_core.studies.selection_files import write_selection
from pel_core.studies.study import load

CLASSES = {"cifar100": 100, "imagenet-lt": 1000, "places-lt": 365, "inat2018": 8142}
LEVEL = {"cifar100": 80.0, "imagenet-lt": 77.0, "places-lt": 52.0, "inat2018": 79.0}
EFFECT = {"adaptformer": 0.0, "adaptformer@6:12": -0.8, "adaptformer@6:12+vpt-shallow": -0.3, "adaptformer+ln": -1.1,
          "ssf-attn": -1.4, "ssf-ln": -2.4, "ssf-mlp": -1.9}  # fmt: skip
TRAIN_COUNTS, GROUPS = (
    [400, 120, 40, 9, 2],
    ("head", "head", "med", "tail", "tail"),
)  # of stored predictions; the last has no test image
PER_BLOCK = {"ssf-attn": 6144, "ssf-ln": 3072, "ssf-mlp": 7680}
TEST_GROUPS = ("head",) * 4 + ("med",) * 2 + ("tail",) * 2  # of the classes that have test images
EACH = 100  # test images of each


def fake_number(*names: object) -> float:
    """A number in -0.5..0.5 that is a fixed function of the names."""
    return zlib.crc32("/".join(map(str, names)).encode()) / 2**32 - 0.5


def fake_parameters(spec: RunSpec, classes: int) -> int:
    """Learnable parameters of the report's methods at the backbone's width (768 for ViT-B/16)."""
    width, total = spec.vit.width, 0
    rank = 2 ** max(0, (classes // (2 * spec.vit.layers)).bit_length() - 1)
    for part in spec.parts:
        each = {"adaptformer": 2 * width * rank + rank + 3 * width + 1, "ln": 4 * width, "vpt-shallow": 10 * width}
        each |= {name: count * width // 768 for name, count in PER_BLOCK.items()}
        total += each.get(part.name, 0) * len(part.blocks)
    return total


def fake_metrics(spec: RunSpec) -> dict[str, Any]:
    """Plausible metrics: the level of the data set, an effect of the method, noise of the seed."""
    base, ratio = split_name(spec.dataset)
    overall = LEVEL.get(base, 60.0) + EFFECT.get(spec.method, -2.0) + (5 - 0.03 * ratio if ratio else 0)
    overall += 0.6 * fake_number(spec.slug, "overall")
    metrics: dict[str, Any] = dict.fromkeys(METRICS)
    hits = 0
    for name, offset in {"head": 3, "med": -1, "tail": -5}.items():  # whole images, as `fake_predictions` has them right
        images = EACH * TEST_GROUPS.count(name)
        right = min(max(round(images / 100 * (overall + offset + 0.8 * fake_number(spec.slug, name))), 0), images)
        metrics[name], hits = 100 * right / images, hits + right
    metrics["overall"] = metrics["mean_class"] = 100 * hits / (EACH * len(TEST_GROUPS))
    metrics |= {
        "macro_f1": round(metrics["overall"] - 0.2, 4),
        "error_rate": round(100 - metrics["overall"], 4),
        "worst_class": 12.5,
        "hmean": 61.0,
        "gmean": 66.0,
        "gmean_floor": 66.0,
        "ece": 3.2,
        "nll": 0.9,
    }
    reasons = {name: "made up without it" for name, value in metrics.items() if value is None}
    return {**metrics, "per_class": [round(metrics["overall"], 2)] * 5, "null_reasons": reasons}


def fake_predictions(spec: RunSpec, metrics: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Label and prediction of each test image that give metrics head, med and tail; easy images are easy for every method."""
    labels: list[int] = []
    predicted: list[int] = []
    for group in dict.fromkeys(TEST_GROUPS):
        images = EACH * TEST_GROUPS.count(group)
        hard = [fake_number(spec.dataset, group, i) + 0.3 * fake_number(spec.slug, group, i) for i in range(images)]
        right = set(sorted(range(images), key=hard.__getitem__)[: round(images / 100 * metrics[group])])
        truth = [TEST_GROUPS.index(group) + i // EACH for i in range(images)]
        labels += truth
        predicted += [label if i in right else (label + 1) % len(TEST_GROUPS) for i, label in enumerate(truth)]
    return labels, predicted


def write_predictions(results: str | Path, spec: RunSpec, metrics: dict[str, Any] | None = None) -> None:
    """``predictions.parquet`` and ``classes.csv`` of a run, by its made-up metrics or those that are given."""
    import numpy as np

    folder = run_folder(results, spec.slug)
    folder.mkdir(parents=True, exist_ok=True)
    labels, predicted = (np.array(each, dtype=np.int32) for each in fake_predictions(spec, metrics or fake_metrics(spec)))
    about = {"slug": spec.slug, "split": spec.split, "data_sha256": spec.dataset}
    write_parquet(
        folder / PREDICTIONS, {"index": np.arange(len(labels)), "path": None, "label": labels, "prediction": predicted}, about
    )
    write_csv(folder / OUTPUT_CLASSES, ("label", "group"), enumerate(TEST_GROUPS))
    record_overall(results, spec.slug, 100.0 * float(np.mean(predicted == labels)))


def fake_curve(spec: RunSpec) -> list[dict[str, float]]:
    """Training accuracy that climbs."""
    return [{"epoch": e, "lr": spec.lr, "loss": 1 / (e + 1), "accuracy": 90 - 30 / (e + 1)} for e in range(spec.epochs)]


def fake_record(spec: RunSpec) -> dict[str, Any]:
    """One run's metrics.json."""
    base = split_name(spec.dataset)[0]
    classes = CLASSES.get(base, 40)
    learnable, head = fake_parameters(spec, classes), classes * spec.vit.width if spec.trains else 0
    return {
        "slug": spec.slug,
        "versions": versions("prepare", *(["train"] if spec.trains else []), "predict", "score"),
        "scored": scoring(),
        "spec": spec.to_json(),
        "data": {"name": spec.dataset, "classes": classes, "train_images": 1000, "test_images": 800, "sha256": "0" * 64}
        | {"train_counts": TRAIN_COUNTS},
        "backbone": {"name": spec.backbone, "arch": spec.vit.arch, "sha256": "0" * 64, "layers": spec.vit.layers},
        "parameters": {
            "learnable": learnable,
            "head": head,
            "learnable_with_head": learnable + head,
            "frozen": 10**6,
            "adapter_dim": 4,
        },
        "metrics": fake_metrics(spec),
        "training": {"curve": fake_curve(spec), "seconds": 5.0, "images_per_second": 1000.0, "peak_memory_mb": 500.0},
        "evaluation": {"tte": spec.tte, "crops": spec.views, "seconds": 2.0, "images_per_second": 400.0, "peak_memory_mb": 500.0},
        "environment": {"python": "3", "torch": "0", "device": "cpu"},
        **({"test_set": {"name": spec.evaluate_on, "images": "test", "sha256": "0" * 64}} if spec.evaluate_on else {}),
        **(
            {"posthoc": {name: 1.0 if value == "val" else value for name, value in steps_of(spec).items()}}
            if is_posthoc(spec)
            else {}
        ),
    }


def write_results(results: str | Path, specs: dict[str, RunSpec]) -> None:
    """A made-up sweep: one metrics.json per run, and predictions that agree with it."""
    for slug, spec in specs.items():
        write_json(metrics_file(results, slug), fake_record(spec))
        write_predictions(results, spec)


def write_predicted(results: str | Path, specs: dict[str, RunSpec]) -> None:
    """Stored predictions of a made-up sweep: 60 images of 4 of 5 classes, other ones for each run; metrics say so too."""
    import numpy as np

    from pel_core.evaluation.outputs import write_csv, write_parquet
    from pel_core.evaluation.predictions import Predictions, write_predictions

    labels = np.repeat(np.arange(4), 15)
    for slug in specs:
        folder = run_folder(results, slug)
        logits = np.random.default_rng(list(slug.encode())).normal(size=(len(labels), 5)).astype(np.float32)
        logits[np.arange(len(labels)), labels] += 1.5
        paths = [f"{i:03}.jpg" for i in range(len(labels))]
        table = {"index": np.arange(len(labels)), "path": paths, "label": labels.astype(np.int32)}
        table |= {"prediction": Predictions.of(logits, labels).predicted}
        write_parquet(folder / "predictions.parquet", table, {"slug": slug, "split": "test", "data_sha256": "0" * 64})
        write_csv(folder / "classes.csv", ("label", "group"), enumerate(GROUPS))
        write_predictions(folder / "logits.safetensors", logits, labels)
        record_overall(results, slug, 100.0 * float(np.mean(table["prediction"] == labels)))


def record_overall(results: str | Path, slug: str, value: float) -> None:
    """Have a run's metrics.json say this overall accuracy, if it is there."""
    if (path := metrics_file(results, slug)).is_file():
        record = read_json(path)
        record["metrics"]["overall"] = value
        write_json(path, record)


def main(words: list[str]) -> None:
    """The files of ``python -m pel_core ...``, made up. Artefacts are drawn as single words, to be quick."""
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="+")
    parser.add_argument("--accept", action="store_true")
    options = "check-images out config weights backbone-dir data-dir prompt descriptions results study figures seeds"
    options += " stamp threads backbone"
    for option in options.split():
        parser.add_argument(f"--{option}")
    asked = parser.parse_args(words)
    command, *rest = asked.words
    if command == "backbone":
        write_json(f"{asked.out}/backbone.json", {"name": rest[0]})
        write_bytes(f"{asked.out}/vit.safetensors", b"")
    elif command == "data":
        write_json(f"{asked.out}/data.json", {"name": rest[1]})
    elif command == "text":
        write_bytes(asked.out, b"")
    elif command in ("train", "evaluate"):
        spec, folder = RunSpec.parse(rest[0]), run_folder(asked.results, rest[0])
        if command == "train":
            write_bytes(f"{folder}/delta.safetensors", b"x")
            write_json(f"{folder}/train.json", {"slug": spec.slug, "versions": versions("prepare", "train")})
        else:
            assert not spec.trains or read_json(run_folder(asked.results, spec.train.slug) / "train.json")
            write_json(f"{folder}/metrics.json", fake_record(spec))
            for file in ("logits.safetensors", *OUTPUTS):
                write_bytes(f"{folder}/{file}", PARQUET)
    elif command == "score" and rest:
        write_json(metrics_file(asked.results, rest[0]), fake_record(RunSpec.parse(rest[0])))
        for file in OUTPUTS:
            write_bytes(run_folder(asked.results, rest[0]) / file, PARQUET)
    elif command == "score":
        for path in result_files(asked.results):
            write_json(path, fake_record(RunSpec.parse(slug_of(path.parent))))
        write_json(asked.stamp, {})
    elif command == "select":
        study = load(asked.study, asked.config, results=asked.results, figures=asked.figures, seeds=asked.seeds)
        write_selection(study, rest[0])
    elif command == "figure":
        for suffix in FIGURE:
            write_bytes(f"{asked.figures}/{rest[0]}.{suffix}", b"x")
    else:
        name = rest[0] if rest else f"{Path(asked.study).stem}-{command}"  # no study of the tests has reported values
        for suffix in TABLE if command == "table" else SUMMARY:
            write_bytes(f"{asked.results}/tables/{name}.{suffix}", b"x")


if __name__ == "__main__":
    main(sys.argv[1:])
