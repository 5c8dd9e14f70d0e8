"""`compare RUN_A RUN_B`: which images changed, counted by hand; what cannot be compared is refused."""

import csv

import numpy as np
import pytest

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.evaluation.outputs import CLASSES, PREDICTIONS, write_csv, write_parquet
from pel_core.reporting.run_changes import changes_text, compare_runs
from pel_core.spec.results import run_folder
from pel_core.spec.run_spec import RunSpec

A, B, C = (RunSpec.parse(f"demo-cifar-ir100.clip-mini.{method}.s0") for method in ("adaptformer", "ln", "bitfit"))
NAMES = ("red, deer", "été 寺", "|bar|")
LABELS = [2, 0, 1, 1, 0, 0]
SAID = {A: [2, 0, 1, 0, 1, 1], B: [2, 1, 1, 1, 2, 1], C: [2, 0, 1, 0, 1, 1]}


@pytest.fixture
def results(tmp_path):
    """Six images of three classes, as scoring leaves them."""
    for spec, said in SAID.items():
        folder = run_folder(tmp_path, spec.slug)
        table = {"index": np.arange(6, dtype=np.int32) + 10, "path": None}
        table |= {"label": np.array(LABELS, np.int32), "prediction": np.array(said, np.int32)}
        write_parquet(folder / PREDICTIONS, table, {"slug": spec.slug, "split": "test", "data_sha256": "x"})
        write_csv(folder / CLASSES, ("label", "name", "group"), zip(range(3), NAMES, ("head", "med", "tail")))
        (folder / "delta.safetensors").write_bytes(b"")
        write_json(folder / "predict.json", {"slug": spec.slug, "spec": spec.to_json()})
    return tmp_path


def test_images_and_classes_are_counted(results, tmp_path, capsys):
    names = [RunSpec.parse(spec.slug).slug for spec in (A, B)]
    assert main(["compare", *names, "--results", str(results), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "B gains 1 images, loses 1, and is wrong in another way on 1." in told
    assert "3 of 6 right (50.0 %)" in told and r"| red, deer | head | 3 | 1 | 0 | 0 | 1 |" in told and r"\|bar\|" not in told
    with open(tmp_path / "out" / "images.csv", encoding="utf-8", newline="") as handle:
        rows = [(row["image"], row["label_name"], row["change"], row["name_a"], row["name_b"]) for row in csv.DictReader(handle)]
    assert rows == [
        ("11", "red, deer", "lost", "red, deer", "été 寺"),
        ("14", "red, deer", "other mistake", "été 寺", "|bar|"),
        ("13", "été 寺", "gained", "red, deer", "été 寺"),
    ]
    with open(tmp_path / "out" / "classes.csv", encoding="utf-8", newline="") as handle:
        counts = ("images", "right_a", "right_b", "gained", "lost", "other_mistake")
        classes = {row["name"]: tuple(int(row[key]) for key in counts) for row in csv.DictReader(handle)}
    assert classes == {"red, deer": (3, 1, 0, 0, 1, 1), "été 寺": (2, 1, 2, 1, 0, 0), "|bar|": (1, 1, 1, 0, 0, 0)}


def test_gains_and_losses_add_up(results):
    changes = compare_runs(A, B, results)
    moved = changes.of("gained").sum() - int(changes.of("lost").sum())
    assert moved == changes.b.right.sum() - int(changes.a.right.sum())
    assert len(list(changes.images())) == (changes.a.predicted != changes.b.predicted).sum()
    same = compare_runs(A, C, results)
    assert not list(same.images()) and "Class" not in changes_text(same)


def test_what_cannot_be_compared(results, capsys):
    with pytest.raises(PelError, match="name two different ones"):
        compare_runs(A, A, results)
    write_csv(run_folder(results, B.slug) / CLASSES, ("label", "name", "group"), zip(range(3), "abc", ("head", "med", "tail")))
    with pytest.raises(PelError, match="name their classes otherwise"):
        compare_runs(A, B, results)
    labels = np.array([2, 0, 1, 1, 0, 1], np.int32)
    table = {"index": np.arange(6, dtype=np.int32), "path": None, "label": labels, "prediction": labels}
    write_parquet(run_folder(results, B.slug) / PREDICTIONS, table, {"data_sha256": "x"})
    with pytest.raises(PelError, match="different test sets, so they cannot be compared image by image"):
        compare_runs(A, B, results)
    for words, message in ((["one"], "compare takes two runs, or none"), (["--out", "x"], "--out goes with two runs")):
        assert main(["compare", *words, "--results", str(results)]) == 1
        assert message in capsys.readouterr().err
    assert read_json(run_folder(results, A.slug) / "predict.json")["slug"] == A.slug
