"""A trained run in Python: its network, its transform, its numbers, and what it says of images.

Shapes: N images, K crops, R pixels a side, C classes.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pel_core.common.errors import PelError
from pel_core.common.paths import user_path
from pel_core.common.shipped import command
from pel_core.data.loading import EvalReader
from pel_core.door.images import ImageLike, listed, names_of, opened
from pel_core.door.plugin import use_plugins
from pel_core.door.predictions import ImagePredictions
from pel_core.evaluation.new_images import BATCH, network_input, posthoc_steps, reading, stored_result
from pel_core.evaluation.outputs import CLASSES, PREDICTIONS
from pel_core.evaluation.predictions import require_finite
from pel_core.evaluation.run_names import results_of
from pel_core.evaluation.trained_run import open_run
from pel_core.hardware.devices import exact_fp32, pick_device
from pel_core.spec.choices import METRICS
from pel_core.spec.results import invalid_reason, run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier
from pel_core.training.loop import predict


@dataclass(frozen=True)
class Transform:
    """An image as a run's evaluation gives it to the network: float32 (K, 3, R, R), cropped and normalised, on the CPU.

    K is the number of crops of the run's test-time ensembling, 1 without. The run's logits are the mean over the crops:
    ``run.model(run.transform(image).to(run.device)).mean(0)``.
    """

    spec: RunSpec

    def __call__(self, image: ImageLike, index: int = 0) -> Tensor:
        """``index``: the image's place among others, by which random crops (``tte=randaug``) are drawn."""
        return network_input(self.spec, torch.from_numpy(self.crops(image, index)), torch.device("cpu"))

    def crops(self, image: ImageLike, index: int = 0, name: str = "the image") -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The crops before they are normalised, uint8 (K, R, R, 3)."""
        reader = EvalReader([], *reading(self.spec))
        found: np.ndarray[Any, np.dtype[np.uint8]] = reader.crops_of(opened(image, self.spec.reduction, name), index)
        return found


@dataclass(frozen=True, repr=False, eq=False)
class LoadedRun:
    """A trained run (or zero-shot), ready to classify.

    ``spec``: every option of it; ``model``: images (B, 3, R, R) -> logits (B, C), on ``device``, in evaluation's precision;
    ``class_names`` (C); ``folder``: where its training lies; ``results``: the results folder that holds its backbone.
    """

    spec: RunSpec
    model: Classifier
    class_names: list[str]
    folder: Path
    results: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def slug(self) -> str:
        """Its name."""
        return self.spec.slug

    @property
    def trained(self) -> dict[str, Tensor]:
        """What was trained, delta and head, by its name in the checkpoint: ``adaptformer.6.ffn.up.weight``, ``head.weight``."""
        return {name: value.detach() for name, value in self.model.stored().items()}

    @property
    def transform(self) -> Transform:
        """PIL image, array or path -> what the network takes (K, 3, R, R)."""
        return Transform(self.spec)

    @cached_property
    def record(self) -> dict[str, Any]:
        """Its whole metrics.json (docs/outputs.md): data, parameters, training with its curve, environment.

        Raises:
            PelError: it is not evaluated yet, or what is stored cannot be used; what to do is said.
        """
        found = stored_result(self.spec, self.folder, self.results)
        if found is None:
            raise self._unscored()
        if reason := invalid_reason(found, self.spec, (), self.results):
            raise PelError(f"{self.slug}: {reason}")
        return found

    @property
    def metrics(self) -> dict[str, float | None]:
        """Its metrics on the split it was evaluated on, by name; None where there is no such number (an empty group of classes).

        Raises:
            PelError: as `record`.
        """
        values: Mapping[str, float | None] = self.record["metrics"]
        return {name: values[name] for name in METRICS if name in values}

    @property
    def classes(self) -> pd.DataFrame:
        """A row for each class: name, group, training and test images, accuracy and precision in percent (classes.csv).

        Raises:
            PelError: it is not evaluated yet, or the file is damaged.
        """
        return self._read(CLASSES, pd.read_csv)

    @property
    def predictions(self) -> pd.DataFrame:
        """A row for each image that the run was evaluated on: path, label, prediction, probabilities (predictions.parquet).

        Raises:
            PelError: it is not evaluated yet, or the file is damaged.
        """
        return self._read(PREDICTIONS, pd.read_parquet)

    def _read(self, name: str, reader: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
        path = self._output(name)
        try:
            return reader(path)
        except (OSError, ValueError) as error:  # of pandas and pyarrow, too
            again = command(f"score '{self.slug}' --results '{self.results}'")
            raise PelError(f"{path} is damaged ({error}); make it again with: {again}") from None

    def _output(self, name: str) -> Path:
        """A file that scoring left, beside the run's metrics.json."""
        inside = self.slug.removeprefix(self.spec.train.slug).removeprefix(".")
        for folder in (self.folder / inside, run_folder(self.results, self.slug)):
            if (folder / name).is_file():
                return folder / name
        raise self._unscored()

    def _unscored(self) -> PelError:
        again = command(f"evaluate '{self.slug}' --results '{self.results}'")
        return PelError(f"{self.slug} has no result yet: {again}")

    def predict(self, images: ImageLike | Iterable[ImageLike]) -> ImagePredictions:
        """Classify images as the run's evaluation classifies its own, with the same numbers.

        Args:
            images: one or many: a path (of a file, a folder, a pattern), a PIL image, an array (H, W, 3) of bytes.

        Raises:
            PelError: an image that cannot be read, which is named; or the logits are not finite.
        """
        chosen = listed(images)
        names, transform = names_of(chosen), self.transform
        logits: list[np.ndarray[Any, Any]] = []
        with exact_fp32():
            for start in range(0, len(chosen), BATCH):  # an evaluation's batches, so that its numbers come out again to the bit
                here = range(start, min(start + BATCH, len(chosen)))
                crops = np.stack([transform.crops(chosen[i], i, names[i]) for i in here])
                inputs = network_input(self.spec, torch.from_numpy(crops), self.device)
                logits.append(predict(self.model, [(inputs, Tensor())], precision=self.spec.eval_precision).numpy())
        adjusted = posthoc_steps(self.spec, self.folder, self.results)(np.concatenate(logits))
        require_finite(adjusted)
        return ImagePredictions(names, adjusted, self.class_names)

    def __repr__(self) -> str:
        return f"LoadedRun('{self.slug}', {len(self.class_names)} classes, on {self.device})"


def load_run(
    run: str | os.PathLike[str],
    results: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    evaluation: str = "",
) -> LoadedRun:
    """A trained run (or zero-shot) by its folder or its name.

    Args:
        run: ``results/runs/RUN``, a copy of such a folder, a run's name, or the beginning of one that says which is meant.
        results: the folder that holds the run (if it is a name) and its backbone; by default the one that ``run`` lies in, else
            ``results``.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        evaluation: where several are recorded, which: ``tte=tencrop.expand=4``, or ``default`` for the training's own.

    Raises:
        PelError: there is no such run, it is not trained yet, or it was made by another version, from another spec or other
            weights; what to do is said.
    """
    use_plugins()
    given = str(user_path(os.fspath(run)))
    found = user_path(os.fspath(results)) if results is not None else results_of(Path(given))
    if not Path(given).exists() and os.sep in given.strip(os.sep):
        raise PelError(f"there is no run folder {given} (looked from {Path.cwd()}): give the folder of a run, or its name")
    target = pick_device(device)
    name = given if Path(given).is_dir() else os.fspath(run)
    spec, model, class_names = open_run(name, found, target, evaluation)
    copied = (Path(given) / "delta.safetensors").is_file()  # else that of an evaluation, or a name
    folder = Path(given) if copied else run_folder(found, spec.train.slug)
    return LoadedRun(spec, model.eval(), class_names, folder, found, target)
