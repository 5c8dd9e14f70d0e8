"""The losses ``paco`` and ``gpaco``: against the public code's numbers, a loop in words and a plain training; queue, momentum
encoder, what a checkpoint holds of them, and what is refused."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.batches import TrainBatches
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.gflop import forward_gflop, passes, training_gflop
from pel_core.training import distributed
from pel_core.training.checkpoints import CheckpointManager, read_checkpoint
from pel_core.training.contrastive import Projector
from pel_core.training.losses import Prior, make_loss
from pel_core.training.momentum import MomentumKeys
from pel_core.training.paco import GeneralizedContrast, ParametricContrast, Queue, parametric_contrast, queue_size
from pel_core.training.run_inputs import load
from pel_core.training.step import OutOfMemory, Step
from pel_core.training.views import with_views
from tests.resuming import train_once
from tests.training.test_contrastive import Plain

GOLDEN = read_json(Path(__file__).parents[1] / "golden" / "parametric-contrast.json")
CPU, MEAN = torch.device("cpu"), ((0.0,) * 3, (1.0,) * 3)
SMALL = {"loss": "paco", "loss.dim": 16, "loss.queue": 24, "loss.momentum": 0.9, "epochs": 1}
GENERALISED = {name: value for name, value in SMALL.items() if name != "loss.momentum"} | {"loss": "gpaco"}


def spec(method="adaptformer", **options):
    """A small run; of ``gpaco`` without the knob of a momentum encoder."""
    base = GENERALISED if options.get("loss") == "gpaco" else SMALL
    return RunSpec.make("toy-ir20", "toy", method, 3, **{**base, **options})


def made(*shape, k, at=0.0):
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64) * k + at).sin().reshape(shape).float()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def unit(rows, width, seed):
    return F.normalize(torch.randn(rows, width, generator=generator(seed)), dim=-1)


def in_words(logits, z, labels, others, other_labels, alpha, beta, gamma, temperature):
    """The public code's loss, one image and one pair at a time."""
    total = 0.0
    for i in range(len(z)):
        rest = [(z[k], labels[k]) for k in range(len(z)) if k != i] + list(zip(others, other_labels, strict=True))
        below = sum(torch.exp(value) for value in logits[i]) + gamma * sum(torch.exp(z[i] @ x / temperature) for x, _ in rest)
        own = [alpha * (z[i] @ x / temperature - below.log()) for x, label in rest if label == labels[i]]
        total = total - (beta * (logits[i][labels[i]] - below.log()) + sum(own)) / (beta + alpha * len(own))
    return total / len(z)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['alpha']}-{case['temperature']}")
def test_the_term_is_the_public_codes(case):
    q, logits = made(4, 3, k=0.7).requires_grad_(), (3 * made(4, 3, k=1.7)).requires_grad_()
    others = torch.cat([F.normalize(made(4, 3, k=1.3), dim=1), F.normalize(made(5, 3, k=2.1), dim=0)])
    labels, prior = torch.tensor(GOLDEN["labels"]), torch.tensor(GOLDEN["counts"])
    rest = torch.cat([labels, torch.tensor(GOLDEN["queued"])])
    terms = {name: case[name] for name in ("alpha", "beta", "gamma", "temperature")}
    value = parametric_contrast(logits + (prior / prior.sum()).log(), F.normalize(q, dim=1), labels, others, rest, **terms)
    assert value.item() == pytest.approx(case["loss"], rel=1e-5)
    for found, expected in zip(torch.autograd.grad(value, (q, logits)), ("grad_anchors", "grad_logits"), strict=True):
        torch.testing.assert_close(found.flatten(), torch.tensor(case[expected]), rtol=1e-4, atol=1e-6)


def test_three_steps_are_the_public_codes():
    """Encoder, momentum encoder, queue and pointer after three steps of SGD, from its own builder on a small network."""
    golden = GOLDEN["steps"]
    body, linear, criterion = nn.Linear(6, 5), nn.Linear(5, 3), ParametricContrast(Prior(torch.tensor(GOLDEN["counts"])), dim=3,
                                                                                  queue=10, momentum=0.9)  # fmt: skip
    criterion.attach(5, generator())
    projector = criterion.of_images
    ours = [body.weight, body.bias, projector.hidden, projector.hidden_bias, projector.norm.weight, projector.norm.bias,
            projector.out, projector.out_bias, linear.weight, linear.bias]  # fmt: skip
    with torch.no_grad():
        for at, parameter in enumerate(ours):
            parameter.copy_(made(*parameter.shape, k=0.9, at=at))
        criterion.queue.keys.copy_(F.normalize(made(10, 3, k=2.1), dim=0))
        criterion.queue.labels.copy_(torch.arange(10) % 3)
    network = SimpleNamespace(vit=body, head=SimpleNamespace(feature=lambda features: features))
    names = [*map(str, range(8)), "head.weight", "head.bias"]
    keys = MomentumKeys(network, criterion, dict(zip(names, ours, strict=True)))
    optimizer = torch.optim.SGD(ours, lr=0.1, weight_decay=0.01)
    for step, expected in enumerate(golden["losses"]):
        labels, features = torch.tensor([0, 1, 0, 2, step]), body(made(5, 6, k=0.37, at=step))
        keys.follow()
        value = criterion(linear(features), labels, features[:, None], linear.weight, keys(made(5, 6, k=0.53, at=step), 2))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        criterion.queue.enter()
        assert value.item() == pytest.approx(expected, rel=1e-5)
    for found, kind in ((ours[:8], "encoder"), (ours[8:], "linear"), (keys.copies.values(), "key_encoder")):
        for tensor, numbers in zip(found, golden[kind], strict=True):
            torch.testing.assert_close(tensor.detach().flatten(), torch.tensor(numbers), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(criterion.queue.keys.flatten(), torch.tensor(golden["queue"]), rtol=1e-4, atol=1e-6)
    assert criterion.queue.labels.tolist() == golden["queue_labels"] and criterion.queue.oldest.item() == golden["pointer"]


def test_three_steps_are_the_public_codes_generalised():
    """Both views of a batch through one network, which learns from both."""
    golden, prior = GOLDEN["generalised"], Prior(torch.tensor(GOLDEN["counts"]))
    body, linear, criterion = nn.Linear(6, 5), nn.Linear(5, 3), GeneralizedContrast(prior, dim=3, queue=10)
    criterion.attach(5, generator())
    ours = [*body.parameters(), *criterion.of_images.parameters(), *linear.parameters()]
    with torch.no_grad():
        for at, parameter in enumerate(ours):
            parameter.copy_(made(*parameter.shape, k=0.9, at=at))
        criterion.queue.keys.copy_(F.normalize(made(10, 3, k=2.1), dim=0))
        criterion.queue.labels.copy_(torch.arange(10) % 3)
    optimizer = torch.optim.SGD(ours, lr=0.1, weight_decay=0.01)
    for step, expected in enumerate(golden["losses"]):
        labels = torch.tensor([0, 1, 0, 2, step])
        features = body(torch.stack([made(5, 6, k=0.37, at=step), made(5, 6, k=0.53, at=step)], 1))
        value = criterion(linear(features), labels, features, linear.weight)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        criterion.queue.enter()
        assert value.item() == pytest.approx(expected, rel=1e-5)
    for found, kind in ((ours[:8], "encoder"), (ours[8:], "linear")):
        for tensor, numbers in zip(found, golden[kind], strict=True):
            torch.testing.assert_close(tensor.detach().flatten(), torch.tensor(numbers), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(criterion.queue.keys.flatten(), torch.tensor(golden["queue"]), rtol=1e-4, atol=1e-6)
    assert criterion.queue.labels.tolist() == golden["queue_labels"] and criterion.queue.oldest.item() == golden["pointer"]


@given(
    seed=st.integers(0, 1000),
    images=st.integers(1, 5),
    queued=st.integers(0, 6),
    alpha=st.sampled_from([0.0, 0.05, 1.0]),
    gamma=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_the_term_in_words(seed, images, queued, alpha, gamma):
    z, others, logits = unit(images, 4, seed), unit(images + queued, 4, seed + 1), unit(images, 3, seed + 2) * 5
    labels, rest = (torch.randint(3, (count,), generator=generator(seed)) for count in (images, images + queued))
    terms = {"alpha": alpha, "beta": 1.0, "gamma": gamma, "temperature": 0.2}
    value = parametric_contrast(logits, z, labels, others, rest, **terms)
    torch.testing.assert_close(value, in_words(logits, z, labels, others, rest, **terms), rtol=1e-4, atol=1e-5)
    if not alpha and not gamma:
        torch.testing.assert_close(value, F.cross_entropy(logits, labels))


@given(size=st.integers(1, 9), batches=st.lists(st.integers(1, 12), max_size=8))
def test_the_queue_holds_the_newest(size, batches):
    queue = Queue(size, 2, 5, generator())
    newest = list(zip(queue.keys.clone(), queue.labels.clone(), strict=True))
    assert torch.allclose(queue.keys.norm(dim=0), torch.ones(2))
    for number, count in enumerate(batches):
        keys, labels = unit(count, 2, number), torch.arange(count) % 5
        queue.stage(-keys, labels)
        queue.drop()
        for part in (slice(0, count // 2), slice(count // 2, count)):
            queue.stage(keys[part], labels[part])
        queue.enter()
        newest = [*newest, *zip(keys, labels, strict=True)][-size:]
    queue.enter()  # nothing
    order = (torch.arange(size) + queue.oldest) % size
    if all(count < size for count in batches):
        assert torch.equal(queue.keys[order], torch.stack([key for key, _ in newest]))
    assert sorted(queue.labels.tolist()) == sorted(int(label) for _, label in newest)


def test_the_queue_of_itself_is_a_tenth_of_the_images():
    assert [queue_size(images) for images in (3, 10_847, 115_846, 437_513)] == [1, 1084, 8192, 8192]
    criterion = make_loss(spec(**{"loss.queue": "auto"}), torch.tensor([600.0, 30.0]))
    criterion.attach(4, generator())
    assert criterion.queue.keys.shape == (63, 16)


def started(results, run):
    data, classifier, _ = load(run, results, CPU, fresh=True)
    step = Step(classifier, make_loss(run, torch.as_tensor(data.train_counts)), run, CPU, ProcessGroup())
    return data, step, with_views(TrainBatches(data.train, run, run.pixels, *MEAN, CPU), run)


@pytest.mark.parametrize("feature", ["width", "projected"])
def test_three_steps_are_those_of_a_plain_loop(toy_results, feature):
    """Values, gradients and three steps of SGD with a momentum encoder that is a whole second network, as its authors have it."""
    run = spec(**{"head.feature": feature, "batch_size": 10, "precision": "fp32", "momentum": 0.0})
    data, step, batches = started(toy_results, run)
    counts = torch.as_tensor(data.train_counts)
    twin, plain = load(run, toy_results, CPU, fresh=True)[1], Plain(step.criterion.of_images)
    slow = copy.deepcopy((twin, plain))
    learnt = [*twin.trainable().values(), *plain.parameters()]
    optimizer = torch.optim.SGD(learnt, lr=run.lr, weight_decay=run.weight_decay)
    queue = list(zip(step.criterion.queue.keys.clone(), step.criterion.queue.labels.clone(), strict=True))
    for _, (images, labels, indices) in zip(range(3), batches.epoch(0), strict=False):
        features = twin.vit(images[:, 0])
        z = plain(twin.head.feature(features))
        with torch.no_grad():
            for fast, behind in ((twin, slow[0]), (plain, slow[1])):
                for value, follower in zip(fast.parameters(), behind.parameters(), strict=True):
                    follower.copy_(0.9 * follower + 0.1 * value)
            keys = slow[1](slow[0].head.feature(slow[0].vit(images[:, 1])))
        others = [*zip(keys, labels, strict=True), *queue]
        logits = twin.head(features) + torch.log(counts / counts.sum())
        value = in_words(logits, z, labels, [key for key, _ in others], [label for _, label in others], 0.05, 1.0, 1.0, 0.2)
        queue = [*queue, *others[: len(keys)]][-24:]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total, correct = step(images, labels, len(indices))
        assert total.item() / 10 == pytest.approx(value.item(), rel=1e-4)
        assert correct.item() == (logits - torch.log(counts / counts.sum())).argmax(1).eq(labels).sum().item()
    for name, value in twin.trainable().items():
        torch.testing.assert_close(step.classifier.trainable()[name], value, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(step.criterion.of_images.out, plain.net[3].weight, rtol=1e-3, atol=2e-5)
    for name, value in slow[0].trainable().items():
        if not name.startswith("head."):
            torch.testing.assert_close(step.keys.copies[name], value, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(step.keys.copies["loss.of_images.hidden"], slow[1].net[0].weight, rtol=1e-3, atol=2e-5)
    order = (torch.arange(24) + step.queue.oldest) % 24
    torch.testing.assert_close(step.queue.keys[order], torch.stack([key for key, _ in queue]), rtol=1e-3, atol=2e-5)
    assert step.queue.labels[order].tolist() == [int(label) for _, label in queue]


def test_three_steps_of_the_generalised_are_those_of_a_plain_loop(toy_results):
    run = spec(loss="gpaco", batch_size=10, precision="fp32", momentum=0.0)
    data, step, batches = started(toy_results, run)
    prior = torch.as_tensor(data.train_counts) / sum(data.train_counts)
    twin, plain = load(run, toy_results, CPU, fresh=True)[1], copy.deepcopy(step.criterion.of_images.layers)
    optimizer = torch.optim.SGD([*twin.trainable().values(), *plain.parameters()], lr=run.lr, weight_decay=run.weight_decay)
    queue = list(zip(step.criterion.queue.keys.clone(), step.criterion.queue.labels.clone(), strict=True))
    for _, (images, labels, indices) in zip(range(3), batches.epoch(0), strict=False):
        features = torch.cat([twin.vit(images[:, 0]), twin.vit(images[:, 1])])
        z, logits = F.normalize(plain(twin.head.feature(features)), dim=1), twin.head(features) + prior.log()
        others = [key for key, _ in queue], [label for _, label in queue]
        value = in_words(logits, z, labels.repeat(2), *others, 0.05, 1.0, 1.0, 0.2)
        queue = [*queue, *zip(z[10:].detach(), labels, strict=True)][-24:]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total, correct = step(images, labels, len(indices))
        assert total.item() / 10 == pytest.approx(value.item(), rel=1e-4)
        assert correct.item() == (logits - prior.log())[:10].argmax(1).eq(labels).sum().item()
    for name, value in twin.trainable().items():
        torch.testing.assert_close(step.classifier.trainable()[name], value, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(step.criterion.of_images.layers[4].weight, plain[4].weight, rtol=1e-3, atol=2e-5)
    order = (torch.arange(24) + step.queue.oldest) % 24
    torch.testing.assert_close(step.queue.keys[order], torch.stack([key for key, _ in queue]), rtol=1e-3, atol=2e-5)
    assert step.keys is None and set(step.kept) == {"queue.keys", "queue.labels", "queue.oldest"}


def test_the_copy_holds_only_what_trains_and_no_head(toy_results):
    _, step, _ = started(toy_results, spec())
    projector = sum(value.numel() for value in Projector(step.classifier.head.weight.shape[1], 16, generator()).parameters())
    held = sum(value.numel() for value in step.keys.copies.values())
    assert held == step.classifier.census()["learnable"] + projector
    assert not any(name.startswith("head.") for name in step.keys.copies)


def after_a_step(results, prepare=lambda step: None, **options):
    run = spec(batch_size=32, **options)
    _, step, batches = started(results, run)
    prepare(step)
    images, labels, _ = next(iter(batches.epoch(0)))
    sums = step(images, labels, 32)
    return sums, {name: value.detach().clone() for name, value in (step.trained | step.kept).items()}, step


@pytest.mark.parametrize("loss", ["paco", "gpaco"])
def test_micro_batches_are_parts_of_one_contrast(toy_results, loss):
    """As where memory is short: the gradient at logits and features of the whole group, then part by part."""
    whole, parts = (after_a_step(toy_results, lambda step, size=size: setattr(step, "micro_batch", size), loss=loss)
                    for size in (32, 5))  # fmt: skip
    torch.testing.assert_close(parts[:2], whole[:2], atol=2e-5, rtol=1e-4)


def test_a_step_that_is_taken_again_for_want_of_memory_finds_queue_and_copy_as_they_were(toy_results):
    def fails_once(step):
        project, calls = step.criterion.forward, []

        def forward(*words):
            found = project(*words)
            calls.append(1)
            if len(calls) == 1:
                raise OutOfMemory("as a GPU would say")
            return found

        step.criterion.forward = forward

    whole, again = after_a_step(toy_results), after_a_step(toy_results, fails_once)
    assert again[2].micro_batch == 16
    torch.testing.assert_close(again[:2], whole[:2], atol=2e-5, rtol=1e-4)


def test_groups_are_contrasts_of_their_own_and_keys_enter_once_a_step(toy_results):
    plain, groups, sam = (after_a_step(toy_results, **options) for options in ({}, {"accumulate": 2}, {"sharpness": "sam"}))
    for _, found, step in (plain, groups, sam):
        # 32 keys of 24 places: the last 24
        assert found["queue.oldest"] == 0 and len(found["queue.labels"]) == 24 and not step.queue._staged
    assert torch.equal(sam[1]["queue.keys"], plain[1]["queue.keys"])  # both passes have the same momentum encoder
    assert torch.equal(groups[1]["queue.labels"], plain[1]["queue.labels"])
    assert not torch.allclose(groups[1]["queue.keys"], plain[1]["queue.keys"])  # batch norm is of a group


def test_a_row_alone_is_projected_as_two_that_are_equal():
    """Both are their own mean; torch normalises no single row."""
    projector = Projector(4, 3, generator())
    torch.nn.init.normal_(projector.norm.bias, generator=generator(1))
    row = torch.randn(1, 4, generator=generator(2))
    torch.testing.assert_close(projector(row), projector(row.repeat(2, 1))[:1])


@pytest.mark.parametrize("loss", ["paco", "gpaco"])
def test_the_last_image_of_an_epoch_may_be_alone(toy_results, loss):
    _, step, batches = started(toy_results, spec(batch_size=32, loss=loss))
    images, labels, _ = next(iter(batches.epoch(0)))
    sums = step(images[:1], labels[:1], 1)
    assert torch.isfinite(sums).all() and step.queue.oldest == 1 and step.queue.labels[0] == labels[0]
    assert all(torch.isfinite(value).all() for value in (step.trained | step.kept).values())


def test_keys_are_those_of_the_first_pass_of_sam(toy_results):
    """Of the loss without a momentum encoder the second pass would have others."""
    plain, sam = (after_a_step(toy_results, loss="gpaco", **options) for options in ({}, {"sharpness": "sam"}))
    assert torch.equal(sam[1]["queue.keys"], plain[1]["queue.keys"])


def test_what_is_kept_in_checkpoints_and_left_out_of_the_result(toy_results, tmp_path):
    path = tmp_path / "c.safetensors"
    state, _ = train_once(toy_results, spec(batch_size=64), CheckpointManager(path))
    kept = read_checkpoint(path)[0]
    plain, _ = train_once(toy_results, RunSpec.make("toy-ir20", "toy", "adaptformer", 3, epochs=1))
    assert state.keys() == plain.keys()
    trained = {name for name in kept if name.startswith("loss.")}
    assert len(trained) == 6 and {f"key.{name}" for name in trained} <= kept.keys()
    assert {"queue.keys", "queue.labels", "queue.oldest"} <= kept.keys()
    assert not torch.equal(kept["key.loss.of_images.out"], kept["loss.of_images.out"])
    deltas = [name for name in kept if name.startswith("parameter.") and not name.startswith("parameter.head.")]
    assert {name.replace("parameter.", "key.", 1) for name in deltas} <= kept.keys()


def test_the_start_is_the_seeds(toy_results):
    """Projector and queue come from the run's generator of that name: again the same, another seed another."""
    kept = [started(toy_results, run)[1].kept for run in (spec(), spec(), RunSpec.make("toy-ir20", "toy", "lora", 4, **SMALL))]
    assert torch.equal(kept[0]["queue.keys"], kept[1]["queue.keys"])
    assert not torch.equal(kept[0]["queue.keys"], kept[2]["queue.keys"])


def test_what_a_run_costs():
    """Two views with momentum encoder: one goes there and back, one there."""
    run, plain = spec(), RunSpec.make("toy-ir20", "toy", "adaptformer", 3, epochs=1)
    assert training_gflop(run) == pytest.approx(training_gflop(plain) + forward_gflop(plain)) and passes(run) == 2
    assert training_gflop(spec(loss="gpaco")) == 2 * training_gflop(plain)
    assert training_gflop(spec(sharpness="sam")) == pytest.approx(2 * training_gflop(run))


def test_reduced_precision_is_near(toy_results):
    losses = [after_a_step(toy_results, precision=precision)[0][0].item() / 32 for precision in ("fp32", "fp16", "bf16")]
    assert losses == pytest.approx([losses[0]] * 3, rel=0.02)


def test_several_processes_are_refused():
    with pytest.raises(PelError, match=r"the loss 'paco' is no mean over images, .* train on one GPU"):
        distributed.check(spec())


@pytest.mark.parametrize("loss", ["paco", "gpaco"])
@pytest.mark.parametrize(
    "method, options, words",
    [
        ("adaptformer", {"mix": "mixup"}, "mix=mixup is not possible .* a loss that takes the two labels of a mixed image"),
        ("adaptformer", {"reweight": "effective"}, "reweight=effective is not possible .* a loss that is a mean over images"),
        ("adaptformer", {"sharpness": "imbsam"}, "sharpness=imbsam is not possible .* a loss that is a mean over images"),
        ("head-only", {}, "loss=g?paco is not possible for head-only here; it needs features that change"),
        ("adaptformer", {"train_delta": False}, "loss=g?paco is not possible .* needs features that change"),
        ("adaptformer", {"head": "coop", "head.context": 3}, "loss=g?paco is not .* a head that says what it .*: head=cosine or"),
        ("adaptformer", {"loss.queue": 0}, "must be auto or at least 1"),
        ("adaptformer", {"loss.queue": "all"}, "expected a whole number or auto"),
        ("adaptformer", {"loss": "paco", "loss.momentum": 1}, "at least 0 and below 1"),
        ("adaptformer", {"loss": "gpaco", "loss.momentum": 0.9}, "needs loss=paco"),
        ("adaptformer", {"loss.beta": 0}, "above 0"),
        ("adaptformer", {"loss": "bcl", "loss.queue": 5}, "needs loss=paco"),
    ],
)
def test_what_cannot_be_contrasted_is_refused_when_a_study_is_read(loss, method, options, words):
    with pytest.raises(PelError, match=words):
        RunSpec.make("toy-ir20", "toy", method, 0, **{"loss": loss, **options})
