"""What makes a RunSpec possible: its values alone, beside each other, and beside the method. Torch-free."""

from functools import cache
from typing import TYPE_CHECKING

from pel_core.common.errors import PLUGIN, PelError, unknown
from pel_core.common.registry import spell
from pel_core.data.datasets import NAME, held_as_files, split_name
from pel_core.data.factors import SCOPE
from pel_core.models.backbones import BACKBONES
from pel_core.models.heads import HEADS
from pel_core.models.methods import METHODS, methods_for
from pel_core.models.prompts import PROMPTS, prompt_parts, says_several
from pel_core.models.sites import require_sites
from pel_core.spec.choices import CHOICES, INITS, LOSSES, REGISTRIES, readers, scoped_knobs
from pel_core.spec.parents import check_parents, idle_without_parents

if TYPE_CHECKING:
    from pel_core.spec.run_spec import RunSpec

# Fields that only training reads; precision too: evaluation has its own.
TRAINING = (
    "lr", "momentum", "weight_decay", "batch_size", "accumulate", "accumulation", "loss", "tau", "head", "scale", "init",
    "augment", "mix", "precision", "optimizer", "schedule", "sampler", "train_head", "reweight", "sharpness", "parents", "take",
    "train_delta", "average", "soup",
)  # fmt: skip

KINDS = {"vit": "ViT, without BatchNorms", "resnet": "ResNet, without a transformer's blocks"}


def require_words(spec: "RunSpec") -> None:
    """See that every entry that the spec chooses exists.

    Raises:
        PelError: it does not; the message has the nearest match.
    """
    prompt_parts(spec.prompt)  # which may go on behind a colon
    for name, known in CHOICES.items():
        if name != "prompt" and getattr(spec, name) not in known:
            raise unknown(name, getattr(spec, name), known, PLUGIN)


def require_network(method: str, backbone: str) -> None:
    """See that every method of a stack is for the backbone's kind of network.

    Raises:
        PelError: one is not; the message says which are.
    """
    entry = BACKBONES[backbone]
    kind = "resnet" if entry.stages else "vit"
    for part in method.split("+"):
        name = part.partition("@")[0]
        if name in METHODS and kind not in METHODS[name].networks:
            fit = ", ".join(methods_for(kind))
            raise PelError(f"{name} does not act on {backbone}, which is a {KINDS[kind]}; what does: {fit}")


def check(spec: "RunSpec") -> None:
    """See that the values are possible, alone and together.

    Raises:
        PelError: one is not, or has no effect beside the others; the message says what would be.
    """
    for name in ("epochs", "seed", "expand", "weight_decay", "momentum", "lr", "tau"):
        _require(spec, name, getattr(spec, name) >= 0, "at least 0")
    for name in ("batch_size", "accumulate", "vpt_len", "crops"):
        _require(spec, name, getattr(spec, name) >= 1, "at least 1")
    _require(spec, "scale", spec.scale > 0, "above 0")
    _require(spec, "crop_min_scale", 0 < spec.crop_min_scale <= 1, "above 0 and at most 1")
    _require(spec, "accumulate", spec.accumulate <= spec.batch_size, f"at most the batch size {spec.batch_size}")
    even = spec.accumulation == "exact" or spec.batch_size % spec.accumulate == 0
    _require(spec, "accumulate", even, f"a divisor of the batch size {spec.batch_size} with accumulation=reference")
    _require(spec, "resolution", spec.pixels > 0 and spec.pixels % spec.vit.patch == 0, f"a multiple of {spec.vit.patch}")
    _require(spec, "native", spec.native is None or spec.native > 0, "above 0")
    cache = spec.image_cache
    _require(spec, "image_cache", cache is None or cache >= spec.pixels, f"at least the network's {spec.pixels} pixels")
    _require(spec, "epochs", spec.trains or spec.epochs == 0, "0 for zero-shot, which trains nothing")
    _require(spec, "wise_ft", 0 <= spec.wise_ft <= 1, "at least 0 (where the training started) and at most 1 (where it ended)")
    between = spec.wise_ft != 1 and spec.trains
    _require(spec, "wise_ft", not (between and spec.parents), "1, since a run that starts from another has no zero-shot start")
    still = between and not spec.epochs
    _require(spec, "wise_ft", not still, "1, since nothing trains in 0 epochs: the run ends where it started")
    random = between and spec.init == "random"
    _require(spec, "wise_ft", not random, "1, since a head that starts at random knows no class: init=text, or one from images")
    tower = between and spec.reads_tower
    _require(spec, "wise_ft", not tower, f"1, since the head {spec.head} is what a text tower says, which no evaluation holds")
    keeps = between and hasattr(HEADS[spec.head], "remembers")
    _require(spec, "wise_ft", not keeps, f"1, since the head {spec.head} keeps training images")
    chance = between and getattr(HEADS[spec.head], "sentences", False)
    _require(spec, "wise_ft", not chance, f"1, since the head {spec.head} starts with a branch that knows no class")
    shared = spec.trains and hasattr(LOSSES[spec.loss], "begin") and hasattr(HEADS[spec.head], "branches")
    _require(spec, "loss", not shared, f"one that draws no noise (ce, la, ...): the branches of head={spec.head} would share it")
    if spec.evaluate_on:
        _check_test_set(spec)
    _check_method_options(spec)
    _check_text(spec)
    heads_only = spec.trains and all(METHODS[part.name].blocks == "none" for part in spec.parts)
    _require(spec, "train_head", spec.train_head or not heads_only, "true, since nothing else trains")
    idle = heads_only and not getattr(HEADS[spec.head], "trains", True)
    _require(spec, "epochs", not idle or spec.epochs == 0, f"0, since nothing trains: head={spec.head} does not")
    learns = (spec.train_head and getattr(HEADS[spec.head], "trains", True)) or spec.train_delta or spec.epochs == 0
    _require(spec, "train_delta", learns, "true, since nothing else trains; or epochs 0, for a run that trains nothing")
    check_parents(spec)
    for scope, entry in spec.entries.items():
        if need := entry.needs(spec):
            what = spec.method if scope in METHODS else f"{scope}={entry.name} is not possible for {spec.method} here; it"
            raise PelError(f"{what} needs {need}")
    for name, knob in scoped_knobs(spec.entries).items():
        if limit := knob.limit(spec):
            what = spec.dataset if name.startswith(f"{SCOPE}.") else spec.method
            raise PelError(f"{name}={spell(spec.knob(name))} is not possible for {what} here; it must be {limit}")
    for name, need in idle_options(spec).items():
        raise PelError(f"{_told(spec, name)} has no effect on {spec.method} here: it needs {need}")


def _told(spec: "RunSpec", name: str) -> str:
    """An option as a study says it: what a run starts from is called ``from`` there."""
    if name == "parents":
        return f"from: {', '.join(parent.slug for parent in spec.parent_specs)}"
    return f"{name}={spell(getattr(spec, name))}"


def _check_test_set(spec: "RunSpec") -> None:
    named = NAME.fullmatch(spec.evaluate_on)
    _require(spec, "evaluate_on", bool(named) and not named["ratio"], "a data set without -irRATIO")  # type: ignore[index]
    other = spec.evaluate_on != split_name(spec.dataset)[0]
    _require(spec, "evaluate_on", other, "another data set than it is trained on, whose test images it has anyway")
    _require(spec, "split", spec.split == "test", f"test with evaluate_on={spec.evaluate_on}, which names the images")


def _check_method_options(spec: "RunSpec") -> None:
    for part in spec.parts:
        require_sites(part.name, spec.backbone)
    dim, width = spec.adapter_dim, spec.vit.width
    _require(spec, "adapter_dim", isinstance(dim, str) or 1 <= dim <= width, f"auto, auto-tuned or 1..{width}")
    scale, ratio, masks = spec.adapter_scale, spec.mask_ratio, spec.mask_seed
    _require(spec, "adapter_scale", isinstance(scale, str) or scale > 0, "learnable or above 0")
    _require(spec, "mask_seed", isinstance(masks, str) or masks >= 0, "run or at least 0")
    smallest = width * (width + 1)  # entries of the attention's output projection
    _require(spec, "delta_seed", isinstance(spec.delta_seed, str) or spec.delta_seed >= 0, "run or at least 0")
    possible = isinstance(ratio, str) or (ratio <= 1 and int(ratio * smallest) >= 1)
    _require(spec, "mask_ratio", possible, f"auto or {1 / smallest:.2g}..1, so that every matrix has a weight that trains")


def _check_text(spec: "RunSpec") -> None:
    if spec.reads_tower:
        _require(spec, "head", spec.vit.causal_text, f"without a text tower (cosine, ...): {spec.backbone} has none of CLIP's")
        _require(spec, "init", spec.init == "text", f"text: head={spec.head} starts from what the text tower says")
    if spec.trains and getattr(HEADS[spec.head], "sentences", False):
        _require(spec, "head", spec.vit.text, f"without sentences (cosine, ...): {spec.backbone} has no text tower")
        _require(spec, "train_head", spec.train_head or spec.takes_head, f"true: head={spec.head} starts with a branch of chance")
        several = spec.takes_head or says_several(spec.prompt, split_name(spec.dataset)[0])
        some = "descriptions, ensemble, dataset-ensemble or texts:NAME"
        _require(spec, "prompt", several, f"one of several sentences for head={spec.head} to attend to: {some}")
    if spec.reads_prompt and (need := PROMPTS.entry(prompt_parts(spec.prompt)[0]).needs(spec)):
        raise PelError(f"prompt={spec.prompt} is not possible here: {need}")
    name = "init" if spec.init == "text" else "method"
    images = [entry.name for entry in INITS.entries() if entry.value.start == "images"]
    instead = f"{', '.join(images)} or random" if spec.trains else "one that trains"
    _require(spec, name, spec.vit.text or not spec.needs_text, f"{instead}: {spec.backbone} has no text tower")


def idle_options(spec: "RunSpec") -> dict[str, str]:
    """Options that are set and can have no effect beside the others, and what they need."""
    base = spec.base
    read = {name for entry in spec.entries.values() for name in entry.reads} | ({"prompt"} if spec.needs_text else set())
    needs = {name: need for name, need in _partly_read(_sizes()).items() if name not in read}
    needs |= (without := idle_without_parents(spec))
    if "init" in without and "prompt" not in read:  # the classifier, which class texts would start, is taken over
        needs["prompt"] = without["init"]
    if spec.trains and not spec.takes_head and not spec.starts_rows:
        needs["init"] = f"another head than {spec.head}, which has no rows"
    if spec.reads_tower:
        needs["prompt"] = f"another head: head={spec.head} has class names after a context"
    if spec.accumulate == 1:
        needs["accumulation"] = "accumulate above 1"
    if not held_as_files(spec.dataset) or spec.native:
        needs["image_cache"] = "a data set of image files, and no native"
    if not spec.trains:
        needs |= dict.fromkeys((*TRAINING, "wise_ft"), "a method that trains")
    return {name: need for name, need in needs.items() if getattr(spec, name) != base[name]}


def _require(spec: "RunSpec", name: str, holds: bool, expected: str) -> None:
    if not holds:
        where = f"for {spec.method} on {spec.backbone}"
        value = getattr(spec, name)
        told = spell(value) if isinstance(value, bool) else value
        raise PelError(f"{name}={told} is not possible {where}; it must be {expected}")


def _sizes() -> tuple[int, ...]:
    """How many entries each registry has: a plugin adds some."""
    return tuple(len(registry) for registry in (*REGISTRIES.values(), METHODS))


@cache
def _partly_read(sizes: tuple[int, ...]) -> dict[str, str]:
    """The fields that only some entries look at, and what has to be chosen for that, in words. ``sizes`` tells plugins apart."""
    registries = (*REGISTRIES.values(), METHODS)
    names = {name for registry in registries for entry in registry.entries() for name in entry.reads}
    return {name: _need(name) for name in names}


def _need(name: str) -> str:
    words = readers(name)
    return (", or " if "a method that trains" in words else " or ").join(words)
