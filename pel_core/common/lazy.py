"""torch and matplotlib for files that planning reads: imported when something of them is used, not before.

A file of entries (losses, heads, deltas, optimizers) holds declarations, which planning needs and which must cost nothing, beside
code that needs torch. It says ``from pel_core.common.lazy import F, Module, nn, torch`` and
``from __future__ import annotations``, and is otherwise written as with torch itself. A file of a figure's kind says the same of
``plt``.
"""

from functools import cache
from importlib import import_module
from typing import Any


class _Lazy:
    """A module that is imported at the first look at one of its names. Its names are then attributes of this object, since
    ``torch.compile`` traces ``F.linear`` but no import."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, word: str) -> Any:
        return getattr(_load(self), word)


def _load(lazy: _Lazy) -> Any:
    module = import_module(lazy._name)
    lazy.__dict__.update(vars(module))
    return module


torch: Any = _Lazy("torch")
nn: Any = _Lazy("torch.nn")
F: Any = _Lazy("torch.nn.functional")
plt: Any = _Lazy("matplotlib.pyplot")


class Module:
    """Stands for ``torch.nn.Module`` in a class statement. An instance is a real one: it is made of a class that has both."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(_with_torch(cls))


@cache
def _with_torch(cls: type) -> type:
    """The class with ``torch.nn.Module`` among its bases, last."""
    for lazy in (torch, nn, F):
        _load(lazy)  # before anything of the class is traced
    base = import_module("torch.nn").Module
    return cls if issubclass(cls, base) else type(cls.__name__, (cls, base), {"__module__": cls.__module__})
