"""What the demo world is made of, by name, and which combinations pre-training never sees.

Torch-free and quick to import: planning a study needs the names and counts, not the pictures.

Two kinds of combination exist. An *object* is (colour, pattern, shape); a *scene* is
(background, layout, colour) with the objects' own shape and pattern left free. `HELD_OUT` of each are kept
out of pre-training altogether; every pair of attributes still occurs there, so an unseen triple can be read
compositionally. The stand-ins draw their classes from the held-out triples only.
"""

from __future__ import annotations

import zlib
from itertools import product

import numpy as np

COLOURS = ("red", "orange", "yellow", "lime", "green", "cyan", "blue", "purple", "pink", "brown", "white", "black")
PATTERNS = ("plain", "striped", "dotted", "checkered", "wavy", "ringed", "rimmed")
SHAPES = (
    "disc",
    "square",
    "triangle",
    "star",
    "ring",
    "cross",
    "heart",
    "moon",
    "arrow",
    "bar",
    "oval",
    "drop",
    "flower",
    "tee",
    "corner",
    "dome",
)
BACKGROUNDS = ("sand", "grass", "water", "brick", "snow", "night")
COUNTS = ("single", "pair", "trio")  # objects anywhere
LAYOUTS = ("row", "tower", "slope", "wheel", "block", "arch", "vee", "frame")  # scenes
PLACEMENTS = COUNTS + LAYOUTS  # index of Scene.placement
SIZES = ("large", "small")  # of a single object

HELD_OUT_SHARE = 0.3


def generator(*names: object) -> np.random.Generator:
    """A random generator that its names determine, e.g. generator("demo-cifar", "train", 0)."""
    words = [zlib.crc32(str(name).encode()) for name in names]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def _held_out(kind: str, sizes: tuple[int, int, int]) -> np.ndarray:
    """Boolean (sizes) array: True where a triple never occurs in pre-training; every pair occurs."""
    triples = np.array(list(product(*map(range, sizes))))
    chosen = generator("held out", kind).permutation(len(triples))[: round(HELD_OUT_SHARE * len(triples))]
    mask = np.zeros(sizes, dtype=bool)
    mask[tuple(triples[chosen].T)] = True
    for axis in range(3):
        if mask.all(axis=axis).any():
            raise AssertionError(f"the {kind} hold-out removes a whole pair of attributes; change its name")
    return mask


HELD_OUT_OBJECTS = _held_out("objects", (len(COLOURS), len(PATTERNS), len(SHAPES)))  # [colour, pattern, shape]
HELD_OUT_SCENES = _held_out("scenes", (len(BACKGROUNDS), len(LAYOUTS), len(COLOURS)))  # [background, layout, colour]


def object_name(colour: int, pattern: int, shape: int) -> str:
    return f"{COLOURS[colour]} {PATTERNS[pattern]} {SHAPES[shape]}"


def scene_name(background: int, layout: int, colour: int) -> str:
    return f"{COLOURS[colour]} {LAYOUTS[layout]} on {BACKGROUNDS[background]}"
