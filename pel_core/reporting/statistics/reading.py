"""Reads runs of a results folder for statistics, each once; damage is named with the command that makes the file again."""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.shipped import program
from pel_core.data.sampling import GROUPS
from pel_core.evaluation.outputs import CLASSES, PREDICTIONS
from pel_core.evaluation.predictions import Predictions, read_predictions
from pel_core.evaluation.stored_logits import adjusted_predictions, logits_file
from pel_core.reporting.statistics.runs import Images, Row, Run, make_images, ordered, small
from pel_core.spec.posthoc import is_posthoc, stored_runs
from pel_core.spec.records import number
from pel_core.spec.results import metrics_file, read_record, run_folder
from pel_core.spec.run_spec import RunSpec

COLUMNS = ("index", "path", "label", "prediction")


class Disagreement(PelError):
    """Predictions and recorded metrics of a run are not of one evaluation, so that marks would be of other numbers than shown."""


class Reader:
    """Reads runs of a results folder, each once; runs of one test set share its `Images`."""

    def __init__(self, results: str | Path):
        self.results = Path(results)
        self._runs: dict[str, Run] = {}
        self._images: dict[tuple[str, str, bytes], tuple[Images, np.ndarray]] = {}  # by stored order
        self._groups: dict[Any, tuple[str, ...]] = {}  # by hash of the data, and how classes are grouped

    def row(self, name: str, specs: Sequence[RunSpec]) -> Row:
        """The runs of a cell (one spec per seed).

        Raises:
            PelError: as `run` and `Row.of`.
        """
        fixed = not specs[0].seeded if specs else False
        return Row.of(name, [self.run(spec) for spec in (specs[:1] if fixed else specs)], fixed)

    def run(self, spec: RunSpec) -> Run:
        """A run from its stored predictions.

        Raises:
            PelError: they are missing or damaged; naming the file and the command that makes it again.
            Disagreement: they do not give the accuracy that the run's result records.
        """
        if spec.slug not in self._runs:
            self._runs[spec.slug] = self._read(spec)
        return self._runs[spec.slug]

    def _read(self, spec: RunSpec) -> Run:
        folder = run_folder(self.results, spec.slug)
        again = f"make it again with: {program()} score '{spec.slug}' --results '{self.results}'"
        table, data = _parquet(folder / PREDICTIONS, again)
        places, names, labels, predicted = (table.column(name).combine_chunks() for name in COLUMNS)
        places, labels = places.to_numpy(), labels.to_numpy()
        base = spec.data_bases[-1]  # whose images they are
        stored = hashlib.sha256(labels.tobytes())
        for buffer in names.buffers() if names.null_count == 0 else ():
            stored.update(buffer or b"")
        some = names.null_count and not np.array_equal(places, np.arange(len(places)))  # of an array, known by their places there
        stored.update(places.tobytes() if some else b"")
        key = base, spec.split, stored.digest()
        if key not in self._images:
            texts = None if names.null_count else names.to_numpy(zero_copy_only=False)
            texts = np.array([f"{place:08d}" for place in places.tolist()], object) if some else texts
            self._images[key] = self._share(*make_images(base, spec.split, labels, texts))
        images, order = self._images[key]
        most = int(max(labels.max(initial=0), predicted.to_numpy().max(initial=0)))
        how = data, spec.evaluate_on, spec.factors.groups, spec.factors.groups_from
        groups = self._class_groups(folder / CLASSES, how, most, again)
        _require_recorded(metrics_file(self.results, spec.slug), spec.slug, labels, predicted.to_numpy(), again)

        def load() -> Predictions:
            path = logits_file(self.results, stored_runs(spec)[0])
            predict = f"{program()} evaluate '{spec.slug}' --results '{self.results}'"
            try:
                found = self._posthoc(spec) if is_posthoc(spec) else read_predictions(path)
            except PelError as error:
                raise PelError(f"{error}. The command is: {predict}") from None
            if not np.array_equal(found.labels, labels):
                raise PelError(f"{path} holds other images than {PREDICTIONS} beside it; make both again with: {predict}")
            return ordered(found, order)

        return Run(spec.slug, spec.seed, images, groups, small(predicted.to_numpy()[order], len(groups)), load)

    def _posthoc(self, spec: RunSpec) -> Predictions:
        """What a post-hoc run says, with the numbers that its result records."""
        record = read_record(metrics_file(self.results, spec.slug))
        return adjusted_predictions(spec, self.results, record["data"]["train_counts"], record.get("posthoc", {}))

    def _share(self, images: Images, order: np.ndarray) -> tuple[Images, np.ndarray]:
        same = (other for other, _ in self._images.values() if other.digest == images.digest)
        return next(same, images), order

    def _class_groups(self, path: Path, data: Any, most: int, again: str) -> tuple[str, ...]:
        """Of every class, those without a test image among them; read once per data. ``most`` is the largest class there is."""
        if (found := self._groups.get(data)) is None:
            try:
                with open(path, encoding="utf-8", newline="") as handle:
                    found = tuple(row["group"] for row in csv.DictReader(handle))
            except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
                raise PelError(f"{path} is missing or damaged ({error!r}); {again}") from None
        if other := [group for group in found if group not in GROUPS]:
            raise PelError(f"{path} is damaged: found the group {other[0]!r}, expected {', '.join(GROUPS)}; {again}")
        if most >= len(found):
            told = f"it has {len(found):,} classes, and {PREDICTIONS} beside it class {most:,}"
            raise PelError(f"{path} is damaged: {told}; {again}")
        return self._groups.setdefault(data, found)


def _require_recorded(path: Path, slug: str, labels: np.ndarray, predicted: np.ndarray, again: str) -> None:
    """Refuse predictions whose overall accuracy differs by an image or more from the one in metrics.json, if that is there.

    Raises:
        Disagreement: naming both numbers.
    """
    if not path.is_file() or not len(labels):
        return
    recorded = number(read_record(path), "metrics.overall")
    found = 100.0 * float(np.mean(labels == predicted))
    if recorded is None or abs(found - recorded) > 50.0 / len(labels):
        said = "no overall accuracy" if recorded is None else f"{recorded:.2f} %"
        raise Disagreement(
            f"{slug}: its {PREDICTIONS} gives an overall accuracy of {found:.2f} % ({len(labels):,} images), but its {path.name} "
            f"records {said}: they are not of one evaluation; {again}"
        )


def _parquet(path: Path, again: str) -> tuple[Any, str]:
    """The table of a run's predictions, and the hash of the data it was made from."""
    import json

    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=list(COLUMNS), use_threads=False)
        data = json.loads(table.schema.metadata[b"pel_lab"])["data_sha256"]
    except FileNotFoundError:
        raise PelError(f"{path} does not exist; {again}") from None
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise PelError(f"{path} is damaged ({str(error).splitlines()[0]}); {again}") from None
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise PelError(f"{path} lacks the columns {', '.join(missing)}; {again}")
    return table, data
