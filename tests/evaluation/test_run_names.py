"""Which run and which evaluation `predict --run NAME` means: never one that nobody asked for, unsaid."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from fake_results import fake_record
from hypothesis import given
from hypothesis import strategies as st
from test_outputs import listed

from pel_core.cli.main import main
from pel_core.cli.results_folder import settle_results
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_bytes, write_json
from pel_core.evaluation.run_names import find_run, results_of, words_of
from pel_core.spec.results import metrics_file, run_folder
from pel_core.spec.run_spec import RunSpec

SHORT = "mine.toy.adaptformer.s0"
TRAINED = f"{SHORT}.epochs=3.precision=fp32"
SMALL = f"{TRAINED}.expand=4"


def record(results, *slugs):
    """Results of evaluated runs, with the file of their training."""
    for slug in slugs:
        spec = RunSpec.parse(slug)
        write_json(metrics_file(results, slug), fake_record(spec))
        if spec.trains:
            write_bytes(run_folder(results, spec.train.slug) / "delta.safetensors", b"x")


def found(results, run, *words, **options) -> str:
    return find_run(run, results, *words, **options)[1].slug


def test_the_short_name_of_a_study_finds_the_run_and_its_evaluation(tmp_path, capsys):
    """On photographs: expand 24 in the place of the study's 4, and 31 % in the place of 51."""
    record(tmp_path, SMALL)
    folder = run_folder(tmp_path, TRAINED)
    for name in (SHORT, TRAINED, SMALL, folder, folder / "expand=4", f"{SHORT}.epochs=3", f"{SHORT}.expand=4"):
        assert find_run(str(name), tmp_path, TRAINED if name == folder else "") == (folder, RunSpec.parse(SMALL))
    told = capsys.readouterr().err
    assert f"{SHORT}: taken is {TRAINED}, the only run here that is called so" in told
    assert f"{TRAINED}: evaluated as recorded: expand=4 (tte fivecrop, expand 4, eval_precision fp32)" in told


def test_other_words_are_taken_as_said(tmp_path, capsys):
    record(tmp_path, SMALL)
    assert found(tmp_path, SHORT, evaluation="default") == TRAINED
    assert found(tmp_path, TRAINED, evaluation="tte=tencrop.expand=4") == f"{TRAINED}.tte=tencrop.expand=4"
    capsys.readouterr()
    assert found(tmp_path, f"{TRAINED}.tte=none") == f"{TRAINED}.tte=none"
    told = "no such evaluation is recorded (there: expand=4); taken is what the name says: tte none, eval_precision fp32"
    assert told in capsys.readouterr().err
    for words, message in {
        "lr=0.1": "lr is an option of training",
        "none": "expected default, or option=value",
        "tte=nine": "tte",
        "expand=four": "expand",
    }.items():
        with pytest.raises(PelError, match=message):
            find_run(TRAINED, tmp_path, evaluation=words)
    with pytest.raises(PelError, match="say it once"):
        find_run(SMALL, tmp_path, evaluation="tte=none")


def test_several_evaluations_are_listed(tmp_path, capsys):
    record(tmp_path, SMALL, f"{TRAINED}.tte=none")
    with pytest.raises(PelError, match=f"'{SHORT}' was evaluated in 2 ways.*{TRAINED}.tte=none"):
        find_run(SHORT, tmp_path)
    assert found(tmp_path, f"{SHORT}.expand=4") == SMALL
    study = [RunSpec.parse(SMALL), RunSpec.parse("mine.toy.ln.s0")]
    assert found(tmp_path, SHORT, among=study) == SMALL
    with pytest.raises(PelError, match="is no run of the study"):
        find_run(TRAINED, tmp_path, among=study[1:])
    record(tmp_path, TRAINED)  # a name in full is a run; what else there is, is said
    capsys.readouterr()
    assert found(tmp_path, TRAINED) == TRAINED
    assert f"{TRAINED}: its own evaluation is taken (tte fivecrop, expand 24" in capsys.readouterr().err


def test_splits_are_no_ways_to_see_a_new_image(tmp_path):
    record(tmp_path, SMALL, f"{SMALL}.split=val")
    assert found(tmp_path, SHORT).startswith(SMALL)


def test_several_runs_are_listed(tmp_path):
    record(tmp_path, SMALL, f"{SHORT}.epochs=5")
    with pytest.raises(PelError, match=r"may be any of 2 runs; name one: .*epochs=3.*epochs=5"):
        find_run(SHORT, tmp_path)
    assert found(tmp_path, SHORT, among=[RunSpec.parse(f"{SHORT}.epochs=5")]) == f"{SHORT}.epochs=5"


def test_a_run_that_failed_is_no_short_name_of_another(tmp_path):
    record(tmp_path, f"{SHORT}.loss=ce")
    write_bytes(tmp_path / "logs" / f"{SHORT}.train.log", b"error: out of paper\n")
    with pytest.raises(PelError, match=r"holds no delta\.safetensors: train the run first"):
        find_run(SHORT, tmp_path)


def test_an_evaluation_of_another_meaning_is_refused(tmp_path):
    """A default that changed: the name is the same, the recorded crops are not."""
    record(tmp_path, SMALL)
    path = metrics_file(tmp_path, SMALL)
    old = read_json(path)
    write_json(path, old | {"spec": old["spec"] | {"tte": "tencrop"}})
    with pytest.raises(PelError, match=r"evaluated otherwise than its name means now \(tte: stored 'tencrop', now 'fivecrop'\)"):
        find_run(SHORT, tmp_path)
    path.write_text("{")
    assert found(tmp_path, TRAINED) == TRAINED  # told, as `read_json` tells it


def test_a_copied_folder_says_its_evaluations(tmp_path):
    record(tmp_path / "results", SMALL)
    folder = run_folder(tmp_path / "results", TRAINED).rename(tmp_path / "my-model")
    assert find_run(str(folder), tmp_path / "other", TRAINED) == (folder, RunSpec.parse(SMALL))


@given(st.fixed_dictionaries({}, optional={
    "tte": st.sampled_from(["tencrop", "fivecrop"]), "expand": st.integers(0, 40), "split": st.just("val"),
    "eval_precision": st.sampled_from(["fp32", "bf16"]), "epochs": st.integers(1, 20), "lr": st.floats(0.001, 1),
}))  # fmt: skip
def test_any_recorded_run_is_found_by_every_name_of_it(tmp_path_factory, options):
    results = tmp_path_factory.mktemp("results")
    spec = RunSpec.make("mine", "toy", "ssf-ln", 1, **options)
    record(results, spec.slug)
    for name in ("mine.toy.ssf-ln.s1", spec.train.slug, spec.slug):
        assert find_run(name, results) == (run_folder(results, spec.train.slug), spec)
    assert found(results, spec.train.slug, evaluation=words_of(spec)) == spec.slug


def test_a_run_named_by_its_folder_brings_its_results_folder(tmp_path, monkeypatch):
    runs = [tmp_path / name / "results/runs/mine.toy.ln.s0" for name in "ab"]
    for run in runs:
        (run / "tte=none").mkdir(parents=True)
    for place, run, expected in (
        (tmp_path, runs[0], runs[0].parents[1]),
        (tmp_path, runs[0] / "tte=none", runs[0].parents[1]),
        (tmp_path, Path("a/results/runs/mine.toy.ln.s0"), Path("a/results")),
        (tmp_path, Path("mine.toy.ln.s0"), Path("results")),
        (runs[0].parent, Path("mine.toy.ln.s0"), runs[0].parents[1]),
    ):
        monkeypatch.chdir(place)
        assert results_of(run) == expected
        words = Namespace(run=str(run), results=None)
        settle_results(words)
        assert words.results == expected
    words = Namespace(run="anything", results="said")
    settle_results(words)
    assert words.results == "said"
    words = Namespace(run=[], results=None)  # of a study
    settle_results(words)
    assert words.results is None
    with pytest.raises(PelError, match=r"the runs lie in .*; expected runs of one results folder: copy .* into runs/ of"):
        settle_results(Namespace(run=[str(run) for run in runs], results=None))


def test_the_command_takes_the_evaluation_of_a_study(tmp_path, capsys):
    """By its configuration's words alone, where a training has two."""
    results = listed(tmp_path, "mine.toy.adaptformer.s0.epochs=2")
    for options in ("expand=4", "tte=none"):
        assert main(["evaluate", f"mine.toy.adaptformer.s0.epochs=2.{options}", "--results", str(results)]) == 0
    config = json.loads((tmp_path / "config.yaml").read_text()) | {"recipe": {"epochs": 2, "expand": 4}, "data": {"own": "mine"}}
    (tmp_path / "own.yaml").write_text(json.dumps(config))
    bars = {"kind": "bars", "title": "B", "where": {"dataset": "own", "value": "overall"}}
    bars["bars"] = [{"label": "A", "method": "adaptformer"}]
    study = {"title": "S", "roles": {"own": "Own"}, "figures": {"f": bars}}
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    words = ["predict", str(tmp_path / "images/test"), "--results", str(results), "--run"]
    assert main([*words, "mine.toy.adaptformer.s0.epochs=2.expand=4"]) == 0
    expected = capsys.readouterr().out
    assert main([*words, "mine.toy.adaptformer.s0", "--study", f"{tmp_path}/study.yaml", "--config", f"{tmp_path}/own.yaml"]) == 0
    assert capsys.readouterr().out == expected
