"""OPTIMIZERS: how gradients become steps. Torch is imported when one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pel_core.common.lazy import torch
from pel_core.spec.choices import OPTIMIZERS

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from pel_core.spec.run_spec import RunSpec
    from pel_core.training.classifier import Classifier


@OPTIMIZERS.register("sgd", reads=("momentum",))
def sgd(classifier: Classifier, spec: RunSpec, fused: bool) -> Optimizer:
    """SGD with momentum and weight decay on everything that trains, biases and norms too, as in the reference."""
    parameters = list(classifier.trainable().values())
    how = {"fused": True} if fused else {"foreach": True}  # the latter has the bits of a loop over parameters, in half its time
    optimizer = torch.optim.SGD(parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, **how)
    if fused and spec.momentum:
        # Its first step allocates momentum unfilled, and where it overflows, as fp16's first steps do, never fills it (torch
        # 2.15): the next step would add what was in memory. From zeros the first step is the same.
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
