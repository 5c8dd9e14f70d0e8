"""What Snakemake compares between calls: a job is run again when one of these texts changes, and only then.

They hold what changes a number, nothing cosmetic and no path; values at their code default stay out, so that a new field
with a default reruns nothing. Snakemake itself watches the inputs.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.fingerprints import canonical, departing_fields, fingerprint, later_preparation
from pel_core.data.test_sets import RULES
from pel_core.models.backbones import BACKBONES, find_backbone, local_weights
from pel_core.spec.options import is_evaluation
from pel_core.spec.plugins import with_plugins
from pel_core.spec.run_spec import DEFAULTS, RunSpec

# These texts were there before stages had versions of their own and scoring was one: what they say at version 1 stays letter for
# letter, so that results from then are neither trained nor predicted again. TRAIN is spelled `engine`; a prediction's text holds
# the metrics there were, which nothing depends on any more.
FIRST_METRICS = [
    "overall", "head", "med", "tail", "mean_class", "error_rate", "macro_f1", "worst_class", "hmean", "gmean", "ece", "nll",
]  # fmt: skip


NO_TEST_SET: Mapping[str, Any] = MappingProxyType({})


def train_params(spec: RunSpec, train: int, sentences: Iterable[str] = (), texts: str = "") -> str:
    """Of a training run: the spec's departures from code defaults, evaluation's left out, and the sentences it starts from.

    ``train`` is the version of the stage, ``texts`` the digest of the run's text set.
    """
    about = {"engine": train, "spec": _departures(spec, training=True), **with_plugins(spec.train)}
    return canonical({**about, **_sentences(sentences, texts)})


def predict_params(
    spec: RunSpec,
    made: Mapping[str, int],
    sentences: Iterable[str] = (),
    test_set: Mapping[str, Any] = NO_TEST_SET,
    texts: str = "",
) -> str:
    """Of an evaluation's predictions, by the versions of the stages; neither SCORE nor a metric changes them.

    ``test_set``: what the configuration says of another data set that is evaluated on, its file of classes by its content;
    ``texts``: the digest of the run's text set.
    """
    if test_set.get("classes", RULES[0]) not in RULES:
        test_set = {**test_set, "classes": fingerprint(test_set["classes"])}
    later = {"predict": made["predict"]} if made["predict"] > 1 else {}
    train = made["train"] if spec.trains else 1
    about = {"engine": train, "spec": _departures(spec, training=False), "metrics": FIRST_METRICS}
    also = {"test_set": dict(test_set)} if test_set else {}
    return canonical({**about, **later, **with_plugins(spec), **_sentences(sentences, texts), **also})


def _sentences(files: Iterable[str], texts: str) -> dict[str, Any]:
    told: dict[str, Any] = {"texts": texts} if texts else {}
    return told | ({"descriptions": prints} if (prints := [fingerprint(file) for file in files]) else {})


def backbone_params(name: str, weights: str | None = None) -> str:
    """Of a converted backbone: its entry, and the content of a bundled or local weights file, wherever it lies, or a hub name.

    Raises:
        PelError: an unknown backbone, or the weights do not exist.
    """
    find_backbone(name)
    # The interpolation is what upstream does, not what a run does.
    entry = {key: value for key, value in departing_fields(BACKBONES[name]).items() if key not in ("label", "interpolation")}
    hub = weights is not None and local_weights(weights) is None
    prints = [weights] if hub else [fingerprint(path) for path in weight_files(name, weights)]
    return canonical({"entry": entry, "weights": prints, **later_preparation()})


def weight_files(name: str, weights: str | None) -> list[Path]:
    """The bundled or local files that a backbone's weights are read from; none for weights of the hub.

    Raises:
        PelError: they do not exist.
    """
    given = local_weights(weights)
    if given is not None and not given.exists():
        raise PelError(f"weights of {name}: {given} does not exist")
    if given is None and (weights is not None or BACKBONES[name].source != "bundled"):
        return []
    path = given if given is not None else BACKBONES[name].folder
    read = (".safetensors", ".bin", ".json", ".gz")  # of a model folder, not its card
    return sorted(item for item in path.rglob("*") if item.suffix in read) if path.is_dir() else [path]


def _departures(spec: RunSpec, training: bool) -> dict[str, Any]:
    """What departs from code defaults, and what has none; ``training``: of what training reads alone."""
    names = {"dataset": spec.dataset, "backbone": spec.backbone, "method": spec.method, "seed": spec.seed}
    return names | {name: value for name, value in spec.departures(DEFAULTS).items() if not (training and is_evaluation(name))}
