"""Evaluation in reduced precision stays within its declared tolerance, costs no training run and says what it was."""

import pytest
import torch

from pel_core.cli.main import main
from pel_core.common.files import read_json
from pel_core.common.tensors import read_tensors
from pel_core.data.batches import EvalBatches
from pel_core.ingest.prepare import prepare
from pel_core.models.weights import prepare_backbone
from pel_core.spec.choices import CHOICES
from pel_core.spec.results import metrics_file
from pel_core.spec.run_spec import RunSpec
from pel_core.training.loop import EVALUATION_TOLERANCE, predict
from pel_core.training.run_inputs import describe, load, load_trained

SLUG = "toy-ir20.toy.adaptformer.s0"


@pytest.fixture(scope="module")
def demo_results(tmp_path_factory):
    """The demo's backbone, whose weights were trained, and one of its data sets."""
    results = tmp_path_factory.mktemp("demo")
    prepare_backbone("clip-mini", results / "backbones" / "clip-mini")
    prepare("demo-cifar", results / "data" / "demo-cifar")
    return results


def test_every_reduced_precision_has_a_tolerance():
    assert set(EVALUATION_TOLERANCE) == set(CHOICES["eval_precision"]) - {"fp32"}


def logits(results, slug, precision, images=1000):
    """Of the first test images, with a head that means something."""
    spec = RunSpec.parse(slug)
    data, classifier, _ = load(spec, results, torch.device("cpu"), fresh=True)
    batches = EvalBatches(data.test, spec.tte, spec.expand, spec.pixels, spec.vit.mean, spec.vit.std, "cpu")
    return predict(classifier, list(batches)[: -(-images // 64)], precision=precision)


@pytest.mark.parametrize("precision", EVALUATION_TOLERANCE)
@pytest.mark.parametrize(
    ("results", "slug"),
    [
        ("toy_results", "toy-ir20.toy.adapter.s0.init=class-mean"),
        ("demo_results", "demo-cifar-ir100.clip-mini.adaptformer.s0.init=shot-10"),
    ],
)
def test_reduced_precision_stays_within_its_tolerance(request, results, slug, precision):
    results = request.getfixturevalue(results)
    exact, low = (logits(results, slug, word, images=64) for word in ("fp32", precision))
    largest, changed = EVALUATION_TOLERANCE[precision]
    assert low.dtype == torch.float32
    assert 0 < (low - exact).abs().max() <= largest * exact.abs().max()
    assert (low.argmax(1) != exact.argmax(1)).float().mean() <= changed


@pytest.mark.parametrize("tte", ["fivecrop", "randaug"])
def test_the_head_and_the_mean_are_in_fp32(toy_results, tte):
    """In bf16 a logit of 20 would be a multiple of 1/8."""
    low = logits(toy_results, f"toy-ir20.toy.head-only.s0{'' if tte == 'fivecrop' else '.tte=randaug'}", "bf16")
    assert not torch.equal(low, low.bfloat16().float())


@pytest.mark.parametrize("method", ["adaptformer", "zero-shot"])
def test_it_is_another_evaluation_of_the_same_training_run(method):
    spec = RunSpec.make("toy-ir20", "toy", method, 0, eval_precision="bf16")
    assert spec.slug == f"toy-ir20.toy.{method}.s0.eval_precision=bf16"
    assert spec.train == RunSpec.make("toy-ir20", "toy", method, 0) and RunSpec.parse(spec.slug) == spec


def test_the_result_says_its_precision_and_the_first_one_stays(toy_results):
    words = ["--results", str(toy_results), "--no-tensorboard"]
    assert main(["train", SLUG, *words]) == 0
    for slug in (SLUG, f"{SLUG}.eval_precision=bf16"):
        assert main(["evaluate", slug, *words, "--logits", "full"]) == 0
    exact, low = (read_json(metrics_file(toy_results, slug)) for slug in (SLUG, f"{SLUG}.eval_precision=bf16"))
    assert (exact["evaluation"]["precision"], low["evaluation"]["precision"]) == ("fp32", "bf16")
    # Its weights are held in bf16: the same numbers as cast at each use.
    spec = RunSpec.parse(f"{SLUG}.eval_precision=bf16")
    data, classifier, info = load(spec, toy_results, torch.device("cpu"))
    load_trained(spec, toy_results, classifier, describe(spec, data, info, classifier))
    batches = EvalBatches(data.test, spec.tte, spec.expand, spec.pixels, spec.vit.mean, spec.vit.std, "cpu")
    stored, _ = read_tensors(metrics_file(toy_results, spec.slug).with_name("logits.safetensors"))
    assert torch.equal(stored["logits"], predict(classifier, batches, precision="bf16"))
    assert exact["training"] == low["training"] and exact["metrics"]["nll"] != low["metrics"]["nll"]
