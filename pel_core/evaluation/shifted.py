"""A run's evaluation on another data set's images (`evaluate_on`): which images and classes, and what the record says of them.

Which class is which is found when images are predicted (`data.test_sets`), and stored with the predictions for scoring.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.files import sha256
from pel_core.common.shipped import command
from pel_core.data.datasets import Prepared, open_prepared, read_about
from pel_core.data.run_images import at_native
from pel_core.data.test_sets import RULES, ClassMap, TestSet, content_of, match_classes, restricted
from pel_core.spec.run_spec import RunSpec


@dataclass(frozen=True)
class Shifted:
    """The data of a run that is evaluated on another data set: ``data`` with its images as test split and K classes."""

    data: Prepared
    classes: ClassMap
    about: dict[str, Any]

    def record(self, trained_on: dict[str, Any]) -> dict[str, Any]:
        """What a record says otherwise: ``data``, of the tested classes; ``test_set``, whose images and which classes.

        Args:
            trained_on: the record's ``data``.
        """
        data = self.data
        groups = {group: list(data.groups).count(group) for group in ("head", "med", "tail")}
        counts = data.train_counts.tolist()
        told = {"classes": len(data.class_names), "test_images": len(data.test), "train_counts": counts, "groups": groups}
        return {"data": trained_on | told, "test_set": self.about}

    def images(self, spec: RunSpec, info: dict[str, Any]) -> dict[str, Any]:
        """What identifies backbone and images, for the prefix cache."""
        about = {key: self.about[key] for key in ("name", "images", "sha256", "labels")}
        return {"backbone": info["sha256"], "images": about, "native": spec.reduction}


def open_test_set(spec: RunSpec, results: Path, data: Prepared, how: TestSet) -> Shifted:
    """Open the data set that a run is evaluated on, and find its classes among those of the training.

    Raises:
        PelError: it is not prepared, its images changed, or as `match_classes`.
    """
    other, content = _open(spec, results, how.images, compare=True)
    classes = match_classes(data, other, how)
    about = {
        "name": spec.evaluate_on,
        "images": how.images,
        "sha256": content,
        "rule": how.classes if how.classes in RULES else f"file {sha256(Path(how.classes))}",
        "classes": classes.names,
        "members": classes.members,
        "labels": classes.labels.tolist(),
        "left_out": classes.left_out,
    }
    return Shifted(restricted(data, at_native(other, spec.reduction), how, classes), classes, about)


def stored_test_set(spec: RunSpec, results: Path, data: Prepared, record: dict[str, Any]) -> Prepared:
    """The data of stored predictions on another data set, as their ``record`` says.

    Raises:
        PelError: other images of it are prepared now.
    """
    about = record["test_set"]
    other, content = _open(spec, results, about["images"])
    if content != about["sha256"]:
        raise PelError(f"{spec.slug}: its predictions are of other images of {spec.evaluate_on} than are prepared; run it again")
    classes = ClassMap(about["classes"], about["members"], np.array(about["labels"], np.int64), about["left_out"])
    return restricted(data, other, TestSet(images=about["images"]), classes)


def _open(spec: RunSpec, results: Path, images: str, compare: bool = False) -> tuple[Prepared, str]:
    folder = results / "data" / spec.evaluate_on
    if not (folder / "data.json").is_file():
        raise PelError(
            f"evaluate_on={spec.evaluate_on}: that data set is not prepared: run "
            f"`{command(f'data prepare {spec.evaluate_on} --out {folder}')}`"
        )
    about = read_about(folder, spec.evaluate_on)
    there = [split for split in ("train", "val", "test") if f"{split}.npz" in about["files"]] if images == "all" else ["test"]
    return open_prepared(folder, spec.evaluate_on, there if compare else ()), content_of(about, images)
