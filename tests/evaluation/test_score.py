"""The stages of an evaluation: what is predicted once is scored again without a network, with the same bits."""

import shutil
import subprocess
import sys

import pytest
from registries import set_entry

from pel_core.cli.main import main
from pel_core.common import versions
from pel_core.common.files import read_json, sha256, write_json
from pel_core.evaluation import score as stage
from pel_core.spec import results as vocabulary
from pel_core.spec.choices import METRICS, Metric
from pel_core.spec.results import needs_score, run_folder
from pel_core.spec.run_spec import RunSpec

TRAINED, ONE = "toy-ir20.toy.ln.s3.epochs=1", "toy-ir20.toy.ln.s3.epochs=1.tte=none"
ZERO = "toy-ir20.toy.zero-shot.s3"
RUNS = (TRAINED, ONE, ZERO)
FILES = ("metrics.json", "predictions.parquet", "confusion.csv", "classes.csv")


@pytest.fixture(scope="module")
def results(toy_results):
    assert main(["train", TRAINED, "--results", str(toy_results)]) == 0
    for slug in RUNS:
        assert main(["evaluate", slug, "--results", str(toy_results)]) == 0
    return toy_results


@pytest.fixture
def copy(results, tmp_path):
    for name in ("data", "backbones", "text"):
        (tmp_path / name).symlink_to(results / name)
    for slug in (TRAINED, ZERO):
        shutil.copytree(results / "runs" / slug, tmp_path / "runs" / slug)
    return tmp_path


def prints(folder, slug):
    return {name: sha256(run_folder(folder, slug) / name) for name in FILES}


def outdate(folder, slug):
    """A result as SCORE 0 left it: other numbers, and its own files."""
    path = run_folder(folder, slug) / "metrics.json"
    record = read_json(path)
    write_json(path, record | {"versions": {**record["versions"], "score": 0}, "scored": "0", "metrics": {"overall": 1.0}})
    for name in FILES[1:]:
        (path.parent / name).write_text("old")


def test_an_evaluation_lies_in_the_folder_of_its_training(results):
    assert run_folder(results, ONE) == results / "runs" / TRAINED / "tte=none"
    assert {path.name for path in run_folder(results, ONE).iterdir()} == {*FILES, "logits.safetensors", "predict.json"}


def test_what_is_out_of_date_is_scored_again_with_the_same_bits(copy, capsys):
    before = {slug: prints(copy, slug) for slug in RUNS}
    outdate(copy, ONE)
    outdate(copy, ZERO)
    assert main(["score", "--results", str(copy), "--stamp", str(copy / "scores" / "stamp.json"), "--threads", "2"]) == 0
    assert capsys.readouterr().out == "2 runs scored\n" and (copy / "scores" / "stamp.json").is_file()
    assert {slug: prints(copy, slug) for slug in RUNS} == before
    assert main(["score", "--results", str(copy)]) == 0
    assert capsys.readouterr().out == "0 runs scored\n"


def test_scoring_imports_no_torch(copy):
    outdate(copy, ONE)
    code = "import sys; from pel_core.cli.main import main; status = main(sys.argv[1:]); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "score", "--results", str(copy)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "1 runs scored\n", done.stderr


def test_results_of_before_are_scored_from_their_own_record(copy, monkeypatch):
    """They hold full logits and a metrics.json with an engine, no predict.json."""
    folder = run_folder(copy, ONE)
    record = read_json(folder / "metrics.json")
    (folder / "predict.json").unlink()
    old = {"slug": ONE, "engine": 1} | {key: value for key, value in record.items() if key not in ("versions", "scored")}
    write_json(folder / "metrics.json", old)
    assert not needs_score(copy, RunSpec.parse(ONE))
    monkeypatch.setitem(versions.STAGES, "score", 2)
    monkeypatch.setattr(vocabulary, "SCORE", 2)
    vocabulary.scoring.cache_clear()
    assert needs_score(copy, RunSpec.parse(ONE))
    assert len(stage.score_runs(copy).done) == 3
    assert read_json(folder / "metrics.json")["versions"] == {"prepare": 1, "train": 1, "predict": 1, "score": 2}
    assert read_json(folder / "metrics.json")["metrics"] == record["metrics"]
    vocabulary.scoring.cache_clear()


def test_another_metric_is_scored_where_it_is_missing(copy, monkeypatch):
    vocabulary.scoring.cache_clear()
    try:
        set_entry(monkeypatch, METRICS, "new", Metric("New", "higher", lambda scored: 1.0))
        assert all(needs_score(copy, RunSpec.parse(slug)) for slug in RUNS)
        assert not needs_score(copy, RunSpec.parse(TRAINED.replace("s3", "s4")))  # not there
        assert len(stage.score_runs(copy).done) == 3
        assert not any(needs_score(copy, RunSpec.parse(slug)) for slug in RUNS)
    finally:
        vocabulary.scoring.cache_clear()


def test_predictions_that_are_there_are_not_made_again(copy, monkeypatch):
    folder, before = run_folder(copy, ONE), prints(copy, ONE)
    (folder / "metrics.json").unlink()
    monkeypatch.setattr("pel_core.evaluation.predict.PrefixCache.predict", lambda *_: pytest.fail("it passed images through"))
    words = ["evaluate", ONE, "--results", str(copy), "--no-tensorboard"]
    assert main(words) == 0 and prints(copy, ONE) == before


@pytest.mark.parametrize("change", ["delta", "data", "versions", "spec", "logits", "torn", "full"])
def test_predictions_of_something_else_are_made_again(copy, change):
    folder, before = run_folder(copy, ONE), prints(copy, ONE)
    path = folder / "predict.json"
    record, words = read_json(path), ["evaluate", ONE, "--results", str(copy)]
    changed = {"delta": {"delta_sha256": "0"}, "data": {"data": {**record["data"], "sha256": "0"}}}
    changed |= {"versions": {"versions": {**record["versions"], "predict": 0}}, "spec": {"spec": {**record["spec"], "lr": 9}}}
    write_json(path, record | changed.get(change, {}))
    if change == "logits":
        (folder / "logits.safetensors").unlink()
    if change == "torn":
        (folder / "logits.safetensors").write_bytes((folder / "logits.safetensors").read_bytes()[:200])
    started = path.stat().st_mtime_ns
    assert main([*words, *(["--logits", "full"] if change == "full" else [])]) == 0
    assert path.stat().st_mtime_ns > started
    assert {name: value for name, value in prints(copy, ONE).items() if name != "metrics.json"} == {
        name: value for name, value in before.items() if name != "metrics.json"
    }
    assert read_json(folder / "metrics.json")["evaluation"]["logits"] == ("full" if change == "full" else "compact")


def test_full_logits_and_compact_ones_have_the_same_metrics(copy):
    path = run_folder(copy, ONE) / "metrics.json"
    compact = read_json(path)["metrics"]
    assert main(["evaluate", ONE, "--results", str(copy), "--logits", "full"]) == 0
    assert read_json(path)["metrics"] == compact


def test_a_run_that_is_at_work_is_left_alone(copy, monkeypatch):
    """Snakemake removes the result of a run that it predicts again; that job scores it."""
    outdate(copy, ONE)
    path = run_folder(copy, ONE) / "metrics.json"
    original = stage.read_predictions
    monkeypatch.setattr(stage, "read_predictions", lambda file: (path.unlink(missing_ok=True), original(file))[1])
    stage.score_runs(copy)
    assert not path.exists()


def test_what_cannot_be_scored_hides_nothing_else(copy, capsys):
    outdate(copy, ONE)
    outdate(copy, ZERO)
    (run_folder(copy, ONE) / "logits.safetensors").write_bytes(b"x" * 50)
    assert main(["score", "--results", str(copy)]) == 0
    told = capsys.readouterr()
    assert "1 runs scored, 1 could not be" in told.out and f"not scored: {ONE}: " in told.err and "is damaged" in told.err
    assert main(["score", ONE, "--results", str(copy)]) == 1
    (copy / "runs.txt").write_text(f"{ZERO}\n")
    assert main(["score", f"@{copy / 'runs.txt'}", "--results", str(copy)]) == 0
