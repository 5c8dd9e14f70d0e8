"""Preparing a data set: check or render it once, and leave a folder that a run opens in milliseconds.

The folder holds, written in this order, ``train*.npz``, ``test.npz``, ``val.npz`` (labels, and paths where the images are
files), ``images-train.npy`` and ``images-test.npy`` (uint8 (N, H, W, 3), where they are not), ``manifest.npz`` (the files, by
content), ``source.json`` (what the folder depends on), ``notes.json`` (what a person has to know), then ``data.json``. Images
given as files are never copied. Shapes: N images, C classes.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import replace_file, write_json
from pel_core.common.logs import logger
from pel_core.common.versions import versions
from pel_core.data.datasets import FORMAT
from pel_core.data.manifest import write_manifest
from pel_core.data.naming import naming_of, renamed
from pel_core.data.roots import write_root
from pel_core.ingest.contents import know_by_content
from pel_core.ingest.entries import declared
from pel_core.ingest.identity import data_params, write_source
from pel_core.ingest.notes import write_notes
from pel_core.ingest.sources import open_source

CHECKS = ("none", "sample", "all")


def prepare(
    base: str,
    out_dir: str | Path,
    config: Mapping[str, Any] | None = None,
    check_images: str = "sample",
) -> None:
    """Check or render a data set and write its folder.

    Args:
        base: a data set's name without imbalance ratio; every ratio is prepared.
        out_dir: the folder to write. ``data.json`` comes last: while it is missing, the folder is incomplete.
        config: the study's configuration; ``datasets`` declares data sets of the user's own and ``roots`` maps a built-in
            one to its image folder (else it is looked for in the folder PEL_DATA names, or in ./data).
        check_images: decode none of the image files, a sample of 64 a list, or all.

    Raises:
        PelError: an unknown data set, or anything wrong with its lists, names or images.
    """
    datasets = declared(config)
    if base not in datasets:
        raise unknown("data set", base, datasets, "(a name without -irRATIO is expected here)")
    if check_images not in CHECKS:
        raise unknown("image check", check_images, CHECKS)
    out, entry = Path(out_dir), datasets[base]
    source = open_source(base, entry, config)
    params = ""
    with suppress(PelError):  # before anything is read; what is missing, reading tells with all the rest
        params = data_params(base, datasets, config or {})
    source = source.locate()
    content = source.read(out, check_images)
    for note in content.notes:
        logger.info(note)
    names = renamed(base, content.class_names, naming_of(config, base), content.class_ids, content.folders)
    manifest = know_by_content(content, source, out)
    (out / "data.json").unlink(missing_ok=True)  # only now: a failed check leaves an earlier folder whole
    if content.finish:
        content.finish()
    for split, images in content.images.items():
        with replace_file(out / f"images-{split}.npy") as temporary:
            np.save(temporary, images)
    for split, arrays in content.splits.items():
        with replace_file(out / f"{split}.npz") as temporary:
            np.savez(temporary, **arrays)
    files = [f"{split}.npz" for split in content.splits] + [f"images-{split}.npy" for split in content.images]
    about = {
        "format": FORMAT,
        "versions": versions("prepare"),
        "name": base,
        "kind": source.kind,
        "native_resolution": entry.native_resolution,
        "ratios": entry.ratios if entry.ratios == "any" else list(entry.ratios),
        "groups_from": entry.groups_from,
        "class_names": names,
        "train_counts": content.train_counts,
        "test_images": len(content.splits["test"]["labels"]),
        "files": {file: (out / file).stat().st_size for file in files},
        "digests": content.digests,
    }
    if source.root is not None:
        write_root(out, source.root)
    if manifest is not None:
        write_manifest(out, manifest)
    write_source(out, source.root, params or data_params(base, datasets, config or {}))
    if base in ((config or {}).get("user_lists") or ()):
        about["user_lists"] = True  # the built-in name, but not the published lists
    write_notes(out, content.notes)
    write_json(out / "data.json", about)
