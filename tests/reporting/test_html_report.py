"""`make report`: one HTML page from made-up results, that needs nobody, says what is missing, and whose links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from fake_results import write_results

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_bytes, write_json, write_text
from pel_core.reporting.html_report import report_html, save_report
from pel_core.reporting.html_text import LARGEST, address, markdown_html, picture
from pel_core.reporting.runs_table import run_row, runs_files
from pel_core.spec.records import data_name, data_sets
from pel_core.spec.results import METRICS, metrics_file, run_folder
from pel_core.studies.study import Study, load

ROOT = Path(__file__).parents[2]
STUDY = """
title: Small
roles: {small: Toy}
tables:
  t1:
    title: One <b>table</b>
    where: {dataset: small-ir20}
    rows: [{label: PEL, method: adaptformer}, {label: Zero, method: zero-shot}]
    columns: [{label: All, value: overall}]
figures:
  f1: {kind: bars, title: Bars, where: {dataset: small-ir20, value: overall}, bars: [{label: PEL, method: adaptformer}]}
claims:
  c1:
    statement: PEL is better than zero-shot
    parts: [{a: {method: adaptformer}, b: {method: zero-shot}, over: [{dataset: small-ir20}], value: overall, expect: higher}]
"""
PARTS = ("question", "tables", "figures", "claims", "recipe", "data", "runs", "environment")
CONFIG = "title: Toy\nmark: TOY\nnotice: Made up\ncomparable: false\nbackbone: toy\nseeds: [0, 1]\ndata: {small: toy}\n"


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """A finished study with made-up results; Snakemake finds every file that a job would have made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "config.yaml").write_text(CONFIG)
    made = load("study.yaml", "config.yaml")
    for slug in made.specs:
        for kind in ("backbone", "vit", "data", "text"):  # oldest first
            if (path := made.prepared(slug).get(kind)) and not Path(path).exists():
                write_json(path, {}) if path.endswith("json") else write_bytes(path, b"x")
    for slug, spec in made.specs.items():
        if spec.trains:
            write_bytes(made.delta(slug), b"x")
            write_json(run_folder("results", spec.train.slug) / "train.json", {})
    write_results(made.results, made.specs)
    return made


class Read(HTMLParser):
    """What a page holds: every address by tag, ids, and tags that were not closed."""

    def __init__(self, text: str):
        super().__init__()
        self.addresses, self.ids, self.open = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.addresses += [(tag, found[name]) for name in ("href", "src", "srcset", "action") if name in found]
        self.ids |= {found["id"]} if "id" in found else set()
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def draw(study: Study) -> None:
    """Every artefact, and the table of all runs."""
    for name, artefact in study.artefacts.items():
        artefact.how.draw(study, name, study.folder(name))
    for suffix, text in runs_files(study).items():
        write_text(study.results / f"provenance.{suffix}", text)


def snakemake(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "page", "-s", str(ROOT / "Snakefile"), "--cores", "2", *words]
    command += ["--workflow-profile", str(ROOT / "workflow/profiles/default")]
    command += ["--rerun-triggers", "mtime", "--config", "study=study.yaml", "config=config.yaml"]
    if shutil.which("unshare") and not subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        command = ["unshare", "-rn", *command]  # a network of its own, with nobody in it
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    )


@pytest.mark.slow
def test_snakemake_makes_the_page_after_the_runs(study):
    for path in study.results.glob("runs/**/*"):
        if path.name in ("metrics.json",):
            for name in ("predictions.parquet", "confusion.csv", "classes.csv", "logits.safetensors"):
                write_bytes(path.parent / name, b"x, whole as far as its end tells: PAR1")
    done = snakemake("--resources", "gpu=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rule train" not in done.stdout + done.stderr
    page = (study.results / "report.html").read_text(encoding="utf-8")
    assert "Every run has a result" in page and 'id="t1"' in page
    assert (study.results / "provenance.csv").is_file()


def test_the_page_holds_everything_and_needs_nobody(study):
    draw(study)
    page = report_html(study, Path("report.html"))
    read = Read(page)
    assert not read.open and "Every run has a result" in page and "What is not here" not in page
    order = [page.index(f'<section id="{name}"') for name in PARTS]
    assert order == sorted(order)
    for tag, where in read.addresses:  # nothing of another place, and what is linked is there
        if where.startswith("#"):
            assert where[1:] in read.ids
        elif where.startswith("data:image/svg+xml;base64,"):
            assert tag == "img"
        else:
            assert tag == "a" and ":" not in where.split("/")[0] and Path(unquote(where)).exists(), where
    folders = [unquote(where) for tag, where in read.addresses if where.startswith("results/runs/")]
    assert len(folders) == len(study.specs)
    assert page.count("Recipe: ") == 0 and page.count("Made up</p>") == 1 and "[TOY] One &lt;b&gt;table&lt;/b&gt;" in page
    assert "<figcaption>Mean over n = 2 seeds, " in page and page.count("<figcaption>") == 1
    assert re.search(r'PEL is better than zero-shot: <strong class="verdict [a-z-]+">', page)
    assert "default-src 'none'" in page and len(page) < 1_000_000
    assert page == report_html(study, Path("report.html"))


def test_links_are_relative_to_where_the_page_lies(study):
    draw(study)
    main(["report", "--study", "study.yaml", "--config", "config.yaml", "--out", "my pages/a.html"])
    links = [where for tag, where in Read(Path("my pages/a.html").read_text(encoding="utf-8")).addresses if tag == "a"]
    assert any("/runs/" in where for where in links)
    for where in links:
        assert where[0] == "#" or (Path("my pages") / unquote(where)).exists(), where
    with pytest.raises(PelError, match=r"found report\.zip, expected a file that ends in \.html"):
        save_report(study, Path("report.zip"))


def test_what_is_missing_failed_or_of_before_is_named(study):
    draw(study)
    lost, failed, *_ = [slug for slug in study.specs if "adaptformer" in slug]
    metrics_file(study.results, lost).unlink()
    metrics_file(study.results, failed).unlink()
    (run_folder(study.results, failed) / "train.json").unlink()
    write_text(study.results / "logs" / f"{failed}.train.log", f"error: {failed}: the disk is full <!\n")
    Path(study.files("f1")[1]).unlink()
    page = report_html(study, Path("report.html"))
    assert not Read(page).open and "2 runs of 4 without a result" in page
    assert f"<code>{lost}</code> <strong>to be evaluated</strong>: make it with: snakemake" in page
    assert f"<code>{failed}</code> <strong>failed</strong>: error: the disk is full &lt;!" in page
    assert "1 of 4 runs to be evaluated, 1 failed: named under" in page
    assert "Drawn before the study or its results changed" in page
    assert "Not made yet: f1" in page and '<section class="artefact" id="f1">' in page


def test_without_any_result_there_is_a_page_that_says_so(study):
    shutil.rmtree(study.results)
    page = report_html(study, Path("report.html"))
    assert not Read(page).open and "4 runs of 4 without a result" in page and "No run has a result yet." in page
    assert page.count("Not made yet: ") == 3


def test_runs_of_other_data_are_named(study):
    draw(study)
    path = metrics_file(study.results, list(study.specs)[-1])
    record = read_json(path)
    write_json(path, record | {"data": record["data"] | {"sha256": "1" * 64}})
    page = report_html(study, Path("report.html"))
    assert "were made from different data" in page and page.index("were made from different data") < page.index("<h2>Tables")


def test_a_large_drawing_is_shown_as_its_png(tmp_path):
    svg, png = tmp_path / "a.svg", tmp_path / "a.png"
    svg.write_bytes(b"<svg/>")
    png.write_bytes(b"png")
    assert picture(svg).startswith("data:image/svg+xml;base64,")
    svg.write_bytes(b" " * (LARGEST + 1))
    assert picture(svg).startswith("data:image/png;base64,")
    png.unlink()
    assert picture(svg).startswith("data:image/svg+xml;base64,")


@pytest.mark.parametrize("name", ["a b", "loss=ce", "adaptformer@6:12", "#1", "50%", "javascript:x", "é日"])
def test_an_address_leads_to_the_folder(tmp_path, name):
    where = address(tmp_path / "runs" / name, tmp_path / "report.html")
    assert unquote(where) == f"runs/{name}" and not {" ", "#", "?", '"'} & set(where)
    assert unquote(address(tmp_path / name, tmp_path / "a.html")).removeprefix("./") == name
    assert not address(tmp_path / name, tmp_path / "a.html").startswith("javascript")


def test_a_run_says_where_it_comes_from(study):
    files = runs_files(study)
    table = pd.read_csv(pd.io.common.StringIO(files["csv"]))
    assert list(table["run"]) == list(study.specs)
    told = (
        "versions",
        "commit",
        "data_sha256",
        "backbone_sha256",
        "device",
        "version_torch",
        "train_seconds",
        "evaluate_seconds",
    )
    assert {*told, *METRICS} <= set(table.columns)
    assert files["md"].count("\n| toy-ir20") == len(study.specs) and "000000000000 |" in files["md"]


def test_a_run_that_trains_nothing_has_no_training_time(study):
    row = run_row({"slug": "x", "engine": 1, "data": {}, "backbone": {}, "metrics": {}, "training": None, "environment": None})
    assert row["train_seconds"] is None and row["overall"] is None


def test_the_marks_of_a_table_are_marks():
    page = markdown_html("| a |\n|---:|\n| <u>78.8</u> ± 0.1 |\n| **1** <b>2</b> <u onclick=x>3</u> |\n")
    assert '<td class="number"><u>78.8</u> ± 0.1</td>' in page and "<strong>1</strong> &lt;b&gt;2" in page and "<u on" not in page


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a | b", "**bold**", "[link](javascript:alert(1))", "&amp;"])
def test_a_name_stays_text(name):
    page = markdown_html(f"| a |\n| --- |\n| {name} |\n\n### {name}: **{name}**\n")
    assert "<script" not in page and 'href="javascript' not in page
    assert '<div class="wide" tabindex="0"><table>' in page and "<h4>" in page


def test_numbers_on_other_images_take_no_data_set_s_place():
    own = {"data": {"name": "imagenet-lt"}}
    other = {**own, "test_set": {"name": "imagenet-a"}}
    assert [data_name(own), data_name(other)] == ["imagenet-lt", "imagenet-lt on imagenet-a"]
    assert data_sets([own, other, own]) == ["imagenet-lt", "imagenet-a"]
