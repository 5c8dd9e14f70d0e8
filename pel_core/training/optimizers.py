"""OPTIMIZERS: how gradients become steps. Torch is imported when one is made, timm where it has the optimizer.

An entry is a function of parameter groups (each with its ``lr`` and ``weight_decay``), the run's spec, whether the device's
fused kernels are wanted, and its own knobs. The knobs ``SHARED`` are about groups and mean the same for every optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import nn, torch
from pel_core.common.registry import Check, Knob, above, between, each
from pel_core.models.deltas import Prompt
from pel_core.spec.choices import OPTIMIZERS

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from pel_core.spec.run_spec import RunSpec
    from pel_core.training.classifier import Classifier

KINDS = ("biases", "norms", "prompts", "scales")  # of parameters that may go without weight decay; the rest are matrices


def _is_kinds(value: str) -> bool:
    words = value.split("+")
    return value == "none" or words == [kind for kind in KINDS if kind in words]


SHARED = (
    Knob(
        "head_lr", "same", "learning rate of the head, or same for the run's lr", above(0), ("same",), float,
        needs=lambda spec: "" if spec.train_head else "train_head=true",
    ),
    Knob(
        "no_decay", "none", f"trained parameters without weight decay: none, or some of {', '.join(KINDS)}, joined by +",
        Check(f"none, or some of {', '.join(KINDS)}, in this order and joined by +", _is_kinds),
        needs=lambda spec: "" if spec.weight_decay else "weight_decay above 0",
    ),
    Knob(
        "layer_decay", 1.0,
        "block i of L learns at lr times this to the power L - 1 - i, what several blocks share (fact-tt, fact-tk) as the last "
        "of them, the head at its own rate; 1: all alike",
        Check("above 0 and at most 1", lambda value: 0 < value <= 1),
        needs=lambda spec: "" if any(part.blocks for part in spec.parts) else "a method that trains in the blocks",
    ),
    Knob(
        "clip_norm", "none", "longest gradient, over all that trains and of the whole batch; a longer one is shortened to it",
        above(0), ("none",), float,
    ),
)  # fmt: skip


def _betas(*default: float) -> Knob:
    return Knob("betas", default, "decay rates of the running means of gradients", each(between(0, 1), 2))


EPS = Knob("eps", 1e-8, "added to the denominator", above(0))
NESTEROV = Knob("nesterov", False, "Nesterov's momentum", needs=lambda spec: "" if spec.momentum else "momentum above 0")
Groups = list[dict[str, Any]]


@OPTIMIZERS.register("sgd", knobs=(*SHARED, NESTEROV), reads=("momentum",))
def sgd(groups: Groups, spec: RunSpec, fused: bool, nesterov: bool = False) -> Optimizer:
    """SGD with momentum and weight decay on everything that trains, biases and norms too, as in the reference."""
    # foreach has the bits of a loop over parameters, in half its time
    optimizer = torch.optim.SGD(groups, momentum=spec.momentum, nesterov=nesterov, **_kernels(fused))
    if fused and spec.momentum:
        # Its first step allocates momentum unfilled, and where it overflows, as fp16's first steps do, never fills it (torch
        # 2.15): the next step would add what was in memory. From zeros the first step is the same.
        for parameter in (parameter for group in groups for parameter in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


@OPTIMIZERS.register("adamw", knobs=(*SHARED, _betas(0.9, 0.999), EPS))
def adamw(groups: Groups, spec: RunSpec, fused: bool, betas: tuple[float, float], eps: float) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return torch.optim.AdamW(groups, betas=betas, eps=eps, **_kernels(fused))


@OPTIMIZERS.register("nadam", knobs=(*SHARED, _betas(0.9, 0.999), EPS))
def nadam(groups: Groups, spec: RunSpec, fused: bool, betas: tuple[float, float], eps: float) -> Optimizer:
    """Adam with Nesterov's momentum (Dozat 2016) and decoupled weight decay."""
    return torch.optim.NAdam(groups, betas=betas, eps=eps, decoupled_weight_decay=True, **_kernels(False))


@OPTIMIZERS.register("lion", knobs=(*SHARED, _betas(0.9, 0.99)))
def lion(groups: Groups, spec: RunSpec, fused: bool, betas: tuple[float, float]) -> Optimizer:
    """The sign of a running mean of gradients, with decoupled weight decay (Chen et al. 2023; timm's)."""
    return import_module("timm.optim").Lion(groups, betas=betas, **_kernels(False))


def _kernels(fused: bool) -> dict[str, bool]:
    return {"fused": True} if fused else {"foreach": True}


def make_optimizer(
    classifier: Classifier, spec: RunSpec, fused: bool | None = None, criterion: nn.Module | None = None
) -> Optimizer:
    """The run's optimizer over everything that trains, what the loss ``criterion`` learns itself included.

    ``fused``, by default on a GPU, leaves it to the device to skip a step whose fp16 gradients overflowed; else the host waits
    every step. An optimizer without such a kernel ignores it.
    """
    fused = next(iter(classifier.trainable().values())).is_cuda if fused is None else fused
    knobs = spec.knobs_of("optimizer")
    shared = {knob.name: knobs.pop(knob.name, knob.default) for knob in SHARED}
    del shared["clip_norm"]  # the step's
    return OPTIMIZERS[spec.optimizer](parameter_groups(classifier, spec, **shared, criterion=criterion), spec, fused, **knobs)


def parameter_groups(
    classifier: Classifier,
    spec: RunSpec,
    head_lr: float | str = "same",
    no_decay: str = "none",
    layer_decay: float = 1.0,
    criterion: nn.Module | None = None,
) -> Groups:
    """What trains, in groups of one rate and one weight decay; ``initial_lr`` is the rate that a schedule multiplies.
    A loss's own parameters have the head's rate.

    With the knobs at their defaults it is one group, in the order of ``trainable()``.
    """
    exempt = set(no_decay.split("+")) - {"none"}
    kinds = _kinds(classifier, criterion) if exempt else {}
    blocks = {id(tuned.parameter): tuned.last for tuned in classifier.tuned}
    head = getattr(classifier, "head", None)
    rates = head.rates() if head is not None and hasattr(head, "rates") else {}
    factors = {id(head.get_parameter(name)): factor for name, factor in rates.items()}
    groups: dict[tuple[float, float], list[Any]] = {}
    for parameter in (*classifier.trainable().values(), *(criterion.parameters() if criterion else ())):
        if (block := blocks.get(id(parameter))) is not None:
            rate = spec.lr * layer_decay ** (spec.vit.layers - 1 - block)
        else:
            rate = (spec.lr if head_lr == "same" else float(head_lr)) * factors.get(id(parameter), 1)
        decay = 0.0 if kinds.get(id(parameter)) in exempt else spec.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def _kinds(classifier: Classifier, criterion: nn.Module | None = None) -> Mapping[int, str]:
    """What each parameter is, of ``KINDS``, by its id; matrices and entries chosen from them (`Sparse`) are none of these."""
    from pel_core.models.resnet import FrozenStatistics

    kinds, of_loss = {}, criterion.modules() if criterion else ()
    # A tower's module says what it is.
    for module in (*classifier.modules(), *getattr(classifier.head, "tower_modules", ()), *of_loss):
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.LayerNorm | nn.BatchNorm1d | FrozenStatistics):
                kind = "norms"
            elif isinstance(module, Prompt) or name == "context":  # CoOp's, before class names
                kind = "prompts"
            elif name in ("bias", "shift", "hidden_bias", "out_bias"):
                kind = "biases"
            else:
                kind = "scales" if parameter.ndim < 2 and name != "weight" else "matrices"
            kinds[id(parameter)] = kind
    return kinds
