"""Optimizers: three steps of each against a plain second implementation, parameter groups, and their whole state kept."""

import pytest
import torch
from registries import set_entry
from resuming import train_once
from safetensors.torch import load_file

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.registry import Knob, at_least
from pel_core.models.weights import load_vit
from pel_core.spec.choices import OPTIMIZERS, SCHEDULES
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import build
from pel_core.training.optimizer_state import load_optimizer, optimizer_numbers, optimizer_tensors
from pel_core.training.optimizers import make_optimizer, parameter_groups
from pel_core.training.run_inputs import load

RATE, DECAY = 0.02, 0.1


class Layer(torch.nn.Linear):
    """Stands for a classifier that is a head alone."""

    tuned = ()

    def __init__(self):
        super().__init__(3, 2)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in self.parameters():
                value.normal_(generator=generator)

    def trainable(self):
        return dict(self.named_parameters())


def make(optimizer="sgd", method="adaptformer", **options):
    own = {name if name in RunSpec.__dataclass_fields__ else f"optimizer.{name}": value for name, value in options.items()}
    return RunSpec.make("toy-ir20", "toy", method, 0, optimizer=optimizer, lr=RATE, weight_decay=DECAY, **own)


def gradients(layer, step):
    """Drawn anew for each step, of all sizes."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(value.shape, generator=generator) * 10 ** (step - 1) for value in layer.parameters()]


def steps(layer, optimizer, numbers):
    for step in numbers:
        for value, gradient in zip(layer.parameters(), gradients(layer, step), strict=True):
            value.grad = gradient
        optimizer.step()


# Second implementations: one parameter x, its gradients g_1, g_2, ...; yields x after each.


def plain_sgd(x, grads, momentum=0.9, nesterov=False):
    velocity = 0
    for g in grads:
        g = g + DECAY * x
        velocity = momentum * velocity + g
        x = x - RATE * (g + momentum * velocity if nesterov else velocity)
    return x


def plain_adamw(x, grads, betas=(0.9, 0.999), eps=1e-8):
    m = v = 0
    for t, g in enumerate(grads, 1):
        x = x * (1 - RATE * DECAY)
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        x = x - RATE * (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)
    return x


def plain_nadam(x, grads, betas=(0.9, 0.999), eps=1e-8):
    m = v = 0
    product = 1.0
    for t, g in enumerate(grads, 1):
        x = x * (1 - RATE * DECAY)
        now, then = (betas[0] * (1 - 0.5 * 0.96 ** (step * 0.004)) for step in (t, t + 1))
        product *= now
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        mean = then * m / (1 - product * then) + (1 - now) * g / (1 - product)
        x = x - RATE * mean / ((v / (1 - betas[1] ** t)).sqrt() + eps)
    return x


def plain_lion(x, grads, betas=(0.9, 0.99)):
    m = 0
    for g in grads:
        x = x * (1 - RATE * DECAY)
        x = x - RATE * torch.sign(betas[0] * m + (1 - betas[0]) * g)
        m = betas[1] * m + (1 - betas[1]) * g
    return x


PLAIN = {"sgd": plain_sgd, "adamw": plain_adamw, "nadam": plain_nadam, "lion": plain_lion}
OPTIONS = {
    "sgd": [{}, {"nesterov": True}, {"momentum": 0.0}],
    "adamw": [{}, {"betas": (0.8, 0.95), "eps": 0.1}],
    "nadam": [{}, {"betas": (0.8, 0.95), "eps": 0.1}],
    "lion": [{}, {"betas": (0.8, 0.95)}],
}


@pytest.mark.parametrize(("name", "options"), [(name, options) for name in PLAIN for options in OPTIONS[name]])
def test_three_steps(name, options):
    layer, start = Layer(), [value.detach().clone() for value in Layer().parameters()]
    steps(layer, make_optimizer(layer, make(name, **options)), (1, 2, 3))
    for i, found in enumerate(layer.parameters()):
        grads = [gradients(layer, step)[i] for step in (1, 2, 3)]
        torch.testing.assert_close(found.detach(), PLAIN[name](start[i], grads, **options), rtol=1e-5, atol=1e-6)


def test_every_optimizer_has_a_second_implementation():
    assert set(PLAIN) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_whole_state_comes_back(name):
    spec = make(name)
    straight, stopped, resumed = Layer(), Layer(), Layer()
    steps(straight, make_optimizer(straight, spec), range(1, 6))
    before = make_optimizer(stopped, spec)
    steps(stopped, before, range(1, 4))
    tensors, (groups, states) = optimizer_tensors(before, stopped.trainable()), optimizer_numbers(before, stopped.trainable())
    assert {key.rpartition(".")[2] for key in tensors} == {"weight", "bias"}
    resumed.load_state_dict(stopped.state_dict())
    after = make_optimizer(resumed, spec)
    load_optimizer(after, resumed.trainable(), tensors, {"groups": groups, "optimizer": states})
    steps(resumed, after, range(4, 6))
    for name_, value in straight.named_parameters():
        assert torch.equal(value, resumed.get_parameter(name_))


def test_numbers_of_state_and_groups_come_back_too():
    """Some optimizers count their steps in a number, or keep sums in a group."""
    layer = Layer()
    optimizer = torch.optim.SGD([{"params": list(layer.parameters()), "sum": 0.0}], lr=0.1)
    optimizer.state[layer.weight]["count"] = 7
    optimizer.param_groups[0]["sum"] = 2.5
    groups, states = optimizer_numbers(optimizer, layer.trainable())
    other = torch.optim.SGD([{"params": list(layer.parameters()), "sum": 0.0}], lr=0.1)
    load_optimizer(other, layer.trainable(), {}, {"groups": groups, "optimizer": states})
    assert other.state[layer.weight]["count"] == 7 and other.param_groups[0]["sum"] == 2.5


def test_an_older_checkpoint_has_sgds_momentum():
    layer = Layer()
    optimizer = make_optimizer(layer, make())
    tensors = {f"momentum.{name}": torch.full_like(value, 3.0) for name, value in layer.named_parameters()}
    load_optimizer(optimizer, layer.trainable(), tensors | {"parameter.weight": torch.zeros(1)}, {"scaler": {}})
    assert all(bool((optimizer.state[value]["momentum_buffer"] == 3).all()) for value in layer.parameters())


def test_an_optimizer_and_a_schedule_of_a_few_lines(toy_results, monkeypatch):
    """They need none of the shared knobs, nor to know of checkpoints."""
    halved = Knob("every", 2, "epochs until the rate is halved", at_least(1))
    set_entry(monkeypatch, OPTIMIZERS, "rprop", lambda groups, spec, fused: torch.optim.Rprop(groups), about="signs")
    set_entry(monkeypatch, SCHEDULES, "steps", lambda at, every: 0.5 ** (at.epoch // every), about="halves", knobs=(halved,))
    spec = RunSpec.make("toy-ir20", "toy", "lora", 0, optimizer="rprop", schedule="steps", epochs=3, **{"schedule.every": 1})
    _, log = train_once(toy_results, spec)
    assert [record["lr"] for record in log.curve] == [0.01, 0.005, 0.0025]


# ---- groups


@pytest.fixture(scope="module")
def classifier(toy_results):
    """Builds the toy classifier of a spec."""

    def made(spec):
        vit, text, _ = load_vit(toy_results / "backbones" / "toy")
        return build(spec, vit, 6, text | load_file(toy_results / "text" / "toy" / "toy.default.safetensors"))

    return made


def grouped(classifier, spec, **shared):
    """Name -> (rate, decay), and the groups."""
    model = classifier(spec)
    names = {id(value): name for name, value in model.trainable().items()}
    groups = parameter_groups(model, spec, **shared)
    assert sum(len(group["params"]) for group in groups) == len(names)
    return {names[id(value)]: (group["lr"], group["weight_decay"]) for group in groups for value in group["params"]}, groups


def test_by_default_one_group_in_order(classifier):
    spec = make(method="adaptformer+bias+ln+vpt-deep")
    found, groups = grouped(classifier, spec)
    assert len(groups) == 1 and set(found.values()) == {(RATE, DECAY)} and list(found) == list(classifier(spec).trainable())


def test_the_head_has_its_own_rate(classifier):
    found, _ = grouped(classifier, make(), head_lr=0.5)
    assert {name for name, (rate, _) in found.items() if rate == 0.5} == {"head.weight"}
    assert {rate for rate, _ in found.values()} == {0.5, RATE}


def test_layer_decay(classifier):
    spec = make(method="adaptformer")
    found, _ = grouped(classifier, spec, layer_decay=0.5)
    last = spec.vit.layers - 1
    for name, (rate, _) in found.items():
        expected = RATE if name.startswith("head") else RATE * 0.5 ** (last - int(name.split(".")[1]))
        assert rate == pytest.approx(expected), name


@pytest.mark.parametrize(("blocks", "last"), [("", 3), ("@1:3", 2), ("@:2", 1)])
@pytest.mark.parametrize("method", ["fact-tt", "fact-tk"])
def test_what_blocks_share_learns_as_the_last_of_them(classifier, method, blocks, last):
    spec = make(method=method + blocks)
    assert spec.vit.layers == 4
    found, _ = grouped(classifier, spec, layer_decay=0.5)
    shared = [rate for name, (rate, _) in found.items() if ".shared." in name]
    assert shared == pytest.approx([RATE * 0.5 ** (3 - last)] * len(shared)) and shared
    own = {name: rate for name, (rate, _) in found.items() if ".shared." not in name and not name.startswith("head")}
    assert all(rate == pytest.approx(RATE * 0.5 ** (3 - int(name.split(".")[1]))) for name, rate in own.items())


EXEMPT = {
    "adaptformer": {
        "biases": ("ffn.norm.bias", "down.bias", "up.bias"), "norms": ("norm.weight", "norm.bias"), "scales": ("scale",),
    },
    "vpt-deep": {"prompts": ("prompt",)},
    "ssf-attn": {"scales": ("scale",), "biases": ("shift",)},
    "bias": {"biases": ("qkv.bias", "proj.bias", "fc1.bias", "fc2.bias"), "norms": ("norm.bias",)},
    "mask": {"biases": ("bias",)},
    "lora": {},
}  # fmt: skip


@pytest.mark.parametrize("method", EXEMPT)
@pytest.mark.parametrize("kind", ["biases", "norms", "prompts", "scales"])
def test_what_has_no_decay_is_judged_on_what_it_is(classifier, method, kind):
    found, _ = grouped(classifier, make(method=method), no_decay=kind)
    free = {name for name, (_, decay) in found.items() if decay == 0}
    ends = EXEMPT[method].get(kind, ())
    expected = {name for name in found if name.endswith(ends) and (kind == "norms" or "norm." not in name)} if ends else set()
    assert free == expected


def test_a_linear_heads_bias_is_a_bias(classifier):
    found, _ = grouped(classifier, make(method="head-only", head="linear", init="random"), no_decay="biases")
    assert found == {"head.weight": (RATE, DECAY), "head.bias": (RATE, 0.0)}


# ---- knobs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"betas": [0.9, 0.99]}, r"optimizer.betas=.* no effect .* needs optimizer=adamw or optimizer=nadam or optimizer=lion"),
        ({"eps": 1e-6}, "needs optimizer=adamw or optimizer=nadam"),
        ({"optimizer": "lion", "nesterov": True}, "optimizer.nesterov=true has no effect .* needs optimizer=sgd"),
        ({"momentum": 0, "nesterov": True}, "optimizer.nesterov=true has no effect .* needs momentum above 0"),
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum=0.5 has no effect .* needs optimizer=sgd"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; known: adamw, lion, nadam, sgd. Did you mean"),
        ({"optimizer": "adamw", "betas": [0.9]}, "optimizer.betas=0.9 is not possible; it must be 2 numbers"),
        ({"optimizer": "adamw", "betas": [0.9, 1]}, "each at least 0 and below 1"),
        ({"head_lr": 0}, "optimizer.head_lr=0 is not possible; it must be same or above 0"),
        ({"head_lr": 0.1, "train_head": False}, "optimizer.head_lr=0.1 has no effect .* needs train_head=true"),
        ({"no_decay": "norms+biases"}, "must be none, or some of biases, norms, prompts, scales, in this order"),
        ({"method": "head-only", "layer_decay": 0.5}, "optimizer.layer_decay=0.5 has no effect on head-only"),
        ({"method": "head-only", "train_head": False}, "train_head=false is not possible .* since nothing else trains"),
        ({"layer_decay": 0}, "above 0 and at most 1"),
    ],
)
def test_options_that_make_no_sense(options, words):
    options = {name if name in RunSpec.__dataclass_fields__ else f"optimizer.{name}": value for name, value in options.items()}
    with pytest.raises(PelError, match=words):
        RunSpec.make("toy", "toy", options.pop("method", "adaptformer"), 0, **options)


def test_shared_knobs_stay_away_where_they_are_idle():
    shared = {"optimizer.layer_decay": 0.5, "optimizer.betas": [0.5, 0.5], "optimizer.nesterov": True}
    assert RunSpec.make("toy", "toy", "head-only", 0, shared, momentum=0).knobs == ()
    assert (
        RunSpec.make("toy", "toy", "lora", 0, shared).slug == "toy.toy.lora.s0.optimizer.layer_decay=0.5.optimizer.nesterov=true"
    )


# ---- runs


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(toy_results, name):
    rate = {"sgd": 0.05, "lion": 0.001}.get(name, 0.01)
    spec = RunSpec.make("toy-ir20", "toy", "head-only", 0, optimizer=name, lr=rate, epochs=3, init="random", precision="fp16")
    _, log = train_once(toy_results, spec)
    assert log.curve[-1]["loss"] < log.curve[0]["loss"]


@pytest.mark.parametrize("init", ["text", "class-mean", "random"])
def test_a_head_that_does_not_train(toy_results, init):
    """It stays at its start, is counted among the frozen, and comes with the file."""
    spec = RunSpec.make("toy-ir20", "toy", "ln", 0, train_head=False, init=init, epochs=1, loss="ce")
    assert spec.slug.endswith("train_head=false")
    assert main(["train", spec.slug, "--results", str(toy_results)]) == 0
    assert main(["evaluate", spec.slug, "--results", str(toy_results)]) == 0
    folder = toy_results / "runs" / spec.slug
    record, state = read_json(folder / "metrics.json"), load_file(folder / "delta.safetensors")
    start = load(spec, toy_results, torch.device("cpu"), fresh=True)[1].trainable_state()
    assert torch.equal(state["head.weight"], start["head.weight"])
    assert not torch.equal(state["blocks.0.attn.norm.weight"], start["blocks.0.attn.norm.weight"])
    counts = record["parameters"]
    assert counts["head"] == 0 and counts["learnable_with_head"] == counts["learnable"] > 0
    trained = RunSpec.make("toy-ir20", "toy", "ln", 0, epochs=1, loss="ce")
    assert main(["train", trained.slug, "--results", str(toy_results)]) == 0
    with_head = read_json(toy_results / "runs" / trained.slug / "train.json")["parameters"]
    assert counts["frozen"] - with_head["frozen"] == with_head["head"] == state["head.weight"].numel()
    assert "0 in the head" in (folder / "README.md").read_text()
