"""Stored predictions: ``logits.safetensors``, full in fp32 or compact, and what scores need of it, with the same bits from both.

Compact is the default: fp16 logits of every class, and beside them, exactly as they follow from the fp32 logits, each image's
most probable classes, its label's logit and the sum under its softmax. Shapes: N images, C classes, k = min(5, C). Torch-free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pel_core.common.errors import PelError
from pel_core.common.files import replace_file
from pel_core.common.shipped import snakemake_or_make

TOP = 5
ROWS = 4096  # of logits taken at a time: 8,142 classes in double precision would fill memory
FP16_MAX = float(np.finfo(np.float16).max)
KINDS = ("compact", "full")
EXACT = ("top_classes", "top_logits", "label_logits", "totals")  # of a compact file, beside `logits` and `labels`


class NotFinite(PelError):
    """Logits that are NaN or infinite; ``reason`` says of how many images, without advice."""

    def __init__(self, reason: str):
        super().__init__(f"{reason}: the model diverged or overflowed; lower the learning rate or use precision=fp32")
        self.reason = reason


@dataclass(frozen=True)
class Predictions:
    """What a network said of N images, in numbers that fp32 logits give exactly.

    ``labels`` (N,); ``top_classes`` int32 (N, k) in falling order, the lowest index first where two tie; ``top_logits`` (N, k);
    ``label_logits`` (N,); ``totals`` float64 (N,), the sum over classes of exp(logit - largest logit).
    """

    labels: np.ndarray
    top_classes: np.ndarray
    top_logits: np.ndarray
    label_logits: np.ndarray
    totals: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray, k: int = TOP) -> "Predictions":
        """From logits (N, C) of any floating type and labels (N,) in 0..C-1.

        Raises:
            PelError: a logit that is NaN or infinite, naming the first image.
        """
        logits, labels = np.asarray(logits), np.asarray(labels)
        require_finite(logits)
        count, k = len(logits), min(k, logits.shape[1])
        classes, top = np.empty((count, k), np.int32), np.empty((count, k))
        own, totals = np.empty(count), np.empty(count)
        for start in range(0, count, ROWS):
            here = slice(start, start + ROWS)
            part = logits[here].astype(np.float64)
            rows = np.arange(len(part))
            own[here] = part[rows, labels[here]]
            totals[here] = np.exp(part - part.max(axis=1, keepdims=True)).sum(axis=1)
            for place in range(k):  # a few passes; a stable sort of 8,142 columns would take twenty times as long
                best = part.argmax(axis=1)
                classes[here, place], top[here, place] = best, part[rows, best]
                part[rows, best] = -np.inf
        return cls(labels, classes, top, own, totals)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image (N,)."""
        return self.top_classes[:, 0]

    @property
    def top_probabilities(self) -> np.ndarray:
        """Of ``top_classes``, float32 (N, k): the softmax in double precision."""
        return (np.exp(self.top_logits - self.top_logits[:, :1]) / self.totals[:, None]).astype(np.float32)

    @property
    def label_probabilities(self) -> np.ndarray:
        """Of the labels, float32 (N,)."""
        return (np.exp(self.label_logits - self.top_logits[:, 0]) / self.totals).astype(np.float32)


def require_finite(logits: np.ndarray) -> None:
    """Refuse logits (N, C) of a network that diverged.

    Raises:
        NotFinite: naming the first image with a NaN or infinite logit.
    """
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        first = int(finite.argmin())
        raise NotFinite(f"{int((~finite).sum())} of {len(logits)} images have NaN or infinite logits, image {first} first")


def write_predictions(path: str | Path, logits: np.ndarray, labels: np.ndarray, kind: str = "compact") -> str:
    """Write fp32 logits (N, C) and labels (N,), atomically; how they were written: logits that fp16 cannot hold stay full.

    Raises:
        PelError: a logit that is NaN or infinite, or the file cannot be written.
    """
    labels = np.asarray(labels, np.int64)
    said = Predictions.of(logits, labels)
    kind = "full" if kind == "full" or (logits.size and np.abs(logits).max() > FP16_MAX) else "compact"
    arrays = {"logits": logits, "labels": labels}
    if kind == "compact":
        arrays = {"logits": logits.astype(np.float16), "labels": labels, "top_classes": said.top_classes}
        arrays |= {"top_logits": said.top_logits.astype(np.float32), "label_logits": said.label_logits.astype(np.float32)}
        arrays |= {"totals": said.totals}
    with replace_file(path) as temporary:
        try:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
        except SafetensorError as error:  # a full disk, for one
            raise PelError(f"{path} cannot be written ({error})") from None
    return kind


def read_predictions(path: str | Path) -> Predictions:
    """What `write_predictions` wrote, of either kind; so is a file of before, which is ``full``.

    Raises:
        PelError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "np") as handle:
            names = set(handle.keys())
            if not {"logits", "labels"} <= names:
                raise PelError(f"{path} holds no logits and labels; delete it and run again")
            labels = handle.get_tensor("labels")
            if "totals" not in names:
                return Predictions.of(handle.get_tensor("logits"), labels)
            classes, top, own, totals = (handle.get_tensor(name) for name in EXACT)
    except FileNotFoundError:
        raise PelError(f"{path} does not exist; let {snakemake_or_make()} make it") from None
    except SafetensorError as error:
        raise PelError(f"{path} is damaged ({error}); delete it and run again") from None
    return Predictions(labels, classes, top.astype(np.float64), own.astype(np.float64), totals)


def read_logits(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, C) as fp32, and labels (N,), of a file of either kind.

    Of a compact one the logits of each image's most probable classes and of its label are those that there were; the others are
    rounded to fp16, by 2^-11 of a logit at most.

    Raises:
        PelError: the file is missing or damaged.
    """
    said = read_predictions(path)
    with safe_open(path, "np") as handle:
        logits = handle.get_tensor("logits")
    if logits.dtype == np.float32:
        return logits, said.labels
    logits, rows = logits.astype(np.float32), np.arange(len(said.labels))
    logits[rows[:, None], said.top_classes] = said.top_logits
    logits[rows, said.labels] = said.label_logits
    return logits, said.labels


def images_in(path: str | Path) -> int | None:
    """How many images a file of predictions holds, from its header alone; None where it is missing, torn or another file."""
    try:
        with safe_open(path, "np") as handle:
            return handle.get_slice("labels").get_shape()[0]
    except (OSError, SafetensorError):
        return None


def stored_bytes(images: int, classes: int, kind: str = "compact") -> int:
    """Bytes of a file of predictions."""
    sides = 8 * min(TOP, classes) + 4 + 8
    return images * (8 + (4 * classes if kind == "full" else 2 * classes + sides))


def kind_of(record: Mapping) -> str:
    """How a record's logits are stored; those from before the choice are whole."""
    return (record.get("evaluation") or {}).get("logits", "full")
