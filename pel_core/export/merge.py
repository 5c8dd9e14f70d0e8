"""Deltas folded into the weights around them, where that is the same function: a tuned ViT becomes a plain one.

Nothing is said here of single deltas. What stands around a matrix is asked for its values at zero and at the unit vectors, in
fp64, which is all there is to know of an affine map; that it is one is then tried on random vectors. So LoRA, DoRA, FacT, VeRA,
scale and shift, factors, RepAdapter and random masks are folded, a bottleneck with an activation is refused, and a plugin's
delta is either.

Shapes: D width into a site, E width out of it.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.common.seeds import torch_generator
from pel_core.models.resnet import ResNet
from pel_core.models.surgery import After, Wrapped
from pel_core.models.vit import ViT
from pel_core.training.classifier import Classifier

EXACT = 1e-9  # of the largest value, in fp64
CLOSE = 1e-4  # of the largest feature, in fp32
NEXT = {"attn": "qkv", "ffn": "fc1"}  # the matrix that reads a branch's LayerNorm
LAST = {"attn": "proj", "ffn": "fc2"}  # the matrix whose output is the branch's


@torch.no_grad()
def merged(classifier: Classifier) -> ViT | ResNet:
    """A copy of the classifier's tower without deltas, in fp32, that gives the same features.

    Raises:
        PelError: a delta is no affine map of what one matrix reads or writes: a prompt, a bottleneck with an activation.
    """
    whole: ViT | ResNet = deepcopy(classifier.vit).double().eval()
    for index, block in enumerate(whole.blocks):
        if isinstance(block, Wrapped):
            raise _refused(classifier, index, "", "it changes which tokens there are, or the whole block")
        for name in [word for word in NEXT if hasattr(block, word)]:
            try:
                setattr(block, name, _plain_branch(name, getattr(block, name)))
            except NotAffineError as error:
                raise _refused(classifier, index, error.site, error.reason) from None
    for path, module in whole.named_modules():
        if isinstance(module, Wrapped):
            raise PelError(f"'{path}' has a delta that no rule folds into a matrix; export it as onnx or torch")
    whole = whole.float().requires_grad_(False)
    _require_same(classifier, whole)
    return whole


class NotAffineError(Exception):
    """What stands at a site cannot be folded, and why."""

    def __init__(self, site: str, reason: str):
        self.site, self.reason = site, reason


def _plain_branch(name: str, branch: nn.Module) -> nn.Module:
    """Attention or MLP without deltas: those at its matrices first, to which what its norm and its end have is added."""
    inner = _bare(branch)
    norm = inner.norm
    for word, layer in list(inner.named_children()):
        if isinstance(layer, Wrapped) and isinstance(_bare(layer), nn.Linear):
            setattr(inner, word, _as_linear(f"{name}.{word}", layer, _bare(layer).in_features))
    if isinstance(norm, Wrapped):
        weight, bias = _affine(f"{name}.norm", norm, len(_bare(norm).weight))
        inner.norm = _bare(norm)
        _after_norm(inner.norm, getattr(inner, NEXT[name]), weight, bias)
    if isinstance(branch, Wrapped):
        last = getattr(inner, LAST[name])
        weight, bias = _affine(name, branch, last.out_features)
        setattr(inner, LAST[name], _linear(weight @ last.weight, F.linear(last.bias, weight, bias)))
    return inner


def _after_norm(norm: nn.LayerNorm, following: nn.Linear, weight_DD: Tensor, bias_D: Tensor) -> None:
    """Put an affine map behind a LayerNorm into the norm, if it treats each channel by itself, else into the next matrix."""
    diagonal = weight_DD.diagonal()
    if torch.equal(diagonal.diag(), weight_DD):
        norm.weight.copy_(norm.weight * diagonal)
        norm.bias.copy_(norm.bias * diagonal + bias_D)
        return
    moved = following.weight @ bias_D
    following.bias = nn.Parameter(moved if following.bias is None else following.bias + moved)
    following.weight.copy_(following.weight @ weight_DD)


def _affine(site: str, wrapped: Wrapped, width: int) -> tuple[Tensor, Tensor]:
    """What comes after a module, all wraps together, as weight (D, D) and bias (D,)."""
    copy = deepcopy(wrapped)
    outer: nn.Module = copy
    while isinstance(outer, Wrapped):
        if not isinstance(outer, After):
            raise NotAffineError(site, "it reads what the branch reads, and is no map of what the branch gives")
        if not isinstance(outer.module, Wrapped):
            outer.module = nn.Identity()
            break
        outer = outer.module
    layer = _as_linear(site, copy, width)
    return layer.weight, layer.bias


def _as_linear(site: str, function: nn.Module, width: int) -> nn.Linear:
    """An affine map of D = ``width`` channels, the same for every token, as a layer; fp64."""
    probe = torch.cat([torch.zeros(1, width), torch.eye(width)]).double()[None]
    sample = torch.randn(1, 8, width, generator=torch_generator(0, "export", site)).double()
    try:
        at_zero_and_units, expected = function(probe)[0], function(sample)
    except RuntimeError as error:  # it wants an image's own tokens
        raise NotAffineError(site, f"it mixes tokens ({str(error).splitlines()[0]})") from None
    bias = at_zero_and_units[0]
    weight = (at_zero_and_units[1:] - bias).T
    apart = (F.linear(sample, weight, bias) - expected).abs().max()
    if not apart <= EXACT * expected.abs().max():
        raise NotAffineError(site, "it is no affine map of a token")
    return _linear(weight, bias)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer


def _bare(module: nn.Module) -> nn.Module:
    while isinstance(module, Wrapped):
        module = module.module
    return module


def _refused(classifier: Classifier, block: int, site: str, reason: str) -> PelError:
    there = {tuned.method for tuned in classifier.tuned if tuned.block == block and tuned.site == site}
    name = " and ".join(sorted(there)) or f"the delta at '{site}'"
    return PelError(
        f"{name} cannot be merged into the backbone's weights (block {block}, site '{site or 'block'}'): {reason}. "
        "Export the whole classifier: --as onnx or --as torch"
    )


def _require_same(classifier: Classifier, plain: nn.Module) -> None:
    resolution = classifier.vit.resolution
    images = torch.randn(2, 3, resolution, resolution, generator=torch_generator(0, "export", "image"))
    ours, theirs = classifier.vit(images), plain(images)
    apart = float((ours - theirs).abs().max() / ours.abs().max())
    if not apart < CLOSE:
        raise PelError(f"features of the merged weights differ by {apart:.2g} of the largest: this method cannot be merged")
