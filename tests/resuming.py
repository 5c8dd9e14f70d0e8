"""Trainings in this process, for the tests of interrupted ones."""

import torch

from pel_core.batches import TrainBatches
from pel_core.engine import train
from pel_core.progress import Progress
from pel_core.run_inputs import load


def train_once(results, spec, keeper=None, watch=None):
    """Train in this process; returns the trained state and the log."""
    data, classifier, _ = load(spec, results, torch.device("cpu"), fresh=True)
    batches = TrainBatches(data.train, spec, spec.pixels, spec.vit.mean, spec.vit.std, "cpu")
    progress = Progress("test", 1, quiet=True)
    log = train(classifier, watch(batches) if watch else batches, spec, torch.as_tensor(data.train_counts), progress, keeper)
    return classifier.trainable_state(), log
