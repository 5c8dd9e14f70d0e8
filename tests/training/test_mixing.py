"""Mixed batches: each way against torchvision or a plain loop, the batch's one draw, second streams, and what is refused."""

import threading

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from pel_core.common.errors import PelError
from pel_core.common.seeds import generator
from pel_core.data.batches import TrainBatches
from pel_core.data.split import Split
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.choices import CHOICES, MIXES
from pel_core.spec.run_spec import RunSpec
from pel_core.training.distributed import DistributedGroup
from pel_core.training.losses import LOSSES, Prior, make_loss
from pel_core.training.mixing import Pair, cutmix, mixed, mixup, remix
from pel_core.training.run_inputs import load
from pel_core.training.soft_targets import Expected
from pel_core.training.step import Step, _sums
from tests.resuming import train_once

COUNTS = torch.tensor([9, 5, 3, 1])
LABELS = np.repeat(np.arange(4), COUNTS.tolist())
MIXING = [name for name in CHOICES["mix"] if name != "none"]
PLAIN = ((0.0,) * 3, (1.0,) * 3)


def make(mix, **options):
    defaults = {"batch_size": 8, "epochs": 3}
    return RunSpec.make("toy-ir20", "toy", options.pop("method", "head-only"), 1, mix=mix, **{**defaults, **options})


@pytest.fixture(scope="module")
def split():
    return Split(LABELS, images=np.random.default_rng(0).integers(0, 256, (len(LABELS), 16, 16, 3), np.uint8))


def batches(spec, split, group=None):
    group = group or ProcessGroup()
    return mixed(TrainBatches(split, spec, 16, *PLAIN, "cpu", group=group), spec, COUNTS, group)


def pair(seed=0, images=6, height=12, width=10):
    random = torch.Generator().manual_seed(seed)
    x, y = torch.rand(images, 3, height, width, generator=random), torch.randint(4, (images,), generator=random)
    return Pair(x, y, x.roll(1, 0), y.roll(1, 0), COUNTS.float())


class Drawn:
    """Gives these numbers instead of drawing."""

    def __init__(self, share, *whole):
        self.share, self.whole = share, list(whole)

    def beta(self, *_):
        return self.share

    def integers(self, high):
        return self.whole.pop(0) % high


def theirs(kind, given, monkeypatch, share, *whole):
    """What torchvision makes of a batch when it is fed these numbers instead of drawing."""
    transform, numbers = kind(num_classes=4), list(whole)
    monkeypatch.setattr(transform._dist, "sample", lambda _: torch.tensor(share, dtype=torch.float64))
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.tensor([numbers.pop(0) % high]))
    return transform(given.images, given.labels)


def targets(given, share):
    """In a loop: the shares of both labels."""
    made = torch.zeros(len(given.labels), 4)
    for i, (own, other) in enumerate(zip(given.labels, given.other_labels, strict=True)):
        part = float(share[i] if torch.is_tensor(share) else share)
        made[i, own] += part
        made[i, other] += 1 - part
    return made


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
def test_mixup_is_torchvisions(share, monkeypatch):
    given = pair()
    images, labels = theirs(v2.MixUp, given, monkeypatch, share)
    found, kept = mixup(given, Drawn(share), 1.0)
    torch.testing.assert_close(found, images)
    torch.testing.assert_close(targets(given, kept), labels)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("centre", [(0, 0), (5, 7), (9, 11)])
def test_cutmix_is_torchvisions(share, centre, monkeypatch):
    given = pair()
    images, labels = theirs(v2.CutMix, given, monkeypatch, share, *centre)
    found, kept = cutmix(given, Drawn(share, *centre), 1.0)
    assert torch.equal(found, images)
    torch.testing.assert_close(targets(given, kept), labels)


@pytest.mark.parametrize("share", [0.1, 0.45, 0.5, 0.8])
def test_remix_by_its_cases(share):
    """Chou et al. 2020, equation 8, one image at a time."""
    given = pair(1, images=40)
    images, kept = remix(given, Drawn(share), 1.0, kappa=3.0, tau=0.5)
    assert torch.equal(images, mixup(given, Drawn(share), 1.0)[0])
    for own, other, found in zip(given.labels, given.other_labels, kept, strict=True):
        ratio = float(COUNTS[own]) / float(COUNTS[other])
        expected = 0.0 if ratio >= 3 and share < 0.5 else 1.0 if ratio <= 1 / 3 and 1 - share < 0.5 else share
        assert float(found) == pytest.approx(expected)
    assert set(kept.tolist()) != {share} or share == 0.5


@pytest.mark.parametrize("mix", MIXING)
def test_a_batch_is_mixed_as_its_draw_says(split, mix):
    """The stream against its parts, written out: the draw by name, the other images, targets in a loop."""
    spec = make(mix, **{"mix.prob": 0.6})
    plain = TrainBatches(split, spec, 16, *PLAIN, "cpu")
    knobs = {name: value for name, value in spec.knobs_of("mix").items() if name in ("alpha", "kappa", "tau")}
    second = list(batches(spec, split).second.epoch(1)) if MIXES[mix].second else None
    seen = []
    pairs = zip(batches(spec, split).epoch(1), plain.epoch(1), strict=True)
    for step, ((images, labels, indices), (x, y, order)) in enumerate(pairs):
        draw = generator(spec.seed, "mix", 1, step)
        assert np.array_equal(indices, order)
        seen.append(draw.random() < 0.6)
        if not seen[-1]:
            assert torch.equal(images, x) and torch.equal(labels, y)
            continue
        others, other_labels = second[step][:2] if second else (x.roll(1, 0), y.roll(1, 0))
        given = Pair(x, y, others, other_labels, COUNTS.float())
        expected, share = MIXES[mix].function(given, draw, **knobs)
        assert torch.equal(images, expected)
        torch.testing.assert_close(labels, targets(given, share))
        torch.testing.assert_close(labels.sum(1), torch.ones(len(y)))
    assert len(seen) == 3


@pytest.mark.parametrize("mix", MIXING)
def test_an_epoch_is_entered_at_any_step(split, mix):
    whole = list(batches(make(mix, **{"mix.prob": 0.6}), split).epoch(2))
    for first in range(4):
        rest = list(batches(make(mix, **{"mix.prob": 0.6}), split).epoch(2, first))
        assert len(rest) == 3 - first
        for one, other in zip(rest, whole[first:], strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.parametrize("mix", MIXING)
def test_some_epochs_stay_plain(split, mix):
    stream = batches(make(mix, **{"mix.prob": 1, "mix.plain_start": 1, "mix.plain_end": 1}), split)
    assert [[labels.ndim for _, labels, _ in stream.epoch(epoch)] for epoch in range(3)] == [[1] * 3, [2] * 3, [1] * 3]


def test_the_second_stream_draws_classes_alike_and_by_its_own_names(split):
    spec = make("cmo", epochs=200)
    stream = batches(spec, split)
    labels = torch.cat([labels for epoch in range(200) for _, labels, _ in stream.second.epoch(epoch)])
    shares = labels.bincount() / len(labels)
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.03, rtol=0)
    steep = batches(make("cmo", epochs=200, **{"mix.power": 2}), split).second
    labels = torch.cat([labels for epoch in range(200) for _, labels, _ in steep.epoch(epoch)])
    torch.testing.assert_close(labels.bincount() / len(labels), 1 / COUNTS / (1 / COUNTS).sum(), atol=0.03, rtol=0)
    # The ordinary stream stays what it is without a second one.
    plain = TrainBatches(split, spec, 16, *PLAIN, "cpu")
    assert all(np.array_equal(one[2], other[2]) for one, other in zip(stream.epoch(0), plain.epoch(0), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_files_and_arrays_are_mixed_alike(split, workers, tmp_path):
    from PIL import Image

    paths = [str(tmp_path / f"{i}.png") for i in range(len(LABELS))]
    for path, image in zip(paths, split.images, strict=True):
        Image.fromarray(image).save(path)
    spec = make("cmo", **{"mix.prob": 0.6})
    source = TrainBatches(Split(LABELS, paths=paths), spec, 16, *PLAIN, "cpu", workers=workers)
    for epoch in range(2):
        files = mixed(source, spec, COUNTS, ProcessGroup()).epoch(epoch)
        for one, other in zip(files, batches(spec, split).epoch(epoch), strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


class Thread(ProcessGroup):
    """A rank among threads of this process, which add tensors up."""

    part = DistributedGroup.part

    def __init__(self, rank, size, barrier, table):
        self.rank, self.size, self.barrier, self.table = rank, size, barrier, table

    def sum(self, value):
        self.table[self.rank] = value.clone()
        self.barrier.wait()
        total = torch.stack(list(self.table)).sum(0)
        self.barrier.wait()
        return value.copy_(total)


@pytest.mark.parametrize("mix", MIXING)
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_mix_what_one_does(split, mix, size):
    """Also where the last batch has fewer images than there are processes."""
    few = Split(split.labels[:17], images=split.images[:17])
    spec = make(mix, **{"mix.prob": 0.9})
    alone = list(batches(spec, few).epoch(0))
    barrier, table, found = threading.Barrier(size, timeout=60), [None] * size, [None] * size

    def work(rank):
        found[rank] = list(batches(spec, few, Thread(rank, size, barrier, table)).epoch(0))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(alone[-1][1]) == 1
    for step, (images, labels, _) in enumerate(alone):
        assert torch.equal(torch.cat([found[rank][step][0] for rank in range(size)]), images)
        assert torch.equal(torch.cat([found[rank][step][1] for rank in range(size)]), labels)


def test_accumulated_groups_are_parts_of_the_mixed_batch(toy_results):
    options = {"method": "adaptformer", "epochs": 1, "batch_size": 32}
    whole, parts = (train_once(toy_results, make("cutmix", accumulate=count, **options))[0] for count in (1, 4))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("loss, reweight", [("ce", "none"), ("ldam", "none"), ("grw", "none"), ("ce", "power"), ("las", "power")])
def test_micro_batches_are_parts_of_the_mixed_batch(toy_results, loss, reweight):
    """As where memory is short; also of a loss that is no mean over images."""
    after = []
    for at_once in (32, 5):
        spec = make("mixup", method="adaptformer", loss=loss, reweight=reweight, batch_size=32)
        data, classifier, _ = load(spec, toy_results, torch.device("cpu"), fresh=True)
        counts, kind = torch.as_tensor(data.train_counts), (spec.pixels, spec.vit.mean, spec.vit.std, "cpu")
        step = Step(classifier, make_loss(spec, counts), spec, torch.device("cpu"), ProcessGroup())
        step.micro_batch = at_once
        images, soft, _ = next(mixed(TrainBatches(data.train, spec, *kind), spec, counts, ProcessGroup()).epoch(0))
        assert soft.ndim == 2
        after.append((step(images, soft, 32), classifier.trainable_state()))
    torch.testing.assert_close(after[1], after[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", ["ce", "la", "focal"])
@pytest.mark.parametrize("mix", MIXING)
def test_three_steps_are_those_of_a_plain_loop(toy_results, mix, loss):
    """SGD by hand on the head's weights, of targets made in a loop."""
    plain = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "mix.prob": 1}
    spec = make(mix, loss=loss, epochs=1, batch_size=64, **plain)
    data, classifier, _ = load(spec, toy_results, torch.device("cpu"), fresh=True)
    counts, kind = torch.as_tensor(data.train_counts), (spec.pixels, spec.vit.mean, spec.vit.std, "cpu")
    stream = mixed(TrainBatches(data.train, spec, *kind), spec, counts, ProcessGroup())
    weight, shift = classifier.head.weight.detach().clone(), torch.log(counts / counts.sum()) if loss == "la" else 0.0
    for images, soft, _ in stream.epoch(0):
        with torch.no_grad():
            features = F.normalize(classifier.vit(images), dim=-1)
        leaf = weight.clone().requires_grad_()
        log_p = (spec.scale * features @ F.normalize(leaf, dim=-1).T + shift).log_softmax(1)
        focus = (1 - log_p.exp()) ** 2 if loss == "focal" else 1.0
        value = -(soft * focus * log_p).sum() / len(soft)
        weight -= spec.lr * torch.autograd.grad(value, leaf)[0]
    state, log = train_once(toy_results, spec)
    torch.testing.assert_close(state["head.weight"], weight, rtol=1e-4, atol=1e-6)
    assert len(stream) >= 3 and 0 <= log.curve[0]["accuracy"] <= 100


def test_soft_targets_count_their_share_as_correct():
    logits, soft = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[0.3, 0.7], [0.1, 0.9]])
    value = Expected(LOSSES["ce"](Prior(torch.ones(2))))(logits, soft)
    torch.testing.assert_close(_sums(value, logits, soft, 2), torch.stack([2 * value.double(), torch.tensor(1.2).double()]))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"mix": "mixup", "loss": "lade"}, "needs a loss that takes the two labels of a mixed image: loss=ce or la or .*ldam"),
        ({"mix": "mixup", "sharpness": "imbsam"}, "needs mix=none: a mixed image is of two classes"),
        ({"mix": "cmo", "batch_size": 1}, "needs a batch_size of at least 2: one image has one class"),
        ({"mix": "cmo", "dataset": "toy-ir1"}, "needs a long tail, and toy-ir1 is balanced; mix=cutmix needs none"),
        ({"mix": "remix", "dataset": "toy-ir1"}, "needs a long tail, and toy-ir1 is balanced; mix=mixup needs none"),
        ({"mix": "cutmix", "mix.plain_start": 2, "mix.plain_end": 1}, "must be smaller: .* none of the 3 epochs"),
        ({"mix": "cutmix", "mix.prob": 0}, "above 0 and at most 1"),
        ({"mix": "mixup", "mix.alpha": 0}, "above 0"),
        ({"mix": "mixup", "mix.power": 2}, "needs mix=cmo"),
        ({"mix.alpha": 2}, "needs mix=mixup or"),
        ({"mix": "mixupp"}, "mixup"),
        ({"mix": "mixup", "epochs": 0}, "mix=mixup is not possible .* needs epochs above 0: nothing trains"),
        ({"mix": "mixup", "method": "zero-shot", "epochs": 0}, "needs a method that trains"),
    ],
)
def test_what_cannot_be_is_refused_when_a_study_is_read(options, words):
    given = {"dataset": "toy-ir20", "backbone": "toy", "method": "adaptformer", "seed": 0, "epochs": 3, **options}
    with pytest.raises(PelError, match=words):
        RunSpec.make(**given)


@pytest.mark.parametrize("mix, instead", [("cmo", "cutmix"), ("remix", "mixup")])
def test_a_set_that_is_balanced_as_found_is_refused_before_the_first_step(toy_results, mix, instead):
    """Of images that are not drawn at a ratio nothing is known when the study is read."""
    spec = RunSpec.make("toy", "toy", "head-only", 0, mix=mix, epochs=1)
    with pytest.raises(PelError, match=f"mix={mix} is not possible.* a long tail, and toy is balanced; mix={instead} needs none"):
        train_once(toy_results, spec)


def test_balanced_sets_may_be_mixed_otherwise():
    assert RunSpec.make("toy-ir1", "toy", "adaptformer", 0, mix="cutmix").slug == "toy-ir1.toy.adaptformer.s0.mix=cutmix"
