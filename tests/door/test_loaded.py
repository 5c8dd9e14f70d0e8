"""`pel.load_run`: the stored predictions come out again from paths, PIL images and arrays; what is not finished is told."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file, save_file

import pel_core as pel
from pel_core.cli.main import main
from pel_core.data.datasets import open_prepared
from pel_core.spec.results import run_folder

BASE = "mine.toy.adaptformer.s0.epochs=1.batch_size=4"
RUNS = (
    BASE,
    f"{BASE}.tte=tencrop",
    "mine.toy.ln.s0.epochs=1.batch_size=4.native=18",
    "mine.toy.zero-shot.s0.tte=randaug.crops=3",
    f"{BASE}.posthoc.la=1",
)
TOY = "toy-ir20.toy.ln.s0"  # whose images are held as an array


@pytest.fixture(scope="module")
def results(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loaded")
    for slug in RUNS:
        pel.train(slug, config=photos / "config.yaml", results=folder, root=photos / "images", device="cpu", bar=False)
    pel.train(TOY, results=folder, device="cpu", bar=False)
    return folder


@pytest.mark.parametrize(("asked", "file", "left"), [("predictions", "predictions.parquet", 100), ("classes", "classes.csv", 0)])
def test_damaged_answers_are_named(results, asked, file, left):
    path = run_folder(results, TOY) / file
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    try:
        with pytest.raises(pel.PelError, match=rf"{file} is damaged .*; make it again with: .*score '{TOY}'"):
            getattr(pel.load_run(TOY, results, device="cpu"), asked)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("form", ["path", "PIL", "array"])
@pytest.mark.parametrize("slug", RUNS)
def test_the_stored_predictions_come_out_again(photos, results, slug, form):
    run = pel.load_run(slug, results, device="cpu")
    stored = parquet.read_table(run_folder(results, slug) / "predictions.parquet").to_pydict()
    paths = [photos / "images" / path for path in stored["path"]]
    images = {"path": lambda p: p, "PIL": Image.open, "array": lambda p: np.asarray(Image.open(p))}[form]
    said = run.predict([images(path) for path in paths])
    assert said.labels.tolist() == stored["prediction"] and said.names == stored["prediction_name"]
    assert said.probabilities.dtype == np.float32 and said.probabilities.max(1).tolist() == stored["probability"]
    assert said.probabilities[np.arange(len(said)), stored["label"]].tolist() == stored["label_probability"]
    top = said.frame(top=2)
    assert top["label"].tolist() == [label for row in stored["top5"] for label in row]
    assert top["probability"].tolist() == [value for row in stored["top5_probabilities"] for value in row]
    assert list(top["rank"][:2]) == [1, 2]
    if form == "path":
        assert top["image"].tolist()[::2] == [str(path) for path in paths]


def test_images_that_are_held_as_an_array(results):
    run = pel.load_run(TOY, results, device="cpu")
    data = open_prepared(results / "data" / "toy", "toy-ir20")
    stored = parquet.read_table(run_folder(results, TOY) / "predictions.parquet").to_pydict()
    said = run.predict(np.asarray(data.test.images))
    assert said.names == stored["prediction_name"] and said.probabilities.max(1).tolist() == stored["probability"]


def test_the_network_and_its_transform_are_what_predict_uses(photos, results):
    path = photos / "images" / "test" / "red deer" / "1.png"
    for slug, crops in ((BASE, 5), (f"{BASE}.tte=tencrop", 10)):
        run = pel.load_run(slug, results, device="cpu")
        images = run.transform(path)
        assert images.shape == (crops, 3, run.spec.pixels, run.spec.pixels) and images.dtype == torch.float32
        assert isinstance(run.model, torch.nn.Module) and not run.model.training
        with torch.inference_mode():
            logits = run.model(images).mean(0)
        assert torch.allclose(logits, torch.from_numpy(run.predict(path).logits[0]), atol=1e-5)
        assert {name: value.shape for name, value in run.trained.items()} == {
            name: value.shape for name, value in load_file(run.folder / "delta.safetensors").items()
        }
        assert list(run.classes["name"]) == run.class_names and len(run.predictions) == 7
        assert run.class_names == ["red deer", "été 寺"] and run.metrics["overall"] == run.record["metrics"]["overall"]
        assert BASE in repr(run) and str(run.device) == "cpu"


def test_a_run_by_its_folder_by_a_copy_and_by_its_name(photos, results, tmp_path, monkeypatch):
    expected = pel.load_run(BASE, results, device="cpu").predict(photos / "images" / "test").logits
    shutil.copytree(run_folder(results, BASE), tmp_path / "my-model", ignore=shutil.ignore_patterns("*=*"))
    found = [
        pel.load_run(run_folder(results, BASE), device="cpu"),
        pel.load_run(tmp_path / "my-model", results, device="cpu"),
    ]
    monkeypatch.chdir(run_folder(results, BASE))
    found.append(pel.load_run(".", device="cpu"))
    monkeypatch.chdir(results.parent)
    found.append(pel.load_run(f"{results.name}/runs/{BASE}", device="cpu"))
    for run in found:
        assert (run.predict(photos / "images" / "test").logits == expected).all()
        assert run.metrics["overall"] is not None
    inside = pel.load_run(run_folder(results, f"{BASE}.tte=tencrop"), device="cpu")
    assert inside.spec.tte == "tencrop" and inside.folder == run_folder(results, BASE)
    assert pel.load_run(BASE, results, device="cpu", evaluation="tte=tencrop").spec == inside.spec


def test_many_images_in_any_form(photos, results):
    run = pel.load_run(BASE, results, device="cpu")
    folder = photos / "images" / "test" / "red deer"
    several = run.predict([folder, str(folder / "0.png"), Image.new("RGB", (9, 9)), np.zeros((2, 5, 7, 3), np.uint8)])
    assert len(several) == 4 + 1 + 1 + 2 and several.images[-1] == "image 7" and several.images[0].endswith("0.png")
    assert len(run.predict(folder / "*.png")) == 4 and len(run.predict(path for path in folder.iterdir())) == 4
    assert "<table" in several._repr_html_() and "8 images, 2 classes" in repr(several)
    deep = run.predict([np.full((9, 9), 1000, np.uint16), np.zeros((9, 9, 4), np.uint8), Image.new("CMYK", (9, 9))])
    assert len(deep) == 3


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([], "no image is given"),
        (np.zeros((3, 9, 9), np.uint8), r"image 0 is an array uint8 \(3, 9, 9\): expected uint8 \(H, W, 3\)"),
        (np.zeros((9, 9, 3)), r"array float64.*numbers from 0 to 1 are \(255"),
        (np.zeros((0, 9, 3), np.uint8), "image 0 is an array"),
        (torch.zeros(3, 9, 9), r"Tensor is no image.*permute"),
        (7, "int is no image"),
        ([None], "NoneType is no image"),
        ("nowhere.png", "there is no image 'nowhere.png'"),
        (Image.new("F", (4, 4)), "image 0 cannot be decoded: floating-point pixels"),
    ],
    ids=[str(number) for number in range(9)],
)
def test_what_is_no_image(results, image, message):
    with pytest.raises(pel.PelError, match=message):
        pel.load_run(BASE, results, device="cpu").predict(image)


def test_an_unreadable_file_is_named(results, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"text")
    with pytest.raises(pel.PelError, match=r"bad\.png cannot be decoded"):
        pel.load_run(BASE, results, device="cpu").predict([Image.new("RGB", (4, 4)), tmp_path / "bad.png"])
    with pytest.raises(pel.PelError, match="top=0: expected 1 or more"):
        pel.load_run(BASE, results, device="cpu").predict(Image.new("RGB", (4, 4))).frame(top=0)


@pytest.fixture
def copy(results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    return tmp_path / "results"


def test_runs_that_are_not_finished(copy):
    folder = run_folder(copy, BASE)
    (folder / "metrics.json").unlink()
    run = pel.load_run(folder, device="cpu", evaluation="default")
    with pytest.raises(pel.PelError, match=f"has no result yet: python -m pel_core evaluate '{BASE}' --results '{copy}'"):
        _ = run.metrics
    (folder / "classes.csv").unlink()
    with pytest.raises(pel.PelError, match="has no result yet"):
        _ = run.classes
    assert main(["evaluate", BASE, "--results", str(copy)]) == 0
    assert run.metrics["overall"] is not None
    (folder / "delta.safetensors").unlink()
    with pytest.raises(pel.PelError, match=r"holds no delta\.safetensors: train the run first"):
        pel.load_run(folder)
    with pytest.raises(pel.PelError, match=r"there is no run folder .*nothing/here"):
        pel.load_run(copy / "nothing" / "here")
    with pytest.raises(pel.PelError, match="is not a run: expected DATASET"):
        pel.load_run("nonsense", copy)


def test_a_checkpoint_of_another_version(copy):
    path = run_folder(copy, BASE) / "delta.safetensors"
    state = load_file(path)
    save_file(state, path, metadata={"slug": BASE, "engine": "0"})
    (path.parent / "train.json").unlink()
    with pytest.raises(pel.PelError, match=r"is stale: prepared by version 0, this is 1.*train it again"):
        pel.load_run(path.parent)
