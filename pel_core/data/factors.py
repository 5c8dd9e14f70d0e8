"""FACTORS: what a run asks of a data set beside its name: classes, images, imbalance, groups, label noise, what is held out.

Knobs of the scope ``data`` that every data set has alike: ``data.classes``, ``data.seed``. They act on what is prepared, which
stays as it is (`pel_core.data.subsets` draws, `pel_core.data.datasets.open_prepared` asks it to), one after the other: classes,
cap, profile, validation, largest ratio, noise. None of their draws reads a run's seed, so that runs of several seeds have the
same images. Torch-free.
"""

from dataclasses import dataclass, fields
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.registry import Check, Entry, Knob, at_least, between, one_of
from pel_core.data.sampling import HEAD_ABOVE, PROFILES, TAIL_BELOW, subset_counts

SCOPE = "data"


@dataclass(frozen=True)
class Factors:
    """The values of the knobs for one run; the defaults leave a data set as it is. The knobs' meanings: FACTORS."""

    seed: int = 0
    classes: int | str = "all"
    class_seed: int = 0
    per_class: int | str = "all"
    ratio: float | str = "own"
    profile: str = "exponential"
    head_tail_ratio: float = 0.5
    val: float = 0.0
    val_rule: str = "unused"
    val_seed: int = 0
    cap_ratio: float | str = "none"
    cap_seed: int = 0
    noise: float = 0.0
    noise_seed: int = 0
    groups: tuple[float, ...] | str = (float(HEAD_ABOVE), float(TAIL_BELOW))
    groups_from: str = "full"

    def content(self) -> dict[str, Any]:
        """What departs from the defaults and decides which images and labels a run sees; groups do not."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in values.items() if key not in GROUPING and value != getattr(Factors, key)}


GROUPING = ("groups", "groups_from")  # read by scores alone: a training is the same whatever they are
AS_IS = Factors()


def _ratio_drawn(spec: Any) -> bool:
    """Whether the run itself draws an imbalance ratio, by its name or by ``data.ratio``, from balanced or from found images."""
    return spec.drawn_ratio is not None


def _needs_profile(spec: Any) -> str:
    return "" if _ratio_drawn(spec) else "an imbalance ratio that the run draws (data.ratio, or a name such as cifar100-ir100)"


def _needs_bend(spec: Any) -> str:
    if spec.knob("data.profile") == "pareto":
        return "data.profile=exponential or step"
    return _needs_profile(spec)


def _needs_draw(spec: Any) -> str:
    if not (_ratio_drawn(spec) or spec.knob("data.per_class") != "all"):
        return "a subset that the run draws: an imbalance ratio or data.per_class"
    return _needs_images(spec)


def _needs_images(spec: Any) -> str:
    return "" if spec.trains or spec.split == "val" else "a method that trains"


def _needs_training(spec: Any) -> str:
    return "" if spec.trains else "a method that trains"


def _needs_noise(spec: Any) -> str:
    return "" if spec.knob("data.noise") else "data.noise above 0"


def _needs_classes(spec: Any) -> str:
    return "" if spec.knob("data.classes") != "all" else "data.classes"


def _needs_cap(spec: Any) -> str:
    return _needs_training(spec) or ("" if spec.knob("data.cap_ratio") != "none" else "data.cap_ratio")


def _needs_val(spec: Any) -> str:
    return "" if spec.knob("data.val") else "data.val above 0"


def _needs_no_list(spec: Any) -> str:
    if spec.longtailed and spec.longtailed.options.get("val"):
        return f"a data set without a validation list; {spec.dataset} has one (split=val)"
    return _needs_images(spec)


def _needs_unused(spec: Any) -> str:
    return _needs_val(spec) or _needs_draw(spec)


def _needs_other_counts(spec: Any) -> str:
    """Of a user's data set it shows when it is opened whether groups are told at another ratio."""
    told_at = spec.longtailed.groups_from if spec.longtailed else None
    if spec.longtailed is None or (told_at and told_at != spec.drawn_ratio) or spec.knob("data.per_class") != "all":
        return ""
    if told_at:
        bent = {"profile", "head_tail_ratio"} & set(spec.factors.content())
        return "" if bent else f"another imbalance ratio than {told_at:g}, at which groups are told"
    return "" if _ratio_drawn(spec) else "a subset that the run draws: an imbalance ratio or data.per_class"


def _limit_classes(spec: Any) -> str:
    if (asked := spec.knob("data.classes")) == "all":
        return ""
    pool = spec.longtailed and spec.longtailed.pool
    return f"2..{pool[0] - 1} or all" if pool and asked >= pool[0] else ""


def _limit_per_class(spec: Any) -> str:
    """Of a pool whose size is declared: a cap takes images away, and leaves every class of the ratio one."""
    if (cap := spec.knob("data.per_class")) == "all":
        return ""
    if not (pool := spec.longtailed and spec.longtailed.pool):
        return ""
    if cap >= pool[1]:
        return f"below {pool[1]}, the images that each class has, or all"
    classes = pool[0] if spec.knob("data.classes") == "all" else spec.knob("data.classes")
    try:
        subset_counts([pool[1]] * classes, spec.drawn_ratio, spec.factors.profile, spec.factors.head_tail_ratio, cap)
    except PelError as error:
        return f"larger: {error}"
    return ""


def _is_groups(value: Any) -> bool:
    return len(value) == 2 and value[0] >= value[1] >= 0


FACTORS: Entry[type[Factors]] = Entry(
    "every data set",
    Factors,
    "classes and images that a run takes of a data set, its imbalance, label noise, validation images and groups of classes",
    knobs=(
        Knob(
            "seed", Factors.seed, "which images a drawn subset takes of each class; 0: of CIFAR-100-LT those of the literature",
            at_least(0), needs=_needs_draw,
        ),
        Knob(
            "classes", Factors.classes, "how many classes, drawn by data.class_seed; fewer lie inside more",
            at_least(2), words=("all",), kind=int, limit=_limit_classes,
        ),
        Knob("class_seed", Factors.class_seed, "which classes data.classes takes", at_least(0), needs=_needs_classes),
        Knob(
            "per_class", Factors.per_class,
            "training images of a class, at most; an imbalance ratio is drawn from what that leaves",
            at_least(1), words=("all",), kind=int, limit=_limit_per_class,
        ),
        Knob(
            "ratio", Factors.ratio,
            "imbalance ratio, largest over smallest class, drawn from the training images; own: as the name says (cifar100 with "
            "data.ratio=50 is cifar100-ir50), or as found",
            at_least(1), words=("own",), kind=float,
        ),
        Knob(
            "profile", Factors.profile,
            "how class sizes fall to the ratio: exponential (Cui et al. 2019), step (Buda et al. 2018), pareto (Liu et al. 2019)",
            one_of(*PROFILES), needs=_needs_profile,
        ),
        Knob(
            "head_tail_ratio", Factors.head_tail_ratio,
            "share of head classes at an equal ratio: those larger than the geometric mean of largest and smallest class; of a "
            "step, 1 minus Buda's fraction of minority classes",
            Check("above 0 and below 1", lambda value: 0 < value < 1), needs=_needs_bend,
        ),
        Knob(
            "val", Factors.val,
            "fraction of each class's images that is held out of training for split=val", between(0, 1), needs=_needs_no_list,
        ),
        Knob(
            "val_rule", Factors.val_rule,
            "where validation images come from. unused: a fraction of all images that a class has, first of those that the drawn "
            "subset leaves unused, then of training images; train: a fraction of its training images",
            one_of("unused", "train"), needs=_needs_unused,
        ),
        Knob("val_seed", Factors.val_seed, "which images are held out", at_least(0), needs=_needs_val),
        Knob(
            "cap_ratio", Factors.cap_ratio,
            "training images of a class, at most, in those of the smallest class: what is drawn and not held out is cut down to "
            "this imbalance ratio. Head, medium and tail stay the classes that they were",
            at_least(1), words=("none",), kind=float, needs=_needs_training,
        ),
        Knob("cap_seed", Factors.cap_seed, "which images data.cap_ratio leaves", at_least(0), needs=_needs_cap),
        Knob(
            "noise", Factors.noise,
            "share of training images whose label is of another class, any alike (symmetric noise); no class loses all images",
            between(0, 1), needs=_needs_training,
        ),
        Knob("noise_seed", Factors.noise_seed, "which labels are wrong, and how", at_least(0), needs=_needs_noise),
        Knob(
            "groups", Factors.groups,
            "head: classes of more training images than the first number, tail: of fewer than the second; terciles: a third of "
            "the classes each, the largest first",
            Check("two numbers, the first not smaller", _is_groups), words=("terciles",), kind=tuple,
        ),
        Knob(
            "groups_from", Factors.groups_from,
            "the counts by which classes are grouped. full: of all images of these classes, of CIFAR-100-LT those at ratio 100; "
            "subset: of the images that the run draws, before validation and noise",
            one_of("full", "subset"), needs=_needs_other_counts,
        ),
    ),
)  # fmt: skip
