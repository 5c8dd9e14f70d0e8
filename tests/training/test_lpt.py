"""LPT: group prompts that the network's own feature chooses, beside a plain second implementation; its second stage, resumed, in
parts, on several streams; what is counted and refused."""

from pathlib import Path

import pytest
import torch
from plain_vit import PlainViT
from resuming import interrupted, train_once
from safetensors.torch import load_file
from torch.nn import functional as F

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.seeds import generator
from pel_core.data.batches import EvalBatches, TrainBatches
from pel_core.export.merge import merged
from pel_core.hardware.process_group import ProcessGroup
from pel_core.models.methods import METHODS
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.gflop import asked_again, forward_gflop, passes, training_gflop
from pel_core.training.clouded import AsymmetricClouded
from pel_core.training.losses import Prior, make_loss
from pel_core.training.parents import read_parents
from pel_core.training.prefix_cache import PrefixCache
from pel_core.training.run_inputs import load
from pel_core.training.samplers import make_sampler
from pel_core.training.step import Step
from pel_core.training.views import with_views

GOLDEN = read_json(Path(__file__).parents[1] / "golden" / "clouded-logits.json")
CPU, MEAN = torch.device("cpu"), ((0.0,) * 3, (1.0,) * 3)
SMALL = {"lpt.pool": 5, "lpt.topk": 2, "vpt_len": 3}
PHASE_1 = RunSpec.make("toy-ir20", "toy", "vpt-deep", 3, loss="ce", epochs=1, vpt_len=3)
UPPER = RunSpec.make("toy-ir20", "toy", "vpt-deep@1:4", 3, loss="ce", epochs=1, vpt_len=3)


def second(parent=PHASE_1, method="lpt", **options):
    return RunSpec.make("toy-ir20", "toy", method, 3, parents=[parent], **{"epochs": 2, "batch_size": 24, **SMALL, **options})


@pytest.fixture(scope="module")
def results(toy_results):
    for spec in (PHASE_1, UPPER):
        assert main(["train", spec.slug, "--results", str(toy_results)]) == 0
    return toy_results


def fresh(results, spec):
    return load(spec, results, CPU, fresh=True)


class PlainPrompts(PlainViT):
    """Prompts of every block, and one more list of them from ``start`` on, for a single image."""

    groups = None

    def block(self, index, x):
        own = [self.own(index, "prompt")] if index in self.blocks else []
        own += [self.groups[index]] if self.groups and index in self.groups else []
        x = torch.cat([x[:, : self.tokens], *(each[None].expand(len(x), -1, -1) for each in own)], 1) if own else x
        return super().block(index, x)


def plainly(classifier, spec, start):
    """The network of the public code, an image at a time: its query first, then the pass with the mean of the nearest groups."""
    there = classifier.vit.state_dict()
    frozen = {name.replace(".module.", "."): value for name, value in there.items() if ".delta." not in name}
    learnt = {name: value for name, value in classifier.stored().items() if name.startswith("lpt.")}
    (part,) = spec.parts
    plain = PlainPrompts(frozen, learnt, layers=4, heads=1, patch=8, blocks=part.blocks, knobs={})
    plain.name, plain.heads = "lpt", classifier.vit.blocks[-1].module.attn.heads

    def network(images):
        features, terms = [], []
        for image in images:
            plain.groups = None
            query = plain(image[None]).detach()
            cosines = F.cosine_similarity(query, learnt[f"lpt.{start}.keys"])
            best = sorted(range(len(cosines)), key=lambda group: -cosines[group].item())[: spec.knob("lpt.topk")]
            plain.groups = {
                index: sum(plain.own(index, "pool")[group] for group in best) / len(best)
                for index in part.blocks if index >= start
            }  # fmt: skip
            features.append(plain(image[None])[0])
            terms.append(-spec.knob("lpt.weight") * sum(cosines[group] for group in best))
        return torch.stack(features), torch.stack(terms)

    return network


CASES = [(second(), 2), (second(UPPER, "lpt@1:4"), 2), (second(**{"lpt.start": 1, "lpt.topk": 3, "lpt.weight": 2.0}), 1)]


@pytest.mark.parametrize(("spec", "start"), CASES, ids=lambda case: getattr(case, "slug", str(case))[:40])
def test_the_network_is_that_of_a_plain_second_implementation(results, spec, start):
    """Features, what is added to the loss, and gradients of both."""
    _, classifier, _ = fresh(results, spec)
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found, expected = classifier.vit(images), plainly(classifier, spec, start)(images)
    own = classifier.own_loss()
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own, expected[1], rtol=1e-4, atol=1e-5)
    learnt = [each.parameter for each in classifier.tuned if each.parameter.requires_grad]
    ours = torch.autograd.grad(found.sin().sum() + own.sum(), learnt)
    theirs = torch.autograd.grad(expected[0].sin().sum() + expected[1].sum(), learnt)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_shared_prompts_and_head_are_phase_1s_and_the_prompts_stay(results):
    spec = second()
    there = load_file(results / "runs" / PHASE_1.slug / "delta.safetensors")
    start = fresh(results, spec)[1].trainable_state()
    end, _ = train_once(results, spec)
    for index in range(4):
        for state in (start, end):
            assert torch.equal(state[f"lpt.{index}.prompt"], there[f"vpt-deep.{index}.prompt"])
    assert torch.equal(start["head.weight"], there["head.weight"]) and not torch.equal(end["head.weight"], there["head.weight"])
    for name in ("lpt.2.keys", "lpt.2.pool", "lpt.3.pool"):
        assert not torch.equal(start[name], end[name]), name


def test_parameters_by_formula(results):
    groups, prompts, width, blocks = 5, 3, 32, 2
    counts = fresh(results, second())[1].census()
    assert counts["learnable"] == groups * width + blocks * groups * prompts * width
    assert counts["by_part"] == {"lpt": counts["learnable"]} and counts["head"] == 6 * width
    assert fresh(results, second(**{"lpt.start": 3}))[1].census()["learnable"] == groups * width + groups * prompts * width


def test_three_steps_are_those_of_a_plain_loop(results):
    """Two streams, clouded logits and the keys' term: values and three steps of SGD with the noise drawn a second time."""
    spec = second(loss="agcl", sampler="dual", precision="fp32", scale=20, **{"batch_size": 10, "momentum": 0.0})
    data, classifier, _ = fresh(results, spec)
    twin, counts = fresh(results, spec)[1], torch.as_tensor(data.train_counts)
    step = Step(classifier, make_loss(spec, counts), spec, CPU, ProcessGroup())
    step.set_epoch(1)
    network = plainly(twin, spec, 2)
    optimizer = torch.optim.SGD(twin.trainable().values(), lr=spec.lr, weight_decay=spec.weight_decay)
    rare = counts.double().log().max() - counts.double().log()
    batches = TrainBatches(data.train, spec, spec.pixels, *MEAN, CPU, sampler=make_sampler(spec))
    for number, (images, labels, indices) in zip(range(3), with_views(batches, spec).epoch(1), strict=False):
        assert images.shape[:2] == labels.shape == (10, 2)
        total = 0.0
        for stream, (factor, name, gammas) in enumerate([(1.0, "first", (0.0, 4.0)), (0.25, "second", (0.5, 8.0))]):
            features, terms = network(images[:, stream])
            noise = torch.from_numpy(generator(3, "loss", 1, number, name).standard_normal((10, 6)) / 3).clamp(-1, 1).abs()
            z = twin.head(features) - 20 * 0.5 * noise * rare / rare.max()
            for image, label in enumerate(labels[:, stream].tolist()):
                row = z[image] - 20 * 0.1 * torch.eye(6)[label]
                p = row.softmax(0)
                w = torch.stack([(1 - p[c]) ** gammas[0] if c == label else p[c] ** gammas[1] for c in range(6)])
                q = 0.9 * torch.eye(6)[label] + 0.1 / 6
                total = total + factor * (terms[image] - (q * w * p.log()).sum()) / 10
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        step.place = (1, number)
        sums = step(images, labels, len(indices))
        assert sums[0].item() / 10 == pytest.approx(total.item(), rel=1e-4)
    for name, value in twin.trainable().items():
        torch.testing.assert_close(classifier.trainable()[name], value.float(), rtol=1e-3, atol=2e-5)


def test_the_second_stream_is_every_image_once_with_crops_of_its_own(results):
    spec = second(sampler="dual")
    data = fresh(results, spec)[0]
    batches = TrainBatches(data.train, spec, 16, *MEAN, CPU, sampler=make_sampler(spec))
    first = [(images[:, 0], labels[:, 0]) for images, labels, _ in with_views(batches, spec).epoch(0)]
    for (images, labels), (plain, y, _) in zip(first, batches.epoch(0), strict=True):
        assert torch.equal(images, plain) and torch.equal(labels, y)
    other = torch.cat([labels[:, 1] for _, labels, _ in with_views(batches, spec).epoch(0)])
    assert torch.equal(other.bincount(), torch.as_tensor(data.train_counts))
    late = list(with_views(batches, spec).epoch(0, 2))
    assert torch.equal(late[0][0], list(with_views(batches, spec).epoch(0))[2][0])


RESUMED = [
    second(loss="agcl", sampler="dual", precision="fp16"),
    second(loss="agcl", accumulate=3, sharpness="sam"),
    second(loss="cb", precision="bf16"),
    second(loss="ce", reweight="effective", accumulate=2),
    second(loss="bcl", **{"loss.dim": 16}),
    second(loss="ce", mix="mixup"),
    second(UPPER, "lpt@1:4", average="ema"),
]


@pytest.mark.parametrize("spec", RESUMED, ids=lambda spec: f"{spec.loss}-{spec.sampler}-{spec.mix}-{spec.method}")
def test_an_interrupted_second_stage_ends_bit_for_bit_where_another_ends(results, tmp_path, spec):
    plain, log = train_once(results, spec)
    state, resumed, lives = interrupted(results, spec, tmp_path / "c.safetensors", after=3)
    assert lives > 2 and resumed.curve == log.curve
    assert state.keys() == plain.keys() and all(torch.equal(state[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    "options", [{"loss": "agcl", "sampler": "dual"}, {"loss": "ce", "reweight": "effective"}, {"loss": "lade"}]
)
def test_micro_batches_leave_the_numbers(results, options):
    """Also of a loss that is no mean, whose gradient is taken at the outputs; noise is the image's, wherever it is cut."""
    spec = second(precision="fp32", **options)
    found = []
    for micro in (24, 5):
        data, classifier, _ = fresh(results, spec)
        step = Step(classifier, make_loss(spec, torch.as_tensor(data.train_counts)), spec, CPU, ProcessGroup())
        step.micro_batch = micro
        batches = TrainBatches(data.train, spec, spec.pixels, *MEAN, CPU, sampler=make_sampler(spec))
        images, labels, _ = next(iter(with_views(batches, spec).epoch(0)))
        step._weigh(labels, 24)
        found.append((step.accumulate(images, labels, 24), [value.grad.clone() for value in step.parameters]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_a_run_of_it_is_trained_evaluated_and_gone_on_from(results):
    """In ten crops, each of which asks for itself; then a stage on its frozen delta."""
    run = second(tte="tencrop")
    head = {"take": "delta", "train_delta": False, "init": "class-mean"}
    for spec in (run, RunSpec.make("toy-ir20", "toy", "lpt", 3, parents=[run], **head, **SMALL)):
        assert main(["train", spec.train.slug, "--results", str(results)]) == 0
        assert main(["evaluate", spec.slug, "--results", str(results)]) == 0
    first, then = (load_file(results / "runs" / spec.train.slug / "delta.safetensors") for spec in (run, spec))
    assert all(torch.equal(first[name], then[name]) for name in first if name.startswith("lpt."))
    record = read_json(results / "runs" / run.train.slug / "train.json")
    assert [parent["slug"] for parent in record["parents"]] == [PHASE_1.slug]
    assert read_parents(spec, results)[0].spec.slug == run.train.slug


def test_cached_blocks_leave_an_evaluation(results, tmp_path, monkeypatch):
    """Of blocks below those of the method; none are kept where it has all."""
    monkeypatch.setattr("pel_core.training.prefix_cache.worth_reading", lambda vit, depth, device: True)
    for spec, depth in ((second(UPPER, "lpt@1:4"), 1), (second(), 0)):
        data, classifier, _ = load(spec, results, CPU)
        for each in classifier.tuned:
            torch.nn.init.normal_(each.parameter, 0, 0.3)
        batches = EvalBatches(data.test, "fivecrop", 4, spec.pixels, spec.vit.mean, spec.vit.std, CPU)
        cache = PrefixCache(tmp_path, 1.0)
        assert spec.num_frozen_prefix_blocks == depth
        plain = PrefixCache(tmp_path, 0).predict(classifier, batches, depth, {"weights": depth})
        for _ in range(2):
            assert torch.equal(cache.predict(classifier, batches, depth, {"weights": depth}), plain)
        assert cache.used == depth


def test_it_cannot_be_merged_into_weights(results):
    classifier = load(second(), results, CPU)[1]
    with pytest.raises(PelError, match="lpt cannot be merged into the backbone's weights"):
        merged(classifier)


def test_what_it_costs():
    """The blocks from the first group on are gone through twice; a step of two streams has twice the images."""
    spec, plain = second(), RunSpec.make("toy-ir20", "toy", "vpt-deep", 3, vpt_len=3)
    upper = RunSpec.make("toy-ir20", "toy", "vpt-deep@2:4", 3, vpt_len=3)
    assert (asked_again(spec), asked_again(plain)) == (2, 0)
    again = forward_gflop(spec) - forward_gflop(plain)
    assert 0 < again < forward_gflop(plain)
    assert training_gflop(spec) - training_gflop(upper) == pytest.approx(again)
    assert training_gflop(second(sampler="dual")) == pytest.approx(2 * training_gflop(spec))
    assert passes(second(sampler="dual")) == 2 and passes(spec) == 1


# ---- the loss


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: str(case["options"]))
def test_clouded_logits_are_the_public_codes(case):
    """Its numbers at noise that is given; its scale multiplies cosines, ours come scaled."""
    given = case["options"]
    options = {"margin": given["m"], "noise": given["noise_mul"], "gamma_pos": given.get("gamma_pos", 0.0)}
    options |= {"gamma_neg": given.get("gamma_neg", 4.0)}
    loss = AsymmetricClouded(Prior(torch.tensor(GOLDEN["counts"]), scale=given["s"]), **options)
    noise = ((torch.arange(35, dtype=torch.float64) * 1.7).cos() * 1.3).reshape(7, 5).float().clamp(-1, 1).abs()
    loss._noise = lambda name, logits: noise
    cosine = ((torch.arange(35, dtype=torch.float64) * 0.9).sin() * 0.8).reshape(7, 5).float().requires_grad_()
    value = loss(given["s"] * cosine, torch.tensor(GOLDEN["labels"]))
    (gradient,) = torch.autograd.grad(value, cosine)
    assert value.item() == pytest.approx(case["loss"], rel=1e-5)
    torch.testing.assert_close(gradient.flatten(), torch.tensor(case["grad_cosine"]), rtol=1e-4, atol=1e-6)


def test_noise_is_an_images_own_wherever_a_batch_is_cut():
    loss, logits, labels = (
        AsymmetricClouded(Prior(torch.tensor([9, 3, 1]))),
        torch.randn(7, 3),
        torch.tensor([0, 1, 2, 0, 1, 2, 0]),
    )

    def draw(name):
        return generator(0, "loss", name)

    loss.begin(draw, 0)
    whole = loss(logits, labels, reduction="none")
    loss.begin(draw, 0)
    assert torch.equal(torch.cat([loss(logits[a:b], labels[a:b], "none") for a, b in ((0, 1), (1, 5), (5, 7))]), whole)
    loss.begin(draw, 4)  # another process, which has the images from there on
    assert torch.equal(loss(logits[4:], labels[4:], reduction="none"), whole[4:])
    assert not torch.equal(AsymmetricClouded(Prior(torch.tensor([9, 3, 1])))(logits, labels, "none"), whole)  # without noise


def test_a_certain_network_has_a_gradient():
    """Where 1 - p is 0 its square root has none; classes of equal size are not clouded."""
    loss = AsymmetricClouded(Prior(torch.tensor([5, 5, 5])), gamma_pos=0.5)
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    value = loss(logits, torch.tensor([0, 0]))
    assert value.isfinite() and torch.autograd.grad(value, logits)[0].isfinite().all() and not loss.cloud.any()


# ---- what is refused


def phase_1(backbone="toy", method="vpt-deep", **options):
    return RunSpec.make("toy-ir20", backbone, method, 3, epochs=1, **{"vpt_len": 3, **options})


REFUSED = [
    ({}, None, "lpt needs a run of vpt-deep to start from: from: ROW, with take=all or take=delta"),
    ({"take": "head"}, phase_1(), "lpt needs a run of vpt-deep to start from"),
    ({}, RunSpec.make("toy-ir20", "toy", "adaptformer", 3), "its method is adaptformer, this run's lpt; start from vpt-deep"),
    ({}, phase_1(method="vpt-deep@2:4"), "its method is vpt-deep@2:4, this run's lpt; start from vpt-deep"),
    ({}, phase_1(method="vpt-deep+ln"), r"its method is ln\+vpt-deep, this run's lpt; start from vpt-deep"),
    ({"vpt_len": 4}, phase_1(), "its vpt_len is 3, this run's 4"),
    ({"lpt.topk": 6}, phase_1(), "lpt.topk=6 is not possible for lpt here; it must be at most the groups there are, lpt.pool=5"),
    ({"lpt.start": 4}, phase_1(), "lpt.start=4 .* half or one of the method's blocks, 0 to 3"),
    ({"lpt.pool": 0}, phase_1(), "lpt.pool=0 is not possible; it must be at least 1"),
    ({"epochs": 0}, phase_1(), "epochs above 0 and train_delta=true to start from"),
    ({"train_delta": False}, phase_1(), "epochs above 0 and train_delta=true to start from"),
    ({"method": "lpt+ln"}, phase_1(), "lpt stands alone"),
    ({"sampler": "dual", "loss": "lade"}, phase_1(), "a loss that is a mean over images, of one view each"),
    ({"sampler": "dual", "mix": "mixup"}, phase_1(), "it needs none of mix, reweight, sharpness"),
    ({"sampler": "dual", "sharpness": "imbsam"}, phase_1(), "it needs none of mix, reweight, sharpness"),
    ({"loss": "agcl", "mix": "mixup"}, phase_1(), "a loss that takes the two labels of a mixed image"),
    ({"loss": "agcl", "loss.second_gamma_neg": 3}, phase_1(), r"a sampler with a second stream \(sampler=dual\)"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "parent", "words"), REFUSED)
def test_what_cannot_be_is_refused(options, parent, words):
    options = {"method": "lpt", **SMALL, **options}
    start = {"parents": [parent]} if parent else {}
    with pytest.raises(PelError, match=words):
        RunSpec.make("toy-ir20", "toy", options.pop("method"), 3, **start, **options)


def test_a_backbone_without_a_class_token_is_refused():
    about = {"vpt_len": 10, "head": "linear", "init": "random"}
    parent = RunSpec.make("cifar100-ir100", "siglip-b16", "vpt-deep", 0, **about)
    with pytest.raises(PelError, match="a backbone whose feature is the class token, which is its query"):
        RunSpec.make("cifar100-ir100", "siglip-b16", "lpt", 0, parents=[parent], **about)


def test_it_goes_on_from_a_method_that_is_there():
    assert {name: method.extends for name, method in METHODS.items() if method.extends} == {"lpt": "vpt-deep"}
