"""The head `language-guided` and its choice of anchor sentences: the second stage of VL-LTR (Tian et al. 2022, arXiv 2111.13579).

As read in the public code, commit e5391f5 of ChangyaoTian/VL-LTR (`models/finetune.py`, `engine.py`): the image asks the
sentences of each class, and beside them a multi-layer perceptron looks at the image alone. The paper itself was not read.

Shapes: B images, D features, E projected, H hidden, N sentences, C classes, K sentences of a class at most, M images that choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.lazy import F, nn, torch
from pel_core.common.logs import logger
from pel_core.common.registry import Check, Knob, above, at_least, one_of
from pel_core.models.heads import HEADS, Head

if TYPE_CHECKING:
    from torch import Generator, Size, Tensor

CHOOSERS = ("train", "val", "order")
AT_ONCE = 2**26  # cosines of sentences and images that are held while anchors are chosen
KNOBS = (
    Knob(
        "anchors", 64, "sentences of a class that are kept and attended to, at most; a class with fewer keeps all it has",
        at_least(1),
    ),
    Knob(
        "chosen_by", "train", "which sentences are kept: those that, as classifiers of training or validation images (train, "
        "val), have the least loss, or the first of the file (order)", one_of(*CHOOSERS),
    ),
    Knob(
        "image_share", 0.2, "share of the image branch's probabilities in the average; the rest is that of the sentences",
        Check("at least 0 and at most 1", lambda value: 0 <= value <= 1),
    ),
    Knob(
        "attention_lr", 1e-3, "learning rate of the attention, as a factor of the head's (in the public code 1e-6 beside 1e-3 "
        "for ImageNet-LT, beside 5e-5 for Places-LT, beside 2e-5 for iNaturalist)", above(0),
    ),
    Knob(
        "chunk", 1024, "classes whose sentences are attended to at once; with more classes than that, what is between is "
        "computed again in the backward pass, so that memory does not grow with them", at_least(1),
    ),
)  # fmt: skip


@HEADS.register("language-guided", knobs=KNOBS, reads=("scale",))
class LanguageGuided(Head):
    """log of the mean of two softmaxes: of scale * cos(f, s), s a class's sentences as f attends to them, and of an MLP of f

    s = sum over the class's anchor sentences t of softmax(Q LN(f) . K LN(t) / sqrt(E)) t, one head of attention; f is CLIP's
    projected feature and t the text tower's as it comes, neither of unit length. The MLP has 4 E hidden units and a ReLU. In
    training each of the two has the loss by itself, and these are added (`branches`). Q and K start as the identity, the MLP's
    weights normal with std 0.02, its biases at zero; sentences stay as they are. There the norm of t has a shift too, which
    cancels in the softmax and is left out. Their option for iNaturalist, no gradient through the length of s, is left out.

    Keys and s are never made, of which there would be C K and B C rows of width E: LN(t) is asked for Q LN(f) times K, and the
    length of s comes from the K x K products of the class's sentences. So memory is B C K.
    """

    rows = False
    projects = sentences = True

    def __init__(
        self,
        width: int,
        classes: int,
        scale: float,
        generator: Generator,
        anchors: int = 64,
        chosen_by: str = "train",
        image_share: float = 0.2,
        attention_lr: float = 1e-3,
        chunk: int = 1024,
    ):
        super().__init__()
        self.scale, self.most, self.chosen_by, self.chunk = scale, anchors, chosen_by, chunk
        self.image_share, self.attention_lr = image_share, attention_lr
        self.norm_query, self.norm_key = nn.LayerNorm(width), nn.LayerNorm(width, bias=False)
        self.query, self.key = nn.Parameter(torch.eye(width)), nn.Parameter(torch.eye(width))
        self.hidden = nn.Parameter(torch.empty(4 * width, width).normal_(0, 0.02, generator=generator))
        self.hidden_bias = nn.Parameter(torch.zeros(4 * width))
        self.out = nn.Parameter(torch.empty(classes, 4 * width).normal_(0, 0.02, generator=generator))
        self.out_bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("anchors", torch.zeros(classes, 0, width))
        self.register_buffer("positions", torch.zeros(classes, 0, dtype=torch.long))  # in the class's list; -1: none
        self._texts: tuple[Tensor, Tensor, float] | None = None  # all sentences, until anchors are chosen

    def rates(self) -> dict[str, float]:
        """The factor of the head's learning rate for those parameters that have one, by name."""
        return dict.fromkeys(("norm_query.weight", "norm_query.bias", "norm_key.weight", "query", "key"), self.attention_lr)

    @staticmethod
    def chooser(knobs: Mapping[str, Any]) -> str:
        """The split whose images choose the anchors; empty where none is looked at."""
        return "" if knobs["chosen_by"] == "order" else str(knobs["chosen_by"])

    def attach(self, sentences_NE: Tensor, counts_C: Tensor, logit_scale: float) -> None:
        """Take all sentences, class by class; ``counts_C``: how many each class has; ``logit_scale``: CLIP's learned factor.

        Raises:
            PelError: no class has two, so that there is nothing to attend to.
        """
        if int(counts_C.max()) < 2:
            raise PelError("head=language-guided attends to several sentences of a class, and the prompt says one of each")
        if few := int((counts_C < min(self.most, int(counts_C.max()))).sum()):
            fewest, wanted = int(counts_C.min()), f"head.anchors={self.most}"
            logger.info("%d of %d classes keep fewer sentences than %s: all they have, at least %d",
                        few, len(counts_C), wanted, fewest)  # fmt: skip
        self._texts = sentences_NE, counts_C, logit_scale
        if self.chosen_by == "order":
            self._keep(sentences_NE, counts_C, torch.zeros(len(sentences_NE)))

    def choose(self, features_ME: Tensor, labels_M: Tensor) -> None:
        """Keep of each class the sentences that have the least loss as classifiers of these images (`sentence_losses`).

        Raises:
            PelError: a class without an image.
        """
        assert self._texts is not None, "attach() comes first"
        sentences_NE, counts_C, logit_scale = self._texts
        seen_C = torch.bincount(labels_M, minlength=len(counts_C))
        if absent := (seen_C == 0).nonzero().flatten().tolist():
            what = {"train": "training", "val": "validation"}[self.chosen_by]
            raise PelError(
                f"class {absent[0]} has no {what} image to choose its sentences by ({len(absent)} such classes); "
                "say head.chosen_by=order, or another split"
            )
        of_N = torch.repeat_interleave(torch.arange(len(counts_C)), counts_C)
        self._keep(sentences_NE, counts_C, sentence_losses(sentences_NE, of_N, features_ME, labels_M, logit_scale))

    def _keep(self, sentences_NE: Tensor, counts_C: Tensor, losses_N: Tensor) -> None:
        """Keep the sentences of least loss of each class, of equal ones the first in the file; the others are forgotten."""
        kept, sizes = min(self.most, int(counts_C.max())), counts_C.tolist()
        positions_CK = torch.full((len(sizes), kept), -1)
        anchors_CKE = sentences_NE.new_zeros(len(sizes), kept, sentences_NE.shape[1])
        for label, (own, losses) in enumerate(zip(sentences_NE.split(sizes), losses_N.split(sizes), strict=True)):
            best = losses.sort(stable=True).indices[:kept]
            positions_CK[label, : len(best)], anchors_CKE[label, : len(best)] = best, own[best]
        self.anchors, self.positions = anchors_CKE.to(self.anchors), positions_CK.to(self.positions)
        self._texts = None

    def allocate(self, shapes: Mapping[str, Size]) -> None:
        """Make room for as many sentences as a checkpoint holds."""
        if {"anchors", "positions"} <= shapes.keys():
            self.anchors, self.positions = (getattr(self, name).new_zeros(shapes[name]) for name in ("anchors", "positions"))

    def forward(self, f_BD: Tensor) -> Tensor:
        return self.join(self.branches(f_BD))

    def branches(self, f_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of the image alone, and of the sentences."""
        f_BE = self.feature(f_BD)
        image_BC = F.linear(F.relu(F.linear(f_BE, self.hidden, self.hidden_bias)), self.out, self.out_bias)
        with torch.autocast(f_BE.device.type, enabled=False):  # lengths of sums, and softmaxes over cosines times sqrt(E)
            return image_BC, self._by_sentences(f_BE.float())

    def join(self, outputs: tuple[Tensor, ...]) -> Tensor:
        """Log of the averaged probabilities (B, C) of both branches' logits."""
        image_BC, text_BC = (each.float().log_softmax(-1) for each in outputs)
        share = torch.tensor((self.image_share, 1 - self.image_share), dtype=image_BC.dtype).log().tolist()
        return torch.logaddexp(image_BC + share[0], text_BC + share[1])

    def _by_sentences(self, f_BE: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        asked_BE = F.linear(self.norm_query(f_BE), self.query) @ self.key * self.norm_key.weight * f_BE.shape[1] ** -0.5
        given = asked_BE, F.normalize(f_BE, dim=-1)
        parts = list(zip(self.anchors.split(self.chunk), self.positions.split(self.chunk), strict=True))
        if len(parts) == 1 or not torch.is_grad_enabled():
            return torch.cat([_cosines(*given, *part) for part in parts], 1) * self.scale
        again = [checkpoint(_cosines, *given, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        return torch.cat(again, 1) * self.scale


def _cosines(asked_BE: Tensor, unit_BE: Tensor, anchors_CKE: Tensor, positions_CK: Tensor) -> Tensor:
    """cos(f, s) (B, C) for what images ask of normed sentences, and their unit features."""
    normed_CKE = F.layer_norm(anchors_CKE, anchors_CKE.shape[-1:])
    scores_BCK = torch.einsum("be,cke->bck", asked_BE, normed_CKE)
    shares_BCK = scores_BCK.masked_fill(positions_CK < 0, -torch.inf).softmax(-1)
    near_BC = (shares_BCK * torch.einsum("be,cke->bck", unit_BE, anchors_CKE)).sum(-1)
    products_CKK = anchors_CKE @ anchors_CKE.transpose(1, 2)
    squares_BC = (torch.einsum("bck,ckl->bcl", shares_BCK, products_CKK) * shares_BCK).sum(-1)
    return near_BC / squares_BC.clamp_min(1e-24).sqrt()


def sentence_losses(
    sentences_NE: Tensor, of_N: Tensor, features_ME: Tensor, labels_M: Tensor, logit_scale: float, at_once: int = AT_ONCE
) -> Tensor:
    """The loss (N,) of each sentence as a classifier of images, by which anchor sentences are selected (AnSS).

    It is a cross-entropy over images, not over classes: of the softmax over all M images of logit_scale * cos(sentence, image),
    to an even distribution over the images of the sentence's class ``of_N``. Each class has an image.
    """
    unit_ME, of_class_CE = F.normalize(features_ME, dim=-1), torch.zeros(int(of_N.max()) + 1, features_ME.shape[1])
    counts_C = torch.bincount(labels_M, minlength=len(of_class_CE))
    means_CE = of_class_CE.to(unit_ME).index_add(0, labels_M, unit_ME) / counts_C[:, None]
    losses = []
    for part_NE, own_N in zip(*(each.split(max(1, at_once // len(unit_ME))) for each in (sentences_NE, of_N)), strict=True):
        unit_NE = F.normalize(part_NE, dim=-1)
        own = (unit_NE * means_CE[own_N]).sum(-1)
        losses.append((unit_NE @ unit_ME.T * logit_scale).logsumexp(-1) - logit_scale * own)
    return torch.cat(losses)
