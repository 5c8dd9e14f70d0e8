"""The head `clip-adapter`: CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544).

Shapes: B images, D features, E projected, H hidden, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pel_core.common.errors import PelError
from pel_core.common.lazy import F, nn, torch
from pel_core.common.registry import Check, Knob, at_least
from pel_core.models.heads import HEADS, Head, feature_knob

if TYPE_CHECKING:
    from torch import Generator, Tensor

KNOBS = (
    feature_knob("projected"),
    Knob(
        "ratio", 0.2, "share of the adapted feature, the rest is CLIP's own; 0 is zero-shot",
        Check("at least 0 and at most 1", lambda value: 0 <= value <= 1),
    ),
    Knob("reduction", 4, "the bottleneck is the feature's width divided by this", at_least(1)),
    Knob("train_classifier", False, "whether the class rows train too; in the paper they are CLIP's text features and stay"),
)  # fmt: skip


@HEADS.register("clip-adapter", knobs=KNOBS, reads=("scale",))
class ClipAdapter(Head):
    """scale * cos(g, w), g = ratio * relu(relu(f A) B) + (1 - ratio) * f: a bottleneck on CLIP's projected feature (Gao 2021)

    The paper's equation 3 has no ReLU after B; its released code, which made its numbers, has one, and so has this. A (E, H) and
    B (H, E) start as torch's linear layers do, as there: uniform with bound 1/sqrt(inputs). The paper's adapter of text
    features is left out, as in the released code.

    Raises:
        PelError: the bottleneck would have no unit.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        scale: float,
        generator: Generator,
        ratio: float = 0.2,
        reduction: int = 4,
        train_classifier: bool = False,
    ):
        super().__init__()
        if width < reduction:
            raise PelError(f"head.reduction={reduction} leaves no unit of the feature's {width}; it must be at most {width}")
        self.scale, self.ratio = scale, ratio
        rows = torch.empty(classes, width).uniform_(-1, 1, generator=generator)
        self.weight = nn.Parameter(F.normalize(rows, dim=-1), requires_grad=train_classifier)
        self.down = nn.Parameter(_uniform(width // reduction, width, generator))
        self.up = nn.Parameter(_uniform(width, width // reduction, generator))

    def forward(self, f_BD: Tensor) -> Tensor:
        f_BE = self.feature(f_BD)
        adapted_BE = F.relu(F.linear(F.relu(F.linear(f_BE, self.down)), self.up))
        mixed_BE = self.ratio * adapted_BE + (1 - self.ratio) * f_BE
        return F.linear(F.normalize(mixed_BE, dim=-1), F.normalize(self.weight, dim=-1)) * self.scale


def _uniform(outputs: int, inputs: int, generator: Generator) -> Tensor:
    bound = inputs**-0.5
    return torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
