"""Tests that start a real SLURM on this host (`make test-cluster`); every other call of pytest leaves them out."""

import shutil

import pytest

DAEMONS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
WHERE = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def pytest_collection_modifyitems(config, items):
    """Keep them only where the marker was asked for: not every machine has SLURM, and nobody waits minutes by surprise."""
    if "cluster" in (config.option.markexpr or ""):
        return
    chosen = [item for item in items if item.get_closest_marker("cluster")]
    if chosen:
        config.hook.pytest_deselected(items=chosen)
        items[:] = [item for item in items if item not in chosen]


@pytest.fixture(scope="session")
def slurm_programs() -> None:
    """Skips, saying what is missing and how to get it."""
    missing = [name for name in DAEMONS if not shutil.which(name, path=WHERE)]
    if missing:
        pytest.skip(f"SLURM is not installed ({', '.join(missing)} not found): apt-get install slurm-wlm slurm-client, as root")
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install -r workflow/profiles/requirements.txt")
