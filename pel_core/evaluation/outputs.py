"""What scoring leaves for others to build on, beside its numbers: every prediction, the confusions, the classes.

``predictions.parquet``, ``confusion.csv`` and ``classes.csv``, described in docs/outputs.md. pyarrow is imported only while the
first is written. Shapes: N images, C classes, k of the most probable classes.
"""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.files import replace_file
from pel_core.data.datasets import Prepared
from pel_core.data.roots import read_root
from pel_core.data.split import Split
from pel_core.evaluation.predictions import TOP, Predictions
from pel_core.spec.results import OUTPUTS
from pel_core.spec.run_spec import RunSpec

PREDICTIONS, CONFUSION, CLASSES = OUTPUTS


def top_classes(logits: np.ndarray, k: int = TOP) -> tuple[np.ndarray, np.ndarray]:
    """The k (or C) most probable classes int32 (N, k) of logits (N, C), and their probabilities float32 (N, k)."""
    said = Predictions.of(logits, np.zeros(len(logits), np.int64), k)
    return said.top_classes, said.top_probabilities


def write_outputs(folder: Path, spec: RunSpec, data: Prepared, results: Path, predictions: Predictions) -> None:
    """Write the three files of a run into its folder, each atomically.

    Args:
        folder: the run's.
        data: the prepared data set.
        results: the results folder, which knows where the data set's image files are.
        predictions: of the split that the run is evaluated on.
    """
    split, names = data.split(spec.split), data.class_names
    labels, classes, probabilities = predictions.labels, predictions.top_classes, predictions.top_probabilities
    table = {
        "index": np.arange(len(labels), dtype=np.int32) if split.rows is None else split.rows.astype(np.int32),
        "path": relative_paths(split, results / "data" / spec.data_bases[-1]),
        "label": labels.astype(np.int32),
        "label_name": [names[i] for i in labels],
        "group": [data.groups[i] for i in labels],
        "prediction": classes[:, 0],
        "prediction_name": [names[i] for i in classes[:, 0]],
        "probability": probabilities[:, 0],
        "label_probability": predictions.label_probabilities,
        "top5": classes,
        "top5_names": [[names[i] for i in row] for row in classes],
        "top5_probabilities": probabilities,
    }
    write_parquet(folder / PREDICTIONS, table, {"slug": spec.slug, "split": spec.split, "data_sha256": data.sha256})
    pairs, counts = np.unique(np.stack([labels, classes[:, 0]], axis=1), axis=0, return_counts=True)
    cells = zip(pairs.tolist(), counts.tolist(), strict=True)
    head = ("label", "label_name", "prediction", "prediction_name", "images")
    write_csv(folder / CONFUSION, head, ((a, names[a], b, names[b], n) for (a, b), n in cells))
    write_csv(folder / CLASSES, CLASS_COLUMNS, class_rows(data, labels, classes[:, 0]))


CLASS_COLUMNS = ("label", "name", "group", "train_images", "test_images", "correct", "predicted", "accuracy", "precision")


def class_rows(data: Prepared, labels: np.ndarray, predicted: np.ndarray) -> Iterable[tuple[Any, ...]]:
    """One row of ``classes.csv`` for each class; accuracy and precision in percent, empty where there is nothing to divide by."""
    counts = [np.bincount(x, minlength=len(data.class_names)) for x in (labels, labels[labels == predicted], predicted)]
    for label, (images, hits, answers) in enumerate(zip(*(count.tolist() for count in counts), strict=True)):
        rates = (100 * hits / images if images else "", 100 * hits / answers if answers else "")
        about = label, data.class_names[label], data.groups[label], int(data.train_counts[label])
        yield *about, images, hits, answers, *rates


def relative_paths(split: Split, folder: Path) -> list[str] | None:
    """The paths of a split's image files below the data set's image folder, so that a moved or published file still fits; None
    where the images are an array."""
    if split.paths is None:
        return None
    start = f"{read_root(folder, folder.name)[0]}/"
    return [printable(path.removeprefix(start)) for path in split.paths]


def printable(path: str | Path) -> str:
    """A path as UTF-8 text; bytes of a file name that are none are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def write_parquet(path: Path, columns: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write columns (arrays, lists, lists of lists, or None for a column of nothing) as Parquet, atomically.

    ``metadata`` is stored in the schema as one JSON text under the key ``pel_lab``.
    """
    import pyarrow
    from pyarrow import parquet

    arrays = [_column(values, len(columns["index"]) if "index" in columns else 0) for values in columns.values()]
    table = pyarrow.Table.from_arrays(arrays, names=list(columns), metadata={"pel_lab": json.dumps(metadata)})
    with replace_file(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def _column(values: Any, length: int) -> Any:
    import pyarrow

    if values is None:
        return pyarrow.nulls(length, pyarrow.string())
    if isinstance(values, np.ndarray) and values.ndim == 2:
        ends = pyarrow.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1])
        return pyarrow.ListArray.from_arrays(ends, pyarrow.array(values.reshape(-1)))
    return pyarrow.array(values)


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file (UTF-8, RFC 4180 quoting, ``\\n`` at line ends), atomically."""
    with replace_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
