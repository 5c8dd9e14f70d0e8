"""What of a study was made from other inputs than there are now: data, weights, sentences, and runs that read earlier ones.

Snakemake compares what it remembers. This compares what the files themselves say, so that a results folder is judged alike in
another clone, after a move, and without ``.snakemake``. Torch-free.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, sha256, write_json
from pel_core.common.logs import logger
from pel_core.common.shipped import snakemake_or_make
from pel_core.data.datasets import split_name
from pel_core.ingest.contents import changed_files
from pel_core.ingest.identity import data_params, is_other, keep_params, other_params, require_same_place
from pel_core.ingest.sources import open_source
from pel_core.models.backbones import BACKBONES
from pel_core.models.prompts import DESCRIBED
from pel_core.spec.results import OUTPUTS, metrics_file, read_other_inputs, run_folder, train_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.spec.stored_predictions import lacking
from pel_core.studies import provenance
from pel_core.studies.config import shown

if TYPE_CHECKING:
    from pel_core.studies.study import Study


def other_inputs(study: "Study", refused: dict[str, str]) -> dict[str, str]:
    """The prepared files of a study (data.json, backbone.json, text features) that are of other inputs than there are, and why.

    What is not prepared yet is not among them. A folder of before, which does not say what it was made from, is taken to be right
    where nothing contradicts it.

    Args:
        study: the study.
        refused: takes, by data set, why its images cannot be used: they are not there, or are others in another place.
    """
    found = {}
    for base in sorted({base for spec in (*study.trainings.values(), *study.planned.values()) for base in spec.data_bases}):
        folder = study.results / "data" / base
        try:
            reason = _other_data(study, base, folder)
        except PelError as error:
            refused[base] = str(error)
            continue
        if reason:
            found[f"{folder}/data.json"] = f"the images of {base} are not those that {shown(folder)} was prepared from: {reason}"
    for name in sorted({spec.backbone for spec in study.trainings.values()}):
        folder = study.results / "backbones" / name
        if (folder / "backbone.json").is_file() and (reason := _other_weights(study, name, folder)):
            found[f"{folder}/backbone.json"] = f"the weights of {name} are not those that {shown(folder)} was made from: {reason}"
    return found | _other_text(study)


def _other_data(study: "Study", base: str, folder: Path) -> str:
    source = open_source(base, study.bindings.datasets[base], study.config).locate()
    study.params[base] = params = data_params(base, study.bindings.datasets, study.config)
    files = changed_files(source, folder)
    if source.root and (files or (source.is_users and is_other(folder, params))):
        require_same_place(folder, base, source.root)
    reason = other_params(folder, params) or files
    if not reason:
        keep_params(folder, source.root, params)
    return reason


def _other_weights(study: "Study", name: str, folder: Path) -> str:
    """Why the prepared weights are not what the study asks for now. What they were made from lies beside them as text."""
    params, path = study.backbone_params(name), folder / "source.json"
    if path.is_file():
        was, now = json.loads(read_json(path, ("params",))["params"]), json.loads(params)
        return ", ".join(f"{key} changed" for key in sorted({*was, *now}) if was.get(key) != now.get(key))
    weights = study.config.get("weights", {}).get(name)
    source = read_json(folder / "backbone.json").get("source", {})
    if reason := _contradicts(name, weights, source):
        return reason
    if source:
        with suppress(OSError):
            write_weights_source(folder, params)
    return ""


def write_weights_source(folder: str | Path, params: str) -> None:
    """Say what a backbone was converted from (`provenance.backbone_params`)."""
    write_json(Path(folder) / "source.json", {"params": params})


def _contradicts(name: str, weights: str | None, source: dict[str, Any]) -> str:
    """Of a backbone that was converted before that was written down: whether its record fits what is asked for."""
    entry = BACKBONES[name]
    if not source or entry.source == "random":
        return ""
    files = provenance.weight_files(name, weights)
    if files:
        there = source.get("sha256") in {sha256(path) for path in files}
        return "" if there else f"it was made from {source.get('file')} ({str(source.get('sha256'))[:12]})"
    asked = weights is not None or "hub" in source or source.get("tag") in (entry.tag, entry.arch)
    return "" if asked else f"it was made from the file {source.get('file')}, which is not named now"


def _other_text(study: "Study") -> dict[str, str]:
    """Class-text features whose sentences, or whose text set, are others now."""
    found = {}
    for slug, spec in study.trainings.items():
        path = study.prepared(slug).get("text") if spec.reads_prompt and not study.accepted(slug) else None
        if not path or path in found:
            continue
        if spec.prompt == DESCRIBED and (stored := _descriptions(Path(path))):
            for file in study.descriptions(split_name(spec.dataset)[0], spec.prompt):
                if sha256(file) != stored:
                    found[path] = f"{file} is not the file of sentences that {shown(path)} was made from"
        elif (digest := study.text_digest(spec)) and (stored := _descriptions(Path(path), "texts")) and stored != digest:
            found[path] = f"prompt {spec.prompt}: the texts are not those that {shown(path)} was made from"
    return found


def _descriptions(path: Path, key: str = "descriptions") -> str:
    """The SHA-256 of the sentences (or of the text set, ``texts``) that a file of text features was made from: safetensors, whose
    header is JSON after its length in 8 bytes."""
    try:
        with open(path, "rb") as handle:
            header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
        return header["__metadata__"].get(key, "")
    except (OSError, ValueError, KeyError, OverflowError, MemoryError, AttributeError, TypeError):
        return ""  # missing or damaged: whoever reads it says so


def other_runs(study: "Study", inputs: dict[str, str]) -> dict[str, str]:
    """The files of finished runs (delta.safetensors, metrics.json) made from other inputs, or from other parents, than there are
    now, and why; and predictions that are damaged, which Snakemake, to whom they are there, would keep.

    Those whose prepared files are made again themselves (``inputs``) are not among them: they follow.
    """
    found = {}
    there = {path.name for path in (study.results / "runs").glob("*")}
    for slug, spec in study.trainings.items():
        if train_folder(study.results, slug).name not in there:
            continue
        if study.accepted(slug) or any(file in inputs for file in study.prepared(slug).values()):
            continue
        for file, record, of in _records(study, slug, spec):
            if file not in found and (reason := read_other_inputs(record, of, study.results)):
                found[file] = f"{of.slug}: {reason}"
                break  # what follows from it is made again with it
        else:
            if lacking(study.results, slug) == "damaged":
                file = metrics_file(study.results, slug).with_name(OUTPUTS[0])
                found[str(file)] = f"{slug}: {shown(file)} is damaged"
    return found


def _records(study: "Study", slug: str, spec: RunSpec) -> Iterator[tuple[str, Path, Any]]:
    if spec.trains:
        yield study.delta(slug), run_folder(study.results, spec.train.slug) / "train.json", spec.train
    yield str(metrics_file(study.results, slug)), metrics_file(study.results, slug), spec


def require_same_data(study: "Study", name: str) -> None:
    """See that an artefact is not drawn from runs on images that have changed since. Images that are not here are not compared,
    which is said.

    Raises:
        PelError: they have changed.
    """
    for base, why in study.try_inputs().items():
        if (study.results / "data" / base / "data.json").is_file():
            logger.info("note: %s is drawn without a look at the images of %s: %s", name, base, why)
    for slug in study.artefact(name).specs:
        files = study.prepared(slug)
        other = next((study.others[files[kind]] for kind in ("data", "test_set") if files.get(kind) in study.others), "")
        if other and not study.accepted(slug):
            raise PelError(f"{name}: {other}. Start {snakemake_or_make()}, which makes again what was made from it")


def told(stale: dict[str, str]) -> list[str]:
    """What is made again and why, a line each, for the person who started Snakemake."""
    reasons = list(dict.fromkeys(stale.values()))
    lines = [f"made again: {reason}" for reason in reasons[:5]]
    return lines + ([f"made again: {len(reasons) - 5} more, for reasons like these"] if len(reasons) > 5 else [])
