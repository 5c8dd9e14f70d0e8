"""Preparing a data set: check or render it once, and leave a folder that a run opens in milliseconds.

The folder holds, written in this order, ``train*.npz``, ``test.npz``, ``val.npz`` (labels, and paths where the images are
files), ``images-train.npy`` and ``images-test.npy`` (uint8 (N, H, W, 3), where they are not), then ``data.json``. Images given
as files are never copied. Shapes: N images, C classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import unknown
from pel_core.common.files import replace_file, write_json
from pel_core.common.problems import Problems
from pel_core.common.versions import ENGINE
from pel_core.data.datasets import FORMAT, USER_KINDS
from pel_core.data.naming import naming_of, renamed
from pel_core.data.roots import given_root, write_root
from pel_core.data.user_data import declared
from pel_core.data.user_files import locate, write_source
from pel_core.ingest.identity import data_params
from pel_core.ingest.sources import SOURCES
from pel_core.ingest.user_sources import user_content

CHECKS = ("none", "sample", "all")


def prepare(
    base: str,
    out_dir: str | Path,
    config: Mapping[str, Any] | None = None,
    check_images: str = "sample",
    problems: Problems | None = None,
) -> None:
    """Check or render a data set and write its folder.

    Args:
        base: a data set's name without imbalance ratio; every ratio is prepared.
        out_dir: the folder to write. ``data.json`` comes last: while it is missing, the folder is incomplete.
        config: the study's configuration; ``datasets`` declares data sets of the user's own and ``roots`` maps a built-in
            one to its image folder (else it is looked for in the folder PEL_DATA names, or in ./data).
        check_images: decode none of the image files, a sample of 64 a list, or all.
        problems: takes every file of one's own that cannot be used, by kind.

    Raises:
        PelError: an unknown data set, or anything wrong with its lists, names or images.
    """
    datasets = declared(config)
    if base not in datasets:
        raise unknown("data set", base, datasets, "(a name without -irRATIO is expected here)")
    if check_images not in CHECKS:
        raise unknown("image check", check_images, CHECKS)
    entry = datasets[base]
    out = Path(out_dir)
    if own := entry.kind in USER_KINDS:
        params, entry = data_params(base, datasets, config or {}), locate(base, entry)
        content = user_content(base, entry, out, check_images, problems)
    else:
        content = SOURCES[entry.kind](base, entry, config or {}, check_images)
    names = renamed(base, content.class_names, naming_of(config, base), content.class_ids, content.folders)
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
        "engine": ENGINE,
        "name": base,
        "kind": entry.kind,
        "native_resolution": entry.native_resolution,
        "ratios": entry.ratios if entry.ratios == "any" else list(entry.ratios),
        "groups_from": entry.groups_from,
        "class_names": names,
        "train_counts": content.train_counts,
        "test_images": len(content.splits["test"]["labels"]),
        "files": {file: (out / file).stat().st_size for file in files},
        "digests": content.digests,
    }
    if own:
        write_root(out, entry.root)
        write_source(out, entry.root, params)
    if entry.kind == "lists":
        write_root(out, given_root(base, entry, config or {}))
    if base in ((config or {}).get("user_lists") or ()):
        about["user_lists"] = True  # the built-in name, but not the published lists
    write_json(out / "data.json", about)
