"""YAML files: found by name or path, loaded safely, validated against a JSON schema, with errors that say where and what.

Torch-free and pandas-free, as all that Snakemake's planning imports.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema

from pel_core.common.errors import PelError, unknown
from pel_core.common.plugins import refuse_in_file
from pel_core.common.yaml_files import load_yaml
from pel_core.data.datasets import DATASETS
from pel_core.data.naming import located
from pel_core.models.backbones import BACKBONES
from pel_core.spec.run_spec import DEFAULTS
from pel_core.studies import job_options

WORKFLOW = Path(__file__).resolve().parents[2] / "workflow"
SIZES = ("full", "small")  # of a configuration: real backbones and budgets, or the demo's


def find(name: str | Path) -> Path:
    """The file a study or config is meant by: a path, or a name under ``workflow/config`` here or beside the package.

    Raises:
        PelError: there is none; the message lists the names there are.
    """
    given = Path(name)
    folders = (Path("workflow/config"), WORKFLOW / "config")
    candidates = [given, *(folder / f"{name}.yaml" for folder in folders)]
    for path in candidates:
        if path.is_file():
            return path
    if given.suffix in (".yaml", ".yml") or len(given.parts) > 1:
        raise PelError(f"the study or config file {name} does not exist (looked from {Path.cwd()})")
    names = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    raise unknown("study or config", name, names, "Or give the path of a YAML file.")


def schema(name: str) -> dict[str, Any]:
    """A JSON schema of ``workflow/schemas``."""
    return json.loads((WORKFLOW / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))


def validate(content: dict[str, Any], rules: dict[str, Any], path: str | Path) -> None:
    """Check a loaded YAML file against a JSON schema.

    Raises:
        PelError: the first violation in reading order: file, key path, what was found, what is allowed.
    """
    errors = list(jsonschema.Draft202012Validator(rules).iter_errors(content))
    if errors:
        # A key that is not known first: the one that is missing is often the one that was meant.
        error = min(
            errors,
            key=lambda item: ([str(part).zfill(4) for part in item.absolute_path], item.validator != "additionalProperties"),
        )
        while error.context:  # anyOf, oneOf: the branch that came nearest
            error = jsonschema.exceptions.best_match(error.context) or error
        raise PelError(f"{path}: {_words(error)}")


def place(parts: Iterable[Any]) -> str:
    """``tables.table1.rows[2]`` from the parts of a key path; the file itself is ``(top level)``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".") or "(top level)"


def _words(error: jsonschema.ValidationError) -> str:
    where, found = place(error.absolute_path), error.instance
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        extra = next(key for key in found if key not in known)
        return f"{where}: {unknown('key', extra, known)}"
    if error.validator == "required":
        lacking = next(key for key in error.validator_value if key not in found)
        return f"{where}: the key '{lacking}' is missing; given: {', '.join(map(str, found)) or 'nothing'}"
    if error.validator == "enum":
        return str(unknown(f"{where} =", found, error.validator_value)).replace("unknown ", "", 1)
    if error.validator == "propertyNames" or (error.validator == "pattern" and "propertyNames" in error.absolute_schema_path):
        return f"{where}: '{found}' is not a possible name here; expected {error.schema.get('description', 'another form')}"
    if error.validator == "type":
        kinds = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        return f"{where}: found {_show(found)}, expected {' or '.join(NAMES.get(kind, kind) for kind in kinds)}"
    allowed = error.schema.get("description") or f"{error.validator} {error.validator_value}"
    return f"{where}: found {_show(found)}, expected {allowed}"


NAMES = {"object": "a mapping", "array": "a list", "string": "a text", "integer": "a whole number", "number": "a number",
         "boolean": "true or false", "null": "nothing"}  # fmt: skip


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def shown(path: str | Path) -> str:
    """A path for messages and commands: relative to the working folder where it lies below it."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def selection_fields() -> dict[str, Any]:
    """Schema of the RunSpec fields a selection may set, so that a new field needs no change of the schema files."""
    return {name: {"type": ["string", "number", "null"]} for name in DEFAULTS}


def parse_seeds(given: Any) -> list[int]:
    """Seeds from a command line or YAML: ``"0,1,2"``, ``[0, 1]`` or ``3``.

    Raises:
        PelError: something else, a negative or a repeated seed.
    """
    words = (
        [word.strip() for word in given.split(",")] if isinstance(given, str) else given if isinstance(given, list) else [given]
    )
    seeds = [int(word) for word in map(str, words) if word.isdigit()]
    if len(seeds) != len(words) or len(set(seeds)) != len(seeds) or not seeds:
        raise PelError(f"seeds={given}: expected different whole numbers, e.g. seeds=0,1,2")
    return seeds


def sized(value: Any, size: str) -> Any:
    """A study's content at one size: a mapping of exactly ``full`` and ``small``, wherever it stands, becomes one of the two."""
    if isinstance(value, dict):
        return sized(value[size], size) if set(value) == set(SIZES) else {key: sized(item, size) for key, item in value.items()}
    return [sized(item, size) for item in value] if isinstance(value, list) else value


def carried(name: str, path: str | Path) -> str:
    """A path that becomes a rule's input or output, as text.

    Raises:
        PelError: a name that Snakemake's rules (braces) or a log (line breaks) could not carry; ``name`` is its key.
    """
    text = str(path)
    if bad := [letter for letter in text if letter in "{}" or not letter.isprintable()]:
        raise PelError(f"{name}: the path {text!r} holds {bad[0]!r}; choose a name without braces, line breaks and the like")
    return text


def submittable(words: Iterable[object]) -> None:
    """Refuse words that a cluster's shell would take for more: executor plugins put Snakemake's own command line, ``--config``
    and paths, between double quotes.

    Raises:
        PelError: naming the word.
    """
    for word in map(str, words):
        if bad := [letter for letter in word if letter in '$`"\\' or not letter.isprintable()]:
            raise PelError(
                f"{word!r} holds {bad[0]!r}, which a cluster's shell would read as a command; rename it, or say it in a file"
            )


def read_study(path: Path, size: str = "full") -> dict[str, Any]:
    """A study file at a configuration's size, validated.

    Raises:
        PelError: the first violation.
    """
    rules = schema("study")
    for name in ("selection", "labelled", "point", "sweep"):
        rules["$defs"][name]["properties"].update(selection_fields())
    rules["$defs"]["sweep"]["properties"]["sweep"]["enum"] = ["dataset", "backbone", "method", "value", *DEFAULTS]
    content = sized(load_yaml(path), size)
    refuse_in_file(content, shown(path))
    validate(content, rules, shown(path))
    lists = ["compare"] * ("reported" in content) + ["claims"] * ("claims" in content)
    names = [*content.get("tables", {}), *content.get("figures", {}), *lists]
    for name in names:
        if names.count(name) > 1:
            raise PelError(
                f"{shown(path)}: the name '{name}' is given twice; tables, figures, compare and claims share their names"
            )
    return content


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file, validated.

    Raises:
        PelError: the first violation.
    """
    rules = schema("config")
    rules["properties"]["recipe"]["properties"] = selection_fields()
    values = load_yaml(path)
    refuse_in_file(values, shown(path))
    validate(values, rules, shown(path))
    if not values.get("comparable", True) and not values.get("notice"):
        raise PelError(f"{shown(path)}: comparable is false; say why in the key 'notice'")
    for name in values.get("weights", {}):
        if name not in BACKBONES:
            raise PelError(f"{shown(path)}: weights: {unknown('backbone', name, BACKBONES)}")
    try:
        job_options.check(values)
    except PelError as error:
        raise PelError(f"{shown(path)}: {error}") from None
    if "weights" in values:
        values["weights"] = {name: os.path.expandvars(os.path.expanduser(file)) for name, file in values["weights"].items()}
    if "cache_dir" in values:
        values["cache_dir"] = os.path.expandvars(os.path.expanduser(values["cache_dir"]))
    every = {*DATASETS, *values.get("datasets", {})}
    listed = (("roots", DATASETS), ("lists", DATASETS), ("own_lists", DATASETS), ("descriptions", every), ("naming", every))
    for key, known in listed:
        for name in values.get(key, {}):
            if name not in known:
                raise PelError(f"{shown(path)}: {key}: {unknown('data set', name, known, '(without -irRATIO)')}")
    return located(values, path)
