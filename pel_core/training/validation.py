"""What a training asks the validation split: which runs of a soup help, and which mean over its steps is the best (`averages`).

N images, C classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pel_core.data.batches import EvalBatches
from pel_core.data.datasets import Prepared
from pel_core.data.loading import RandomCrops
from pel_core.hardware.devices import loader_workers
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier
from pel_core.training.loop import predict
from pel_core.training.prefix_cache import PrefixCache
from pel_core.training.soups import accuracy


def validation_batches(classifier: Classifier, spec: RunSpec, data: Prepared) -> tuple[EvalBatches, Tensor]:
    """The validation split as the training's own evaluation crops it, and its labels (N,).

    Raises:
        PelError: there is no such split.
    """
    split, device = data.split("val"), next(classifier.parameters()).device
    batches = EvalBatches(
        split, spec.tte, spec.expand, spec.pixels, spec.vit.mean, spec.vit.std, device,
        workers=loader_workers(split.images is None, device), interpolation=spec.interpolation,
        random=RandomCrops(spec.crops, spec.seed, spec.crop_min_scale),
    )  # fmt: skip
    return batches, torch.as_tensor(np.asarray(split.labels, np.int64))


def validation_logits(
    classifier: Classifier, spec: RunSpec, data: Prepared, cache: PrefixCache, about: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Logits (N, C) and labels (N,) of the validation split; ``about`` identifies weights and images for the ``cache``."""
    batches, labels = validation_batches(classifier, spec, data)
    return cache.predict(classifier, batches, spec.num_frozen_prefix_blocks, dict(about)), labels


def validation_score(classifier: Classifier, spec: RunSpec, data: Prepared) -> Callable[[], float] | None:
    """What a classifier that is being trained scores, whenever it is asked: the mean accuracy of classes, in percent, in the
    precision of the training; None where the run does not ask."""
    if not spec.keeps_best:
        return None
    batches, labels = validation_batches(classifier, spec, data)
    return lambda: accuracy(predict(classifier, batches, precision=spec.precision), labels, "mean_class")
