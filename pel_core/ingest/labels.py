"""A column of labels, as a table or a saved data set holds it -> classes: missing ones refused, numbers read as numbers.

Also what is told of every column that was taken: classes and their counts, the first examples. Torch-free. N images, C classes.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.shipped import program
from pel_core.data.lists import ImageList

# How tables spell "no value": those of pandas' read_csv, and NaN however it is written.
MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>", "N/A", "n/a", "NA", "NULL", "null",
     "None", "NaT")
)  # fmt: skip
NAN = re.compile(r"[-+]?nan", re.IGNORECASE)
NUMBER = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]*))?")  # 007 is a code, not a number
DIGITS = re.compile(r"0*([0-9]+)(?:\.([0-9]*))?")
SHOWN = 20  # classes whose counts are told
EXAMPLES = 3


def read_labels(values: Iterable[object], where: Callable[[int], str], what: str = "label") -> tuple[list[str], list[str]]:
    """The class of each value (N,), and notes for the user.

    Where every label is a number, ``10.0`` and ``10`` are class ``10``. Among words, a number is a name like any other.

    Args:
        values: text or numbers, as they were read.
        where: says where the value of a position stands, for messages.
        what: what the column is called.

    Raises:
        PelError: a value is missing, negative or of no kind that names a class; two spellings of one number are two classes;
            numbers with a decimal comma.
    """
    values = list(values)
    texts = [_text(value) for value in values]
    first: dict[str, int] = {}
    for position, text in enumerate(texts):
        first.setdefault(text, position)
    if wrong := {text for text in first if _no_class(text)}:
        at = min(first[text] for text in wrong)
        count = sum(text in wrong for text in texts)
        more = f" ({count:,} such images)" if count > 1 else ""
        shown = texts[at] if isinstance(values[at], str) else values[at]
        raise PelError(
            f"{where(at)}: the {what} is {shown!r}, expected a class name or a number of 0 or more{more}; fill it in, or "
            "take the row out (a class that is meant to be called so needs another word, such as 'none')"
        )
    numbers = {text: _number(match) for text in first if (match := NUMBER.fullmatch(text))}
    if len(numbers) == len(first):
        changed = next((text for text, number in numbers.items() if text != number), None)
        notes = [f"the {what}s are numbers: {changed!r} is class {numbers[changed]}"] if changed else []
        return [numbers[text] for text in texts], notes
    _require_one_spelling(first, where, what)
    words = next((text for text in first if not DIGITS.fullmatch(text)), None)
    if numbers and words is not None:
        number = min(numbers, key=first.__getitem__)
        return texts, [f"the {what}s are words and numbers ({words!r}, {number!r}): all are names, in the order of text"]
    return texts, []


def _text(value: object) -> str:
    """A value as text; empty for what cannot name a class."""
    if isinstance(value, str):
        return value.strip()
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return str(value)


def _no_class(text: str) -> bool:
    return text in MISSING or bool(NAN.fullmatch(text) or re.fullmatch(r"-\d+(\.\d*)?", text, re.ASCII))


def _number(match: re.Match[str]) -> str:
    fraction = (match[2] or "").rstrip("0")
    return f"{match[1]}.{fraction}" if fraction else match[1]


def _require_one_spelling(first: Mapping[str, int], where: Callable[[int], str], what: str) -> None:
    """Among names, no two that are the same number; no column of numbers with a decimal comma."""
    seen: dict[str, str] = {}
    for text in first:
        if match := DIGITS.fullmatch(text):
            other = seen.setdefault(_number(match), text)
            if other != text:
                raise PelError(
                    f"{where(first[text])}: the {what} {text!r} is the same number as {other!r} ({where(first[other])}), but not "
                    f"all {what}s are plain numbers; expected one spelling of each class"
                )
    if all(re.fullmatch(r"[0-9]+(,[0-9]+)?", text) for text in first) and (comma := next((t for t in first if "," in t), "")):
        raise PelError(
            f"{where(first[comma])}: the {what} is {comma!r}, a number with a decimal comma or several labels; expected a class "
            "name or a number such as 10 or 10.0"
        )


def taken_notes(columns: str, keys: Sequence[str], splits: Mapping[str, ImageList]) -> list[str]:
    """What was taken: the columns in words, images of each class in all splits, the first examples."""
    counts = sum(np.bincount(images.labels, minlength=len(keys)) for images in splits.values()).tolist()
    listed = ", ".join(f"{key} {count:,}" for key, count in zip(keys[:SHOWN], counts, strict=False))
    more = f", ... ({len(keys) - SHOWN:,} more: `{program()} data describe` draws all)" if len(keys) > SHOWN else ""
    train = splits["train"]
    examples = [f"{path} -> {keys[label]}" for path, label in zip(train.paths[:EXAMPLES], train.labels.tolist(), strict=False)]
    return [columns, f"images of each class: {listed}{more}", f"first examples: {'; '.join(examples)}"]
