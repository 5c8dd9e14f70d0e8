"""Runs as statistics read them from a results folder: aligned by image identity, refused by name, damage named with remedy."""

import numpy as np
import pytest

from pel_core.common.errors import PelError
from pel_core.evaluation.metrics import score_predictions
from pel_core.evaluation.outputs import write_csv, write_parquet
from pel_core.evaluation.predictions import Predictions, write_predictions
from pel_core.reporting.statistics.effects import difference, value_of
from pel_core.reporting.statistics.reading import Reader
from pel_core.spec.choices import METRICS
from pel_core.spec.results import run_folder
from pel_core.spec.run_spec import RunSpec

GROUPS = ["head", "head", "med", "tail", "tail"]  # the last class has no test image
LABELS = np.repeat(np.arange(4), [12, 9, 6, 3])
PATHS = np.array([f"val/{label}/{i:02}.jpg" for i, label in enumerate(LABELS)])


def spec(method, seed=0):
    return RunSpec.parse(f"toy-ir20.toy.{method}.s{seed}")


def write_run(results, run, at=None, paths=PATHS, labels=LABELS):
    """The files of a run whose logits follow from its name; ``at``: the order in which its images are stored."""
    folder = run_folder(results, run.slug)
    folder.mkdir(parents=True)
    logits = np.random.default_rng(list(run.slug.encode())).normal(size=(len(labels), 5)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += 1.5
    at = np.arange(len(labels)) if at is None else at
    said = Predictions.of(logits[at], labels[at])
    table = {
        "path": None if paths is None else paths[at].tolist(),
        "label": labels[at].astype(np.int32),
        "prediction": said.predicted,
    }
    table = {"index": np.arange(len(at), dtype=np.int32)} | table
    write_parquet(folder / "predictions.parquet", table, {"slug": run.slug, "split": "test", "data_sha256": "d"})
    write_csv(folder / "classes.csv", ("label", "group"), enumerate(GROUPS))
    write_predictions(folder / "logits.safetensors", logits[at], labels[at])
    return said


@pytest.fixture
def results(tmp_path):
    for method in ("ln", "bias"):
        for seed in range(3):
            write_run(tmp_path, spec(method, seed))
    return tmp_path


def specs(method):
    return [spec(method, seed) for seed in range(3)]


@pytest.mark.parametrize("metric", METRICS)
def test_stored_predictions_give_the_results_own_values(tmp_path, metric):
    said = write_run(tmp_path, spec("ln"), np.random.default_rng(0).permutation(len(LABELS)))
    found = value_of(Reader(tmp_path).row("ln", [spec("ln")]), metric)
    assert found.mean == pytest.approx(score_predictions(said, GROUPS)[metric], abs=1e-9)


def test_runs_are_aligned_by_the_names_of_their_images(results, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for place, run in enumerate((*specs("ln"), *specs("bias"))):
        write_run(other, run, np.random.default_rng(place).permutation(len(LABELS)))
    for metric in ("overall", "mean_class", "macro_f1", "ece", "nll"):
        found = [difference(r.row("a", specs("ln")), r.row("b", specs("bias")), metric) for r in (Reader(results), Reader(other))]
        assert found[0] == found[1]


def test_runs_of_one_test_set_share_its_images(results):
    reader = Reader(results)
    row = reader.row("ln", specs("ln"))
    assert all(run.images is row.images for run in row.runs) and reader.run(spec("ln", 1)) is row.runs[1]
    assert row.runs[0].groups == tuple(GROUPS) and str(row.images) == "30 images of toy"


def test_a_run_of_other_images_is_refused_by_name(results):
    run = spec("zero-shot")
    write_run(results, run, paths=np.array([path.replace("val/3/29", "val/3/99") for path in PATHS]))
    reader = Reader(results)
    with pytest.raises(PelError, match=r"ln\.s0 and toy-ir20\.toy\.zero-shot\.s0 have different.*val/3/29\.jpg first"):
        difference(reader.row("ln", specs("ln")), reader.row("zero", [run]), "overall")


def test_images_of_an_array_are_known_by_their_place(tmp_path):
    labels = np.random.default_rng(0).permutation(LABELS)
    for method in ("ln", "bias"):
        write_run(tmp_path, spec(method), paths=None, labels=labels)
    write_run(tmp_path, spec("ssf-ln"), paths=None)
    reader = Reader(tmp_path)
    a, b, other = (reader.row(method, [spec(method)]) for method in ("ln", "bias", "ssf-ln"))
    assert difference(a, b, "overall").images == 30
    with pytest.raises(PelError, match="their labels differ"):
        difference(a, other, "overall")


def test_zero_shot_is_read_once_and_has_no_seeds(results):
    write_run(results, spec("zero-shot"))
    row = Reader(results).row("zero", specs("zero-shot"))  # the other seeds' files are not there
    assert row.deterministic and row.seeds == () and len(row.runs) == 1


@pytest.mark.parametrize("left", [0.0, 0.5, 0.9])
def test_a_predictions_file_that_was_cut_off_is_named_with_the_command(results, left):
    path = run_folder(results, spec("ln", 1).slug) / "predictions.parquet"
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    with pytest.raises(PelError) as error:
        Reader(results).row("ln", specs("ln"))
    text = str(error.value)
    assert str(path) in text and "damaged" in text and f"python -m pel_core score '{spec('ln', 1).slug}'" in text


def test_a_missing_file_is_named_with_the_command(results):
    folder = run_folder(results, spec("ln").slug)
    (folder / "logits.safetensors").write_bytes((folder / "logits.safetensors").read_bytes()[:500])
    row = Reader(results).row("ln", specs("ln"))
    assert value_of(row, "overall").mean is not None  # asks for classes alone
    with pytest.raises(PelError, match=r"logits\.safetensors is damaged.*python -m pel_core evaluate 'toy-ir20\.toy\.ln\.s0'"):
        value_of(row, "nll")
    for name in ("classes.csv", "predictions.parquet"):
        (folder / name).unlink()
        with pytest.raises(PelError, match=rf"{name} .*make it again with: python -m pel_core score 'toy-ir20\.toy\.ln\.s0'"):
            Reader(results).run(spec("ln"))


@pytest.mark.parametrize("left", ["label,group\n0,head\n", "label,group\n0,head\n1,he", "label,gr", "", "label,group\n0\n"])
def test_a_classes_file_that_was_cut_off_is_named_with_the_command(results, left):
    path = run_folder(results, spec("ln").slug) / "classes.csv"
    path.write_text(left)
    with pytest.raises(PelError, match=rf"{path} .*make it again with: python -m pel_core score 'toy-ir20\.toy\.ln\.s0'"):
        Reader(results).row("ln", specs("ln"))
    reader = Reader(results)
    with pytest.raises(PelError):
        reader.run(spec("ln"))
    assert reader.run(spec("bias")).groups == tuple(GROUPS)  # of the same data, whose file is whole
