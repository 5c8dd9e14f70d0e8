"""Tensors that the deltas of a method share: one object, counted and stored once, over ranges, stacks, devices and copies."""

from copy import deepcopy

import pytest
import torch
from test_surgery import LAYERS, RANK, WIDTH, classifier, images, steps, toy_vit, tune
from torch import nn

from pel_core.common.errors import PelError
from pel_core.models.deltas import DELTAS, SiteContext
from pel_core.models.methods import MATRICES, METHODS, parse_method
from pel_core.models.surgery import Wrapped, apply
from pel_core.models.vit import ViT

SHARED = {"fact-tt": ("u", "v"), "fact-tk": ("u", "v", "c")}


def deltas(vit):
    return [module.delta for module in vit.modules() if isinstance(module, Wrapped)]


@pytest.mark.parametrize("method", SHARED)
@pytest.mark.parametrize("blocks", ["", "@1:", "@2:3"])
def test_one_object_for_all_blocks_and_sites(method, blocks):
    vit, tuned = tune(method + blocks)
    found = deltas(vit)
    count = {"": LAYERS, "@1:": LAYERS - 1, "@2:3": 1}[blocks]
    assert len(found) == count * len(MATRICES)
    for name in SHARED[method]:
        assert len({id(getattr(delta, name)) for delta in found}) == 1
        entry = next(entry for entry in tuned if entry.name == f"{method}.shared.{name}")
        assert entry.parameter is getattr(found[0], name) and entry.block == LAYERS - count


@pytest.mark.parametrize("method", SHARED)
def test_stored_counted_and_stepped_once(method):
    model = classifier(method)
    state = model.trainable_state()
    shared = {name for name in state if ".shared." in name}
    assert shared == {f"{method}.shared.{name}" for name in SHARED[method]}
    # No other tensor of the checkpoint is as large as U or V: the blocks hold none of their own.
    assert not [name for name, value in state.items() if value.numel() >= WIDTH * RANK and name not in shared | {"head.weight"}]
    census = model.census()
    assert census["learnable"] == sum(value.numel() for name, value in state.items() if name != "head.weight")
    assert census["frozen"] == sum(value.numel() for value in toy_vit().parameters())
    other = classifier(method, seed=1)
    steps(model)
    other.load_trainable(model.trainable_state())
    assert torch.equal(other(images()), model(images()))
    steps(other)  # tensors loaded into are still shared
    assert all(len({id(getattr(delta, name)) for delta in deltas(other.vit)}) == 1 for name in SHARED[method])


def test_a_shared_tensor_s_gradient_is_the_sum_over_its_places():
    model = classifier("fact-tt")
    for value in model.trainable().values():
        nn.init.normal_(value, 0, 0.2)
    model(images()).sum().backward()
    together = model.trainable()["fact-tt.shared.u"].grad.clone()
    alone = torch.zeros_like(together)
    for own in deltas(model.vit):
        shared, own.u = own.u, nn.Parameter(own.u.detach().clone())
        model(images()).sum().backward()
        alone += own.u.grad
        own.u = shared
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_methods_do_not_share_with_each_other():
    vit, tuned = tune("fact-tk+fact-tt")
    names = {entry.name for entry in tuned if ".shared." in entry.name}
    assert names == {f"{method}.shared.{name}" for method, words in SHARED.items() for name in words}
    assert len({id(delta.u) for delta in deltas(vit)}) == 2


def test_copies_and_other_types_share_among_themselves():
    model = classifier("fact-tt")
    copy = deepcopy(model).double()
    assert len({id(delta.u) for delta in deltas(copy.vit)}) == 1 and deltas(copy.vit)[0].u is not deltas(model.vit)[0].u
    assert copy.trainable()["fact-tt.shared.u"] is deltas(copy.vit)[0].u
    assert deltas(copy.vit)[0].u.dtype == torch.float64


def test_a_model_without_memory_shares_too():
    with torch.device("meta"):
        vit = ViT(layers=LAYERS, width=WIDTH, heads=2, patch=8, resolution=16)
    tune("fact-tk", vit)
    assert len({id(delta.u) for delta in deltas(vit)}) == 1 and deltas(vit)[0].u.is_meta


def test_vera_s_random_matrices_are_frozen_shared_and_made_again():
    model = classifier("vera")
    found = deltas(model.vit)
    assert len({id(delta.a) for delta in found}) == len({id(delta.b) for delta in found}) == 1
    assert not [name for name in model.trainable_state() if "shared" in name or name.endswith((".a", ".b"))]
    frozen = sum(value.numel() for value in toy_vit().parameters())
    assert model.census()["frozen"] == frozen + 2 * WIDTH * RANK  # A and B, once each
    assert torch.equal(deltas(classifier("vera", seed=1).vit)[0].a, found[0].a)
    knobs = {knob.name: knob.default for knob in METHODS["vera"].knobs} | {"projection_seed": 1}
    assert not torch.equal(deltas(tune("vera", knobs={"vera": knobs})[0])[0].a, found[0].a)
    knobs["matrices"] = "q+o+fc1+fc2"
    shapes = {(*delta.a.shape, *delta.b.shape) for delta in deltas(tune("vera", knobs={"vera": knobs})[0])}
    assert shapes == {(WIDTH, RANK, RANK, WIDTH), (WIDTH, RANK, RANK, 4 * WIDTH), (4 * WIDTH, RANK, RANK, WIDTH)}


def test_initial_values_of_factors():
    rank, width = 40, 300
    knobs = {"scale": 1.0, "sites": "both", "matrices": "q", "start": 0.1, "projection_seed": 0}

    def made(name, **options):
        numbers = (nn.Linear(width, width), width, width, 5, 8, rank, 2, 0.1, torch.Generator().manual_seed(0))
        return DELTAS[name](SiteContext(*numbers, knobs=knobs, blocks=range(12)), **options)

    def bound(value):
        return pytest.approx(value.abs().max().item(), rel=0.05)

    train, tucker, vera = made("fact-tt"), made("fact-tk"), made("vera", parts=("q",))
    assert width**-0.5 == bound(train.u) and rank**-0.5 == bound(train.s) and not train.v.any()
    assert 3**0.5 / rank == bound(tucker.c) and (6 / (144 + rank)) ** 0.5 == bound(tucker.p)
    assert (6 / width) ** 0.5 == bound(vera.a) and (6 / rank) ** 0.5 == bound(vera.b)
    assert torch.equal(vera.inner[0], torch.full((rank,), 0.1)) and not vera.outer[0].any()


def test_layers_that_are_no_d_by_d_matrices_are_refused():
    with torch.device("meta"):
        vit = ViT(layers=1, width=32, heads=2, patch=8, resolution=16, hidden=80)
    with pytest.raises(PelError, match=r"FacT takes layers for D x D matrices, and a layer of 32 x 80 is none.*sites=attn.*lora"):
        apply(vit, parse_method("fact-tt", 1), adapter_dim=4)
    attention = apply(vit, parse_method("fact-tt", 1), adapter_dim=4, knobs={"fact-tt": {"sites": "attn"}})
    assert {entry.site for entry in attention} == {"attn.qkv", "attn.proj"}
