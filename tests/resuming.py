"""Trainings in this process, for the tests of interrupted ones."""

import signal

import torch

from pel_core.common.progress import Progress
from pel_core.common.signals import Requests, Stopped
from pel_core.data.batches import TrainBatches
from pel_core.training.checkpoints import CheckpointManager
from pel_core.training.loop import train
from pel_core.training.run_inputs import load
from pel_core.training.samplers import make_sampler
from pel_core.training.validation import validation_score

CPU = torch.device("cpu")


def train_once(results, spec, manager=None, watch=None, device=CPU, compiling="off"):
    """Train in this process; returns the trained state and the log."""
    data, classifier, _ = load(spec, results, device, fresh=True)
    how = spec.pixels, spec.vit.mean, spec.vit.std, device
    batches = TrainBatches(data.train, spec, *how, sampler=make_sampler(spec))
    progress = Progress("test", 1, quiet=True)
    counts, validate = torch.as_tensor(data.train_counts), validation_score(classifier, spec, data)
    log = train(
        classifier, watch(batches) if watch else batches, spec, counts, progress, manager, validate=validate, compiling=compiling
    )
    return classifier.trainable_state(), log


class Asked(Requests):
    """Asks to stop after so many steps, once."""

    def __init__(self, after: int):
        super().__init__()
        self.after, self.count = after, 0

    @property
    def number(self) -> int:
        self.count += 1
        return signal.SIGUSR1 if self.count > self.after else 0

    @number.setter
    def number(self, value: int) -> None:
        pass


def interrupted(results, spec, path, after):
    """Train, stop after the given steps of each life, and go on until it ends."""
    lives = 0
    while True:
        lives += 1
        try:
            state, log = train_once(results, spec, CheckpointManager(path, {"slug": spec.slug}, requests=Asked(after)))
            return state, log, lives
        except Stopped as stopped:
            assert stopped.status == 138 and "saved; the same command goes on" in str(stopped)
