"""`pel_core predict`: new images through a trained run, with the evaluation's own numbers; what cannot be read is named."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from test_outputs import listed

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, sha256, write_json
from pel_core.evaluation.new_images import find_images
from pel_core.spec.results import run_folder

SLUG, NATIVE, ZERO = "mine.toy.adaptformer.s0.epochs=2", "mine.toy.ln.s0.epochs=1.native=18", "mine.toy.zero-shot.s0"
CACHE = "mine.toy.head-only.s0.epochs=1.head=tip-adapter-f"  # which remembers training images
RUNS = (SLUG, NATIVE, ZERO, CACHE)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return listed(tmp_path_factory.mktemp("predict"), *RUNS, f"{ZERO}.tte=randaug.crops=3")


@pytest.fixture
def images(results):
    return results.parent / "images" / "test"


@pytest.fixture
def copy(results, tmp_path):
    """Without the evaluations that other tests have made."""
    shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns("tte=*"))
    return tmp_path / "results"


def predict(*words, status=0):
    assert main(["predict", *map(str, words)]) == status


def rows(path):
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_folder_of_an_evaluation_is_a_run_too(results, images, tmp_path, capsys):
    """It has no checkpoint of its own: the training's lies above it, in results of before beside it."""
    slug = f"{SLUG}.tte=none"
    (results / "runs" / SLUG / "tte=none").mkdir(exist_ok=True)
    (results / "runs" / slug).mkdir(exist_ok=True)
    predict(images, "--run", slug, "--results", results)
    told = capsys.readouterr().out
    for folder in (slug, f"{SLUG}/tte=none"):
        predict(images, "--run", results / "runs" / folder, "--results", results)
        assert capsys.readouterr().out == told
    (results / "runs" / slug).rmdir()
    (tmp_path / "my-model").mkdir()
    predict(images, "--run", tmp_path / "my-model", "--results", results, status=1)
    assert f"{tmp_path / 'my-model'} holds no delta.safetensors" in capsys.readouterr().err
    predict(images, "--run", "mine.toy.adaptformer.s1", "--results", results, status=1)
    assert f"Did you mean '{SLUG}'?" in capsys.readouterr().err
    predict(images, "--run", SLUG, "--results", tmp_path, status=1)
    assert "--results FOLDER says where yours are" in capsys.readouterr().err


@pytest.mark.parametrize("slug", [*RUNS, f"{SLUG}.tte=none", f"{SLUG}.tte=tencrop", f"{ZERO}.tte=randaug.crops=3"])
def test_the_test_images_get_the_numbers_of_the_evaluation(results, tmp_path, slug):
    assert main(["evaluate", slug, "--results", str(results)]) == 0
    expected = parquet.read_table(run_folder(results, slug) / "predictions.parquet").to_pydict()
    root = results.parent / "images"
    predict(*(root / path for path in expected["path"]), "--run", slug, "--results", results, "--out", tmp_path / "p.parquet")
    found = parquet.read_table(tmp_path / "p.parquet").to_pydict()
    assert found["path"] == [str(root / path) for path in expected["path"]]
    same = {name: name for name in ("prediction", "prediction_name", "probability")}
    for mine, theirs in (
        same | {name: name.replace("top", "top5") for name in ("top", "top_names", "top_probabilities")}
    ).items():
        assert found[mine] == expected[theirs], mine


def test_a_table_on_the_screen_and_as_csv(results, images, tmp_path, capsys):
    predict(images, "--run", SLUG, "--results", results)
    lines = capsys.readouterr().out.splitlines()
    predict(images, "--run", SLUG, "--results", results, "--out", tmp_path / "new" / "p.csv", "--top", "9")
    assert capsys.readouterr().out == f"3 images -> {tmp_path}/new/p.csv\n"
    told = rows(tmp_path / "new" / "p.csv")
    assert list(told[0]) == ["path", "prediction", "prediction_name", "probability", "name_2", "probability_2"]  # two classes
    for line, row in zip(lines, told, strict=True):
        first = f"{row['prediction_name']} {100 * float(row['probability']):.1f} %"
        assert line.startswith(row["path"]) and first in line and row["name_2"] in line
        assert float(row["probability"]) + float(row["probability_2"]) == pytest.approx(1)
    predict(images, "--run", SLUG, "--results", results, "--top", "1")
    assert all(line.count("%") == 1 for line in capsys.readouterr().out.splitlines())


def test_what_cannot_be_read_is_named_and_the_rest_is_told(results, images, tmp_path, capsys):
    folder = tmp_path / "new"
    folder.mkdir()
    good = sorted(images.iterdir())[0]
    for number in range(70):  # more than a batch
        shutil.copy(good, folder / f"{number:02d}.png")
    for name, content in {"05.png": b"", "66.png": b"text", "69.png": good.read_bytes()[:60]}.items():
        (folder / name).write_bytes(content)
    predict(folder, "--run", SLUG, "--results", results, "--out", tmp_path / "p.csv", status=1)
    error = [line for line in capsys.readouterr().err.splitlines() if "its own evaluation is taken" not in line]
    assert [line.split()[3] for line in error[:3]] == [str(folder / name) for name in ("05.png", "66.png", "69.png")]
    assert error[3] == f"error: 3 of 70 images could not be read (each is named above); the other 67 are in {tmp_path}/p.csv"
    assert len({row["probability"] for row in rows(tmp_path / "p.csv")}) == 1 and len(rows(tmp_path / "p.csv")) == 67
    predict(folder / "05.png", "--run", SLUG, "--results", results, "--out", tmp_path / "none.csv", status=1)
    assert not (tmp_path / "none.csv").exists()


def test_workers_change_nothing(results, images, tmp_path, capsys, monkeypatch):
    (tmp_path / "bad.png").write_bytes(b"text")
    words = (tmp_path, images, "--run", SLUG, "--results", results)
    predict(*words, status=1)
    expected = capsys.readouterr()
    monkeypatch.setattr("pel_core.evaluation.new_images.loader_workers", lambda *_: 2)
    predict(*words, status=1)
    assert capsys.readouterr() == expected and expected.out.count("\n") == 3 and "bad.png" in expected.err


def test_names_in_any_script(results, images, tmp_path, capsys):
    folder = tmp_path / "new"
    folder.mkdir()
    names = ["寺.png", "with space.png", "line\nbreak.png", os.fsdecode(b"latin-\xe9.png"), "comma,'\".png", "Ναός.PNG"]
    for name in names:
        shutil.copy(next(images.iterdir()), folder / name)
    predict(folder, "--run", SLUG, "--results", results)
    told = capsys.readouterr().out
    assert told.count("\n") == 6 and "line\\nbreak.png" in told and "latin-\\xe9.png" in told and "寺.png" in told
    predict(folder, "--run", SLUG, "--results", results, "--out", tmp_path / "p.csv")
    expected = sorted(names)
    expected[expected.index(os.fsdecode(b"latin-\xe9.png"))] = "latin-\\xe9.png"
    assert [os.path.relpath(row["path"], folder) for row in rows(tmp_path / "p.csv")] == expected


def test_words_that_name_images(images, tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    for name in ("a/1.jpg", "a/b/2.PNG", "a/notes.txt", "3.webp", ".hidden/4.jpg", "a/.5.jpg"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"x")
    (tree / "loop").symlink_to(tree)
    monkeypatch.chdir(tmp_path)
    assert find_images(["tree"]) == ["tree/3.webp", "tree/a/1.jpg", "tree/a/b/2.PNG"]
    assert find_images(["tree/a/1.jpg", "tree"]) == ["tree/a/1.jpg", "tree/3.webp", "tree/a/b/2.PNG"]
    assert find_images(["tree/a/*.*"]) == ["tree/a/1.jpg", "tree/a/notes.txt"]
    assert find_images(["tree/a/**/*.PNG"]) == ["tree/a/b/2.PNG"]
    (tmp_path / "list.txt").write_text("\ufefftree/3.webp\r\ntree/gone.jpg\n\n")
    assert find_images(["@list.txt"]) == ["tree/3.webp", "tree/gone.jpg"]
    (tree / "@odd.jpg").write_bytes(b"x")
    monkeypatch.chdir(tree)
    assert find_images(["@odd.jpg"]) == ["@odd.jpg"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gone.jpg", "there is no image 'gone.jpg'"),
        ("*.jpg", "there is no image"),
        ("empty", r"the folder empty holds no images \(\.avif, \.bmp"),
        ("@gone", "the list @gone cannot be read"),
        ("@blank", "the list @blank is empty"),
    ],
)
def test_words_that_name_nothing(tmp_path, monkeypatch, word, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").write_text("\n \n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PelError, match=message):
        find_images([word])


def test_a_folder_says_what_it_holds_besides_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mixed/1.avif", "mixed/2.HEIC", "mixed/3.txt", "mixed/@eaDir/1.jpg", "none/1.txt", "none/2.xml", "none/3.xml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert find_images(["mixed"]) == ["mixed/1.avif", "mixed/2.HEIC"]
    with pytest.raises(PelError, match=r"the folder none holds no images \(.*\), only 2 \.xml, 1 \.txt"):
        find_images(["none"])


def test_a_copied_run_folder_and_its_backbone_will_do(results, images, tmp_path, capsys):
    predict(images, "--run", SLUG, "--results", results)
    expected = capsys.readouterr().out
    shutil.copytree(results / "backbones", tmp_path / "elsewhere" / "backbones")
    (tmp_path / "copied").mkdir()
    shutil.copy(results / "runs" / SLUG / "delta.safetensors", tmp_path / "copied")
    predict(images, "--run", tmp_path / "copied", "--results", tmp_path / "elsewhere")
    assert capsys.readouterr().out == expected


def older(folder):
    """Make a checkpoint as one from before there was a model card in it."""
    path = folder / "delta.safetensors"
    save_file(load_file(path), path, metadata={"slug": read_json(folder / "train.json")["slug"], "engine": "1"})
    write_json(folder / "train.json", read_json(folder / "train.json") | {"delta_sha256": sha256(path)})


def test_a_checkpoint_from_before_the_card_still_serves(copy, images, capsys):
    predict(images, "--run", SLUG, "--results", copy)
    expected = capsys.readouterr().out
    older(copy / "runs" / SLUG)
    predict(images, "--run", SLUG, "--results", copy)
    assert capsys.readouterr().out == expected
    (copy / "data/mine/data.json").unlink()
    predict(images, "--run", SLUG, "--results", copy, status=1)
    assert "does not say its class names" in capsys.readouterr().err


def damage(folder, what):
    path = folder / "runs" / SLUG / "delta.safetensors"
    if what == "missing":
        path.unlink()
    elif what == "torn":
        path.write_bytes(path.read_bytes()[:100])
    elif what == "other weights":
        backbone = folder / "backbones/toy/backbone.json"
        write_json(backbone, read_json(backbone) | {"sha256": "0" * 64})
    elif what == "other file":
        save_file(load_file(path), path, metadata={"slug": SLUG, "engine": "1"})
    else:
        metadata = {"slug": SLUG, "engine": "1", "spec": "{}", "class_names": '["a", "b"]', "backbone": "{}"}
        if what == "other spec":
            train = folder / "runs" / SLUG / "train.json"
            metadata["spec"] = json.dumps(read_json(train)["spec"] | {"lr": 0.5})
            train.unlink()
        metadata |= {"other run": {"slug": "toy.toy.ln.s0"}, "other engine": {"engine": "0"}}.get(what, {})
        (folder / "runs" / SLUG / "train.json").unlink(missing_ok=True)
        save_file(load_file(path), path, metadata=metadata)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "holds no delta.safetensors"),
        ("torn", "is damaged"),
        ("other weights", "was made with other weights of toy"),
        ("other file", "is not the file that train.json describes"),
        ("other spec", "was trained from another spec (lr: stored 0.5"),
        ("other run", "was trained from another spec (toy.toy.ln.s0)"),
        ("other engine", "is stale: prepared by version 0, this is 1"),
    ],
)
def test_a_run_that_cannot_be_used(copy, images, capsys, what, message):
    damage(copy, what)
    predict(images, "--run", SLUG, "--results", copy, status=1)
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top", "0"], "--top 0: expected 1 or more"),
        (["--out", "p.xlsx"], "expected a file that ends in .csv or .parquet"),
        (["--run", "nonsense"], "is not a run"),
        (["--run", "mine.toy.lora.s0"], "holds no delta.safetensors"),
        (["--device", "tpu"], "is not one of"),
    ],
)
def test_slips(results, images, capsys, words, message):
    predict(images, "--run", SLUG, "--results", results, *words, status=1)
    assert message in capsys.readouterr().err


def test_an_image_may_be_of_any_mode_and_size(results, tmp_path, capsys):
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(tmp_path / "wide.png")
    Image.new("RGBA", (1, 1)).save(tmp_path / "pixel.png")
    Image.new("CMYK", (300, 2)).save(tmp_path / "flat.jpg")
    predict(tmp_path, "--run", SLUG, "--results", results)
    assert capsys.readouterr().out.count("\n") == 3
