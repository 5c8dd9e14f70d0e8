"""What a study asks for is checked before anything runs: files, names, ratios; and results against what lies prepared."""

import json
import os

import pytest
from fake_results import fake_record, write_results

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.data.datasets import find_dataset
from pel_core.data.test_sets import content_of
from pel_core.ingest.prepare import prepare
from pel_core.reporting.tables import table_files
from pel_core.spec import results as reading
from pel_core.spec.records import lookup, number, require_same_inputs
from pel_core.spec.results import invalid_reason, metrics_file, read_other_inputs, read_result
from pel_core.spec.run_spec import RunSpec
from pel_core.spec.values import SECTIONS, section_keys, value_path
from pel_core.studies.study import load_settings

STUDY = """
title: Small
roles: {small: Toy}
tables:
  t1:
    title: "{small}, one"
    where: {dataset: small-ir20}
    rows:
      - {label: PEL, method: adaptformer}
    columns:
      - {label: LA, value: overall}
"""
CONFIG = """
title: Toy
backbone: toy
seeds: [0, 1]
data: {small: toy}
"""
MINE = CONFIG.replace("data: {small: toy}", "data: {small: mine}") + (
    "datasets: {mine: {root: $PEL_DATA, train: 'train_{ir}.txt', test: test.txt, names: names.txt, ratios: [20]}}\n"
)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write a study and a config and load them as Snakemake does."""
    monkeypatch.setenv("PEL_DATA", "")  # so that it is put back as it was
    monkeypatch.delenv("PEL_DATA")
    monkeypatch.setenv("PEL_ROOTS", "")

    def make(study: str = STUDY, config: str = CONFIG, load=load_settings, **settings):
        (tmp_path / "study.yaml").write_text(study)
        (tmp_path / "config.yaml").write_text(config)
        named = {"study": tmp_path / "study.yaml", "config": tmp_path / "config.yaml", "results": tmp_path / "results"}
        return load({**named, **settings})

    return make


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("weights: {cilp-b16: w.pt}", ["weights", "cilp-b16", "clip-b16"]),
        ("weights: {clip-b16: no/w.pt}", ["config.yaml: weights of clip-b16: no/w.pt does not exist"]),
        ("accept: [toy-ir20.toy.adaptfomer.s0]", ["config.yaml: accept: ", "adaptfomer", "adaptformer"]),
        ("accept: [everything]", ["accept: 'everything' is not a run"]),
        ("roots: {imagenet: /data}", ["roots: unknown data set 'imagenet'", "imagenet-lt"]),
        ("descriptions: {toi: d.json}", ["descriptions: unknown data set 'toi'", "toy"]),
        ("check_images: most", ["check_images", "none", "sample", "all"]),
    ],
)
def test_a_slip_in_a_config_is_refused(files, more, words):
    with pytest.raises(PelError) as error:
        files(config=f"{CONFIG}{more}\n")
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("value: overall", "value: parameters.haed", ["t1", "parameters.haed", "Did you mean 'parameters.head'?"]),
        ("value: overall", "value: evaluation.images_per_secnd", ["evaluation.images_per_second"]),
        ('"{small}, one"', '"{smal}, one"', ["tables.t1", "unknown role 'smal'", "small"]),
        ("small-ir20", "small-ir5000", ["study.yaml: tables.t1: PEL x LA", "'toy-ir5000'", "leaves", "at most 120"]),
    ],
)
def test_a_slip_in_a_study_is_refused(files, old, new, words):
    with pytest.raises(PelError) as error:
        files(study=STUDY.replace(old, new))
    assert all(word in str(error.value) for word in words), error.value


def test_mathematics_in_a_title_is_left_alone(files):
    title = "{small} at $\\\\tau_{min}$ and $\\\\mathrm{tail}$"
    assert files(study=STUDY.replace("{small}, one", title)).artefacts["t1"].title == r"Toy at $\tau_{min}$ and $\mathrm{tail}$"


@pytest.mark.parametrize("name", ["toy-ir121", "cifar100-ir501", "demo-cifar-ir5000"])
def test_a_ratio_that_empties_a_class_is_refused(name):
    with pytest.raises(PelError, match=f"data set '{name}': imbalance ratio .* without an image"):
        find_dataset(name)


def test_weights_may_lie_at_home(files, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pt").write_bytes(b"")
    for study in (files(config=f"{CONFIG}weights: {{toy: ~/w.pt}}\n"), files(weights="~/w.pt")):
        assert study.weights_option("toy") == f"--weights={tmp_path}/w.pt"


def test_weights_may_be_a_folder_or_on_the_hub(files, tmp_path):
    places = f"{{toy: 'hf-hub:someone/model@main', clip-b16: 'local-dir:{tmp_path}'}}"
    study = files(config=f"{CONFIG}weights: {places}\ncache_dir: /scratch/a b\n")
    assert study.weights_option("toy") == "--weights=hf-hub:someone/model@main --cache-dir='/scratch/a b'"
    assert study.weights_option("clip-b16") == f"--weights=local-dir:{tmp_path} --cache-dir='/scratch/a b'"
    with pytest.raises(PelError, match="weights of toy: local-dir:no/folder does not exist"):
        files(config=f"{CONFIG}weights: {{toy: 'local-dir:no/folder'}}\n")


def test_missing_images_and_lists_are_named_before_anything_is_planned(files, tmp_path):
    with pytest.raises(PelError, match=r"data set 'mine': folder '\$PEL_DATA' names .* not set.*--config root=FOLDER"):
        files(config=MINE)
    with pytest.raises(PelError, match=r"data set 'mine': image folder .*/gone does not exist; say where the images are by"):
        files(config=MINE, root=tmp_path / "gone")
    for name in ("names.txt", "train_20.txt"):
        (tmp_path / name).write_text(name)
    with pytest.raises(PelError, match=r"data set 'mine': list file .*/test\.txt does not exist; say where"):
        files(config=MINE, root=tmp_path)
    (tmp_path / "test.txt").write_text("test")
    files(config=MINE, root=tmp_path)
    assert json.loads(os.environ["PEL_ROOTS"]) == {"mine": "$PEL_DATA"}  # what jobs are told


def test_a_moved_folder_changes_nothing_that_is_compared(files, tmp_path):
    texts = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        for name in ("names.txt", "train_20.txt", "test.txt"):
            (tmp_path / place / name).write_text(name)
        study = files(config=MINE, root=tmp_path / place)
        slug = "mine-ir20.toy.adaptformer.s0"
        texts.append((study.data_params("mine"), study.train_params(slug), study.prepared(slug)))
    assert texts[0] == texts[1]


# Results.


def prepared(study):
    """Prepare the toy data under the study's results, with a made-up backbone, and results that fit them."""
    prepare("toy", study.results / "data/toy")
    write_json(study.results / "backbones/toy/backbone.json", {"sha256": "b" * 64})
    for slug, spec in study.specs.items():
        record = fake_record(spec)
        record["data"]["sha256"] = reading._prepared_hash(study.results / "data/toy/data.json", spec.dataset)
        record["backbone"]["sha256"] = "b" * 64
        write_json(metrics_file(study.results, slug), record)
    return list(study.specs)


def change(study, slug, part):
    path = metrics_file(study.results, slug)
    record = read_json(path)
    record[part]["sha256"] = "c" * 64
    write_json(path, record)


@pytest.mark.parametrize(("part", "word"), [("data", "data set toy"), ("backbone", "weights of toy")])
def test_results_of_other_data_or_weights_are_refused(files, part, word):
    study = files()
    slug = prepared(study)[0]
    assert not study.missing()
    change(study, slug, part)
    with pytest.raises(PelError, match=f"made from another {word} \\(cccccccccccc\\) than is prepared now"):
        read_result(study.results, study.specs[slug])
    assert study.missing() == [slug]


def test_without_the_prepared_folders_seeds_must_still_agree(files):
    study = files()
    write_results(study.results, study.specs)
    assert table_files(study, "t1")
    change(study, list(study.specs)[1], "backbone")
    with pytest.raises(PelError, match=r"adaptformer\.s0 and .*adaptformer\.s1 were made from different weights"):
        table_files(study, "t1")


def test_seeds_must_have_been_tested_on_the_same_images():
    specs = [RunSpec.make("toy-ir20", "toy", "adaptformer", seed, evaluate_on="shapes") for seed in (0, 1)]
    one, two = map(fake_record, specs)
    require_same_inputs([one, two, fake_record(specs[0].train)])
    two["test_set"]["sha256"] = "1" * 64
    with pytest.raises(PelError, match=r"adaptformer\.s0.* and .*adaptformer\.s1.* were made from different test images"):
        require_same_inputs([one, two])


def test_a_result_is_of_the_images_that_it_says(tmp_path):
    """Of all images of a data set that had a test split alone it was taken for one of its test split, once there were more."""
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer", 0, evaluate_on="shapes")
    about = {"class_names": ["a", "b"], "digests": {"test": "1" * 64}}
    record, file = fake_record(spec), tmp_path / "data/shapes/data.json"
    reading._read_hash.cache_clear()

    def said(images):
        record["test_set"] = {"name": "shapes", "images": images, "sha256": content_of(about, images)}
        write_json(metrics_file(tmp_path, spec.slug), record)
        return [invalid_reason(record, spec, (), tmp_path), read_other_inputs(metrics_file(tmp_path, spec.slug), spec, tmp_path)]

    write_json(file, about)
    assert said("all") == said("test") == ["", ""]
    write_json(file, {**about, "digests": {**about["digests"], "train": "2" * 64}})
    assert said("test") == ["", ""], "the test split is the same"
    assert all("made from other images of shapes" in reason for reason in said("all"))


def test_the_values_a_study_may_print_are_those_that_are_stored(toy_results):
    from pel_core.cli.main import main

    slug = "toy-ir20.toy.head-only.s3.epochs=1"
    for command in ("train", "evaluate"):
        assert main([command, slug, "--results", str(toy_results)]) == 0
    record = read_json(metrics_file(toy_results, slug))
    assert main(["evaluate", f"{slug}.posthoc.la=1", "--results", str(toy_results)]) == 0
    stepped = read_json(metrics_file(toy_results, f"{slug}.posthoc.la=1"))
    for section in SECTIONS:
        known = section_keys(section)
        assert {*(stepped if section == "posthoc" else record)[section]} - {"null_reasons"} <= {*known}, section
        assert all(value_path(f"{section}.{key}") for key in known)
    assert number(record, value_path("spec.loss.label_smoothing")) == 0.0 and lookup(record, "training.curve.last.loss") > 0
    with pytest.raises(PelError, match=r"unknown value 'spec\.lossy\.gamma'.*Did you mean 'spec\.loss"):
        value_path("spec.lossy.gamma")
    assert not invalid_reason(record, RunSpec.parse(slug), (), toy_results)
