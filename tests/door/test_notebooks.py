"""docs/notebooks: what stands under the cells is there, names no machine, and comes out again when the notebooks are executed."""

import nbformat
import pytest

from pel_core.bench import notebooks
from pel_core.common.errors import PelError

BOOKS = notebooks.notebooks()


def code(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def test_there_are_three():
    assert BOOKS.keys() == {"own-images", "custom-figure", "new-method"}


@pytest.mark.parametrize("name", BOOKS)
def test_it_is_committed_as_it_was_executed(name):
    book = nbformat.read(BOOKS[name], as_version=4)
    nbformat.validate(book)
    assert [cell.execution_count for cell in code(book)] == list(range(1, len(code(book)) + 1))
    assert not [output for cell in code(book) for output in cell.outputs if output.output_type == "error"]
    assert sum(bool(cell.outputs) for cell in code(book)) >= 5
    assert notebooks.machine_paths(book) == [] and BOOKS[name].stat().st_size < 500_000


@pytest.mark.slow
@pytest.mark.parametrize("name", BOOKS)
def test_it_comes_out_again(name, tmp_path):
    """Cell by cell the same kinds of output; numbers may differ on another machine."""
    stored, made = nbformat.read(BOOKS[name], as_version=4), notebooks.execute(BOOKS[name], tmp_path)
    for then, now in zip(code(stored), code(made), strict=True):
        assert kinds(then) == kinds(now), then.source


def kinds(cell):
    return sorted(output.get("name") or ", ".join(sorted(output.get("data", {}))) for output in cell.outputs)


def test_a_path_of_the_machine_and_what_differs_from_call_to_call():
    bar = "run:   0%|   | 0/9 [00:00<?, ?step/s]\rrun: 100%|##| 9/9 [00:03<00:00, 4.93step/s, loss=0.35]\n"
    bar += "epoch 0  lr 1e-2  8 s\ndone in /home/me/x\n"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    book.cells[0].outputs = [nbformat.v4.new_output("stream", name="stderr", text=bar)]
    notebooks.tidy(book)
    assert book.cells[0].outputs[0].text == "run: 100%|##| 9/9 [loss=0.35]\nepoch 0  lr 1e-2\ndone in /home/me/x\n"
    assert notebooks.machine_paths(book) == ["/home/me/x"]


def test_a_cell_that_fails_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    assert notebooks.main(["nothing"]) == 1 and "unknown notebook 'nothing'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failing_cell_leaves_the_notebook_as_it_was(tmp_path):
    path = tmp_path / "bad.ipynb"
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])))
    with pytest.raises(PelError, match=r"bad\.ipynb: a cell fails: (.|\n)*ZeroDivisionError"):
        notebooks.execute(path, tmp_path)
