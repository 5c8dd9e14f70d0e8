"""Which plugins a run is made with: those that define one of its entries. Their contents are part of what the run is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.plugins import loaded, used
from pel_core.data.datasets import DATASETS, split_name
from pel_core.models.backbones import BACKBONES
from pel_core.models.deltas import DELTAS
from pel_core.models.methods import METHODS
from pel_core.models.prompts import PROMPTS, prompt_parts
from pel_core.spec.long_names import look_in
from pel_core.spec.posthoc import POSTHOC, steps_of
from pel_core.spec.run_spec import RunSpec

GIVE = "give its file with --plugins FILE (snakemake --config plugins=FILE)"


def plugins_of(spec: RunSpec) -> dict[str, str]:
    """Name and SHA-256 of every plugin that a run uses; of most runs, none."""
    entries = [*spec.entries.values(), BACKBONES.entry(spec.backbone)]
    entries += [DELTAS.entry(attach.delta) for part in spec.parts for attach in METHODS[part.name].attach]
    entries += [POSTHOC.entry(name) for name in steps_of(spec)]
    entries += [PROMPTS.entry(prompt_parts(spec.prompt)[0])] if spec.reads_prompt else []
    base = split_name(spec.dataset)[0]  # a user's own is in no registry
    return used([*entries, *([DATASETS.entry(base)] if base in DATASETS else [])])


def with_plugins(spec: RunSpec) -> dict[str, Any]:
    """What a record, a checkpoint's identity or a job's params say of it: nothing where the run uses none."""
    used = plugins_of(spec)
    return {"plugins": used} if used else {}


def other_plugins(stored: Mapping[str, Any], spec: RunSpec) -> str:
    """Why a record was made with other plugins than ``spec`` has now; empty where it was not."""
    then, now = stored.get("plugins", {}), plugins_of(spec)
    for name in {**then, **now}:
        if name not in now:
            return f"made with the plugin {name}, which none of its entries comes from now"
        if name not in then:
            return f"made without the plugin {name}"
        if then[name] != now[name]:
            return f"made with another content of the plugin {name} ({then[name][:12]}) than is given now ({now[name][:12]})"
    return ""


def parse_run(slug: str, results: str | Path) -> RunSpec:
    """`RunSpec.parse` beside the results folder, which says what the digest in a long name stands for (`spec.long_names`). Where
    the run lies in ``results`` and was made with plugins that are not given, the error says so.

    Raises:
        PelError: as `RunSpec.parse`.
    """
    look_in(results)
    try:
        return RunSpec.parse(slug)
    except PelError as error:
        from pel_core.spec.results import run_folder  # which imports this file

        raise PelError(f"{error}{_missing(run_folder(results, slug))}") from None


def _missing(folder: Path) -> str:
    for name in ("metrics.json", "train.json"):
        try:
            stored = read_json(folder / name).get("plugins", {})
        except (PelError, OSError):
            continue
        if absent := [plugin for plugin in stored if plugin not in loaded()]:
            return f". The run was made with the plugin {', '.join(absent)}: {GIVE}"
    return ""
