"""Images that are the same file twice: one in training and test flatters every number, one in two classes confuses.

Found by size, then by the first and last bytes, so that few bytes are read; proved by all bytes of those that are left, since
pictures of one size may well share their ends (black borders in BMP files). Torch-free.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from pel_core.common.counts import count_of
from pel_core.common.files import sha256
from pel_core.data.lists import ImageList

ENDS = 4096  # bytes read at either end
MOST = 50_000  # images of equal size that a quick check reads
Image = tuple[str, int]  # split, position


def duplicate_notes(root: str, splits: Mapping[str, ImageList], sizes: Mapping[str, np.ndarray], check: str) -> list[str]:
    """What to tell about images that are there twice: between splits, in different classes, and otherwise.

    Args:
        root: the image folder.
        splits: the images of each split.
        sizes: their bytes, int (N,), by split.
        check: none, sample (which looks only where that is quick) or all, as for decoding.
    """
    by_size: dict[int, list[Image]] = defaultdict(list)
    for split in splits:
        for position, size in enumerate(sizes[split].tolist()):
            by_size[size].append((split, position))
    alike = [group for group in by_size.values() if len(group) > 1]
    if check == "none":
        return []
    if check == "sample" and (many := sum(map(len, alike))) > MOST:
        why = f"{many:,} share their size with another; --check-images all looks"
        return [f"not looked for images that are there twice, since {why}"]

    def path(image: Image) -> str:
        return os.path.join(root, splits[image[0]].paths[image[1]])

    kinds: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for group in alike:
        for near in _groups(group, lambda image: _ends(path(image))):
            for first, *others in _groups(near, lambda image: sha256(path(image))):
                for split, position in others:
                    images, label = splits[split], splits[first[0]].labels[first[1]]
                    kind = "in two classes" if label != images.labels[position] else "in one class"
                    kind = "in two splits" if first[0] != split else kind
                    kinds[kind].append((splits[first[0]].paths[first[1]], images.paths[position]))
    return [
        f"{count_of(len(pairs), 'image')} there twice {kind}, such as {pairs[0][0]} and {pairs[0][1]}; take one of each away"
        for kind, pairs in sorted(kinds.items())
    ]


def _groups(images: Iterable[Image], key: Callable[[Image], str]) -> list[list[Image]]:
    """Images by a key, in order; those that are alone with theirs are left out."""
    groups: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        groups[key(image)].append(image)
    return [group for group in groups.values() if len(group) > 1]


def _ends(path: str) -> str:
    """The digest of a file's first and last bytes, for a first look."""
    with open(path, "rb") as handle:
        content = handle.read(ENDS)
        handle.seek(max(ENDS, os.fstat(handle.fileno()).st_size - ENDS))
        return hashlib.sha256(content + handle.read()).hexdigest()
