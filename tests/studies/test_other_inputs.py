"""Which prepared files and runs of a study are of other inputs than there are now: by content, whatever Snakemake recalls.

Data are prepared and compared as they are; runs are made up (`tests/real_inputs.py`) and say what they were made from.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import real_inputs
from own_trees import draw, fill, write

from pel_core.cli.main import main
from pel_core.cli.study_commands import show_text
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.data import manifest
from pel_core.data.datasets import content_hash, open_prepared
from pel_core.data.lists import check_files, digest
from pel_core.data.manifest import read_manifest
from pel_core.data.prepared_files import image_list
from pel_core.ingest.prepare import prepare
from pel_core.spec.results import OUTPUTS, metrics_file
from pel_core.studies.plan import plan
from pel_core.studies.status import status
from pel_core.studies.study import Study, load, load_settings

STUDY = """
title: Small
roles: {small: Mine}
tables:
  t1:
    title: One
    where: {dataset: small}
    rows: [{label: PEL, method: adaptformer}]
    columns: [{label: All, value: overall}]
"""
CONFIG = "title: Toy\nbackbone: toy\nseeds: [0, 1]\ndata: {small: mine}\ndatasets: {mine: {%s, root: $PEL_DATA}}\n"
LISTS = "train: train.txt, test: test.txt, names: names.txt"
CHANGED = 5 * 80  # the seed of an image of the same size as every fifth, and of other colours


class Lab:
    """A study on images of one kind, whose two seeds are done."""

    def __init__(self, folder: Path, kind: str):
        self.folder, self.images, self.results = folder, folder / "photos", folder / "results"
        self.root = {"csv": self.images / "all.csv"}.get(kind, self.images)
        self.settings = {"study": folder / "study.yaml", "config": folder / "config.yaml", "results": self.results}
        (folder / "study.yaml").write_text(STUDY)
        (folder / "config.yaml").write_text(CONFIG % (LISTS if kind == "lists" else f"kind: {kind}"))
        for number in range(20):
            draw(self.images / f"{'ab'[number % 2]}/{number}.bmp", 5 * number)
        names = sorted(str(path.relative_to(self.images)) for path in self.images.rglob("*.bmp"))
        write(self.images / "all.csv", [["path", "label"], *([name, name[0]] for name in names)])
        lines = [f"{name} {'ab'.index(name[0])}" for name in names]
        (self.images / "train.txt").write_text("\n".join(lines[:8] + lines[-8:]))
        (self.images / "test.txt").write_text("\n".join(lines[8:12]))
        (self.images / "names.txt").write_text("a\nb")
        self.make()

    def load(self, **more) -> Study:
        return load_settings({**self.settings, "root": self.root, **more})

    def make(self, **more) -> None:
        """What Snakemake would: data, weights, and every run."""
        study = self.load(**more)
        prepare("mine", self.results / "data/mine", study.config)
        weights = [f"--weights={study.config['weights']['toy']}"] if study.config.get("weights") else []
        real_inputs.main(["backbone", "toy", f"--out={self.results}/backbones/toy", *weights])
        for slug in study.specs:
            real_inputs.main(["train", slug, f"--results={self.results}"])
            real_inputs.main(["evaluate", slug, f"--results={self.results}"])

    def stale(self, **more) -> dict[str, str]:
        """Files, below the results folder, that are made again."""
        return {os.path.relpath(file, self.results): why for file, why in self.load(**more).stale().items()}


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    for name in ("PEL_DATA", "PEL_ROOTS", "PEL_COMPARED"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(params=["csv", "folders", "lists"])
def lab(tmp_path, request) -> Lab:
    return Lab(tmp_path, request.param)


@pytest.fixture
def table(tmp_path) -> Lab:
    return Lab(tmp_path, "csv")


DATA = "data/mine/data.json"


@pytest.mark.parametrize("seed", [CHANGED, CHANGED + 2], ids=["same size", "another size"])
def test_images_overwritten_in_place_are_seen_by_all(lab, seed, capsys):
    study = lab.load()
    assert lab.stale() == {} and "to train 0" in plan(study) and study.missing() == []
    first = next((lab.images / "a").glob("*.bmp"))
    draw(first, seed)
    assert set(lab.stale()) == {DATA}
    told = plan(lab.load())
    assert "2 missing; to train 2, to evaluate 2" in told and "But the images of mine are not those that" in told
    with pytest.raises(PelError, match=r"are not those that .*was prepared from.* Start snakemake"):  # at the start of a job
        open_prepared(lab.results / "data/mine", "mine", ("train", "test"))
    words = ["table", "t1", "--study", str(lab.settings["study"]), "--config", str(lab.settings["config"])]
    os.environ["PEL_DATA"] = str(lab.root)
    assert main([*words, "--results", str(lab.results)]) == 1
    assert "t1: the images of mine are not those that" in capsys.readouterr().err
    before = read_json(lab.results / DATA)["digests"]
    prepare("mine", lab.results / "data/mine", study.config)
    assert read_json(lab.results / DATA)["digests"] != before
    # Prepared anew, and the runs are not: as where Snakemake was killed in between.
    runs = {f"runs/mine.toy.adaptformer.s{seed}/delta.safetensors" for seed in (0, 1)}
    assert set(lab.stale()) == runs and "to train 2" in plan(lab.load())
    real_inputs.main(["train", "mine.toy.adaptformer.s1", f"--results={lab.results}"])
    real_inputs.main(["evaluate", "mine.toy.adaptformer.s1", f"--results={lab.results}"])
    assert set(lab.stale()) == {"runs/mine.toy.adaptformer.s0/delta.safetensors"}  # never a mean over both
    assert main([*words, "--results", str(lab.results)]) == 1
    assert "mine.toy.adaptformer.s0" in capsys.readouterr().err
    lab.make()
    assert lab.stale() == {}


def test_times_and_places_change_nothing(lab, monkeypatch):
    for path in lab.images.rglob("*.*"):
        path.write_bytes(path.read_bytes())
        os.utime(path, (1, 1))
    assert lab.stale() == {}
    shutil.copytree(lab.images, lab.folder / "copy")
    shutil.rmtree(lab.images)
    lab.root = lab.folder / "copy" / lab.root.relative_to(lab.images)
    assert lab.stale() == {}
    open_prepared(lab.results / "data/mine", "mine", ("train", "test"))
    lab.results.rename(lab.folder / "elsewhere")
    lab.results = lab.settings["results"] = lab.folder / "elsewhere"
    assert lab.stale() == {}


def test_other_images_in_another_place_are_refused(lab):
    shutil.copytree(lab.images, lab.folder / "copy")
    draw(next((lab.folder / "copy/b").glob("*.bmp")), CHANGED)
    lab.root = lab.folder / "copy" / lab.root.relative_to(lab.images)
    with pytest.raises(PelError, match=r"was prepared from .*photos, and .*copy.* holds other images.*RESULTS=FOLDER"):
        lab.load()
    study = load(**lab.settings, root=lab.root)
    assert "But `make study` will not start: data set 'mine'" in plan(study)


def test_another_table_is_seen(table):
    write(table.images / "all.csv", [["path", "label"], *([f"a/{i}.bmp", "x" if i < 10 else "y"] for i in range(0, 20, 2))])
    assert "paths, sizes, lists or tables are others" in table.stale()[DATA]


def test_another_option_is_seen(table):
    config = table.settings["config"]
    config.write_text(config.read_text().replace("{kind: csv", "{kind: csv, test_fraction: 0.4"))
    assert "declared otherwise (entry)" in table.stale()[DATA]


def test_an_image_that_is_gone_is_seen(table):
    next((table.images / "a").glob("*.bmp")).unlink()
    assert "1 of 20 files are others by content or gone (1): a/" in table.stale()[DATA]


def test_other_weights_are_seen(table):
    backbone = "backbones/toy/backbone.json"
    for name in ("w", "other"):
        (table.folder / name).write_bytes(b"\0" * 2**16 + name.ljust(8).encode() + b"\0" * 2**16)  # with equal ends
    assert set(table.stale(weights=table.folder / "w")) == {backbone}
    table.make(weights=table.folder / "w")
    (table.folder / "moved").mkdir()
    shutil.copy(table.folder / "w", table.folder / "moved/w")
    assert table.stale(weights=table.folder / "w") == table.stale(weights=table.folder / "moved/w") == {}
    told = table.stale(weights=table.folder / "other", seeds="0,1,2")
    assert set(told) == {backbone} and "the weights of toy are not those that" in told[backbone]
    assert "to train 2" in plan(table.load(weights=table.folder / "other"))
    shutil.copy(table.folder / "other", table.folder / "w")  # and where the file itself was replaced
    assert set(table.stale(weights=table.folder / "w")) == {backbone}


def test_a_folder_that_says_nothing_is_adopted(lab, capsys):
    """As versions before left it: digests of paths, labels and sizes, no manifest. Nothing is made again for it."""
    folder = lab.results / "data/mine"
    about = read_json(folder / "data.json")
    for split in about["digests"]:
        _, images, _ = image_list(folder, about, split)
        about["digests"][split] = digest(images, check_files(lab.images, images))
    write_json(folder / "data.json", about)
    for path in (lab.results / "runs").glob("*/*.json"):
        record = read_json(path)
        record["data"]["sha256"] = content_hash(about, "mine")
        del record["inputs"]
        write_json(path, record)
    for path in (folder / "manifest.npz", folder / "source.json", lab.results / "backbones/toy/source.json"):
        path.unlink()
    assert lab.stale() == {}
    told = capsys.readouterr().err
    assert "prepared before files were known by content" in told and "20 files have the sizes that they had" in told
    assert read_manifest(folder) is not None and "params" in read_json(folder / "source.json")
    assert lab.stale() == {} and "before" not in capsys.readouterr().err
    prepare("mine", folder, lab.load().config)  # again, for whatever reason: the same images keep their digests
    assert read_json(folder / "data.json")["digests"] == about["digests"] and lab.stale() == {}
    draw(next((lab.images / "a").glob("*.bmp")), CHANGED)
    assert set(lab.stale()) == {DATA}
    lab.make()
    assert lab.stale() == {} and read_json(folder / "data.json")["digests"] != about["digests"]


def test_a_folder_that_says_nothing_and_whose_sizes_differ_is_not(table):
    (table.results / "data/mine/manifest.npz").unlink()
    assert table.stale() == {}  # the digest itself is of contents
    (table.results / "data/mine/manifest.npz").write_bytes(b"PK\3\4 torn")
    draw(next((table.images / "a").glob("*.bmp")), CHANGED)
    assert set(table.stale()) == {DATA}


def test_runs_of_before_a_change_of_what_they_compute_are_made_again(table, monkeypatch):
    """They were counted as trained; one that no Snakemake had made was evaluated, and failed until its folder was deleted."""
    monkeypatch.setattr("pel_core.spec.revisions.REVISIONS", (("images are drawn otherwise", lambda spec: spec.seed == 1),))
    study = table.load()
    of_seed_1 = next(slug for slug, spec in study.specs.items() if spec.seed == 1)
    assert set(table.stale()) == {f"runs/{of_seed_1}/delta.safetensors"}
    assert "2, of which 1 done, 1 missing; to train 1, to evaluate 1" in plan(study)
    table.make()
    assert table.stale() == {} and "to train 0" in plan(table.load())


@pytest.mark.parametrize("size", [None, 100, 2, 0], ids=["gone", "cut off", "two bytes", "empty"])
@pytest.mark.parametrize("logits", [True, False])
def test_a_run_without_its_predictions_is_scored_again_and_counted_so(table, size, logits):
    """The plan said that nothing was missing. Of a file that was cut off Snakemake said so too, and the table stayed outdated."""
    slug = next(iter(table.load().specs))
    path, word = metrics_file(table.results, slug).with_name(OUTPUTS[0]), "gone" if size is None else "damaged"
    path.unlink()
    if size is not None:
        path.write_bytes(b"PAR1".ljust(100, b"x")[:size])
    if not logits:
        path.with_name("logits.safetensors").unlink()
    assert set(table.stale()) == (set() if size is None else {os.path.relpath(path, table.results)})
    told, state, shown = plan(table.load()), status(table.load()), show_text(table.load())
    scored = "0 missing; to train 0, to evaluate 0, to score again 1 (seconds)."
    counts = scored if logits else "1 missing; to train 0, to evaluate 1."
    assert f"2, of which 1 done, {counts}" in told
    assert f"scored again, since its predictions.parquet is {word}: {slug}" in told
    assert f"2 runs: 1 done, 1 {'evaluated but not scored' if logits else 'trained but not evaluated'}" in state
    assert f"Scored again:\n  {slug}  its predictions.parquet is {word}" in state
    assert f"1 of 2 runs to be {'scored' if logits else 'evaluated'}" in shown
    table.make()
    assert table.stale() == {} and "2 done, 0 missing" in plan(table.load()) and "Scored again" not in status(table.load())


def test_accepted_runs_stay(table):
    path = table.results / "runs/mine.toy.adaptformer.s0/train.json"
    record = read_json(path)
    write_json(path, record | {"versions": {**record["versions"], "train": 0}})
    config = table.settings["config"]
    config.write_text(f"{config.read_text()}accept: [mine.toy.adaptformer.s0]\n")
    draw(next((table.images / "a").glob("*.bmp")), CHANGED)
    prepare("mine", table.results / "data/mine", table.load().config)
    assert set(table.stale()) == {"runs/mine.toy.adaptformer.s1/delta.safetensors"}


def test_what_was_looked_at_is_not_read_again(table, monkeypatch):
    """Times that are as they were are enough; files that were written just now are read again, since times tick in steps."""
    folder, read = table.results / "data/mine", []
    monkeypatch.setattr(manifest, "_read", lambda path, was=manifest._read: (read.append(path), was(path))[1])
    table.load()
    assert len(read) == 20
    monkeypatch.setattr(manifest, "SETTLED", -1.0)
    table.load()
    read.clear()
    table.load()
    prepare("mine", folder, table.load().config)
    assert not read
    draw(next((table.images / "a").glob("*.bmp")), CHANGED)
    prepare("mine", folder, load(**table.settings, root=table.root).config)
    assert len(read) == 1


def test_a_saved_table_of_images_is_known_by_content(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra 'hf'")
    datasets.disable_progress_bars()
    lab = Lab(tmp_path, "folders")

    def save(seed: int) -> None:
        shutil.rmtree(tmp_path / "saved", ignore_errors=True)
        draw(lab.images / "a/0.bmp", seed)
        content = [path.read_bytes() for path in sorted(lab.images.rglob("*.bmp"))]
        kinds = datasets.Features({"image": datasets.Value("binary"), "label": datasets.ClassLabel(names=["a", "b"])})
        datasets.Dataset.from_dict({"image": content, "label": [0, 1] * 10}, features=kinds).save_to_disk(tmp_path / "saved")

    save(0)
    lab.settings["config"].write_text(CONFIG % "kind: huggingface")
    lab.root, lab.results = tmp_path / "saved", tmp_path / "results-2"
    lab.settings["results"] = lab.results
    lab.make()
    before = read_json(lab.results / DATA)["digests"]
    save(0)
    assert not [why for why in lab.stale().values() if "files are others" in why]
    save(CHANGED)
    assert set(lab.stale()) == {DATA}
    lab.make()
    assert read_json(lab.results / DATA)["digests"] != before and lab.stale() == {}


def test_sentences_that_changed_are_seen(tmp_path):
    from pel_core.studies.inputs import _descriptions

    header = json.dumps({"__metadata__": {"descriptions": "e" * 64}}).encode()
    (tmp_path / "text.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert _descriptions(tmp_path / "text.safetensors") == "e" * 64
    (tmp_path / "text.safetensors").write_bytes(b"\xff" * 9)
    assert _descriptions(tmp_path / "text.safetensors") == _descriptions(tmp_path / "none") == ""


def test_the_manifest_of_odd_names(tmp_path):
    root = fill(tmp_path / "root", {"Зубр": 2, "it's; a": 2})
    made = manifest.make_manifest(
        str(root), {"train": ["Зубр/000.png", "it's; a/001.png"], "test": ["Зубр/001.png", "Зубр/000.png"]}
    )
    manifest.write_manifest(tmp_path, made)
    read = read_manifest(tmp_path)
    assert read.paths == made.paths and len(read.paths) == 3 and (read.states == made.states).all()
    assert read.of("test")[16:] == read.of("train")[:16] and read.of("test") == made.of("test")
