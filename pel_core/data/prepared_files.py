"""The lists of a prepared folder and where their images are: pixels in the folder, or files below the image folder.

Shapes: N images.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.locales import check_locale
from pel_core.common.shipped import snakemake_or_make
from pel_core.data.lists import ImageList, check_files, digest
from pel_core.data.manifest import make_manifest, read_manifest, renew
from pel_core.data.roots import read_root
from pel_core.data.split import Split

MARK = ".written-by-pel-lab"  # in the folder ``images`` of a prepared data set whose images were taken out of tables, into files


def open_split(folder: Path, about: Mapping[str, Any], name: str, compare: bool = False) -> Split:
    """A list of a prepared folder (train, train-ir100, test, val) with its images. ``about`` is data.json; ``compare``: see that
    its files are those that were prepared.

    Raises:
        PelError: they are not.
    """
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        labels = arrays["labels"]
        if "paths" not in arrays:
            # Mapped copy-on-write: jobs of one machine share the pages, and torch takes the array as it is.
            return Split(labels, images=np.load(folder / f"images-{name}.npy", mmap_mode="c", allow_pickle=False), file=name)
    root, images, moved = image_list(folder, about, name)
    if moved or compare:
        require_unchanged(folder, about, name)
    return Split(labels, paths=[f"{root}/{path}" for path in images.paths], file=name)


def require_unchanged(folder: Path, about: Mapping[str, Any], name: str) -> None:
    """See that the image files of a split are, by content, those that it was prepared from.

    Only files whose size or times are others than the manifest has are read. Of a folder that was prepared before there were
    manifests, and that no planning has looked at since, sizes are compared.

    Raises:
        PelError: a file is another one, or cannot be used.
    """
    root, images, _ = image_list(folder, about, name)
    manifest = read_manifest(folder)
    if manifest is not None and name not in manifest.rows:
        return  # its images lie in the prepared folder itself
    if manifest is not None:
        changed = renew(manifest, root, manifest.rows[name]).changed
        if not len(changed):
            return
        wrong = [manifest.paths[row] for row in changed.tolist()]
        check_files(root, ImageList(images.source, wrong, np.zeros(len(wrong), np.int64)))  # one that is not there is said so
        what = f"{len(wrong)} of them hold something else, such as {wrong[0]}"
    else:
        sizes = check_files(root, images)
        made = make_manifest(root, {name: images.paths}) if digest(images, sizes) != about["digests"][name] else None
        if made is None or digest(images, sizes, made.of(name)) == about["digests"][name]:
            return
        what = "sizes or contents of files differ"
    raise PelError(
        f"the images under {root} are not those that {folder} was prepared from: {what}. Start {snakemake_or_make()} again, "
        "which prepares them and makes again what was made from the earlier ones, or put these back"
    )


def image_list(folder: Path, about: Mapping[str, Any], name: str) -> tuple[str, ImageList, bool]:
    """Where the images of a split held as files are, the split as a list of them, and whether they moved since then."""
    path = folder / f"{name}.npz"
    with np.load(path, allow_pickle=False) as arrays:
        images = ImageList(str(path), arrays["paths"].tobytes().decode().split("\n"), arrays["labels"])
    check_locale(images.paths)
    if (folder / "images" / MARK).is_file():
        return f"{folder}/images", images, False
    root, moved = read_root(folder, about["name"])
    return root, images, moved
