"""Where the workflow that comes with the package lies, and how its commands are spelled in messages. Torch-free.

A checkout has the folder ``workflow`` beside ``pel_core``; a wheel carries the same folder inside the package (``setup.py``).
Nothing else asks where Snakefile, studies, schemas and profiles are.
"""

import os
from pathlib import Path

from pel_core.common.errors import PelError

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "workflow"  # what setup.py puts into a wheel
CHECKOUT = PACKAGE.parent / "workflow"
SPELLING = "PEL_SPELLING"  # environment variable, set to "pel" by the command of that name: jobs spell as their caller does


def is_installed() -> bool:
    """Whether the package comes from a wheel, without the Makefile and tests of a checkout."""
    return INSTALLED.is_dir() or not CHECKOUT.is_dir()


WORKFLOW = INSTALLED if is_installed() else CHECKOUT
SNAKEFILE = WORKFLOW / "Snakefile"  # another workflow may use it as a module
STUDIES = WORKFLOW / "config"
PROFILES = WORKFLOW / "profiles"


def require(path: Path, what: str) -> Path:
    """``path`` of the package, where it is there.

    Raises:
        PelError: it is not, as in a wheel that was built without it.
    """
    if not path.exists():
        raise PelError(
            f"this installation of PEL-Lab comes without {what}: {path} does not exist. Build the wheel from a whole checkout or "
            "source archive (pip wheel --no-deps .), and install it again (pip install --force-reinstall --no-deps FILE.whl)"
        )
    return path


def says_pel() -> bool:
    """Whether messages name the command ``pel``: it was called by that name, or there is no other way."""
    return is_installed() or os.environ.get(SPELLING) == "pel"


def program() -> str:
    """How the program is called: ``pel``, or ``python -m pel_core`` in a checkout."""
    return "pel" if says_pel() else "python -m pel_core"


def command(words: str) -> str:
    """A command of the program as it is typed here: ``command("data check mine")``."""
    return f"{program()} {words}"


# The targets of the Makefile, and what `pel` calls them; the words that make takes, and their options.
TARGETS = {"study": "run", "plan": "plan --measure", "report": "run --report"}  # others have the same name
WORDS = {"DATA": "root"}


def make(target: str, **words: str) -> str:
    """A target of the Makefile as it is typed here: ``make("study", DATA="PATH")`` is ``make study DATA=PATH`` in a checkout and
    ``pel run --root PATH`` elsewhere."""
    if not says_pel():
        return " ".join(["make", target, *(f"{name}={value}" for name, value in words.items())])
    options = (f"--{WORDS.get(name, name.lower())} {value}" for name, value in words.items())
    return command(" ".join([TARGETS.get(target, target), *options]))


def snakemake() -> str:
    """What runs the workflow, by the name of its program."""
    return "pel run" if says_pel() else "snakemake"


def snakemake_or_make(both: str = "snakemake (or make study)") -> str:
    """The same by both of its ways in a checkout, as they are told there."""
    return "pel run" if says_pel() else both


def making(path: object) -> str:
    """What makes one file of a study: ``path`` as it is to be typed."""
    return f"pel run -- {path}" if says_pel() else f"snakemake --cores 1 --resources gpu=1 {path}"


def images_said(folder: str = "FOLDER") -> str:
    """How it is said where images are."""
    how = f"--root {folder}" if says_pel() else f"--root {folder} (make study DATA={folder}, snakemake's --config root={folder})"
    return f"{how} or the environment variable PEL_DATA"


def results_said(folder: str = "FOLDER") -> str:
    """How it is said where results go."""
    return f"--results {folder}" if says_pel() else f"make study RESULTS={folder}, or --config results={folder}"
