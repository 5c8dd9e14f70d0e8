"""``compile: auto``: a training's network through `torch.compile`, where that can pay; everything about it is here.

A graph is made for one shape, that of a whole micro-batch (of another one only where memory ran short); an epoch's last, smaller
one goes as without it, so that nothing is compiled for it. Loss, optimizer and evaluations are as without it. On a CPU it gained
3 % for 33 to 46 s of compiling (docs/benchmarks), so `auto` leaves a CPU alone; what it gives on a GPU is not measured.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from pel_core.training.classifier import Classifier

BACKEND = "inductor"
DEVICES = ("cuda",)


class Network:
    """A classifier, called as such or through its compiled form.

    ``seconds`` is what the passes took in which a graph was made. ``say`` is told why nothing is compiled where it was asked for.
    ``features``: whether the loss takes features beside logits, ``branches``: whether it takes the logits of each branch of the
    head; these are asked of the classifier itself.
    """

    def __init__(
        self,
        classifier: Classifier,
        choice: str,
        device: torch.device,
        say: Callable[[str], None],
        features: bool = False,
        branches: bool = False,
    ):
        self.classifier, self.device, self.say, self.seconds = classifier, device, say, 0.0
        self._compiled: Any = None
        self._made: set[int] = set()
        if choice == "auto":
            if reason := why_not(device, features, branches):
                say(f"compile: auto: {reason}; steps are taken as without it")
            else:
                self._compiled = torch.compile(classifier, backend=BACKEND, dynamic=False)

    def __call__(self, images: Tensor, whole: int) -> Tensor:
        """Logits (B, C) of images (B, 3, R, R), compiled where B is ``whole``, the images of a whole micro-batch."""
        if self._compiled is None or len(images) != whole:
            return self.classifier(images)
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self._compiled(images)
        except TorchDynamoException as error:  # a compiler's fault is no reason to lose a run
            self._compiled = None
            reason = " ".join(str(error).split("\n\n")[0].split())
            self.say(f"compile: auto: it failed ({reason}); steps are taken as without it")
            return self.classifier(images)

    @contextmanager
    def counted(self, images: int, whole: int) -> Iterator[None]:
        """Around forward and backward of so many images: the first time of a size they are compiled, and that is counted."""
        if self._compiled is None or images < whole or whole in self._made:
            yield
            return
        clock = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._made.add(whole)
        self.seconds += time.perf_counter() - clock


def why_not(device: torch.device, features: bool = False, branches: bool = False) -> str:
    """Why nothing is compiled for a device here; empty where it is."""
    if features:
        return "the loss takes features too, and only logits are compiled"
    if branches:
        return "the loss takes the head's branches one by one, and only the logits of all are compiled"
    if device.type not in DEVICES:
        return f"only a CUDA device is compiled for, and this is the {device.type.upper()}"
    if BACKEND == "inductor" and find_spec("triton") is None:
        return "Triton is not installed, by which torch.compile makes a GPU's kernels (pip install triton)"
    return ""
