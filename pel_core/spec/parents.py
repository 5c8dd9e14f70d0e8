"""The runs that a run starts from, its *parents*: as text in its spec, and what has to hold between them and it. Torch-free.

``adaptformer,loss:ce`` is the training of that method and option on the run's own data set, backbone and seed; ``dataset:`` and
``seed:`` name others. Several are joined by ``~``, those that differ in their seed alone in one text (``seed:0+1+2``). What a
parent itself starts from comes last in it (``parents:``), with one ``~`` more between several. So a slug holds all that a run is
made of, and no name of a parent has to be looked up.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.registry import spell
from pel_core.data.datasets import split_name
from pel_core.models.heads import HEADS
from pel_core.models.methods import METHODS, format_method
from pel_core.spec.choices import SOUPS

if TYPE_CHECKING:
    from pel_core.spec.run_spec import RunSpec

KEY = r"[a-z_]+|[a-z][a-z0-9_-]*\.[a-z_][a-z0-9_]*"  # of an option: a field, or SCOPE.KNOB
OPTION = re.compile(rf",({KEY}):")
OLDER = ",parents:"
# Knobs of heads that decide over their tensors: their width, their bottleneck's, how many images or sentences they keep, which.
OF_SHAPE = ("feature", "reduction", "per_class", "anchors", "chosen_by")


def spell_parents(parents: "Iterable[RunSpec]", dataset: str, seed: int) -> str:
    """Trainings as the text that the spec of a run of this data set and seed holds."""
    texts = []
    for _, alike in groupby(parents, lambda parent: _spell(parent, dataset, "", seed)):
        parent, *others = alike
        seeds = [str(each.seed) for each in (parent, *others)]
        together = ["+".join(seeds)] if len({*seeds}) == len(seeds) else seeds
        texts += [_spell(parent, dataset, each, seed) for each in together]
    return "~".join(re.sub("~+", r"\g<0>~", text) for text in texts)


def _spell(parent: "RunSpec", dataset: str, seeds: str, seed: int) -> str:
    options = {"dataset": parent.dataset} if parent.dataset != dataset else {}
    options |= {"seed": seeds} if seeds != str(seed) else {}
    options |= parent.departures(parent.base)
    return ",".join([parent.method, *(f"{name}:{spell(value)}" for name, value in options.items())])


def read_parents(text: str, dataset: str, seed: int, make: "Callable[..., RunSpec]") -> "tuple[RunSpec, ...]":
    """The trainings that `spell_parents` wrote; ``make`` takes data set, method, seed and options of one.

    Raises:
        PelError: one of them is not possible, or the text is none.
    """
    parts = (re.sub("~(~*)", r"\1", part) for part in re.split("(?<!~)~(?!~)", text))
    return tuple(parent for part in parts for parent in _read(part, dataset, seed, make))


def _read(text: str, dataset: str, seed: int, make: "Callable[..., RunSpec]") -> "list[RunSpec]":
    own, _, older = text.partition(OLDER)
    method, *rest = OPTION.split(own)
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    seeds, dataset = options.pop("seed", str(seed)).split("+"), options.pop("dataset", dataset)
    if bad := [given for given in seeds if not given.isdecimal()]:
        raise PelError(f"parents={text}: seed:{bad[0]}: expected a whole number of 0 or more")
    older_too = {"parents": older} if older else {}
    return [make(dataset, method, int(given), **options, **older_too) for given in seeds]


def is_of(part: str, name: str) -> bool:
    """Whether a stored tensor belongs to a part of the checkpoint: ``all`` of it, its ``delta`` or its ``head``."""
    return part == "all" or name.startswith("head.") == (part == "head")


def idle_without_parents(spec: "RunSpec") -> dict[str, str]:
    """Options about a start from another run that can have no effect here, and what they need; of those that are set."""
    needs = {}
    if not spec.parents:
        needs |= dict.fromkeys(("take", "soup"), "a run to start from (from: in a study)")
    if not spec.takes_delta:
        needs["train_delta"] = "a run to start from whose delta is taken over (from:, with take=all or take=delta)"
    if spec.takes_head and not SOUPS[spec.soup].shares:
        needs["init"] = "take=delta, since the classifier is taken over from the run it starts from"
    return needs


def check_parents(spec: "RunSpec") -> None:
    """See that a run can start from its parents, as far as specs tell.

    Raises:
        PelError: one trains nothing, has another method or head than what is taken over needs, or trains on images that this run
            holds out; or there are several and they are not averaged (``soup``), or one and it is.
    """
    slugs = [parent.slug for parent in spec.parent_specs]
    if len(slugs) > 1 and spec.soup == "none":
        raise PelError(f"from: {', '.join(slugs)}: a run starts from one other; expected one, or soup=uniform (their mean)")
    if spec.parents and spec.soup != "none" and len({*slugs}) < max(2, len(slugs)):
        found = "the same run twice" if len({*slugs}) < len(slugs) else "one run"
        raise PelError(f"soup={spec.soup} averages several different runs; from names {found}: {', '.join(slugs)}")
    if SOUPS[spec.soup].validates and not spec.takes_head and (_remembers(spec) or _chooses(spec) or spec.init != "text"):
        raise PelError(
            f"soup={spec.soup} needs a classifier that is there before runs are chosen: take=all, or take=delta with init=text"
        )
    if SOUPS[spec.soup].shares and spec.takes_head and spec.init != "text":
        raise PelError(f"soup={spec.soup} counts the zero-shot classifier in: init=text, here {spec.init}; or take=delta")
    if spec.soup != "none" and spec.takes_head and any(map(_remembers, (spec, *spec.parent_specs))):
        raise PelError(f"soup={spec.soup}: a head {spec.head} holds training images, of which there is no mean; say take=delta")
    if spec.soup != "none" and spec.takes_head and any(map(_chooses, (spec, *spec.parent_specs))):
        raise PelError(
            f"soup={spec.soup}: a head {spec.head} holds sentences chosen by each run, of which there is no mean; say take=delta"
        )
    if spec.soup != "none" and spec.takes_head and spec.reads_tower:
        raise PelError(f"soup={spec.soup}: a head {spec.head} is what a text tower says, which has no mean; say take=delta")
    for parent in spec.parent_specs if spec.trains else ():  # of zero-shot no option of training has an effect
        if reason := next(_mismatches(spec, parent), ""):
            raise PelError(f"from: {parent.slug}: {reason}")
    for ancestor in spec.ancestors.values():
        if reason := _trains_on_held_out(spec, ancestor):
            raise PelError(f"from: {ancestor.slug}: {reason}")


def _remembers(spec: "RunSpec") -> bool:
    """Whether a head keeps training images, which it looks at when it starts."""
    return hasattr(HEADS[spec.head], "remembers")


def _chooses(spec: "RunSpec") -> bool:
    """Whether a head keeps sentences that it chooses when it starts, beside a branch of chance."""
    return getattr(HEADS[spec.head], "sentences", False)


def _mismatches(spec: "RunSpec", parent: "RunSpec") -> Iterator[str]:
    if not parent.trains:
        yield f"{parent.method} trains nothing, so that there is nothing to start from; leave `from` out"
    if spec.take == "delta" and not any(part.blocks for part in spec.parts):
        yield f"{spec.method} has no delta to take over; say take=head"
    if spec.takes_delta:
        yield from _other_delta(spec, parent)
    if spec.takes_head and parent.head not in (spec.head, getattr(HEADS[spec.head], "extends", "")):
        yield f"its head is {parent.head}, this run's {spec.head}; give both the same, or take over the delta alone (take=delta)"
    if spec.takes_head and getattr(HEADS[spec.head], "tower", False):
        yield f"the head {spec.head} reads the text tower and starts anew; take over the delta alone (take=delta)"
    if spec.takes_head:
        theirs, ours = parent.knobs_of("head"), spec.knobs_of("head")
        scales = [each.get("scales", "none") for each in (theirs, ours)]
        for name in OF_SHAPE:
            if theirs.get(name) != ours.get(name):
                yield f"its head.{name} is {theirs.get(name)}, this run's {ours.get(name)}; give both the same"
        if scales[1] == "none" and scales[0] != "none":
            yield f"its head has factors of its classes (head.scales={scales[0]}), this run's has none; give this one some, too"
    if spec.takes_head and (reason := _other_classes(spec, parent)):
        yield f"{reason}; take over the delta alone (take=delta), or give both the same classes"


def _trains_on_held_out(spec: "RunSpec", ancestor: "RunSpec") -> str:
    """Why a run that this one starts from may have seen images that this one holds out: what decides which these are differs.
    Another subset is enough: images that one leaves unused, and so holds out, are training images of another."""
    if not spec.factors.val or split_name(spec.dataset)[0] != split_name(ancestor.dataset)[0]:
        return ""
    ours, theirs = _draw(spec), _draw(ancestor)
    if others := [name for name in ours | theirs if ours.get(name) != theirs.get(name)]:
        return f"it trains on images that this run holds out ({others[0]} differs); give both the same {others[0]}"
    return ""


def _draw(spec: "RunSpec") -> dict[str, Any]:
    """What decides which images a run trains on and which it holds out, by name."""
    idle = ("noise", "noise_seed", "cap_ratio", "cap_seed")  # a cap leaves a part of what is trained on
    idle += ("classes", "class_seed") if spec.drawn_ratio is None else ()  # a profile ranks classes
    content = {f"data.{name}": value for name, value in spec.factors.content().items() if name not in idle}
    return content | {"dataset": spec.dataset}


def _other_delta(spec: "RunSpec", parent: "RunSpec") -> Iterator[str]:
    """Why the parent's delta does not fit this run's method."""
    if parent.method not in (spec.method, extended := extended_method(spec)):
        instead = f"start from {extended}" if extended else "give both the same, or take over the head (take=head)"
        yield f"its method is {parent.method}, this run's {spec.method}; {instead}"
        return
    # What a delta started from says nothing of one that is taken over.
    names = [name for part in spec.parts for name in METHODS.entry(part.name).reads if name != "delta_seed"]
    for name in names:
        if getattr(parent, name) != getattr(spec, name):
            yield f"its {name} is {spell(getattr(parent, name))}, this run's {spell(getattr(spec, name))}; give both the same"
    if "mask_seed" in names and spec.mask_seed == "run" and parent.seed != spec.seed:
        yield f"its masks are drawn by seed {parent.seed}, this run's by {spec.seed}; give mask_seed a number"
    for part in spec.parts if parent.method == spec.method else ():
        if parent.knobs_of(part.name) != spec.knobs_of(part.name):
            yield f"it has other knobs of {part.name} than this run; give both the same"


def extended_method(spec: "RunSpec") -> str:
    """The method that the run's own goes on from (`Method.extends`), on the same blocks; empty where there is none."""
    parts = [replace(part, name=METHODS[part.name].extends) for part in spec.parts]
    return format_method(tuple(parts), spec.vit.layers) if all(part.name for part in parts) else ""


def _other_classes(spec: "RunSpec", parent: "RunSpec") -> str:
    """Why the parent's classes are others, as far as declarations tell; the run compares the names."""
    asked = [(each.factors.classes, each.factors.class_seed) for each in (parent, spec)]
    if split_name(spec.dataset)[0] == split_name(parent.dataset)[0]:
        return "" if asked[0] == asked[1] else "it trains on other classes of the data set (data.classes, data.class_seed)"
    counts = [_classes(each) for each in (parent, spec)]
    return f"it has {counts[0]} classes, this run {counts[1]}" if all(counts) and counts[0] != counts[1] else ""


def _classes(spec: "RunSpec") -> int | None:
    """How many classes a run has, None where that is known when its data are opened."""
    if spec.factors.classes != "all":
        return int(spec.factors.classes)
    return spec.longtailed.pool[0] if spec.longtailed and spec.longtailed.pool else None
