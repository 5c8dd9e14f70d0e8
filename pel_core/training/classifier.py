"""Classifier: a ViT with a method attached and a head on top, built from a RunSpec. What trains is the whole checkpoint."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.common.seeds import torch_generator
from pel_core.models.heads import HEADS, Head, ZeroShot
from pel_core.models.methods import METHODS
from pel_core.models.surgery import Inside, Tuned, apply, auto_adapter_dim, auto_mask_ratio
from pel_core.models.vit import ViT
from pel_core.spec.parents import is_of
from pel_core.spec.run_spec import RunSpec


class Classifier(nn.Module):
    """Images (B, 3, R, R) -> logits (B, C). ``tuned`` lists the backbone's and deltas' trained parameters."""

    def __init__(self, vit: ViT, head: nn.Module, tuned: list[Tuned]):
        super().__init__()
        self.vit, self.head, self.tuned = vit, head, tuned
        self._adding = [module for module in vit.modules() if hasattr(module, "own_loss")]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.vit(images))

    def branches(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, R, R) -> the logits (B, C) of each branch of a head that has several (`Head.branches`)."""
        return self.head.branches(self.vit(images))

    def with_features(self, images: Tensor, every_view: bool = False) -> tuple[Tensor, Tensor]:
        """Views (B, V, 3, R, R) -> logits (B, C) of the first of each image, or (B, V, C) of ``every_view``, and what the head
        classifies of all, (B, V, D)."""
        features = self.vit(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        logits = self.head(features.flatten(0, 1)).unflatten(0, images.shape[:2]) if every_view else self.head(features[:, 0])
        return logits, self.head.feature(features)

    @property
    def adds_loss(self) -> bool:
        """Whether its deltas add something to the loss that trains any of them."""
        return any(value.requires_grad for module in self._adding for value in module.parameters(recurse=False))

    def own_loss(self) -> Tensor:
        """What the deltas add to the loss of each image of the last pass (B,), of each view where there were several (B V,)."""
        return torch.stack([module.own_loss() for module in self._adding]).sum(0)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every parameter that trains, by its stored name: ``adaptformer.6.ffn.up.weight``, ``head.weight``."""
        return {name: value for name, value in self.stored().items() if value.requires_grad}

    def stored(self) -> dict[str, Tensor]:
        """What a checkpoint holds by name: delta and head, also what is frozen: it may come from images or from another run."""
        head = {f"head.{name}": value for name, value in self.head.state_dict(keep_vars=True).items()}
        return {tuned.name: tuned.parameter for tuned in self.tuned} | head

    def trainable_state(self) -> dict[str, Tensor]:
        """The checkpoint: detached CPU copies of ``stored()``."""
        if hasattr(self.head, "refresh"):
            self.head.refresh()
        return {name: value.detach().cpu().clone() for name, value in self.stored().items()}

    @torch.no_grad()
    def load_trainable(self, state: Mapping[str, Tensor], part: str = "all") -> None:
        """Load a checkpoint, or a part of it: its ``delta`` or its ``head``; names and shapes must match exactly.

        Raises:
            PelError: the checkpoint is of another method, head or class count.
        """
        if part != "delta" and hasattr(self.head, "allocate"):  # what it remembers has the size that it had
            self.head.allocate({name.removeprefix("head."): value.shape for name, value in state.items()})
        stored, state = ({name: each[name] for name in each if is_of(part, name)} for each in (self.stored(), state))
        if missing := stored.keys() ^ state.keys():
            raise PelError(f"the checkpoint is of another run: {len(missing)} names differ, e.g. '{min(missing)}'")
        for name, parameter in stored.items():
            if parameter.shape != state[name].shape:
                raise PelError(f"the checkpoint's '{name}' is {tuple(state[name].shape)}, expected {tuple(parameter.shape)}")
        for name, parameter in stored.items():
            parameter.copy_(state[name])

    @torch.no_grad()
    def interpolate(self, start: Mapping[str, Tensor], alpha: float) -> None:
        """WiSE-FT (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"): each tensor of ``stored()`` becomes
        (1 - alpha) start + alpha trained, the head's too. ``start``: by the same names, of before training.

        These are the parameters as they train, not the matrices that they amount to; docs/averaging.md says what that is for
        each delta.
        """
        for name, parameter in self.stored().items():
            parameter.copy_(torch.lerp(start[name].to(parameter.device), parameter, alpha))

    def census(self) -> dict[str, Any]:
        """Parameter counts: ``learnable`` leaves the head out, as the report's columns do."""
        by_part: dict[str, int] = {}
        for tuned in (tuned for tuned in self.tuned if tuned.parameter.requires_grad):
            by_part[tuned.method] = by_part.get(tuned.method, 0) + tuned.parameter.numel()
        learnable = sum(by_part.values())
        head = sum(value.numel() for value in self.head.parameters() if value.requires_grad)
        everything = [*self.vit.parameters(), *self.head.parameters()]
        frozen = sum(value.numel() for value in everything if not value.requires_grad)
        if isinstance(self.head, Head):
            frozen += sum(value.numel() for value in (self.head.projection, self.head.shift) if value is not None)
        counts = {"learnable": learnable, "head": head, "learnable_with_head": learnable + head, "frozen": frozen}
        return counts | {"by_part": by_part}


def cast_frozen_weights(classifier: Classifier, dtype: torch.dtype | None) -> None:
    """Hold the frozen matrices as autocast to ``dtype`` would cast them at each use, in place: the same numbers, less memory.

    What a checkpoint holds stays as it is, and so do norms and biases: some are added to fp32. None, for no autocast, changes
    nothing.
    """
    if dtype is None:
        return
    kept = {id(tuned.parameter) for tuned in classifier.tuned}
    read = {id(wrap.module) for wrap in classifier.vit.modules() if isinstance(wrap, Inside)}  # by their deltas, in fp32
    for module in classifier.vit.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d) or module.weight.requires_grad:
            continue
        if id(module.weight) not in kept and id(module) not in read:
            module.weight.data = module.weight.data.to(dtype)


def adapter_dim(spec: RunSpec, classes: int) -> int:
    """The rank r of a run's bottlenecks and LoRA: declared, the reference's rule, or LIFT+'s, which counts tuned blocks only.

    Raises:
        PelError: a rule asks for more than the width.
    """
    if isinstance(spec.adapter_dim, int):
        return spec.adapter_dim
    layers = spec.vit.layers
    if spec.adapter_dim == "auto-tuned":
        ranked = [part for part in spec.parts if "adapter_dim" in METHODS.entry(part.name).reads]
        layers = len({block for part in ranked for block in part.blocks}) or layers
    dim = auto_adapter_dim(classes, layers)
    if dim > spec.vit.width:
        found = f"is {dim} for {classes} classes, above the width {spec.vit.width}"
        raise PelError(f"adapter_dim={spec.adapter_dim} {found}; say a number")
    return dim


def method_choices(spec: RunSpec, classes: int) -> dict[str, Any]:
    """The keyword arguments of ``surgery.apply`` for a run."""
    learnable, automatic = spec.adapter_scale == "learnable", spec.mask_ratio == "auto"
    return {
        "adapter_dim": adapter_dim(spec, classes),
        "adapter_scale": None if learnable else float(spec.adapter_scale),
        "vpt_len": spec.vpt_len,
        "mask_ratio": auto_mask_ratio(classes, spec.vit.layers, spec.vit.width) if automatic else float(spec.mask_ratio),
        "mask_seed": spec.seed if spec.mask_seed == "run" else int(spec.mask_seed),
        "seed": spec.seed if spec.delta_seed == "run" else int(spec.delta_seed),
        "knobs": {part.name: spec.knobs_of(part.name) for part in spec.parts},
    }


def start_head(
    head: nn.Module,
    rows: Tensor | None,
    remembered: tuple[Tensor, Tensor] | None,
    choosing: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Put rows (C, D) and what is remembered of training images, features (M, D) and labels (M,), into a head; ``choosing``, the
    same of images, are those that its sentences are chosen by."""
    if rows is not None:
        with torch.no_grad():
            head.weight.copy_(rows)
    if remembered is not None:
        head.remember(*remembered)
    if choosing is not None:
        head.choose(*choosing)


def build(
    spec: RunSpec,
    vit: ViT,
    classes: int,
    text: Mapping[str, Tensor],
    rows: Tensor | None = None,
    remembered: tuple[Tensor, Tensor] | None = None,
    choosing: tuple[Tensor, Tensor] | None = None,
) -> Classifier:
    """Attach the spec's method to ``vit`` (in place) and put its head on.

    Args:
        text: ``text.features`` (C, E), ``text.projection`` (D, E), ``text.logit_scale``, where the spec needs them; with
            ``text.shift`` (E,) where the projection has one.
        rows: (C, D) that the head starts from, where the spec takes them from images; without them it starts at random, to
            be loaded from a checkpoint. With projected features (C, E).
        remembered: features (M, D), or projected (M, E), and labels (M,) of the training images that the head asks for
            (`Head.remembers`). choosing: the same of the images that its sentences are chosen by (`Head.sentences`).

    Raises:
        PelError: text features or the projection missing, or of another number of classes.
    """
    if spec.needs_text and len(text.get("text.features", ())) != classes:
        raise PelError(f"{spec.slug} needs {classes} class-text features, found {len(text.get('text.features', ()))}")
    parts = tuple(part for part in spec.parts if METHODS[part.name].blocks != "none")
    tuned = apply(vit, parts, **method_choices(spec, classes))
    if not spec.trains:
        scale, shift = float(text["text.logit_scale"]), text.get("text.shift")
        return Classifier(vit, ZeroShot(text["text.projection"], text["text.features"], scale, shift), tuned)
    projection = image_projection(spec, text)
    knobs = {name: value for name, value in spec.knobs_of("head").items() if name != "feature"}
    width = vit.width if projection is None else projection.shape[1]
    generator = torch_generator(spec.seed, "head")
    head = HEADS[spec.head](width, classes, spec.scale, generator, **knobs)
    if projection is not None:
        head.projection, head.shift = projection, text.get("text.shift")
    if spec.reads_tower and "text.tokens" in text:
        head.attach(text, generator)
    if spec.reads_sentences and "text.sentences" in text:
        head.attach(text["text.sentences"], text["text.counts"], float(text["text.logit_scale"]))
    if not (spec.train_head and spec.epochs):
        head.requires_grad_(False)
    for each in tuned:
        each.parameter.requires_grad_(spec.train_delta and spec.epochs > 0 and not each.carried)
    if spec.init == "text" and spec.starts_rows and not spec.reads_tower:
        of_text = text["text.features"]
        rows = text_head(of_text, text["text.projection"]) if projection is None else F.normalize(of_text, dim=-1)
    start_head(head, rows, remembered, choosing)
    return Classifier(vit, head, tuned)


def image_projection(spec: RunSpec, text: Mapping[str, Tensor]) -> Tensor | None:
    """CLIP's image projection (D, E) where the run's head stands on projected features; else None.

    Raises:
        PelError: the backbone has none.
    """
    of_head = spec.trains and getattr(HEADS[spec.head], "projects", False)
    projected = of_head or (spec.trains and spec.knobs_of("head").get("feature") == "projected")
    if projected and "text.projection" not in text:
        raise PelError(f"{spec.slug} needs an image projection, which {spec.backbone} has not; use head.feature=width")
    if not projected:
        return None
    return text["text.projection"]


def text_head(features: Tensor, projection: Tensor) -> Tensor:
    """Head rows (C, D) from text features (C, E): normalise(features P^T), since image features stay before the projection."""
    return F.normalize(F.normalize(features, dim=-1) @ projection.T, dim=-1)
