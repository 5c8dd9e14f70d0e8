"""`pel gallery`: which images, small enough, and names that stay names."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.data.datasets import Prepared
from pel_core.data.split import Split
from pel_core.gallery.answers import AnsweredSet, Answers
from pel_core.gallery.choice import chosen, confusions
from pel_core.gallery.page import page_html, save_gallery, shares
from pel_core.gallery.thumbnails import SIZES, thumbnails
from pel_core.spec.results import run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.training.model_card import demo_notice, notice

RUNS = "toy-ir20.toy.ln.s0.epochs=1", "toy-ir20.toy.head-only.s0.epochs=1"
NASTY = "</script><img src=x onerror=document.title='run'> & \"quoted\" \u2028<!--"


@pytest.fixture(scope="module")
def results(toy_results):
    for slug in RUNS:
        for command in ("train", "evaluate"):
            assert main([command, slug, "--results", str(toy_results), "--no-tensorboard"]) == 0
    return toy_results


def made_set(classes=4, each=6, seed=0, runs=2, names=None):
    """Made-up answers to noise images."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    images = draw.integers(0, 255, (len(labels), 16, 16, 3), np.uint8)
    split = Split(labels, images)
    groups = ["head", "med", "tail"]
    data = Prepared("toy-ir20", names or [f"class {i}" for i in range(classes)], 16, split, split, None,
                    np.arange(classes, 0, -1) * 10, [groups[min(2, i)] for i in range(classes)], "0" * 64)  # fmt: skip
    answers = [
        Answers(f"run{i}", f"run {i}", draw.integers(0, classes, len(labels)), draw.random(len(labels)).astype(np.float32))
        for i in range(runs)
    ]
    return AnsweredSet(data, split, "toy", tuple(answers))


def held(text):
    (found,) = re.findall(r'<script type="application/json" id="held">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)["sets"]


def test_the_command_shows_what_the_tables_say(results, tmp_path, capsys):
    out = tmp_path / "g.html"
    assert main(["gallery", *RUNS, "--results", str(results), "--out", str(out)]) == 0
    assert "60 of 60 images" in capsys.readouterr().out
    (one,) = held(out.read_text(encoding="utf-8"))
    for slug, run in zip(RUNS, one["runs"], strict=True):
        table = parquet.read_table(run_folder(results, slug) / "predictions.parquet").to_pydict()
        assert run["slug"] == slug
        pairs = [zip(one["labels"], run["predicted"], strict=True), zip(table["label"], table["prediction"], strict=True)]
        assert sorted(pairs[0]) == sorted(pairs[1])
        right = np.array(table["label"]) == np.array(table["prediction"])
        assert run["accuracy"]["all"] == pytest.approx(100 * right.mean(), abs=0.01)
        assert sum(run["hits"]) == right.sum()
    assert len(one["thumbs"]) == 60 and all(each.startswith("data:image/") for each in one["thumbs"])
    assert not re.search(r"https?://(?!www\.w3\.org)", out.read_text()) and str(tmp_path) not in out.read_text()


def test_names_stay_text(tmp_path):
    one = made_set(names=[NASTY, "b", "c", NASTY])
    out = tmp_path / "g.html"
    save_gallery(out, NASTY, [one])
    text = out.read_text(encoding="utf-8")
    assert held(text)[0]["classes"] == [NASTY, "b", "c", NASTY]
    assert "<img src=x" not in text and text.count("</script>") == 2


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
def test_a_browser_draws_it_and_runs_no_name(tmp_path):
    out = tmp_path / "g.html"
    save_gallery(out, "A gallery", [made_set(names=[NASTY, "b", "c", "d"])])
    words = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=3000",
        "--dump-dom",
        f"file://{out}",
    ]
    page = subprocess.run(words, capture_output=True, text=True, timeout=120).stdout
    assert "<title>A gallery: gallery</title>" in page
    assert page.count('class="card"') and page.count("<h3>") == 4 and "&lt;/script&gt;" in page


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 5), st.integers(1, 60), st.integers(1, 3))
def test_what_is_shown_is_each_once_and_mistakes_first(classes, each, seed, most, runs):
    one = made_set(classes, each, seed, runs)
    found = chosen(one, most)
    assert len(found) == len(set(found.tolist())) == min(most, classes * each)
    first = one.answers[0]
    wrong = np.flatnonzero(first.predicted != one.split.labels)
    surest = wrong[np.argsort(-first.probability[wrong], kind="stable")][:most]
    assert set(surest[:100].tolist()) <= set(found.tolist())


def test_of_many_images_every_class_has_some():
    one = made_set(classes=50, each=40)
    shown = np.bincount(one.split.labels[chosen(one, 600)], minlength=50)
    assert shown.min() >= (600 - 240) // 50


def test_confusions_are_counted_from_all_images():
    one = made_set(3, 4)
    predicted = np.array([1, 1, 2, 0, 1, 0, 0, 2, 2, 2, 2, 2])
    assert confusions(one, predicted) == [[[1, 2], [2, 1]], [[0, 2], [2, 1]], []]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 200))
def test_a_small_set_leaves_its_share_to_the_others(sizes, whole):
    found = shares(sizes, whole)
    assert all(1 <= mine <= size for mine, size in zip(found, sizes, strict=True))
    assert sum(found) == max(min(whole, sum(sizes)), min(len(sizes), sum(sizes))) or sum(found) <= max(whole, len(sizes))
    if whole >= sum(sizes):
        assert found == sizes


def test_thumbnails_keep_to_their_budget(tmp_path):
    draw = np.random.default_rng(0)
    split = Split(np.zeros(40, int), draw.integers(0, 255, (40, 90, 90, 3), np.uint8))
    wanted = [(split, i) for i in range(40)]
    large, unread, pixels = thumbnails(wanted, 10**9)
    assert (len(large), unread, pixels) == (40, 0, SIZES[0][0])
    for share in (0.6, 0.3, 0.05):
        found, _, size = thumbnails(wanted, budget := int(share * sum(map(len, large))))
        assert sum(map(len, found)) <= budget and size < pixels
    assert 0 < len(found) < 40
    Image.new("RGB", (300, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    files = Split(np.zeros(2, int), None, [str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    found, unread, _ = thumbnails([(files, 0), (files, 1)], 10**6)
    assert found[0] and not found[1] and unread == 1


@pytest.mark.slow
def test_ten_thousand_images_stay_under_thirty_megabytes(tmp_path):
    """Of noise, which no format makes small."""
    one = made_set(classes=100, each=100, runs=4)
    noise = np.random.default_rng(1).integers(0, 255, (10_000, 64, 64, 3), np.uint8)
    split = Split(one.split.labels, noise)
    save_gallery(tmp_path / "g.html", "Noise", [AnsweredSet(one.data, split, "noise", one.answers)])
    assert (tmp_path / "g.html").stat().st_size < 30e6


def test_bad_input_is_one_line(results, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(results, other, ignore=shutil.ignore_patterns("checkpoints"), symlinks=True)
    table = run_folder(other, RUNS[0]) / "predictions.parquet"
    words = ["gallery", RUNS[0], "--results", str(other), "--out", str(tmp_path / "g.html")]
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    assert main(words) == 1 and f"score {RUNS[0]} again" in capsys.readouterr().err
    table.unlink()
    assert main(words) == 1 and "evaluate it first" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "g.pdf")]) == 1 and not (tmp_path / "g.html").exists()
    words = ["gallery", "--study", "report", "--config", "demo", "--results", str(tmp_path / "none")]
    assert main([*words, "--out", str(tmp_path / "g.html")]) == 1 and "has no evaluated run" in capsys.readouterr().err
    with pytest.raises(PelError, match=r"--images 0: expected 1 or more"):
        save_gallery(tmp_path / "g.html", "x", [made_set()], images=0)
    assert page_html("t", [])
    page = page_html("t", [], notices=["DRY RUN", NASTY])
    assert '<p class="notice">DRY RUN</p>' in page and NASTY not in page


def test_a_run_named_by_its_folder_leaves_no_place_in_the_page(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["gallery", str(run_folder(results, RUNS[0])), "--out", "g.html"]) == 0  # nor has --results to be said
    assert str(results) not in (tmp_path / "g.html").read_text() and RUNS[0] in (tmp_path / "g.html").read_text()


def test_what_numbers_of_a_demo_mean_is_said():
    spec = RunSpec.parse("mine.clip-mini.ln.s0")
    assert demo_notice(spec).startswith("Dry run") and notice(spec) == [f"\n**{demo_notice(spec)}**"]
    assert demo_notice(RunSpec.parse("demo-imagenet.clip-mini.ln.s0")).startswith("Demo")
    assert demo_notice(RunSpec.parse("cifar100-ir100.clip-b16.ln.s0")) == "" and not notice(RunSpec.parse("mine.clip-b16.ln.s0"))
