"""SOURCES: the kinds of data there are, a file each. Callers ask a source what they have to know and test for no kind.

Start with `base`. A new kind is one new file here, imported below; a plugin registers its own.
"""

from pel_core.ingest.sources import (
    auto,
    cifar,
    csv,
    folders,
    hub,
    huggingface,
    lists,
    parquet,
    rendered,
    split_file,
    torchvision,
    toy,
    webdataset,
)
from pel_core.ingest.sources.base import SOURCES, Size, Source, open_source, register, require_split, validation_options

__all__ = ["SOURCES", "Size", "Source", "open_source", "register", "require_split", "validation_options"]
__all__ += ["auto", "cifar", "csv", "folders", "hub", "huggingface", "lists", "parquet", "rendered", "split_file", "torchvision"]
__all__ += ["toy", "webdataset"]
