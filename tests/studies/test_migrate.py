"""Evaluations of before move into the folder of their training: once, whatever happens on the way, and nothing is lost."""

import os
from pathlib import Path

import pytest

from pel_core.spec.results import result_files, run_folder, slug_of
from pel_core.studies.migrate import migrate

TRAIN = "toy-ir20.toy.ln.s0.epochs=1"
OLD = [
    f"{TRAIN}.tte=none",
    f"{TRAIN}.tte=randaug.crops=3",
    f"{TRAIN}.split=val.eval_precision=bf16",
    "toy.toy.zero-shot.s0.expand=4",
]


@pytest.fixture
def results(tmp_path) -> Path:
    for name in (TRAIN, *OLD):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "metrics.json").write_text(name)
    return tmp_path


def content(results: Path) -> dict[str, str]:
    return {slug_of(path.parent): path.read_text() for path in result_files(results)}


@pytest.mark.parametrize("slug", [TRAIN, *OLD])
def test_a_folder_and_its_run_name_each_other(slug, tmp_path):
    assert slug_of(run_folder(tmp_path, slug)) == slug
    assert slug_of(run_folder("", slug).relative_to("runs")) == slug


def test_options_of_the_training_stay_in_its_name(tmp_path):
    """Also where a knob is called as an option of evaluation is; a mode's own knobs go with it."""
    slug = "toy-ir20.toy.ln.s0.lr=0.5.augment.crops=2.loss.tau=1e-05.tte=grid.tte.expand=2"
    folder = run_folder(tmp_path, slug)
    assert (folder.parent.name, folder.name) == (
        "toy-ir20.toy.ln.s0.lr=0.5.augment.crops=2.loss.tau=1e-05",
        "tte=grid.tte.expand=2",
    )
    assert slug_of(folder) == slug and slug_of(run_folder(tmp_path, f"{TRAIN}.tte.rings=2")) == f"{TRAIN}.tte.rings=2"
    assert run_folder(tmp_path, "my notes.tte=none") == tmp_path / "runs" / "my notes.tte=none"


def test_every_evaluation_moves_once(results):
    (results / "runs" / "notes").mkdir()
    changed = (results / "runs" / OLD[0] / "metrics.json").stat().st_mtime_ns
    assert migrate(results) == ["results of an earlier version: 4 evaluations moved into the folders of their trainings"]
    assert sorted(path.name for path in (results / "runs").iterdir()) == sorted([TRAIN, "notes", "toy.toy.zero-shot.s0"])
    assert content(results) == {name: name for name in (TRAIN, *OLD)}
    assert (
        run_folder(results, OLD[0]) / "metrics.json"
    ).stat().st_mtime_ns == changed  # or Snakemake would draw what it need not
    assert migrate(results) == []


@pytest.mark.parametrize("step", range(8))
def test_a_migration_that_is_killed_is_completed(results, monkeypatch, step):
    """At every step there is: before and after each folder that is made and each rename."""
    steps = iter(range(100))

    def killing(function):
        def call(*args, **kwargs):
            if next(steps) == step:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", killing(Path.mkdir))
        patched.setattr(Path, "rename", killing(Path.rename))
        with pytest.raises(KeyboardInterrupt):
            migrate(results)
    assert sum(1 for _ in (results / "runs").rglob("metrics.json")) == 5
    migrate(results)
    assert content(results) == {name: name for name in (TRAIN, *OLD)}


def test_what_another_process_moves_meanwhile_is_no_error(results, monkeypatch):
    original = Path.rename
    monkeypatch.setattr(Path, "rename", lambda old, new: (original(old, new), original(old, new))[0])
    assert migrate(results) == [] and content(results) == {name: name for name in (TRAIN, *OLD)}


def test_a_newer_result_is_kept_and_the_older_one_too(results):
    new = run_folder(results, OLD[0])
    new.mkdir()
    (new / "metrics.json").write_text("new")
    told = migrate(results)
    assert told[0].startswith("results of an earlier version: 3 evaluations moved")
    assert told[1].startswith("1 evaluation of an earlier version left alone, since a newer one is there: ")
    assert (new / "metrics.json").read_text() == "new" and (results / "runs" / OLD[0] / "metrics.json").read_text() == OLD[0]


def test_a_folder_that_may_only_be_read_is_told(results, monkeypatch):
    if os.getuid():
        (results / "runs").chmod(0o555)
    else:  # root may write anywhere
        monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    told = migrate(results)
    (results / "runs").chmod(0o755)
    assert len(told) == 1 and told[0].startswith("4 evaluations of an earlier version cannot be moved")
    assert "(Permission denied), and count as missing until they can: " in told[0]


def test_no_results_and_nothing_old_are_silent(tmp_path):
    assert migrate(tmp_path) == []
    (tmp_path / "runs" / TRAIN).mkdir(parents=True)
    assert migrate(tmp_path) == []
