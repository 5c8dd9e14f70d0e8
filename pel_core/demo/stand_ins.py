"""The four stand-in data sets of the demo study: classes, counts, shift, recipe, and their pictures; and one to evaluate on.

Names and counts need no torch; `render` imports it. `draw` 0 is the study's; higher draws show other pictures of
the same classes under the same shift. The world was tuned on draws 1 and 2; docs/demo.md's figures are of draw 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pel_core.demo.attributes import (
    COLOURS,
    COUNTS,
    HELD_OUT_OBJECTS,
    HELD_OUT_SCENES,
    PATTERNS,
    SHAPES,
    generator,
    object_name,
    scene_name,
)

TEST, TRAIN = "test", "train"


def exponential(largest: int, ratio: float, classes: int) -> list[int]:
    """CIFAR-LT's profile: `largest` images of class 0 falling to largest / ratio, truncated."""
    return [int(largest * (1 / ratio) ** (c / (classes - 1))) for c in range(classes)]


def pareto(largest: int, smallest: int, classes: int, knee: float) -> list[int]:
    """largest * (1 + c / knee) ** -a, with the exponent a that ends at `smallest`."""
    a = np.log(largest / smallest) / np.log(1 + (classes - 1) / knee)
    return [round(largest * (1 + c / knee) ** -a) for c in range(classes)]


@dataclass(frozen=True)
class StandIn:
    """One data set. `classes` are triples of attribute indices, head to tail; `shift` are fields of world.Style."""

    name: str
    kind: str  # "objects" or "scenes"
    classes: tuple[tuple[int, int, int], ...]
    native_resolution: int  # pixels a side
    largest: int  # training images of class 0
    test_per_class: int
    shift: dict
    recipe: dict  # epochs, batch_size, lr, adapter_dim, crop_min_scale, expand, precision
    profile: tuple[float, ...] = field(default=())  # (smallest, knee) of a Pareto profile; () means exponential at any ratio

    @property
    def class_names(self) -> tuple[str, ...]:
        name = object_name if self.kind == "objects" else scene_name
        return tuple(name(*triple) for triple in self.classes)

    def train_counts(self, ir: float | None = None) -> list[int]:
        """Training images per class, head to tail. `ir` is for the exponential stand-in; ir = 1 is its balanced pool."""
        if self.profile:
            if ir is not None:
                raise ValueError(f"{self.name} has one fixed profile: leave the imbalance ratio out (it was {ir})")
            return pareto(self.largest, int(self.profile[0]), len(self.classes), self.profile[1])
        if ir is None:
            raise ValueError(f"{self.name} needs an imbalance ratio, such as 100")
        return exponential(self.largest, ir, len(self.classes))


def _pick(name: str, triples: np.ndarray, count: int) -> tuple[tuple[int, int, int], ...]:
    """`count` of the triples (T, 3) in random order, those first whose attributes are used least so far."""
    left = triples[generator(name, "classes").permutation(len(triples))]
    used = np.zeros((3, triples.max() + 1))  # how often each value of each attribute was chosen
    chosen: list[tuple[int, int, int]] = []
    while len(chosen) < count:
        best = used[np.arange(3), left].sum(axis=1).argmin()  # the first of the least used
        used[np.arange(3), left[best]] += 1
        chosen.append(tuple(left[best].tolist()))
        left = np.delete(left, best, axis=0)
    shuffled = generator(name, "label order").permutation(count)
    return tuple(chosen[i] for i in shuffled)


def _objects(name: str, count: int, shapes: tuple[str, ...] = SHAPES, without: tuple = ()) -> tuple:
    triples = np.argwhere(HELD_OUT_OBJECTS)
    keep = [t for t in triples if SHAPES[t[2]] in shapes and tuple(t) not in without]
    return _pick(name, np.array(keep), count)


# A systematic shift, which adapters can undo: hues turn, objects and their patterns lie on their side, outlines are dark,
# the picture is hatched; and distractors stick to the border. Places are told apart by layout, ground and colour: their camera
# lies on its side, and warm colours alone make them hard to tell apart.
_SHIFT = {
    "hue": 34.0,
    "hue_spread": 8.0,
    "turn": 90.0,
    "turn_spread": 50.0,
    "outline": 0.8,
    "hatch": 0.22,
    "stickers": (1.0, 0.4),
    "sticker_radius": 0.26,
    "noise": 0.05,
}
_MILDER = {**_SHIFT, "hue": 29.0, "hatch": 0.18, "outline": 0.7}
_SHIFT_PLACES = {
    **_SHIFT,
    "roll": 90.0,
    "hue_spread": 16.0,
    "stickers": (1.0, 0.8),
    "sticker_radius": 0.34,
    "noise": 0.08,
    "hatch": 0.3,
    "hue": 30.0,
}
# Of the same classes as demo-imagenet and only for evaluating on: further hues, more hatching and noise, no outline's help.
_SKETCH = {**_SHIFT, "hue": 40.0, "hue_spread": 24.0, "outline": 0.4, "hatch": 0.36, "noise": 0.1}
# Two prompts beside 17 tokens are still more than ten beside the 197 of a full-size ViT.
_RECIPE = {
    "epochs": 2,
    "batch_size": 16,
    "lr": 0.01,
    "adapter_dim": 4,
    "vpt_len": 2,
    "crop_min_scale": 0.5,
    "expand": 4,
    "precision": "fp32",
}

_CIFAR = _objects("demo-cifar", 24)
_IMAGENET = _objects("demo-imagenet", 30, without=_CIFAR)
_INAT = _objects("demo-inat", 48, shapes=("star", "heart", "moon", "flower", "arrow"), without=_CIFAR + _IMAGENET)
_WARM = {COLOURS.index(c) for c in ("red", "orange", "yellow", "pink", "brown", "purple")}
_PLACES = _pick("demo-places", np.array([t for t in np.argwhere(HELD_OUT_SCENES) if t[2] in _WARM]), 36)

STAND_INS: dict[str, StandIn] = {
    s.name: s
    for s in (
        StandIn("demo-cifar", "objects", _CIFAR, 20, 200, 20, {**_SHIFT, "hue": 31.0, "downsample": 2}, _RECIPE),
        StandIn("demo-imagenet", "objects", _IMAGENET, 36, 180, 40, {**_SHIFT, "hue": 32.0, "outline": 0.75}, _RECIPE, (2, 15)),
        StandIn("demo-places", "scenes", _PLACES, 36, 160, 46, _SHIFT_PLACES, _RECIPE, (1, 30)),
        StandIn("demo-sketch", "objects", _IMAGENET, 36, 2, 20, _SKETCH, _RECIPE, (1, 15)),
        StandIn("demo-inat", "objects", _INAT, 36, 180, 20, _MILDER, _RECIPE, (2, 15)),
    )
}

EVALUATED_ON = ("demo-sketch",)  # of the classes of another one, under another shift; a study trains on none of these


def draw_scenes(stand_in: StandIn, labels: np.ndarray, rng: np.random.Generator):
    """world.Scenes for labels (N,): the class fixes three attributes, the rest is free."""
    from pel_core.demo.world import Scenes

    n = len(labels)
    first, second, third = np.array(stand_in.classes, dtype=np.int64)[labels].T
    zero = np.zeros(n, np.int64)
    if stand_in.kind == "objects":
        size = (rng.random(n) < 0.15).astype(np.int64)
        return Scenes(colour=first, pattern=second, shape=third, background=rng.integers(0, 6, n), placement=zero, size=size)
    pattern = np.where(rng.random(n) < 0.6, 0, rng.integers(0, len(PATTERNS), n))
    return Scenes(
        colour=third,
        pattern=pattern,
        shape=rng.integers(0, len(SHAPES), n),
        background=first,
        placement=second + len(COUNTS),
        size=zero,
    )


def labels_of(stand_in: StandIn, split: str) -> np.ndarray:
    """Class-major labels int64 (N,). The exponential stand-in's training pool is balanced: a sampler takes from it."""
    if split == TEST:
        counts = [stand_in.test_per_class] * len(stand_in.classes)
    elif split == TRAIN:
        counts = stand_in.train_counts() if stand_in.profile else [stand_in.largest] * len(stand_in.classes)
    else:
        raise ValueError(f"split {split!r}: expected 'train' or 'test'")
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def render(name: str, split: str, draw: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (N, H, W, 3) and labels int64 (N,), class-major; the same bytes every time."""
    from pel_core.demo.world import Style
    from pel_core.demo.world import render as render_scenes

    if name not in STAND_INS:
        raise ValueError(f"no stand-in {name!r}; there are {', '.join(STAND_INS)}")
    stand_in = STAND_INS[name]
    labels = labels_of(stand_in, split)
    rng = generator(name, split, draw)
    style = Style(**stand_in.shift)
    scenes = draw_scenes(stand_in, labels, rng)
    return render_scenes(scenes, style, stand_in.native_resolution * style.downsample, rng), labels
