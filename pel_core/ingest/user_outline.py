"""What a user's images will come to, known before they are prepared: classes, and images of each split. No image is opened.

Planning asks, for what a study costs and whether a split that it evaluates on will be there. Torch-free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.ingest.catalogue import SPLITS, Catalogue, Placed
from pel_core.ingest.sources.base import Size
from pel_core.ingest.sources.users import UserSource
from pel_core.ingest.user_content import divide, drawn_counts


@dataclass(frozen=True)
class Outline:
    """``splits``: images by split ("train", "test", perhaps "val"). ``drawn``: training images at each ratio. ``notes``: what was
    done to divide them. ``pool``: training images of each class as they are found; empty where labels are not known yet.
    ``unsaid``: whether the test split is held out without the entry's asking for it."""

    classes: int
    splits: Mapping[str, int]
    drawn: Mapping[float, int]
    notes: tuple[str, ...] = ()
    pool: tuple[int, ...] = ()
    unsaid: bool = False

    def size(self, ratio: float | None) -> Size | None:
        """At an imbalance ratio; None where that is known no earlier than when the images are prepared."""
        train = self.splits["train"] if ratio is None else self.drawn.get(ratio)
        return None if train is None else Size(train, self.splits["test"], self.classes)


def outline(source: UserSource) -> Outline:
    """What the images of a located source will come to.

    Raises:
        PelError: nothing to train or test on, or a profile that the images do not allow; the message names the data set.
    """
    try:
        return unnamed_outline(source)
    except PelError as error:
        raise type(error)(f"data set '{source.base}': {error}") from None


def unnamed_outline(source: UserSource) -> Outline:
    """As `outline`, of images that are no data set yet: the message does not name it."""
    with TemporaryDirectory() as folder:
        found = source.outline(Path(folder) / "new")
    unsaid = not source.options.test_fraction and {"test", "val"}.isdisjoint(found.splits)
    splits = divide(source.options, found)
    known = len(found.keys) > 1  # else labels are not known yet
    pool = np.bincount(splits["train"].labels, minlength=len(found.keys))
    drawn = drawn_counts(source.options, source.entry.ratios, found.keys, pool) if known else {}
    images = {split: len(each.labels) for split, each in splits.items()}
    counts = {ratio: int(each.sum()) for ratio, each in drawn.items()}
    notes = tuple(filter(None, found.notes))
    classes, counted = (len(found.keys), tuple(pool.tolist())) if known else (0, ())
    return Outline(classes, images, counts, notes, counted, unsaid)


def saved_outline(root: str) -> Catalogue:
    """The splits of a Hugging Face directory, by the heads of its tables: rows alone, all of one class.

    Raises:
        PelError: it is damaged, or has nothing to train on.
    """
    folder = Path(root)
    names = read_json(folder / "dataset_dict.json", ("splits",))["splits"] if (folder / "dataset_dict.json").is_file() else [""]
    rows = {SPLITS.get(name.lower(), ""): _rows(folder / name) for name in names} if names != [""] else {"train": _rows(folder)}
    rows.pop("", None)
    if "train" not in rows:
        raise PelError(f"{root} holds the splits {', '.join(names)} and none to train on; expected one called train")
    labels = {split: np.zeros(count, np.int64) for split, count in rows.items()}
    return Catalogue(root, [""], {split: Placed(root, [""] * len(each), each) for split, each in labels.items()})


def _rows(folder: Path) -> int:
    """Rows of a saved table: its files are read as a map, of which only the heads of batches are looked at."""
    import pyarrow

    files = [entry["filename"] for entry in read_json(folder / "state.json", ("_data_files",))["_data_files"]]
    try:
        count = 0
        for file in files:
            with pyarrow.memory_map(str(folder / file)) as content, pyarrow.ipc.open_stream(content) as batches:
                count += sum(batch.num_rows for batch in batches)
        return count
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise PelError(f"{folder} cannot be read as a Hugging Face directory ({' '.join(str(error).split())})") from None
