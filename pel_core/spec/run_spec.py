"""RunSpec: everything that changes a run's numbers, nothing that does not, and its readable name (the slug).

Values resolve once: code defaults < the data set's recipe < the named recipe < the method's recipe < overrides. A slug names
every value that departs from these, and the recipe unless it is the default one:
``cifar100-ir100.clip-b16.adaptformer@6:12+vpt-shallow.s0.loss=ce``, ``places-lt.clip-b16.adaptformer.s0.recipe=lift+``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.registry import Entry, spell
from pel_core.data.datasets import DATASETS, LongTailed, drawn_ratio, split_name
from pel_core.data.factors import FACTORS, SCOPE, Factors
from pel_core.models.backbones import BACKBONES, Backbone, backbone_name
from pel_core.models.heads import HEADS
from pel_core.models.methods import METHODS, MethodPart, format_method, parse_method
from pel_core.models.text_heads import TOWER
from pel_core.spec import checks, posthoc
from pel_core.spec.choices import REGISTRIES, TTE, knob_owners, scoped_knobs
from pel_core.spec.options import EVALUATION, convert, fixed_by, is_evaluation, name_ratio, recipe
from pel_core.spec.parents import KEY, read_parents, spell_parents

SLUG = re.compile(
    r"(?P<dataset>[a-z][a-z0-9_-]*(?:(?<=\d)\.\d+)?)\.(?P<backbone>[a-z][A-Za-z0-9_-]*)\.(?P<method>[a-z0-9@:+-]+)"
    r"\.s(?P<seed>\d+)(?P<overrides>(?:\.[a-z][a-z0-9_.-]*=.+)?)"
)
OVERRIDE = re.compile(rf"\.({KEY})=(.*?)(?=\.(?:{KEY})=|$)")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One training run and how it is evaluated. Build it with ``RunSpec.make`` or ``RunSpec.parse``.

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
    evaluation's. ``train_head`` false leaves the head at its start. ``average`` takes the mean of the trained parameters over
    the training. ``wise_ft`` is the weight of what was trained against where it started, in an evaluation. ``reweight``
    weighs the loss of each image by its class, ``sharpness`` takes gradients where the loss is worst nearby (SAM).

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
    knobs: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def make(
        cls, dataset: str, backbone: str, method: str, seed: int, shared: Mapping[str, Any] | None = None, **overrides: Any
    ) -> "RunSpec":
        """Resolve recipes and overrides into a spec.

        Args:
            shared: weaker overrides that a configuration gives all its runs. They give way to what the method needs and to a
                recipe named in ``overrides``, and stay away where they can have no effect.

        Raises:
            PelError: an unknown backbone, method, recipe or field, a value that is not possible, or one without any effect.
        """
        backbone = backbone_name(backbone)
        checks.require_network(method, backbone)
        layers = BACKBONES[backbone].layers
        method = format_method(parse_method(method, layers), layers)
        shared = dict(shared or {})
        owners = knob_owners() if any("." in name for name in (*shared, *overrides)) else {}
        for name in (*shared, *overrides):
            if name not in DEFAULTS and name not in owners:
                raise unknown("option", name, owners or knob_owners() if "." in name else DEFAULTS)
        dataset, shared, overrides = name_ratio(dataset, shared, overrides)
        base = recipe(dataset, method, {**shared, **overrides}.get("recipe", DEFAULTS["recipe"]))
        stronger = fixed_by(dataset, method, overrides.get("recipe"))
        shared = {name: value for name, value in shared.items() if name not in stronger}
        given = {**base, **shared, **overrides}
        parents = _trainings(given.pop("parents", ""), dataset, backbone, seed)
        given |= {"parents": spell_parents(parents, dataset, seed)} if parents else {}
        values = {name: convert(name, value, DEFAULTS[name]) for name, value in given.items() if name in DEFAULTS}
        spec = cls(dataset=dataset, backbone=backbone, method=method, seed=seed, **values)
        checks.require_words(spec)
        knobs = {name: value for name, value in given.items() if "." in name}
        spec = spec._with_knobs(knobs, mild=shared.keys() - overrides.keys())
        idle = [name for name in checks.idle_options(spec) if name in shared and name not in overrides]
        spec = replace(spec, **{name: spec.base[name] for name in idle})
        spec.__dict__["parent_specs"] = parents  # which need not be read from their text again
        checks.check(spec)
        return spec

    @classmethod
    def parse(cls, slug: str) -> "RunSpec":
        """The spec a slug names.

        Raises:
            PelError: the text is no slug, or not in its one canonical spelling.
        """
        match = SLUG.fullmatch(slug)
        if not match:
            raise PelError(f"'{slug}' is not a run: expected DATASET.BACKBONE.METHOD.sSEED[.option=value...]")
        pairs = OVERRIDE.findall(match["overrides"])
        if "".join(f".{name}={value}" for name, value in pairs) != match["overrides"]:
            raise PelError(f"'{slug}' is not a run: '{match['overrides']}' is not .option=value...")
        spec = cls.make(match["dataset"], match["backbone"], match["method"], int(match["seed"]), **dict(pairs))
        if spec.slug != slug:
            raise PelError(f"'{slug}' is not the name of its run; that is '{spec.slug}'")
        return spec

    @cached_property
    def slug(self) -> str:
        """The run's name: also its folder under results/runs."""
        departing = self.departures(self.base)
        departures = [f".{name}={spell(value)}" for name, value in departing.items()]
        text = f"{self.dataset}.{self.backbone}.{self.method}.s{self.seed}{''.join(departures)}"
        if len(text) > 200:
            raise PelError(f"the run name '{text}' is longer than a folder name may be; put shared values into a recipe")
        return text

    @property
    def train(self) -> "RunSpec":
        """The spec of the training run this evaluates: evaluation fields back at their recipe's values."""
        knobs = tuple((name, value) for name, value in self.knobs if not is_evaluation(name))
        return replace(self, knobs=knobs, **{name: self.base[name] for name in EVALUATION})

    @cached_property
    def base(self) -> dict[str, Any]:
        """The values before any override: code defaults and recipes."""
        return {**DEFAULTS, **recipe(self.dataset, self.method, self.recipe)}

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

    def _with_knobs(self, given: Mapping[str, Any], mild: set[str]) -> "RunSpec":
        """The spec with these knobs. Those in ``mild``, which a configuration shares, stay away where they are idle.

        Raises:
            PelError: a knob of an entry that is not chosen, or a value that is not possible.
        """
        if not given:
            return self
        known, kept = scoped_knobs(self.entries), {}
        for name, value in given.items():
            if name in known:
                kept[name] = known[name].convert(name, value)
            elif name not in mild:
                need = " or ".join(knob_owners()[name])
                raise PelError(f"{name}={spell(value)} has no effect on {self.method} here: it needs {need}")
        departing = {name: value for name, value in kept.items() if value != known[name].default}
        spec = replace(self, knobs=tuple(sorted(departing.items())))
        idle = {name: need for name in departing if (need := known[name].needs(spec))}
        for name in idle.keys() - mild:
            what = self.dataset if name.startswith(f"{SCOPE}.") else self.method
            raise PelError(f"{name}={spell(departing[name])} has no effect on {what} here: it needs {idle[name]}")
        return replace(spec, knobs=tuple(pair for pair in spec.knobs if pair[0] not in idle))

    @cached_property
    def parts(self) -> tuple[MethodPart, ...]:
        """The stacked methods with their block ranges."""
        return parse_method(self.method, self.vit.layers)

    @cached_property
    def trains(self) -> bool:
        """False for zero-shot, which has no training run."""
        return any(METHODS[part.name].trains_head for part in self.parts)

    @cached_property
    def parent_specs(self) -> "tuple[RunSpec, ...]":
        """The trainings that it starts from."""
        return _read(self.parents, self.dataset, self.backbone, self.seed) if self.parents else ()

    @property
    def ancestors(self) -> "dict[str, RunSpec]":
        """The trainings that it starts from and those that these start from, by slug, each before what starts from it."""
        found: dict[str, RunSpec] = {}
        for parent in self.parent_specs:
            found |= parent.ancestors | {parent.slug: parent}
        return found

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
        """Whether its head has rows that start as ``init`` says: none of a parent's, nor of a head without rows."""
        return self.trains and not self.takes_head and getattr(HEADS[self.head], "rows", True)

    @property
    def seeded(self) -> bool:
        """Whether anything in its numbers depends on the seed: a training, or random crops of the test images. An ensemble is of
        given seeds: there is one of it."""
        return ((self.trains and not self.pooled) or not TTE[self.tte].views) and not posthoc.is_ensemble(self)

    @property
    def pooled(self) -> bool:
        """Whether it is one run of several seeds: a soup of them that trains no further, or what starts from one and does not."""
        parents = () if self.epochs else self.parent_specs
        return len({parent.seed for parent in parents}) > 1 or any(parent.pooled for parent in parents)

    @property
    def needs_text(self) -> bool:
        """Whether class-text features start the head, or decide without one."""
        return not self.trains or self.reads_tower or (self.init == "text" and self.starts_rows)

    @property
    def text_file(self) -> str:
        """Which of its data set's files of texts it reads, in a word: that of its prompt, or that of the text tower."""
        return TOWER if self.reads_tower else self.prompt

    @property
    def reads_tower(self) -> bool:
        """Whether it trains through the text tower."""
        return self.trains and getattr(REGISTRIES["head"][self.head], "tower", False)

    @property
    def views(self) -> int:
        """How many crops of a test image are evaluated."""
        return TTE[self.tte].views or self.crops

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

    def to_json(self) -> dict[str, Any]:
        """Every resolved value: fields and the knobs of chosen entries, post-hoc ones where they depart; what evaluation alone
        reads comes last."""
        knobs = scoped_knobs(self.entries)
        given = dict(self.knobs)
        of_knobs = {name: given.get(name, knob.default) for name, knob in sorted(knobs.items()) if _is_told(name, given)}
        plain = {name: _plain(value) for name, value in of_knobs.items()}
        values = {name: getattr(self, name) for name in FIELDS} | plain
        return dict(sorted(values.items(), key=lambda item: is_evaluation(item[0])))

    def departures(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The values that depart from ``base`` (fields) and from the entries' defaults (knobs), in the order of a slug."""
        values = {name: getattr(self, name) for name in FIELDS if name in base and getattr(self, name) != base[name]}
        # Parents are the last that training reads, since a parent's own are read to the end of its text.
        return dict(sorted((values | dict(self.knobs)).items(), key=lambda item: (is_evaluation(item[0]), item[0] == "parents")))


FIELDS = tuple(field.name for field in fields(RunSpec) if field.name != "knobs")
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(RunSpec) if field.default is not MISSING}
del DEFAULTS["knobs"]


def _trainings(parents: "str | Iterable[RunSpec]", dataset: str, backbone: str, seed: int) -> tuple[RunSpec, ...]:
    """Parents, as text or as specs: their trainings."""
    if not parents:
        return ()
    specs = _read(parents, dataset, backbone, seed) if isinstance(parents, str) else tuple(parents)
    for spec in specs:
        if spec.backbone != backbone:
            raise PelError(f"from: {spec.slug}: its backbone is {spec.backbone}, this run's {backbone}; give both the same")
    return tuple(spec if spec.train == spec else spec.train for spec in specs)


def _read(parents: str, dataset: str, backbone: str, seed: int) -> tuple[RunSpec, ...]:
    def make(dataset: str, method: str, seed: int, **options: Any) -> RunSpec:
        return RunSpec.make(dataset, backbone, method, seed, **options)

    return read_parents(parents, dataset, seed, make)


def differences(stored: Mapping[str, Any], spec: RunSpec) -> list[str]:
    """Where a stored spec differs from ``spec``. A field or knob younger than the record counts as its default."""
    now, then = spec.to_json(), completed(stored, spec)
    return [f"{name}: stored {then.get(name)!r}, now {value!r}" for name, value in now.items() if then.get(name) != value]


def completed(stored: Mapping[str, Any], spec: RunSpec) -> dict[str, Any]:
    """A stored spec with the fields and the knobs that ``spec.to_json()`` tells and that are younger than the record, at their
    defaults."""
    given = dict(spec.knobs)
    younger = {name: _plain(knob.default) for name, knob in scoped_knobs(spec.entries).items() if _is_told(name, given)}
    return {**DEFAULTS, **younger, **stored}


def _is_told(name: str, given: Mapping[str, Any]) -> bool:
    """Whether a record says a knob's default: of post-hoc steps, which no part of a training or prediction reads, it does not."""
    return name in given or not name.startswith(f"{posthoc.SCOPE}.")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
