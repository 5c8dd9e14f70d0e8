"""Images of one's own before they are prepared: how many a plan counts, and a validation split that is not there."""

import json
import os
import socket

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_trees import draw, fill, make, write
from PIL import Image

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import write_json
from pel_core.data.datasets import LongTailed
from pel_core.ingest.sources import open_source
from pel_core.ingest.user_outline import outline
from pel_core.studies.cost import classes, data_size, throughput_file
from pel_core.studies.data_sizes import unsized
from pel_core.studies.plan import plan
from pel_core.studies.study import load, load_settings

STUDY = {
    "title": "S",
    "roles": {"own": "Own"},
    "tables": {
        "t": {
            "title": "T",
            "where": {"dataset": "own", "value": "overall"},
            "rows": [{"label": "A", "method": "adaptformer"}],
            "columns": [{"label": "All"}],
        }
    },
}


@pytest.fixture
def make_study(tmp_path, monkeypatch):
    """A study on images of one's own; ``split`` that it evaluates on, ``entry``: what the configuration says of the images."""
    monkeypatch.chdir(tmp_path)

    def study_on(split="test", ratio="", **entry):
        study = json.loads(json.dumps(STUDY))
        study["tables"]["t"]["where"] |= {"dataset": f"own{ratio}"} | ({"split": split} if split != "test" else {})
        entry = {"kind": "auto", "root": "images"} | entry
        config = {"title": "C", "backbone": "toy", "seeds": [0], "data": {"own": "mine"}, "datasets": {"mine": entry}}
        (tmp_path / "study.yaml").write_text(json.dumps(study))
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        return load("study.yaml", "config.yaml")

    return study_on


def words(*more):
    return ["plan", "--study", "study.yaml", "--config", "config.yaml", *more]


def test_a_plan_refuses_a_validation_split_that_is_not_there(make_study, tmp_path, capsys):
    """It passed, and every run of it failed."""
    fill(tmp_path / "images")
    study = make_study("val")
    assert main(words()) == 1
    told = capsys.readouterr().err
    assert "split=val: data set 'mine' has no validation split, only test, train" in told.replace("train, test", "test, train")
    assert "val_fraction: 0.1 of 'datasets: mine'" in told and told.count("\n") == 1
    with pytest.raises(PelError, match="has no validation split"):
        load_settings({"study": "study.yaml", "config": "config.yaml"})  # as Snakemake does
    write_json(study.results / "data/mine/data.json", {"files": {"train.npz": 1, "test.npz": 1}})
    os.rename("images", "away")  # prepared, and the images gone
    assert main(words()) == 1


@pytest.mark.parametrize("entry", [{"val_fraction": 0.3}, {"root": "divided"}, {"root": "table.csv"}])
def test_one_that_is_there_is_planned(make_study, tmp_path, entry):
    fill(tmp_path / "images")
    for split in ("train", "val", "test"):
        fill(tmp_path / "divided" / split)
    rows = [[f"{split}/{i}.png", str(i), split] for split in ("train", "val", "test") for i in range(2)]
    write(tmp_path / "table.csv", [["path", "label", "split"], *rows])
    assert "Images: " in plan(make_study("val", **entry))


def test_candidates_of_images_with_a_validation_split_hold_none_out(make_study, tmp_path, monkeypatch):
    fill(tmp_path / "images")
    tune = {"grid": {"lr": [0.01, 0.1]}, "seeds": [5], "hold_out": 0.1}
    monkeypatch.setitem(STUDY, "tune", tune)
    plan(make_study())
    assert {spec.factors.val for spec in make_study().candidates.values()} == {0.1}
    divided = make_study(root=str(_divided(tmp_path)))
    plan(divided)
    assert {(spec.factors.val, spec.split) for spec in divided.candidates.values()} == {(0.0, "val")}
    assert {spec.factors.val for spec in make_study(val_fraction=0.3).candidates.values()} == {0.0}
    monkeypatch.setitem(STUDY, "tune", {key: tune[key] for key in ("grid", "seeds")})
    with pytest.raises(PelError, match=r"no validation split.*\(tune: {hold_out: 0.1} for candidates alone, data.val"):
        plan(make_study())


def _divided(folder):
    for split in ("train", "val", "test"):
        fill(folder / "divided" / split)
    return folder / "divided"


def test_a_ratio_that_images_do_not_allow_is_refused_before_they_are_prepared(make_study, tmp_path, monkeypatch):
    fill(tmp_path / "images")  # 12 to train on
    where = STUDY["tables"]["t"]["where"]
    monkeypatch.setitem(where, "data.ratio", 2)
    study = make_study()
    assert "Images: " in plan(study) and "not counted" not in plan(study)
    monkeypatch.setitem(where, "data.ratio", 50)
    make_study()
    with pytest.raises(PelError, match=r"data.ratio=50: imbalance ratio 50 leaves . of 3 classes without an image"):
        load_settings({"study": "study.yaml", "config": "config.yaml"})


def test_the_validation_split_that_becomes_the_test_split(make_study, tmp_path):
    for split in ("train", "val"):
        fill(tmp_path / "images" / split)
    with pytest.raises(PelError, match=r"no validation split, only .*the validation split is taken as such"):
        plan(make_study("val"))
    plan(make_study("val", test_fraction=0.2))
    plan(make_study("test"))


def test_images_that_others_are_evaluated_on_need_a_test_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "images")
    fill(tmp_path / "divided/train")
    fill(tmp_path / "divided/test")

    def plan_on(how=None, trained=False, root="images", **entry):
        study = json.loads(json.dumps(STUDY))
        study["roles"]["toy"] = "Toy"
        table = study["tables"]["t"]
        table["where"] = {"dataset": "toy", "value": "overall"}
        table["rows"][0] |= {"evaluate_on": "own"}
        if trained:
            table["rows"].append({"label": "B", "method": "adaptformer", "dataset": "own"})
        config = {"title": "C", "backbone": "toy", "seeds": [0], "data": {"own": "mine", "toy": "toy"}}
        config |= {"datasets": {"mine": {"kind": "auto", "root": root} | entry}, "test_sets": {"mine": how} if how else {}}
        (tmp_path / "study.yaml").write_text(json.dumps(study))
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        return plan(load("study.yaml", "config.yaml"))

    with pytest.raises(PelError, match=r"evaluate_on=mine: .* has no test split, so that 4 of its 16 images would be held out"):
        plan_on()
    for settled in ({"how": {"images": "all"}}, {"test_fraction": 0.5}, {"root": "divided"}, {"trained": True}):
        assert "to evaluate" in plan_on(**settled)


def test_the_test_set_whose_size_is_not_known_is_named(tmp_path):
    study = json.loads(json.dumps(STUDY))
    study["roles"]["toy"] = "Toy"
    study["tables"]["t"]["where"] = {"dataset": "toy", "value": "overall", "evaluate_on": "own"}
    config = {"title": "C", "backbone": "clip-mini", "seeds": [0], "data": {"own": "mine", "toy": "demo-imagenet"}}
    fill(tmp_path / "images", {"only": 3})
    config |= {"datasets": {"mine": {"kind": "auto", "root": str(tmp_path / "images")}}}
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    made = load(tmp_path / "study.yaml", tmp_path / "config.yaml")
    assert [unsized(made, spec) for spec in made.specs.values()] == [["mine"]]
    assert "Images and time of mine are not counted" in plan(made)


def test_a_plan_counts_images_and_time(make_study, tmp_path, capsys):
    fill(tmp_path / "images")
    study = make_study()
    text = plan(study)
    assert data_size(study, "mine") == (12, 4) and classes(study, "mine") == 3
    assert "Images: 120 to train on, 20 to evaluate (crops counted)." in text and "not counted" not in text
    write_json(throughput_file(study.results), {socket.gethostname(): {"toy": {"train": 1e-3, "evaluate": 1e-3, "device": "d"}}})
    assert "Time, at the speed measured by a short calibration on d: " in plan(make_study())


def test_a_plan_says_what_cannot_be_prepared(make_study, tmp_path):
    fill(tmp_path / "images", {"only": 3})
    text = plan(make_study())
    assert "But `make study` will fail: data set 'mine'" in text and "not counted" in text
    (tmp_path / "images").rename(tmp_path / "away")
    assert "But `make study` will not start: data set 'mine'" in plan(make_study())


def test_list_files_are_counted(make_study, tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        draw(tmp_path / "images" / name)
    for name, text in {"train": "a/1.png 0\na/2.png 0\nb/1.png 1\n", "test": "b/2.png 1\n", "names": "x\ny\n"}.items():
        (tmp_path / "images" / f"{name}.txt").write_text(text)
    files = {"kind": "lists", "train": "train.txt", "test": "test.txt", "names": "names.txt"}
    study = make_study(**files)
    assert data_size(study, "mine") == (3, 1) and classes(study, "mine") == 2
    assert "Images: 30 to train on, 5 to evaluate" in plan(study)
    (tmp_path / "images/test.txt").unlink()
    assert "are not counted" in plan(make_study(**files))


@settings(max_examples=15)
@given(
    counts=st.lists(st.integers(2, 12), min_size=2, max_size=4),
    options=st.fixed_dictionaries({}, optional={"test_fraction": st.floats(0.1, 0.4), "val_fraction": st.floats(0.1, 0.4)}),
    ratios=st.sampled_from([(), (1.5,), (1.2, 2)]),
)
def test_a_plan_counts_what_is_prepared(tmp_path_factory, counts, options, ratios):
    folder = tmp_path_factory.mktemp("drawn")
    root = fill(folder / "images", {f"class {i}": count for i, count in enumerate(counts)})
    drawn = {"profile": "exponential"} if ratios else {}
    entry = LongTailed(kind="folders", ratios=ratios, options={"root": str(root), **drawn, **options})
    source = open_source("mine", entry).locate()
    try:
        make(root, folder / "out", **options, **drawn, **({"ratios": list(ratios)} if ratios else {}))
    except PelError as error:
        with pytest.raises(PelError, match=r"data set 'mine'"):
            outline(source)
        assert "data set 'mine'" in str(error)
        return
    about = json.loads((folder / "out/data.json").read_text())
    found = outline(source)
    for key, each in about["train_counts"].items():
        assert found.size(float(key) if key else None) == (sum(each), about["test_images"], len(counts))
    assert ("val" in found.splits) == ((folder / "out/val.npz").is_file())


def test_a_saved_dataset_is_counted_by_its_heads(make_study, tmp_path):
    datasets = pytest.importorskip("datasets")
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))

    def table(count):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
        return datasets.Dataset.from_dict({"image": [image] * count, "label": [i % 2 for i in range(count)]}, features=features)

    datasets.DatasetDict({"train": table(12), "validation": table(4), "test": table(5)}).save_to_disk(str(tmp_path / "images"))
    study = make_study("val")
    assert "Images: 120 to train on" in plan(study) and data_size(study, "mine") == (12, 5)
    table(10).save_to_disk(str(tmp_path / "whole"))
    with pytest.raises(PelError, match="has no validation split"):
        plan(make_study("val", root="whole"))
    assert data_size(make_study(root="whole"), "mine") == (8, 2)
    (tmp_path / "whole/state.json").write_text("{")
    assert "will fail: data set 'mine'" in plan(make_study(root="whole"))
