"""What a configuration brings to a study: data and backbone for its roles, seeds, shared values; roles that it does not bind."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.data.datasets import LongTailed, find_dataset, split_name
from pel_core.studies.tuning import Tuning

TEST, OWN = "test", "Own test images"  # of evaluate_on: the run's own, and what they are called
BRACES = re.compile(r"(?<![\w\\^$}])\{([a-z][a-z0-9_-]*)\}")


class UnboundRole(Exception):
    """A role that the configuration gives no data set: the artefact is left out, which is no error."""

    def __init__(self, role: str):
        super().__init__(f"the config names no data set for the role '{role}'")


@dataclass(frozen=True)
class Bindings:
    """What a configuration brings to a study: data and backbone for its roles, seeds and shared values.

    ``roles``: the study's role -> title; ``data``: the bound roles -> data set; ``datasets``: declared data sets; ``tune``: what
    every row is tuned by that says nothing else; ``tunings`` holds those that were laid out, ``validation`` what candidates need
    to be scored on validation images (`tuning.make_tuned`).
    """

    roles: Mapping[str, str]
    data: Mapping[str, str]
    datasets: Mapping[str, LongTailed]
    backbone: str
    seeds: tuple[int, ...]
    recipe: Mapping[str, Any]
    tune: Mapping[str, Any] | None = None
    tunings: dict[str, Tuning] = field(default_factory=dict, compare=False, repr=False)
    validation: dict[tuple[str, float], dict[str, Any]] = field(default_factory=dict, compare=False, repr=False)

    def dataset(self, text: str) -> str:
        """A data set as a study writes it -> its name: ``cifar100-ir200`` -> ``demo-cifar-ir200``.

        Raises:
            UnboundRole: the configuration names none for this role.
            PelError: no such role, or a ratio that the data set does not have.
        """
        role, ratio = split_name(text)
        if role not in self.roles:
            raise unknown("role", role, self.roles, "(a cell's dataset is a role of the study, perhaps with -irRATIO)")
        if role not in self.data:
            raise UnboundRole(role)
        name = self.data[role] + (f"-ir{ratio:g}" if ratio else "")
        find_dataset(name, self.datasets)
        return name

    def test_set(self, role: Any) -> str:
        """The data set whose images a run is evaluated on; empty for its own (``test``).

        Raises:
            UnboundRole, PelError: as `dataset`; or it is a list, which stands in a row or column of its own.
        """
        if not isinstance(role, str):
            raise PelError(f"evaluate_on: {role}: a list stands in a row or column; of one cell, name one")
        return "" if role in ("", TEST) else self.dataset(role)

    def title(self, text: str) -> str:
        """Fill ``{role}`` in a title; a role that is not bound keeps the study's word.

        Raises:
            PelError: a word in braces that is no role (mathematics, ``_{...}``, is left alone).
        """
        for role in BRACES.findall(text):
            if role not in self.roles:
                raise unknown("role", role, self.roles, f"(in the title '{text}')")
        for role, word in self.roles.items():
            text = text.replace(f"{{{role}}}", word)
        return text

    def words(self, text: str) -> str:
        """A data set in words: ``cifar100-ir100`` -> ``CIFAR100-LT, imbalance ratio 100``."""
        role, ratio = split_name(text)
        return self.roles.get(role, role) + (f", imbalance ratio {ratio:g}" if ratio else "")
