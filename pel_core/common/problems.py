"""What is wrong with a data set, collected by kind, so that one look shows everything and not only the first mistake."""

from dataclasses import dataclass, field

from pel_core.common.counts import count_of
from pel_core.common.errors import PelError
from pel_core.common.shipped import command, program

EXAMPLES = 3  # of each kind


@dataclass
class Kind:
    """One kind of problem: how many, the first few of them, and what to do about them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)
    hint: str = ""


UNSORTED = "problems"  # the kind of what has no kind of its own


def _counted(name: str, kind: Kind) -> str:
    return count_of(kind.count, "problem") if name == UNSORTED else f"{kind.count:,} x {name}"


class Problems:
    """Problems in the order in which their kinds were first found. Empty, hence false, where nothing is wrong."""

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {}

    def add(self, kind: str, example: object, hint: str = "") -> None:
        """Count one problem. ``kind`` is a plural noun ("missing files"), ``example`` says where and what was found."""
        entry = self.kinds.setdefault(kind, Kind())
        entry.count += 1
        entry.hint = entry.hint or hint
        if len(entry.examples) < EXAMPLES:
            entry.examples.append(str(example))

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def lines(self) -> list[str]:
        """The whole account, a line each: kind and count, examples, what to do."""
        lines = []
        for name, kind in self.kinds.items():
            lines.append(_counted(name, kind))
            lines += [f"    {example}" for example in kind.examples]
            lines += ["    ..."] if kind.count > len(kind.examples) else []
            lines += [f"    -> {kind.hint}"] if kind.hint else []
        return lines

    def summary(self) -> str:
        """Kinds and counts in one line."""
        return ", ".join(_counted(name, kind) for name, kind in self.kinds.items())

    def require_none(self, base: str) -> None:
        """Stop at anything that was found.

        Raises:
            PelError: the first problem with what to do about it; where there are more, their kinds and counts.
        """
        self.stop(f"data set '{base}' has ", f": see `{program()} data check {base}`")

    def stop(self, before: str = "", after: str = f"; `{command('data check')}` lists them") -> None:
        """As ``require_none``, with words of one's own around kinds and counts."""
        if not self.kinds:
            return
        first = next(iter(self.kinds.values()))
        text = first.examples[0] + (f"; {first.hint}" if first.hint else "")
        if sum(kind.count for kind in self.kinds.values()) > 1:
            text += f" ({before}{self.summary()}{after})"
        raise PelError(text)
