"""What an optimizer keeps between steps, as a checkpoint holds it: by the names of parameters, whatever the optimizer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Parameters = Mapping[str, torch.nn.Parameter]


def optimizer_tensors(optimizer: Optimizer, parameters: Parameters) -> dict[str, Tensor]:
    """The tensors of the optimizer's state, on the CPU, as ``optimizer.KEY.NAME``. ``parameters``: trained ones by name."""
    return {
        f"optimizer.{key}.{name}": value.detach().cpu().clone()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def optimizer_numbers(
    optimizer: Optimizer, parameters: Parameters
) -> tuple[list[dict[str, int | float]], dict[str, dict[str, int | float]]]:
    """The numbers of its groups, in order, and those of its state by the names of parameters; some count their steps in these."""
    states = {name: _numbers(optimizer.state.get(parameter, {})) for name, parameter in parameters.items()}
    return [_numbers(group) for group in optimizer.param_groups], {name: state for name, state in states.items() if state}


def load_optimizer(
    optimizer: Optimizer, parameters: Parameters, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """Restore the optimizer's state; `load_state_dict` moves each tensor to its parameter's device.

    Args:
        tensors: of a checkpoint, those of other things among them. An older one's are SGD's, ``momentum.NAME``.
        numbers: ``groups`` and ``optimizer``, as ``optimizer_numbers`` gave them; an older one has neither.

    Raises:
        KeyError, ValueError: they are of another optimizer or of other parameters.
    """
    states: dict[str, dict[str, Any]] = {name: dict(state) for name, state in numbers.get("optimizer", {}).items()}
    for label, value in tensors.items():
        kind, _, rest = label.partition(".")
        key, name = ("momentum_buffer", rest) if kind == "momentum" else rest.split(".", 1) if kind == "optimizer" else ("", "")
        if key:
            states.setdefault(name, {})[key] = value
    packed = optimizer.state_dict()
    order = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    packed["state"] |= {order.index(id(parameters[name])): state for name, state in states.items()}
    for group, kept in zip(packed["param_groups"], numbers.get("groups", packed["param_groups"]), strict=True):
        group.update(_numbers(kept))
    optimizer.load_state_dict(packed)


def _numbers(values: Mapping[str, Any]) -> dict[str, int | float]:
    return {key: value for key, value in values.items() if type(value) in (int, float)}
