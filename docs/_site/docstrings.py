"""Docstrings, which are plain sentences with `code` in them, as reStructuredText."""

import re

CODE = re.compile(r"``[^`]+``|`[^`]+`")


def as_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """Code in single backticks becomes literal; stars and bars, which are mathematics here, lose their meaning as marks."""
    for number, line in enumerate(lines):
        if line.lstrip().startswith((":", "..")):  # what napoleon made of Args and Raises
            head, _, rest = line.partition(": ") if line.lstrip().startswith(":") else (line, "", "")
            lines[number] = f"{head}: {_escaped(rest)}" if rest else line
        else:
            bullet = re.match(r"\s*([*-] )?", line)[0]
            lines[number] = bullet + _escaped(line[len(bullet) :])


def _escaped(text: str) -> str:
    parts, start = [], 0
    for code in CODE.finditer(text):
        parts += [_marks(text[start : code.start()]), f"``{code[0].strip('`')}``"]
        start = code.end()
        if text[start : start + 1].isalnum():
            parts.append("\\ ")
    return "".join([*parts, _marks(text[start:])])


def _marks(text: str) -> str:
    return re.sub(r"\\*([*|`])", r"\\\1", re.sub(r"(\w)_(?=\W|$)", r"\1\\_", text))
