"""Trainings in this process, for the tests of interrupted ones."""

import torch

from pel_core.common.progress import Progress
from pel_core.data.batches import TrainBatches
from pel_core.training.loop import train
from pel_core.training.run_inputs import load
from pel_core.training.samplers import make_sampler

CPU = torch.device("cpu")


def train_once(results, spec, manager=None, watch=None, device=CPU):
    """Train in this process; returns the trained state and the log."""
    data, classifier, _ = load(spec, results, device, fresh=True)
    how = spec.pixels, spec.vit.mean, spec.vit.std, device
    batches = TrainBatches(data.train, spec, *how, sampler=make_sampler(spec))
    progress = Progress("test", 1, quiet=True)
    log = train(classifier, watch(batches) if watch else batches, spec, torch.as_tensor(data.train_counts), progress, manager)
    return classifier.trainable_state(), log
