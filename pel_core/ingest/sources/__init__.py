"""SOURCES: the kinds of data there are, a file each. Callers ask a source what they have to know and test for no kind.

Start with `base`. A new kind is one new file here, imported below; a plugin registers its own.
"""

from pel_core.ingest.sources import auto, cifar, csv, folders, huggingface, lists, parquet, rendered, split_file, torchvision, toy
from pel_core.ingest.sources.base import SOURCES, Size, Source, open_source, register, require_split, validation_options

__all__ = ["SOURCES", "Size", "Source", "open_source", "register", "require_split", "validation_options"]
KINDS = (auto, cifar, csv, folders, huggingface, lists, parquet, rendered, split_file, torchvision, toy)
__all__ += [module.__name__.rpartition(".")[2] for module in KINDS]
