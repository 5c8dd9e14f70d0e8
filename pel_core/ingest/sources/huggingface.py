"""A directory that Hugging Face's ``save_to_disk`` left (`pel_core.ingest.saved_datasets` takes its images out)."""

import os
from pathlib import Path
from typing import Any, Literal

from pel_core.common.errors import PelError
from pel_core.common.files import sha256
from pel_core.ingest.image_folders import Catalogue
from pel_core.ingest.saved_datasets import read_saved, replace_images
from pel_core.ingest.sources.base import register
from pel_core.ingest.sources.csv import Columns
from pel_core.ingest.sources.users import UserEntry, UserOptions, UserSource, digest_lines

SAVED = ("dataset_dict.json", "state.json")  # what Hugging Face's save_to_disk leaves


class HuggingFaceOptions(UserOptions, Columns):
    """Columns, and what is drawn from the images."""


class HuggingFaceEntry(UserEntry, HuggingFaceOptions):
    """A user's Hugging Face directory."""

    kind: Literal["huggingface"]


@register
class HuggingFace(UserSource):
    """Tables of encoded images, which are written to files once, byte for byte, beside the prepared folder's own."""

    kind = "huggingface"
    Options = HuggingFaceOptions
    Entry = HuggingFaceEntry

    @classmethod
    def recognises(cls, root: str, options: Any) -> bool:
        """Such a directory has a file of a certain name."""
        return any(os.path.isfile(f"{root}/{name}") for name in SAVED)

    def found_at(self, root: str) -> UserSource:
        """A folder that has one of these files."""
        found = super().found_at(root)
        if not self.recognises(root, self.options):
            raise PelError(f"{root} holds neither {' nor '.join(SAVED)}, expected what Dataset.save_to_disk leaves")
        return found

    def images_print(self) -> dict[str, str]:
        """The content of its JSON files and the sizes of its tables."""
        files = sorted(path for path in Path(self.root).rglob("*") if path.suffix in (".json", ".arrow"))
        known = ((path, sha256(path) if path.suffix == ".json" else str(path.stat().st_size)) for path in files)
        return {"tables": digest_lines(f"{path.relative_to(self.root)}\t{content}" for path, content in known)}

    def catalogue(self, new: Path) -> Catalogue:
        """Its images, written below ``new``."""
        return read_saved(self.root, new, self.options.image_column, self.options.label_column)

    def finish(self, new: Path, out: Path) -> None:
        """Put the images where runs look for them."""
        replace_images(new, out)
