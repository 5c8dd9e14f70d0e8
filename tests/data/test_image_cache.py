"""The option `image_cache`: what decoded images give a run, how they are built, and what a kill or a full disk does to that."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_odd_images import GOOD, LOSSY

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.batches import EvalBatches, TrainBatches
from pel_core.data.datasets import open_prepared
from pel_core.data.image_cache import open_cache
from pel_core.data.run_images import at_native, decoded
from pel_core.data.transforms import evaluation_crops, load_rgb
from pel_core.hardware.lease import Lease
from pel_core.ingest import cache_build
from pel_core.spec.results import metrics_file
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.plan import plan
from pel_core.studies.study import load

ROOT = Path(__file__).parents[2]
CLASSES, TRAIN, TEST = 3, 5, 2
SIZES = [(40, 30), (24, 60), (70, 24), (20, 26), (24, 24), (90, 81)]  # width, height; 24 is the cache's size


def photograph(number: int, width: int, height: int) -> Image.Image:
    """Smooth, with a little noise, as photographs are."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / rng.uniform(4, 12) + y / rng.uniform(4, 12) + rng.uniform(0, 6)) for _ in range(3)]
    pixels = 128 + 80 * np.stack(waves, -1) + rng.normal(0, 4, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def tree(folder: Path, results: Path, files: dict[str, bytes] | None = None) -> Path:
    """Image files of CLASSES classes with their lists and configuration; ``files`` are test images besides. Prepares them."""
    lines, number = {"train": [], "test": []}, 0
    for split, count in (("train", TRAIN), ("test", TEST)):
        for label in range(CLASSES):
            for _ in range(count):
                path = f"{split}/{label}/{number}.{'jpg' if number % 2 else 'png'}"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                photograph(number, *SIZES[number % len(SIZES)]).save(folder / path)
                lines[split].append(f"{path} {label}")
                number += 1
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
        lines["test"].append(f"{name} 0")
    for split, text in lines.items():
        (folder / f"{split}.txt").write_text("\n".join(text) + "\n")
    (folder / "names.txt").write_text("\n".join(f"class {label}" for label in range(CLASSES)) + "\n")
    entry = {"root": str(folder), "train": "train.txt", "test": "test.txt", "names": "names.txt"}
    config = {"title": "T", "backbone": "toy", "seeds": [0], "data": {"x": "mine"}, "datasets": {"mine": entry}}
    (folder / "config.yaml").write_text(json.dumps(config))
    prepare(folder, results)
    return folder


def prepare(folder: Path, results: Path) -> None:
    assert main(["data", "prepare", "mine", "--out", f"{results}/data/mine", "--config", f"{folder}/config.yaml"]) == 0


def build(results: Path, size: int = 24, status: int = 0) -> Path:
    assert main(["data", "cache", "mine", "--size", str(size), "--results", str(results), "--threads", "2"]) == status
    return results / "cache" / f"mine.{size}"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A prepared tree of 21 images, whose parts hold two or three images each."""
    monkeypatch.setattr(cache_build, "PART", 9000)
    tree(tmp_path / "images", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, toy_results):
    """A results folder with the toy backbone, the tree and its decoded images."""
    results = tmp_path_factory.mktemp("cached") / "results"
    shutil.copytree(toy_results / "backbones", results / "backbones")
    tree(results.parent / "images", results)
    words = ["--backbone-dir", f"{results}/backbones/toy", "--data-dir", f"{results}/data/mine"]
    assert main(["text", *words, "--out", f"{results}/text/toy/mine.default.safetensors"]) == 0
    build(results)
    return results


def run(results: Path, *slugs: str) -> None:
    """Train the first, evaluate all; without what evaluations keep for each other, or the second would be the first's."""
    words = ["--results", str(results), "--prefix-cache-gb", "0"]
    assert main(["train", slugs[0], *words]) == 0
    for slug in slugs:
        assert main(["evaluate", slug, *words]) == 0


def images(results: Path, split: str = "test", size: int = 24):
    about = read_json(results / "data" / "mine" / "data.json")
    return open_cache(results / "cache" / f"mine.{size}", split, about["digests"][split])


def paths(results: Path, split: str = "test") -> list[str]:
    return getattr(open_prepared(results / "data" / "mine", "mine"), split).paths


def broken(folder: Path) -> set[int]:
    """The parts of a cache whose pixels are not those of its checksums."""
    about, content = read_json(folder / "cache.json"), (folder / "images.bin").read_bytes()
    with np.load(folder / "index.npz") as index:
        ends = cache_build.offsets(index["heights"], index["widths"])
    bounds = cache_build.part_bounds(ends)
    sums = [cache_build.hashlib.sha256(content[ends[a] : ends[b]]).hexdigest() for a, b in bounds]
    return {number for number, (found, stored) in enumerate(zip(sums, about["parts"], strict=True)) if found != stored}


# Reading


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_image_is_the_file_reduced_once(lab, split):
    build(lab)
    cache, files = images(lab, split), paths(lab, split)
    assert len(cache) == len(files) == CLASSES * (TRAIN if split == "train" else TEST)
    small = 0
    for position, path in enumerate(files):
        assert np.array_equal(cache[position], np.asarray(load_rgb(path, 24)))
        small += (whole := load_rgb(path)).size == Image.fromarray(cache[position]).size
        assert min(cache[position].shape[:2]) == min(24, *whole.size) and not cache[position].flags.writeable
    assert 0 < small < len(files)
    chosen = cache.take(np.array([2, 0]))
    assert np.array_equal(chosen[0], cache[2]) and len(chosen) == 2
    assert np.array_equal(pickle.loads(pickle.dumps(cache))[1], cache[1])  # as a worker gets it, without the pixels
    assert len(pickle.dumps(cache)) < 2000 < (lab / "cache/mine.24/images.bin").stat().st_size


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_reduced_files(lab, workers):
    build(lab)
    data = open_prepared(lab / "data" / "mine", "mine")
    spec = RunSpec.make("mine", "toy", "ln", 0, batch_size=4)
    made = []
    for one in (at_native(data, 24), decoded(data, lab, 24)):
        train = TrainBatches(one.train, spec, 16, (0.5,) * 3, (0.5,) * 3, "cpu", workers)
        test = EvalBatches(one.test, "fivecrop", 4, 16, (0.5,) * 3, (0.5,) * 3, "cpu", workers=workers)
        made.append([batch for batch, *_ in train.epoch(1)] + [batch for batch, _ in test])
    for file, cache in zip(*made, strict=True):
        assert torch.equal(file, cache)


@pytest.mark.parametrize(("tte", "mean", "most"), [("none", 1.0, 8), ("fivecrop", 1.0, 12)])
def test_evaluation_crops_differ_by_little_from_the_files(tte, mean, most):
    """At the sizes that are used: 224 pixels from a photograph of 500 x 375, through 256 pixels."""
    image = photograph(3, 500, 375)
    size = cache_build.resized(375, 500, 256)[::-1]
    small = image.resize(size, Image.Resampling.BILINEAR)
    plain, cached = (evaluation_crops(each, tte, 224, 24).astype(int) for each in (image, small))
    difference = np.abs(plain - cached)
    assert difference.mean() <= mean and difference.max() <= most
    if tte == "none":  # which resizes to 256 pixels itself
        assert difference.max() == 0


@pytest.mark.parametrize("name", GOOD)
def test_odd_images_through_the_cache(odd, name):
    results, names = odd
    expected = GOOD[name][1]
    pixels = images(results, size=256)[CLASSES * TEST + names.index(name)]
    assert np.abs(pixels.astype(int) - expected).max() <= (LOSSY if name.endswith("jpg") else 0)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A tree with the odd images, as far as a list line can hold their names; the others take another name."""
    folder = tmp_path_factory.mktemp("odd")
    files = {f"{number} {name.replace(chr(10), '').strip()}": content for number, (name, (content, _)) in enumerate(GOOD.items())}
    tree(folder / "images", folder / "results", files)
    build(folder / "results", 256)
    return folder / "results", list(GOOD)


def test_a_run_has_the_numbers_of_reduced_files_and_shares_no_name(runs, capsys):
    found = {}
    for option in ("native", "image_cache"):
        spec = RunSpec.make("mine", "toy", "adaptformer", 0, epochs=2, batch_size=8, precision="fp32", **{option: 24})
        assert f".{option}=24" in spec.slug and RunSpec.parse(spec.slug) == spec
        slugs = (spec.slug, f"{spec.slug}.tte=tencrop")
        run(runs, *slugs)
        found[option] = [read_json(metrics_file(runs, slug))["metrics"] for slug in slugs]
    assert found["native"] == found["image_cache"]
    record = read_json(runs / "runs" / spec.slug / "train.json")
    assert record["spec"]["image_cache"] == 24
    test = str(runs.parent / "images" / "test")
    assert main(["predict", test, "--run", spec.slug, "--results", str(runs)]) == 0
    shutil.move(runs / "cache", runs / "away")
    try:
        capsys.readouterr()
        assert main(["evaluate", spec.slug, "--results", str(runs)]) == 1
        assert "python -m pel_core data cache mine --size 24 --results" in capsys.readouterr().err
    finally:
        shutil.move(runs / "away", runs / "cache")


@pytest.mark.parametrize("init", ["shot-1", "class-mean"])
def test_heads_that_start_from_images(runs, init):
    metrics = []
    for option in ("native", "image_cache"):
        slug = RunSpec.make("mine", "toy", "head-only", 0, epochs=1, init=init, precision="fp32", **{option: 24}).slug
        run(runs, slug)
        metrics.append(read_json(metrics_file(runs, slug))["metrics"])
    assert metrics[0] == metrics[1]


# The option


def test_it_is_named_and_changes_nothing_else():
    plain = RunSpec.make("imagenet-lt", "clip-b16", "adaptformer", 0)
    spec = RunSpec.make("imagenet-lt", "clip-b16", "adaptformer", 0, image_cache=256)
    assert plain.image_cache is None and plain.slug == "imagenet-lt.clip-b16.adaptformer.s0"
    assert spec.slug == f"{plain.slug}.image_cache=256" and spec.train == spec and spec.reduction == 256
    assert RunSpec.parse(f"{spec.slug}.tte=none").train == spec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_cache": 200}, "at least the network's 224 pixels"),
        ({"image_cache": 0}, "at least the network's 224 pixels"),
        ({"image_cache": "small"}, "expected a whole number"),
        ({"image_cache": 256, "native": 64}, "needs a data set of image files, and no native"),
        ({"image_cache": 256, "dataset": "cifar100-ir100"}, "needs a data set of image files"),
        ({"image_cache": 256, "dataset": "toy-ir20"}, "needs a data set of image files"),
    ],
)
def test_what_is_not_possible_is_refused(values, message):
    values = {"dataset": "places-lt", **values}
    with pytest.raises(PelError, match=re.escape(message)):
        RunSpec.make(values.pop("dataset"), "clip-b16", "adaptformer", 0, **values)


def test_what_a_configuration_shares_stays_away_from_arrays():
    shared = {"image_cache": 256}
    assert RunSpec.make("cifar100-ir100", "clip-b16", "adaptformer", 0, shared).image_cache is None
    assert RunSpec.make("places-lt", "clip-b16", "zero-shot", 0, shared).image_cache == 256
    assert RunSpec.make("mine-ir10", "clip-b16", "ln", 0, shared, native=64).image_cache is None


# Building


def test_the_size_is_said_first_and_is_what_comes(lab, capsys):
    folder = build(lab)
    said = capsys.readouterr().err
    size = (folder / "images.bin").stat().st_size
    assert size == sum(np.asarray(load_rgb(path, 24)).nbytes for split in ("train", "test") for path in paths(lab, split))
    assert f"21 images of 'mine' decoded at 24 pixels take {max(size / 1e6, 0.1):,.1f} MB" in said and "are free there" in said
    about = read_json(folder / "cache.json")
    assert (about["images"], about["bytes"]) == (21, size) and len(about["parts"]) > 5 and not broken(folder)


def test_a_full_disk_is_refused_before_a_pixel_is_written(lab, monkeypatch, capsys):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(cache_build.shutil, "disk_usage", lambda folder: Usage(0, 0, 2**28 - 1))
    folder = build(lab, status=1)
    error = capsys.readouterr().err
    assert "decoded at 24 pixels take" in error and "but 268.4 MB are free there; choose a results folder" in error
    assert not (folder / "cache.json").exists() and not (folder / "images.bin").exists()


def test_a_disk_that_fills_up_meanwhile_is_told_and_the_build_goes_on(lab, monkeypatch, capsys):
    real, calls = os.pwrite, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(cache_build.os, "pwrite", full)
    folder = build(lab, status=1)
    assert "images.bin cannot be written (No space left on device); started again, it goes on" in capsys.readouterr().err
    build(lab)
    parts = len(read_json(folder / "cache.json")["parts"])
    assert len(calls) == 4 + parts - 3 and not broken(folder)


def test_a_killed_build_goes_on_where_it_was(lab, monkeypatch):
    """SIGKILL after some parts: they are not decoded again, and the pixels are those of an undisturbed build."""
    code = (
        "import sys, time; from pel_core.ingest import cache_build as c; c.PART = 9000; real = c._note\n"
        "def note(path, number, digest):\n    real(path, number, digest)\n    print(number, flush=True)\n"
        "    time.sleep(60 if number == 3 else 0)\n"
        f"c._note = note; c.build('mine', 24, {str(lab)!r}, 2)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert any(line.strip() == "3" for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = lab / "cache/mine.24"
    assert not (folder / "cache.json").exists()
    (folder / "parts.txt").write_text((folder / "parts.txt").read_text() + "4 12ab")  # and a line that was cut off
    decoded_again, real = [], cache_build._part
    monkeypatch.setattr(cache_build, "_part", lambda *a: decoded_again.append(a[4]) or real(*a))
    build(lab)
    parts = len(read_json(folder / "cache.json")["parts"])
    assert len(decoded_again) == parts - 4 and not broken(folder)
    first = (folder / "images.bin").read_bytes()
    shutil.rmtree(folder)
    build(lab)
    assert (folder / "images.bin").read_bytes() == first


@pytest.mark.parametrize("damage", ["torn", "short", "gone"])
def test_torn_parts_are_found_and_made_again(lab, damage, monkeypatch, capsys):
    folder = build(lab)
    whole = (folder / "images.bin").read_bytes()
    parts = len(read_json(folder / "cache.json")["parts"])
    again, real = [], cache_build._part
    monkeypatch.setattr(cache_build, "_part", lambda *a: again.append(a[4]) or real(*a))
    capsys.readouterr()
    build(lab)
    assert not again  # a check that finds nothing decodes nothing
    assert ", and are checked now; " in capsys.readouterr().err
    changed = {"torn": whole[:100] + b"\0" * 50 + whole[150:], "short": whole[:-5000], "gone": b""}[damage]
    (folder / "images.bin").write_bytes(changed)
    if damage != "torn":
        with pytest.raises(PelError, match="is damaged"):
            images(lab)
    build(lab)
    assert (folder / "images.bin").read_bytes() == whole and images(lab) is not None
    assert len(again) == (1 if damage == "torn" else parts if damage == "gone" else len(again)) > 0


def test_other_images_are_refused_until_prepared_again_and_then_decoded(lab):
    folder, first = build(lab), paths(lab)[0]
    photograph(99, 50, 40).save(first)
    assert main(["data", "cache", "mine", "--size", "24", "--results", str(lab)]) == 1
    prepare(lab.parent / "images", lab)
    with pytest.raises(PelError, match="was decoded from other images than 'mine' has now"):
        images(lab)
    build(lab)
    assert np.array_equal(images(lab)[0], np.asarray(load_rgb(first, 24))) and not broken(folder)


@pytest.mark.parametrize("damage", ["index", "engine", "half"])
def test_what_cannot_be_used_is_told(lab, damage):
    folder = build(lab)
    if damage == "index":
        (folder / "index.npz").write_bytes(b"x")
    elif damage == "engine":
        (folder / "cache.json").write_text(json.dumps(read_json(folder / "cache.json") | {"versions": {"prepare": 0}}))
    else:
        (folder / "cache.json").unlink()
    with pytest.raises(PelError, match=r"python -m pel_core data cache mine --size 24 --results .* \(snakemake does\)"):
        images(lab)
    build(lab)
    assert len(images(lab)) == CLASSES * TEST


def test_an_image_that_cannot_be_decoded_is_named(lab, capsys):
    path = Path(paths(lab, "train")[3])
    path.write_bytes(b"\xff\xd8\xff" + bytes(path.stat().st_size - 3))
    folder = build(lab, status=1)  # other content than was prepared, though of the same size
    assert "are not those that" in capsys.readouterr().err
    words = ["--config", f"{lab.parent}/images/config.yaml", "--check-images", "none"]
    assert main(["data", "prepare", "mine", "--out", f"{lab}/data/mine", *words]) == 0
    build(lab, status=1)
    assert f"image {path} cannot be decoded" in capsys.readouterr().err and not (folder / "cache.json").exists()


def test_pixels_that_are_no_files_are_refused(toy_results, capsys):
    assert main(["data", "cache", "toy", "--results", str(toy_results)]) == 1
    assert "is held as pixels already" in capsys.readouterr().err
    assert main(["data", "cache", "gone", "--results", str(toy_results)]) == 1
    assert "data set 'gone' is not prepared" in capsys.readouterr().err


def test_two_builds_at_once_take_turns(lab):
    command = [sys.executable, "-m", "pel_core", "data", "cache", "mine", "--size", "24", "--results", str(lab)]
    with Lease(lab / "cache/mine.24/build.lease", "mine.24") as lease:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert f"mine.24 is being decoded by process {os.getpid()}" in process.stderr.readline()
        assert not (lab / "cache/mine.24/index.npz").exists()
        lease.check()
    process.communicate()
    assert process.returncode == 0 and np.array_equal(images(lab)[0], np.asarray(load_rgb(paths(lab)[0], 24)))


def test_a_build_that_lost_its_lease_writes_no_more(lab, monkeypatch, capsys):
    real = cache_build._part

    def taken_over(*arguments):
        (lab / "cache/mine.24/build.lease").write_text(json.dumps({"token": "another", "pid": 1, "host": "other"}))
        return real(*arguments)

    monkeypatch.setattr(cache_build, "_part", taken_over)
    folder = build(lab, status=1)
    assert "lost its lease" in capsys.readouterr().err
    assert not (folder / "parts.txt").exists() and not (folder / "cache.json").exists()


# The workflow

STUDY = """
title: S
roles: {x: X}
tables:
  plain:
    title: P
    where: {dataset: x, value: overall}
    rows: [{label: A, method: adaptformer, epochs: 1}]
    columns: [{label: files, value: overall}]
  both:
    title: B
    where: {dataset: x, value: overall}
    rows: [{label: A, method: adaptformer, epochs: 1}]
    columns: [{label: files, value: overall}, {label: decoded, value: overall, image_cache: 24}]
"""


def test_the_plan_says_what_it_takes(lab, monkeypatch):
    monkeypatch.chdir(lab.parent)
    (lab.parent / "study.yaml").write_text(STUDY)
    words = "Decoded images (image_cache): about 0.1 MB more in results/cache."
    assert words in plan(load("study.yaml", "images/config.yaml"))
    build(lab)
    assert "Decoded images" not in plan(load("study.yaml", "images/config.yaml"))


@pytest.mark.slow
def test_snakemake_builds_it_for_the_runs_that_ask_and_no_others(tmp_path):
    tree(tmp_path / "images", tmp_path / "unused")
    (tmp_path / "study.yaml").write_text(STUDY)
    shutil.copy(tmp_path / "images/config.yaml", tmp_path / "config.yaml")

    def snakemake(*words):
        command = [
            sys.executable,
            "-m",
            "snakemake",
            *words,
            "-s",
            str(ROOT / "Snakefile"),
            "--cores",
            "2",
            "--resources",
            "gpu=2",
        ]
        command += ["--resources", "gpu=2", "--workflow-profile", str(ROOT / "workflow/profiles/default")]
        command += ["--config", "study=study.yaml", "config=config.yaml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    planned = dict(re.findall(r"^(\w+) +(\d+)$", snakemake("-n", "results/tables/plain.csv"), flags=re.M))
    assert "cache" not in planned and planned["train"] == "1"
    planned = dict(re.findall(r"^(\w+) +(\d+)$", snakemake("-n", "results/tables/both.csv"), flags=re.M))
    assert (planned["cache"], planned["data"], planned["train"], planned["predict"]) == ("1", "1", "2", "2")
    snakemake("results/tables/both.csv")
    assert (tmp_path / "results/tables/both.csv").is_file()
    assert "decoded at 24 pixels take" in (tmp_path / "results/logs/mine.24.cache.log").read_text()
    assert not broken(tmp_path / "results/cache/mine.24")
    assert "Nothing to be done" in snakemake("-n", "results/tables/both.csv")
