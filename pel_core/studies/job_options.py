"""Options of a training or evaluation job that change no number, from a configuration's ``resources``, ``tensorboard`` and
``wandb``. Snakemake does not compare them between calls. Torch-free."""

import os
import subprocess
from collections.abc import Mapping
from typing import Any

from pel_core.common.errors import PelError
from pel_core.hardware.gpu_slots import at_once

Config = Mapping[str, Any]


def gpus(config: Config) -> int:
    """GPUs of one training run: more than one is data parallel."""
    return config.get("resources", {}).get("gpus", 1)


def share(config: Config) -> float:
    """The part of a GPU that a job needs."""
    return config.get("resources", {}).get("gpu_share", 1.0)


def compiling(config: Config) -> str:
    """``compile`` of a configuration's resources, auto or off, which YAML reads as false."""
    return config.get("resources", {}).get("compile") or "off"


def check(config: Config) -> None:
    """Refuse settings of jobs that cannot be valid.

    Raises:
        PelError: several GPUs of which a part each is asked for.
    """
    if gpus(config) > 1 and share(config) < 1:
        raise PelError("resources: gpus is for runs larger than a GPU, gpu_share for runs smaller than one; give one of the two")


def train_options(config: Config) -> str:
    """The command-line options of training jobs, apart from the run."""
    several = f"--gpus {gpus(config)}" if gpus(config) > 1 else ""
    graphs = f"--compile {compiling(config)}" if compiling(config) != "off" else ""
    return " ".join(filter(None, [several, graphs, _options(config)]))


def evaluate_options(config: Config) -> str:
    """The command-line options of evaluation jobs, apart from the run; they use one GPU at most."""
    flag = f"--logits {config['logits']}" if config.get("logits", "compact") != "compact" else ""
    return " ".join(filter(None, [_options(config), flag]))


def _options(config: Config) -> str:
    part = f"--gpu-share {share(config):g}" if share(config) < 1 else ""
    quiet = "" if config.get("tensorboard", True) else "--no-tensorboard"
    flag = f"--prefix-cache-gb {config['prefix_cache_gb']:g}" if "prefix_cache_gb" in config else ""
    return " ".join(filter(None, [part, quiet, "--wandb" if config.get("wandb", False) else "", flag]))


def slots(config: Config, cores: int) -> int:
    """Jobs that may train at once on this machine: what fits on its GPUs, without one a job per core.

    A GPU that CUDA_VISIBLE_DEVICES hides does not count.
    """
    gpus = _listed()
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        gpus = min(gpus, len([word for word in shown.split(",") if word.strip() not in ("", "-1", "NoDevFiles")]))
    return at_once(gpus, share(config)) if gpus else max(1, cores)


def _listed() -> int:
    """GPUs that the driver lists, without importing torch; a GPU cut into MIG parts counts as its parts."""
    try:
        text = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    parts = text.count("UUID: MIG-")
    return parts or text.count("UUID: GPU-")
