"""Second stages of the long tail beside plain implementations: class means, nearest images, learnt factors of classes, tau."""

import pytest
import torch
from resuming import interrupted, train_once
from safetensors.torch import load_file
from torch.nn import functional as F

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.batches import EvalBatches
from pel_core.evaluation.trained_run import open_run
from pel_core.spec.results import metrics_file
from pel_core.spec.run_spec import RunSpec
from pel_core.training.run_inputs import load

METHOD = "adaptformer@2:4"
PARENT = RunSpec.make("toy-ir20", "toy", METHOD, 5, loss="ce", head="linear", init="random")
CPU = torch.device("cpu")


def child(**options):
    return RunSpec.make("toy-ir20", "toy", METHOD, 5, parents=[PARENT], **options)


@pytest.fixture(scope="module")
def results(toy_results):
    assert main(["train", PARENT.slug, "--results", str(toy_results)]) == 0
    return toy_results


@torch.no_grad()
def features(results, split="train"):
    """What the parent's network makes of images at the network's side, and their labels: loaded by hand."""
    data, classifier, _ = load(PARENT, results, CPU)
    state = load_file(results / "runs" / PARENT.slug / "delta.safetensors")
    for tuned in classifier.tuned:
        tuned.parameter.copy_(state[tuned.name])
    images = data.train if split == "train" else data.test
    batches = EvalBatches(images, "plain", 0, PARENT.pixels, PARENT.vit.mean, PARENT.vit.std, "cpu")
    found = torch.cat([classifier.vit(crops[:, 0]) for crops, _ in batches])
    return found, torch.as_tensor(images.labels).long(), state


def outcome(results, spec):
    """Train and evaluate a run; its record, logits of the test images and trained state."""
    assert main(["train", spec.train.slug, "--results", str(results)]) == 0
    assert main(["evaluate", spec.slug, "--results", str(results), "--logits", "full"]) == 0
    folder = metrics_file(results, spec.slug).parent
    logits = load_file(folder / "logits.safetensors")
    return read_json(folder / "metrics.json"), logits, load_file(results / "runs" / spec.train.slug / "delta.safetensors")


def test_nearest_class_mean_asks_the_features_of_the_first_stage(results):
    """A cosine head whose rows are class means of the parent's features, and no step: nothing trains."""
    spec = child(head="cosine", init="class-mean", take="delta", epochs=0, tte="none")
    record, _, state = outcome(results, spec)
    found, labels, there = features(results)
    means = torch.stack([found[labels == label].mean(0) for label in range(6)])
    torch.testing.assert_close(state["head.weight"], F.normalize(means, dim=-1), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(state[name], there[name]) for name in there if not name.startswith("head."))
    assert record["training"]["curve"] == [] and record["metrics"]["overall"] > 0
    bare = load(RunSpec.make("toy-ir20", "toy", "head-only", 5, init="class-mean"), results, CPU, fresh=True)[1].head.weight
    assert not torch.allclose(bare, state["head.weight"], atol=1e-3)


def test_nearest_images_vote_with_the_features_of_the_first_stage(results):
    spec = child(head="knn", take="delta", epochs=0, tte="none", **{"head.k": 5})
    assert not spec.needs_text
    record, _, state = outcome(results, spec)
    found, labels, _ = features(results)
    torch.testing.assert_close(state["head.features"], F.normalize(found, dim=-1), rtol=1e-4, atol=1e-5)
    assert torch.equal(state["head.labels"], labels) and record["parameters"]["head"] == 0
    asked, truth, _ = features(results, "test")
    near, which = (F.normalize(asked, dim=-1) @ F.normalize(found, dim=-1).T).topk(5)
    votes = torch.zeros(len(asked), 6).scatter_add_(1, labels[which], (near / 0.07).exp())
    right = (votes.argmax(1) == truth).double().mean().item()
    assert record["metrics"]["overall"] == pytest.approx(100 * right, abs=1.5)  # test images are cropped, training ones resized


def test_nearest_images_of_the_bare_backbone_need_no_first_stage(results):
    spec = RunSpec.make("toy-ir20", "toy", "head-only", 5, head="knn", epochs=0)
    record, _, state = outcome(results, spec)
    assert len(state["head.features"]) == record["data"]["train_images"]
    found, classifier, names = open_run(spec.slug, results, CPU)
    assert found == spec and len(names) == 6 and torch.equal(classifier.head.features, state["head.features"])


def test_tau_is_read_by_a_run_that_trains_nothing(results):
    """At tau = 1 the rows of the first stage's linear head decide by their directions, without their bias."""
    spec = child(head="linear", epochs=0, **{"head.tau_norm": 1})
    _, _, state = outcome(results, spec)
    there = load_file(results / "runs" / PARENT.slug / "delta.safetensors")
    assert state.keys() == there.keys() and all(torch.equal(state[name], there[name]) for name in there)
    classifier = load(spec, results, CPU, fresh=True)[1]
    asked = torch.randn(4, classifier.vit.width)
    rows = there["head.weight"] / there["head.weight"].norm(dim=1, keepdim=True)
    torch.testing.assert_close(classifier.head(asked), asked @ rows.T)


LWS = {"head": "linear", "head.scales": "alone", "train_delta": False, "loss": "ce"}


def test_learnable_weight_scaling_trains_a_factor_of_each_class_alone(results):
    """Three epochs of one step each, beside gradient descent written out on the features of the same images."""
    spec = child(**LWS, precision="fp32", epochs=3, batch_size=600, momentum=0, weight_decay=0, schedule="constant", lr=0.5)
    classifier = load(spec, results, CPU, fresh=True)[1]
    assert list(classifier.trainable()) == ["head.scales"] and classifier.census()["learnable_with_head"] == 6
    seen = []

    def watch(batches):
        class Watched:
            def __len__(self):
                return len(batches)

            def epoch(self, number, first):
                for images, labels, indices in batches.epoch(number, first):
                    seen.append((images.clone(), labels.clone()))
                    yield images, labels, indices

        return Watched()

    state, _ = train_once(results, spec, watch=watch)
    there = load_file(results / "runs" / PARENT.slug / "delta.safetensors")
    scales = torch.ones(6)
    assert len(seen) == 3
    for images, labels in seen:
        with torch.no_grad():
            plain = classifier.vit(images) @ there["head.weight"].T + there["head.bias"]
        shares = (plain * scales).softmax(1) - F.one_hot(labels, 6)
        scales = scales - 0.5 * (shares * plain).mean(0)  # d loss / d s_c = mean of (p_c - y_c) z_c
    torch.testing.assert_close(state["head.scales"], scales, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(state[name], there[name]) for name in there)


def test_an_interrupted_learning_of_factors_ends_bit_for_bit_where_another_ends(results, tmp_path):
    spec = child(**LWS, epochs=3)
    plain, _ = train_once(results, spec)
    state, _, lives = interrupted(results, spec, tmp_path / "c.safetensors", after=3)
    assert lives > 2 and all(torch.equal(state[name], plain[name]) for name in plain)


COSINE = RunSpec.make("toy-ir20", "toy", METHOD, 5, epochs=1)


@pytest.mark.parametrize("take, values", [("all", "balanced"), ("delta", "one-hot")])
def test_retrieval_beside_a_trained_classifier(results, take, values):
    """RAC's head on the parent's network: its rows (or the texts), and an index of what this network makes of training images;
    one test image at a time, and the same numbers from the stored run."""
    assert main(["train", COSINE.slug, "--results", str(results)]) == 0
    knobs = {"head.k": 4, "head.temperature": 0.1, "head.weight": 0.7, "head.values": values}
    spec = RunSpec.make("toy-ir20", "toy", METHOD, 5, parents=[COSINE], take=take, head="rac", epochs=0, tte="none", **knobs)
    record, logits, state = outcome(results, spec)
    data, parent, _ = load(COSINE, results, CPU)
    there = load_file(results / "runs" / COSINE.slug / "delta.safetensors")
    parent.load_trainable(there)
    assert torch.equal(state["head.weight"], there["head.weight"]) == (take == "all")
    rows = F.normalize(state["head.weight"], dim=-1)

    def seen(split, crops):
        batches = EvalBatches(split, crops, 0, COSINE.pixels, COSINE.vit.mean, COSINE.vit.std, "cpu")
        return F.normalize(torch.cat([parent.vit(views[:, 0]) for views, _ in batches]), dim=-1)

    with torch.no_grad():
        keys, asked, labels = seen(data.train, "plain"), seen(data.test, "none"), torch.as_tensor(data.train.labels).long()
        expected = []
        for one in asked:
            cosines, nearest = (keys @ one).sort(descending=True)
            shares = (cosines[:4] / 0.1).exp()
            if values == "balanced":
                shares = shares / torch.tensor([(labels == labels[i]).sum() for i in nearest[:4]])
            retrieved = sum(share * rows[labels[i]] for share, i in zip(shares / shares.sum(), nearest[:4], strict=True))
            expected.append(25 * (rows @ one + 0.7 * rows @ retrieved / retrieved.norm()))
    torch.testing.assert_close(logits["logits"].float(), torch.stack(expected), rtol=1e-3, atol=2e-3)
    assert len(state["head.keys"]) == len(labels) and record["parameters"]["learnable_with_head"] == 0


def test_retrieval_of_no_weight_is_the_classifier(results):
    assert main(["train", COSINE.slug, "--results", str(results)]) == 0
    spec = RunSpec.make("toy-ir20", "toy", METHOD, 5, parents=[COSINE], head="rac", epochs=0, **{"head.weight": 0})
    ours, theirs = (outcome(results, each)[1]["logits"].float() for each in (spec, COSINE))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_retrieval_on_the_bare_network_starts_from_texts(results):
    spec = RunSpec.make("toy-ir20", "toy", "head-only", 5, head="rac", epochs=0)
    found = load(spec, results, CPU, fresh=True)[1].head
    start = load(RunSpec.make("toy-ir20", "toy", "head-only", 5), results, CPU, fresh=True)[1].head
    assert torch.equal(found.weight, start.weight) and len(found.keys)
    assert outcome(results, spec)[0]["metrics"]["overall"] >= 0


def test_factors_are_stored_read_and_taken_over_again(results):
    spec = child(**LWS, epochs=1)
    record, _, state = outcome(results, spec)
    assert record["parameters"]["learnable_with_head"] == 6 and state["head.scales"].ne(1).any()
    again = RunSpec.make("toy-ir20", "toy", METHOD, 5, parents=[spec], head="linear", **{"head.scales": "learnable"})
    assert torch.equal(load(again, results, CPU, fresh=True)[1].head.scales, state["head.scales"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "knn", "take": "delta"}, "head=knn is not possible .* it needs epochs=0"),
        ({"head": "rac", "take": "delta"}, "head=rac is not possible .* it needs epochs=0: its rows are trained as those"),
        ({"head": "rac", "epochs": 0}, "its head is linear, this run's rac"),
        ({"head": "rac", "take": "delta", "epochs": 0, "head.k": 0}, "at least 1"),
        (
            {"head": "knn", "take": "delta", "epochs": 0, "init": "class-mean"},
            "init=class-mean has no effect .* needs another head than knn",
        ),
        ({"head": "cosine", "take": "delta", "head.tau_norm": 1}, r"head.tau_norm=1 has no effect .* it needs head=linear"),
        (
            {"head": "knn", "take": "delta", "epochs": 0, "head.scales": "alone"},
            r"head.scales=alone has no effect .* head=cosine",
        ),
        ({**LWS, "train_head": False}, "head.scales=alone has no effect .* train_head=true"),
        ({**LWS, "take": "delta"}, "head.scales=alone has no effect .* needs a run to start from whose head is taken over"),
        ({**LWS, "head.scales": "only"}, "must be one of none, learnable, alone"),
    ],
)
def test_stages_that_cannot_be_are_refused(options, message):
    with pytest.raises(PelError, match=message):
        child(**options)


def test_second_stages_without_a_first_are_refused():
    for stage in ({"head.scales": "alone"}, {"train_delta": False}, {"take": "head"}):
        with pytest.raises(PelError, match=r"has no effect .* a run to start from .*from:"):
            RunSpec.make("toy-ir20", "toy", METHOD, 5, **stage)


def test_factors_are_not_dropped_silently():
    first = RunSpec.make("toy-ir20", "toy", METHOD, 5, head="linear", init="random", **{"head.scales": "learnable"})
    with pytest.raises(PelError, match=r"its head has factors of its classes \(head.scales=learnable\), this run's has none"):
        RunSpec.make("toy-ir20", "toy", METHOD, 5, parents=[first], head="linear")


def test_neighbours_of_the_untuned_network_have_no_spread(toy_results):
    """Nothing is drawn: a table takes one seed of it and prints no ±."""

    def neighbours(method="head-only", seed=3, **options):
        return RunSpec.make("toy-ir20", "toy", method, seed, head="knn", epochs=0, **options)

    assert not neighbours().seeded and neighbours("adaptformer").seeded
    assert neighbours("adaptformer", take="delta", parents="adaptformer,loss:ce").seeded
    first, second = (train_once(toy_results, neighbours(seed=seed))[0] for seed in (0, 1))
    assert first and all(torch.equal(first[name], second[name]) for name in first)
