"""``pel init``: what it writes loads as a study, and it writes all of it or nothing."""

import subprocess
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pel_core.cli import init_command
from pel_core.cli.main import main
from pel_core.studies.study import load


def error(capsys) -> str:
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of class folders, with a name that YAML could misread."""
    root = tmp_path / "my: #images 'of' \"cats\" $HOME"
    for name, count in (("red deer", 6), ("wolf", 4)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (40, 30), (number * 20, 0, 0)).save(root / name / f"{number}.png")
    return root


def test_the_folder_is_a_study_on_the_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "my: study"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "Then: cd 'my: study'; python -m pel_core plan; python -m pel_core run; python -m pel_core report"
    )
    monkeypatch.chdir("my: study")
    assert sorted(path.name for path in Path().iterdir()) == [".gitignore", "config.yaml", "study.yaml"]
    study = load("study.yaml", "config.yaml")
    assert study.title == "my: study" and not study.left_out and len(study.specs) == 4
    for name in ("study.yaml", "config.yaml"):
        assert Path(name).read_text().startswith("# What") and Path(name).read_text().count("#") > 4  # commented
    # Without words, commands mean the study of this folder.
    assert main(["plan"]) == 0
    assert "my: study: study.yaml on config.yaml (The embedded demo)" in capsys.readouterr().out


def test_git_ignores_what_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "."]) == 0
    for name in ("results/a", "results-dry/a", "figures/a", ".snakemake/a", "report.html"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    subprocess.run(["git", "init", "-q", "."], check=True)
    told = subprocess.run(["git", "status", "--short"], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["??", ".gitignore", "??", "config.yaml", "??", "study.yaml"]


@pytest.mark.parametrize(("backbone", "size"), [("clip-b16", "full"), ("clip-mini", "small"), ("clip-b61", "")])
def test_images_of_ones_own_are_looked_at_first(images, tmp_path, monkeypatch, capsys, backbone, size):
    monkeypatch.chdir(tmp_path)
    status = main(["init", "mine", "--data", images.name, "--backbone", backbone])
    if not size:  # no such backbone
        assert status == 1 and "backbone" in error(capsys) and not Path("mine").exists()
        return
    assert status == 0
    monkeypatch.chdir("mine")
    config = yaml.safe_load(Path("config.yaml").read_text())
    assert config["datasets"]["mine"]["root"] == str(images) and config["backbone"] == backbone
    assert config.get("size", "full") == size
    assert "# folders: 2 classes, images: 8 train, 2 test" in Path("config.yaml").read_text()
    study = load("study.yaml", "config.yaml")
    assert {spec.dataset for spec in study.specs.values()} == {"mine"} and study.check_sources() is None


def test_a_folder_with_files_is_left_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("there/notes.txt", "there/.hidden", "a file"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("mine")
    assert main(["init", "there"]) == 1 and "there holds .hidden, notes.txt; name a folder" in error(capsys)
    assert main(["init", "a file"]) == 1 and "is a file" in error(capsys)
    for data, told in (("nowhere", "nowhere does not exist"), ("there", "there"), ("a file", "is a file, expected a folder")):
        assert main(["init", "new", "--data", data]) == 1
        text = error(capsys)
        assert text.startswith(f"error: --data {data}: ") and told in text
        assert "data set 'mine'" not in text and "configuration" not in text, "there is none yet"
    assert main(["init", "new", "--backbone", "clip-l14"]) == 1 and "say by --data" in error(capsys)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".hidden", "a file", "notes.txt", "there"]


def test_a_key_that_is_asked_for_has_a_place(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text("file,species\na.png,wolf\n")
    assert main(["init", "new", "--data", "table.csv"]) == 1
    told = error(capsys)
    assert told.startswith("error: --data table.csv: unknown column") and "Such a key (image_column) stands in a config" in told
    assert "start with `python -m pel_core init FOLDER` without --data" in told
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("hub:", "expected hub:OWNER/NAME as on the hub, found ''"),
        ("hub:a/b/c", "expected hub:OWNER/NAME as on the hub, found 'a/b/c'"),
        ("hub:a/b@main", "the revision is 'main', expected a commit, 40 hex digits"),
        ("hub:there", "may be a path that is there or a data set of the hub; for the path write ./hub:there"),
        (
            "hub:a/b",
            "the last commit of the data set a/b of the hub could not be asked for (HF_HUB_OFFLINE is set); say the commit",
        ),
    ],
)
def test_what_is_no_data_set_of_the_hub(tmp_path, monkeypatch, capsys, data, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("hub:there").mkdir()
    assert main(["init", "new", "--data", data]) == 1 and told in error(capsys)
    assert not Path("new").exists()


def test_nothing_half_written_stays(tmp_path, monkeypatch, capsys):
    write = init_command.write_text

    def full(path, text):
        if path.name == ".gitignore":
            raise OSError(28, "No space left on device", str(path))
        write(path, text)

    monkeypatch.setattr(init_command, "write_text", full)
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for name in ("new", "deep/new", "empty"):
        assert main(["init", name]) == 1 and "No space left" in error(capsys)
    assert not Path("new").exists() and not Path("deep").exists() and not list(Path("empty").iterdir())


def test_a_value_that_looks_like_a_placeholder_is_a_value():
    assert init_command.filled("a ROOT b FOUND", {"ROOT": '"FOUND"', "FOUND": "x"}) == 'a "FOUND" b x'
