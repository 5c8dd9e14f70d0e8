"""RunResult: one ``metrics.json`` per run, read strictly, and the vocabulary of the values in it. Torch-free.

A result is used only if it is there, comes from this engine and stores the spec its name means now.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pel_core.errors import PelError, unknown
from pel_core.files import read_json
from pel_core.spec import ENGINE, RunSpec, differences


@dataclass(frozen=True)
class Metric:
    """How a value is called and which end of it is good."""

    label: str
    better: Literal["higher", "lower", "neither"] = "higher"


# What evaluation writes under "metrics". A new name here re-evaluates every run and trains none.
METRICS: dict[str, Metric] = {
    "overall": Metric("Overall accuracy (%)"),
    "head": Metric("Head accuracy (%)"),
    "med": Metric("Medium accuracy (%)"),
    "tail": Metric("Tail accuracy (%)"),
    "mean_class": Metric("Mean per-class accuracy (%)"),
    "error_rate": Metric("Error rate (%)", "lower"),
    "macro_f1": Metric("Macro F1 (%)"),
    "worst_class": Metric("Worst class accuracy (%)"),
    "hmean": Metric("Harmonic mean of class accuracies (%)"),
    "gmean": Metric("Geometric mean of class accuracies (%)"),
    "ece": Metric("Expected calibration error (%)", "lower"),
    "nll": Metric("Negative log-likelihood", "lower"),
}
# The other parts of metrics.json a study may print from, as dotted paths: parameters.head, evaluation.images_per_second.
SECTIONS = ("metrics", "parameters", "training", "evaluation", "data", "spec", "backbone")


def value_path(text: str) -> str:
    """A value as a study writes it -> its dotted path in metrics.json: ``tail`` -> ``metrics.tail``.

    Raises:
        PelError: neither a metric nor a path into one of the sections.
    """
    if text in METRICS:
        return f"metrics.{text}"
    section, _, rest = text.partition(".")
    if section not in SECTIONS or not rest or (section == "metrics" and rest.split(".")[0] not in (*METRICS, "per_class")):
        raise unknown("value", text, METRICS, f"Or give a path such as parameters.head; sections: {', '.join(SECTIONS)}.")
    return text


def metrics_file(results: str | Path, slug: str) -> Path:
    """Where a run's result lies."""
    return Path(results) / "runs" / slug / "metrics.json"


def read_result(results: str | Path, spec: RunSpec, accept: Collection[str] = ()) -> dict[str, Any]:
    """A run's result.

    Args:
        results: the results folder.
        spec: the run.
        accept: slugs whose results of another engine are accepted by name.

    Raises:
        PelError: it is missing, stale (of another engine), or of another spec than the slug means now; each names the run
            and says what to do.
    """
    path = metrics_file(results, spec.slug)
    if not path.is_file():
        raise PelError(
            f"the run {spec.slug} has no result: {path} is missing. Make it with: snakemake --cores 1 --resources gpu=1 '{path}'"
        )
    record = read_json(path)
    if reason := complaint(record, spec, accept):
        raise PelError(f"{path}: {reason}")
    return record


def complaint(record: Any, spec: RunSpec, accept: Collection[str] = ()) -> str:
    """Why a record cannot stand for ``spec`` now; empty where it can."""
    if not isinstance(record, Mapping) or not {"slug", "engine", "spec", "metrics"} <= set(record):
        return "not a result of this program (slug, engine, spec and metrics are expected); delete it and run again"
    if record["slug"] != spec.slug:
        return f"it holds the result of {record['slug']}; delete the folder and run again"
    if record["engine"] != ENGINE and spec.slug not in accept:
        return (
            f"stale: made by engine {record['engine']}, this is engine {ENGINE}, whose numbers may differ. "
            f"Delete the folder and run again, or accept it by name in the config (accept: ['{spec.slug}'])"
        )
    if changed := differences(record["spec"], spec):
        return (
            f"the name {spec.slug} means something else now ({'; '.join(changed)}): a default or recipe changed. "
            "Delete the folder and run again, or change it back"
        )
    return ""


def lookup(record: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of a result.

    Raises:
        PelError: nothing is there; the message names the run, the part that is missing and what there is.
    """
    here: Any = record
    for index, word in enumerate(path.split(".")):
        if isinstance(here, list) and word.isdigit() and int(word) < len(here):
            here = here[int(word)]
        elif isinstance(here, list) and word == "last" and here:
            here = here[-1]
        elif isinstance(here, Mapping) and word in here:
            here = here[word]
        else:
            where, known = ".".join(path.split(".")[:index]) or "the result", here if isinstance(here, Mapping) else ()
            hint = f"in {where} of {record['slug']}. A result older than a metric: evaluate the run again"
            raise unknown("value", word, known, hint)
    return here


def number(record: Mapping[str, Any], path: str) -> float | None:
    """A number of a result; None where the result says that there is none (an empty shot group).

    Raises:
        PelError: nothing is there, or it is no number.
    """
    value = lookup(record, path)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise PelError(f"{path} of {record['slug']} is {str(value)[:60]!r}, not a number")
    return value


def why_none(record: Mapping[str, Any], path: str) -> str:
    """The stated reason for a null metric."""
    return record["metrics"].get("null_reasons", {}).get(path.removeprefix("metrics."), "no reason is stored")
