"""What a run costs: images, operations, bytes on disk, and how long they take at a measured speed. Torch-free.

GFLOP count matrix products and attention, a multiply-add as two. Speeds are measured: in finished runs, else by a short
calibration (`pel_core.studies.measure_throughput`). Symbols: N tokens, D width of the network.
"""

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.datasets import split_name
from pel_core.data.ensembling import TTE
from pel_core.data.image_cache import cache_folder
from pel_core.evaluation.predictions import stored_bytes
from pel_core.models.heads import HEADS
from pel_core.spec.posthoc import is_posthoc
from pel_core.spec.results import read_record, result_files
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.data_sizes import classes, data_size, images_of_test_set
from pel_core.studies.gflop import forward_gflop, passes, training_gflop
from pel_core.studies.study import Study
from pel_core.studies.text_cost import text_gflop

# TFLOP/s of matrix products, dense, accumulated in fp32, as the makers' data sheets say; nothing was measured on them here.
SHEETS: dict[str, dict[str, float]] = {
    "H200": {"fp16": 989, "bf16": 989, "fp32": 67},
    "RTX 3090": {"fp16": 71, "bf16": 71, "fp32": 35.6},
}
REACHED = 0.55  # of a data sheet's number, assumed


@dataclass(frozen=True)
class Work:
    """Images a run passes through the network in training (epochs and passes counted) and evaluation (crops counted), their
    GFLOP, and the bytes it leaves on disk."""

    train: int
    evaluate: int
    train_gflop: float
    evaluate_gflop: float
    disk: int

    @property
    def gflop(self) -> float:
        """Training and evaluation."""
        return self.train_gflop + self.evaluate_gflop


@dataclass(frozen=True)
class Speed:
    """GFLOP/s of training and evaluation, and where that was measured."""

    train: float
    evaluate: float
    source: str

    def hours(self, train_gflop: float, evaluate_gflop: float) -> float:
        """Hours that so much work takes."""
        return (train_gflop / self.train + evaluate_gflop / self.evaluate) / 3600


def views(spec: Mapping[str, Any]) -> int:
    """Crops of an evaluation."""
    return TTE[spec["tte"]].views or int(spec.get("crops", 1))


def work(study: Study, spec: RunSpec) -> Work | None:
    """What a run costs; None where the size of its data is not known yet."""
    size = data_size(study, spec.dataset, spec.factors)
    if size is not None and spec.evaluate_on:
        size = (size[0], there) if (there := images_of_test_set(study, spec)) is not None else None
    if size is None:
        return None
    train, test = spec.epochs * size[0] * spec.trains, views(spec.to_json()) * size[1] * (not is_posthoc(spec))
    number = classes(study, spec.dataset, spec.factors)
    # Logits; head and deltas (about twice the head in the reference's adapters); predictions.
    logits = stored_bytes(size[1], number, study.config.get("logits", "compact")) + 12 * number * spec.vit.width * spec.trains
    disk = (logits + remembered_bytes(spec, size[0], number)) * (not is_posthoc(spec)) + 150 * size[1]
    texts = text_gflop(study.results, spec, size[0]) or 0.0
    return Work(train * passes(spec), test, train * training_gflop(spec) + texts, test * forward_gflop(spec), disk)


def remembered_bytes(spec: RunSpec, images: int, classes: int) -> int:
    """What a checkpoint holds of training images, about: their features in fp32, at most as wide as the network, and labels. Of
    sentences it is the features of as many as a class keeps at most."""
    if spec.trains and getattr(HEADS[spec.head], "sentences", False):
        return classes * spec.knobs_of("head")["anchors"] * (4 * spec.vit.width + 8)
    if not spec.trains or not hasattr(HEADS[spec.head], "remembers"):
        return 0
    most = spec.knobs_of("head").get("per_class") or images
    return min(images, most * classes) * (4 * spec.vit.width + 8)


def decoded_bytes(study: Study, specs: Iterable[RunSpec]) -> int:
    """What decoded images (``image_cache``) that are not there yet will take on disk, about: photographs of 4 to 3. Data sets of
    unknown size are left out."""
    asked = {(split_name(spec.dataset)[0], spec.image_cache): spec.dataset for spec in specs if spec.image_cache}
    total = 0
    for (base, size), name in asked.items():
        if not (cache_folder(study.results, base, size) / "cache.json").is_file():
            total += 4 * size**2 * sum(data_size(study, name) or (0, 0))
    return total


def measured(study: Study, backbone: str) -> Speed | None:
    """The speed of the finished runs with a backbone under the results folder, else the one measured on this machine."""
    spent, done = [0.0, 0.0], [0.0, 0.0]
    for path in result_files(study.results, run=f"*.{backbone}.*"):
        try:
            record = read_record(path)
            if is_posthoc(RunSpec.parse(record["slug"])) or RunSpec.parse(record["slug"]).reads_tower:
                continue  # its seconds are those of others, or also of texts
            spec, data = RunSpec.parse(record["slug"]), record["data"]
            parts = {"training": spec.epochs * data["train_images"] * training_gflop(spec)} if spec.trains else {}
            if not record["environment"].get("blocks_from_cache"):  # else it is the speed of the rest of the network
                parts["evaluation"] = views(record["spec"]) * data["test_images"] * forward_gflop(spec)
            for kind, gflop in parts.items():
                spent[kind == "evaluation"] += record[kind]["seconds"]
                done[kind == "evaluation"] += gflop
        except (PelError, KeyError, TypeError):
            continue  # of another program or version: its speed says nothing
    if all(spent):
        return Speed(done[0] / spent[0], done[1] / spent[1], "measured in finished runs")
    return stored_speed(study.results, backbone)


def throughput_file(results: Path) -> Path:
    """The file in which `measure_throughput` stores speeds, by host and backbone."""
    return results / "calibration.json"


def stored_speed(results: Path, backbone: str) -> Speed | None:
    """The speed that `measure_throughput` last stored for this host; None without one."""
    path = throughput_file(results)
    found = read_json(path).get(socket.gethostname(), {}).get(backbone) if path.is_file() else None
    return Speed(found["train"], found["evaluate"], f"measured by a short calibration on {found['device']}") if found else None


def on_paper(device: str, train: Mapping[str, float], evaluate: Mapping[str, float]) -> float:
    """Hours on a device of ``SHEETS``, for GFLOP by precision of training and evaluation."""
    sheet = SHEETS[device]
    works = [*train.items(), *evaluate.items()]
    return sum(gflop / (1e3 * REACHED * sheet[precision]) for precision, gflop in works) / 3600
