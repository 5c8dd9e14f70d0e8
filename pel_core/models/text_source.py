"""Where class-text features come from: a backbone's own text tower, as open_clip has it, and the classes it is to hear of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from pel_core.common.errors import PelError
from pel_core.models.backbones import BACKBONES, Backbone
from pel_core.models.prompt_tokens import check_prompts
from pel_core.models.upstream import load_tokenizer, open_clip_model


@dataclass
class TextSource:
    """The text tower of backbone ``name`` and the classes of a data set. A made-up backbone has neither tokenizer nor model.

    Args:
        name: an entry of BACKBONES.
        class_names: (C,).
        weights: a local file or folder, or a hub name, in the place of the entry's own; ``cache_dir``: where downloads go.
        sha: the SHA-256 that the weights must have, if known.
        allow_equal: classes of the same text are no error.
        notes: takes what is to be told of the texts (`check_prompts`).

    Raises:
        PelError: the backbone has no text tower.
    """

    name: str
    class_names: Sequence[str]
    weights: str | None = None
    cache_dir: str | None = None
    sha: str | None = None
    allow_equal: bool = False
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.entry.text:
            raise PelError(f"{self.name} has no text tower: start its head from images (init=class-mean), or use a CLIP backbone")

    @property
    def entry(self) -> Backbone:
        return BACKBONES[self.name]

    @cached_property
    def tokenizer(self) -> Any:
        """open_clip's; None of a made-up backbone."""
        return None if self.entry.source == "random" else load_tokenizer(self.name, self.weights, self.cache_dir)

    def check(self, lines: Sequence[Sequence[str]]) -> None:
        """See that each class has a text of its own among its ``lines`` (C lists); what is to be told goes to ``notes``.

        Raises:
            PelError: classes that the tower cannot tell apart.
        """
        short = self.entry.source == "bundled"  # which reads 20 tokens
        self.notes += check_prompts(lines, self.class_names, self.tokenizer, self.allow_equal, allow_cut=short)

    def model(self) -> nn.Module:
        """The whole CLIP, fp32.

        Raises:
            PelError: other weights than ``sha`` says.
        """
        return open_clip_model(self.name, self.weights, self.cache_dir, self.sha)
