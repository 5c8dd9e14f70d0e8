"""Class names: the reference's by default, others where a configuration asks for them; row i of the head is class i."""

import pytest
import torch
from real_trees import IMAGENET, imagenet, inaturalist, places

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.data.datasets import open_prepared
from pel_core.data.naming import Naming, located, naming_of, renamed
from pel_core.ingest.entries import declared
from pel_core.ingest.identity import data_params
from pel_core.ingest.prepare import prepare
from pel_core.models.class_texts import text_features
from pel_core.models.prompts import spoken
from pel_core.models.text_source import TextSource
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.config import read_config
from pel_core.training.run_inputs import load

IDS, NAMES = [wnid for wnid, _ in IMAGENET], [name for _, name in IMAGENET]


@pytest.mark.parametrize(
    "names, options, expected",
    [
        (["athletic_field-outdoor", "airfield"], {}, ["athletic_field-outdoor", "airfield"]),
        (["athletic_field-outdoor", "airfield"], {"clean": "_-"}, ["athletic field outdoor", "airfield"]),
        (["a_-_b", "-c"], {"clean": "_-"}, ["a b", "c"]),
        (NAMES, {}, ["tench", "missile", "missile", "sunglasses"]),
        (NAMES, {"distinct": True}, ["tench", "missile", "projectile", "sunglass"]),
    ],
)
def test_options(names, options, expected):
    assert renamed("x", names, Naming(**options), IDS[: len(names)]) == expected


def test_names_by_folder():
    """Places-LT's published names are permuted against its lists; this puts each where its images are."""
    ids = ["desert-sand", "desert-vegetation", "desert_road"]
    folders = ["desert_road", "desert-sand", "desert-vegetation"]
    assert renamed("x", ids, Naming(by_folder=True, clean="_-"), ids, folders) == [
        "desert road",
        "desert sand",
        "desert vegetation",
    ]
    with pytest.raises(PelError, match="by_folder needs a names file"):
        renamed("x", ids, Naming(by_folder=True), ids, ["a", "b", "c"])
    with pytest.raises(PelError, match="by_folder needs a names file"):
        renamed("x", ids, Naming(by_folder=True))


def test_names_of_ones_own(tmp_path):
    (tmp_path / "names.txt").write_text("Schleie\nRakete\nGeschoss\nBrille\n")
    (tmp_path / "names.json").write_text('{"tench": "a fish"}')
    text, mapping = Naming(file=str(tmp_path / "names.txt")), Naming(file=str(tmp_path / "names.json"))
    assert renamed("x", NAMES, text) == ["Schleie", "Rakete", "Geschoss", "Brille"]
    assert renamed("x", NAMES, mapping) == ["a fish", "missile", "missile", "sunglasses"]


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("a.txt", "one\ntwo\n", "holds 2 names, expected 4, line i for label i"),
        ("a.json", '{"tenhc": "fish"}', "unknown class in .*Did you mean 'tench'"),
        ("a.json", '{"tench": 3}', "is not a mapping of name to other name"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", None, "cannot be read as JSON"),
    ],
)
def test_bad_files(tmp_path, file, content, message):
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(PelError, match=message):
        renamed("x", NAMES, Naming(file=str(tmp_path / file)))


def test_bad_options():
    with pytest.raises(PelError, match="distinct knows ImageNet's names only"):
        renamed("places-lt", ["a"], Naming(distinct=True), ["a"])
    with pytest.raises(PelError, match="nothing is left of the name of class 1"):
        renamed("x", ["a", "--"], Naming(clean="-"))
    with pytest.raises(PelError, match=r"unknown option of naming: x: 'claen'.*Did you mean 'clean'"):
        naming_of({"naming": {"x": {"claen": "-"}}}, "x")


def test_in_a_configuration(tmp_path):
    text = "title: t\nbackbone: toy\nseeds: [0]\ndata: {a: toy}\nnaming: {places-lt: {clean: _-, file: names.json}}\n"
    (tmp_path / "config.yaml").write_text(text)
    found = read_config(tmp_path / "config.yaml")["naming"]["places-lt"]
    assert found == {"clean": "_-", "file": str(tmp_path / "names.json")}
    (tmp_path / "config.yaml").write_text(text.replace("places-lt", "palces-lt"))
    with pytest.raises(PelError, match="naming: unknown data set 'palces-lt'"):
        read_config(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text(text.replace("clean: _-", "distinct: 1"))
    with pytest.raises(PelError, match="distinct: found 1, expected true or false"):
        read_config(tmp_path / "config.yaml")


def test_the_content_hash_changes_only_where_names_do(tmp_path):
    tree = places(tmp_path / "tree", side=8)
    hashes, params = [], []
    for options in ({}, {"clean": "x"}, {"clean": "_-"}):
        config = tree.config | ({"naming": {"places-lt": options}} if options else {})
        prepare("places-lt", tmp_path / "out", config)
        hashes.append(open_prepared(tmp_path / "out", "places-lt").sha256)
        params.append(data_params("places-lt", declared(config), config))
    assert hashes[0] == hashes[1] != hashes[2]
    assert len(set(params)) == 3 and "naming" not in params[0]


def test_a_changed_names_file_prepares_again(tmp_path):
    tree = places(tmp_path / "tree", side=8)
    config = located(tree.config | {"naming": {"places-lt": {"file": "names.json"}}}, tmp_path / "config.yaml")
    (tmp_path / "names.json").write_text('{"airfield": "an airfield"}')
    before = data_params("places-lt", declared(config), config)
    (tmp_path / "names.json").write_text('{"airfield": "a field"}')
    assert data_params("places-lt", declared(config), config) != before
    prepare("places-lt", tmp_path / "out", config)
    assert read_json(tmp_path / "out/data.json")["class_names"][0] == "a field"


@pytest.mark.parametrize(
    "make, naming", [(inaturalist, {}), (imagenet, {}), (imagenet, {"distinct": True}), (places, {"clean": "_-"})]
)
def test_row_i_of_the_head_is_class_i_of_the_data(make, naming, toy_results, tmp_path):
    """Also where labels are re-indexed (iNaturalist): rows, class names and the images' labels have one order."""
    tree = make(tmp_path / "tree", side=16)
    config = tree.config | {"naming": {tree.base: naming}}
    results = tmp_path / "results"
    (results / "backbones").mkdir(parents=True)
    (results / "backbones/toy").symlink_to(toy_results / "backbones/toy")
    prepare(tree.base, results / "data" / tree.base, config)
    text = results / f"text/toy/{tree.base}.default.safetensors"
    words = ["text", "--backbone-dir", str(results / "backbones/toy"), "--data-dir", str(results / "data" / tree.base)]
    assert main([*words, "--out", str(text)]) == 0
    spec = RunSpec.parse(f"{tree.base}.toy.adaptformer.s0")
    data, classifier, _ = load(spec, results, torch.device("cpu"), fresh=True)
    projection = classifier_projection(toy_results)
    for i, name in enumerate(data.class_names):
        row = torch.nn.functional.normalize(text_features(TextSource("toy", [name]), "default") @ projection.T, dim=-1)[0]
        torch.testing.assert_close(torch.nn.functional.normalize(classifier.head.weight[i], dim=0), row)
    if tree.base == "inat2018":  # the drawn class is the rank of the name
        assert data.class_names == tree.names and data.train.labels.tolist() == sorted(data.train.labels.tolist())
    about = read_json(results / "data" / tree.base / "data.json")
    about["class_names"] = about["class_names"][1:] + about["class_names"][:1]
    write_json(results / "data" / tree.base / "data.json", about)
    with pytest.raises(PelError, match="made for other class names than"):
        load(spec, results, torch.device("cpu"))


def classifier_projection(results) -> torch.Tensor:
    """The toy backbone's map from image features to text features, (D, E)."""
    from safetensors.torch import load_file

    return load_file(results / "backbones/toy/vit.safetensors")["text.projection"]


def test_prompts_replace_underscores_only():
    """The reference's behaviour, on which `clean` builds."""
    assert spoken(["athletic_field-outdoor"]) == ["athletic field-outdoor"]
