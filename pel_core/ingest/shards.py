"""Shards of tar, as the library webdataset has them: patterns of their names, and the samples in them. Torch-free.

A sample is the members of one key, which stand together: ``a/0001.jpg``, ``a/0001.cls`` are of the key ``a/0001``; the key ends
at the first dot of the name (https://github.com/webdataset/webdataset, the format's description).
"""

import glob
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pel_core.common.errors import PelError, unknown

IMAGES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "cls.txt", "label", "label.txt")  # how the member of a label is called; json has a key besides
NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
META = re.compile(r"(?:.*/)?__[^/]*__(?:/.*|\..*)?")  # what belongs to a shard as a whole
RANGE = re.compile(r"(\d+)\.\.(\d+)")
BLOCK = 512  # bytes


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for: ``x-{000..002}.tar``, ``{a,b}.tar``. Numbers are as wide as the first.

    Raises:
        PelError: a brace that is not closed, or holds neither a range nor a list.
    """
    before, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    inside, closed, after = rest.partition("}")
    if not closed or "{" in inside:
        raise PelError(f"{pattern!r} has a brace that is not closed, or one inside another; expected such as x-{{000..009}}.tar")
    if match := RANGE.fullmatch(inside):
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise PelError(f"{pattern!r}: {{{inside}}} goes down; expected the smaller number first")
        words = [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    elif "," in inside:
        words = inside.split(",")
    else:
        raise PelError(f"{pattern!r}: {{{inside}}} is neither a range such as {{000..009}} nor a list such as {{a,b}}")
    ends = expand_braces(after)
    return [f"{before}{word}{end}" for word in words for end in ends]


def find_shards(root: str, patterns: tuple[str, ...]) -> list[str]:
    """The shards that patterns (braces, ``*``, ``?``) stand for, below ``root``, in order.

    Raises:
        PelError: one that braces name is not there, a pattern that nothing fits, or a shard that is meant twice.
    """
    found: list[str] = []
    for pattern in patterns:
        if "://" in pattern or pattern.startswith("pipe:"):
            raise PelError(f"{pattern!r} is an address; expected shards on a disk: download them, and name them below root")
        names = [name for each in expand_braces(pattern) for name in _fitting(root, each)]
        found += names
    if twice := next((name for name in found if found.count(name) > 1), "") if len(set(found)) < len(found) else "":
        raise PelError(f"the shard {twice} is meant twice by {', '.join(map(repr, patterns))}")
    return found


def _fitting(root: str, pattern: str) -> list[str]:
    if any(mark in pattern for mark in "*?["):
        found = sorted(glob.glob(pattern, root_dir=root))
        if not found:
            raise PelError(f"no shard in {root} fits {pattern!r}")
        return found
    if not os.path.isfile(os.path.join(root, pattern)):
        raise PelError(f"the shard {os.path.join(root, pattern)} does not exist")
    return [pattern]


@dataclass
class Sample:
    """The members of a key by their extensions, in lower case."""

    shard: str
    key: str
    members: dict[str, bytes] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.shard}: key '{self.key}'"


def read_shard(path: str) -> Iterator[Sample]:
    """The samples of a shard, one after another.

    Raises:
        PelError: it is cut off or no tar file; a key that comes again; a member that is there twice.
    """
    seen: set[str] = set()
    sample = None
    for name, content in _members(path):
        match = NAME.fullmatch(name)
        if not match or META.fullmatch(name):
            continue
        key, extension = match[1], match[2].lower()
        if sample is None or key != sample.key:
            if sample:
                yield sample
            sample = Sample(path, key)
            if key in seen:
                raise PelError(
                    f"{sample.where} is there twice in the shard; expected each key once, its members one after another"
                )
            seen.add(key)
        if extension in sample.members:
            raise PelError(f"{sample.where} has two members '{extension}'; expected one")
        sample.members[extension] = content
    if sample:
        yield sample


def _members(path: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a tar file, which has to be whole: its end is marked by a block of zeros."""
    cut = f"the shard {path} is cut off, or no tar file"
    end = 0
    try:
        with tarfile.open(path) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # else it keeps all of them
                end = member.offset_data + (-(-member.size // BLOCK) * BLOCK if member.isfile() else 0)
                if not member.isfile():
                    continue
                handle = archive.extractfile(member)
                content = handle.read() if handle else b""
                if len(content) != member.size:
                    raise PelError(f"{cut} (in {member.name}); get it again")
                yield member.name, content
            archive.fileobj.seek(end)  # type: ignore[union-attr]
            if archive.fileobj.read(BLOCK) != bytes(BLOCK):  # type: ignore[union-attr]
                raise PelError(f"{cut} (its end is missing); get it again")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise PelError(f"{cut} ({' '.join(str(error).split())}); get it again") from None


def image_of(sample: Sample, extension: str = "") -> tuple[bytes, str]:
    """The image of a sample and its extension: the one that is asked for, else the only one.

    Raises:
        PelError: there is none, or there are several.
    """
    found = [extension] if extension and extension in sample.members else []
    if not extension:
        found = [name for name in sample.members if name.rsplit(".", 1)[-1] in IMAGES]
    if len(found) != 1:
        which = f"the members {', '.join(sample.members)}"
        wanted = f"'{extension}'" if extension else f"one image ({', '.join(IMAGES)})"
        hint = "; say which by 'image'" if found else ""
        raise PelError(f"{sample.where} has {which}; expected {wanted}{hint}")
    return sample.members[found[0]], found[0]


def label_member(sample: Sample, extension: str, key: str) -> str:
    """Which member holds the label, by a sample: what is asked for, else the only one that is called like one.

    Raises:
        PelError: none, or several.
    """
    if extension:
        return extension
    if key:
        return "json"
    found = [name for name in LABELS if name in sample.members]
    if len(found) == 1:
        return found[0]
    if not found and "json" in sample.members:
        raise PelError(
            f"{sample.where} has a member 'json' and none of {', '.join(LABELS)}; say which key is the label by 'label_key'"
        )
    which = f"{', '.join(found)}: several" if found else f"{', '.join(sample.members)}: none"
    raise PelError(f"{sample.where} has the members {which} that may be the label; say which by 'label'")


def label_of(sample: Sample, member: str, key: str = "") -> str | int:
    """The label of a sample: the text of its member, or what a JSON member has under ``key`` (``a.b``: b in a).

    Raises:
        PelError: it is missing, no text, no JSON, a number with a fraction or something else that names no class.
    """
    if member not in sample.members:
        there = ", ".join(sample.members)
        raise PelError(f"{sample.where} has no label: expected a member '{member}', found {there}")
    try:
        text = sample.members[member].decode().strip()
    except UnicodeDecodeError:
        raise PelError(f"{sample.where}: its '{member}' is not text") from None
    value: Any = text
    if key:
        try:
            value = json.loads(text)
        except ValueError:
            raise PelError(f"{sample.where}: its '{member}' is not JSON") from None
        for word in key.split("."):
            if not isinstance(value, dict) or word not in value:
                raise unknown(f"label_key of {sample.where}:", key, value if isinstance(value, dict) else ())
            value = value[word]
    elif "\n" in text:
        raise PelError(f"{sample.where}: its '{member}' has several lines; expected a class name or a number")
    if isinstance(value, bool) or not isinstance(value, int | str) or (isinstance(value, str) and _fraction(value)):
        raise PelError(f"{sample.where}: its label is {value!r}; expected a class name or a whole number")
    return value


def _fraction(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?\d*\.\d+([eE][-+]?\d+)?", text)) and float(text) % 1 != 0
