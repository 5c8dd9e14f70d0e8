"""What Snakemake compares between calls: a job is run again when one of these texts changes, and only then.

They hold what changes a number, nothing cosmetic and no path; values at their code default stay out, so that a new field
with a default reruns nothing. Snakemake itself watches the inputs.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from pel_core.backbones import BACKBONES, local_weights
from pel_core.datasets import FORMAT, OWN_KINDS, LongTailed
from pel_core.demo.stand_ins import STAND_INS
from pel_core.errors import PelError, unknown
from pel_core.naming import naming_of
from pel_core.numerics import ENGINE
from pel_core.own_files import content_print, locate
from pel_core.results import METRICS
from pel_core.roots import find_lists
from pel_core.spec import DEFAULTS, EVALUATION, RunSpec

END = 32 * 2**20  # bytes hashed at either end of a large file


def canonical(value: Any) -> str:
    """JSON with one spelling."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=list)


def fingerprint(path: str | Path) -> str:
    """A short digest of a file's content: whole up to 64 MB, else size and both ends. Moving or touching it changes nothing.

    Raises:
        PelError: the file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise PelError(f"{path} does not exist")
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as handle:
        digest.update(handle.read(END))
        handle.seek(max(END, size - END))
        digest.update(handle.read())
    return digest.hexdigest()[:16]


def train_params(spec: RunSpec, engine: int, sentences: Iterable[str] = ()) -> str:
    """Of a training run: the spec's departures from code defaults, evaluation's left out, and the sentences it starts from."""
    return canonical({"engine": engine, "spec": _departures(spec, EVALUATION), **_sentences(sentences)})


def evaluate_params(spec: RunSpec, engine: int, sentences: Iterable[str] = ()) -> str:
    """Of an evaluation. A new metric evaluates again, and trains nothing."""
    return canonical({"engine": engine, "spec": _departures(spec, ()), "metrics": list(METRICS), **_sentences(sentences)})


def _sentences(files: Iterable[str]) -> dict[str, list[str]]:
    return {"descriptions": prints} if (prints := [fingerprint(file) for file in files]) else {}


def data_params(base: str, datasets: Mapping[str, LongTailed], config: Mapping[str, Any]) -> str:
    """Of a prepared data set: its entry and the content of its list files, wherever they lie.

    Raises:
        PelError: it is not declared, or a list file does not exist.
    """
    if base not in datasets:
        raise unknown("data set", base, datasets)
    entry = datasets[base]
    plain = {key: value for key, value in _departing(entry).items() if key not in ("root", "recipe", "pool")}
    source: Any = {}
    if entry.kind == "lists":
        source = {name: fingerprint(path) for name, path in find_lists(base, entry, config).items()}
    if entry.kind in OWN_KINDS:
        source = content_print(base, locate(base, entry))
    if entry.kind == "rendered":  # a change of the renderer itself raises the engine
        world = {key: value for key, value in asdict(STAND_INS[base]).items() if key != "recipe"}
        source = {"engine": ENGINE, "world": world}
    return canonical({"format": FORMAT, "entry": plain, "source": source, **_naming(base, config), **_later_engine()})


def _naming(base: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says about class names, where it does, and the content of a names file of the user's own."""
    options = _departing(naming_of(config, base))
    if "file" in options:
        options["file"] = fingerprint(options["file"])
    return {"naming": options} if options else {}


def _later_engine() -> dict[str, int]:
    """Nothing for the first engine, as for any value at its default."""
    return {"engine": ENGINE} if ENGINE > 1 else {}


def backbone_params(name: str, weights: str | None = None) -> str:
    """Of a converted backbone: its entry, and the content of a bundled or local weights file, wherever it lies, or a hub name.

    Raises:
        PelError: an unknown backbone, or the weights do not exist.
    """
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES)
    # The interpolation is what upstream does, not what a run does.
    entry = {key: value for key, value in _departing(BACKBONES[name]).items() if key not in ("label", "interpolation")}
    hub = weights is not None and local_weights(weights) is None
    prints = [weights] if hub else [fingerprint(path) for path in _weight_files(name, local_weights(weights))]
    return canonical({"entry": entry, "weights": prints, **_later_engine()})


def _weight_files(name: str, given: Path | None) -> list[Path]:
    if given is not None and not given.exists():
        raise PelError(f"weights of {name}: {given} does not exist")
    if given is None and BACKBONES[name].source != "bundled":
        return []
    path = given if given is not None else Path(__file__).parent / BACKBONES[name].arch
    read = (".safetensors", ".bin", ".json", ".gz")  # of a model folder, not its card
    return sorted(item for item in path.rglob("*") if item.suffix in read) if path.is_dir() else [path]


def _departing(entry: Any) -> dict[str, Any]:
    """The fields of a dataclass value that differ from their declared default."""
    plain = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(entry)}
    return {name: value for name, value in asdict(entry).items() if plain[name] is MISSING or value != plain[name]}


def _departures(spec: RunSpec, without: tuple[str, ...]) -> dict[str, Any]:
    values = spec.to_json()
    return {name: value for name, value in values.items() if name not in without and DEFAULTS.get(name, MISSING) != value}
