"""The model card of a trained run: metadata inside ``delta.safetensors``, and a README.md as the Hugging Face hub reads it.

The metadata is all that is needed, with the backbone, to use the file elsewhere: spec, class names, hashes. It holds no time and
no place, so that the same training gives the same bytes.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pel_core import __version__
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_text
from pel_core.common.shipped import program
from pel_core.common.versions import made_by, versions
from pel_core.data.datasets import DATASETS
from pel_core.models.backbones import BACKBONES, repository
from pel_core.models.methods import METHODS
from pel_core.spec.options import evaluation_options, is_evaluation
from pel_core.spec.posthoc import is_ensemble
from pel_core.spec.results import METRICS
from pel_core.spec.run_spec import RunSpec

CARD = "README.md"


def card_metadata(record: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, str]:
    """The metadata of a run's ``delta.safetensors``: texts, most of them JSON.

    Args:
        record: as `run_inputs.describe` gives it.
        class_names: of the C rows of the head, in order.
    """
    import torch  # a card is written where it is not needed, too

    data = {key: record["data"][key] for key in ("name", "classes", "sha256")}
    backbone = {key: record["backbone"][key] for key in ("name", "arch", "sha256", "source_sha256")}
    made = {"pel_core": __version__, "torch": torch.__version__, "python": platform.python_version()}
    made |= versions("prepare", "train")
    parts = {"spec": record["spec"], "data": data, "class_names": list(class_names), "backbone": backbone, "versions": made}
    return {"format": "pt", "slug": record["slug"]} | {name: json.dumps(part, ensure_ascii=False) for name, part in parts.items()}


def write_card(folder: str | Path, record: Mapping[str, Any]) -> None:
    """Write the README.md of a training's folder, with every evaluation of this training that lies there.

    Args:
        record: what train.json says, or metrics.json of one of its evaluations.
    """
    written: list[Mapping[str, Any]] | None = None
    while (found := evaluations(Path(folder), record)) != written:  # another evaluation may end meanwhile, and write it too
        own = next((each for each in found if each["slug"] == RunSpec.parse(each["slug"]).train.slug), None)
        if own or (Path(folder) / "train.json").is_file():
            record = own or read_json(Path(folder) / "train.json")
        write_text(Path(folder) / CARD, model_card(record, found))
        written = found


def evaluations(folder: Path, record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The results of a training's evaluations, its own first: those of just this checkpoint, and of no ensemble."""
    found = []
    for path in [folder / "metrics.json", *sorted(folder.glob("*=*/metrics.json"))]:
        with suppress(PelError):  # not there, damaged, or of another program: tables refuse it by name
            each = read_json(path, ("slug", "spec", "data", "metrics", "evaluation"))
            if is_ensemble(RunSpec.parse(each["slug"])):
                continue
            if each.get("delta_sha256") in (None, record.get("delta_sha256")):  # None: of before it was kept
                found.append(each)
    return found


def model_card(record: Mapping[str, Any], evaluated: Sequence[Mapping[str, Any]] = ()) -> str:
    """A model card in the hub's form: YAML front matter, then Markdown.

    Args:
        record: what train.json says, or metrics.json of the training's own evaluation.
        evaluated: metrics.json of each evaluation.
    """
    import yaml

    spec = RunSpec.parse(record["slug"]).train
    writer = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's: the same text; 2,000 runs have 2,000 cards
    front = yaml.dump(front_matter(spec, evaluated), Dumper=writer, sort_keys=False, allow_unicode=True, width=1000)
    about = " + ".join(METHODS[part.name].about for part in spec.parts)
    data, backbone = record["data"], record["backbone"]
    groups = ", ".join(f"{count} {name}" for name, count in data["groups"].items())
    lines = [
        f"---\n{front}---\n",
        f"# {spec.slug}\n",
        f"{backbone['label']} with `{spec.method}` ({about}), fine-tuned on the long-tailed data set `{data['name']}`.",
        *notice(spec),
        "\n## Data",
        f"{data['train_images']} training images of {data['classes']} classes ({groups}), the largest with "
        f"{max(data['train_counts'])}, the smallest with {min(data['train_counts'])}. Content: SHA-256 `{data['sha256']}`.",
        "\n## Results",
        *([line for each in evaluated for line in results_of(each)] or ["Not evaluated yet."]),
        *_parameters(record),
        "\n## Use",
        f"`delta.safetensors` holds only what was trained; the backbone is `{backbone['name']}` ({backbone['arch']}), prepared "
        f"from weights of SHA-256 `{backbone['source_sha256']}`. Class names, spec and hashes are in the file's metadata.",
        "A command above answers new images with the crops of its evaluation, and the evaluated images as it did "
        "(`predictions.parquet`); `--results FOLDER` says where runs lie that are not in `results`."
        if evaluated
        else f"```\n{program()} predict --run {spec.slug} IMAGES...\n```",
        "\n## Training",
        "| option | value |\n|---|---|",
        *(f"| {name} | {'' if value is None else value} |" for name, value in record["spec"].items() if not is_evaluation(name)),
        *_environment(record),
    ]
    return "\n".join(lines) + "\n"


def front_matter(
    spec: RunSpec, evaluated: Sequence[Mapping[str, Any]], library: str = "pel-lab", relation: str = "adapter"
) -> dict[str, Any]:
    """The metadata that the hub reads of a card; ``relation``: what the file is to the backbone's weights, in the hub's words."""
    base = {"base_model": repo, "base_model_relation": relation} if (repo := repository(spec.backbone)) else {}
    tags = ["pel-lab", "long-tailed-recognition", "parameter-efficient-fine-tuning", *(part.name for part in spec.parts)]
    front = {
        "library_name": library,
        **base,
        "pipeline_tag": "image-classification",
        "tags": tags,
        "metrics": ["accuracy", "f1"],
    }
    if evaluated:
        front["model-index"] = [{"name": spec.slug, "results": [_index(each) for each in evaluated]}]
    return front


def _index(record: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation as the hub lists it; one that departs from the training's own says its options."""
    spec = RunSpec.parse(record["slug"])
    name = spec.evaluate_on or record["data"]["name"]  # whose images these numbers are of
    dataset = {"name": name, "type": spec.data_bases[-1], "split": spec.split}
    if spec.evaluate_on and record["test_set"]["images"] != "test":
        dataset["split"] = "all"
    dataset |= {} if spec == spec.train else {"args": evaluation_options(spec)}
    values = [{"type": kind, "name": label, "value": value} for kind, label, value in _metrics(record)]
    return {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": values}


def _metrics(record: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Type as the hub calls it, label and value of every metric that there is."""
    kinds = {"overall": "accuracy", "macro_f1": "f1"}
    values = record.get("metrics", {})
    there = [(name, metric.label) for name, metric in METRICS.items() if values.get(name) is not None]
    return [(kinds.get(name, name), label, round(values[name], 4)) for name, label in there]


def notice(spec: RunSpec) -> list[str]:
    """What has to stand before numbers that are a demo's."""
    return [f"\n**{told}**"] if (told := demo_notice(spec)) else []


def demo_notice(spec: RunSpec) -> str:
    """Why a run's numbers mean little: its images are the demo's, or its backbone is; else empty."""
    if any(base in DATASETS and DATASETS[base].synthetic for base in spec.data_bases):
        return "Demo: its images are rendered stand-ins; its numbers are not comparable with published ones."
    if BACKBONES[spec.backbone].source == "bundled":
        return "Dry run: its backbone is the demo's miniature one; its numbers say nothing about the methods."
    return ""


def results_of(record: Mapping[str, Any]) -> list[str]:
    """An evaluation: how it was made, by which command its numbers come again, and the numbers."""
    spec, evaluation = RunSpec.parse(record["slug"]), record["evaluation"]
    options = ", ".join(f"`{name}: {value}`" for name, value in evaluation_options(spec).items())
    images = f"`{spec.split}`"
    if spec.evaluate_on:
        other = record["test_set"]
        images += f" of another data set, `{other['name']}`, and logits of its {len(other['classes'])} classes alone"
    return [
        f"\nMean logit over {evaluation['crops']} crops ({options}) of {record['data']['test_images']} images of the split "
        f"{images}, one seed ({spec.seed}):",
        f"```\n{program()} predict --run {spec.slug} IMAGES...\n```",
        "| metric | value |\n|---|---:|",
        *(f"| {label} | {value:.2f} |" for _, label, value in _metrics(record)),
    ]


def _parameters(record: Mapping[str, Any]) -> list[str]:
    counts = record["parameters"]
    parts = ", ".join(f"{name} {count:,}" for name, count in counts["by_part"].items())
    trained = f"{counts['learnable']:,} learnable parameters" + (f" ({parts})" if parts else "")
    return ["\n## Parameters", f"{trained}, {counts['head']:,} in the head, {counts['frozen']:,} frozen."]


def _environment(record: Mapping[str, Any]) -> list[str]:
    keys = ("pel_core", "python", "torch", "device", "commit")
    there = record.get("environment", {})
    told = ", ".join(f"{key} {there[key]}" for key in keys if there.get(key))
    stages = ", ".join(f"{stage} {number}" for stage, number in made_by(record).items())
    return [f"\nVersions: {stages}{f'; {told}' if told else ''}."]
