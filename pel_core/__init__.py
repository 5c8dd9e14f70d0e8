"""PEL-Lab: ablation studies of parameter-efficient long-tailed recognition.

In Python and notebooks (docs/python.md): ``import pel_core as pel``, then ``pel.results``, ``pel.load_run``, ``pel.train``,
``pel.study``. The import itself is light: torch, pandas and matplotlib come with the first use of what needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pel_core.common.errors import PelError
    from pel_core.door.loaded import LoadedRun, load_run
    from pel_core.door.plugin import use_plugins
    from pel_core.door.predictions import ImagePredictions
    from pel_core.door.results import results
    from pel_core.door.study import StudyFigure, StudyResults, study
    from pel_core.door.training import train

__all__ = [
    "ImagePredictions",
    "LoadedRun",
    "PelError",
    "StudyFigure",
    "StudyResults",
    "__version__",
    "load_run",
    "results",
    "study",
    "train",
    "use_plugins",
]

_WHERE = {
    "PelError": "common.errors",
    "LoadedRun": "door.loaded",
    "load_run": "door.loaded",
    "use_plugins": "door.plugin",
    "ImagePredictions": "door.predictions",
    "results": "door.results",
    "StudyFigure": "door.study",
    "StudyResults": "door.study",
    "study": "door.study",
    "train": "door.training",
}


def __getattr__(name: str) -> object:
    """A name of the Python door, imported at its first use."""
    if name not in _WHERE:
        raise AttributeError(f"module 'pel_core' has no attribute '{name}'")
    found: object = getattr(import_module(f"pel_core.{_WHERE[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
