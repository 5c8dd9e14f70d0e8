"""Registries: every choice that a study can make, by name. An entry is one declaration in one file.

An entry has a name, a line of documentation, *knobs* (options that it alone reads) and the code or the data behind it. What the
schema, the slug, the error messages, the documentation and the tests say of it is derived from that. Torch-free.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, TypeVar

from pel_core.common.errors import PLUGIN, PelError, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """What a value has to be: in words, and as a test."""

    expected: str
    holds: Callable[[Any], bool]


ANYTHING = Check("anything", lambda value: True)


def at_least(least: float) -> Check:
    """``value >= least``"""
    return Check(f"at least {least:g}", lambda value: value >= least)


def above(limit: float) -> Check:
    """``value > limit``"""
    return Check(f"above {limit:g}", lambda value: value > limit)


def between(low: float, high: float) -> Check:
    """``low <= value < high``"""
    return Check(f"at least {low:g} and below {high:g}", lambda value: low <= value < high)


def one_of(*words: str) -> Check:
    """One of some words."""
    return Check(f"one of {', '.join(words)}", lambda value: value in words)


def each(check: Check, count: int) -> Check:
    """``count`` numbers, each of which holds."""
    expected = f"{count} numbers, each {check.expected}"
    return Check(expected, lambda values: len(values) == count and all(map(check.holds, values)))


@dataclass(frozen=True)
class Knob:
    """An option that one entry reads.

    Args:
        name: within its entry; a study and a slug say ``loss.gamma`` or, of a method, ``METHOD.NAME``.
        default: its type is the knob's: bool, int, float, str, or a tuple of floats. A default is not part of a slug.
        meaning: one plain sentence; shapes and units where there are any.
        check: what a value has to be.
        words: words that it may be instead of a number, e.g. ``("auto",)``; its type is then ``kind``.
        needs: of a run's spec: what else it has to choose for the knob to have an effect, in words; empty where it has one.
        limit: of a run's spec: what the knob's value has to be beside the others, in words; empty where it is that.
    """

    name: str
    default: Any
    meaning: str
    check: Check = ANYTHING
    words: tuple[Any, ...] = ()
    kind: type | None = None
    needs: Callable[[Any], str] = lambda spec: ""
    limit: Callable[[Any], str] = lambda spec: ""

    def convert(self, label: str, value: Any) -> Any:
        """A value from its spelling in a slug or in YAML.

        Raises:
            PelError: it is not of the knob's type, or not possible; ``label`` is how the knob is called.
        """
        if self.words and value in self.words:
            return value
        kind = self.kind or type(self.default)
        found = _READERS[kind](label, value, self.words)
        if not self.check.holds(found):
            also = "".join(f"{word} or " for word in self.words)
            raise PelError(f"{label}={spell(found)} is not possible; it must be {also}{self.check.expected}")
        return found


def read_bool(label: str, value: Any, words: tuple[Any, ...] = ()) -> bool:
    """``true`` or ``false``, as YAML or a slug has it."""
    if isinstance(value, bool) or value in ("true", "false"):
        return value in (True, "true")
    raise PelError(f"{label}={value}: expected true or false")


def read_number(label: str, value: Any, kind: type, words: tuple[Any, ...] = ()) -> int | float:
    """A finite number; ``kind`` is int or float."""
    try:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number) or (kind is int and number != int(number)):
            raise ValueError
    except (TypeError, ValueError):
        also = "".join(f" or {word}" for word in words if word)
        raise PelError(f"{label}={value}: expected {'a whole number' if kind is int else 'a number'}{also}") from None
    return kind(number)


def _read_text(label: str, value: Any, words: tuple[Any, ...]) -> str:
    if isinstance(value, bool):
        raise PelError(f"{label}={value}: expected a word")
    return str(value)


def _read_numbers(label: str, value: Any, words: tuple[Any, ...]) -> tuple[float, ...]:
    """``0.9,0.999`` in a slug, a list in YAML."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    return tuple(float(read_number(label, part, float)) for part in parts)


_READERS: dict[type, Callable[[str, Any, tuple[Any, ...]], Any]] = {
    bool: read_bool,
    int: lambda label, value, words: read_number(label, value, int, words),
    float: lambda label, value, words: read_number(label, value, float, words),
    str: _read_text,
    tuple: _read_numbers,
}


def spell(value: Any) -> str:
    """One spelling for each value, so that a spec has one slug."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(spell, value))
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Plugin:
    """Where an entry comes from that is not of this package: the file's name and the SHA-256 of its content."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A declaration: ``value`` is the code or the data, ``reads`` the options of every run that this entry looks at.

    ``needs``: of a run's spec: what else it has to choose for the entry to work, in words; empty where it works.
    """

    name: str
    value: T
    about: str
    knobs: tuple[Knob, ...] = ()
    reads: tuple[str, ...] = ()
    plugin: Plugin | None = None
    needs: Callable[[Any], str] = lambda spec: ""

    def knob(self, name: str) -> Knob | None:
        """The knob of that name, if there is one."""
        return next((knob for knob in self.knobs if knob.name == name), None)


# Modules of plugins by name: what they register is theirs (`common.plugins`).
PLUGIN_MODULES: dict[str, Plugin] = {}
_registries: list["Registry[Any]"] = []


def all_registries() -> "tuple[Registry[Any], ...]":
    """Every registry that was declared in this process."""
    return tuple(_registries)


def _registering() -> str:
    """The module being imported: a plugin's, or one of this package, which a plugin may be the first to import; else ""."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if frame.f_code.co_name == "<module>" and (name in PLUGIN_MODULES or name.startswith(__name__.partition(".")[0] + ".")):
            return str(name)
        frame = frame.f_back
    return ""


@dataclass(eq=False)
class Registry(Mapping[str, T]):
    """Entries by name; reads as a mapping of name to code or data.

    Args:
        word: what an entry is called in messages: ``loss``.
        filled_by: modules of this package whose import adds the entries; imported at the first look.
    """

    word: str
    filled_by: tuple[str, ...] = ()
    _entries: dict[str, Entry[T]] = field(default_factory=dict)
    _filled: bool = False

    def __post_init__(self) -> None:
        _registries.append(self)

    def register(
        self,
        name: str,
        value: Any = None,
        *,
        about: str = "",
        knobs: tuple[Knob, ...] = (),
        reads: tuple[str, ...] = (),
        needs: Callable[[Any], str] = lambda spec: "",
    ) -> Any:
        """Add an entry; without a ``value`` the decorated function or class is it, its docstring's first line the documentation.

        Raises:
            PelError: there is an entry of this name.
        """

        def add(code: Any) -> Any:
            said = about or (getattr(code, "about", "") if not isinstance(code, type) else "") or _first_line(code)
            module = _registering()
            plugin = PLUGIN_MODULES.get(module)
            if plugin and not self._filled:
                self._fill()
            elif module in self.filled_by:  # whoever imports it first: entries have one order
                for before in self.filled_by[: self.filled_by.index(module)]:
                    import_module(before)
            if name in self._entries:
                of = self._entries[name].plugin
                where = f"plugin {of.name}" if of else "PEL-Lab itself"
                raise PelError(f"the {self.word} '{name}' is there already, from {where}; give it another name")
            self._entries[name] = Entry(name, code, said, knobs, reads, plugin, needs)
            return code

        return add if value is None else add(value)

    def entry(self, name: str) -> Entry[T]:
        """The declaration of that name.

        Raises:
            PelError: there is none; the message has the nearest match.
        """
        self._fill()
        if name not in self._entries:
            raise unknown(self.word, name, self._entries, PLUGIN)
        return self._entries[name]

    def entries(self) -> tuple[Entry[T], ...]:
        """All declarations, in the order in which they were made."""
        self._fill()
        return tuple(self._entries.values())

    def remove(self, plugin: Plugin) -> None:
        """Take a plugin's entries out again."""
        for name in [name for name, entry in self._entries.items() if entry.plugin == plugin]:
            del self._entries[name]

    def _fill(self) -> None:
        if not self._filled:
            self._filled = True
            for module in self.filled_by:
                import_module(module)

    def __getitem__(self, name: str) -> T:
        self._fill()
        return self._entries[name].value

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return iter(self._entries)

    def __len__(self) -> int:
        self._fill()
        return len(self._entries)


def _first_line(code: Any) -> str:
    return (getattr(code, "__doc__", None) or "").strip().split("\n")[0]
