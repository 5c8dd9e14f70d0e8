"""``kind: auto``: whichever kind of a user's own images lies there."""

import os
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from pel_core.common.errors import PelError
from pel_core.ingest.sources.base import SOURCES, register
from pel_core.ingest.sources.csv import CsvOptions
from pel_core.ingest.sources.users import UserEntry, UserSource


class AutoEntry(UserEntry, CsvOptions):
    """A user's images of a kind that shows."""

    kind: Annotated[Literal["auto"], Field(description="whichever of folders, csv and huggingface the root is")]


@register
class Auto(UserSource):
    """The first kind that recognises what lies there, else a folder of class folders."""

    kind = "auto"
    Options = CsvOptions
    Entry = AutoEntry

    def found_at(self, root: str) -> UserSource:
        """Of the kind that it is; options which that kind does not have mean nothing."""
        users = [source for source in SOURCES.values() if issubclass(source, UserSource)]
        recognised = next((source for source in users if source.recognises(root, self.options)), None)
        if recognised is None and not os.path.isdir(root):
            raise PelError(f"{root} is a file, expected a folder; a table of images has a name that ends in .csv or .tsv")
        chosen = recognised or SOURCES["folders"]
        told = {key: value for key, value in self.entry.options.items() if key in chosen.Options.model_fields}
        return chosen(self.base, replace(self.entry, options=told), self.config).found_at(root)
