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

from pel_core.common.errors import PLUGIN, PelError, unknown
from pel_core.common.registry import spell
from pel_core.common.shipped import command
from pel_core.data.factors import SCOPE
from pel_core.models.backbones import BACKBONES, backbone_name
from pel_core.models.heads import HEADS
from pel_core.models.methods import format_method, parse_method
from pel_core.spec import checks, long_names, posthoc
from pel_core.spec.choices import TTE, knob_owners, scoped_knobs
from pel_core.spec.options import EVALUATION, convert, fixed_by, is_evaluation, name_ratio, recipe
from pel_core.spec.parents import KEY, read_parents, spell_parents
from pel_core.spec.revisions import revised
from pel_core.spec.run_fields import RunFields

SLUG = re.compile(
    r"(?P<dataset>[a-z][a-z0-9_-]*(?:(?<=\d)\.\d+)?)\.(?P<backbone>[a-z][A-Za-z0-9_-]*)\.(?P<method>[a-z0-9@:+-]+)"
    r"\.s(?P<seed>\d+)(?P<overrides>(?:\.[a-z][a-z0-9_.-]*=.+)?)"
)
OVERRIDE = re.compile(rf"\.({KEY})=(.*?)(?=\.(?:{KEY})=|$)")


@dataclass(frozen=True, kw_only=True)
class RunSpec(RunFields):
    """One training run and how it is evaluated. Build it with ``RunSpec.make`` or ``RunSpec.parse``. Its fields: `RunFields`."""

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
                known = owners or knob_owners() if "." in name else DEFAULTS
                hint = PLUGIN if "." in name else ""  # a field is never a plugin's
                raise unknown("option", name, known, hint, listed=f"docs/options.md ({command('options')})")
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
        """The run's name: also its folder under results/runs, with what evaluation alone reads in a folder within. Where what
        it starts from makes it too long for that, a digest stands for it (`long_names`)."""
        start = f"{self.dataset}.{self.backbone}.{self.method}.s{self.seed}"
        told = {name: spell(value) for name, value in self.departures(self.base).items()}
        trained, evaluated = _joined(told, False), _joined(told, True)
        if self.parents and len(start + trained) > long_names.LONGEST:
            trained = _joined(told | {"parents": long_names.shorten(self.parents)}, False)
        if len(start + trained) > long_names.LONGEST or len(evaluated) > long_names.LONGEST:
            found = f"the run name '{start}{trained}{evaluated}' is longer than a folder name may be"
            raise PelError(f"{found}; put shared values into a recipe")
        return start + trained + evaluated

    @cached_property  # planning asks several times for each run
    def train(self) -> "RunSpec":
        """The spec of the training run this evaluates: evaluation fields back at their recipe's values."""
        knobs = tuple((name, value) for name, value in self.knobs if not is_evaluation(name))
        made = replace(self, knobs=knobs, **{name: self.base[name] for name in EVALUATION})
        return self if made == self else made

    @cached_property
    def base(self) -> dict[str, Any]:
        """The values before any override: code defaults and recipes."""
        return {**DEFAULTS, **recipe(self.dataset, self.method, self.recipe)}

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
    def parent_specs(self) -> "tuple[RunSpec, ...]":
        """The trainings that it starts from."""
        return _read(self.parents, self.dataset, self.backbone, self.seed) if self.parents else ()

    @property
    def extends_head(self) -> bool:
        """Whether its head takes over the rows of another head (`Head.extends`), and looks at training images by itself."""
        return self.takes_head and any(parent.head != self.head for parent in self.parent_specs)

    @property
    def ancestors(self) -> "dict[str, RunSpec]":
        """The trainings that it starts from and those that these start from, by slug, each before what starts from it."""
        found: dict[str, RunSpec] = {}
        for parent in self.parent_specs:
            found |= parent.ancestors | {parent.slug: parent}
        return found

    @property
    def seeded(self) -> bool:
        """Whether anything in its numbers depends on the seed: a training, or random crops of the test images. An ensemble is of
        given seeds: there is one of it."""
        of_training = self.trains and not self.pooled and not self.read_off
        return (of_training or not TTE[self.tte].views) and not posthoc.is_ensemble(self)

    @property
    def read_off(self) -> bool:
        """Whether it is read off the untuned network and its training images, with nothing drawn and nothing trained."""
        untuned = not (self.epochs or self.parents or any(part.blocks for part in self.parts))
        return untuned and not getattr(HEADS[self.head], "draws", True)

    @property
    def pooled(self) -> bool:
        """Whether it is one run of several seeds: a soup of them that trains no further, or what starts from one and does not."""
        parents = () if self.epochs else self.parent_specs
        return len({parent.seed for parent in parents}) > 1 or any(parent.pooled for parent in parents)

    def to_json(self) -> dict[str, Any]:
        """Every resolved value: fields and the knobs of chosen entries, post-hoc ones where they depart; what evaluation alone
        reads comes last."""
        knobs = scoped_knobs(self.entries)
        given = dict(self.knobs)
        of_knobs = {name: given.get(name, knob.default) for name, knob in sorted(knobs.items()) if _is_told(name, given)}
        plain = {name: _plain(value) for name, value in of_knobs.items()}
        values = {name: getattr(self, name) for name in FIELDS} | plain | revised(self)
        return dict(sorted(values.items(), key=lambda item: is_evaluation(item[0])))

    def departures(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The values that depart from ``base`` (fields) and from the entries' defaults (knobs), in the order of a slug."""
        values = {name: getattr(self, name) for name in FIELDS if name in base and getattr(self, name) != base[name]}
        # Parents are the last that training reads, since a parent's own are read to the end of its text.
        return dict(sorted((values | dict(self.knobs)).items(), key=lambda item: (is_evaluation(item[0]), item[0] == "parents")))


FIELDS = tuple(field.name for field in fields(RunSpec) if field.name != "knobs")
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(RunSpec) if field.default is not MISSING}
del DEFAULTS["knobs"]


def _joined(options: Mapping[str, str], evaluation: bool) -> str:
    """The part of a name that training reads, or the one that evaluation alone reads."""
    return "".join(f".{name}={value}" for name, value in options.items() if is_evaluation(name) == evaluation)


def _trainings(parents: "str | Iterable[RunSpec]", dataset: str, backbone: str, seed: int) -> tuple[RunSpec, ...]:
    """Parents, as text or as specs: their trainings."""
    if not parents:
        return ()
    specs = _read(long_names.whole(parents), dataset, backbone, seed) if isinstance(parents, str) else tuple(parents)
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
