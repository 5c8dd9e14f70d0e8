"""FORMATS: what a run is exported as, by name; a plugin adds its own. Torch-free, as plugins are read when studies are planned.

Those of the package are in `folder`, which is imported when a run is exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pel_core.common.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from pel_core.export.linear import LinearHead
    from pel_core.spec.run_spec import RunSpec
    from pel_core.training.classifier import Classifier


# `normalise` of how an image is prepared: by mean and std before the network is given it, or in the network's own graph.
BEFORE, INSIDE = "before", "inside"


@dataclass(frozen=True)
class Opened:
    """A run ready for export: in fp32, on the CPU."""

    spec: RunSpec
    classifier: Classifier
    class_names: list[str]
    text: Mapping[str, Tensor]


@dataclass(frozen=True)
class Card:
    """What a card has to say of one format: the library and its name of the network, the head if it lies beside it, and how an
    image is prepared. ``code``: Python that loads the folder FOLDER; empty of the package's own libraries, which have theirs."""

    library: str
    arch: str
    head: LinearHead | None
    preprocessing: Mapping[str, Any]
    code: str = ""


Writer = Callable[[Path, Opened], Card]  # writes files into a new folder
FORMATS: Registry[Writer] = Registry("format")
