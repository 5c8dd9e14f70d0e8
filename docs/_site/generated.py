"""Pages that are made of what the package says of itself: every key of studies and configurations, every module."""

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROOMS = (
    "door", "common", "hardware", "demo", "data", "models", "spec", "ingest", "training", "evaluation", "studies", "reporting",
    "export", "gallery", "cli", "conformance",
)  # fmt: skip


def write_pages(docs: Path) -> None:
    """Write the generated pages, those that changed."""
    for name, title in (("study", "Keys of a study"), ("config", "Keys of a configuration")):
        schema = json.loads((ROOT / f"workflow/schemas/{name}.schema.json").read_text(encoding="utf-8"))
        _write(docs / f"generated/{name}-keys.md", keys_page(title, schema))
    rooms = [room for room in ROOMS if (ROOT / "pel_core" / room).is_dir()]
    for room in rooms:
        _write(docs / f"generated/api/{room}.md", api_page(room))
    _write(docs / "generated/api/index.md", "\n".join(["# API reference\n", *_api_index(rooms)]))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def keys_page(title: str, schema: Mapping[str, Any]) -> str:
    """Every key of a schema with its type, default and meaning.

    Raises:
        ValueError: a key has no description.
    """
    lines = [f"# {title}\n", f"{schema['description']}\n", "## At the top\n", *_keys(schema, "the top")]
    for name, part in sorted(schema["$defs"].items()):
        if part.get("properties"):
            lines += [f"## {name}\n", f"{part.get('description', '')}\n", *_keys(part, name)]
    return "\n".join(lines) + "\n"


def _keys(part: Mapping[str, Any], where: str) -> Iterator[str]:
    required = part.get("required", ())
    fields = {key for key, about in part["properties"].items() if about.get("$ref", "").startswith("#/$defs/Fields/")}
    yield "| key | value | default | meaning |\n|---|---|---|---|"
    for key, about in ((key, about) for key, about in part["properties"].items() if key not in fields):
        if not about.get("description"):
            raise ValueError(f"the key {key} of {where} has no description")
        default = "required" if key in required else f"`{json.dumps(about['default'])}`" if "default" in about else ""
        yield f"| `{key}` | {_cell(_type(about))} | {_cell(default)} | {_cell(about['description'])} |"
    yield "\nand any field of a run ([Fields](#fields)).\n" if fields else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _type(about: Mapping[str, Any]) -> str:
    """A schema's type in words."""
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return "{full: ..., small: ...}" if name == "Sized" else f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf"):
        if word in about:
            return " or ".join(dict.fromkeys(_type(each) for each in about[word]))
    if "const" in about:
        return f"`{json.dumps(about['const'])}`"
    if "enum" in about:
        values = [f"`{json.dumps(value)}`" for value in about["enum"]]
        return ", ".join(values if len(values) <= 8 else [*values[:8], f"... ({len(values)} words)"])
    kind = about.get("type", "anything")
    if kind == "array":
        return f"list of {_type(about.get('items', {}))}"
    if kind == "object":
        inner = next(iter(about.get("patternProperties", {}).values()), about.get("additionalProperties"))
        return f"mapping of {_type(inner)}" if isinstance(inner, Mapping) else "mapping"
    return kind if isinstance(kind, str) else " or ".join(kind)


def api_page(room: str) -> str:
    """A room's modules, each with its public names."""
    package = ROOT / "pel_core" / room
    lines = [f"# {room}\n", f"```{{eval-rst}}\n.. automodule:: pel_core.{room}\n   :no-members:\n```\n"]
    for path in sorted(package.glob("**/*.py")):
        inside = path.relative_to(package).with_suffix("").as_posix().replace("/", ".")
        if inside == "__init__" or path.name.startswith("_") or not _documented(path):
            continue
        lines += [f"## {room}.{inside}\n", f"```{{eval-rst}}\n.. automodule:: pel_core.{room}.{inside}\n```\n"]
    return "\n".join(lines)


def _documented(path: Path) -> bool:
    return bool(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))


def _api_index(rooms: list[str]) -> Iterator[str]:
    yield "The package by rooms, in the order in which they depend on each other ([architecture](../../architecture.md)).\n"
    yield "```{toctree}\n:maxdepth: 1\n"
    yield from rooms
    yield "```"
