"""What a text tower sees of class names: token rows. Classes whose rows are equal start from the same head row. C classes."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.logs import logger

CHUNK = 4096  # texts whose tokens are held at once
SHOWN = 3  # groups of equal classes that a message names


def check_prompts(
    sentences: Sequence[Sequence[str]],
    class_names: Sequence[str],
    tokenizer: Any = None,
    allow_equal: bool = False,
    allow_cut: bool = False,
) -> list[str]:
    """See that every class has a text of its own, as the tokenizer reads it; what is cut at its length is said.

    Args:
        sentences: the texts of each class (C lists).
        class_names: (C,), for messages.
        tokenizer: open_clip's; None compares the texts themselves.
        allow_equal: classes of equal texts are a warning, as in published data that have such names.
        allow_cut: the same where they are equal because they were cut.

    Returns:
        What was found and is no error, a sentence each.

    Raises:
        PelError: classes whose texts are equal to the tokenizer; it names them.
    """
    rows, cut = _rows(sentences, tokenizer)
    notes = []
    if cut:
        limit, few = tokenizer.context_length, ", ".join(_short(class_names[label]) for label in cut[:SHOWN])
        more = ", ..." if len(cut) > SHOWN else ""
        notes.append(
            f"the texts of {len(cut):,} of {len(class_names):,} classes are longer than the {limit} tokens that the text tower "
            f"reads, and are cut ({few}{more}); shorter names (class_names) or sentences are read whole"
        )
    groups: dict[Any, list[int]] = defaultdict(list)
    for label, row in enumerate(rows):
        groups[row].append(label)
    if equal := [group for group in groups.values() if len(group) > 1]:
        by_cut = all(set(group) <= set(cut) for group in equal)
        text = _equal_text(equal, class_names, by_cut and tokenizer.context_length)
        if not (allow_equal or (by_cut and allow_cut)):
            raise PelError(
                f"{text}. If they are one class, spell it one way in the data; else give each a name of its own (class_names, or "
                "naming: for list files), or start the head from images (init=class-mean)"
            )
        notes.append(text)
    for note in notes:
        logger.warning(note)
    return notes


def _equal_text(equal: Sequence[Sequence[int]], class_names: Sequence[str], limit: int | bool) -> str:
    few = "; ".join(" and ".join(_short(class_names[label]) for label in group) for group in equal[:SHOWN])
    more = "; ..." if len(equal) > SHOWN else ""
    seen = f"agree in all of the {limit} tokens that it reads" if limit else "are the same words to it"
    return f"the text tower cannot tell these classes apart, whose texts {seen}: {few}{more}"


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:40]} ... {name[-15:]}")


def _rows(sentences: Sequence[Sequence[str]], tokenizer: Any) -> tuple[list[Any], list[int]]:
    """What is compared of each class (C,), and the labels of classes with a text that is cut."""
    if tokenizer is None:
        return [tuple(sorted(texts)) for texts in sentences], []
    digests: list[bytes] = []
    is_cut: list[bool] = []
    texts = [text for own in sentences for text in own]
    for start in range(0, len(texts), CHUNK):
        made = _digests(texts[start : start + CHUNK], tokenizer)
        digests += made[0]
        is_cut += made[1]
    rows, cut, start = [], [], 0
    for label, own in enumerate(sentences):
        part = slice(start, start := start + len(own))
        rows.append(tuple(sorted(digests[part])))
        cut += [label] if any(is_cut[part]) else []
    return rows, cut


def _digests(texts: Sequence[str], tokenizer: Any) -> tuple[list[bytes], list[bool]]:
    """A digest of the tokens that the tower gets of each text, and whether the text is cut."""
    length = tokenizer.context_length
    tokens = tokenizer([*texts, ""], context_length=length + 1)  # one more than it reads shows what is cut
    empty, tokens, padding = tokens[-1], tokens[:-1], tokens[-1, -1]
    last = length - 1 if (empty == padding).all() else length  # SigLIP's texts end with what fills them up
    cut = tokens[:, last] != padding
    tokens[cut, length - 1] = tokens[cut, length]  # what is cut ends as every text does
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in tokens[:, :length].numpy()], cut.tolist()
