"""Notes of data preparation: kept beside the prepared data, and told on screen, under tables and in the report."""

from pathlib import Path

import numpy as np
import pytest
from fake_results import write_results
from own_trees import draw, fill, make
from real_trees import imagenet
from safetensors.numpy import save_file

from pel_core.cli.main import main
from pel_core.cli.study_commands import show_text
from pel_core.common.errors import PelError
from pel_core.common.files import write_json, write_text
from pel_core.data.datasets import open_prepared
from pel_core.ingest.notes import data_notes, notes_footnote, read_notes, without_place, write_notes
from pel_core.ingest.prepare import prepare
from pel_core.reporting.html_report import report_html
from pel_core.reporting.tables import table_files
from pel_core.studies.status import status
from pel_core.studies.study import load

NOTE = "a <b>note</b> on *classes*, [such](javascript:alert(1)) as `x_y`"


def test_they_are_the_lines_of_a_source_that_are_notes(tmp_path):
    write_notes(tmp_path, ["found: 3 classes", "note: one", "note: note: two"])
    assert read_notes(tmp_path) == []  # nothing is prepared, or a preparation was cut off
    write_json(tmp_path / "data.json", {})
    assert read_notes(tmp_path) == ["one", "note: two"]
    assert read_notes(tmp_path / "of an earlier version") == []
    (tmp_path / "notes.json").write_text("{")
    with pytest.raises(PelError, match=r"notes\.json"):
        read_notes(tmp_path)


def test_preparing_again_keeps_the_notes_of_what_is_there_now(tmp_path):
    root = fill(tmp_path / "root", {"cat": 4, "dog": 4})
    draw(root / "loose.png")
    make(root)
    assert read_notes(tmp_path / "out")[0] == "left out: 1 image beside the class folders"
    (root / "loose.png").unlink()
    make(root)
    assert read_notes(tmp_path / "out") == ["held out of every class: 20 % for test (split_seed 0)"]


def test_a_published_data_set_without_anything_odd_has_none(tmp_path):
    tree = imagenet(tmp_path / "tree", side=8)
    prepare(tree.base, tmp_path / "out", tree.config)
    assert open_prepared(tmp_path / "out", tree.base) and read_notes(tmp_path / "out") == []


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Results of two data sets, one of which has notes."""
    monkeypatch.chdir(tmp_path)
    table = (
        "title: T, where: {{method: zero-shot, dataset: {}}}, rows: [{{label: Zero}}], columns: [{{label: All, value: overall}}]"
    )
    tables = "".join(f"  {name}: {{{table.format(role)}}}\n" for name, role in (("noted", "one-ir20"), ("plain", "two-ir20")))
    (tmp_path / "study.yaml").write_text(f"title: S\nroles: {{one: One, two: Two}}\ntables:\n{tables}")
    data = "data: {one: toy, two: demo-cifar}\n"
    (tmp_path / "config.yaml").write_text(f"title: C\nbackbone: toy\nseeds: [0]\n{data}")
    made = load("study.yaml", "config.yaml")
    write_results(made.results, made.specs)
    for base, lines in (("toy", [f"note: {NOTE}", "note: another"]), ("demo-cifar", [])):
        write_notes(made.results / "data" / base, lines)
        write_json(made.results / "data" / base / "data.json", {})
    return made


def test_they_are_told_where_people_look(study, capsys):
    for name in ("noted", "plain"):
        for suffix, text in table_files(study, name).items():
            write_text(study.results / "tables" / f"{name}.{suffix}", text)
    lines = ["Notes on the data set toy:", f"  - {NOTE}", "  - another"]
    for text in (show_text(study), status(study)):
        assert "\n".join(lines) in text and "data set demo-cifar" not in text
    assert "data/toy/notes.json" not in show_text(study)  # the footnote is for who has the table alone
    for arguments in (["show"], ["status"]):
        main([*arguments, "--study", "study.yaml", "--config", "config.yaml"])
        assert lines[1] in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["md", "tex"])
def test_a_table_says_how_many_concern_it(study, suffix):
    line = "Notes on the data, in the results folder: 2 on toy (data/toy/notes.json)."
    assert table_files(study, "noted")[suffix].count(line) == 1
    assert "Notes on the data" not in table_files(study, "plain")[suffix]


def test_the_report_has_them_in_full_as_text(study):
    for suffix, text in table_files(study, "noted").items():
        write_text(study.results / "tables" / f"noted.{suffix}", text)
    page = report_html(study, Path("report.html"))
    assert "<h3>Notes on preparing toy</h3>" in page and "<li>another</li>" in page
    assert "a &lt;b&gt;note&lt;/b&gt; on *classes*, [such](javascript:alert(1)) as `x_y`" in page
    assert 'href="javascript' not in page and "notes.json" not in page


def test_the_report_says_nothing_of_where_images_lie_on_this_machine(tmp_path):
    folder = tmp_path / "data" / "deer"
    folder.mkdir(parents=True)
    told = ["columns of /home/me/my deer: images", "first examples: /home/me/my deer/a.jpg", "/home/me/other"]
    assert without_place(told, tmp_path, "deer") == told
    write_json(folder / "root.json", {"root": "$PEL_DATA", "was": "/home/me/my deer"})
    assert without_place(told, tmp_path, "deer") == ["columns of my deer: images", "first examples: a.jpg", "/home/me/other"]


def test_what_text_features_had_to_tell_is_told_too(study):
    """`prompt_tokens`: prompts that are cut, published classes of one text."""
    path = next(files["text"] for files in map(study.prepared, study.specs) if "/demo-cifar." in files.get("text", ""))
    before = study.data_notes()
    write_text(path, "damaged")
    assert study.data_notes() == before
    save_file({"text.features": np.zeros((1, 1))}, path, {"notes": '["the texts are cut"]'})
    base = Path(path).name.split(".")[0]
    told = f"{Path(path).parent.name}: the texts are cut"
    assert study.data_notes()[base] == [*before.get(base, []), told] and told in status(study)


def test_nothing_to_say_adds_nothing(tmp_path):
    assert data_notes(tmp_path, ["toy-ir20", "demo-cifar"]) == {} and notes_footnote({}) == []
