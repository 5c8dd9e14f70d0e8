"""Two classifiers with equal weights: ours, and the baseline, which is open_clip's image tower as it comes.

The baseline is frozen by ``requires_grad`` and has the same deltas, head, loss and optimiser. It differs in the network alone.
Shape legend: B images, N tokens, D width, H heads, K head width.
"""

from collections.abc import Callable
from typing import Any

import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.common.seeds import torch_generator
from pel_core.hardware.process_group import ProcessGroup
from pel_core.models.deltas import DELTAS, SiteContext
from pel_core.models.methods import METHODS, Attach, MethodPart
from pel_core.models.state_names import OPEN_CLIP_NAMES, rename
from pel_core.models.surgery import After, Before, Tuned
from pel_core.models.vit import ViT
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier, build, method_choices
from pel_core.training.losses import make_loss
from pel_core.training.step import Step

HEAD_WIDTH = {"toy": 16, "clip-mini": 32}  # else 64
TOLERANCE = 1e-3  # of logits up to 25: another order of sums, through twelve blocks
PARTS = {"attn.norm": "ln_1", "ffn.norm": "ln_2", "ffn.fc1": "mlp.c_fc", "ffn.fc2": "mlp.c_proj"}
LAYERS = {"attn.qkv": "qkv", "attn.proj": "proj"}


class SplitAttention(nn.Module):
    """nn.MultiheadAttention's weights and operations, its projections as layers, so that a delta can follow them."""

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.heads = attention.num_heads
        self.qkv = nn.Linear(attention.embed_dim, 3 * attention.embed_dim)
        self.qkv.weight, self.qkv.bias = attention.in_proj_weight, attention.in_proj_bias
        self.proj = attention.out_proj

    def forward(self, x_BND: Tensor, *_: Tensor, **__: Any) -> tuple[Tensor, None]:
        parts = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x_BND).chunk(3, -1)]
        out_BHNK = F.scaled_dot_product_attention(*(part.contiguous() for part in parts))
        return self.proj(out_BHNK.transpose(1, 2).flatten(2)), None


class BesideMLP(nn.Module):
    """A block of open_clip with a delta beside its MLP."""

    def __init__(self, block: nn.Module, delta: nn.Module):
        super().__init__()
        self.block, self.delta = block, delta

    def forward(self, x_BND: Tensor, **_: Any) -> Tensor:
        x_BND = x_BND + self.block.attention(self.block.ln_1(x_BND))
        return x_BND + self.block.mlp(self.block.ln_2(x_BND)) + self.delta(x_BND)


def make_tower(backbone: str) -> VisionTransformer:
    """open_clip's image tower of a backbone's size with random weights, without its projection, which no run reads."""
    entry, generator = RunSpec.make("cifar100-ir100", backbone, "head-only", 0, init="random").vit, torch_generator(0, "bench")
    heads = entry.width // HEAD_WIDTH.get(backbone, 64)
    size = {"image_size": entry.resolution, "patch_size": entry.patch, "width": entry.width, "layers": entry.layers}
    tower = VisionTransformer(**size, heads=heads, mlp_ratio=4.0, act_layer=QuickGELU if entry.quick_gelu else nn.GELU)
    tower.proj, tower.tokens = None, 1 + (entry.resolution // entry.patch) ** 2  # how much of it fits a CPU's caches
    with torch.no_grad():
        for value in tower.parameters():
            if value.ndim > 1:
                value.normal_(0, value.shape[-1] ** -0.5 if value.ndim == 2 else 0.02, generator=generator)
    return tower.requires_grad_(False)


def make_ours(spec: RunSpec, tower: VisionTransformer, classes: int) -> Classifier:
    """Our classifier with the tower's weights; what trains is drawn at random, for a delta of zero would show no mistake."""
    entry = spec.vit
    size = {"layers": entry.layers, "width": entry.width, "patch": entry.patch, "resolution": entry.resolution}
    vit = ViT(**size, heads=entry.width // HEAD_WIDTH.get(spec.backbone, 64), quick_gelu=entry.quick_gelu)
    vit.load_state_dict(rename(tower.state_dict(), OPEN_CLIP_NAMES))
    classifier, generator = build(spec, vit, classes, {}), torch_generator(0, "bench", "deltas")
    with torch.no_grad():
        for value in classifier.trainable().values():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.02)
    return classifier


def make_baseline(spec: RunSpec, tower: VisionTransformer, classes: int) -> Classifier:
    """The tower with the method of the spec attached, and our head; its trained parameters have our names.

    Raises:
        PelError: a method that the baseline cannot attach.
    """
    generator, names = torch.Generator(), list(METHODS)
    parts = sorted(spec.parts, key=lambda part: names.index(part.name))
    tuned = [entry for part in parts for index in part.blocks for entry in _unfreeze(tower, part, index)]
    for part in parts:
        for index in part.blocks:
            for attach in (each for each in METHODS[part.name].attach if each.network == "vit"):
                tuned += _attach(tower, spec, part, attach, index, classes, generator)
    head = build(spec, _bare_vit(spec), classes, {}).head
    return Classifier(tower, head, tuned)


def _bare_vit(spec: RunSpec) -> ViT:
    """The smallest ViT that a head and the method can be asked of."""
    return ViT(layers=spec.vit.layers, width=spec.vit.width, heads=1, patch=spec.vit.patch, resolution=spec.vit.patch)


def _unfreeze(tower: VisionTransformer, part: MethodPart, index: int) -> list[Tuned]:
    if not METHODS[part.name].train:
        return []
    if part.name != "ln":
        raise PelError(f"the baseline knows no method '{part.name}'; it knows {', '.join(known_methods())}")
    found = []
    for site in ("attn.norm", "ffn.norm"):
        for name, value in getattr(tower.transformer.resblocks[index], PARTS[site]).named_parameters():
            found.append(Tuned(f"blocks.{index}.{site}.{name}", part.name, index, site, value.requires_grad_(True)))
    return found


def known_methods() -> list[str]:
    """Methods that the baseline can attach."""
    return ["adaptformer", "vpt-shallow", "vpt-deep", "ln", "ssf-attn", "ssf-ln", "ssf-mlp", "head-only"]


def _attach(
    tower: VisionTransformer,
    spec: RunSpec,
    part: MethodPart,
    attach: Attach,
    index: int,
    classes: int,
    generator: torch.Generator,
) -> list[Tuned]:
    if part.name not in known_methods():
        raise PelError(f"the baseline knows no method '{part.name}'; it knows {', '.join(known_methods())}")
    width, given = spec.vit.width, method_choices(spec, classes)
    choices = {"adapter_scale": given["adapter_scale"], "vpt_len": given["vpt_len"], "mask_ratio": given["mask_ratio"]}
    widths = {"attn.qkv": (width, 3 * width), "ffn.fc1": (width, 4 * width), "ffn.fc2": (4 * width, width)}
    tokens = 1 + (spec.pixels // spec.vit.patch) ** 2
    place = SiteContext(
        nn.Identity(),
        *widths.get(attach.site, (width, width)),
        tokens,
        spec.vit.patch,
        rank=given["adapter_dim"],
        generator=generator,
        **choices,
    )
    delta, blocks = DELTAS[attach.delta](place, **attach.options), tower.transformer.resblocks
    if attach.site == "ffn":
        blocks[index] = BesideMLP(blocks[index], delta)
    elif attach.site == "":
        blocks[index] = Before(blocks[index], delta)
    elif attach.site in LAYERS:
        attention = blocks[index].attn
        attention = attention if isinstance(attention, SplitAttention) else SplitAttention(attention)
        blocks[index].attn = attention
        setattr(attention, LAYERS[attach.site], After(getattr(attention, LAYERS[attach.site]), delta))
    else:
        parent, _, word = PARTS[attach.site].rpartition(".")
        owner = blocks[index].get_submodule(parent)
        setattr(owner, word, After(getattr(owner, word), delta))
    prefix = ".".join(filter(None, [part.name, str(index), attach.site]))
    return [Tuned(f"{prefix}.{name}", part.name, index, attach.site, value) for name, value in delta.named_parameters()]


def make_pair(spec: RunSpec, classes: int, device: torch.device) -> tuple[Classifier, Classifier]:
    """Baseline and ours with equal weights on the device."""
    tower = make_tower(spec.backbone)
    ours, baseline = make_ours(spec, tower, classes), make_baseline(spec, tower, classes)
    baseline.load_trainable(ours.trainable_state())
    return baseline.to(device), ours.to(device)


@torch.no_grad()
def require_equal(baseline: Classifier, ours: Classifier, images: Tensor) -> float:
    """The largest difference of logits, in fp32.

    Raises:
        PelError: it is beyond the tolerance, so that timings would compare two different things.
    """
    difference = (baseline(images).float() - ours(images).float()).abs().max().item()
    if not difference <= TOLERANCE:
        raise PelError(f"the baseline's logits differ from ours by {difference:.3g}, more than {TOLERANCE:g}: nothing was timed")
    return difference


def make_step(classifier: Classifier, spec: RunSpec, classes: int, device: torch.device) -> Callable[[Tensor, Tensor], object]:
    """Our optimizer step on a classifier, the baseline's too, as a function of images and labels."""
    counts = torch.arange(classes, 0, -1)
    criterion = make_loss(spec, counts).to(device)
    step = Step(classifier, criterion, spec, device, ProcessGroup())
    return lambda images, labels: step(images, labels, len(labels))
