"""`pel.study`: cells as a frame, tables and figures to show, what is missing with the command that makes it."""

import math
import shlex

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from fake_results import write_results
from matplotlib.figure import Figure

import pel_core as pel
from pel_core.common.files import read_json, write_json
from pel_core.reporting.tables import table_files
from pel_core.spec.results import metrics_file, run_folder
from pel_core.studies.study import load


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_results(folder, load("report", "demo", seeds="0,1", results=folder).specs)
    return folder


@pytest.fixture
def found(results):
    return pel.study("report", "demo", seeds=[0, 1], results=results)


def test_cells_are_the_numbers_of_the_results(found, results):
    frame = found.cells
    assert found.missing == {} and not frame["mean"].isna().any() and set(frame["n"]) == {2}
    table = frame[frame["artefact"] == "table1"].set_index(["row_label", "column_label"])
    one = table.loc[("Original PEL", "100")]
    values = [read_json(metrics_file(results, slug))["metrics"]["overall"] for slug in one["runs"]]
    assert one["mean"] == pytest.approx(sum(values) / 2) and one["metric"] == "overall" and one["seeds"] == [0, 1]
    assert one["std"] == pytest.approx(pd.Series(values).std())
    assert set(frame["artefact"]) >= {"table1", "figure3", "claims", "compare"}


def test_a_table_is_the_one_that_is_printed(found):
    assert "table1" in found.tables and "figure3" not in found.tables
    frame = found.table("table1")
    assert list(frame["Method"]) == ["Original PEL", "VPT-S+Partial", "Partial", "LN+AdaptFormer"]
    assert "table1" in table_files(found.study, "table1")["md"] and frame["100"].dtype == "float64"
    with pytest.raises(pel.PelError, match=r"unknown artefact 'tabel1'.*Did you mean 'table1'"):
        found.table("tabel1")
    with pytest.raises(pel.PelError, match=r"unknown table 'figure3'.*figure3 is of the kind bars"):
        found.table("figure3")


def test_a_figure_is_matplotlib_s_own_and_leaves_the_caller_s_alone(found, tmp_path):
    mine = plt.figure()
    plt.rcParams["font.size"] = 23
    before = matplotlib.get_backend()
    try:
        shown = found.figure("figure3")
        assert plt.get_fignums() == [mine.number] and plt.rcParams["font.size"] == 23 and matplotlib.get_backend() == before
    finally:
        plt.rcParams["font.size"] = matplotlib.rcParamsDefault["font.size"]
        plt.close(mine)
    assert isinstance(shown.figure, Figure) and shown.figure.axes and shown.title in repr(shown)
    shown.figure.axes[0].set_ylabel("changed")
    shown.figure.savefig(tmp_path / "mine.png")
    html = shown._repr_html_()
    assert html.startswith('<img src="data:image/') and shown.caption[:40] in html and len(shown.caption) > 40
    assert {"figure2", "figure3"} <= set(found.figures)


def test_what_is_missing_is_named_with_the_command(found, results, tmp_path):
    slug = "demo-cifar-ir100.clip-mini.adaptformer.s1"
    write_results(tmp_path, {other: spec for other, spec in found.study.specs.items() if other != slug})
    less = pel.study("report", "demo", seeds=[0, 1], results=tmp_path)
    assert less.missing.keys() == {slug} and less.missing[slug].startswith("missing: make it with")
    words = shlex.split(less.command)
    assert words[0] == "snakemake" and {"study=report", "config=demo", "seeds=0,1", f"results={tmp_path}"} <= set(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEL_SPELLING", "pel")
        assert less.command == f"pel run --study report --config demo --seeds 0,1 --results {shlex.quote(str(tmp_path))}"
    cell = less.cells[less.cells["runs"].map(lambda runs: slug in runs)].iloc[0]
    assert math.isnan(cell["mean"]) and cell["missing"] == "missing (1 of 2)"
    for text in (repr(less), less._repr_html_()):
        assert f"Missing: {slug}" in text and "To make what is missing" in text
    assert "make it with" not in repr(less)
    assert "missing (1 of 2)" in less._repr_html_()
    assert less.table("table1")["100"].isna().sum() == 1
    empty = pel.study("report", "demo", seeds=[0, 1], results=tmp_path / "none")
    assert (
        len(empty.missing) == len(empty.study.specs) and empty.cells["mean"].isna().all() and "<table" not in empty._repr_html_()
    )
    with pytest.raises(pel.PelError, match=r"figure3: none of its .* runs has a result; make them with: snakemake"):
        empty.figure("figure3")


def test_a_notebook_shows_a_summary_with_tables(found):
    html = found._repr_html_()
    assert "<table>" in html and "Original PEL" in html and "DEMO" in html and "Missing" not in html
    assert repr(found).startswith("The report's") or found.title in repr(found)


def test_runs_of_other_data_are_in_no_mean(found, results, tmp_path):
    write_results(tmp_path, found.study.specs)
    path = run_folder(tmp_path, "demo-cifar-ir100.clip-mini.adaptformer.s1") / "metrics.json"
    record = read_json(path)
    write_json(path, record | {"data": record["data"] | {"sha256": "1" * 64}})
    other = pel.study("report", "demo", seeds=[0, 1], results=tmp_path)
    with pytest.raises(pel.PelError, match="were made from different data"):
        _ = other.cells
    assert "is not shown" in other._repr_html_()


def test_slips():
    with pytest.raises(pel.PelError, match="unknown study or config 'reprot'"):
        pel.study("reprot")
    with pytest.raises(pel.PelError, match="seeds="):
        pel.study(seeds="a")
