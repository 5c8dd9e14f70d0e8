"""Commands in messages are spelled as they are typed here: `pel` where there is no checkout."""

import ast
from pathlib import Path

import pytest

import pel_core

PACKAGE = Path(pel_core.__file__).parent
OF_A_CHECKOUT = ("bench", "conformance", "demo", "fork_server")  # rooms whose commands are typed in a checkout alone
SPELLS = {"common/shipped.py", "cli/options_text.py"}  # the second into documents of a checkout
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in OF_A_CHECKOUT]


def texts(tree: ast.AST) -> list[str]:
    """Every text of a module but docstrings."""
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [each.value for each in ast.walk(tree)
            if isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in told]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_message_spells_the_program_by_itself(path):
    if str(path.relative_to(PACKAGE)) not in SPELLS:
        found = [text for text in texts(ast.parse(path.read_text(encoding="utf-8"))) if "python -m pel_core" in text]
        assert not found, "take common.shipped.command"
