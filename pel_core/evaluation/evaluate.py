"""A trained run's evaluation: `predict`, then, with the device free for others, `score`."""

import math
from collections.abc import Mapping
from pathlib import Path

from pel_core.data.test_sets import AS_NAMED, TestSet
from pel_core.evaluation.predict import predict_run
from pel_core.evaluation.score import score_run
from pel_core.hardware.devices import release
from pel_core.hardware.lease import SignOfLife
from pel_core.spec.long_names import file_name
from pel_core.spec.plugins import parse_run
from pel_core.spec.posthoc import is_posthoc, sources
from pel_core.spec.seals import require_unsealed
from pel_core.training.checkpoints import drop_checkpoint
from pel_core.training.loggers import evaluated
from pel_core.training.prefix_cache import GIGABYTES


def evaluate_run(
    slug: str,
    results: str | Path,
    device: str = "auto",
    accept: bool = False,
    loggers: Mapping[str, bool] = {"tensorboard": True},
    prefix_cache_gb: float = GIGABYTES,
    logits: str = "compact",
    test_set: TestSet = AS_NAMED,
) -> None:
    """Evaluate a trained run (or zero-shot): ``logits.safetensors`` and ``predict.json``, then ``metrics.json`` and the files of
    `outputs`. Both stages share a process: a study of 2,000 runs starts no interpreter more for the second.

    A post-hoc run is scored from the logits of others, which are evaluated first.

    Args: as `predict_run`; ``loggers`` as for `train_run`.

    Raises:
        PelError: as `predict_run` and `score_run`; or the training is a study's candidate, sealed from the split.
    """
    spec = parse_run(slug, results)
    require_unsealed(results, spec)
    if is_posthoc(spec):
        for run in sources(spec):  # what lies there is predicted no second time
            evaluate_run(run.slug, results, device, accept, loggers, prefix_cache_gb, logits, test_set)
        score_run(spec, Path(results))
        return
    with SignOfLife(Path(results) / "checkpoints" / f"{file_name(slug)}.predict.lease", slug, str(device), "evaluated") as sign:
        data = predict_run(spec, Path(results), device, accept, prefix_cache_gb, logits, test_set, sign.note)
        release()
        record = score_run(spec, Path(results), data)
    steps = len((record["training"] or {}).get("curve", [])) * math.ceil(record["data"]["train_images"] / spec.batch_size)
    evaluated(Path(results), spec, record["metrics"], steps, **loggers)
    drop_checkpoint(results, spec.train.slug)
