"""`predict` on the test images gives the table's numbers, of every shipped configuration, by the name that its study writes.

Configurations are taken at the toy backbone's size and on three images; what decides about crops stays as they say it.
"""

import json

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from test_outputs import listed

from pel_core.cli.main import main
from pel_core.common.yaml_files import load_yaml
from pel_core.data.datasets import DATASETS, open_prepared
from pel_core.spec.results import run_folder
from pel_core.spec.run_spec import is_evaluation
from pel_core.studies.config import WORKFLOW, read_config
from pel_core.studies.study import load

CONFIGS = [path for path in sorted((WORKFLOW / "config").glob("*.yaml")) if "backbone" in load_yaml(path)]
BARS = [{"label": method, "method": method} for method in ("adaptformer", "zero-shot")]
STUDY = {"title": "S", "roles": {"own": "Own"}}
STUDY["figures"] = {"f": {"kind": "bars", "title": "B", "where": {"dataset": "own", "value": "overall"}, "bars": BARS}}


def recipes(path) -> dict[str, dict]:
    """What a configuration's runs evaluate otherwise than by default, each once, with all that it says of them."""
    config = read_config(path)
    found = {}
    for bound in config["data"].values():
        name = bound if isinstance(bound, str) else bound["dataset"]
        recipe = {**(dict(DATASETS[name].recipe) if name in DATASETS else {}), **config.get("recipe", {})}
        found.setdefault(json.dumps({key: value for key, value in recipe.items() if is_evaluation(key)}), recipe)
    return found


CASES = {f"{path.stem} {said}": recipe for path in CONFIGS for said, recipe in recipes(path).items()}


def predicted(out, paths, *words):
    assert main(["predict", *map(str, paths), "--out", str(out), *map(str, words)]) == 0
    return parquet.read_table(out).to_pydict()


def same(found, expected):
    for mine, theirs in (
        ("prediction", "prediction"),
        ("probability", "probability"),
        ("top_probabilities", "top5_probabilities"),
    ):
        assert found[mine] == expected[theirs], mine


def test_every_shipped_configuration_is_here():
    assert {path.stem for path in CONFIGS} >= {"demo", "cifar", "paper", "images", "own", "own-mini"}
    assert any("expand" in case for case in CASES)  # else nothing could go wrong


@pytest.mark.parametrize("case", CASES)
def test_the_name_a_study_writes_gives_the_tables_numbers(tmp_path, case):
    results = listed(tmp_path)
    config = json.loads((tmp_path / "config.yaml").read_text()) | {"data": {"own": "mine"}}
    config["recipe"] = CASES[case] | {"epochs": 1, "precision": "fp32"}
    for name, content in (("study", STUDY), ("config", config)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(content))
    for slug, spec in load(tmp_path / "study.yaml", tmp_path / "config.yaml").specs.items():
        for command, run in [("train", spec.train.slug), ("evaluate", slug)][not spec.trains :]:
            assert main([command, run, "--results", str(results)]) == 0
        expected = parquet.read_table(run_folder(results, slug) / "predictions.parquet").to_pydict()
        paths = [tmp_path / "images" / path for path in expected["path"]]
        for run in (f"mine.toy.{spec.method}.s0", spec.train.slug, slug):
            same(predicted(tmp_path / "p.parquet", paths, "--run", run, "--results", results), expected)


@pytest.mark.parametrize("options", ["", ".epochs=1.expand=1", ".epochs=1.eval_precision=bf16", ".epochs=1.tte=none"])
def test_images_that_are_held_as_pixels_too(toy_results, tmp_path, options):
    """As those of the demo and of CIFAR, written to files."""
    slug = f"toy-ir20.toy.bias.s3{options}"
    train = slug.removesuffix(".expand=1").removesuffix(".eval_precision=bf16").removesuffix(".tte=none")
    for command, run in (("train", train), ("evaluate", slug)):
        assert main([command, run, "--results", str(toy_results)]) == 0
    images = open_prepared(toy_results / "data/toy", "toy-ir20").split("test").images
    paths = [tmp_path / f"{index:03d}.png" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(np.asarray(image)).save(path)
    expected = parquet.read_table(run_folder(toy_results, slug) / "predictions.parquet").to_pydict()
    same(predicted(tmp_path / "p.parquet", paths, "--run", slug, "--results", toy_results), expected)
