"""What an evaluation leaves for others: predictions, confusions, classes, the model card and the metadata of the checkpoint."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from open_clip.pretrained import get_pretrained_cfg
from pyarrow import parquet
from safetensors import safe_open
from safetensors.torch import load_file

from pel_core import __version__
from pel_core.cli.main import main
from pel_core.common.files import read_json, sha256, write_json
from pel_core.common.tensors import read_tensors, write_tensors
from pel_core.common.versions import made_by
from pel_core.data.datasets import open_prepared
from pel_core.evaluation import evaluate
from pel_core.evaluation.outputs import printable, top_classes, write_csv, write_parquet
from pel_core.evaluation.predictions import Predictions
from pel_core.models.backbones import BACKBONES, REPOSITORIES
from pel_core.spec.outcomes import diverged, failed_file, reason_of
from pel_core.spec.results import METRICS, OUTPUTS, run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.training.model_card import evaluations, model_card
from pel_core.training.prefix_cache import PrefixCache

SLUG = "toy-ir20.toy.adaptformer@2:4+ln.s7"
ZERO = "toy-ir20.toy.zero-shot.s7"


@pytest.fixture(scope="module")
def results(toy_results):
    assert main(["train", SLUG, "--results", str(toy_results)]) == 0
    for slug in (SLUG, f"{SLUG}.tte=none", ZERO):
        assert main(["evaluate", slug, "--results", str(toy_results), "--logits", "full"]) == 0
    return toy_results


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("slug", [SLUG, f"{SLUG}.tte=none", ZERO])
def test_predictions_are_the_logits_and_give_the_metrics(results, slug):
    folder, data = run_folder(results, slug), open_prepared(results / "data" / "toy", "toy-ir20")
    table, stored = parquet.read_table(folder / "predictions.parquet"), load_file(folder / "logits.safetensors")
    rows = table.to_pydict()
    probabilities = stored["logits"].double().softmax(1)
    assert rows["index"] == list(range(60)) and rows["path"] == [None] * 60
    assert rows["label"] == stored["labels"].tolist() and rows["prediction"] == stored["logits"].argmax(1).tolist()
    for name in ("label", "prediction"):
        assert rows[f"{name}_name"] == [data.class_names[i] for i in rows[name]]
    assert rows["group"] == [data.groups[i] for i in rows["label"]]
    assert rows["top5_names"] == [[data.class_names[i] for i in row] for row in rows["top5"]]
    top = probabilities.topk(5)
    assert rows["top5"] == top.indices.tolist()
    np.testing.assert_allclose(rows["top5_probabilities"], top.values, rtol=1e-6)
    np.testing.assert_allclose(rows["probability"], top.values[:, 0], rtol=1e-6)
    np.testing.assert_allclose(rows["label_probability"], probabilities[range(60), rows["label"]], rtol=1e-6)
    metrics = read_json(folder / "metrics.json")["metrics"]
    assert np.mean(np.equal(rows["label"], rows["prediction"])) * 100 == pytest.approx(metrics["overall"])
    assert -np.mean(np.log(rows["label_probability"])) == pytest.approx(metrics["nll"], rel=1e-5)
    assert json.loads(table.schema.metadata[b"pel_lab"]) == {"slug": slug, "split": "test", "data_sha256": data.sha256}


def test_confusions_and_classes_are_the_predictions(results):
    folder = results / "runs" / SLUG
    rows = parquet.read_table(folder / "predictions.parquet").to_pydict()
    matrix = np.zeros((6, 6), int)
    np.add.at(matrix, (rows["label"], rows["prediction"]), 1)
    cells = read_csv(folder / "confusion.csv")
    assert {(int(cell["label"]), int(cell["prediction"])): int(cell["images"]) for cell in cells} == {
        (i, j): matrix[i, j] for i, j in np.argwhere(matrix).tolist()
    }
    record, classes = read_json(folder / "metrics.json"), read_csv(folder / "classes.csv")
    assert [int(row["train_images"]) for row in classes] == record["data"]["train_counts"]
    assert [float(row["accuracy"]) for row in classes] == pytest.approx(record["metrics"]["per_class"])
    assert [int(row["predicted"]) for row in classes] == matrix.sum(0).tolist()
    precision = [100 * matrix[i, i] / n if n else "" for i, n in enumerate(matrix.sum(0).tolist())]
    assert [row["precision"] and float(row["precision"]) for row in classes] == precision
    assert {cell["label_name"] for cell in cells} == {row["name"] for row in classes}


def test_the_pandas_of_the_documentation_opens_them(results):
    import pandas as pd

    folder = results / "runs" / SLUG
    table = pd.read_parquet(folder / "predictions.parquet")
    square = pd.read_csv(folder / "confusion.csv").pivot_table(
        index="label", columns="prediction", values="images", fill_value=0, aggfunc="sum"
    )
    assert len(table) == square.to_numpy().sum() == 60
    assert table["top5"][0][0] == table["prediction"][0]


def test_evaluating_again_writes_the_same_bytes(results):
    before = {name: sha256(results / "runs" / SLUG / name) for name in OUTPUTS}
    assert main(["evaluate", SLUG, "--results", str(results)]) == 0
    assert before == {name: sha256(results / "runs" / SLUG / name) for name in OUTPUTS}
    assert main(["score", SLUG, "--results", str(results)]) == 0
    assert before == {name: sha256(results / "runs" / SLUG / name) for name in OUTPUTS}


def test_an_evaluation_says_that_it_is_at_work(results, monkeypatch):
    """`make status` reads it; nobody waits for it."""
    path, seen = results / "checkpoints" / f"{SLUG}.predict.lease", []
    original = evaluate.predict_run
    monkeypatch.setattr(evaluate, "predict_run", lambda *options: seen.append(read_json(path)["verb"]) or original(*options))
    assert main(["evaluate", SLUG, "--results", str(results)]) == 0
    assert seen == ["evaluated"] and not path.exists()


@given(
    logits=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 9), st.integers(1, 8)), elements=st.sampled_from([-1e4, 0, 1, 1, 50])
    ),
    k=st.integers(1, 6),
)
def test_ties_go_to_the_lowest_class(logits, k):
    classes, probabilities = top_classes(logits, k)
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    assert (classes == expected).all() and classes.dtype == np.int32
    assert (classes[:, 0] == logits.argmax(1)).all()
    softmax = torch.as_tensor(logits).double().softmax(1).numpy()
    np.testing.assert_allclose(probabilities, np.take_along_axis(softmax, expected, 1), rtol=1e-6)
    np.testing.assert_allclose(Predictions.of(logits, classes[:, -1]).label_probabilities, probabilities[:, -1], rtol=1e-6)


def test_names_of_any_kind_survive(tmp_path):
    names = ['comma, "quoted"', "line\nbreak", "Ναός", "寺", "=1+1", " space "]
    write_csv(tmp_path / "t.csv", ("name",), ([name] for name in names))
    assert [row["name"] for row in read_csv(tmp_path / "t.csv")] == names
    write_parquet(tmp_path / "t.parquet", {"index": np.arange(6), "name": names, "path": None}, {})
    assert parquet.read_table(tmp_path / "t.parquet").to_pydict()["name"] == names
    assert printable("a/é.jpg") == "a/é.jpg" and printable("a/\udce9.jpg") == "a/\\xe9.jpg"


def test_paths_are_below_the_image_folder(lists_results):
    rows = parquet.read_table(lists_results / "runs" / LISTED / "predictions.parquet").to_pydict()
    assert rows["path"] == ["test/ein Bild.png", "test/été 寺.png", "test/b.png"] and rows["label"] == [0, 1, 1]


LISTED = "mine.toy.zero-shot.s0"


def listed(folder, *slugs):
    """A data set "mine" of image files under ``folder``, prepared for the toy backbone, and runs on it; the results folder."""
    from PIL import Image

    root, results, random = folder / "images", folder / "results", np.random.default_rng(0)
    for index, name in enumerate(["train/a.png", "train/b.png", "test/ein Bild.png", "test/été 寺.png", "test/b.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (24, 20 + index, 3), np.uint8)).save(root / name)
    (root / "train.txt").write_text("train/a.png 0\ntrain/b.png 1\n")
    (root / "test.txt").write_text("test/ein Bild.png 0\ntest/été 寺.png 1\ntest/b.png 1\n")
    (root / "names.txt").write_text("eins\nzwei\n")
    entry = {"root": str(root), "train": "train.txt", "test": "test.txt", "names": "names.txt"}
    config = {"title": "T", "backbone": "toy", "seeds": [0], "data": {"x": "mine"}, "datasets": {"mine": entry}}
    (folder / "config.yaml").write_text(json.dumps(config))
    made = [
        ["backbone", "toy", "--out", f"{results}/backbones/toy"],
        ["data", "prepare", "mine", "--out", f"{results}/data/mine", "--config", f"{folder}/config.yaml"],
        ["text", "--backbone-dir", f"{results}/backbones/toy", "--data-dir", f"{results}/data/mine",
         "--out", f"{results}/text/toy/mine.default.safetensors"],
    ]  # fmt: skip
    for slug in slugs:
        made += [[command, slug, "--results", str(results)] for command in ("train", "evaluate")["zero-shot" in slug :]]
    assert [main(words) for words in made] == [0] * len(made)
    return results


@pytest.fixture
def lists_results(tmp_path):
    return listed(tmp_path, LISTED)


# The checkpoint and its card


def test_the_checkpoint_says_what_it_is(results):
    folder = results / "runs" / SLUG
    record = read_json(folder / "train.json")
    with safe_open(folder / "delta.safetensors", "pt") as handle:
        metadata = handle.metadata()
    stored = {key: json.loads(metadata[key]) for key in ("spec", "data", "class_names", "backbone", "versions")}
    assert (metadata["slug"], metadata["format"]) == (SLUG, "pt")
    assert made_by(metadata) == {"prepare": 1, "train": 1}
    assert stored["spec"] == record["spec"] and stored["class_names"] == ["red", "green", "blue", "yellow", "cyan", "magenta"]
    for part in ("data", "backbone"):
        assert stored[part] == {key: record[part][key] for key in stored[part]} and len(stored[part]["sha256"]) == 64
    assert (
        stored["versions"].keys() == {"pel_core", "torch", "python", "prepare", "train"}
        and stored["versions"]["pel_core"] == __version__
    )


def test_the_same_content_is_the_same_bytes(tmp_path):
    """safetensors orders metadata by a hash that is another one each time."""
    metadata = {key: key * 3 + '\n"é寺' for key in "abcdefgh"}
    for number in range(8):
        write_tensors(tmp_path / str(number), {"a": torch.ones(3)}, metadata)
    assert len({sha256(tmp_path / str(number)) for number in range(8)}) == 1
    tensors, stored = read_tensors(tmp_path / "0")
    assert stored == metadata and torch.equal(tensors["a"], torch.ones(3))
    write_tensors(tmp_path / "plain", {"a": torch.ones(3)})
    assert read_tensors(tmp_path / "plain")[1] == {}


def card(text):
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    return yaml.safe_load(front), body


def test_the_card_says_what_was_trained_and_measured(results):
    folder = results / "runs" / SLUG
    record = read_json(folder / "metrics.json")
    front, body = card((folder / "README.md").read_text())
    assert (
        front["library_name"] == "pel-lab" and front["pipeline_tag"] == "image-classification" and "adaptformer" in front["tags"]
    )
    found = {entry["name"]: entry["value"] for entry in front["model-index"][0]["results"][0]["metrics"]}
    assert found == {
        metric.label: round(record["metrics"][name], 4) for name, metric in METRICS.items() if record["metrics"][name] is not None
    }
    assert f"predict --run {SLUG}" in body and "not comparable" in body and record["data"]["sha256"] in body
    assert (
        not (results / "runs" / ZERO / "README.md").exists() and not (results / "runs" / SLUG / "tte=none" / "README.md").exists()
    )


def test_a_card_before_evaluation_claims_nothing(results):
    front, body = card(model_card(read_json(results / "runs" / SLUG / "train.json")))
    assert "model-index" not in front and "Not evaluated yet." in body


def test_the_card_tells_every_evaluation_and_its_command(tmp_path):
    """A run that a study evaluates otherwise than by default was "not evaluated yet", with a command of other crops."""
    slug = f"{LISTED.replace('zero-shot', 'ln')}.epochs=1"
    results = listed(tmp_path)
    assert main(["train", slug, "--results", str(results)]) == 0
    path = run_folder(results, slug) / "README.md"
    assert "Not evaluated yet." in path.read_text()
    for options in (".expand=4", ".tte=none"):
        assert main(["evaluate", f"{slug}{options}", "--results", str(results)]) == 0
    front, body = card(path.read_text())
    assert "Not evaluated yet" not in body and "| expand |" not in body and "| epochs | 1 |" in body
    shown = [entry["dataset"]["args"] for entry in front["model-index"][0]["results"]]
    assert shown == [{"tte": "fivecrop", "expand": 4, "eval_precision": "fp32"}, {"tte": "none", "eval_precision": "fp32"}]
    for options, told in (
        (".expand=4", "over 5 crops (`tte: fivecrop`, `expand: 4`"),
        (".tte=none", "over 1 crops (`tte: none`"),
    ):
        part = body[body.index(told) :]
        overall = read_json(run_folder(results, f"{slug}{options}") / "metrics.json")["metrics"]["overall"]
        assert part.index(f"predict --run {slug}{options} IMAGES") < part.index(f"| {METRICS['overall'].label} | {overall:.2f} |")
    assert body.count("IMAGES...") == 2 and "3 images of the split `test`" in body
    assert main(["evaluate", slug, "--results", str(results)]) == 0
    assert card(path.read_text())[1].index(f"predict --run {slug} IMAGES") < body.index(".tte=none IMAGES")
    record = read_json(path.with_name("train.json"))
    assert model_card(record, evaluations(path.parent, record | {"delta_sha256": "of another training"})).count("IMAGES") == 1


def test_logits_that_are_not_finite_are_an_outcome_until_they_are(results, monkeypatch, capsys):
    slug = f"{SLUG}.tte=none.eval_precision=bf16"
    predict = PrefixCache.predict

    def broken(self, *words):
        logits = predict(self, *words).clone()
        logits[5, 2] = torch.nan
        return logits

    monkeypatch.setattr(PrefixCache, "predict", broken)
    assert main(["evaluate", slug, "--results", str(results)]) == 1
    assert "1 of 60 images have NaN or infinite logits, image 5 first: the model diverged" in capsys.readouterr().err
    spec, kept = RunSpec.parse(slug), failed_file(results, slug, "predict")
    assert kept.parent.name == "tte=none.eval_precision=bf16"
    assert reason_of(diverged(results, slug, spec)) == "in evaluation, 1 of 60 images have NaN or infinite logits, image 5 first"
    assert diverged(results, SLUG, RunSpec.parse(SLUG)) is None  # another evaluation of the training
    record = read_json(kept)
    write_json(kept, record | {"delta_sha256": "0" * 64})  # of an earlier training
    assert diverged(results, slug, spec) is None
    write_json(kept, record)
    monkeypatch.setattr(PrefixCache, "predict", predict)
    assert main(["evaluate", slug, "--results", str(results)]) == 0
    assert not kept.exists() and diverged(results, slug, spec) is None


def test_the_hub_s_own_reader_accepts_the_card(results):
    from huggingface_hub import ModelCard

    read = ModelCard((results / "runs" / SLUG / "README.md").read_text())
    assert read.data.library_name == "pel-lab" and read.data.eval_results[0].dataset_name == "toy-ir20"


def test_base_models_are_those_that_upstream_names():
    import timm

    for name, entry in BACKBONES.items():
        if entry.source == "open_clip":
            assert get_pretrained_cfg(entry.arch, entry.tag)["hf_hub"].rstrip("/") == REPOSITORIES[name]
        elif entry.source == "timm":
            assert timm.get_pretrained_cfg(entry.arch).hf_hub_id == REPOSITORIES[name]
        else:
            assert name not in REPOSITORIES
