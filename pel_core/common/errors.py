"""One exception type for everything a user can get wrong, and one way to say what was asked, what exists, what is nearest."""

from collections.abc import Iterable
from difflib import get_close_matches


class PelError(Exception):
    """A mistake a user can mend: the message says what was asked, what was found and what to do."""


# Where a name of an entry is not known: a plugin that was named for an earlier command has to be named for this one as well.
PLUGIN = "An entry of a plugin needs --plugins FILE"
FEW = 6  # names that are nearest, of a list that is too long to be read


def unknown(kind: str, asked: object, known: Iterable[str], hint: str = "", listed: str = "") -> PelError:
    """The error for a name that is not declared, e.g. ``unknown("method", "adaptfomer", METHODS)``.

    ``listed``: where there is a list of the names, of which then the nearest few are told alone.
    """
    names = sorted(map(str, known))
    near = get_close_matches(str(asked), names, n=1)
    told = ", ".join(names) or "none"
    if listed and len(names) > 2 * FEW:
        nearest = get_close_matches(str(asked), names, n=FEW, cutoff=0.3) or names[:FEW]
        told = f"{', '.join(nearest)} and {len(names) - len(nearest)} more, listed in {listed}"
    message = f"unknown {kind} '{asked}'; known: {told}"
    if near:
        message += f". Did you mean '{near[0]}'?"
    elif hint and hint[0] not in "(.;":
        message += "."
    return PelError(f"{message} {hint}".rstrip())


def is_our_defect(error: BaseException) -> bool:
    """Whether code of this package raised an error, and no library that it called.

    Libraries that read files raise nearly anything on a damaged one: scipy's reader of .mat files ValueError, zlib.error,
    TypeError, IndexError and UnboundLocalError, for example. So it is not the kind that tells their complaints from a slip of
    ours (an argument that a function does not have, a name that is not there), but where it was raised.
    """
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    return where is not None and str(where.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == __name__.partition(".")[0]
