"""What a step minimises: the loss of a run, what its deltas add to it, and a second stream of images beside the first.

Shape legend: B images, V views of an image, S = 2 streams, C classes, D features, R pixels.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier
from pel_core.training.compiling import Network
from pel_core.training.contrastive import takes_features


class Objective:
    """A function of what the network says of some images and of their labels.

    A loss that takes features gets those of all views, and the head's rows. Of a head with branches (`Head.branches`) each has
    the loss by itself, and these are added. What deltas add of each image (`Classifier.own_loss`) counts as the image does: its
    mean, or the mean that the run's class weights make of it. Of two streams (``sampler.second``) labels are pairs (B, S); the
    second one's loss counts a weight that falls from epoch to epoch, (E - e) / E of what it is in the first, and is
    ``criterion.second`` where the loss has that.
    """

    def __init__(self, classifier: Classifier, criterion: nn.Module, spec: RunSpec):
        self.classifier, self.criterion, self.spec = classifier, criterion, spec
        self.features, self.adds, self.streams = takes_features(spec.loss), classifier.adds_loss, spec.streams
        self.weight, self.every_view = spec.second_weight, getattr(criterion, "every_view", False)
        self.branches = hasattr(classifier.head, "branches")

    @property
    def more(self) -> str:
        """What is asked of the network beside the logits of a batch, in words; empty where nothing."""
        wanted = {
            "the loss takes features too": self.features,
            "the loss takes the head's branches one by one": self.branches,
            "the method adds to the loss": self.adds,
            "there are two streams": self.streams > 1,
        }
        return " and ".join(words for words, asked in wanted.items() if asked)

    def set_epoch(self, epoch: int) -> None:
        """Tell the loss which epoch begins, from 0, if it asks (`losses.ByClass`): also after a checkpoint."""
        self.weight = self.spec.second_weight * (self.spec.epochs - epoch) / max(self.spec.epochs, 1)
        if hasattr(self.criterion, "set_epoch"):
            self.criterion.set_epoch(epoch)

    def begin(self, draw: Callable[[str], np.random.Generator], first: int) -> None:
        """A batch begins, of which this process has the images from position ``first`` on: told to a loss that draws numbers
        (``criterion.begin``); ``draw`` makes generators, the same each time that this batch begins."""
        if hasattr(self.criterion, "begin"):
            self.criterion.begin(draw, first)

    def outputs(self, network: Network, images: Tensor, whole: int) -> tuple[Tensor, ...]:
        """What the loss is of: logits (B, C), of two streams (B, S, C), of every view (B, V, C) if it takes those, and of each
        branch of the head; features (B, V, D) if it takes them; what deltas add (B,), or (B, S)."""
        if self.features:
            outputs = self.classifier.with_features(images, self.every_view)
        elif self.streams > 1:
            both = images.flatten(0, 1)
            said = self.classifier.branches(both) if self.branches else (self.classifier(both),)
            outputs = tuple(each.unflatten(0, images.shape[:2]) for each in said)
        else:
            outputs = self.classifier.branches(images) if self.branches else (network(images, whole),)
        if not self.adds:
            return outputs
        own = self.classifier.own_loss().unflatten(0, (len(images), -1))
        return (*outputs, own if self.streams > 1 else own.mean(1))

    def logits(self, outputs: Sequence[Tensor]) -> Tensor:
        """Those of ``outputs`` by which the head decides, (B, C), (B, S, C) or (B, V, C)."""
        return self.classifier.head.join(tuple(each.detach() for each in self._said(outputs))) if self.branches else outputs[0]

    def _said(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return outputs[:-1] if self.adds else outputs

    def __call__(self, outputs: Sequence[Tensor], labels: Tensor, keys: Sequence[Tensor] = ()) -> Tensor:
        """The loss, (), of labels (B,), of pairs (B, S), or of soft targets (B, C); ``keys`` (B, E) if the loss asks for some."""
        said = self._said(outputs)
        if self.streams > 1:
            second = getattr(self.criterion, "second", self.criterion)
            losses = [
                _added(loss, [each[:, i] for each in said], labels[:, i]) for i, loss in enumerate((self.criterion, second))
            ]
            losses = [loss + outputs[-1][:, i].mean() for i, loss in enumerate(losses)] if self.adds else losses
            return losses[0] + self.weight * losses[1]
        if self.features:
            loss = self.criterion(said[0], labels, said[1], self.classifier.head.weight, *keys)
        else:
            loss = _added(self.criterion, said, labels)
        return loss + self._mean(outputs[-1], labels) if self.adds else loss

    def _mean(self, own: Tensor, labels: Tensor) -> Tensor:
        weights = self.criterion.image_weights(labels) if hasattr(self.criterion, "image_weights") else None
        return own.mean() if weights is None else (weights * own).sum() / weights.sum()


def _added(criterion: nn.Module, branches: Sequence[Tensor], labels: Tensor) -> Tensor:
    """The loss of each branch by itself, added."""
    return (
        torch.stack([criterion(each, labels) for each in branches]).sum() if len(branches) > 1 else criterion(branches[0], labels)
    )
