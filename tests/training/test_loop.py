"""The training loop on the toy backbone: it learns, repeats bit for bit, accumulates rightly and stops at a bad loss."""

import dataclasses

import numpy as np
import pytest
import torch
from resuming import train_once
from safetensors.torch import load_file

from pel_core.common.errors import PelError
from pel_core.data.batches import TrainBatches
from pel_core.data.datasets import open_prepared
from pel_core.models.heads import HEADS
from pel_core.models.methods import METHODS, methods_for
from pel_core.models.weights import load_vit
from pel_core.spec.choices import CHOICES, LOSSES, OPTIMIZERS
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import build, cast_frozen_weights
from pel_core.training.contrastive import takes_features
from pel_core.training.loop import train
from pel_core.training.optimizers import make_optimizer

TRAINABLE = [name for name in methods_for("vit") if METHODS[name].trains_head]


def run(results, method="adaptformer", batches=None, held=None, **overrides):
    """Train the toy run; returns its classifier and training log. ``held``: the dtype of its frozen matrices."""
    spec = RunSpec.make("toy-ir20", "toy", method, overrides.pop("seed", 0), **overrides)
    data = open_prepared(results / "data" / "toy", spec.dataset)
    vit, text, _ = load_vit(results / "backbones" / "toy")
    text |= load_file(results / "text" / "toy" / "toy.default.safetensors")
    classifier = build(spec, vit, len(data.class_names), text)
    if held is not None:
        cast_frozen_weights(classifier, held)
    batches = batches or TrainBatches(data.train, spec, spec.pixels, spec.vit.mean, spec.vit.std, "cpu")
    return classifier, train(classifier, batches, spec, torch.as_tensor(data.train_counts))


@pytest.mark.parametrize("method", TRAINABLE)
def test_every_method_lowers_the_loss(toy_results, method):
    _, log = run(toy_results, method, epochs=4, lr=0.05)
    losses = [record["loss"] for record in log.curve]
    assert losses[-1] < losses[0]
    assert log.seconds > 0 and log.images_per_second > 0 and log.peak_memory_mb > 0


@pytest.mark.parametrize("loss", CHOICES["loss"])
@pytest.mark.parametrize("head", [name for name in CHOICES["head"] if getattr(HEADS[name], "trains", True)])
def test_every_loss_and_head_trains(toy_results, loss, head):
    options = {"loss": loss, "head": head, "epochs": 1} | ({"init": "random"} if head == "linear" else {})
    options |= {"prompt": "descriptions"} if getattr(HEADS[head], "sentences", False) else {}
    method = "ssf-ln" if takes_features(loss) else "head-only"
    if takes_features(loss) and (getattr(HEADS[head], "tower", False) or not getattr(HEADS[head], "rows", True)):
        with pytest.raises(PelError, match="rows of its own"):
            RunSpec.make("toy-ir20", "toy", method, 0, **options)
        return
    if hasattr(HEADS[head], "branches") and hasattr(LOSSES[loss], "begin"):
        with pytest.raises(PelError, match="draws no noise"):
            RunSpec.make("toy-ir20", "toy", method, 0, **options)
        return
    _, log = train_once(toy_results, RunSpec.make("toy-ir20", "toy", method, 0, **options))
    assert np.isfinite(log.curve[0]["loss"])


def test_a_cpu_run_repeats_bit_for_bit(toy_results):
    first, second = (run(toy_results, "adaptformer+vpt-shallow")[0].trainable_state() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_is_another_run(toy_results):
    first, second = (run(toy_results, seed=seed)[0].trainable_state()["head.weight"] for seed in (0, 1))
    assert not torch.equal(first, second)


def test_global_random_state_changes_nothing(toy_results):
    first = run(toy_results, epochs=1)[0].trainable_state()
    torch.manual_seed(123)
    np.random.seed(123)
    second = run(toy_results, epochs=1)[0].trainable_state()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("accumulate", [2, 3, 32])
def test_accumulation_gives_the_numbers_of_the_whole_batch(toy_results, accumulate):
    whole, parts = (run(toy_results, accumulate=count)[0].trainable_state() for count in (1, accumulate))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=2e-5, rtol=1e-4)


def test_reference_accumulation_underweighs_a_left_over_group(toy_results):
    exact, reference = (
        run(toy_results, batch_size=48, accumulate=2, accumulation=way)[0].trainable_state() for way in ("exact", "reference")
    )
    assert not torch.equal(exact["head.weight"], reference["head.weight"])


def test_bf16_stays_near_fp32(toy_results):
    (exact, full), (reduced, low) = (run(toy_results, epochs=3, precision=precision) for precision in ("fp32", "bf16"))
    assert low.curve[-1]["loss"] == pytest.approx(full.curve[-1]["loss"], rel=0.15)
    assert not torch.equal(exact.head.weight, reduced.head.weight)
    assert all(value.dtype == torch.float32 for value in reduced.trainable_state().values())


@pytest.mark.parametrize("method", TRAINABLE)
def test_frozen_weights_held_in_bf16_change_no_bit(toy_results, method):
    options = {"method": method, "epochs": 1, "precision": "bf16"}
    (cast, _), (held, _) = (run(toy_results, held=dtype, **options) for dtype in (None, torch.bfloat16))
    states = cast.trainable_state(), held.trainable_state()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    matrices = [module.weight for module in held.vit.modules() if isinstance(module, torch.nn.Linear)]
    assert all((weight.dtype == torch.float32) or not weight.requires_grad for weight in matrices)
    assert method in ("full", "mask") or any(weight.dtype == torch.bfloat16 for weight in matrices)


def test_fp16_trains_with_a_gradient_scaler(toy_results):
    """Its first steps may be skipped while the scaler finds its scale, as in the reference; then it learns."""
    classifier, log = run(toy_results, epochs=4, precision="fp16")
    assert log.curve[-1]["loss"] < 0.5 * log.curve[0]["loss"]
    assert all(value.dtype == torch.float32 for value in classifier.trainable_state().values())


def test_foreach_has_the_bits_of_a_loop_over_parameters():
    states = []
    for foreach in (True, False):
        generator = torch.Generator().manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 96), (96,), (1,), (7, 3))]
        optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4, foreach=foreach)
        for _ in range(5):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        states.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    assert torch.equal(*states)


class OneLayer(torch.nn.Linear):
    tuned = ()

    def trainable(self):
        return dict(self.named_parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("overflows", [0, 1, 2])
def test_the_fused_optimizer_of_a_gpu_is_the_plain_one_also_after_an_overflow(overflows, name):
    """fp16's first steps overflow; torch's fused SGD would then go on from momentum that was never written."""
    after = []
    for fused in (False, True):
        torch.manual_seed(0)
        layer, scaler = OneLayer(512, 512), torch.amp.GradScaler("cpu", init_scale=4.0)
        optimizer = make_optimizer(layer, RunSpec.make("toy", "toy", "adaptformer", 0, optimizer=name), fused)
        poison = [torch.full((512, 512), 1e30) for _ in range(8)]
        del poison  # the memory that an allocation gets next
        for step in range(overflows + 3):
            optimizer.zero_grad()
            (scaler.scale(layer(torch.ones(4, 512)).square().mean()) * (float("inf") if step < overflows else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
        after.append([value.detach() for value in layer.parameters()])
    for plain, fused in zip(*after, strict=True):
        torch.testing.assert_close(fused, plain)


def test_a_loss_that_is_not_finite_stops_the_run(toy_results):
    class Broken:
        def __len__(self):
            return 1

        def epoch(self, epoch, first=0):
            yield torch.full((4, 3, 16, 16), float("nan")), torch.zeros(4, dtype=torch.long), np.arange(4)

    with pytest.raises(PelError, match="the loss became nan at step 0 of epoch 0"):
        run(toy_results, batches=Broken())


def test_the_loss_is_the_mean_over_images_not_batches(toy_results):
    """At learning rate 0 nothing moves, so that the epoch's loss does not depend on how images are split into batches."""
    losses = [run(toy_results, epochs=1, lr=0, batch_size=size)[1].curve[0] for size in (32, 100)]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-5)
    assert losses[0]["accuracy"] == pytest.approx(losses[1]["accuracy"])


def test_text_initialisation_needs_features_of_these_classes(toy_results):
    spec = RunSpec.make("toy", "toy", "adaptformer", 0)
    vit, text, _ = load_vit(toy_results / "backbones" / "toy")
    with pytest.raises(PelError, match="needs 6 class-text features, found 0"):
        build(spec, vit, 6, text)


def test_specs_differing_in_evaluation_only_train_alike():
    spec = RunSpec.make("toy", "toy", "adaptformer", 0, tte="none")
    assert dataclasses.replace(spec, tte="fivecrop") == spec.train
