"""Captions of the demo world, its vocabulary, and the short BPE merges file that makes every word one token.

A caption names some of what is in the picture: attributes are dropped, synonyms used, templates vary. The
default prompt of PEL, "a photo of a {}.", is one of the templates, around names of the form that
`attributes.object_name` and `scene_name` give to classes.
"""

from __future__ import annotations

import gzip
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pel_core.demo.attributes import BACKGROUNDS, COLOURS, COUNTS, LAYOUTS, PATTERNS, PLACEMENTS, SHAPES, SIZES

if TYPE_CHECKING:
    from pel_core.demo.world import Scenes

TEMPLATES = (
    "a photo of a {}.",
    "a photo of a {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "a {}.",
    "the {}.",
    "this is a {}.",
    "there is a {} here.",
    "{}",
)
SYNONYMS = {
    "disc": "circle",
    "square": "box",
    "bar": "stick",
    "cross": "plus",
    "moon": "crescent",
    "oval": "egg",
    "red": "scarlet",
    "blue": "azure",
    "purple": "violet",
    "plain": "solid",
    "striped": "banded",
    "dotted": "spotted",
    "checkered": "chequered",
    "row": "line",
    "tower": "stack",
    "slope": "diagonal",
    "water": "sea",
    "brick": "wall",
    "snow": "ice",
    "large": "big",
    "small": "tiny",
}
NUMBERS = {"pair": ("two", "pair of"), "trio": ("three", "trio of")}
_FILLERS = ("thing", "things", "on", "of", "in", "with", "at", "some", "many")


def plural(noun: str) -> str:
    return {"box": "boxes", "plus": "pluses", "cross": "crosses", "torus": "tori"}.get(noun, noun + "s")


class _Writer:
    """Writes one caption; `say(p)` is a coin, `word(w)` the word or, now and then, its synonym."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def say(self, probability: float) -> bool:
        return self.rng.random() < probability

    def word(self, word: str) -> str:
        return SYNONYMS[word] if word in SYNONYMS and self.say(0.12) else word

    def thing(self, scene: dict[str, str], many: bool, colour: float, pattern: float, shape: float) -> str:
        parts = [self.word(scene["colour"])] if self.say(colour) else []
        parts += [self.word(scene["pattern"])] if self.say(pattern) else []
        noun = self.word(scene["shape"]) if self.say(shape) else "thing"
        return " ".join([*parts, plural(noun) if many else noun])

    def objects(self, scene: dict[str, str]) -> str:
        single = scene["placement"] == "single"
        text = self.thing(scene, not single, 0.92, 0.85, 0.94)
        if not single and self.say(0.85):
            text = f"{self.rng.choice(NUMBERS[scene['placement']])} {text}"
        elif single and self.say(0.12):
            text = f"{self.word(scene['size'])} {text}"
        return f"{text} on {self.word(scene['background'])}" if self.say(0.3) else text

    def layout(self, scene: dict[str, str]) -> str:
        layout = self.word(scene["placement"])
        where = f" on {self.word(scene['background'])}" if self.say(0.85) else ""
        if self.say(0.65):  # "red wheel on sand"
            return (f"{self.word(scene['colour'])} " if self.say(0.92) else "") + layout + where
        if self.say(0.5):  # "wheel of red stars on sand"
            return f"{layout} of {self.thing(scene, True, 0.92, 0.1, 0.9)}{where}"
        return f"{self.thing(scene, True, 0.92, 0.1, 0.9)} in {layout}{where}"

    def caption(self, scene: dict[str, str]) -> str:
        phrase = self.layout(scene) if scene["placement"] in LAYOUTS else self.objects(scene)
        template = str(self.rng.choice(TEMPLATES))
        if phrase.split()[0] in ("two", "three", "pair", "trio") or " in " in phrase:  # not "a two red stars"
            template = template.replace("a {}", "{}")
        return template.format(phrase)


def write(scenes: Scenes, rng: np.random.Generator) -> list[str]:
    """One caption per picture."""
    writer = _Writer(rng)
    columns = (
        ("colour", COLOURS),
        ("pattern", PATTERNS),
        ("shape", SHAPES),
        ("background", BACKGROUNDS),
        ("placement", PLACEMENTS),
        ("size", SIZES),
    )
    return [writer.caption({name: words[getattr(scenes, name)[i]] for name, words in columns}) for i in range(len(scenes))]


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption, a prompt or a class name of the world can hold, sorted."""
    nouns = [*SHAPES, *(SYNONYMS[s] for s in SHAPES if s in SYNONYMS)]
    bag = [
        *COLOURS,
        *PATTERNS,
        *BACKGROUNDS,
        *PLACEMENTS,
        *COUNTS,
        *SIZES,
        *SYNONYMS.values(),
        *nouns,
        *map(plural, nouns),
        *_FILLERS,
    ]
    for text in (*TEMPLATES, *(n for pair in NUMBERS.values() for n in pair)):
        bag += words_of(text)
    return tuple(sorted(set(bag)))


def _encode(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word, as open_clip's tokenizer does it."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while len(pieces) > 1:
        pair = min(itertools.pairwise(pieces), key=lambda p: ranks.get(p, len(ranks)))
        if pair not in ranks:
            break
        merged, i = [], 0
        while i < len(pieces):
            step = 2 if tuple(pieces[i : i + 2]) == pair else 1
            merged.append("".join(pieces[i : i + step]))
            i += step
        pieces = merged
    return pieces


def merges() -> list[tuple[str, str]]:
    """The fewest-effort merges: for each word in turn, what joins the pieces that earlier merges leave."""
    ranks: dict[tuple[str, str], int] = {}
    for word in vocabulary():
        while len(pieces := _encode(word, ranks)) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
    return list(ranks)


def write_merges(path: Path) -> None:
    """Gzip file of merges, one "left right" a line under a header, no trailing newline, no time stamp."""
    text = "\n".join(["#version: pel-lab demo world", *(" ".join(pair) for pair in merges())])
    with open(path, "wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
        packed.write(text.encode())
