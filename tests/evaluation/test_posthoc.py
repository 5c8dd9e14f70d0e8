"""Post-hoc steps and ensembles, from stored logits alone, beside a plain NumPy implementation; what cannot work is refused."""

import os

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet
from safetensors.numpy import load_file

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.data.datasets import open_prepared
from pel_core.evaluation.posthoc.logit_adjustment import TAUS, LogitAdjustment
from pel_core.evaluation.posthoc.temperature import TemperatureScaling
from pel_core.evaluation.predictions import read_logits, write_predictions
from pel_core.evaluation.score import score_runs
from pel_core.evaluation.stored_logits import mean_logits
from pel_core.reporting.statistics.effects import value_of
from pel_core.reporting.statistics.reading import Reader
from pel_core.spec.outcomes import diverged, failed_file
from pel_core.spec.posthoc import sources
from pel_core.spec.results import metrics_file, needs_score, run_folder, slug_of
from pel_core.spec.run_spec import RunSpec

RUN = "toy-ir20.toy.adaptformer.s{}.epochs=1.loss=ce.data.val=0.3"
SEEDS = (0, 1, 2)
BOTH = ".posthoc.la=val.posthoc.temperature=val"


@pytest.fixture(scope="module")
def results(toy_results):
    for seed in SEEDS:
        for command in ("train", "evaluate"):
            assert (
                main([command, RUN.format(seed), "--results", str(toy_results), *["--logits=full"] * (command != "train")]) == 0
            )
    return toy_results


def softmax(logits):
    numbers = np.exp(logits - logits.max(1, keepdims=True))
    return numbers / numbers.sum(1, keepdims=True)


def plain_metrics(logits, labels):
    """Accuracies in percent, nll in nats, ECE in percent over 15 bins, by the shortest code there is."""
    p, said = softmax(logits.astype(np.float64)), logits.argmax(1)
    classes = [np.mean(said[labels == c] == c) for c in range(logits.shape[1]) if (labels == c).any()]
    confidence, ece = p.max(1), 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15 + 1e-12)
        ece += abs(np.sum(confidence[inside] - (said == labels)[inside])) / len(labels)
    own = p[np.arange(len(labels)), labels]
    return {
        "overall": 100 * np.mean(said == labels),
        "mean_class": 100 * np.mean(classes),
        "nll": -np.mean(np.log(own)),
        "ece": 100 * ece,
    }


def stored(results, seed=0, split=""):
    found = load_file(run_folder(results, RUN.format(seed) + split) / "logits.safetensors")
    return found["logits"], found["labels"]


def evaluate(results, options, seed=0):
    slug = RUN.format(seed) + options
    assert main(["evaluate", slug, "--results", str(results), "--logits=full"]) == 0
    return read_json(metrics_file(results, slug))


def log_prior(results):
    counts = np.array(read_json(metrics_file(results, RUN.format(0)))["data"]["train_counts"], float)
    data = open_prepared(results / "data" / "toy", "toy-ir20", factors=RunSpec.parse(RUN.format(0)).factors)
    assert counts.tolist() == list(data.train_counts) and counts.max() > counts.min()
    return np.log(counts / counts.sum())


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_logit_adjustment_takes_tau_log_prior_off(results, tau):
    record = evaluate(results, f".posthoc.la={tau:g}")
    logits, labels = stored(results)
    expected = plain_metrics(logits - tau * log_prior(results), labels)
    assert {name: record["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert record["posthoc"] == {"la": tau} and record["spec"]["posthoc.la"] == tau
    if tau == 0:
        own = read_json(metrics_file(results, RUN.format(0)))
        assert record["metrics"] == own["metrics"] and "posthoc.la" not in own["spec"]


def test_the_rarest_class_is_answered_more_often():
    logits, counts = np.zeros((1, 3)), np.array([90, 9, 1])
    assert LogitAdjustment.apply(logits, counts, 1.0).argmax() == 2
    np.testing.assert_allclose(softmax(LogitAdjustment.apply(np.log(counts / 100)[None], counts, 1.0)), 1 / 3)
    with pytest.raises(PelError, match="1 class without a training image, class 1 first"):
        LogitAdjustment.apply(logits, np.array([3, 0, 1]), 1.0)


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 40))
@example(840658, 4, 1)  # the least is at the lowest temperature, where fp32 logits by it would be rounded by more than 1e-6
def test_what_is_fitted_is_the_best_there_is(seed, classes, images):
    random = np.random.default_rng(seed)
    counts, labels = random.integers(1, 100, classes), random.integers(0, classes, images)
    logits = (3 * random.normal(size=(images, classes)) + np.log(counts)).astype(np.float32)
    tau = LogitAdjustment.fit(logits, labels, counts)
    scores = {each: plain_metrics(logits - each * np.log(counts / counts.sum()), labels)["mean_class"] for each in TAUS.tolist()}
    assert scores[tau] == pytest.approx(max(scores.values()))
    assert abs(tau) <= min(abs(each) for each, score in scores.items() if score > max(scores.values()) - 1e-9) + 1e-9
    temperature = TemperatureScaling.fit(logits, labels, counts)
    grid = np.exp(np.linspace(np.log(0.01), np.log(100), 400))
    exact = logits.astype(np.float64)
    least = min(plain_nll(exact / each, labels) for each in grid)
    assert plain_nll(exact / temperature, labels) <= least + 1e-6


def plain_nll(logits, labels):
    logits = logits.astype(np.float64)
    largest = logits.max(1)
    own = logits[np.arange(len(labels)), labels]
    return np.mean(np.log(np.exp(logits - largest[:, None]).sum(1)) + largest - own)


def test_both_are_fitted_on_validation_and_one_after_the_other(results):
    record = evaluate(results, BOTH)
    found, prior = record["posthoc"], log_prior(results)
    logits, labels = stored(results, split=".split=val")
    taus = {tau: plain_metrics(logits - tau * prior, labels)["mean_class"] for tau in TAUS.tolist()}
    assert taus[found["la"]] == pytest.approx(max(taus.values()))
    grid = np.exp(np.linspace(np.log(0.01), np.log(100), 4001))
    best = min(grid, key=lambda t: plain_nll((logits - found["la"] * prior) / t, labels))
    assert found["temperature"] == pytest.approx(best, rel=5e-3)
    logits, labels = stored(results)
    expected = plain_metrics((logits - found["la"] * prior) / found["temperature"], labels)
    assert {name: record["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-4)
    scaled = evaluate(results, ".posthoc.temperature=val")
    own = read_json(metrics_file(results, RUN.format(0)))["metrics"]
    assert scaled["metrics"]["overall"] == own["overall"] and scaled["metrics"]["nll"] != own["nll"]


def stored_at(results, slug):
    files = [run_folder(results, run.slug) / "logits.safetensors" for run in sources(RunSpec.parse(slug))]
    return [os.stat(file).st_mtime_ns for file in files]


def test_nothing_is_predicted_again_and_reports_read_the_same_numbers(results, monkeypatch):
    slug = RUN.format(0) + BOTH
    evaluate(results, BOTH)
    folder = run_folder(results, slug)
    assert slug_of(folder) == slug and not (folder / "logits.safetensors").exists() and not (folder / "predict.json").exists()
    stamps = stored_at(results, slug)
    first = metrics_file(results, slug).read_bytes()
    monkeypatch.setattr("pel_core.evaluation.predict.PrefixCache.predict", None)
    assert main(["evaluate", slug, "--results", str(results)]) == 0
    assert metrics_file(results, slug).read_bytes() == first
    assert stamps == [
        os.stat(run_folder(results, run.slug) / "logits.safetensors").st_mtime_ns for run in sources(RunSpec.parse(slug))
    ]
    row, metrics = Reader(results).row("row", [RunSpec.parse(slug)]), read_json(metrics_file(results, slug))["metrics"]
    for name in ("overall", "ece", "nll", "tail"):
        assert value_of(row, name).mean == pytest.approx(metrics[name], abs=1e-6)


def test_another_scoring_scores_post_hoc_runs_with_the_others(results):
    slug = RUN.format(0) + ".posthoc.la=1"
    record = evaluate(results, ".posthoc.la=1")
    write_json(metrics_file(results, slug), {**record, "scored": "another"})
    assert needs_score(results, RunSpec.parse(slug))
    assert slug in score_runs(results).done
    assert read_json(metrics_file(results, slug)) == record


def test_an_ensemble_is_the_mean_logit_of_its_seeds(results):
    record = evaluate(results, ".posthoc.ensemble=0,1,2.posthoc.la=val")
    mean = np.mean([stored(results, seed)[0].astype(np.float64) for seed in SEEDS], axis=0)
    labels, prior = stored(results)[1], log_prior(results)
    validation = np.mean([stored(results, seed, ".split=val")[0].astype(np.float64) for seed in SEEDS], axis=0)
    taus = {t: plain_metrics(validation - t * prior, stored(results, 0, ".split=val")[1])["mean_class"] for t in TAUS.tolist()}
    tau = record["posthoc"]["la"]
    assert taus[tau] == pytest.approx(max(taus.values()))
    expected = plain_metrics(mean - tau * prior, labels)
    assert {name: record["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-4)
    runs = [read_json(metrics_file(results, RUN.format(seed))) for seed in SEEDS]
    assert record["ensemble"] == {run["slug"]: run["delta_sha256"] for run in runs}
    assert record["training"]["seconds"] == pytest.approx(sum(run["training"]["seconds"] for run in runs))
    row = Reader(results).row("row", [RunSpec.parse(record["slug"])])
    assert row.deterministic and row.seeds == ()
    effect = value_of(row, "overall")
    assert effect.mean == pytest.approx(record["metrics"]["overall"]) and effect.general.low < effect.mean < effect.general.high
    assert "ensemble" not in (run_folder(results, RUN.format(0)) / "README.md").read_text()


def test_compact_logits_give_the_same_but_for_rounding(results, tmp_path):
    logits, labels = stored(results)
    write_predictions(tmp_path / "c", logits, labels)
    found, same = read_logits(tmp_path / "c")
    np.testing.assert_array_equal(same, labels)
    np.testing.assert_allclose(found, logits, rtol=2**-11)
    top = np.argsort(-logits, axis=1)[:, :5]
    np.testing.assert_array_equal(np.take_along_axis(found, top, 1), np.take_along_axis(logits, top, 1))
    np.testing.assert_array_equal(found[np.arange(len(labels)), labels], logits[np.arange(len(labels)), labels])
    write_predictions(tmp_path / "other", logits[::-1], labels[::-1])
    with pytest.raises(PelError, match="are of other images, so their logits have no mean"):
        mean_logits([tmp_path / "c", tmp_path / "other"])


def test_new_images_are_answered_with_the_steps(results, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    found = {}
    for options in ("", ".posthoc.temperature=100"):
        evaluate(results, options)
        run, out = RUN.format(0) + options, tmp_path / "p.parquet"
        assert main(["predict", str(tmp_path / "a.png"), "--run", run, "--results", str(results), "--out", str(out)]) == 0
        found[options] = parquet.read_table(out).to_pydict()
    assert found[""]["prediction"] == found[".posthoc.temperature=100"]["prediction"]
    assert found[""]["probability"][0] > found[".posthoc.temperature=100"]["probability"][0]
    ensemble = RUN.format(0) + ".posthoc.ensemble=0,1"
    assert main(["predict", str(tmp_path / "a.png"), "--run", ensemble, "--results", str(results)]) == 1
    assert "is an ensemble of several trainings" in capsys.readouterr().err


def test_it_diverges_as_what_it_is_made_of(results, tmp_path):
    spec = RunSpec.parse(RUN.format(0) + ".posthoc.ensemble=0,1")
    source = RunSpec.parse(RUN.format(1))
    assert diverged(tmp_path, spec.slug, spec) is None
    record = read_json(run_folder(results, source.slug) / "train.json")
    failed = {"reason": "the loss became nan", "step": 1, "epoch": 0, "learning_rate": 0.1, "loss": None}
    write_json(failed_file(tmp_path, source.slug), record | {"failed": failed})
    assert diverged(tmp_path, spec.slug, spec)["slug"] == source.slug


REFUSED = [
    ({"posthoc.la": "test"}, "posthoc.la=test: expected a number or none or val"),
    ({"posthoc.la": "val", "split": "val"}, "with split=val it would be fitted to the images that are scored"),
    ({"posthoc.temperature": 0}, "posthoc.temperature=0 is not possible; it must be none or val or above 0"),
    ({"posthoc.ensemble": [1, 0]}, "it must be different seeds in rising order"),
    ({"posthoc.ensemble": [0.5, 1]}, "it must be different seeds in rising order"),
    (
        {"posthoc.ensemble": [1, 2]},
        "that begins with the run's own seed 0; in a study, whose row is of several seeds, say `seeds`",
    ),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_what_cannot_work_is_refused(options, words):
    with pytest.raises(PelError) as error:
        RunSpec.make("toy-ir20", "toy", "adaptformer", 0, **options)
    assert words in str(error.value)


@pytest.mark.parametrize("options", [{"posthoc.la": 1}, {"posthoc.ensemble": [0, 1]}])
def test_zero_shot_has_no_training_counts_and_no_seeds(options):
    with pytest.raises(PelError, match="has no effect on zero-shot here"):
        RunSpec.make("toy-ir20", "toy", "zero-shot", 0, **options)
