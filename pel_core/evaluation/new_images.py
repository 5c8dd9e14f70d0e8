"""A trained run on new images: read as the run's evaluation reads its own, classified; the unreadable named and skipped.

Which run and which evaluation a name means: `run_names`; how it is opened: `trained_run`. Shapes: N images, B a batch, K crops,
R pixels a side, C classes, k of the most probable classes.
"""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, require_writable
from pel_core.common.logs import logger
from pel_core.common.shipped import program
from pel_core.data.image_files import SUFFIXES, count_suffixes, is_system, suffix_of
from pel_core.data.loading import EvalReader, RandomCrops, loader
from pel_core.data.resample import normalise
from pel_core.evaluation.outputs import printable, top_classes, write_csv, write_parquet
from pel_core.evaluation.predictions import TOP
from pel_core.evaluation.stored_logits import take_steps
from pel_core.evaluation.trained_run import open_run
from pel_core.hardware.devices import loader_workers, pick_device
from pel_core.spec.posthoc import is_ensemble, is_posthoc
from pel_core.spec.results import metrics_file, read_record, run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier
from pel_core.training.loop import predict

BATCH = 64  # images; that of an evaluation, so that its numbers come out again to the bit


@dataclass(frozen=True)
class Prediction:
    """The k most probable classes of an image file, in falling order."""

    path: str
    classes: list[int]
    names: list[str]
    probabilities: list[float]


def predict_files(
    run: str,
    images: Sequence[str],
    results: str | Path,
    out: str | Path | None = None,
    top: int = TOP,
    device: str = "auto",
    evaluation: str = "",
    among: Iterable[RunSpec] | None = None,
) -> None:
    """Classify image files with a trained run as its recorded evaluation does, and print a table or write one.

    Args:
        run, evaluation, among: as `find_run`.
        images: as `find_images`.
        results: the results folder, which holds the run (if it is a slug) and its backbone.
        out: a .csv or .parquet file to write instead of printing.
        top: how many classes to tell of each image.

    Raises:
        PelError: no such run or images, another file than the run's, or, after all others are classified, that some images could
            not be read.
    """
    if top < 1:
        raise PelError(f"--top {top}: expected 1 or more")
    out = None if out is None else Path(out)
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise PelError(f"--out {out}: expected a file that ends in .csv or .parquet")
    paths = find_images(images)
    spec, classifier, names = open_run(run, Path(results), target := pick_device(device), evaluation, among)
    steps = posthoc_steps(spec, Path(run), Path(results))
    if out is not None:
        require_writable(out.parent)
    errors: list[str] = []
    made = list(classify(spec, classifier, names, paths, target, top, errors, steps))
    if made and out is None:
        print("\n".join(table(made)))
    elif made and out is not None:
        write_table(out, made, spec.slug)
        print(f"{len(made)} images -> {out}")
    if errors:
        rest = f"; the other {len(made)} are {'above' if out is None else f'in {out}'}" if made else ""
        raise PelError(f"{len(errors)} of {len(paths)} images could not be read (each is named above){rest}")


def posthoc_steps(spec: RunSpec, run: Path, results: Path) -> Callable[[np.ndarray], np.ndarray]:
    """What a run's post-hoc steps do to logits, with the numbers that its result records.

    Raises:
        PelError: it has no result, or is an ensemble.
    """
    if not is_posthoc(spec):
        return lambda logits: logits
    if is_ensemble(spec):
        raise PelError(f"{spec.slug} is an ensemble of several trainings, and images are classified by one: name one of them")
    record = stored_result(spec, run, results)
    if record is None:
        raise PelError(f"{spec.slug} has no result, which says its post-hoc numbers: {program()} evaluate '{spec.slug}'")
    counts = _train_counts(spec, run, results) if spec.evaluate_on else record["data"]["train_counts"]
    return lambda logits: take_steps(logits, counts, record["posthoc"])


def _train_counts(spec: RunSpec, run: Path, results: Path) -> list[int]:
    """Training images of each class that a run answers with (C,): a result on another data set's images has those of some."""
    files = [folder / "train.json" for folder in (run, run.parent, run_folder(results, spec.train.slug))]
    for record in (read_json(file, ("slug", "data")) for file in files if file.is_file()):
        if record["slug"] == spec.train.slug:
            return record["data"]["train_counts"]
    raise PelError(
        f"{spec.slug}: no train.json says how many training images each class has, which its post-hoc steps take; name an "
        "evaluation on its own test images, or one without these steps"
    )


def stored_result(spec: RunSpec, run: Path, results: Path) -> dict[str, Any] | None:
    """The metrics.json of a run: in the folder that is given, in that of its evaluation, or in the results folder.

    Raises:
        PelError: one of them is damaged.
    """
    inside = spec.slug.removeprefix(f"{spec.train.slug}.")
    files = [run / "metrics.json", run / inside / "metrics.json", metrics_file(results, spec.slug)]
    records = (read_record(file) for file in files if file.is_file())
    return next((record for record in records if record["slug"] == spec.slug), None)


def find_images(words: Sequence[str]) -> list[str]:
    """The image files that words name, each once, in order: a file, a folder (with all below it whose suffix is an image's), a
    pattern with ``*``, ``?`` or ``[...]`` (``**`` for any folders), or ``@FILE``, a text file with a path a line.

    Raises:
        PelError: a word that names nothing.
    """
    found: dict[str, None] = {}
    for word in words:
        if word.startswith("@") and not os.path.exists(word):
            found |= dict.fromkeys(_listed(word[1:]))
        elif os.path.isdir(word):
            found |= dict.fromkeys(_walk(word))
        elif os.path.lexists(word):
            found[word] = None
        elif matches := sorted(path for path in glob.glob(word, recursive=True) if os.path.isfile(path)):
            found |= dict.fromkeys(matches)
        else:
            raise PelError(f"there is no image '{printable(word)}'; name files, folders, patterns or @LIST")
    return list(found)


def _listed(file: str) -> list[str]:
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PelError(f"the list @{file} cannot be read ({error}); expected a text file with a path a line") from None
    if not (paths := [line.removesuffix("\r") for line in lines if line.strip()]):
        raise PelError(f"the list @{file} is empty")
    return paths


def _walk(folder: str) -> list[str]:
    found, others = [], Counter()
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_system(name))
        for name in sorted(name for name in files if not is_system(name)):
            if suffix_of(name) in SUFFIXES:
                found.append(os.path.join(here, name))
            else:
                others[suffix_of(name) or "no suffix"] += 1
    if not found:
        seen = f", only {count_suffixes(others)}" if others else ""
        raise PelError(f"the folder {printable(folder)} holds no images ({', '.join(sorted(SUFFIXES))}){seen}")
    if others:
        logger.info("note: %s: left out, which are no images by their suffix: %s", printable(folder), count_suffixes(others))
    return found


class Reader(EvalReader):
    """As an evaluation reads, but what cannot be read is passed over: (uint8 (b, K, R, R, 3), indices (b,), errors)."""

    def __getitem__(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        crops, kept, errors = [], [], []
        for index in indices.tolist():
            try:
                crops.append(self._crops(index))
                kept.append(index)
            except PelError as error:
                errors.append(printable(str(error)))
        return torch.from_numpy(np.stack(crops)) if crops else torch.empty(0), kept, errors


def reading(spec: RunSpec) -> tuple[Any, ...]:
    """How a run's evaluation reads an image: what an `EvalReader` is told after its paths."""
    random = RandomCrops(spec.crops, spec.seed, spec.crop_min_scale)
    return spec.tte, spec.pixels, spec.expand, spec.interpolation, random, spec.reduction


def network_input(spec: RunSpec, crops: Tensor, device: torch.device) -> Tensor:
    """Crops uint8 (..., R, R, 3) as the network takes them: float32 (..., 3, R, R), normalised, on the device."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (spec.vit.mean, spec.vit.std))
    pixels = crops.to(device).movedim(-1, -3).float(memory_format=torch.contiguous_format)
    return normalise(pixels, mean, std)


def classify(
    spec: RunSpec,
    classifier: Classifier,
    names: Sequence[str],
    paths: Sequence[str],
    device: torch.device,
    top: int,
    errors: list[str],
    steps: Callable[[np.ndarray], np.ndarray] = lambda logits: logits,
) -> Iterator[Prediction]:
    """Classify image files (N,) with the run's own crops and post-hoc ``steps``; those that cannot be read are said, and added to
    ``errors``."""
    from tqdm import tqdm

    reader = Reader(list(paths), *reading(spec))
    keys = [np.arange(start, min(start + BATCH, len(paths))) for start in range(0, len(paths), BATCH)]
    batches = loader(reader, keys, device, loader_workers(True, device))
    for crops, kept, unread in tqdm(batches, total=len(keys), unit="batch", disable=None, leave=False):
        for error in unread:
            logger.warning("skipped: %s", error)
        errors += unread
        if not kept:
            continue
        logits = predict(classifier, [(network_input(spec, crops, device), Tensor())], precision=spec.eval_precision)
        classes, probabilities = top_classes(steps(logits.numpy()), top)
        for index, row, values in zip(kept, classes.tolist(), probabilities.tolist(), strict=True):
            yield Prediction(printable(paths[index]), row, [names[i] for i in row], values)


def table(predictions: Sequence[Prediction]) -> list[str]:
    """One line for each image: its path, then classes and probabilities."""
    shown = [_one_line(each.path) for each in predictions]
    width = min(60, max(map(len, shown)))
    pairs = (
        "  ".join(f"{_one_line(name)} {100 * value:.1f} %" for name, value in zip(each.names, each.probabilities, strict=True))
        for each in predictions
    )
    return [f"{path:<{width}}  {rest}" for path, rest in zip(shown, pairs, strict=True)]


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_table(out: Path, predictions: Sequence[Prediction], slug: str) -> None:
    """Write predictions as CSV (a row for each image, two columns for each further class) or Parquet (lists)."""
    k = len(predictions[0].classes)
    if out.suffix == ".csv":
        head = ["path", "prediction", "prediction_name", "probability"]
        head += [f"{column}_{place}" for place in range(2, k + 1) for column in ("name", "probability")]
        write_csv(out, head, map(_flat, predictions))
        return
    columns: dict[str, Any] = {"path": [each.path for each in predictions]}
    columns |= {"prediction": np.array([each.classes[0] for each in predictions], np.int32)}
    columns |= {"prediction_name": [each.names[0] for each in predictions]}
    columns |= {"probability": np.array([each.probabilities[0] for each in predictions], np.float32)}
    columns |= {"top": np.array([each.classes for each in predictions], np.int32)}
    columns |= {"top_names": [each.names for each in predictions]}
    columns |= {"top_probabilities": np.array([each.probabilities for each in predictions], np.float32)}
    write_parquet(out, columns, {"slug": slug})


def _flat(each: Prediction) -> Iterable[Any]:
    rest = [value for pair in zip(each.names[1:], each.probabilities[1:], strict=True) for value in pair]
    return [each.path, each.classes[0], each.names[0], each.probabilities[0], *rest]
