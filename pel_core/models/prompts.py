"""PROMPTS: the sentences by which a text tower hears of a class, by name, as data. Torch-free.

A prompt's templates are sentences with one ``{}``, in whose place the class name stands. They are the same for every data set, or
published for some data sets each (`published_prompts`). What a run says is `RunSpec.prompt`: a name of this registry, or
``texts:NAME`` for a text set of the configuration (`text_sets`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pel_core.common.errors import PLUGIN, PelError, unknown
from pel_core.common.registry import Registry
from pel_core.data.datasets import split_name
from pel_core.models.published_prompts import CLIP, CLIP_SOURCE, COOP, COOP_SOURCE

DESCRIBED = "descriptions"
TEXTS = "texts"  # with the name of a text set behind a colon
SENTENCES = "sentences:"  # before a prompt: the file of its sentences one by one, and what `pel_core text --prompt` takes
NAME = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class Prompt:
    """Templates and where they are from.

    ``templates``: for every data set; ``by_dataset``: for some, by name without -irRATIO; ``load`` gives those of ``templates``
    where another library holds them; ``source``: who published them. None of them: the sentences come from a file.

    Raises:
        PelError: a template without exactly one ``{}``.
    """

    templates: tuple[str, ...] = ()
    by_dataset: Mapping[str, Sequence[str]] = field(default_factory=dict)
    load: Callable[[], Sequence[str]] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        for lines in (self.templates, *self.by_dataset.values()):
            check_templates(lines, self.source or "a prompt")

    def of(self, base: str) -> tuple[str, ...]:
        """The templates for a data set; none where it has none."""
        own = self.load() if self.load else self.templates
        return tuple(self.by_dataset.get(base, own))


PROMPTS: Registry[Prompt] = Registry("prompt")


def check_templates(lines: Any, where: str) -> list[str]:
    """A list of sentences, each with one ``{}`` and no other brace, none twice.

    Raises:
        PelError: it is not; ``where`` is what the message begins with.
    """
    if not isinstance(lines, Sequence) or isinstance(lines, str):
        raise PelError(f"{where}: found {lines!r}, expected a list of sentences with {{}} in the place of the class name")
    for line in lines:
        if not isinstance(line, str) or line.count("{}") != 1 or re.search("[{}]", line.replace("{}", "")):
            raise PelError(f"{where}: the template {line!r} is not possible; expected a sentence with exactly one {{}}")
        if list(lines).count(line) > 1:
            raise PelError(f"{where}: the template {line!r} is there twice")
    return list(lines)


def prompt_parts(prompt: str) -> tuple[str, str]:
    """Name in the registry and, of ``texts:NAME``, the name of the text set.

    Raises:
        PelError: no such prompt, or a text set that is not named, or a name where none belongs.
    """
    kind, colon, name = prompt.partition(":")
    if kind not in PROMPTS:
        known = [f"{TEXTS}:NAME" if each == TEXTS else each for each in PROMPTS]
        raise unknown("prompt", prompt, known, PLUGIN)
    if kind == TEXTS and not NAME.fullmatch(name):
        raise PelError(f"prompt={prompt}: expected {TEXTS}:NAME, a text set of the configuration (lower-case letters, digits, -)")
    if kind != TEXTS and colon:
        raise PelError(f"prompt={prompt}: {kind} takes no name; {TEXTS}:{name or 'NAME'} is a text set of the configuration")
    return kind, name


def says_several(prompt: str, base: str) -> bool:
    """Whether a prompt may say more than one sentence of a class: what a file holds, it may."""
    kind, _ = prompt_parts(prompt)
    return kind in (DESCRIBED, TEXTS) or bool(PROMPTS[kind].load) or len(PROMPTS[kind].of(base)) > 1


def lacking(kind: str, base: str) -> str:
    """What a data set lacks for an entry, in words; empty where it lacks nothing."""
    entry = PROMPTS[kind]
    if not entry.by_dataset or entry.templates or entry.load or base in entry.by_dataset:
        return ""
    known = ", ".join(sorted(entry.by_dataset))
    return (
        f"{base} has no templates of its own; those that have: {known}; or write some (texts: {{{base}: ...}}, docs/prompts.md)"
    )


def templates(prompt: str, base: str = "") -> tuple[str, ...]:
    """The sentences of a prompt for a data set, ``{}`` standing for the class name.

    Raises:
        PelError: an unknown prompt, one whose sentences a file holds, or a data set for which it has none.
    """
    kind, _ = prompt_parts(prompt)
    if lack := lacking(kind, base):
        raise PelError(f"prompt={prompt}: {lack}")
    if not (found := PROMPTS[kind].of(base)):
        raise PelError(f"prompt={prompt}: its sentences are read from a file; it has no templates")
    return found


def spoken(class_names: Sequence[str]) -> list[str]:
    """Class names as prompts spell them: underscores become spaces."""
    return [name.replace("_", " ") for name in class_names]


def _imagenet() -> list[str]:
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]


def add_prompt(name: str, prompt: Prompt, about: str) -> None:
    """Add an entry; a run on a data set for which it has no templates is refused.

    Raises:
        PelError: a name that no file could have, or that another kind of text has.
    """
    if not NAME.fullmatch(name) or name in ("tower", "sentences"):
        raise PelError(f"prompt '{name}': expected a name of lower-case letters, digits and -, and not 'tower' or 'sentences'")
    PROMPTS.register(name, prompt, about=about, needs=lambda spec: lacking(name, split_name(spec.dataset)[0]))


add_prompt("default", Prompt(("a photo of a {}.",), source="Radford et al. 2021"), '"a photo of a {}."')
add_prompt("classname", Prompt(("{}",)), "the class name alone")
add_prompt(
    "ensemble", Prompt(load=_imagenet, source="Radford et al. 2021"), "the 80 templates that CLIP's authors chose for ImageNet"
)
add_prompt(
    DESCRIBED, Prompt(), "sentences of each class from a JSON file that the configuration names by data set (`descriptions`)"
)
add_prompt(
    "dataset", Prompt(by_dataset=COOP, source=COOP_SOURCE),
    f"one sentence for the data set, as CoOp (Zhou et al. 2022) has it: {', '.join(sorted(COOP))}",
)  # fmt: skip
add_prompt(
    "dataset-ensemble", Prompt(by_dataset=CLIP, source=CLIP_SOURCE),
    f"the templates that CLIP's authors chose for the data set: {', '.join(sorted(CLIP))}",
)  # fmt: skip
add_prompt(
    TEXTS,
    Prompt(),
    "`texts:NAME`: a text set of the configuration, its own templates, descriptions or class names (docs/prompts.md)",
)
