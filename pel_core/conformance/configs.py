"""Configurations: features, logits, losses, gradients, three training steps, counts and names of what trains."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pel_core.conformance.golden import Arrays, Golden
from pel_core.conformance.masks import check_masks
from pel_core.conformance.report import Report, Unsupported
from pel_core.conformance.vocabulary import (
    LOSS_NAMES,
    Options,
    backbone_name,
    make_loss,
    our_name,
    read_options,
    shared_name,
)
from pel_core.models.heads import HEADS
from pel_core.models.surgery import apply
from pel_core.models.vit import ViT
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier
from pel_core.training.loop import train

SHARING = ("bias", "ln", "full")  # methods whose parameters are the backbone's own


class Steps:
    """The same batches every epoch, as ``training.loop.train`` takes them."""

    def __init__(self, images: Tensor, labels: Tensor, size: int, repeat: int = 1):
        indices = torch.arange(len(images)).split(size)
        self.batches = [(images[each], labels[each], each) for each in indices] * repeat

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (images, labels, indices)."""
        yield from self.batches[first:]


class Subject:
    """A configuration built here, its parameters set to the golden ones."""

    def __init__(self, golden: Golden, name: str, config: Mapping[str, Any]):
        self.arrays = golden.arrays(str(config.get("file", f"cfg_{name}.npz")))
        values = self.arrays.under("param/")
        asked = golden.named_by(config, "clip", "timm") or (config.get("options") or {}).get("backbone") or config.get("backbone")
        width = values["head.weight"].shape[-1] if "head.weight" in values else None
        self.backbone = golden.backbone(str(asked) if asked else None, width)
        vit, _ = golden.vit(self.backbone)
        self.classes = int(config.get("num_classes") or golden.index["num_classes"])
        self.options = read_options(config, self.classes, vit.layers, vit.width)
        self.aliases: dict[str, str] = config.get("shared_with_backbone") or {}
        self.classifier = build(vit, self.options, self.classes)
        self.values = values
        self.names = {reference: our_name(reference, self.options.parts, self.aliases) for reference in values}
        self.own = self.classifier.trainable()
        set_values(self.own, self.names, values)

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(reference name, our parameter) for every golden parameter that we have."""
        return ((reference, self.own[name]) for reference, name in self.names.items() if name in self.own)

    def without_tuner(self, golden: Golden) -> ViT:
        """The ViT as the reference sees it without its tuner: parameters shared with the backbone keep their golden values."""
        vit, _ = golden.vit(self.backbone)
        sharing = SHARING + (("mask",) if any("masked" in name for name in self.aliases) else ())
        parts = tuple(part for part in self.options.parts if part.name in sharing)
        own = {tuned.name: tuned.parameter for tuned in apply(vit.cpu(), parts, **self.options.choices)}
        set_values(own, self.names, self.values)
        return vit.to(golden.device)


def build(vit: ViT, options: Options, classes: int) -> Classifier:
    """A classifier from options, on the ViT's device; its head is set by golden values."""
    device = next(vit.parameters()).device
    tuned = apply(vit.cpu(), options.parts, **options.choices)  # as runs do: deltas are drawn on the CPU
    head = HEADS[options.head](vit.width, classes, options.scale, torch.Generator())
    return Classifier(vit, head, tuned).to(device)


@torch.no_grad()
def set_values(own: Mapping[str, Tensor], names: Mapping[str, str], values: Mapping[str, Tensor]) -> None:
    """Write golden values into our parameters of the same shape; what does not fit is left to the name check."""
    for reference, name in names.items():
        if name in own and fits(own[name], values[reference]):
            own[name].copy_(values[reference].reshape(own[name].shape))


def fits(own: Tensor, value: Tensor) -> bool:
    """Equal shapes, up to axes of length 1 (prompts may carry a batch axis)."""
    return [n for n in own.shape if n > 1] == [n for n in value.shape if n > 1]


def check_config(golden: Golden, report: Report, name: str, config: Mapping[str, Any]) -> None:
    """All checks of one configuration."""
    subject = Subject(golden, name, config)
    arrays, classifier = subject.arrays, subject.classifier
    batch = golden.named_by(config, "batch")
    images, labels, counts = golden.batch(arrays, classifier.vit, len(arrays["feature"]), subject.classes, batch)
    check_names(subject, report, name, config)
    check_masks(arrays, classifier.vit, report, name)
    atol = golden.tolerance("feature_logits")
    with torch.no_grad():
        feature = classifier.vit(images)
        logits = classifier(images)
        if "feature_no_tuner" in arrays:
            plain = subject.without_tuner(golden)(images)
            report.close(f"{name}: feature_no_tuner", plain, arrays["feature_no_tuner"], atol)
    report.close(f"{name}: feature", feature, arrays["feature"], atol)
    report.close(f"{name}: logits", logits, arrays["logits"], atol)
    check_losses(golden, report, f"{name}: ", arrays, "loss/", logits, labels, counts, subject.options)
    criterion = training_loss(subject.options, counts)
    check_gradients(golden, report, name, subject, criterion(classifier(images), labels))
    check_steps(golden, report, name, config, subject, images, labels, counts)


def check_names(subject: Subject, report: Report, name: str, config: Mapping[str, Any]) -> None:
    """What trains is exactly what the reference trains: names, shapes, counts, and which parameters are the backbone's."""
    arrays, own = subject.arrays, subject.own
    wrong = [key for key, ours in subject.names.items() if ours not in own or not fits(own[ours], subject.values[key])]
    wrong += sorted(set(own) - set(subject.names.values()))
    report.measure(f"{name}: what trains ({len(subject.names)} tensors)", len(wrong), 0, ", ".join(wrong[:3]))
    census = subject.classifier.census()
    # One parameter can have two names in the reference (a LayerNorm's bias under bias and LN tuning together).
    twice = sum(own[ours].numel() for ours in subject.names.values() if ours in own and not ours.startswith("head."))
    for key, counts in {"n_tuner_params": (census["learnable"], twice), "n_head_params": (census["head"],)}.items():
        expected = [int(source[key]) for source in (config, arrays) if key in source]
        if expected:
            deviation = max(min(abs(count - number) for count in counts) for number in expected)
            report.measure(f"{name}: {key}", deviation, 0, f"found {counts[0]}, expected {expected[0]}")
    if "shared_with_backbone" in config:
        check_aliases(subject, report, name)


def check_aliases(subject: Subject, report: Report, name: str) -> None:
    """The index's map of tuner names to backbone keys agrees with the reference's order, and covers what is shared."""
    shared = {entry.name for entry in subject.classifier.tuned if entry.method in SHARING}
    wrong = []
    for reference, key in subject.aliases.items():
        by_order = shared_name(reference)
        if by_order is not None and by_order != backbone_name(key):
            wrong.append(reference)
    mapped = {ours for key in subject.aliases.values() if (ours := backbone_name(key))}
    wrong += sorted(shared - mapped)
    report.measure(f"{name}: shared_with_backbone ({len(subject.aliases)} names)", len(wrong), 0, ", ".join(wrong[:3]))


def training_loss(options: Options, counts: Tensor) -> torch.nn.Module:
    """The loss a configuration trains with."""
    return make_loss(options.loss, counts, options.tau, options.scale).to(counts.device)


def check_losses(
    golden: Golden,
    report: Report,
    where: str,
    arrays: Arrays,
    prefix: str,
    logits: Tensor,
    labels: Tensor,
    counts: Tensor,
    options: Options,
) -> None:
    """Loss values on our logits, one line per loss."""
    for match in arrays.match(f"{re.escape(prefix)}(.+)"):
        with report.section(f"{where}loss {match[1]}"):
            value = make_loss(match[1], counts, options.tau, options.scale).to(logits.device)(logits, labels)
            rtol = golden.tolerance("losses_cb" if match[1].startswith("CB") else "losses")
            report.close(f"{where}loss {match[1]}", value, arrays[match[0]], rtol=rtol)


def check_gradients(golden: Golden, report: Report, name: str, subject: Subject, loss: Tensor) -> None:
    """Gradients of every trained parameter on the first step."""
    expected = subject.arrays.under("grad/")
    if not expected:
        return
    loss.backward()
    gradients = {reference: own.grad for reference, own in subject.parameters()}
    if unknown := sorted(set(expected) - set(gradients)):
        report.fail(f"{name}: gradients", f"no parameter for {unknown[0]}")
    # A parameter that the loss does not reach has no gradient here and zeros there.
    zeros = {reference: torch.zeros_like(own) for reference, own in subject.parameters()}
    pairs = [
        (reference, (zeros[reference] if gradients[reference] is None else gradients[reference]).reshape(value.shape), value)
        for reference, value in expected.items()
        if reference in gradients and fits(zeros[reference], value)
    ]
    if len(pairs) + len(unknown) < len(expected):
        report.fail(f"{name}: gradients", "shapes differ")
    relative, floor = golden.tolerance("grads"), golden.tolerance("grads_floor")
    report.gradients(f"{name}: gradients ({len(pairs)} tensors)", pairs, relative, floor)
    subject.classifier.zero_grad(set_to_none=True)


def check_steps(
    golden: Golden,
    report: Report,
    name: str,
    config: Mapping[str, Any],
    subject: Subject,
    images: Tensor,
    labels: Tensor,
    counts: Tensor,
) -> None:
    """A few SGD steps on the batch at a constant rate, by the training loop: losses, parameters and logits after them."""
    arrays = subject.arrays
    if "train_losses" not in arrays:
        return
    steps = len(arrays["train_losses"])
    given = {**config, **(config.get("options") or {})}
    settings = {key: float(given[key]) for key in ("lr", "momentum", "weight_decay") if given.get(key) is not None}
    losses = Losses(subject.classifier, training_loss(subject.options, counts), labels)
    # One epoch: the cosine schedule steps once an epoch, so that the rate stays.
    spec = make_spec(subject.options, epochs=1, batch_size=len(images), **settings)
    with losses:
        train(subject.classifier, Steps(images, labels, len(images), repeat=steps), spec, counts)
    report.close(f"{name}: train_losses", losses.values, arrays["train_losses"], rtol=golden.tolerance("losses"))
    expected = arrays.under(f"step{steps}/")
    found = dict(subject.parameters())
    same = {key: value for key, value in expected.items() if key in found and fits(found[key], value)}
    pairs = [(key, found[key].reshape(value.shape), value) for key, value in same.items()]
    if len(pairs) < len(expected):
        report.fail(f"{name}: step{steps}", "a parameter is missing or of another shape")
    report.each(f"{name}: step{steps} ({len(pairs)} tensors)", pairs, golden.tolerance("step3"))
    if f"logits_step{steps}" in arrays:
        with torch.no_grad():
            logits = subject.classifier(images)
        report.close(f"{name}: logits_step{steps}", logits, arrays[f"logits_step{steps}"], golden.tolerance("feature_logits"))


class Losses:
    """Records the loss of every forward pass while the loop trains; labels come in the order of ``labels``, again and again."""

    def __init__(self, classifier: Classifier, criterion: torch.nn.Module, labels: Tensor):
        self.classifier, self.criterion, self.labels = classifier, criterion, labels
        self.values: list[float] = []
        self.seen = 0

    def __enter__(self) -> None:
        self.handle = self.classifier.register_forward_hook(self._record)

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    @torch.no_grad()
    def _record(self, module: torch.nn.Module, inputs: tuple[Tensor], logits: Tensor) -> None:
        start = self.seen % len(self.labels)
        self.values.append(float(self.criterion(logits, self.labels[start : start + len(logits)])))
        self.seen += len(logits)


def make_spec(options: Options, **settings: Any) -> RunSpec:
    """A spec for the training loop alone: it reads the recipe, not the names."""
    if options.loss not in LOSS_NAMES:
        raise Unsupported(f"training with loss {options.loss}")
    fixed = {"loss": LOSS_NAMES[options.loss], "tau": options.tau, "scale": options.scale, "precision": "fp32", "init": "random"}
    return RunSpec.make("toy", "toy", "head-only", 0, **{"lr": 0.01, **fixed, **settings})
