"""Samplers: the shares of classes against Kang et al.'s equations, the same order wherever it is drawn, and when they begin."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pel_core.common.errors import PelError
from pel_core.common.registry import Entry
from pel_core.common.seeds import generator
from pel_core.data.batches import TrainBatches
from pel_core.data.datasets import Split
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.choices import SAMPLERS
from pel_core.spec.run_spec import RunSpec
from pel_core.training.samplers import make_sampler

COUNTS = [60, 25, 10, 4, 1]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)), COUNTS))
BALANCING = [name for name in SAMPLERS if name != "shuffle"]


def spec(sampler="shuffle", **options):
    return RunSpec.make("toy-ir20", "toy", "head-only", 0, **{"epochs": 10, "sampler": sampler, **options})


def order(run, epoch=0, labels=LABELS, seed=0):
    return make_sampler(run)(generator(seed, "order", epoch), labels, epoch)


def shares(sampler, done, **knobs):
    """Of the classes, as the papers have them: class by class, in plain arithmetic."""
    total, number = sum(COUNTS), len(COUNTS)
    each = {
        "balanced": lambda n: 1 / number,
        "dual": lambda n: 1 / number,  # of its first stream
        "square-root": lambda n: n**0.5,
        "power": lambda n: n ** knobs.get("q", 1.0),
        "progressive": lambda n: (1 - done) * n / total + done / number,
        "effective": lambda n: n * (1 - knobs.get("beta", 0.9999)) / (1 - knobs.get("beta", 0.9999) ** n),
    }[sampler]
    found = [each(n) for n in COUNTS]
    return [value / sum(found) for value in found]


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=40), epoch=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_an_epoch_has_as_many_images_as_there_are(sampler, labels, epoch):
    """Also where classes have no image."""
    labels = np.array(labels, np.int64)
    found = order(spec(sampler), epoch, labels)
    assert found.shape == labels.shape and found.dtype == np.int64 and found.min() >= 0 and found.max() < len(labels)
    assert (found == order(spec(sampler), epoch, labels)).all()


@pytest.mark.parametrize("epoch", [0, 4, 9])
@pytest.mark.parametrize(
    ("sampler", "knobs"),
    [*((name, {}) for name in BALANCING), ("power", {"q": -1.0}), ("power", {"q": 0.25}), ("effective", {"beta": 0.9})],
)
def test_positions_are_those_of_a_second_sampler(sampler, knobs, epoch):
    """A class by its share, then one of its images: one uniform number decides both, along the images in their order."""
    of_class = shares(sampler, epoch / 9, **knobs)
    edges, total = [], 0.0
    for label in LABELS:
        total += of_class[label] / COUNTS[label]
        edges.append(total)
    draws = generator(0, "order", epoch).random(len(LABELS))
    expected = [next((i for i, edge in enumerate(edges) if draw < edge), len(edges) - 1) for draw in draws]
    run = spec(sampler, **{f"sampler.{name}": value for name, value in knobs.items()})
    assert order(run, epoch).tolist() == expected


@pytest.mark.parametrize("sampler", BALANCING)
def test_classes_come_in_their_shares(sampler):
    found = np.concatenate([LABELS[order(spec(sampler), 5, seed=seed)] for seed in range(300)])
    expected = np.array(shares(sampler, 5 / 9))
    deviation = np.sqrt(expected * (1 - expected) / len(found))
    assert (np.abs(np.bincount(found, minlength=len(COUNTS)) / len(found) - expected) < 4 * deviation).all()
    tail = np.flatnonzero(LABELS == 3)  # its four images alike
    each = np.bincount(np.concatenate([order(spec(sampler), 5, seed=seed) for seed in range(300)]), minlength=100)[tail]
    assert each.std() < 4 * np.sqrt(each.mean())


def test_progressive_goes_from_the_images_to_the_classes():
    of_epoch = [shares("progressive", epoch / 9) for epoch in range(10)]
    assert of_epoch[0] == pytest.approx([n / 100 for n in COUNTS]) and of_epoch[9] == pytest.approx([0.2] * 5)
    run = spec("progressive")
    assert (order(run, 0) == order(spec("power"), 0)).all() and (order(run, 9) == order(spec("balanced"), 9)).all()


@pytest.mark.parametrize(("epochs", "defer", "first"), [(10, 0.8, 8), (2, 0.8, 1), (200, 0.8, 160), (3, 0.5, 1), (10, 0.7, 7)])
def test_a_deferred_sampler_shuffles_until_its_first_epoch(epochs, defer, first):
    plain, late = spec(epochs=epochs), spec("balanced", epochs=epochs, **{"sampler.defer": defer})
    at_once = spec("balanced", epochs=epochs)
    for epoch in {0, first - 1, first, epochs - 1}:
        assert (order(late, epoch) == order(plain if epoch < first else at_once, epoch)).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "balanced", "sampler.defer": 0.8, "epochs": 1}, "sampler.defer=0.8 .*more epochs than 1"),
        ({"sampler": "balanced", "sampler.defer": 1}, "at least 0 and below 1"),
        ({"sampler": "shuffle", "sampler.defer": 0.5}, "it needs sampler=balanced or"),
        ({"sampler": "progressive", "epochs": 1}, "sampler=progressive is not possible .*at least 2 epochs"),
        ({"sampler": "balanced", "sampler.q": 1}, "sampler=power"),
        ({"sampler": "balance"}, "balanced"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_read(options, words):
    with pytest.raises(PelError, match=words):
        spec(**options)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda n: np.arange(10), "gave 10 positions, expected 100 whole numbers from 0 to 99"),
        (lambda n: np.arange(n + 1), "gave 101 positions, expected 100"),
        (lambda n: np.arange(n)[None], r"gave an array of shape \(1, 100\), expected 100"),
        (lambda n: None, r"gave an array of shape \(\), expected 100"),
        (lambda n: [[0], [1, 2]], "gave no array of numbers, expected 100"),
        (lambda n: np.arange(n) + 1, "gave the position 100, expected 100 whole numbers from 0 to 99"),
        (lambda n: np.arange(n) - 1, "gave the position -1, expected"),
        (lambda n: np.arange(n) / 1.0, "gave values of type float64, expected"),
        (lambda n: np.ones(n, bool), "gave values of type bool, expected"),
    ],
)
def test_what_a_sampler_returns_has_to_be_the_positions_of_an_epoch(monkeypatch, returned, told):
    """Of 10 of 36 positions a training went on with 10 images, and its table said nothing."""
    entry = Entry("short", lambda generator, labels: returned(len(labels)), "too few")
    monkeypatch.setitem(SAMPLERS._entries, "short", entry)
    with pytest.raises(PelError, match=f"sampler 'short' {told}"):
        order(spec("short"))


def test_positions_of_any_whole_type_are_taken(monkeypatch):
    monkeypatch.setitem(SAMPLERS._entries, "plain", Entry("plain", lambda generator, labels: list(range(len(labels))), "a list"))
    found = order(spec("plain"))
    assert found.dtype == np.int64 and found.tolist() == list(range(100))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ranks_and_late_starts_get_the_parts_of_one_order(sampler):
    class Rank(ProcessGroup):
        def __init__(self, rank):
            self.rank, self.size = rank, 3

        def part(self, images):
            return slice(images * self.rank // 3, images * (self.rank + 1) // 3)

    pixels = np.random.default_rng(0).integers(0, 256, (len(LABELS), 8, 8, 3), np.uint8)
    run = spec(sampler, batch_size=16)

    def epoch(first=0, group=None):
        split = Split(LABELS, images=pixels)
        return list(TrainBatches(split, run, 8, (0.0,) * 3, (1.0,) * 3, "cpu", 0, group, make_sampler(run)).epoch(6, first))

    whole, ranks = epoch(), [epoch(group=Rank(rank)) for rank in range(3)]
    assert len(whole) == 7 and (np.concatenate([indices for *_, indices in whole]) == order(run, 6)).all()
    for step, (images, labels, indices) in enumerate(whole):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), labels) and (LABELS[indices] == labels.numpy()).all()
    for late, early in zip(epoch(first=4), whole[4:], strict=True):
        assert torch.equal(late[0], early[0]) and (late[2] == early[2]).all()
