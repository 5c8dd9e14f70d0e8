"""The way of the public implementation to train on a GPU, on our weights: what it costs beside ours.

It runs in fp16 autocast, gives attention 3-D tensors (heads beside images in one axis), and keeps running accuracies that the
host reads image by image and class by class. Written anew from what LIFT's ``trainer.py`` and ``models`` do.
Shape legend: B images, C classes, N tokens, D width, H heads, K head width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pel_core.bench.models import SplitAttention
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier
from pel_core.training.losses import make_loss
from pel_core.training.step import Step


class FlatAttention(SplitAttention):
    """Attention over (B x H, N, K): older fused kernels want four axes and leave three to plain products."""

    def forward(self, x_BND: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
        images = x_BND.shape[0]
        parts = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1) for part in self.qkv(x_BND).chunk(3, -1)]
        out = F.scaled_dot_product_attention(*parts)
        return self.proj(out.unflatten(0, (images, self.heads)).transpose(1, 2).flatten(2)), None


def flatten_attention(baseline: Classifier) -> None:
    """Give every block of the baseline's tower `FlatAttention` with its own weights."""
    for block in baseline.vit.transformer.resblocks:  # type: ignore[union-attr]
        block = getattr(block, "block", getattr(block, "module", block))  # one with a delta beside or before it
        if isinstance(block.attn, nn.MultiheadAttention):
            block.attn = FlatAttention(block.attn)


class Meters:
    """Running accuracies, one a class and one of all: every image's is read by the host."""

    def __init__(self, classes: int):
        self.right, self.seen = [0.0] * classes, [0] * classes

    def add(self, logits_BC: Tensor, labels_B: Tensor) -> float:
        """Take in a batch; the mean accuracy over classes that were seen."""
        correct_B = logits_BC.argmax(1) == labels_B
        for correct, label in zip(correct_B, labels_B, strict=True):
            index = int(label.item())
            self.right[index] += float(correct.item())
            self.seen[index] += 1
        found = [right / seen for right, seen in zip(self.right, self.seen, strict=True) if seen]
        return sum(found) / len(found)


class ReferenceStep:
    """An optimizer step as there: one pass, then the meters and the loss, which wait for the device."""

    def __init__(self, classifier: Classifier, spec: RunSpec, classes: int, device: torch.device):
        self.step = Step(classifier, make_loss(spec, torch.arange(classes, 0, -1)).to(device), spec, device, ProcessGroup())
        self.meters, self.logits = Meters(classes), torch.empty(0)
        classifier.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: object, logits: Tensor) -> None:
        self.logits = logits.detach()

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        total = self.step(images, labels, len(labels))
        self.meters.add(self.logits, labels[-len(self.logits) :])
        return float(total[0].item())
