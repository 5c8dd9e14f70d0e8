"""Whether what a run is scored from, and what scoring stored of its predictions, lie there. Torch-free."""

import os
from pathlib import Path

from pel_core.spec.posthoc import sources
from pel_core.spec.results import OUTPUTS, metrics_file, run_folder
from pel_core.spec.run_spec import RunSpec

PARQUET = b"PAR1"  # how a whole Parquet file ends


def lacking(results: str | Path, slug: str) -> str:
    """What is wrong with the predictions.parquet beside a run's result: ``gone``, ``damaged`` or, where it is whole as far as its
    end tells, nothing. Only the end is read, since planning asks of thousands of runs."""
    try:
        with open(metrics_file(results, slug).with_name(OUTPUTS[0]), "rb") as handle:
            handle.seek(-len(PARQUET), os.SEEK_END)  # of a shorter file an OSError
            return "" if handle.read() == PARQUET else "damaged"
    except FileNotFoundError:
        return "gone"
    except OSError:
        return "damaged"


def has_logits(results: str | Path, spec: RunSpec) -> bool:
    """Whether the logits that a run is scored from lie there: its own, or those of the runs that a post-hoc one reads."""
    return all((run_folder(results, run.slug) / "logits.safetensors").is_file() for run in sources(spec) or (spec,))
