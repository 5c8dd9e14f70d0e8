"""What ``pel --help`` says: the commands in the order in which they are used, a line each."""

import argparse

from pel_core.common.shipped import program

# A command that no group names is listed under the last but one.
GROUPS: dict[str, tuple[str, ...]] = {
    "A study, in order of use": ("init", "data", "plan", "run", "status", "show", "report"),
    "With trained runs": ("predict", "gallery", "export"),
    "Besides": ("options", "schema", "measure-throughput", "slots", "unlock", "where"),
    "Single steps, which `run` starts where they are due": (
        "backbone", "text", "train", "evaluate", "score", "select", "table", "figure", "compare", "claims", "provenance",
        "partial", "goes-on",
    ),
}  # fmt: skip
REST = "Besides"


class Root(argparse.ArgumentParser):
    """The parser of the program itself, whose help is a list of commands."""

    commands: "argparse._SubParsersAction"

    def format_help(self) -> str:
        """The whole text."""
        parsers = self.commands.choices
        named = {name for names in GROUPS.values() for name in names}
        rest = [name for name in parsers if name not in named]
        lines = [f"usage: {program()} COMMAND [options]   ({program()} COMMAND --help tells them)", "", self.description or ""]
        width = max(map(len, parsers)) + 2
        for title, names in GROUPS.items():
            shown = [name for name in names if name in parsers] + rest * (title == REST)
            lines += ["", f"{title}:", *(f"  {name:{width}}{self.about(name)}" for name in shown)]
        return "\n".join([*lines, "", "Also: --version. Read on in docs/command.md.", ""])

    def about(self, name: str) -> str:
        """The first sentence about a command, on one line."""
        text = next((each.help or "" for each in self.commands._choices_actions if each.dest == name), "")
        return " ".join(text.split())
