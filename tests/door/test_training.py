"""`pel.train`: what is missing is prepared, the bits are the command line's, what is finished is loaded, mistakes are told."""

import os
import shutil
from pathlib import Path

import pytest

import pel_core as pel
from pel_core.cli.main import main
from pel_core.common.files import read_json, sha256
from pel_core.common.signals import Stopped
from pel_core.door import training
from pel_core.spec.results import run_folder

SLUG = "mine.toy.adaptformer.s0.epochs=1.batch_size=4.precision=fp32"


def train(photos: Path, results: Path, **options):
    return pel.train(**{"dataset": "mine", "method": "adaptformer"} | options, config=photos / "config.yaml", results=results,
                     root=photos / "images", device="cpu")  # fmt: skip


def by_command_line(photos: Path, results: Path, slug: str) -> Path:
    """The folder of a run that the command line made, stage by stage as Snakemake's rules do."""
    os.environ["PEL_DATA"] = str(photos / "images")
    try:
        words = ["--backbone-dir", f"{results}/backbones/toy", "--data-dir", f"{results}/data/mine"]
        for stage in (
            ["backbone", "toy", "--out", f"{results}/backbones/toy"],
            ["data", "prepare", "mine", "--out", f"{results}/data/mine", "--config", str(photos / "config.yaml")],
            ["text", *words, "--out", f"{results}/text/toy/mine.default.safetensors"],
            ["train", slug, "--results", str(results), "--device", "cpu"],
            ["evaluate", slug, "--results", str(results), "--device", "cpu"],
        ):
            assert main(stage) == 0
    finally:
        del os.environ["PEL_DATA"]
    return run_folder(results, slug)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A run through the door, in its results folder."""
    return train(photos, tmp_path_factory.mktemp("door"))


def test_the_bits_are_the_command_line_s(photos, trained, tmp_path):
    assert trained.slug == SLUG
    ours, theirs = run_folder(trained.results, SLUG), by_command_line(photos, tmp_path, SLUG)
    for file in ("delta.safetensors", "logits.safetensors", "predictions.parquet", "classes.csv", "confusion.csv"):
        assert sha256(ours / file) == sha256(theirs / file), file
    mine, other = (read_json(folder / "metrics.json") for folder in (ours, theirs))
    assert all(mine[key] == other[key] for key in ("slug", "spec", "metrics", "data", "backbone", "versions", "parameters"))
    assert [epoch["loss"] for epoch in mine["training"]["curve"]] == [epoch["loss"] for epoch in other["training"]["curve"]]
    for file in ("data/mine/source.json", "backbones/toy/source.json"):  # so that a study takes what was prepared here
        assert read_json(trained.results / file)["params"] == read_json(tmp_path / file)["params"]


def test_a_study_takes_the_run_as_its_own(photos, trained, tmp_path, monkeypatch):
    study = tmp_path / "study.yaml"
    study.write_text(
        "title: S\nroles: {own: Mine}\ntables:\n  one:\n    title: T\n    where: {dataset: own}\n"
        "    rows: [{label: PEL, method: adaptformer}]\n    columns: [{label: Overall, value: overall}]\n"
    )
    found = pel.study(study, photos / "config.yaml", results=trained.results, root=photos / "images")
    assert found.missing == {} and found.cells["mean"][0] == trained.metrics["overall"]


def test_what_is_finished_is_loaded_and_made_again_where_that_is_asked(photos, trained, monkeypatch, capsys):
    calls = []
    real = training.train_run
    monkeypatch.setattr(training, "train_run", lambda slug, *rest, **more: (calls.append(slug), real(slug, *rest, **more)))
    before = sha256(run_folder(trained.results, SLUG) / "delta.safetensors")
    capsys.readouterr()
    assert train(photos, trained.results).metrics == trained.metrics and not calls
    assert "is finished" in capsys.readouterr().err
    other = train(photos, trained.results, run=f"{SLUG}.tte=none", dataset=None, method=None)  # of the same training
    assert not calls and other.spec.tte == "none" and other.folder == trained.folder
    train(photos, trained.results, again=True)
    assert calls == [SLUG] and sha256(run_folder(trained.results, SLUG) / "delta.safetensors") == before


def test_the_environment_stays_as_it_was(photos, trained, monkeypatch):
    import torch

    monkeypatch.setenv("PEL_DATA", "elsewhere")
    threads = torch.get_num_threads()
    train(photos, trained.results, threads=2)
    assert os.environ["PEL_DATA"] == "elsewhere" and torch.get_num_threads() == threads


def test_a_bar_that_moves(photos, trained, monkeypatch, capsys):
    seen = []

    class Bar:
        n = 0

        def __init__(self, total, desc, **_):
            seen.append((desc, total))

        def set_postfix(self, **_):
            pass

        def update(self, steps):
            Bar.n += steps

        def close(self):
            seen.append("closed")

    monkeypatch.setattr(training, "tqdm", Bar)
    train(photos, trained.results, again=True)
    steps = seen[0][1]
    assert seen == [(SLUG, steps), "closed"] and Bar.n == steps > 1
    assert "train accuracy" not in capsys.readouterr().err  # lines are for logs
    train(photos, trained.results, again=True, bar=False)
    assert len(seen) == 2 and "train accuracy" in capsys.readouterr().err


def test_other_images_are_never_taken_for_those_that_were_prepared(photos, trained, tmp_path):
    shutil.copytree(trained.results, tmp_path / "results")
    other = tmp_path / "images"
    shutil.copytree(photos / "images", other)
    (other / "train" / "red deer" / "0.png").unlink()
    with pytest.raises(pel.PelError, match="mine"):
        pel.train(SLUG, config=photos / "config.yaml", results=tmp_path / "results", root=other)


def test_runs_that_start_from_others_and_post_hoc_ones(photos, trained):
    parent = "mine.toy.adaptformer.s0.epochs=1.batch_size=4.lr=0.02.precision=fp32"
    child = train(photos, trained.results, parents=[pel.train(parent, config=photos / "config.yaml", results=trained.results,
                                                              root=photos / "images").spec], take="delta")  # fmt: skip
    assert child.metrics["overall"] is not None and [each.slug for each in child.spec.parent_specs] == [parent]
    shutil.rmtree(run_folder(trained.results, parent))
    shutil.rmtree(run_folder(trained.results, child.slug))
    assert train(photos, trained.results, run=child.spec, dataset=None, method=None).metrics == child.metrics
    assert (run_folder(trained.results, parent) / "train.json").is_file()  # trained first, not evaluated
    assert not (run_folder(trained.results, parent) / "metrics.json").exists()
    adjusted = train(photos, trained.results, **{"posthoc.la": 1})
    assert adjusted.predict(np_zeros()).probabilities.shape == (1, 2)
    zero = train(photos, trained.results, method="zero-shot")
    assert zero.spec.trains is False and zero.metrics["overall"] is not None


def np_zeros():
    import numpy as np

    return np.zeros((20, 20, 3), np.uint8)


def test_an_interruption_is_told_and_the_same_call_goes_on(photos, trained, tmp_path, monkeypatch):
    shutil.copytree(trained.results, tmp_path / "results", ignore=shutil.ignore_patterns("runs", "checkpoints"))

    class Pressed:
        """The stop button, after the first step."""

        n = 0

        def __init__(self, **_):
            pass

        set_postfix = close = write = lambda *_, **__: None

        def update(self, steps):
            import signal

            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training, "tqdm", Pressed)
    with pytest.raises(Stopped):
        train(photos, tmp_path / "results")
    monkeypatch.undo()
    found = train(photos, tmp_path / "results")
    assert found.metrics == trained.metrics
    assert sha256(run_folder(tmp_path / "results", SLUG) / "delta.safetensors") == sha256(trained.folder / "delta.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": SLUG}, "the run is named, and dataset, method would say it once more"),
        ({"dataset": None}, r"no run is named: give its name, or dataset= and method= \(dataset not given\)"),
        ({"method": "adaptfomer"}, "Did you mean 'adaptformer'"),
        ({"epoch": 2}, "unknown option 'epoch'.*Did you mean 'epochs'"),
        ({"dataset": "nine"}, "nine"),
        ({"threads": -1}, "threads=-1: expected 1 or more, or 0"),
    ],
)
def test_slips(photos, trained, options, message):
    with pytest.raises(pel.PelError, match=message):
        train(photos, trained.results, **options)


def test_a_training_that_diverged_is_told_and_not_tried_again_by_itself(photos, trained, monkeypatch):
    options = {"lr": 1e38, "seed": 3}
    with pytest.raises(pel.PelError, match="the loss became"):
        train(photos, trained.results, **options)
    with pytest.raises(pel.PelError, match=r"diverged before: .*again=True tries once more"):
        train(photos, trained.results, **options)


def test_a_text_set_of_the_configuration_starts_the_head(photos, trained):
    texts = "\ntexts: {mine: {words: {templates: ['a {}.'], source: nobody}}}\n"
    config = photos / "config-of-texts.yaml"
    config.write_text((photos / "config.yaml").read_text() + texts)
    options = {"config": config, "results": trained.results, "root": photos / "images", "device": "cpu", "bar": False}
    slug = SLUG.replace(".precision", ".prompt=texts:words.precision")
    first = pel.train(slug, **options).record["texts"]
    config.write_text(config.read_text().replace("'a {}.'", "'the {}.'"))
    assert pel.train(slug, **options).record["texts"] != first
