"""A folder of class folders, perhaps inside train, val and test folders (`pel_core.ingest.image_folders` walks it)."""

from pathlib import Path
from typing import Literal

from pel_core.ingest.image_folders import Catalogue, read_folders, tree_lines
from pel_core.ingest.sources.base import register
from pel_core.ingest.sources.users import UserEntry, UserSource, digest_lines


class FoldersEntry(UserEntry):
    """A user's folder of class folders."""

    kind: Literal["folders"]


@register
class Folders(UserSource):
    """A folder for each class; images stay where they are."""

    kind = "folders"
    Entry = FoldersEntry

    def images_print(self) -> dict[str, str]:
        """Paths and sizes of the images."""
        return {"tree": digest_lines(tree_lines(self.root))}

    def catalogue(self, new: Path) -> Catalogue:
        """The images below each class folder."""
        return read_folders(self.root)
