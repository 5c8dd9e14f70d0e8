"""What a study will run and what that costs, before anything starts. Torch-free."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pel_core.config import shown
from pel_core.datasets import DATASETS, split_name
from pel_core.demo.stand_ins import STAND_INS
from pel_core.errors import PelError
from pel_core.files import read_json
from pel_core.options import VIEWS
from pel_core.sampling import long_tail_counts
from pel_core.spec import RunSpec
from pel_core.studies import Study

# Images of the public data sets (training, test), for a plan made before they are prepared.
PUBLIC = {"imagenet-lt": (115_846, 50_000), "places-lt": (62_500, 36_500), "inat2018": (437_513, 24_426)}
CIFAR_TEST = 10_000
SPEEDS = (100, 100_000)  # GFLOP/s that a CPU core and a GPU may reach here
PARALLEL = "Runs are independent: N CPU cores, or N GPUs of a cluster, take about an Nth of the time."


@dataclass(frozen=True)
class Work:
    """Images a run passes through the network in training (epochs counted) and evaluation (crops counted), and its GFLOP."""

    train: int
    evaluate: int
    gflop: float


def forward_gflop(spec: RunSpec) -> float:
    """GFLOP of one image through the frozen ViT (a multiply-add counts two); ViT-B/16 at 224: 35."""
    vit = spec.vit
    patches = (spec.pixels // vit.patch) ** 2
    tokens = patches + 1
    block = 24 * tokens * vit.width**2 + 4 * tokens**2 * vit.width
    return (vit.layers * block + 2 * patches * 3 * vit.patch**2 * vit.width) / 1e9


def data_size(study: Study, name: str) -> tuple[int, int] | None:
    """Training and test images of a data set: as prepared, else as declared; None where neither is known."""
    base, ratio = split_name(name)
    path = study.results / "data" / base / "data.json"
    if path.is_file():
        about = read_json(path)
        counts = about["train_counts"]
        if about["ratios"] != "any":
            return sum(counts.get(f"{ratio:g}" if ratio else "", [])), about["test_images"]
        return _pool(len(counts[""]), counts[""][0], ratio), about["test_images"]
    if base in STAND_INS:
        world = STAND_INS[base]
        counts = world.train_counts(None if world.profile else ratio or 1)
        return sum(counts), world.test_per_class * len(world.classes)
    if base == "cifar100":
        return _pool(*DATASETS[base].pool, ratio), CIFAR_TEST
    return PUBLIC.get(base)


def _views(spec: Mapping[str, Any]) -> int:
    return VIEWS.get(spec["tte"]) or int(spec.get("crops", 1))


def _pool(classes: int, largest: int, ratio: float | None) -> int:
    return int(long_tail_counts(classes, largest, ratio or 1).sum())


def work(study: Study, spec: RunSpec) -> Work | None:
    """What a run costs; None where the size of its data is not known yet. A training step costs two forward passes."""
    size = data_size(study, spec.dataset)
    if size is None:
        return None
    train, test = spec.epochs * size[0] * spec.trains, _views(spec.to_json()) * size[1]
    return Work(train, test, (2 * train + test) * forward_gflop(spec))


def rates(study: Study, backbone: str) -> tuple[float, float] | None:
    """Seconds per image in training and evaluation, measured: of the finished runs with this backbone under results."""
    spent = {"training": [0.0, 0], "evaluation": [0.0, 0]}
    for path in sorted((study.results / "runs").glob(f"*.{backbone}.*/metrics.json")):
        try:
            record = read_json(path)
            spec, data = record["spec"], record["data"]
            images = {"training": spec["epochs"] * data["train_images"], "evaluation": _views(spec) * data["test_images"]}
            for kind, count in images.items():
                spent[kind][0] += record[kind]["seconds"]
                spent[kind][1] += count
        except (PelError, KeyError, TypeError):
            continue  # of another program or version: its speed says nothing
    if not all(count for _, count in spent.values()):
        return None
    return spent["training"][0] / spent["training"][1], spent["evaluation"][0] / spent["evaluation"][1]


def plan(study: Study) -> str:
    """The plan in words: what is there, what is missing, how many images that is and how long it will take."""
    states = {slug: study.state(slug) for slug in study.specs}
    missing = [study.specs[slug] for slug, state in states.items() if state != "done"]
    unusable = {slug: state for slug, state in states.items() if state not in ("done", "missing")}
    to_train = {spec.train.slug: spec for spec in missing if spec.trains and not _trained(study, spec)}
    lines = [
        f"{study.title}: {shown(study.path)} on {shown(study.config_path)} ({study.config['title']})",
        f"Makes {', '.join(study.artefacts)}; seeds {', '.join(map(str, study.seeds))}.",
        *(f"Leaves out {', '.join(names)}: {reason}." for reason, names in _by_reason(study).items()),
        f"Runs: {len(states)}, of which {len(states) - len(missing)} done, {len(missing)} missing; "
        f"to train {len(to_train)}, to evaluate {len(missing)}.",
    ]
    lines += [f"  cannot be used: {slug}: {state}" for slug, state in list(unusable.items())[:5]]
    lines += [f"  ... and {len(unusable) - 5} more"] if len(unusable) > 5 else []
    if missing:
        lines += _cost(study, list(to_train.values()), missing)
    else:
        lines.append("Nothing is missing: tables and figures are drawn from what is there.")
    return "\n".join(lines)


def _by_reason(study: Study) -> dict[str, list[str]]:
    reasons = study.left_out.values()
    return {reason: [name for name, why in study.left_out.items() if why == reason] for reason in reasons}


def _trained(study: Study, spec: RunSpec) -> bool:
    return Path(study.delta(spec.slug)).is_file()


def _cost(study: Study, to_train: list[RunSpec], missing: list[RunSpec]) -> list[str]:
    costs = [(spec, work(study, spec)) for spec in missing]
    trained = [(spec, work(study, spec)) for spec in to_train]
    unknown = dict.fromkeys(spec.dataset for spec, cost in costs if cost is None)
    reason = "are not counted: their sizes are not known before they are prepared."
    lines = [f"Images and time of {', '.join(unknown)} {reason}"] if unknown else []
    if not any(cost for _, cost in costs):
        return lines
    lines.append(f"Images: {_sum(trained, 'train'):,} to train on, {_sum(costs, 'evaluate'):,} to evaluate (crops counted).")
    hours, unmeasured = 0.0, []
    for backbone, count in Counter(spec.backbone for spec in missing).items():
        of = [pair for pair in trained if pair[0].backbone == backbone], [pair for pair in costs if pair[0].backbone == backbone]
        rate = rates(study, backbone)
        if not any(cost for _, cost in of[1]):
            continue  # of unknown sizes only, which is said above
        if rate is None:
            gflop = 2 * sum(cost.train * forward_gflop(spec) for spec, cost in of[0] if cost)
            gflop += sum(cost.evaluate * forward_gflop(spec) for spec, cost in of[1] if cost)
            times = [f"{spell(gflop / speed / 3600)} at {speed / 1e3:g} TFLOP/s" for speed in SPEEDS]
            unmeasured.append(f"{count_of(count, 'run')} on {backbone}: about {_tflop(gflop)}, {', '.join(times)}")
        else:
            hours += (rate[0] * _sum(of[0], "train") + rate[1] * _sum(of[1], "evaluate")) / 3600
    if hours:
        lines.append(f"Time, at the rate measured in finished runs: about {spell(hours)} on one device. {PARALLEL}")
    if unmeasured:
        lines.append(f"No run has been timed yet, so hours are not known. {'; '.join(unmeasured)}. {PARALLEL}")
    return lines


def _sum(pairs: Iterable[tuple[RunSpec, Any]], name: str) -> int:
    return sum(getattr(cost, name) for _, cost in pairs if cost)


def spell(hours: float) -> str:
    """A length of time in words."""
    if hours >= 1:
        return f"{hours:.1f} hours"
    return count_of(round(60 * hours), "minute") if hours >= 1 / 60 else "less than a minute"


def count_of(number: int, word: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def _tflop(gflop: float) -> str:
    return f"{gflop / 1e3:,.0f} TFLOP" if gflop >= 1e3 else f"{gflop:.2g} GFLOP"
