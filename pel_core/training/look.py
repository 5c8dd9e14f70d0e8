"""What a head starts from that looks at images: features of a run's training or validation images.

Shape legend: M images, D the network's width, E a projection's, C classes.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pel_core.data.batches import EvalBatches
from pel_core.data.datasets import Prepared
from pel_core.hardware.devices import loader_workers
from pel_core.models.heads import HEADS
from pel_core.models.inits import INITS, images_for
from pel_core.models.vit import ViT
from pel_core.spec.run_spec import RunSpec
from pel_core.training.prefix_cache import PrefixCache


@dataclass(frozen=True)
class Look:
    """A network's look at the images of a run: one without a delta, or with that of a parent.

    Args:
        vit: the network, on ``device``.
        cache: keeps the features of a bare network for other runs, with the SHA-256 of the ``backbone``.
        projection: (D, E), which features are multiplied by; None: they stay as they are.
    """

    spec: RunSpec
    vit: ViT
    data: Prepared
    device: torch.device
    cache: PrefixCache | None = None
    backbone: str = ""
    projection: Tensor | None = None

    def start(self) -> dict[str, Any]:
        """What the head starts from: ``rows``, ``remembered`` and ``choosing``, each None where it does not look."""
        spec, head, rows, remembered = self.spec, HEADS[self.spec.head], None, None
        if spec.starts_rows and INITS[spec.init].start == "images":
            rows = self.rows()
        if hasattr(head, "remembers"):
            remembered = self.features(head.remembers(self.data.train.labels, spec.seed, spec.knobs_of("head")))
        choosing = self.features(of=spec.chooser) if spec.chooser else None
        return {"rows": rows, "remembered": remembered, "choosing": choosing}

    def rows(self) -> Tensor:
        """Head rows (C, D) from the features of training images, or (C, E).

        Raises:
            PelError: a class without an image.
        """
        spec = self.spec
        features, labels = self.features(images_for(spec.init, self.data.train.labels, spec.seed))
        # On the CPU sums have one order; only the probe's many products are worth the device.
        where = self.device if spec.init == "linear-probe" else torch.device("cpu")
        return INITS[spec.init].rows(features.to(where), labels.to(where), len(self.data.class_names))

    def features(self, chosen: np.ndarray | None = None, of: str = "train") -> tuple[Tensor, Tensor]:
        """Features (M, D) or (M, E) of the images at positions ``chosen`` of the split ``of`` (None: all), and their labels (M,),
        both on the CPU. Images are resized to the network's side and cropped at the centre."""
        spec, whole = self.spec, self.data.split(of) if of != "train" else self.data.train
        chosen = np.arange(len(whole)) if chosen is None else chosen
        split = whole.take(chosen) if len(chosen) < len(whole) else whole
        picture = (spec.pixels, spec.vit.mean, spec.vit.std, self.device)
        workers = loader_workers(whole.images is None, self.device)
        batches = EvalBatches(split, "plain", 0, *picture, workers=workers, interpolation=spec.interpolation)
        about = {"backbone": self.backbone, "data": self.data.sha256, "native": spec.reduction, "positions": digest(chosen)}
        about |= {} if of == "train" else {"split": of}
        features = (self.cache or PrefixCache(".", 0)).predict(self.vit, batches, self.vit.layers, about)
        labels = torch.as_tensor(np.asarray(split.labels, np.int64))
        return features if self.projection is None else features @ self.projection.cpu(), labels


def digest(positions: np.ndarray) -> str:
    """SHA-256 of positions (M,), in hexadecimal."""
    return hashlib.sha256(positions.astype("<i8").tobytes()).hexdigest()
