"""Checks and their report: one line each, and nothing passes silently."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

OK, FAILED, UNSUPPORTED = "ok", "FAILED", "unsupported"


class Unsupported(Exception):
    """The golden folder asks for something that this project has no counterpart of."""


@dataclass(frozen=True)
class Check:
    """One line: ``deviation`` is the largest found, ``tolerance`` the largest allowed; ``note`` says where or why."""

    name: str
    status: str
    deviation: float | None = None
    tolerance: float | None = None
    note: str = ""

    def __str__(self) -> str:
        numbers = ["-" if value is None else f"{value:.2e}" for value in (self.deviation, self.tolerance)]
        return f"{self.name:<60} {numbers[0]:>9} {numbers[1]:>9}  {self.status}{'  ' + self.note if self.note else ''}"


@dataclass
class Report:
    """The checks so far."""

    checks: list[Check] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether there were checks and every one of them is ok."""
        return bool(self.checks) and all(check.status == OK for check in self.checks)

    def measure(self, name: str, deviation: float, tolerance: float, note: str = "") -> None:
        """Record a deviation; NaN fails."""
        status = OK if deviation <= tolerance else FAILED
        self.checks.append(Check(name, status, float(deviation), float(tolerance), note if status == FAILED else ""))

    def close(self, name: str, found: Any, expected: Any, atol: float = 0.0, rtol: float = 0.0) -> None:
        """Compare one array; exactly one of ``atol`` and ``rtol`` is usually set."""
        self.each(name, [("", found, expected)], atol, rtol)

    def each(self, name: str, pairs: Iterable[tuple[str, Any, Any]], atol: float = 0.0, rtol: float = 0.0) -> None:
        """Compare (label, found, expected) arrays in one line: the worst; ``rtol`` is relative to each value."""
        measured = [(difference(found, expected, rtol > 0), label) for label, found, expected in pairs]
        self._worst(name, measured, rtol or atol)

    def gradients(self, name: str, pairs: Iterable[tuple[str, Any, Any]], relative: float, floor: float) -> None:
        """Compare gradients: per tensor max|d| <= relative * max|g| + floor, reported as a multiple of max|g|."""
        measured = []
        for label, found, expected in pairs:
            largest = float(np.abs(to_numpy(expected)).max(initial=0))
            deviation = difference(found, expected)
            within = deviation <= floor
            measured.append((0.0 if within else (deviation - floor) / largest if largest else np.inf, label))
        self._worst(name, measured, relative)

    def _worst(self, name: str, measured: list[tuple[float, str]], tolerance: float) -> None:
        if not measured:
            self.fail(name, "there was nothing to compare")
            return
        # NaN must win over every number.
        deviation, label = max(measured, key=lambda entry: np.inf if np.isnan(entry[0]) else entry[0])
        self.measure(name, deviation, tolerance, label)

    def fail(self, name: str, note: str) -> None:
        """Record a failure that has no number."""
        self.checks.append(Check(name, FAILED, note=note))

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Turn what goes wrong inside into a line, so that one section cannot hide the next."""
        try:
            yield
        except Unsupported as reason:
            self.checks.append(Check(name, UNSUPPORTED, note=str(reason)))
        except Exception as error:  # whatever it is, a check that cannot be made has failed
            self.fail(name, f"{type(error).__name__}: {error}".splitlines()[0])


def to_numpy(value: Any) -> np.ndarray:
    """A tensor, number or list as an array."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def difference(found: Any, expected: Any, relative: bool = False) -> float:
    """Largest |found - expected|, divided by |expected| where ``relative``; infinite where shapes differ, NaN equals NaN."""
    found, expected = to_numpy(found), to_numpy(expected)
    if found.shape != expected.shape:
        return np.inf
    if expected.dtype.kind in "US":
        return float(np.sum(found != expected))
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):  # infinity less infinity
        deviation = np.where(same, 0.0, np.abs(found - expected))
    if relative:
        deviation = deviation / np.maximum(np.abs(expected), 1e-12)
    return float(deviation.max(initial=0.0))
