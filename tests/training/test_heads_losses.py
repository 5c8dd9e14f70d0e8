"""Heads and losses: their formulas, starts and invariances. Golden values are the conformance test's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.models.heads import HEADS, ZeroShot
from pel_core.models.inits import class_mean, linear_probe
from pel_core.training.classifier import text_head
from pel_core.training.contrastive import takes_features
from pel_core.training.losses import (
    LDAM,
    LOSSES,
    ClassBalanced,
    Focal,
    LabelAwareSmoothing,
    LogitAdjusted,
    Prior,
    Reweighted,
    VectorScaling,
    decomposable,
)
from pel_core.training.reweights import ByClass
from pel_core.training.soft_targets import Expected, takes_soft_targets

NORMED = ["cosine", "l2norm", "layernorm"]  # the others: tests/models/test_clip_heads.py
ROWS = [name for name in HEADS if getattr(HEADS[name], "rows", True)]
OWN = {"linear": {"weight", "bias"}, "clip-adapter": {"down", "up"}, "tip-adapter": set(), "tip-adapter-f": {"keys"}}
OWN |= {"coop": set(), "text-tower": set(), "rac": set()}  # without a tower, which holds what trains
# LADE's regulariser looks at the size of the logits, and VS multiplies them by class, so a constant added to them counts.
OF_LOGITS = [name for name in LOSSES if not takes_features(name)]  # bcl: test_contrastive.py
SHIFT_INVARIANT = [name for name in OF_LOGITS if name not in ("lade", "vs")]


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def head(name, width=16, classes=5, scale=25.0, seed=0, **knobs):
    return HEADS[name](width, classes, scale, draw(seed), **knobs)


def batch(seed, classes=5, images=7):
    generator = draw(seed)
    logits = 5 * torch.randn(images, classes, generator=generator)
    counts = torch.randint(1, 300, (classes,), generator=generator)
    return logits, torch.randint(classes, (images,), generator=generator), counts


def loss(name, logits, labels, counts, **prior):
    return LOSSES[name](Prior(counts, **prior))(logits, labels)


@pytest.mark.parametrize("name", ROWS)
def test_a_head_gives_logits_and_trains_only_its_own(name):
    module = head(name)
    assert module(torch.randn(3, 16)).shape == (3, 5)
    assert {key for key, value in module.named_parameters() if value.requires_grad} == OWN.get(name, {"weight"})


@pytest.mark.parametrize("name", ROWS)
def test_a_head_starts_from_its_generator_alone(name):
    first, again, other = head(name, seed=1), head(name, seed=1), head(name, seed=2)
    assert torch.equal(first.weight, again.weight) and not torch.equal(first.weight, other.weight)


@pytest.mark.parametrize("name", NORMED)
def test_a_normed_head_starts_with_unit_rows_and_ignores_their_length(name):
    module, features = head(name), torch.randn(3, 16)
    torch.testing.assert_close(module.weight.norm(dim=-1), torch.ones(5))
    before = module(features)
    with torch.no_grad():
        module.weight.mul_(3)
    torch.testing.assert_close(module(features), before)


def test_linear_starts_kaiming_normal_with_zero_bias():
    module = head("linear", 400, 300)
    assert module.weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.02)
    assert not module.bias.any()


def test_cosine_is_bounded_by_its_scale_and_blind_to_feature_length():
    module, features = head("cosine", scale=13), torch.randn(50, 16)
    assert module(features).abs().max() <= 13
    torch.testing.assert_close(module(features), module(5 * features))
    row = module.weight[2:3].detach()
    assert module(row)[0, 2].item() == pytest.approx(13)


def test_l2norm_and_layernorm_formulas():
    features = torch.randn(3, 16)
    for name, normed in {"l2norm": features, "layernorm": F.layer_norm(features, (16,), eps=1e-12)}.items():
        module = head(name)
        torch.testing.assert_close(module(features), normed @ F.normalize(module.weight, dim=-1).T)


def test_text_head_and_zero_shot_rank_alike_on_the_text_span():
    projection, text = torch.linalg.qr(torch.randn(16, 8))[0], torch.randn(5, 8)
    rows = text_head(text, projection)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(5))
    # Orthonormal projection: the cosine with a projected feature is the cosine with a row, up to the feature's length.
    features = torch.randn(20, 16)
    zero_shot = ZeroShot(projection, text, 14.0)(features)
    assert torch.equal((features @ rows.T).argmax(1), zero_shot.argmax(1))
    assert zero_shot.abs().max() <= 14 and not list(ZeroShot(projection, text, 14.0).parameters())


@pytest.mark.parametrize("name", OF_LOGITS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_loss_does_not_depend_on_the_order_of_classes_or_images(name, seed):
    logits, labels, counts = batch(seed)
    expected = loss(name, logits, labels, counts)
    order = torch.randperm(5, generator=draw(seed))
    reordered = loss(name, logits[:, order], order.argsort()[labels], counts[order])
    torch.testing.assert_close(reordered, expected, rtol=1e-4, atol=1e-5)
    images = torch.randperm(7, generator=draw(seed))
    torch.testing.assert_close(loss(name, logits[images], labels[images], counts), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SHIFT_INVARIANT)
@given(seed=st.integers(0, 1000), shift=st.floats(-20, 20))
@settings(max_examples=25, deadline=None)
def test_a_constant_added_to_the_logits_changes_nothing(name, seed, shift):
    logits, labels, counts = batch(seed)
    torch.testing.assert_close(
        loss(name, logits + shift, labels, counts), loss(name, logits, labels, counts), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["la", "bs", "cb", "grw", "ce", "vs"])
@given(seed=st.integers(0, 1000), count=st.integers(1, 500))
@settings(max_examples=25, deadline=None)
def test_balanced_counts_give_plain_cross_entropy(name, seed, count):
    logits, labels, _ = batch(seed)
    torch.testing.assert_close(
        loss(name, logits, labels, torch.full((5,), count)), F.cross_entropy(logits, labels), rtol=1e-5, atol=1e-6
    )


# agcl smooths terms that are weighed, too: test_lpt.py
SMOOTHED = [entry.name for entry in LOSSES.entries() if entry.knob("label_smoothing") and takes_soft_targets(entry.name)]


@pytest.mark.parametrize("name", SMOOTHED)
@given(seed=st.integers(0, 1000), share=st.floats(0, 0.99))
@settings(max_examples=25, deadline=None)
def test_label_smoothing_spreads_a_share_of_the_target_over_all_classes(name, seed, share):
    logits, labels, counts = batch(seed)
    target = (1 - share) * F.one_hot(labels, 5) + share / 5
    shifted = logits if name == "ce" else logits + (counts / counts.sum()).log()
    expected = -(target * shifted.log_softmax(1)).sum(1).mean()
    found = LOSSES[name](Prior(counts), label_smoothing=share)(logits, labels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_losses_that_smooth_their_labels():
    assert SMOOTHED == ["ce", "la", "bs"]


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_relations_between_losses(seed):
    logits, labels, counts = batch(seed)
    plain, prior = F.cross_entropy(logits, labels), Prior(counts)
    same = {
        "LA at tau 1 is balanced softmax": (loss("la", logits, labels, counts), loss("bs", logits, labels, counts)),
        "BS ignores tau": (loss("bs", logits, labels, counts, tau=3.0), loss("bs", logits, labels, counts)),
        "LA at tau 0": (LogitAdjusted(prior, tau=0.0)(logits, labels), plain),
        "focal at gamma 0": (Focal(prior, gamma=0.0)(logits, labels), plain),
        "GRW at exponent 0": (Reweighted(prior, exponent=0.0)(logits, labels), plain),
        "LDAM without margin": (LDAM(prior, largest=0.0)(logits, labels), plain),
        "VS at gamma 0 is LA": (VectorScaling(prior, gamma=0.0)(logits, labels), loss("la", logits, labels, counts)),
        "LAS without smoothing": (LabelAwareSmoothing(prior, 0.0, 0.0)(logits, labels), plain),
        "LAS alike is label smoothing": (
            LabelAwareSmoothing(prior, 0.3, 0.3)(logits, labels),
            F.cross_entropy(logits, labels, label_smoothing=0.3),
        ),
        "CB near beta 0": (ClassBalanced(prior, beta=1e-9)(logits, labels), plain),
        "counts matter up to a factor only": (loss("la", logits, labels, 3 * counts), loss("la", logits, labels, counts)),
    }
    for what, (found, expected) in same.items():
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, msg=lambda text, what=what: f"{what}: {text}")
    assert loss("focal", logits, labels, counts) <= plain + 1e-6 <= loss("ldam", logits, labels, counts) + 2e-6


SOFT = [name for name in LOSSES if takes_soft_targets(name)]
MEANS = [name for name in SOFT if decomposable(name)]


def soft(seed, classes=5, images=7):
    return torch.rand(images, classes, generator=draw(seed)).pow(3).softmax(1)


def test_which_losses_take_soft_targets():
    """Those whose value of a distribution over labels follows from that of a label; a loss that says nothing takes none."""
    assert set(SOFT) >= {"ce", "la", "bs", "focal", "cb", "grw", "ldam", "vs", "las"} and "lade" not in SOFT


@pytest.mark.parametrize("name", SOFT)
@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_one_hot_targets_are_labels(name, seed):
    logits, labels, counts = batch(seed)
    module, found = Expected(LOSSES[name](Prior(counts))), []
    for target in (labels, F.one_hot(labels, 5).float()):
        leaf = logits.clone().requires_grad_()
        value = module(leaf, target)
        found.append((value.detach(), *torch.autograd.grad(value, leaf)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MEANS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_soft_targets_give_the_expected_loss_of_a_drawn_label(name, seed):
    """Against the loss of one image and one label at a time, values and gradients."""
    logits, _, counts = batch(seed)
    module, targets = Expected(LOSSES[name](Prior(counts))), soft(seed)
    one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = module(one, targets)
    parts = [targets[i, c] * module(other[i : i + 1], torch.tensor([c])) for i in range(7) for c in range(5)]
    expected = torch.stack(parts).sum() / 7
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(loss, leaf)[0] for loss, leaf in ((value, one), (expected, other))]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["cb", "grw", "by class"])
def test_weights_of_soft_targets_are_expected_ones(name):
    logits, _, counts = batch(3)
    targets, weights = soft(3), torch.tensor([0.5, 2.0, 1.0, 0.25, 1.25])
    module = ByClass(LOSSES["ce"](Prior(counts)), weights, 2) if name == "by class" else LOSSES[name](Prior(counts))
    if name == "by class":  # before its weights count
        assert float(Expected(module)(logits, targets)) == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-5)
        Expected(module).set_epoch(2)
    above = below = 0.0
    for i in range(7):
        for c in range(5):
            weight = float(targets[i, c]) * float(module.weights[c])
            above, below = above - weight * float(logits[i].log_softmax(0)[c]), below + weight
    assert float(Expected(module)(logits, targets)) == pytest.approx(above / below, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in SMOOTHED if name in SOFT])
def test_smoothing_comes_on_top_of_soft_targets(name):
    logits, _, counts = batch(1)
    targets = soft(1)
    found = Expected(LOSSES[name](Prior(counts), label_smoothing=0.2))(logits, targets)
    torch.testing.assert_close(
        found, Expected(LOSSES[name](Prior(counts)))(logits, 0.8 * targets + 0.2 / 5), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SOFT)
def test_soft_targets_of_logits_in_reduced_precision(name, precision):
    logits, _, counts = batch(2)
    with torch.autocast("cpu", precision):
        found = Expected(LOSSES[name](Prior(counts)))(logits.to(precision), soft(2))
    torch.testing.assert_close(found, Expected(LOSSES[name](Prior(counts)))(logits, soft(2)), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_s_gradient_is_finite_where_the_network_is_sure_of_another_class(gamma):
    logits = torch.tensor([[60.0, -60.0]]).requires_grad_()
    (gradient,) = torch.autograd.grad(Expected(Focal(Prior(torch.ones(2)), gamma))(logits, torch.tensor([[0.3, 0.7]])), logits)
    assert gradient.isfinite().all()


def test_ldam_margins():
    counts, scale = torch.tensor([1, 16, 81]), 10.0
    found = LDAM(Prior(counts, scale=scale)).margins / scale
    torch.testing.assert_close(found, torch.tensor([0.5, 0.25, 1 / 6]))


@given(seed=st.integers(0, 1000), gamma=st.floats(0, 1), tau=st.floats(0, 2))
@settings(max_examples=25, deadline=None)
def test_vs_is_the_papers_sum(seed, gamma, tau):
    """Image by image: -log of e^(D_y z_y + i_y) over the sum of e^(D_c z_c + i_c)."""
    logits, labels, counts = batch(seed)
    numbers, total, found = counts.tolist(), 0.0, VectorScaling(Prior(counts, tau), gamma)(logits, labels)
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        moved = [
            (n / max(numbers)) ** gamma * logit + tau * math.log(n / sum(numbers)) for n, logit in zip(numbers, row, strict=True)
        ]
        total += math.log(sum(math.exp(value - moved[label]) for value in moved))
    assert found.item() == pytest.approx(total / len(labels), rel=1e-4, abs=1e-5)


@given(seed=st.integers(0, 1000), shape=st.sampled_from(["concave", "linear", "convex"]))
@settings(max_examples=25, deadline=None)
def test_label_aware_smoothing_is_cross_entropy_with_a_target_of_its_own_for_each_class(seed, shape):
    logits, labels, counts = batch(seed)
    numbers, total = counts.tolist(), 0.0
    found = LabelAwareSmoothing(Prior(counts), 0.4, 0.1, shape)(logits, labels)
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        place = (numbers[label] - min(numbers)) / (max(numbers) - min(numbers))
        rise = {"concave": math.sin(place * math.pi / 2), "linear": place, "convex": 1 - math.cos(place * math.pi / 2)}[shape]
        smoothing = 0.1 + 0.3 * rise
        for number, surprise in enumerate((-row.log_softmax(0)).tolist()):
            total += ((1 - smoothing) * (number == label) + smoothing / 5) * surprise
    assert found.item() == pytest.approx(total / len(labels), rel=1e-4, abs=1e-5)


def test_label_aware_smoothing_of_balanced_classes_is_that_of_the_largest():
    assert LabelAwareSmoothing(Prior(torch.full((3,), 7)), 0.4, 0.1).smoothing.tolist() == pytest.approx([0.4] * 3)


def test_weights_have_mean_one_and_favour_rare_classes():
    counts = torch.tensor([500, 50, 5])
    for kind in (ClassBalanced, Reweighted):
        weights = kind(Prior(counts)).weights
        assert weights.mean().item() == pytest.approx(1) and weights[0] < weights[1] < weights[2]


@pytest.mark.parametrize("name", OF_LOGITS)
def test_a_loss_has_a_right_gradient(name):
    logits, labels, counts = batch(3)
    module = LOSSES[name](Prior(counts))
    # Some losses work in float32 on purpose, hence the wide step.
    logits = logits.double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(module(logits, labels), logits)
    direction = torch.randn(logits.shape, generator=draw(5)).double()
    numeric = (module(logits + 1e-2 * direction, labels) - module(logits - 1e-2 * direction, labels)) / 2e-2
    assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=5e-3, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OF_LOGITS)
def test_low_precision_logits_and_absent_classes_stay_finite(name, dtype):
    logits, _, counts = batch(0)
    labels = torch.zeros(7, dtype=torch.int64)  # every other class is absent from the batch
    logits = logits.to(dtype).requires_grad_(True)
    value = loss(name, logits, labels, counts)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all()
    torch.testing.assert_close(value.float(), loss(name, logits.detach().float(), labels, counts), rtol=0.02, atol=0.05)


def test_class_mean():
    features, labels = torch.tensor([[1.0, 0], [3, 0], [0, 2]]), torch.tensor([0, 0, 1])
    assert torch.equal(class_mean(features, labels, 2), torch.eye(2))
    with pytest.raises(PelError, match="class 2 has no training image"):
        class_mean(features, labels, 3)
    with pytest.raises(PelError, match="class 2 has no training image"):
        linear_probe(features, labels, 3)


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_probe_separates_what_is_separable(classes):
    generator = draw(0)
    labels = torch.randint(classes, (60,), generator=generator)
    features = torch.randn(60, 8, generator=generator) + 6 * F.one_hot(labels, 8)
    rows = linear_probe(features, labels, classes)
    assert rows.shape == (classes, 8)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(classes))
    assert ((features - features.mean(0)) @ rows.T).argmax(-1).eq(labels).float().mean() > 0.9


@pytest.mark.parametrize("name", [entry.name for entry in HEADS.entries() if entry.knob("scales")])
def test_factors_of_classes_multiply_logits_and_may_train_alone(name):
    """Kang et al.'s learnable weight scaling: s_c (w_c f + b_c)."""
    features = torch.randn(3, 16)
    for scales, names in {"learnable": {"scales", *dict(head(name).named_parameters())}, "alone": {"scales"}}.items():
        module = head(name, scales=scales)
        assert torch.equal(module(features), head(name)(features))
        assert {key for key, value in module.named_parameters() if value.requires_grad} == names
        with torch.no_grad():
            module.scales.copy_(torch.arange(5) / 2)
        torch.testing.assert_close(module(features), head(name)(features) * torch.arange(5) / 2)


def test_tau_normalisation_divides_rows_by_a_power_of_their_norm_without_the_bias():
    """As tau_norm.py of facebookresearch/classifier-balancing at 22370c6 does; on a cosine head it would change nothing."""
    features = torch.randn(3, 16, generator=draw())
    plain = head("linear")
    with torch.no_grad():
        plain.bias.copy_(torch.arange(5.0))
        plain.weight.mul_(torch.tensor([[1.0], [2.0], [3.0], [0.5], [4.0]]))
    for tau in (0.5, 1.0, 2.0):
        module = head("linear", tau_norm=tau)
        module.load_state_dict(plain.state_dict())
        expected = torch.stack([features @ row / sum(value**2 for value in row) ** (tau / 2) for row in plain.weight], 1)
        torch.testing.assert_close(module(features), expected)
    module = head("linear", tau_norm=0.0)
    module.load_state_dict(plain.state_dict())
    assert torch.equal(module(features), plain(features))
    assert head("l2norm", scale=1)(features).argmax(1).tolist() == _of_rows(head("l2norm").weight, features).argmax(1).tolist()


def _of_rows(rows, features):
    """A linear head of these rows at tau = 1."""
    module = head("linear", tau_norm=1.0)
    with torch.no_grad():
        module.weight.copy_(3 * rows)
    return module(features)


def test_nearest_images_vote_by_their_cosine():
    generator = draw(3)
    features, labels = torch.randn(40, 16, generator=generator), torch.randint(0, 5, (40,), generator=generator)
    asked = torch.randn(6, 16, generator=generator)
    module = head("knn", k=7, temperature=0.2)
    module.remember(features, labels)
    for one, logits in zip(asked, module(asked), strict=True):
        pairs = zip(features, labels, strict=True)
        cosines = [(float(one @ other / one.norm() / other.norm()), int(label)) for other, label in pairs]
        votes = [0.0] * 5
        for cosine, label in sorted(cosines, reverse=True)[:7]:
            votes[label] += math.exp(cosine / 0.2)
        expected = torch.tensor([max(vote / sum(votes), 1e-4) for vote in votes]).log()
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert not [value for value in module.parameters() if value.requires_grad]
    few = head("knn")
    few.remember(features[:3], labels[:3])
    assert few(asked).shape == (6, 5)  # fewer images than k: all vote
