"""The files of a prepared data set, known by content: the manifest is made when it is prepared, and compared whenever it is used.

A folder that was prepared before there were manifests gets one at the first look, if the sizes that it remembers are those that
there are: its splits keep their digests, so that nothing is made again. Torch-free.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.logs import logger
from pel_core.data import lists
from pel_core.data.manifest import Manifest, make_manifest, read_manifest, renew, write_manifest
from pel_core.data.prepared_files import image_list
from pel_core.data.roots import expand_root
from pel_core.ingest.content import Content
from pel_core.ingest.sources.base import Source

LARGE = 2 * 10**9  # bytes from which reading all files is worth a word


def know_by_content(content: Content, source: Source, out: Path) -> Manifest | None:
    """Read every file of a data set once (of one that is prepared again: each that changed), and put what they hold into the
    digests of its splits. Returns the manifest to store; None where no images are files.

    Raises:
        PelError: a file cannot be read.
    """
    if not content.files:
        return None
    known, size = read_manifest(out), sum(int(sizes.sum()) for _, sizes in content.files.values())
    if known is None and size > LARGE:
        logger.info("note: every file is read once, to know it by its content (%.0f GB)", size / 1e9)
    made = make_manifest(content.root, {split: images.paths for split, (images, _) in content.files.items()}, known)
    if len(absent := np.flatnonzero(made.states[:, 0] < 0)):
        raise PelError(f"{content.root}/{made.paths[absent[0]]} cannot be read; mend its permissions, or take it away")
    before = _digests(out)
    for split, (images, sizes) in content.files.items():
        by_size = content.digests[split]
        same = before.get(split) == by_size and known and split in known.rows and known.of(split) == made.of(split)
        content.digests[split] = by_size if same else lists.digest(images, sizes, made.of(split))
    tables = source.tables()
    return made if tables is None else make_manifest(expand_root(source.root or str(out)), {"": tables}, known)


def changed_files(source: Source, folder: Path) -> str:
    """Which files of a located source hold another content than those that ``folder`` was prepared from, in words; empty where
    all are the same, where images are no files, and where nothing is prepared. The manifest is brought up to date."""
    if source.root is None or not (folder / "data.json").is_file():
        return ""
    root, manifest = expand_root(source.root), read_manifest(folder)
    if manifest is None:
        return _adopt(source, folder, root)
    now, changed, read = renew(manifest, root)
    if len(changed):
        gone = int((now.states[changed, 0] < 0).sum())
        few = ", ".join(manifest.paths[row] for row in changed[:3].tolist()) + (", ..." if len(changed) > 3 else "")
        return f"{len(changed)} of {len(manifest.paths)} files are others by content{f' or gone ({gone})' if gone else ''}: {few}"
    if read:
        _store(folder, now)
    return ""


def _adopt(source: Source, folder: Path, root: str) -> str:
    """Make the manifest of a folder that has none, if its files are still those of its digests; else say that they are not."""
    if not (digests := _digests(folder)):
        return ""  # of another program: whoever opens it says so
    about = read_json(folder / "data.json")
    splits = {split: image_list(folder, about, split)[1] for split in digests if f"images-{split}.npy" not in about["files"]}
    if not splits:
        return ""
    tables = source.tables()
    place = root if tables is None else f"{folder}/images"
    logger.info("note: %s was prepared before files were known by content; all of them are read once", folder)
    made = make_manifest(place, {split: images.paths for split, images in splits.items()})
    for split, images in splits.items():
        sizes = made.states[made.rows[split], 0]
        if digests[split] not in (lists.digest(images, sizes), lists.digest(images, sizes, made.of(split))):
            return f"the images of {split} are others, or gone"
    later = int((made.states[:, 1] > (folder / "data.json").stat().st_mtime_ns).sum())
    late = f"; {later} were written after that, so whether their content changed is not known" if later else ""
    logger.info(
        "note: %s: its %d files have the sizes that they had and are taken to be the same%s", folder, len(made.paths), late
    )
    _store(folder, made if tables is None else make_manifest(root, {"": tables}))
    return ""


def _store(folder: Path, manifest: Manifest) -> None:
    try:
        write_manifest(folder, manifest)
    except OSError as error:  # a results folder that may only be read: the files are looked at again next time
        logger.info("note: %s cannot be kept (%s)", folder / "manifest.npz", error.strerror)


def _digests(folder: Path) -> dict[str, Any]:
    """The digest of each split that a prepared folder states; nothing where it states none."""
    try:
        about = read_json(folder / "data.json", ("digests", "files"))
    except PelError:
        return {}
    return about["digests"]
