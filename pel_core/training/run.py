"""A run from its name to its files: find the prepared inputs under the results folder, train, evaluate, write atomically."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pel_core.common.errors import PelError
from pel_core.common.files import require_writable, sha256, write_json
from pel_core.common.logs import logger
from pel_core.common.progress import Progress
from pel_core.common.signals import Requests
from pel_core.common.tensors import write_tensors
from pel_core.data.batches import TrainBatches
from pel_core.hardware.devices import environment, loader_workers, pick_device
from pel_core.hardware.lease import Lease
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.outcomes import failed_file
from pel_core.spec.plugins import parse_run
from pel_core.spec.results import run_folder
from pel_core.training import distributed
from pel_core.training.checkpoints import CheckpointManager, checkpoint_path
from pel_core.training.classifier import cast_frozen_weights
from pel_core.training.loggers import MetricLogger
from pel_core.training.loop import Diverged, train
from pel_core.training.model_card import card_metadata, write_card
from pel_core.training.prefix_cache import GIGABYTES
from pel_core.training.run_inputs import describe, identity, is_trained, load
from pel_core.training.samplers import make_sampler
from pel_core.training.step import PRECISIONS
from pel_core.training.validation import validation_score

TOLD_IF_ANY = ("average_scores", "compile_seconds")  # of `Training`: what most runs have not


def train_run(
    slug: str,
    results: str | Path,
    device: str = "auto",
    checkpoint_seconds: float = 300.0,
    loggers: Mapping[str, bool] = {"tensorboard": True},
    prefix_cache_gb: float = GIGABYTES,
    bar: Callable[..., Any] | None = None,
    compiling: str = "off",
) -> None:
    """Train the run and write ``delta.safetensors`` and ``train.json`` into its folder; go on where a checkpoint is. A training
    that diverges leaves ``failed.json`` there.

    Where torchrun started this process, it trains with the others; rank 0 writes.

    Args:
        checkpoint_seconds: between two checkpoints within an epoch; 0 keeps none.
        loggers: which metric loggers to use: tensorboard, wandb.
        prefix_cache_gb: what features that runs share may take, for a head that starts from images.
        bar: as `Progress`.
        compiling: auto or off (`training.compiling`).

    Raises:
        PelError: an evaluation-only slug, inputs that are missing or do not fit, a loss that is not finite.
        Stopped: a signal asked for it; what was done is saved.
    """
    spec = parse_run(slug, results)
    if not spec.trains:
        raise PelError(f"{slug} trains nothing; evaluate it directly")
    if spec.train != spec:
        raise PelError(f"{slug} differs from its training run in evaluation only; train '{spec.train.slug}'")
    folder, kept, failed = run_folder(results, slug), checkpoint_path(results, slug), failed_file(results, slug)
    target, started = pick_device(device), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with distributed.join(spec, target) as group, _lease(group, kept.with_name(f"{slug}.lease"), slug, target) as lease:
        data, classifier, info = load(spec, Path(results), target, fresh=True, prefix_cache_gb=prefix_cache_gb)
        record = describe(spec, data, info, classifier)
        if group.largest(int(lease.waited and is_trained(spec, Path(results), record))):
            logger.info("trained by the process that was waited for")
            return
        require_writable(folder)
        cast_frozen_weights(classifier, PRECISIONS[spec.precision])
        workers = loader_workers(data.train.images is None, target, group.size)
        kind = spec.pixels, spec.vit.mean, spec.vit.std, target, workers, group
        batches, first = TrainBatches(data.train, spec, *kind, make_sampler(spec)), group.rank == 0
        metric_logger = MetricLogger(Path(results), spec, len(batches), **(loggers if first else {"tensorboard": False}))
        progress = Progress(slug, spec.epochs * len(batches), quiet=not first, watchers=[lease.note, metric_logger], bar=bar)
        with Requests() as requests, closing(metric_logger), closing(progress):
            manager = CheckpointManager(kept, identity(record), checkpoint_seconds, requests, lease.check, writes=first)
            try:
                counts, validate = torch.as_tensor(data.train_counts), validation_score(classifier, spec, data)
                training = train(classifier, batches, spec, counts, progress, manager, group, validate, compiling)
            except Diverged as error:
                if first:
                    write_json(failed, record | {"failed": error.failed, "environment": environment(target, started)})
                raise PelError(f"{error}. That it diverged is kept in {failed}: a study counts it as an outcome") from None
        if not first:
            return
        lease.check()
        failed.unlink(missing_ok=True)
        write_tensors(folder / "delta.safetensors", classifier.trainable_state(), card_metadata(record, data.class_names))
        record |= {"delta_sha256": sha256(folder / "delta.safetensors")}
        resumed = {"resumed_at": manager.resumed} if manager.resumed else {}  # steps
        several = {"processes": group.size} if group.size > 1 else {}
        told = {name: value for name, value in asdict(training).items() if name not in TOLD_IF_ANY or value}
        record |= {"training": told, "environment": environment(target, started) | resumed | several}
        write_json(folder / "train.json", record)
        write_card(folder, record)


def _lease(group: ProcessGroup, path: Path, slug: str, device: torch.device) -> Any:
    """Rank 0's right to train the run; the others follow it."""
    return (
        distributed.FollowerLease()
        if group.rank
        else Lease(path, slug, f"{device}, {group.size} GPUs" if group.size > 1 else str(device))
    )
