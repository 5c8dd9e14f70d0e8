"""One run from Python, with a live bar: prepared, trained and evaluated as the command line does it, to the same bits."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import TqdmWarning

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # ipywidgets need not be there; whoever imports this first would be told
    from tqdm.auto import tqdm

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.logs import logger
from pel_core.common.paths import user_path
from pel_core.common.shipped import command
from pel_core.common.versions import STAGES, made_by
from pel_core.data.test_sets import TestSet
from pel_core.door.loaded import LoadedRun, load_run
from pel_core.door.one_run import Paths, prepare_inputs, settings_of, spec_of, study_of_run
from pel_core.door.plugin import use_plugins
from pel_core.evaluation.evaluate import evaluate_run
from pel_core.hardware import cpu
from pel_core.hardware.devices import claim, exact_fp32, release
from pel_core.spec.outcomes import reason_of
from pel_core.spec.posthoc import sources
from pel_core.spec.results import invalid_reason, run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.studies import job_options
from pel_core.studies.study import Study
from pel_core.training.prefix_cache import GIGABYTES
from pel_core.training.run import train_run


def train(
    run: str | RunSpec | None = None,
    *,
    dataset: str | None = None,
    method: str | None = None,
    backbone: str | None = None,
    seed: int | None = None,
    config: Paths = "demo",
    root: Paths | None = None,
    weights: Paths | None = None,
    results: Paths | None = None,
    device: str = "auto",
    threads: int | None = None,
    again: bool = False,
    bar: bool = True,
    **options: Any,
) -> LoadedRun:
    """Train one run and evaluate it, after what it needs is prepared; returns it, ready to classify. A finished run is loaded.

    An interruption (the notebook's stop button) ends after the step under way and saves it; the same call goes on from there.

    Args:
        run: its name, ``demo-cifar-ir100.clip-mini.adaptformer.s0``; or say ``dataset``, ``method`` and, where they differ from
            the configuration's and 0, ``backbone`` and ``seed``, with any option of a study: ``epochs=5``,
            ``**{"loss.gamma": 2}``. What the configuration shares among its runs (its ``recipe``) then holds, as in a study.
        config: the configuration, a name under ``workflow/config`` or a path: data sets of your own, where images and weights
            lie.
        root: where images are looked for (PEL_DATA; ``make``'s DATA).
        weights: a local file or folder, or a hub name, for the backbone.
        results: the results folder, instead of the configuration's.
        device: ``auto`` (a GPU that no other job holds, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
        threads: on the CPU; by default the configuration's, as in a study; 0 for torch's own choice. Another number may change
            the last bits.
        again: train and evaluate once more, whatever is there.
        bar: whether to show a live bar.

    Raises:
        PelError: a run that is not possible, inputs that are missing, a training that diverges; what to do is said.
        Stopped: an interruption, which a later call goes on from.
    """
    use_plugins()
    given = {"root": root, "weights": weights, "results": None if results is None else str(user_path(os.fspath(results)))}
    named = {"dataset": dataset, "method": method, "backbone": backbone, "seed": seed}
    settings = {key: os.fspath(value) for key, value in given.items() if value is not None}
    if weights is not None and backbone is not None:
        settings["backbone"] = backbone  # whose weights they are
    with settings_of(config, settings) as (path, values):
        spec = spec_of(run, named, values, options)
        study = study_of_run(spec, path, values)
        if (several := job_options.gpus(values)) > 1:
            raise PelError(f"resources: gpus: {several}: one process trains on one GPU; {command(f'train RUN --gpus {several}')}")
        stale = prepare_inputs(study)
        with _threads(study.resource("threads") if threads is None else threads), exact_fp32():
            _make(study, spec, stale, device, again, tqdm if bar else None)
    return load_run(spec.slug, study.results, device=device)


def _make(study: Study, spec: RunSpec, stale: dict[str, str], device: str, again: bool, bar: Callable[..., Any] | None) -> None:
    """Train what is not trained, origins first, then evaluate."""
    cpu.keep_freed_memory()
    kept = study.state(spec.slug) == "done" and not study.lacking_predictions(spec.slug)
    if kept and study.result_file(spec.slug) not in stale and not again:
        logger.info("%s is finished: %s (again=True makes it anew)", spec.slug, study.result_file(spec.slug))
        return
    if (failed := study.diverged(spec.slug)) and not again:
        raise PelError(f"{spec.slug} diverged before: {reason_of(failed)}; again=True tries once more")
    config = study.config
    loggers = {"tensorboard": config.get("tensorboard", True), "wandb": config.get("wandb", False)}
    cache, compiling = config.get("prefix_cache_gb", GIGABYTES), job_options.compiling(config)
    own = [run.train for run in (sources(spec) or (spec,)) if run.trains]
    origins = [origin for run in own for origin in run.ancestors.values()]
    for training in {run.slug: run for run in [*origins, *own]}.values():
        if (again and training in own) or not _is_trained(study, training, stale):
            taken = claim(device, job_options.share(config))[0]
            try:
                train_run(
                    training.slug, study.results, taken, loggers=loggers, prefix_cache_gb=cache, bar=bar, compiling=compiling
                )
            finally:
                release()
    taken = claim(device, job_options.share(config))[0]
    try:
        accept, logits, other = spec.slug in study.accept, config.get("logits", "compact"), TestSet(**study.test_set(spec))
        evaluate_run(spec.slug, study.results, taken, accept, loggers, cache, logits, other)
    finally:
        release()


def _is_trained(study: Study, spec: RunSpec, stale: dict[str, str]) -> bool:
    """Whether a training lies there and may be used."""
    folder = run_folder(study.results, spec.slug)
    record_file = folder / "train.json"
    if not record_file.is_file() or not (folder / "delta.safetensors").is_file() or study.delta(spec.slug) in stale:
        return False
    try:
        record = read_json(record_file, ("slug", "spec", "delta_sha256"))
    except PelError:
        return False
    meant = {**record, "metrics": {}, "versions": {**STAGES, **made_by(record)}}
    if reason := invalid_reason(meant, spec, study.accept, study.results):
        logger.info("%s is trained again: %s", spec.slug, reason)
    return not reason


@contextmanager
def _threads(count: int) -> Iterator[None]:
    if count < 0:
        raise PelError(f"threads={count}: expected 1 or more, or 0 for torch's own choice")
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
