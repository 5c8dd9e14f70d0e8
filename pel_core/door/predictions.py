"""What a run says of images, with names. Shapes: N images, C classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pel_core.common.errors import PelError
from pel_core.evaluation.outputs import top_classes

SHOWN = 10  # images in a notebook's cell; `frame` has all


@dataclass(frozen=True, repr=False, eq=False)
class ImagePredictions:
    """A run's answers: ``images`` (N) names, ``logits`` float32 (N, C), ``class_names`` (C)."""

    images: Sequence[str]
    logits: NDArray[np.float32]
    class_names: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Of every class (N, C): the softmax in double precision, with the bits that an evaluation stores."""
        classes, probabilities = top_classes(self.logits, len(self.class_names))
        found = np.empty(probabilities.shape, np.float32)
        np.put_along_axis(found, classes.astype(np.int64), probabilities, axis=1)
        return found

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The number of the most probable class of each image (N,); the lowest where two tie."""
        found: NDArray[np.int64] = self.logits.argmax(axis=1).astype(np.int64)
        return found

    @property
    def names(self) -> list[str]:
        """The name of the most probable class of each image."""
        return [self.class_names[label] for label in self.labels]

    def frame(self, top: int = 1) -> pd.DataFrame:
        """A row for each image and each of its ``top`` most probable classes: image, rank (from 1), label, name, probability."""
        if top < 1:
            raise PelError(f"top={top}: expected 1 or more")
        classes, probabilities = top_classes(self.logits, top)
        k = classes.shape[1]
        labels = classes.reshape(-1).tolist()
        return pd.DataFrame(
            {
                "image": np.repeat(np.array(self.images, dtype=object), k),
                "rank": np.tile(np.arange(1, k + 1), len(self)),
                "label": labels,
                "name": [self.class_names[label] for label in labels],
                "probability": probabilities.reshape(-1),
            }
        )

    def __repr__(self) -> str:
        return f"{len(self)} images, {len(self.class_names)} classes\n{self.frame().head(SHOWN).to_string(index=False)}"

    def _repr_html_(self) -> str:
        more = f"<p>and {len(self) - SHOWN:,} more</p>" if len(self) > SHOWN else ""
        return self.frame().head(SHOWN).to_html(index=False) + more
