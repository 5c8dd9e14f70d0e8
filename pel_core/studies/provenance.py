"""What Snakemake compares between calls: a job is run again when one of these texts changes, and only then.

They hold what changes a number, nothing cosmetic and no path; values at their code default stay out, so that a new field
with a default reruns nothing. Snakemake itself watches the inputs.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.fingerprints import canonical, departing_fields, fingerprint, later_engine
from pel_core.models.backbones import BACKBONES, local_weights
from pel_core.spec.plugins import with_plugins
from pel_core.spec.results import METRICS
from pel_core.spec.run_spec import DEFAULTS, RunSpec, is_evaluation


def train_params(spec: RunSpec, engine: int, sentences: Iterable[str] = ()) -> str:
    """Of a training run: the spec's departures from code defaults, evaluation's left out, and the sentences it starts from."""
    return canonical(
        {"engine": engine, "spec": _departures(spec, training=True), **with_plugins(spec.train), **_sentences(sentences)}
    )


def evaluate_params(spec: RunSpec, engine: int, sentences: Iterable[str] = ()) -> str:
    """Of an evaluation. A new metric evaluates again, and trains nothing."""
    return canonical(
        {
            "engine": engine,
            "spec": _departures(spec, training=False),
            "metrics": list(METRICS),
            **with_plugins(spec),
            **_sentences(sentences),
        }
    )


def _sentences(files: Iterable[str]) -> dict[str, list[str]]:
    return {"descriptions": prints} if (prints := [fingerprint(file) for file in files]) else {}


def backbone_params(name: str, weights: str | None = None) -> str:
    """Of a converted backbone: its entry, and the content of a bundled or local weights file, wherever it lies, or a hub name.

    Raises:
        PelError: an unknown backbone, or the weights do not exist.
    """
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES)
    # The interpolation is what upstream does, not what a run does.
    entry = {key: value for key, value in departing_fields(BACKBONES[name]).items() if key not in ("label", "interpolation")}
    hub = weights is not None and local_weights(weights) is None
    prints = [weights] if hub else [fingerprint(path) for path in _weight_files(name, local_weights(weights))]
    return canonical({"entry": entry, "weights": prints, **later_engine()})


def _weight_files(name: str, given: Path | None) -> list[Path]:
    if given is not None and not given.exists():
        raise PelError(f"weights of {name}: {given} does not exist")
    if given is None and BACKBONES[name].source != "bundled":
        return []
    path = given if given is not None else BACKBONES[name].folder
    read = (".safetensors", ".bin", ".json", ".gz")  # of a model folder, not its card
    return sorted(item for item in path.rglob("*") if item.suffix in read) if path.is_dir() else [path]


def _departures(spec: RunSpec, training: bool) -> dict[str, Any]:
    """What departs from code defaults, and what has none; ``training``: of what training reads alone."""
    names = {"dataset": spec.dataset, "backbone": spec.backbone, "method": spec.method, "seed": spec.seed}
    return names | {name: value for name, value in spec.departures(DEFAULTS).items() if not (training and is_evaluation(name))}
