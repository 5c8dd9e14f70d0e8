"""The JSON schema of studies and configurations, for editors: generated from the models, committed in ``workflow/schemas``.

In an editor: ``# yaml-language-server: $schema=PATH/study.schema.json`` as a file's first line.
"""

import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, TypeAdapter

from pel_core.data.factors import FACTORS, SCOPE
from pel_core.ingest.entries import entry_type
from pel_core.spec.choices import CHOICES, METHODS, REGISTRIES
from pel_core.spec.run_spec import DEFAULTS
from pel_core.studies.schema.configuration import Configuration
from pel_core.studies.schema.factorial import DesignCell
from pel_core.studies.schema.selections import FIELDS, Fields, Origin, Point, Row, Selection, Sweep
from pel_core.studies.schema.study_file import study_model
from pel_core.studies.schema.types import KNOB

FILES: dict[str, Callable[[], type[BaseModel]]] = {"study": study_model, "config": lambda: Configuration}
SELECTIONS = (Origin, Selection, Row, Point, Sweep, DesignCell)
EMPTY = [("default", ""), ("default", []), ("default", {}), ("default", None)]
SIZED = {
    "type": "object",
    "description": "One value for each size of configuration.",
    "properties": {"full": {"description": "At full size."}, "small": {"description": "At the demo's size."}},
    "required": ["full", "small"],
    "additionalProperties": False,
}


def json_schemas() -> dict[str, str]:
    """The text of each file by its name."""
    made = {}
    for name, model in FILES.items():
        schema = model().model_json_schema()
        schema["$defs"]["Fields"] = _fields()
        for selection in SELECTIONS:
            if selection.__name__ in schema["$defs"]:
                _refer_to_fields(schema["$defs"][selection.__name__])
        if name == "study":
            _allow_sizes(schema)
        if name == "config":
            _describe_entries(schema)
        made[f"{name}.schema.json"] = json.dumps(_plain(schema), indent=1, ensure_ascii=False) + "\n"
    return made


def _fields() -> dict[str, Any]:
    """Fields of RunSpec, and knobs: each in one place, to which every selection refers."""
    properties = {
        name: {"type": _kinds(default), "description": _about(name)} for name, default in DEFAULTS.items() if name in FIELDS
    }
    properties |= {name: {"description": meaning} for name, meaning in _knobs().items()}
    knobs = {f"^{KNOB.pattern}$": {"description": "A knob of a plugin's entry."}}
    about = {"type": "object", "description": Fields.__doc__}
    return {**about, "properties": properties, "patternProperties": knobs, "additionalProperties": False}


def _refer_to_fields(selection: dict[str, Any]) -> None:
    fields = _fields()
    others = [name for name in fields["properties"] if name not in selection["properties"]]  # evaluate_on may be a list there
    selection["properties"] |= {name: {"$ref": f"#/$defs/Fields/properties/{name}"} for name in others}
    selection |= {name: fields[name] for name in ("patternProperties", "additionalProperties")}


def _describe_entries(schema: dict[str, Any]) -> None:
    """The keys of a data set of one's own, by its kind. `ingest.entries` checks them, in words of its own."""
    entry = TypeAdapter(entry_type()).json_schema(ref_template="#/$defs/{model}")
    schema["$defs"] |= entry.pop("$defs")
    names = schema["properties"]["datasets"]["patternProperties"]
    schema["properties"]["datasets"]["patternProperties"] = dict.fromkeys(names, entry)


def _kinds(default: Any) -> list[str]:
    return ["boolean"] * isinstance(default, bool) + ["string", "number", "null"]


def _about(field: str) -> str:
    words = f": {', '.join(CHOICES[field])}" if field in CHOICES else ""
    return f"Field of RunSpec{words} (default {'none' if DEFAULTS[field] is None else DEFAULTS[field]})."


def _knobs() -> dict[str, str]:
    """Every knob there is by its full name, and what it means."""
    owners = [(scope, entry) for scope, registry in REGISTRIES.items() for entry in registry.entries()]
    owners += [(entry.name, entry) for entry in METHODS.entries()] + [(SCOPE, FACTORS)]
    return {f"{scope}.{knob.name}": f"Of {entry.name}: {knob.meaning}" for scope, entry in owners for knob in entry.knobs}


def _allow_sizes(schema: dict[str, Any]) -> None:
    """Let ``{full: ..., small: ...}`` stand in the place of every value of a study's keys."""
    for declared in (schema, *schema["$defs"].values()):
        for key, value in declared.get("properties", {}).items():
            about = {name: value[name] for name in ("description", "default") if name in value}
            form = {name: item for name, item in value.items() if name not in about}
            if key == "grid":  # the values of one field of `tune`'s
                form["additionalProperties"] = {"anyOf": [form["additionalProperties"], {"$ref": "#/$defs/Sized"}]}
            if form and "const" not in form and not form.get("$ref", "").startswith("#/$defs/Fields/"):
                declared["properties"][key] = {**about, "anyOf": [form, {"$ref": "#/$defs/Sized"}]}
    schema["$defs"]["Sized"] = SIZED


def _plain(node: Any, named: bool = False) -> Any:
    """Without pydantic's titles, which repeat the keys, and without empty defaults; ``named``: the keys are those of a file."""
    if isinstance(node, dict):
        entries = {key: value for key, value in node.items() if named or (key != "title" and (key, value) not in EMPTY)}
        return {key: _plain(value, not named and key in ("properties", "$defs")) for key, value in entries.items()}
    return [_plain(item) for item in node] if isinstance(node, list) else node
