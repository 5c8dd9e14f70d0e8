"""Errors: whose they are."""

import json

import pytest

from pel_core.common.errors import PelError, is_our_defect, unknown
from pel_core.common.files import read_json


def raised(function, *arguments) -> Exception:
    with pytest.raises(Exception) as found:
        function(*arguments)
    return found.value


def test_an_error_is_of_the_code_that_raised_it(tmp_path):
    assert is_our_defect(raised(unknown, "kind", "x", None)), "None is not iterable: a slip of the caller, raised here"
    assert is_our_defect(raised(read_json, tmp_path / "none.json"))
    assert not is_our_defect(raised(json.loads, "{")) and not is_our_defect(raised(lambda: [][0]))
    assert not is_our_defect(PelError("never raised"))
