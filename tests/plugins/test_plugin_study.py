"""A study that uses an entry of every kind of a plugin, from its YAML to the table, through Snakemake as a user runs it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pel_core.common.files import read_json

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
PLUGIN = "everything.py"

pytestmark = pytest.mark.slow


def snakemake(folder, *words, plugins=PLUGIN):
    profile = ROOT / "workflow" / "profiles" / "default"
    base = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--workflow-profile", str(profile), "--cores", "2"]
    given = ["--config", "study=study.yaml", "config=config.yaml", *([f"plugins={plugins}"] if plugins else [])]
    done = subprocess.run(
        [*base, "--resources", "gpu=2", *words, *given], cwd=folder, capture_output=True, text=True, timeout=600
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with the plugin, a study and a configuration, and the study made."""
    folder = tmp_path_factory.mktemp("plugins")
    for name in (PLUGIN, "study.yaml", "config.yaml"):
        shutil.copy(HERE / name, folder)
    status, told = snakemake(folder)
    assert status == 0, told
    return folder


def trained(told):
    """The runs that a dry run would train."""
    return {line.split("runs/")[1].split("/")[0] for line in told.splitlines() if "delta.safetensors" in line and "runs/" in line}


def test_the_study_ends_in_its_table(lab):
    text = (lab / "results" / "tables" / "everything.md").read_text()
    assert "Their knobs" in text and "my-loss" in text and "loss.power" in text and "Median class" in text
    assert all((lab / "figures" / f"dots.{suffix}").stat().st_size > 1000 for suffix in ("pdf", "svg", "png"))
    assert (lab / "figures" / "dots.txt").read_text().endswith("\nA dot: the mean over seeds.\n")
    uses = {path.parent.name: read_json(path).get("plugins", {}) for path in (lab / "results" / "runs").glob("*/train.json")}
    assert len(uses) == 8 and all(bool(used) == ("my-" in slug) for slug, used in uses.items())


def test_a_changed_plugin_retrains_only_what_uses_it(lab):
    assert "Nothing to be done" in snakemake(lab, "-n")[1]
    path = lab / PLUGIN
    path.write_text(path.read_text() + "\n# another content\n")
    status, told = snakemake(lab, "-n")
    assert status == 0 and len(slugs := trained(told)) == 7 and all("my-" in slug for slug in slugs), told
    words = ["plan", "--study=study.yaml", "--config=config.yaml", f"--plugins={PLUGIN}"]
    done = subprocess.run([sys.executable, "-m", "pel_core", *words], cwd=lab, capture_output=True, text=True)
    assert "to train 7 (2 of them only for others to start from)" in done.stdout, done.stdout + done.stderr  # as Snakemake says
    shutil.copy(HERE / PLUGIN, lab)
    assert "Nothing to be done" in snakemake(lab, "-n")[1]


def test_without_the_plugin_its_entries_are_unknown(lab):
    status, told = snakemake(lab, "-n", plugins="")
    assert status and "figures.dots.kind = 'my-dots'; known: bars" in told
    status, told = snakemake(lab, "-n", plugins="other.py")
    assert status and "other.py does not exist" in told


def test_records_hold_the_content(lab):
    stored = {json.dumps(read_json(path)["plugins"]) for path in (lab / "results" / "runs").glob("*my-*/**/metrics.json")}
    assert len(stored) == 1
