"""Every method trains exactly what it says and composes with every other; the tests run over the registries."""

import re
from itertools import combinations

import pytest
import torch
from registries import set_entry
from torch import nn
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.models import surgery
from pel_core.models.backbones import BACKBONES
from pel_core.models.deltas import DELTAS, SiteContext
from pel_core.models.heads import HEADS
from pel_core.models.methods import METHODS, Attach, BlockContext, Method, MethodPart, methods_for, parse_method
from pel_core.models.resnet import ResNet
from pel_core.models.sites import parameters, sites
from pel_core.models.surgery import WRAPS, apply
from pel_core.models.vit import ViT
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier

LAYERS, WIDTH, RANK, PROMPTS, RATIO = 3, 32, 3, 2, 0.1
TUNING = [name for name in methods_for("vit") if METHODS[name].blocks != "none"]
RANGED = [name for name in methods_for("vit") if METHODS[name].blocks == "any"]
PAIRS = [(a, b) for a, b in combinations(TUNING, 2) if b not in METHODS[a].excludes and a not in METHODS[b].excludes]
# All that go together: one kind of prompts, one method that computes with a matrix's own weights.
EVERYTHING = [name for name in TUNING if name not in ("vpt-shallow", "vpt-gated", "dora")]
# These start as random perturbations (scale and shift) or as random tokens; every other method starts as the identity.
NOT_IDENTITY = {"ssf-ln", "ssf-attn", "ssf-mlp", "vpt-shallow", "vpt-deep", "vpt-gated"}
D, R = WIDTH, RANK
BOTTLENECK = 2 * D * R + R + 3 * D
MATRICES = {"attn.qkv": (3 * D, D), "attn.proj": (D, D), "ffn.fc1": (4 * D, D), "ffn.fc2": (D, 4 * D)}
BLOCK = sum(rows * columns + rows for rows, columns in MATRICES.values()) + 4 * D
# Parameters of one block, in closed form; of methods that are not in these tables (a new one, a plugin's), as their deltas have.
COUNTS = {
    "mask": sum(int(RATIO * rows * (columns + 1)) for rows, columns in MATRICES.values()),
    "lora": 4 * D * R,
    "lora-mlp": 5 * D * R,
    "ssf-ln": 4 * D,
    "ssf-attn": 8 * D,
    "ssf-mlp": 10 * D,
    "adapter": BOTTLENECK,
    "adaptformer": BOTTLENECK + 1,
    "vpt-shallow": PROMPTS * D,
    "vpt-deep": PROMPTS * D,
    "ln": 4 * D,
    "bias": 11 * D,
    "full": BLOCK,
}
BOTTLENECK_NAMES = [f"ffn.{name}" for name in ("norm.weight", "norm.bias", "down.weight", "down.bias", "up.weight", "up.bias")]
SCALE_SHIFT = ("scale", "shift")
# What one block trains, in the method's own names (``METHOD.BLOCK.`` before them) or the backbone's (``blocks.BLOCK.``).
NAMES = {
    "mask": [f"{site}.{part}" for site in MATRICES for part in ("weight", "bias")],
    "lora": [f"attn.qkv.{part}.{index}" for part in ("down", "up") for index in (0, 1)],
    "lora-mlp": ["ffn.fc1.down.0", "ffn.fc1.up.0"],
    "ssf-ln": [f"{site}.{part}" for site in ("attn.norm", "ffn.norm") for part in SCALE_SHIFT],
    "ssf-attn": [f"{site}.{part}" for site in ("attn.qkv", "attn.proj") for part in SCALE_SHIFT],
    "ssf-mlp": [f"{site}.{part}" for site in ("ffn.fc1", "ffn.fc2") for part in SCALE_SHIFT],
    "adapter": BOTTLENECK_NAMES,
    "adaptformer": [*BOTTLENECK_NAMES, "ffn.scale"],
    "vpt-shallow": ["prompt"],
    "vpt-deep": ["prompt"],
    "ln": [f"{site}.norm.{part}" for site in ("attn", "ffn") for part in ("weight", "bias")],
    "bias": [f"{site}.bias" for site in (*MATRICES, "attn.norm", "ffn.norm")],
    "full": [f"{site}.{part}" for site in (*MATRICES, "attn.norm", "ffn.norm") for part in ("weight", "bias")],
}


def toy_vit(seed=1):
    torch.manual_seed(seed)
    vit = ViT(layers=LAYERS, width=WIDTH, heads=2, patch=8, resolution=16, quick_gelu=True).eval()
    for parameter in vit.parameters():  # no zeros, so that weight decay alone moves whatever trains
        nn.init.normal_(parameter, 1 if parameter.ndim == 1 else 0, 0.2)
    return vit


def tune(method, vit=None, **options):
    vit = vit or toy_vit()
    knobs = {name: {knob.name: knob.default for knob in METHODS[name].knobs} for name in METHODS}
    choices = {"knobs": knobs, "adapter_dim": RANK, "vpt_len": PROMPTS, "mask_ratio": RATIO, **options}
    parts = method if isinstance(method, tuple) else parse_method(method, LAYERS)
    return vit, apply(vit, parts, **choices)


def classifier(method, seed=0):
    vit, tuned = tune(method, seed=seed)
    return Classifier(vit, HEADS["cosine"](WIDTH, 5, 25.0, torch.Generator().manual_seed(0)), tuned)


def images(count=4):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def steps(model, count=2):
    """SGD with momentum and weight decay on the trainable parameters."""
    optimizer = torch.optim.SGD(model.trainable().values(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(model(images()), torch.arange(4)).backward()
        optimizer.step()


def blocks_of(method):
    return range(1 if METHODS[method].blocks == "first" else LAYERS)


def as_deltas_have(method, blocks):
    """Stored names and numbers of what a method trains: of every delta alone, and of what its patterns match."""
    vit, found, held = toy_vit(), {}, {}
    knobs = {knob.name: knob.default for knob in METHODS[method].knobs}
    for index in blocks:
        block = vit.blocks[index]
        for attach in METHODS[method].attached(BlockContext(index, blocks, LAYERS, knobs)):
            module = block.get_submodule(attach.site)
            widths = (module.in_features, module.out_features) if isinstance(module, nn.Linear) else (WIDTH, WIDTH)
            numbers = (vit.tokens, vit.patch, RANK, PROMPTS, RATIO, torch.Generator().manual_seed(0))
            site = SiteContext(module, *widths, *numbers, knobs=knobs, blocks=blocks, held=held)
            delta = DELTAS[attach.delta](site, **attach.options)
            shared = {id(value): f"{method}.shared.{name}" for name, value in held.items()}
            for name, value in delta.named_parameters():
                if value.requires_grad:
                    own = ".".join(filter(None, [method, str(index), attach.site, name]))
                    found[shared.get(id(value), own)] = value.numel()
        for pattern in METHODS[method].train:
            matching = {name: value.numel() for name, value in block.named_parameters() if re.fullmatch(pattern, name)}
            found |= {f"blocks.{index}.{name}": count for name, count in matching.items()}
    return found


def names_and_count(method, blocks):
    """As the tables of this file have it, for other methods as their deltas do."""
    if method in COUNTS:
        stored = "blocks" if METHODS[method].train else method
        return {f"{stored}.{block}.{name}" for block in blocks for name in NAMES[method]}, COUNTS[method] * len(blocks)
    found = as_deltas_have(method, blocks)
    return set(found), sum(found.values())


def expected_names(method, blocks):
    return names_and_count(method, blocks)[0]


@pytest.mark.parametrize("method", COUNTS)
def test_what_deltas_have_is_what_the_tables_of_this_file_say(method):
    found = as_deltas_have(method, blocks_of(method))
    assert (set(found), sum(found.values())) == names_and_count(method, blocks_of(method))


@pytest.mark.parametrize("method", TUNING)
def test_names_and_counts(method):
    _, tuned = tune(method)
    names = [entry.name for entry in tuned]
    assert len(names) == len(set(names))
    total = sum(entry.parameter.numel() for entry in tuned)
    assert (set(names), total) == names_and_count(method, blocks_of(method))
    assert {entry.method for entry in tuned} == {method}


@pytest.mark.parametrize("method", TUNING)
def test_exactly_what_is_named_trains_and_nothing_else_changes(method):
    model = classifier(method)
    trained = {id(parameter) for parameter in model.trainable().values()}
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    assert {id(value) for value in model.parameters() if value.requires_grad} == trained
    steps(model)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) != (id(value) in trained), name
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize("method", TUNING)
def test_identity_at_initialisation(method):
    plain = toy_vit()(images())
    vit, _ = tune(method)
    moved = (vit(images()) - plain).abs().max() > 1e-5
    assert bool(moved) == (method in NOT_IDENTITY)


@pytest.mark.parametrize("method", RANGED)
def test_a_block_range_touches_these_blocks_only(method):
    vit, tuned = tune(f"{method}@1:2")
    assert {entry.name for entry in tuned} == expected_names(method, range(1, 2))
    assert {entry.block for entry in tuned} == {1}
    for block in (vit.blocks[0], vit.blocks[2]):
        assert not any(isinstance(module, surgery.Wrapped) for module in block.modules())
        assert not any(parameter.requires_grad for parameter in block.parameters())


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_two_methods_compose(first, second):
    model = classifier(f"{first}+{second}")
    names = {entry.name for entry in model.tuned}
    assert names == expected_names(first, blocks_of(first)) | expected_names(second, blocks_of(second))
    F.cross_entropy(model(images()), torch.arange(4)).backward()
    unreached = {name for name, value in model.trainable().items() if value.grad is None}
    assert not unreached
    other = classifier(f"{second}+{first}")
    assert torch.equal(model(images()), other(images()))
    assert model.trainable().keys() == other.trainable().keys()


def test_every_method_at_once_in_any_order():
    stack = EVERYTHING
    model, other = classifier("+".join(stack)), classifier("+".join(reversed(stack)))
    assert torch.equal(model(images()), other(images()))
    # "full" has every backbone parameter that "ln" and "bias" train; each counts once.
    own = sum(names_and_count(name, range(LAYERS))[1] for name in stack if name not in ("ln", "bias", "difffit"))
    own += LAYERS * 2 * D  # of difffit, the factors
    assert model.census()["learnable"] == own == sum(model.census()["by_part"].values())


def test_a_method_draws_the_same_start_whatever_it_is_stacked_with():
    alone = {entry.name: entry.parameter for entry in tune("adaptformer")[1]}
    stacked = {entry.name: entry.parameter for entry in tune("adaptformer+lora+vpt-deep")[1]}
    assert all(torch.equal(stacked[name], value) for name, value in alone.items())


@pytest.mark.parametrize("method", [name for name in TUNING if METHODS[name].attach])
def test_the_seed_decides_the_start(method):
    first, again, other = (torch.cat([entry.parameter.flatten() for entry in tune(method, seed=seed)[1]]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (METHODS[method].draws != "run")


def test_several_attaches_on_one_site_stack(monkeypatch):
    deltas = {"beside": "adaptformer", "after": "scale-shift", "before": "scale-shift"}
    attach = tuple(Attach("ffn", how, delta) for how, delta in deltas.items())
    set_entry(monkeypatch, METHODS, "stacked", Method("test", attach))
    vit, tuned = tune((MethodPart("stacked", 0, 1),))
    assert len(tuned) == 7 + 2 + 2
    for entry in tuned:
        nn.init.normal_(entry.parameter)
    outer = vit.blocks[0].ffn
    before, after, beside = outer.delta, outer.module.delta, outer.module.module.delta
    plain, x = outer.module.module.module, torch.randn(2, 5, WIDTH)
    torch.testing.assert_close(outer(x), after(plain(before(x)) + beside(before(x))))


def test_a_site_inside_a_wrapped_module_is_still_found():
    """SSF scales fc1 inside the feed-forward network that AdaptFormer wraps, whichever comes first."""
    vit, _ = tune("adaptformer+ssf-mlp+vpt-deep")
    block = vit.blocks[0].module
    assert isinstance(block.ffn, WRAPS["beside"]) and isinstance(block.ffn.module.fc1, WRAPS["after"])


@pytest.mark.parametrize(
    "broken",
    [
        Method("test", (Attach("ffn", "after", "adapter"), Attach("ffn.fc3", "after", "adapter"))),
        Method("test", train=(r"attn\.norm\.weight", r"ffn\.gate")),
    ],
)
def test_a_mistake_leaves_the_model_as_it_was(monkeypatch, broken):
    set_entry(monkeypatch, METHODS, "broken", broken)
    vit = toy_vit()
    shape, flags = str(vit), [parameter.requires_grad for parameter in vit.parameters()]
    with pytest.raises(PelError, match=r"(fc3.*it has .*ffn\.fc1)|(gate.*it has .*ffn\.fc1)"):
        tune((MethodPart("adaptformer", 0, 2), MethodPart("broken", 0, 2)), vit)
    assert str(vit) == shape and [parameter.requires_grad for parameter in vit.parameters()] == flags


@pytest.mark.slow
@pytest.mark.parametrize("method", TUNING)
def test_compiles_as_one_graph(method):
    torch.compiler.reset()
    model = classifier(method)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    found = compiled(images())
    torch.testing.assert_close(found, model(images()))
    found.sum().backward()


@pytest.mark.slow
def test_a_large_stack_compiles_as_one_graph():
    torch.compiler.reset()
    model = classifier("+".join(EVERYTHING))
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(images()), model(images()))


@pytest.mark.parametrize("method", TUNING)
def test_a_checkpoint_restores_the_model(method):
    trained, fresh = classifier(method), classifier(method, seed=1)
    steps(trained)
    state = trained.trainable_state()
    fresh.load_trainable(state)
    assert torch.equal(fresh(images()), trained(images()))
    steps(trained)
    assert not torch.equal(state["head.weight"], trained.head.weight)  # the checkpoint is a copy


def spoil(state, how):
    if how == "missing":
        del state["adaptformer.0.ffn.scale"]
    elif how == "more":
        state["adaptformer.9.ffn.scale"] = torch.ones(1)
    else:
        state["head.weight"] = torch.zeros(7, WIDTH)
    return state


@pytest.mark.parametrize(("how", "named"), [("missing", "0.ffn.scale"), ("more", "9.ffn.scale"), ("shape", "head.weight")])
def test_a_checkpoint_of_another_run_is_refused_and_loads_nothing(how, named):
    model, other = classifier("adaptformer"), classifier("adaptformer", seed=1)
    before = model.trainable_state()
    with pytest.raises(PelError, match=named):
        model.load_trainable(spoil(other.trainable_state(), how))
    assert all(torch.equal(value, before[name]) for name, value in model.trainable_state().items())


def test_census():
    model = classifier("adaptformer+ln")
    census = model.census()
    assert census["by_part"] == {"adaptformer": LAYERS * COUNTS["adaptformer"], "ln": LAYERS * COUNTS["ln"]}
    assert census["head"] == 5 * WIDTH and census["learnable_with_head"] == census["learnable"] + 5 * WIDTH
    total = sum(parameter.numel() for parameter in model.parameters())
    assert census["frozen"] + census["learnable_with_head"] == total


@pytest.mark.parametrize("options", [{}, {"attn_norm": True, "mlp_norm": True}, {"gated": True, "mlp_norm": True}])
def test_the_parts_of_a_block_are_known_without_its_weights(options):
    """All that a built ViT has is named in `sites`, so that no site that is there is refused when a study is read."""
    block = ViT(layers=1, width=WIDTH, heads=2, patch=8, resolution=32, **options).blocks[0]
    assert {name for name, _ in block.named_modules()} <= set(sites(BACKBONES["toy"]))
    assert {name for name, _ in block.named_parameters()} <= set(parameters(BACKBONES["toy"]))


def test_the_parts_of_a_resnet_are_known_without_its_weights():
    entry = BACKBONES["clip-rn50"]
    block = ResNet(stages=entry.stages, stem=8, width=16, heads=2, resolution=64).blocks[0]
    assert {name for name, _ in block.named_modules()} == set(sites(entry))
    assert {name for name, _ in block.named_parameters()} == set(parameters(entry))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Method("test", (Attach("atn", "after", "adapter"),)), "unknown site .*wrong-place on toy.*'atn'.*Did you mean 'attn'"),
        (Method("test", (Attach("ffn.fc3", "after", "adapter"),)), "'ffn.fc3'; known: .*ffn.fc1"),
        (Method("test", train=(r"ffn\\.gate",)), r"trains 'ffn\\\\.gate', and no parameter .* of toy .*ffn.fc1.weight"),
    ],
)
def test_what_a_block_does_not_have_is_refused_when_a_run_is_read(monkeypatch, wrong, told):
    """A plugin's typing error passed the plan and failed in the train job."""
    set_entry(monkeypatch, METHODS, "wrong-place", wrong)
    with pytest.raises(PelError, match=told):
        RunSpec.make("toy-ir20", "toy", "wrong-place+ln", 0)
