"""The published layouts from their lists to a result, through the commands that a user types; validation instead of test."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from real_trees import COUNTS, TREES, imagenet, inaturalist, publish
from safetensors.numpy import load_file

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.datasets import DATASETS
from pel_core.ingest.sources import require_split
from pel_core.studies.study import load

ROOT = Path(__file__).parents[2]


def call(*words) -> None:
    assert main(list(map(str, words))) == 0, words


@pytest.mark.parametrize("base", TREES)
def test_from_lists_to_a_result(base, server, toy_results, tmp_path, monkeypatch, capsys):
    """fetch, check, describe, prepare, text, train, evaluate; where there is a validation split, on it too."""
    tree = TREES[base](tmp_path / "data" / DATASETS[base].options["root"], side=24)
    publish(monkeypatch, tree)
    monkeypatch.chdir(tmp_path)  # images lie in ./data/imagenet and so on, where they are looked for
    for name in ("categories.json", "classnames.txt", *tree.lists.values()):
        if (tree.root / name).exists():
            server.files[name] = (tree.root / name).read_bytes()
            (tree.root / name).unlink()
    call("data", "fetch", base, "--mirror", server.address)
    assert f"Then: python -m pel_core data check {base}\n" in capsys.readouterr().out
    call("data", "check", base, "--check-images", "all")
    call("data", "describe", base)
    (tmp_path / "results/backbones").mkdir(parents=True)
    (tmp_path / "results/backbones/toy").symlink_to(toy_results / "backbones/toy")
    call("data", "prepare", base, "--out", f"results/data/{base}")
    words = ["text", "--backbone-dir", "results/backbones/toy", "--data-dir", f"results/data/{base}"]
    call(*words, "--out", f"results/text/toy/{base}.default.safetensors")
    slug = f"{base}.toy.adaptformer.s0.epochs=2.batch_size=16.precision=fp32"
    call("train", slug)
    call("evaluate", slug)
    record = read_json(tmp_path / "results/runs" / slug / "metrics.json")
    assert record["data"]["train_counts"] == list(COUNTS) and record["data"]["test_images"] == 8
    assert record["data"]["groups"] == {"head": 0, "med": 1, "tail": 3}
    if "val" in tree.lists and "val" in DATASETS[base].options:
        # Choosing a model needs no test image: there is none left, and their labels are nonsense.
        for path in tree.paths("test"):
            path.unlink()
        stored = dict(np.load(tmp_path / f"results/data/{base}/test.npz"))
        np.savez(tmp_path / f"results/data/{base}/test.npz", **{**stored, "labels": np.full_like(stored["labels"], 99)})
        call("evaluate", f"{slug}.split=val")
        folder = tmp_path / "results/runs" / slug / "split=val"
        assert read_json(folder / "metrics.json")["spec"]["split"] == "val"
        assert load_file(folder / "logits.safetensors")["labels"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_split_that_there_is_not(capsys):
    with pytest.raises(
        PelError, match=r"split=val: data set 'inat2018' has no validation split; .*imagenet-lt, places-lt, sun397 has"
    ):
        require_split("inat2018", "val", DATASETS)
    require_split("places-lt", "val", DATASETS)
    require_split("inat2018", "test", DATASETS)


CONFIG = """
title: Small trees
backbone: toy
seeds: [0]
size: small
data: {{imagenet-lt: imagenet-lt, inat2018: inat2018}}
roots: {{imagenet-lt: {root}/imagenet, inat2018: {root}/inat}}
user_lists: [imagenet-lt, inat2018]
naming: {{imagenet-lt: {{distinct: true}}}}
check_images: all
recipe: {{epochs: 1, batch_size: 16, precision: fp32}}
resources: {{threads: 1, mem_mb: 2000, runtime: 10}}
"""
STUDY = """
title: Published layouts
roles: {imagenet-lt: ImageNet-LT, inat2018: iNaturalist 2018}
tables:
  small:
    title: Small
    rows: [{label: AdaptFormer, method: adaptformer}]
    columns:
      - {label: test, dataset: imagenet-lt, value: overall}
      - {label: val, dataset: imagenet-lt, value: overall, split: val}
      - {label: iNat, dataset: inat2018, value: overall}
"""


def snakemake(folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--directory", str(folder), "--cores", "2"]
    environment = {key: value for key, value in os.environ.items() if key != "PEL_DATA"}
    words = [*words, "--config", "study=study.yaml", "config=config.yaml"]
    return subprocess.run(
        [*command, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.slow
def test_a_study_on_small_trees(tmp_path):
    """Through Snakemake: checked once, trained on both layouts, a validation column beside a test column."""
    imagenet(tmp_path / "data/imagenet", side=24)
    tree = inaturalist(tmp_path / "data/inat", side=24)
    (tmp_path / "config.yaml").write_text(CONFIG.format(root=tmp_path / "data"))
    (tmp_path / "study.yaml").write_text(STUDY)
    done = snakemake(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_json(tmp_path / "results/data/imagenet-lt/data.json")["class_names"][2] == "projectile"
    assert len((tmp_path / "results/tables/small.csv").read_text().splitlines()) >= 2
    trained = list((tmp_path / "results/runs").glob("imagenet-lt*/delta.safetensors"))
    assert len(trained) == 1  # the validation column trains nothing
    again = snakemake(tmp_path, "-n")
    assert "Nothing to be done" in again.stdout + again.stderr
    # A tree that breaks later is found by the next check, which says what and where.
    tree.paths("train")[0].unlink()
    broken = snakemake(tmp_path, "--forcerun", "data", "--until", "data")
    assert broken.returncode != 0
    assert "cannot be used (No such file" in (tmp_path / "results/logs/inat2018.data.log").read_text()
    config = CONFIG.format(root=tmp_path / "data").replace("size: small", "size: small\nlists: {inat2018: nowhere}")
    (tmp_path / "config.yaml").write_text(config)
    lacking = snakemake(tmp_path, "-n")
    assert lacking.returncode != 0 and "nowhere/categories.json does not exist" in lacking.stdout + lacking.stderr


def test_split_val_is_refused_when_the_study_is_planned(tmp_path):
    inaturalist(tmp_path / "data/inat", side=8)
    imagenet(tmp_path / "data/imagenet", side=8)
    (tmp_path / "config.yaml").write_text(CONFIG.format(root=tmp_path / "data"))
    (tmp_path / "study.yaml").write_text(
        STUDY.replace("dataset: inat2018, value: overall", "dataset: inat2018, value: overall, split: val")
    )
    done = snakemake(tmp_path, "-n")
    assert done.returncode != 0 and "split=val: data set 'inat2018' has no validation split" in done.stdout + done.stderr
    with pytest.raises(PelError, match="data set 'inat2018' has no validation split"):  # as `make plan` reads it
        load(tmp_path / "study.yaml", tmp_path / "config.yaml")


def test_paper_and_cifar_configurations_name_what_is_built_in():
    from pel_core.studies.config import find, read_config

    bound = {name for name in read_config(find("paper"))["data"].values() if isinstance(name, str)}
    assert bound >= {"cifar100", "imagenet-lt", "places-lt", "inat2018"}
    assert read_config(find("cifar"))["data"] == {"cifar100": "cifar100"}
