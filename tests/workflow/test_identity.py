"""What is measured is what was given: images, tables and weights that are replaced, with and without Snakemake's memory.

Snakemake is real and so are prepared data and their identities; runs are made up (`tests/real_inputs.py`). The many cases of it
are tests of `tests/studies/test_other_inputs.py`, without Snakemake.
"""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from lab import ROOT, Lab
from own_trees import draw, write

from pel_core.common.files import write_json

STUDY = """
title: Small
roles: {small: Mine}
tables:
  t1:
    title: One
    where: {dataset: small}
    rows: [{label: PEL, method: adaptformer}]
    columns: [{label: All, value: overall}]
"""
CONFIG = """
title: Toy
backbone: toy
seeds: [0]
data: {small: mine}
datasets: {mine: {kind: auto, root: $PEL_DATA}}
"""


class Photos(Lab):
    """A lab whose images are real."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.images, self.table = self.work / "photos", self.work / "photos/all.csv"

    def made(self, **config: str) -> str:
        done = self.snakemake("--cores", "2", "--resources", "gpu=2", "--quiet", "rules", root="photos/all.csv", **config)
        text = done.stdout + done.stderr
        assert done.returncode == 0, text
        return text

    def jobs(self, **config: str) -> Counter:
        return Counter(job.split()[0] for job in self.plan(**{"root": "photos/all.csv", **config}))

    def seed(self, number: int) -> dict:
        path = self.work / f"results/runs/mine.toy.adaptformer.s{number}/metrics.json"
        return json.loads(path.read_text())["inputs"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A study of one run on a table of images, built."""
    lab = Photos(tmp_path_factory.mktemp("photos"))
    for folder in (lab.code, lab.work):
        folder.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "clip-mini", "conformance")
    for name in ("workflow", "pel_core"):
        shutil.copytree(ROOT / name, lab.code / name, ignore=ignore)
    shutil.copy(ROOT / "Snakefile", lab.code / "Snakefile")
    shutil.copy(ROOT / "tests/fake_results.py", lab.code / "fake_results.py")
    shutil.copy(ROOT / "tests/real_inputs.py", lab.code / "pel_core/__main__.py")
    (lab.work / "study.yaml").write_text(STUDY)
    (lab.work / "config.yaml").write_text(CONFIG)
    rows = [["path", "label"]]
    for number in range(12):
        draw(lab.images / f"{number}.bmp", 5 * number)
        rows.append([f"{number}.bmp", "ab"[number % 2]])
    write(lab.table, rows)
    (lab.work / "w.safetensors").write_bytes(b"weights")
    lab.made(weights="w.safetensors")
    assert lab.jobs(weights="w.safetensors") == {}
    return lab.code.parent


@pytest.fixture
def remembered(built, tmp_path) -> Photos:
    """A copy of the built study, as if it had been built where it lies."""
    shutil.copytree(built, tmp_path / "lab", copy_function=shutil.copy2)
    lab = Photos(tmp_path / "lab")
    write_json(lab.work / "results/data/mine/root.json", {"root": str(lab.images), "was": str(lab.images)})
    return lab


@pytest.fixture
def lab(remembered) -> Photos:
    """The same without what Snakemake remembers."""
    shutil.rmtree(remembered.work / ".snakemake")
    return remembered


W = {"weights": "w.safetensors"}


def overwrite(path: Path) -> None:
    """Other pixels in a file of the same size, in place."""
    size = path.stat().st_size
    draw(path, 5 * 80)
    assert path.stat().st_size == size


@pytest.mark.slow
def test_equal_content_makes_nothing_again(lab):
    """Moved, touched, and rewritten with the same bytes: names and times are not what is known."""
    for path in lab.images.glob("*.bmp"):
        path.write_bytes(path.read_bytes())
    for path in (lab.table, lab.work / "w.safetensors"):
        os.utime(path)
    assert lab.jobs(**W) == {}
    lab.images.rename(lab.work / "moved")
    shutil.copytree(lab.work / "moved", lab.work / "elsewhere")  # with other times
    shutil.rmtree(lab.work / "moved")
    assert lab.jobs(root="elsewhere/all.csv", **W) == {}


def test_images_overwritten_in_place_are_seen(remembered):
    """Whatever Snakemake remembers; the dry run changes nothing, and seeds are never of several images."""
    before, lab = remembered.seed(0), remembered
    overwrite(lab.images / "3.bmp")
    assert lab.jobs(seeds="0,1", **W) == {"data": 1, "text": 1, "train": 2, "predict": 2, "table": 1}
    shutil.rmtree(lab.work / ".snakemake")
    told = lab.made(seeds="0,1", **W)
    assert "made again: the images of mine are not those that" in told and "1 of 12 files are others" in told
    assert lab.seed(0) == lab.seed(1) != before
    assert lab.jobs(seeds="0,1", **W) == {}


@pytest.mark.slow
def test_other_weights_are_seen(lab):
    """Not only more seeds train on them: the earlier ones are made again."""
    before, other = lab.seed(0), {"seeds": "0,1", "weights": "other.safetensors"}
    (lab.work / "other.safetensors").write_bytes(b"other!!")
    told = lab.made(**other)
    assert "made again: the weights of toy are not those that" in told
    assert lab.seed(0) == lab.seed(1) and lab.seed(0)["backbone"] != before["backbone"]
    assert lab.jobs(**other) == {}
