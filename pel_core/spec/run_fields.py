"""The fields of a `RunSpec` with their defaults, and what they choose: entries, their knobs, and what the run then needs."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pel_core.common.errors import unknown
from pel_core.common.registry import Entry
from pel_core.data.datasets import DATASETS, LongTailed, drawn_ratio, split_name
from pel_core.data.factors import FACTORS, SCOPE, Factors
from pel_core.models.backbones import BACKBONES, Backbone
from pel_core.models.heads import HEADS
from pel_core.models.methods import METHODS, MethodPart, parse_method
from pel_core.models.prompts import SENTENCES
from pel_core.models.text_heads import TOWER
from pel_core.spec import posthoc
from pel_core.spec.choices import REGISTRIES, TTE, scoped_knobs


@dataclass(frozen=True, kw_only=True)
class RunFields:
    """The fields of a run and its knobs, and what follows from them alone.

    ``recipe`` names where the other values start from (``RECIPES``). ``tau`` is the logit adjustment's temperature,
    ``scale`` the cosine head's, ``resolution`` pixels or None for the backbone's own; ``native`` the pixels to which larger
    images are reduced (shorter side) before anything else, as if the data set came at that resolution; ``image_cache`` the
    same for files that are decoded and reduced once for all runs, training and evaluation alike. ``adapter_dim`` is
    the rank of bottlenecks and LoRA, or ``"auto"`` (the reference's rule) or ``"auto-tuned"`` (LIFT+'s, which divides by the
    tuned blocks only); ``adapter_scale`` AdaptFormer's factor, ``"learnable"`` from 1 or fixed. ``mask_ratio`` is the fraction
    of sparse fine-tuning, ``"auto"`` the reference's rule; ``mask_seed`` draws its masks: 0 as the reference does in every run,
    or ``"run"``, the run's own seed; ``delta_seed`` draws what other deltas start from. ``crop_min_scale`` is the smallest area
    of a training crop, where an ``mda`` schedule starts. ``expand`` is how many pixels test-time ensembling enlarges the image
    before cropping, ``crops`` the number of random crops of ``tte="randaug"``; ``precision`` is training's, ``eval_precision``
    evaluation's; ``evaluate_on`` names another data set, whose images are evaluated. ``train_head`` false leaves the head at its
    start. ``average`` takes the mean of the trained parameters over the training. ``wise_ft`` is the weight of what was trained
    against where it started, in an evaluation. ``reweight`` weighs the loss of each image by its class, ``sharpness`` takes
    gradients where the loss is worst nearby (SAM).

    ``parents`` names the run that this one starts from, as `spec.parents` spells it; empty where it starts from none. ``take``
    is what it takes over from there: the delta, the head, or all; ``train_delta`` false leaves the delta as it was there.

    ``knobs`` holds the options that belong to one entry, as far as they depart from its defaults: pairs of full name
    (``loss.gamma``; of a method ``METHOD.KNOB``) and value, sorted. Ask for one by ``knob``, for an entry's by ``knobs_of``.
    """

    dataset: str
    backbone: str
    method: str
    seed: int
    recipe: str = "lift"
    epochs: int = 10
    batch_size: int = 128
    accumulate: int = 1
    accumulation: str = "exact"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    loss: str = "la"
    tau: float = 1.0
    head: str = "cosine"
    scale: float = 25.0
    init: str = "text"
    prompt: str = "default"
    resolution: int | None = None
    native: int | None = None
    image_cache: int | None = None
    adapter_dim: int | str = "auto"
    adapter_scale: float | str = "learnable"
    vpt_len: int = 10
    mask_ratio: float | str = "auto"
    mask_seed: int | str = 0
    delta_seed: int | str = "run"
    augment: str = "rrc"
    crop_min_scale: float = 0.08
    mix: str = "none"
    interpolation: str = "bilinear"
    precision: str = "fp16"
    optimizer: str = "sgd"
    schedule: str = "cosine"
    sampler: str = "shuffle"
    average: str = "none"
    reweight: str = "none"
    sharpness: str = "none"
    train_head: bool = True
    parents: str = ""
    soup: str = "none"
    take: str = "all"
    train_delta: bool = True
    tte: str = "fivecrop"
    expand: int = 24
    crops: int = 10
    split: str = "test"
    eval_precision: str = "fp32"
    wise_ft: float = 1.0
    evaluate_on: str = ""
    knobs: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def entries(self) -> dict[str, Entry[Any]]:
        """The chosen entries by scope: the field that names one, a stacked method's name, ``data`` for what every data set has,
        ``posthoc`` for what may be done to any run's logits. Of what trains nothing, few."""
        scopes = REGISTRIES if self.trains else {"tte": TTE}
        chosen = {scope: registry.entry(getattr(self, scope)) for scope, registry in scopes.items()}
        if not self.starts_rows:
            chosen.pop("init", None)
        chosen |= {part.name: METHODS.entry(part.name) for part in self.parts}
        return chosen | {SCOPE: FACTORS, posthoc.SCOPE: posthoc.scope_entry()}

    def knob(self, name: str) -> Any:
        """The value of a knob of a chosen entry by its full name."""
        scope, _, short = name.rpartition(".")
        knob = self.entries[scope].knob(short) if scope in self.entries else None
        if knob is None:
            raise unknown("knob of this run:", name, scoped_knobs(self.entries))
        return dict(self.knobs).get(name, knob.default)

    def knobs_of(self, scope: str) -> dict[str, Any]:
        """The values of all knobs of the entry chosen for a scope (``"loss"``, a method's name), by their short names."""
        entry, given = self.entries[scope], dict(self.knobs)
        return {knob.name: given.get(f"{scope}.{knob.name}", knob.default) for knob in entry.knobs}

    @cached_property
    def factors(self) -> Factors:
        """What the run asks of its data set beside its name."""
        return Factors(**self.knobs_of(SCOPE))

    @property
    def longtailed(self) -> LongTailed | None:
        """The data set's entry; None of a user's own, which is in no registry."""
        return DATASETS.get(split_name(self.dataset)[0])

    @property
    def drawn_ratio(self) -> float | None:
        """The imbalance ratio that is drawn when the data set is opened; None where images are as they are found or prepared."""
        return drawn_ratio(self.dataset, self.factors)

    @property
    def data_bases(self) -> tuple[str, ...]:
        """The prepared data sets that it reads, without their ratios: what it trains on, and what else it is evaluated on."""
        return (split_name(self.dataset)[0], *([self.evaluate_on] if self.evaluate_on else []))

    @cached_property
    def parts(self) -> tuple[MethodPart, ...]:
        """The stacked methods with their block ranges."""
        return parse_method(self.method, self.vit.layers)

    @cached_property
    def trains(self) -> bool:
        """False for zero-shot, which has no training run."""
        return any(METHODS[part.name].trains_head for part in self.parts)

    @property
    def takes_delta(self) -> bool:
        """Whether its delta is that of a parent."""
        return bool(self.parents) and self.take != "head" and any(part.blocks for part in self.parts)

    @property
    def takes_head(self) -> bool:
        """Whether its head is that of a parent."""
        return bool(self.parents) and self.take != "delta"

    @property
    def starts_rows(self) -> bool:
        """Whether its head has rows that start as ``init`` says: none of a parent's (but of a soup that counts the start as
        well), nor of a head without rows."""
        own = not self.takes_head or REGISTRIES["soup"][self.soup].shares is not None
        return self.trains and own and getattr(HEADS[self.head], "rows", True)

    @property
    def keeps_best(self) -> bool:
        """Whether its training keeps the mean that is the best on the validation split."""
        return self.trains and self.knobs_of("average").get("keep") == "val"

    @property
    def validates(self) -> bool:
        """Whether validation images choose what goes into its training, or what comes out of it."""
        return self.keeps_best or (self.trains and REGISTRIES["soup"][self.soup].validates) or self.chooser == "val"

    @property
    def needs_text(self) -> bool:
        """Whether class-text features start the head or are in it, or decide without one."""
        rows = self.init == "text" and self.starts_rows
        return not self.trains or self.reads_tower or self.reads_sentences or rows

    @property
    def text_file(self) -> str:
        """Which of its data set's files of texts it reads, in a word: that of its prompt, that of the prompt's sentences one by
        one, or that of the text tower."""
        return TOWER if self.reads_tower else f"{SENTENCES * self.reads_sentences}{self.prompt}"

    @property
    def reads_prompt(self) -> bool:
        """Whether the features of its prompt's sentences start the head or are in it, or decide without one."""
        return self.needs_text and not self.reads_tower

    @property
    def reads_tower(self) -> bool:
        """Whether it trains through the text tower."""
        return self.trains and getattr(REGISTRIES["head"][self.head], "tower", False)

    @property
    def reads_sentences(self) -> bool:
        """Whether its head takes a choice of its prompt's sentences, one by one; a head that is taken over has it already."""
        return self.trains and getattr(HEADS[self.head], "sentences", False) and not self.takes_head

    @property
    def chooser(self) -> str:
        """The split whose images choose the head's sentences; empty where it has none, or they need no image."""
        return HEADS[self.head].chooser(self.knobs_of("head")) if self.reads_sentences else ""

    @property
    def views(self) -> int:
        """How many crops of a test image are evaluated."""
        return TTE[self.tte].views or self.crops

    @property
    def train_views(self) -> int:
        """How many crops of a training image go through in a step: one, but for a loss that has the knob ``views``, or a number
        of them by that name."""
        if not self.trains:
            return 1
        return self.knobs_of("loss").get("views", getattr(REGISTRIES["loss"][self.loss], "views", 1))

    @property
    def second_weight(self) -> float:
        """What the loss of a second stream of images counts in the first epoch: 0, but for a sampler with the knob ``second``."""
        return self.knobs_of("sampler").get("second", 0.0) if self.trains else 0.0

    @property
    def streams(self) -> int:
        """How many streams of images a step takes its batches from, without mixing them."""
        return 2 if self.second_weight else 1

    @property
    def num_frozen_prefix_blocks(self) -> int:
        """How many of the first blocks neither train nor have anything attached; all where the features stay as they are."""
        return min((part.start for part in self.parts if part.blocks), default=self.vit.layers)

    @property
    def reduction(self) -> int | None:
        """Pixels to which larger images are reduced before anything else, whoever does it."""
        return self.native or self.image_cache

    @property
    def vit(self) -> Backbone:
        """The backbone's registry entry."""
        return BACKBONES[self.backbone]

    @property
    def pixels(self) -> int:
        """Side length of the images the network sees."""
        return self.resolution or self.vit.resolution
