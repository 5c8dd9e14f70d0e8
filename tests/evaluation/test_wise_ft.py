"""WiSE-FT: evaluations between where a training started and where it ended, against the interpolation written out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.tensors import read_tensors
from pel_core.data.batches import EvalBatches
from pel_core.evaluation.trained_run import open_run
from pel_core.models.methods import METHODS, methods_for
from pel_core.spec.results import metrics_file, run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.training.loop import predict
from pel_core.training.run_inputs import load

CPU = torch.device("cpu")
METHOD = "lora+ln+vpt-shallow"
TRAINABLE = [name for name in methods_for("vit") if METHODS[name].trains_head]


def trained(results, slug):
    """Its parameters, as the file has them."""
    return read_tensors(run_folder(results, slug) / "delta.safetensors")[0]


def logits(results, slug):
    """What the stage `predict` has stored."""
    return read_tensors(metrics_file(results, slug).with_name("logits.safetensors"))[0]["logits"]


def evaluate(results, slug):
    assert main(["evaluate", slug, "--results", str(results), "--no-tensorboard", "--logits", "full"]) == 0


@pytest.fixture(scope="module", params=["text", "class-mean"])
def run(toy_results, request):
    """A trained run of each kind of start, and its evaluations at 0, 0.4 and 1."""
    options = {} if request.param == "text" else {"init": request.param}
    spec = RunSpec.make("toy-ir20", "toy", METHOD, 0, **options)
    assert main(["train", spec.slug, "--results", str(toy_results), "--no-tensorboard"]) == 0
    for alpha in ("", ".wise_ft=0", ".wise_ft=0.4"):
        evaluate(toy_results, f"{spec.slug}{alpha}")
    return spec


def of_parameters(results, spec, state):
    """Logits of the network with these parameters."""
    data, classifier, _ = load(spec, results, CPU)
    classifier.load_trainable(state)
    return predict(classifier, EvalBatches(data.test, spec.tte, spec.expand, spec.pixels, spec.vit.mean, spec.vit.std, CPU))


def test_it_is_the_interpolation_of_start_and_end(toy_results, run):
    start = load(run, toy_results, CPU, fresh=True)[1].trainable_state()
    end = trained(toy_results, run.slug)
    assert start.keys() == end.keys() and any(not torch.equal(start[name], end[name]) for name in start)
    plain = {name: 0.6 * start[name].double() + 0.4 * end[name].double() for name in end}
    found = logits(toy_results, f"{run.slug}.wise_ft=0.4")
    torch.testing.assert_close(found, of_parameters(toy_results, run, plain), rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(toy_results, f"{run.slug}.wise_ft=0"), of_parameters(toy_results, run, start))
    assert torch.equal(logits(toy_results, run.slug), of_parameters(toy_results, run, end))


def test_it_trains_nothing_again_and_says_so(toy_results, run):
    plain, between = (read_json(metrics_file(toy_results, f"{run.slug}{end}")) for end in ("", ".wise_ft=0.4"))
    assert between["training"] == plain["training"] and between["delta_sha256"] == plain["delta_sha256"]
    assert between["spec"]["wise_ft"] == 0.4 and between["metrics"] != plain["metrics"]
    spec = RunSpec.parse(f"{run.slug}.wise_ft=0.4")
    assert spec.train == run and spec != run
    assert metrics_file(toy_results, spec.slug).parent.parent == run_folder(toy_results, run.slug)
    card = (run_folder(toy_results, run.slug) / "README.md").read_text()
    assert "`wise_ft: 0.4`" in card


def test_a_run_that_classifies_new_images_has_the_same_network(toy_results, run):
    slug = f"{run.slug}.wise_ft=0.4"
    if run.init != "text":
        with pytest.raises(PelError, match="init=class-mean takes from the training images"):
            open_run(slug, toy_results, CPU)
        return
    spec, classifier, _ = open_run(slug, toy_results, CPU)
    data = load(spec, toy_results, CPU)[0]
    batches = EvalBatches(data.test, spec.tte, spec.expand, spec.pixels, spec.vit.mean, spec.vit.std, CPU)
    assert torch.equal(predict(classifier, batches), logits(toy_results, slug))


@settings(max_examples=20, deadline=None)
@given(alpha=st.floats(0, 1), method=st.sampled_from(TRAINABLE))
def test_what_is_trained_of_every_method_is_interpolated(toy_results, alpha, method):
    """And what is no parameter of the run stays as it is; its ends are start and end to the bit."""
    _, classifier, _ = load(RunSpec.make("toy-ir20", "toy", method, 0), toy_results, CPU)
    frozen = {name: value.clone() for name, value in classifier.named_parameters() if not value.requires_grad}
    start = classifier.trainable_state()
    end = {name: value + torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) for name, value in start.items()}
    classifier.load_trainable(end)
    classifier.interpolate(start, alpha)
    for name, value in classifier.trainable_state().items():
        torch.testing.assert_close(value, (1 - alpha) * start[name] + alpha * end[name], rtol=1e-5, atol=1e-5)
        assert alpha not in (0, 1) or torch.equal(value, (start, end)[int(alpha)][name])
    assert all(torch.equal(dict(classifier.named_parameters())[name], value) for name, value in frozen.items())


def test_of_lora_it_is_not_the_interpolation_of_the_merged_matrices(toy_results):
    """docs/averaging.md: a (A0 + a (A1 - A0)) B1, since B starts at zero; not a A1 B1."""
    _, classifier, _ = load(RunSpec.make("toy-ir20", "toy", "lora", 0), toy_results, CPU)
    start = classifier.trainable_state()
    end = {name: value + torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) for name, value in start.items()}
    down, up = (next(name for name in start if word in name) for word in (".down.", ".up."))
    classifier.load_trainable(end)
    classifier.interpolate(start, 0.5)
    state = classifier.trainable_state()
    product = state[down] @ state[up]
    torch.testing.assert_close(product, 0.5 * (start[down] + 0.5 * (end[down] - start[down])) @ end[up], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(product, 0.5 * end[down] @ end[up], rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("ln", {"wise_ft": 1.5}, "at most 1"),
        ("ln", {"wise_ft": -0.1}, "at least 0"),
        ("ln", {"wise_ft": 0.5, "init": "random"}, "a head that starts at random knows no class"),
        ("ln", {"wise_ft": 0.5, "epochs": 0}, "it must be 1, since nothing trains in 0 epochs"),
        ("zero-shot", {"wise_ft": 0.5}, "it needs a method that trains"),
    ],
)
def test_what_has_no_meaning_is_refused(method, options, words):
    with pytest.raises(PelError, match=words):
        RunSpec.make("toy", "toy", method, 0, **options)
