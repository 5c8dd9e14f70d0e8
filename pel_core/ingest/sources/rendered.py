"""The demo's stand-ins for the published data sets, rendered by this program (`pel_core.demo.stand_ins`)."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.problems import Problems
from pel_core.common.versions import PREPARE
from pel_core.demo.stand_ins import STAND_INS
from pel_core.ingest.content import Content
from pel_core.ingest.sources.base import Size, Source, register


@register
class Rendered(Source):
    """Pictures of a made-up world, drawn when they are prepared."""

    kind = "rendered"

    def fingerprint(self) -> dict[str, Any]:
        """The world that is drawn; a change of the renderer itself raises the version of PREPARE."""
        world = {key: value for key, value in asdict(STAND_INS[self.base]).items() if key != "recipe"}
        return {"engine": PREPARE, "world": world}

    def read(self, out: Path, check_images: str = "sample", problems: Problems | None = None) -> Content:
        """Draw every picture. Needs torch."""
        from pel_core.demo import stand_ins

        names = list(STAND_INS[self.base].class_names)
        content = Content(names, {})
        for split in ("train", "test"):
            content.add_images(split, *stand_ins.render(self.base, split))
        content.train_counts[""] = np.bincount(content.splits["train"]["labels"], minlength=len(names)).tolist()
        return content

    def class_counts(self) -> tuple[dict[str, np.ndarray], list[str]]:
        """As declared: nothing is drawn for it."""
        if self.entry.ratios == "any":
            return super().class_counts()
        return {self.base: np.array(STAND_INS[self.base].train_counts(None), np.int64)}, []

    def size(self, ratio: float | None) -> Size | None:
        """As declared."""
        world = STAND_INS[self.base]
        counts = world.train_counts(None if world.profile else ratio or 1)
        return Size(sum(counts), world.test_per_class * len(world.classes), len(world.classes))
