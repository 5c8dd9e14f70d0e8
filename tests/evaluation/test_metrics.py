"""Scores against the reference's golden values, scikit-learn, and hand-made extremes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from plugin_module import import_as
from sklearn import metrics

from pel_core.common.errors import PelError
from pel_core.common.registry import Plugin
from pel_core.evaluation.metrics import score
from pel_core.evaluation.predictions import Predictions
from pel_core.evaluation.scored import Scored
from pel_core.spec.choices import METRICS, metric
from pel_core.spec.values import value_path

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = {
    "overall": "accuracy",
    "error_rate": "error_rate",
    "macro_f1": "macro_f1",
    "worst_class": "worst_case_acc",
    "hmean": "hmean_acc",
    "gmean": "gmean_acc",
    "head": "many_acc",
    "med": "med_acc",
    "tail": "few_acc",
    "mean_class": "mean_acc",
}


def one_hot(predicted, classes):
    return 10.0 * np.eye(classes)[np.asarray(predicted)]


def test_golden():
    golden = np.load(GOLDEN / "evaluator.npz")
    result = score(golden["a/logits"], golden["a/labels"], ["head"] * 3 + ["med"] * 3 + ["tail"] * 4)
    for ours, theirs in NAMES.items():
        assert result[ours] == pytest.approx(float(golden[f"a/result/{theirs}"]), abs=1e-10), ours
    assert result["null_reasons"] == {}


@given(data=st.data(), classes=st.integers(2, 8), images=st.integers(1, 30))
def test_any_finite_logits_have_scores(data, classes, images):
    logits = data.draw(arrays.arrays(np.float32, (images, classes), elements=st.floats(-1e4, 1e4, width=32)))
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images)))
    groups = data.draw(st.lists(st.sampled_from(["head", "med", "tail"]), min_size=classes, max_size=classes))
    result = score(logits, labels, groups)
    json.dumps(result, allow_nan=False)
    for name, value in result.items():
        if name not in ("null_reasons", "per_class"):
            least, most = METRICS[name].bounds
            assert (value is None) == (name in result["null_reasons"])
            assert value is None or least - 1e-9 <= value <= most + 1e-9, name
    assert (None in result["per_class"]) == ("per_class" in result["null_reasons"])
    assert result["worst_class"] - 1e-9 <= result["hmean"] or result["worst_class"] == 0
    assert result["gmean"] <= result["mean_class"] + 1e-9
    assert result["hmean"] - 1e-9 <= result["gmean_floor"] <= max(result["mean_class"], 1e-3) + 1e-9
    assert result["gmean"] in (0, pytest.approx(result["gmean_floor"]))


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 9))
def test_macro_f1_and_recall_are_scikit_learns(seed, classes):
    random = np.random.default_rng(seed)
    labels, predicted = random.integers(0, classes, (2, 40))
    result = score(one_hot(predicted, classes), labels, ["head"] * classes)
    expected = metrics.f1_score(labels, predicted, average="macro", labels=np.unique(labels), zero_division=0)
    assert result["macro_f1"] == pytest.approx(100 * expected)
    recall = metrics.recall_score(labels, predicted, average="macro", labels=np.unique(labels), zero_division=0)
    assert result["mean_class"] == result["head"] == pytest.approx(100 * recall)


def test_ties_go_to_the_lowest_class():
    assert score(np.zeros((2, 3)), np.array([0, 1]), ["head"] * 3)["per_class"] == [100.0, 0.0, None]


def test_geometric_mean_of_many_classes():
    """The reference's running product underflows here and reports 91.27."""
    classes = 3500  # 0.8 ** 3500 is already below the smallest double
    labels = np.repeat(np.arange(classes), 5)
    predicted = np.where(np.arange(len(labels)) % 5 == 0, (labels + 1) % classes, labels)
    logits = np.zeros((len(labels), classes), np.float16)
    logits[np.arange(len(labels)), predicted] = 20
    result = score(logits, labels, ["tail"] * classes)
    assert result["gmean"] == pytest.approx(80) and result["hmean"] == pytest.approx(80)


def test_a_class_that_is_never_right():
    result = score(one_hot([0, 0], 2), np.array([0, 1]), ["head", "tail"])
    assert result["gmean"] == 0 and result["worst_class"] == 0 and result["tail"] == 0
    assert result["hmean"] == pytest.approx(2 / (1 / 100 + 1 / 1e-3))
    assert result["gmean_floor"] == pytest.approx((100 * 1e-3) ** 0.5)


def test_a_floor_tells_classifiers_apart_that_gmean_calls_equal():
    """Two never get one of four classes; one of them gets another half right."""
    labels = np.repeat(np.arange(4), 2)
    worse, better = (
        score(one_hot(predicted, 4), labels, ["tail"] * 4) for predicted in ([0, 0, 1, 1, 2, 0, 0, 0], [0, 0, 1, 1, 2, 2, 0, 0])
    )
    assert worse["gmean"] == better["gmean"] == 0
    assert worse["gmean_floor"] == pytest.approx((100 * 100 * 50 * 1e-3) ** 0.25)
    assert better["gmean_floor"] == pytest.approx((100 * 100 * 100 * 1e-3) ** 0.25)


def test_every_metric_says_what_it_is():
    for entry in METRICS.entries():
        if entry.plugin is None:
            said = entry.value
            assert said.definition and said.absent and said.about, entry.name
            assert said.percent or (said.unit and said.bounds[0] > float("-inf")), entry.name
            assert bool(said.floor) == (0 < said.bounds[0] < 100), entry.name


def test_an_absent_class_shifts_nothing():
    result = score(one_hot([0, 2, 2], 4), np.array([0, 2, 2]), ["head", "med", "tail", "tail"])
    assert result["per_class"] == [100.0, None, 100.0, None]
    assert (result["head"], result["med"], result["tail"]) == (100.0, None, 100.0)
    assert result["null_reasons"] == {
        "med": "none of the 1 classes of this group has a test image",
        "per_class": "2 classes have no test image: 1, 3",
    }


def test_an_empty_group():
    reasons = score(one_hot([0, 1], 2), np.array([0, 1]), ["med", "med"])["null_reasons"]
    assert reasons["head"] == "no class is in this group (more than 100 training images)"
    assert reasons["tail"] == "no class is in this group (fewer than 20 training images)"


def test_calibration_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    result = score(np.log(probabilities), np.array([0, 1, 0, 1]), ["head", "head"])
    # Bins of 1/15: 0.9 twice (one right: gap |1 - 1.8|), 0.6 (right: 0.4), 0.8 (right: 0.2), over 4 images.
    assert result["ece"] == pytest.approx(100 * (0.8 + 0.4 + 0.2) / 4)
    assert result["nll"] == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.8]).mean())


def test_calibration_of_a_uniform_and_a_certain_model():
    uniform = score(np.zeros((4, 4)), np.arange(4), ["head"] * 4)
    assert uniform["ece"] == pytest.approx(0) and uniform["nll"] == pytest.approx(np.log(4))
    certain = score(1e4 * np.eye(4), np.arange(4), ["head"] * 4)
    assert certain["ece"] == 0 and certain["nll"] == 0


def test_calibration_does_not_depend_on_how_rows_are_taken(monkeypatch):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(100, 5)).astype(np.float32), random.integers(0, 5, 100)
    whole = score(logits, labels, ["head"] * 5)
    monkeypatch.setattr("pel_core.evaluation.predictions.ROWS", 7)
    assert score(logits, labels, ["head"] * 5) == whole


@pytest.mark.parametrize(
    "logits, labels, groups, message",
    [
        ([[0.0, np.nan], [0, 0]], [0, 1], ["head"] * 2, "1 of 2 images have NaN or infinite logits, image 0 first"),
        ([[0.0, 1], [0, np.inf]], [0, 1], ["head"] * 2, "image 1 first"),
        ([[0.0, 1]], [0, 1], ["head"] * 2, "do not fit"),
        ([[0.0, 1]], [0], ["head"] * 3, "do not fit"),
        ([[0.0, 1]], [2], ["head"] * 2, "from 0 to 1, found 2 to 2"),
        ([[0.0, 1]], [-1], ["head"] * 2, "from 0 to 1"),
        ([[0.0, 1]], [0.0], ["head"] * 2, "whole numbers"),
        ([[0.0, 1]], [0], ["head", "many"], "unknown class groups"),
        (np.zeros((0, 2)), np.zeros(0, int), ["head"] * 2, "no test images"),
    ],
)
def test_what_cannot_be_scored(logits, labels, groups, message):
    with pytest.raises(PelError, match=message):
        score(np.array(logits), np.array(labels), groups)


def test_the_declared_metrics_are_those_that_are_computed():
    """Their names say whether a result is scored again: one that is computed but not declared would be scored nowhere."""
    found = score(np.eye(3), np.arange(3), ["head", "med", "tail"])
    assert [*found] == [*METRICS, "per_class", "null_reasons"]


# Test sets that some formula may not have thought of: logits, labels, groups.
ODD = {
    "one image": (np.array([[0.1, 2.0, 0.3]]), [1], ["head", "med", "tail"]),
    "one image, wrong": (np.array([[3.0, 2.0]]), [1], ["tail", "tail"]),
    "one class": (np.zeros((3, 1)), [0, 0, 0], ["med"]),
    "absent classes": (np.eye(6)[[0, 0, 5]], [0, 1, 5], ["head", "head", "med", "med", "tail", "tail"]),
    "a group without images": (np.eye(4)[[0, 1]], [0, 1], ["head", "head", "tail", "tail"]),
    "nothing right": (np.eye(3)[[1, 2, 0]], [0, 1, 2], ["head", "med", "tail"]),
    "a tie of all": (np.zeros((4, 4), np.float16), [0, 1, 2, 3], ["med"] * 4),
    "overconfident": (1e4 * np.eye(3, dtype=np.float32)[[1, 1, 1]], [0, 1, 2], ["head", "med", "tail"]),
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_a_number_or_says_why_not(name, case):
    logits, labels, groups = ODD[case]
    declared = METRICS[name]
    found = declared.formula(Scored(Predictions.of(logits, np.array(labels)), groups))
    if isinstance(found, tuple):
        assert found[0] is None and len(found[1]) > 10
    else:
        assert type(found) is float and np.isfinite(found)
        assert not declared.percent or -1e-9 <= found <= 100 + 1e-9


@pytest.mark.parametrize("name", METRICS)
def test_the_better_end_of_a_metric_is_where_the_better_model_lies(name):
    labels, groups = np.repeat(np.arange(6), 4), ["head", "head", "med", "med", "tail", "tail"]
    right = 8 * np.eye(6)[labels]
    good, bad = (score(logits, labels, groups)[name] for logits in (right, np.roll(right, 1, axis=0)))
    assert {"higher": good > bad, "lower": good < bad, "neither": True}[METRICS[name].better]
    assert METRICS.entry(name).about and METRICS[name].label


def test_a_metric_of_a_plugin_is_scored_printed_and_taken_out_again():
    plugin = Plugin("mine.py", "0" * 64)

    def mean_confidence(scored):
        """Mean probability of the most probable class."""
        return 100 * float(scored.confidence.mean())

    import_as(plugin, lambda: metric("mean_confidence", "Mean confidence (%)", "neither")(mean_confidence))
    try:
        found = score(np.zeros((2, 2)), np.array([0, 1]), ["head"] * 2)
        assert [*found][-3:] == ["mean_confidence", "per_class", "null_reasons"]
        assert found["mean_confidence"] == pytest.approx(50)
        assert value_path("mean_confidence") == value_path("metrics.mean_confidence") == "metrics.mean_confidence"
        assert METRICS.entry("mean_confidence").about == "Mean probability of the most probable class."
        with pytest.raises(PelError, match="the metric 'ece' is there already"):
            metric("ece", "Mine")(mean_confidence)
    finally:
        METRICS.remove(plugin)
    assert "mean_confidence" not in METRICS
    with pytest.raises(PelError, match="mean_confidence"):
        value_path("mean_confidence")
