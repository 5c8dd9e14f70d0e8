"""The toy data set: quick to make, and possible to learn."""

from pathlib import Path

import numpy as np

from pel_core.common.problems import Problems
from pel_core.common.seeds import generator
from pel_core.data.sampling import long_tail_counts
from pel_core.ingest.content import Content
from pel_core.ingest.sources.base import Source, register

NAMES = ["red", "green", "blue", "yellow", "cyan", "magenta"]


@register
class Toy(Source):
    """Six tinted noise textures of 20 x 20 pixels, 120 training and 10 test images each."""

    kind = "toy"

    def read(self, out: Path, check_images: str = "sample", problems: Problems | None = None) -> Content:
        """The textures, balanced."""
        content = Content(list(NAMES), {"": long_tail_counts(6, 120, 1).tolist()})
        tints = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]])
        for split, each in (("train", 120), ("test", 10)):
            random = generator(0, self.base, split)
            labels = np.repeat(np.arange(6), each)
            noise = random.integers(0, 160, (len(labels), 20, 20, 3))
            content.add_images(split, noise + 95 * tints[labels][:, None, None, :], labels)
        return content
