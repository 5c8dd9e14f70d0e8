"""Your own images by one command: make study DATA=..."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from own_trees import draw, fill, write

from pel_core.cli.main import main
from pel_core.cli.study_commands import plan_text
from pel_core.common.errors import PelError
from pel_core.data.datasets import open_prepared
from pel_core.data.roots import expand_root
from pel_core.ingest.entries import declared, user_kinds
from pel_core.ingest.prepare import prepare
from pel_core.ingest.sources.lists import ListsOptions
from pel_core.studies.config import read_config
from pel_core.studies.plan import plan
from pel_core.studies.study import load, load_settings


@pytest.fixture
def tree(tmp_path) -> Path:
    return fill(tmp_path / "my images")


@pytest.fixture
def plain(monkeypatch):
    """PEL_DATA and PEL_ROOTS are put back afterwards: settings set them."""
    for name in ("PEL_DATA", "PEL_ROOTS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_the_shipped_study_on_a_folder(tree, tmp_path, plain):
    settings = {"study": "own-table", "config": "own", "root": tree, "results": tmp_path / "results"}
    study = load_settings(settings)
    assert list(study.artefacts) == ["own-table"] and {spec.backbone for spec in study.specs.values()} == {"clip-b16"}
    assert {spec.method for spec in study.specs.values()} == {
        "adaptformer", "adaptformer@6:12+vpt-shallow", "adaptformer@6:12", "adaptformer+ln"
    }  # fmt: skip
    assert all(spec.loss == "la" and spec.init == "text" for spec in study.specs.values())
    assert {spec.backbone for spec in load_settings({**settings, "backbone": "clip-mini"}).specs.values()} == {"clip-mini"}
    assert json.loads(os.environ["PEL_ROOTS"]) == {"mine": str(tree)}
    with pytest.raises(PelError, match="unknown backbone 'clip-b61'"):
        load_settings({**settings, "backbone": "clip-b61"})


@pytest.mark.parametrize("study", ["losses", "components", "epochs", "tte", "classifiers"])
@pytest.mark.parametrize("config", ["own", "own-mini"])
def test_the_ablations_run_on_ones_own_images(study, config):
    made = load(study, config)
    assert made.specs and {spec.dataset for spec in made.specs.values()} == {"mine"}


@pytest.mark.parametrize("table", [False, True])
def test_a_folder_may_be_called_anything(tmp_path, plain, monkeypatch, table):
    """``DATA='~/x'`` is at home, and a dollar sign in what a variable holds is one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    tree = fill(tmp_path / "$HOME/it's 100% $mine")
    rows = [[str(path.relative_to(tree)), path.parent.name] for path in sorted(tree.rglob("*.png"))]
    file = "/$labels.csv" if table else ""
    write(tree / "$labels.csv", [["path", "label"], *rows])
    if not table:
        (tree / "$labels.csv").unlink()
    monkeypatch.setenv("PEL_DATA", f"~/$HOME/it's 100% $mine{file}")
    study = load_settings({"study": "own-table", "config": "own", "results": tmp_path / "results"})
    assert json.loads(os.environ["PEL_ROOTS"]) == {"mine": str(tree)}
    prepare("mine", tmp_path / "out", study.config)
    made = open_prepared(tmp_path / "out", "mine")
    assert len(made.train.labels) + len(made.test.labels) == len(rows) == 16
    assert main(["data", "describe", "mine", "--config", "own", "--root", f"{tree}{file}", "--results", str(tmp_path / "r")]) == 0
    assert (tmp_path / "r/figures/mine-classes.pdf").is_file()


def test_a_folder_that_may_be_two_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("X", "there")
    assert expand_root(f"{tmp_path}/$X") == f"{tmp_path}/there"
    (tmp_path / "$X").mkdir()
    assert expand_root(f"{tmp_path}/$X") == f"{tmp_path}/$X"
    (tmp_path / "there").mkdir()
    with pytest.raises(PelError, match="both are there"):
        expand_root(f"{tmp_path}/$X")
    for text in ("$NO_SUCH_VARIABLE/x", "a$ b", "${"):
        with pytest.raises(PelError, match="names an environment variable that is not set"):
            expand_root(text)


def test_describe_reads_the_images_that_are_named(tmp_path, capsys, monkeypatch):
    """And not what an earlier study of other images left in results/."""
    monkeypatch.chdir(tmp_path)
    for classes in ({"a": 5, "b": 25}, {"a": 10, "b": 5, "c": 5}):
        root = str(fill(tmp_path / f"{len(classes)}", classes))
        assert main(["data", "describe", "mine", "--config", "own", "--root", root, "--out", "figures"]) == 0
        total, most = sum(classes.values()) * 4 // 5, max(classes.values()) * 4 // 5
        assert f"mine: {total} training images, {len(classes)} classes, {most} to 4 each" in capsys.readouterr().out
    assert Path("figures/mine-classes.pdf").is_file() and not Path("results").exists()
    assert main(["data", "describe", "mine", "--config", "own", "--root", "nowhere"]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err


def test_check_lists_all_that_is_wrong_by_kind(tree, capsys):
    words = ["data", "check", "mine", "--config", "own", "--root", str(tree), "--check-images"]
    for name in ("red_deer/001.png", "red_deer/004.png", "Зубр/002.png"):
        (tree / name).write_text("no image")
    (tree / "Зубр/003.png").write_bytes(b"")
    assert main([*words, "all"]) == 1
    told = capsys.readouterr()
    assert "1 x empty files" in told.out and "3 x images that cannot be decoded" in told.out
    assert all(name in told.out for name in ("red_deer/001.png", "red_deer/004.png", "Зубр/002.png", "Зубр/003.png"))
    assert told.err.count("\n") == 1 and "1 x empty files, 3 x images" in told.err
    with pytest.raises(PelError, match=r"data set 'mine': .*003\.png.* \(1 x empty files, 3 x images that cannot be decoded"):
        prepare("mine", tree.parent / "out", {"datasets": {"mine": {"kind": "folders", "root": str(tree)}}}, "all")
    assert not (tree.parent / "out/data.json").exists()


def test_a_folder_that_holds_the_table_of_its_images(tmp_path):
    draw(tmp_path / "scans/1.png")
    table = write(tmp_path / "my list.csv", [["path", "label"], ["scans/1.png", "a"]])
    with pytest.raises(PelError, match=f"if {table} is the table of these images, give that"):
        prepare("mine", tmp_path / "out", {"datasets": {"mine": {"kind": "auto", "root": str(tmp_path)}}})


def test_a_plan_sees_images_that_changed_or_are_gone(tree, tmp_path, plain):
    settings = {"study": "own-table", "config": "own", "results": tmp_path / "results", "root": tree}
    study = load_settings(settings)
    prepare("mine", tmp_path / "results/data/mine", study.config)
    assert "But " not in plan(study)
    draw(tree / "red_deer/new.png", 77)
    assert "But the images of mine are not those that" in plan(study)
    shutil.rmtree(tree)
    assert "But `make study` will not start: data set 'mine': " in plan(study)


def test_without_data_the_error_says_how(plain):
    with pytest.raises(PelError, match=r"by --root PATH .make study DATA=PATH"):
        load_settings({"study": "own-table", "config": "own"})


def test_a_root_that_was_said_is_not_looked_for_in_the_configuration(tmp_path, plain):
    with pytest.raises(PelError, match=r"nothere does not exist; say where the images are by --root PATH"):
        load_settings({"study": "own-table", "config": "own", "root": tmp_path / "nothere"})
        prepare("mine", tmp_path / "data", read_config(Path("workflow/config/own.yaml")))


def test_a_miniature_backbone_on_a_configuration_for_a_large_one_is_said(tree, tmp_path, plain):
    """The settings stay as they were asked for: 10 epochs, no mark."""
    asked = {"study": "own-table", "root": tree, "results": tmp_path / "results"}
    assert "--config own-mini" in plan_text(load_settings({**asked, "config": "own", "backbone": "clip-mini"}))
    copy = tmp_path / "copied.yaml"  # another configuration, to whose data own-mini does not fit
    shutil.copy(Path("workflow/config/own.yaml"), copy)
    told = plan_text(load_settings({**asked, "config": copy, "backbone": "clip-mini"}))
    assert "is a miniature backbone" in told and "own-mini" not in told
    for settings in ({"config": "own-mini"}, {"config": "own"}):
        assert "--config own-mini" not in plan_text(load_settings({**asked, **settings}))


def test_other_images_do_not_slip_into_the_same_results(tree, tmp_path, plain):
    settings = {"study": "own-table", "config": "own", "results": tmp_path / "results"}
    first = load_settings({**settings, "root": tree})
    prepare("mine", tmp_path / "results/data/mine", first.config)
    before = first.data_params("mine")
    moved = tree.rename(tmp_path / "moved")
    assert load_settings({**settings, "root": moved}).data_params("mine") == before
    draw(moved / "red_deer/one more.png")
    other = fill(tmp_path / "other", {"x": 3, "y": 3})
    with pytest.raises(PelError, match=r"was prepared from .*my images, and .*other holds other images.*RESULTS="):
        load_settings({**settings, "root": other})
    load_settings({**settings, "root": other, "results": tmp_path / "results-2"})
    moved.rename(tree)  # where it was: the same data set with an image more, which Snakemake prepares again
    assert load_settings({**settings, "root": tree}).data_params("mine") != before


def test_the_configurations_in_the_docs_are_possible(tmp_path):
    text = (Path(__file__).parents[2] / "docs/own-data.md").read_text(encoding="utf-8")
    examples = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    for example, study in zip(examples, ("own-table", "own-table", "report"), strict=True):
        (tmp_path / "my.yaml").write_text(example)
        assert load(study, tmp_path / "my.yaml").specs
    other = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    of_lists = {*ListsOptions.model_fields} - {"root", "exclude"}
    for key in {key for source in user_kinds().values() for key in source.Entry.model_fields} - of_lists:
        assert f"`{key}`" in text + other, f"neither docs/own-data.md nor docs/data.md says what {key} is"
    for example in [part.split("```")[0] for part in other.split("```yaml\n")[1:]]:
        if "datasets:" in example:
            (tmp_path / "my.yaml").write_text(example)
            assert declared(read_config(tmp_path / "my.yaml"))


STUDY = """
title: Small
roles: {own: Mine}
tables:
  small:
    title: "{own}"
    where: {dataset: own, method: adaptformer}
    rows: [{label: As found, dataset: own}, {label: Drawn, dataset: own-ir2}]
    columns: [{label: Overall, value: overall}, {label: Head, value: head}, {label: Tail, value: tail}]
"""
CONFIG = """
title: Toy
backbone: toy
seeds: [0]
data: {own: mine}
datasets:
  mine: {kind: auto, root: $PEL_DATA, profile: step, ratios: [2]}
recipe: {epochs: 1, precision: fp32}
resources: {threads: 1, mem_mb: 1000, runtime: 5}
"""


@pytest.mark.slow
def test_from_a_table_of_images_to_a_table_of_numbers(tree, tmp_path):
    """As a person runs it: a name with a space, quotes and a semicolon, labels in another script, then images that moved."""

    rows = [[str(path.relative_to(tree)), path.parent.name] for path in sorted(tree.rglob("*.png"))]
    write(tree / "my; labels.csv", [["path", "label"], *rows])
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "config.yaml").write_text(CONFIG)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "snakemake", "-s", str(root / "Snakefile"), "--cores", "2", "--resources", "gpu=2"]
    command += [
        "--workflow-profile",
        str(root / "workflow/profiles/default"),
        "--config",
        "study=study.yaml",
        "config=config.yaml",
    ]

    def snakemake(data: Path, *words: str) -> str:
        environment = {**os.environ, "PEL_DATA": os.path.relpath(data, tmp_path)}
        done = subprocess.run([*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    snakemake(tree / "my; labels.csv")
    text = (tmp_path / "results/tables/small.md").read_text()
    assert "As found" in text and "–" in text and "Head: none, no class is in this group (more than 100 training images)" in text
    moved = tree.rename(tmp_path / "it's $moved 100%")
    assert "Nothing to be done" in snakemake(moved / "my; labels.csv", "-n")
