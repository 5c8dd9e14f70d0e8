"""Images that are the same file twice: one in training and test flatters every number, one in two classes confuses.

Found by size, then by the first and last bytes, so that few bytes are read. Torch-free.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from pel_core.data.lists import ImageList

ENDS = 4096  # bytes read at either end
MOST = 50_000  # images of equal size that a quick check reads


def duplicate_notes(root: str, splits: Mapping[str, ImageList], sizes: Mapping[str, np.ndarray], check: str) -> list[str]:
    """What to tell about images that are there twice: between splits, in different classes, and otherwise.

    Args:
        root: the image folder.
        splits: the images of each split.
        sizes: their bytes, int (N,), by split.
        check: none, sample (which looks only where that is quick) or all, as for decoding.
    """
    by_size: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for split in splits:
        for position, size in enumerate(sizes[split].tolist()):
            by_size[size].append((split, position))
    alike = [group for group in by_size.values() if len(group) > 1]
    if check == "none" or (check == "sample" and sum(map(len, alike)) > MOST):
        return []
    kinds: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for group in alike:
        seen: dict[str, tuple[str, int]] = {}
        for split, position in group:
            images = splits[split]
            content = _ends(os.path.join(root, images.paths[position]))
            first = seen.setdefault(content, (split, position))
            if first == (split, position):
                continue
            label = splits[first[0]].labels[first[1]]
            kind = (
                "in two splits" if first[0] != split else "in two classes" if label != images.labels[position] else "in one class"
            )
            kinds[kind].append((splits[first[0]].paths[first[1]], images.paths[position]))
    return [
        f"{len(pairs)} images are there twice {kind}, such as {pairs[0][0]} and {pairs[0][1]}; take one of each away"
        for kind, pairs in sorted(kinds.items())
    ]


def _ends(path: str) -> str:
    """The digest of a file's first and last bytes. Two images of one size that share both are the same image."""
    with open(path, "rb") as handle:
        content = handle.read(ENDS)
        handle.seek(max(ENDS, os.fstat(handle.fileno()).st_size - ENDS))
        return hashlib.sha256(content + handle.read()).hexdigest()
