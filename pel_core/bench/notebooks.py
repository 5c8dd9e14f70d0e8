"""The notebooks of docs/notebooks, executed: what stands under their cells is what the cells give.

    python -m pel_core.bench.notebooks              # execute all of them, and write what came out
    python -m pel_core.bench.notebooks new-method   # this one

Each runs in an empty folder of its own. What differs from call to call (times in a bar, the identity of a process) is taken out.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pel_core.bench.study import ROOT
from pel_core.common.errors import PelError, unknown
from pel_core.common.files import write_text

FOLDER = ROOT / "docs" / "notebooks"
PASSED = re.compile(r"[^\n\r]*\r(?!\n)")  # a bar before it moved on
TIMES = re.compile(r"\[\d[\d:]*<[\d:?]+, [^,\]]*(, )?")  # of a bar: seconds, speed
SECONDS = re.compile(r"  \d+ s$", re.MULTILINE)  # at the end of an epoch's line
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|usr|opt|var|mnt|Users|private)/[^\s'\"]*|[A-Za-z]:\\\\[^\s'\"]+")
LIMIT = 600  # seconds that a cell may take


def notebooks() -> dict[str, Path]:
    """The notebooks by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}


def execute(path: Path, folder: Path) -> Any:
    """A notebook with what its cells give, executed in a folder.

    Raises:
        PelError: a cell fails, or what it gives names a folder of this machine.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    book = nbformat.read(path, as_version=4)
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "PEL_DATA", "PEL_PLUGINS")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    how = {"resources": {"metadata": {"path": str(folder)}}, "extra_arguments": ["--IPKernelApp.log_level=40"]}
    client = NotebookClient(book, timeout=LIMIT, kernel_name="python3", coalesce_streams=True, **how)
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise PelError(f"{path.name}: a cell fails: {str(error)[-2000:]}") from None
    tidy(book)
    if found := machine_paths(book):
        raise PelError(f"{path.name}: what its cells give names folders of this machine: {', '.join(found)}")
    return book


def tidy(book: Any) -> None:
    """Take out of a notebook what differs from call to call."""
    book.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for number, cell in enumerate(book.cells, 1):
        cell.id, cell.metadata = f"cell-{number}", {}
        for output in cell.get("outputs", ()):
            output.pop("metadata", None) if output.output_type == "stream" else output.update(metadata={})
            if output.output_type == "stream":
                output.text = SECONDS.sub("", TIMES.sub("[", PASSED.sub("", output.text)))


def machine_paths(book: Any) -> list[str]:
    """Absolute paths in what the cells of a notebook give."""
    texts = [text for cell in book.cells for output in cell.get("outputs", ()) for text in _texts(output)]
    return sorted({path for text in texts for path in MACHINE.findall(text)})


def _texts(output: Any) -> list[str]:
    data = output.get("data", {})
    return [output.get("text", ""), *(value for kind, value in data.items() if kind.startswith("text/"))]


def main(words: Sequence[str] | None = None) -> int:
    """Execute notebooks and write them with what came out."""
    import nbformat

    parser = argparse.ArgumentParser(prog="python -m pel_core.bench.notebooks", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="those of these names (all)")
    known = notebooks()
    try:
        for name in parser.parse_args(words).names or known:
            if name not in known:
                raise unknown("notebook", name, known)
            with TemporaryDirectory() as folder:
                book = execute(known[name], Path(folder))
            write_text(known[name], nbformat.writes(book) + "\n")
            print(f"{name}: {len(book.cells)} cells")
    except PelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
