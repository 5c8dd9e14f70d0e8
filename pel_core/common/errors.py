"""One exception type for everything a user can get wrong, and one way to say what was asked, what exists, what is nearest."""

from collections.abc import Iterable
from difflib import get_close_matches


class PelError(Exception):
    """A mistake a user can mend: the message says what was asked, what was found and what to do."""


def unknown(kind: str, asked: object, known: Iterable[str], hint: str = "") -> PelError:
    """The error for a name that is not declared, e.g. ``unknown("method", "adaptfomer", METHODS)``."""
    names = sorted(map(str, known))
    near = get_close_matches(str(asked), names, n=1)
    message = f"unknown {kind} '{asked}'; known: {', '.join(names) or 'none'}"
    if near:
        message += f". Did you mean '{near[0]}'?"
    elif hint and hint[0] not in "(.;":
        message += "."
    return PelError(f"{message} {hint}".rstrip())
