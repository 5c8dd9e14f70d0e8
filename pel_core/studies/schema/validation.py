"""The one door: a loaded file against its model, with one error that says where, what was found, what is allowed, the nearest."""

import json
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator, Tag, ValidationError
from pydantic.fields import FieldInfo

from pel_core.common.errors import PLUGIN, PelError, unknown
from pel_core.studies.schema.selections import Fields
from pel_core.studies.schema.types import Expected

UNKNOWN = ("extra_forbidden", "unknown_key", "invalid_key")
# pydantic's name of an error -> what was expected.
EXPECTED = {
    "model_attributes_type": "a mapping", "dict_type": "a mapping", "model_type": "a mapping", "list_type": "a list",
    "string_type": "a text", "bool_type": "true or false", "int_type": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "finite_number": "a number",
}  # fmt: skip


def validate(content: Mapping[str, Any], model: type[BaseModel], path: str, complete: bool = True) -> None:
    """Check a loaded YAML file against its model; with ``complete=False`` its top level may lack keys.

    Raises:
        PelError: the first violation in reading order: file, key path, what was found, what is allowed.
    """
    try:
        model.model_validate(content)
        return
    except ValidationError as error:
        errors = [
            item for item in error.errors(include_url=False) if complete or item["type"] != "missing" or len(item["loc"]) > 1
        ]
    found = [Violation(item, model, content) for item in errors]
    if found:
        raise PelError(f"{path}: {min(found, key=lambda item: item.order).words()}")


def place(parts: Iterable[Any]) -> str:
    """``tables.table1.rows[2]`` from the parts of a key path; the file itself is ``(top level)``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".") or "(top level)"


class Violation:
    """One of pydantic's errors: where it is in the file, and in which declared type."""

    def __init__(self, error: Mapping[str, Any], model: type[BaseModel], content: Any):
        self.error, self.kind, self.found = error, error["type"], error["input"]
        self.path: list[Any] = []
        self.type: Any = model
        self.owner: Any = model  # the innermost mapping with declared keys
        self.siblings: tuple[Any, ...] = ()  # the kinds that the owner is one of
        self.of_key = error["loc"][-1:] == ("[key]",) and self.kind not in UNKNOWN  # (..., key, "[key]"): the key itself
        for part in error["loc"][:-2] if self.of_key else error["loc"]:
            self._step(part)
        if self.of_key:
            self.key, self.type = error["loc"][-2], get_args(_bare(self.type))[0]
        if self.kind in ("extra_forbidden", "invalid_key", "missing"):
            self.key = self.path.pop()
        elif self.kind == "unknown_key":
            self.key, self.owner = error["ctx"]["key"], _bare(self.type)
        elif self.kind == "field_value":
            self.path.append(error["ctx"]["key"])
            self.found = error["ctx"]["found"]
        self.order = self._order(content)

    def _step(self, part: Any) -> None:
        kind, metadata = _unwrapped(self.type)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            self.path.append(part)
            self.owner, self.type = kind, _field(kind, part)
        elif get_origin(kind) in (Union, UnionType) and (chosen := _chosen(kind, metadata, part)):
            self.siblings = tuple(map(_bare, get_args(kind)))  # a tag: no part of the path
            self.type = chosen
        else:
            self.path.append(part)
            self.type = {dict: lambda: get_args(kind)[1], list: lambda: get_args(kind)[0]}.get(get_origin(kind), lambda: Any)()

    def _order(self, content: Any) -> tuple[Any, ...]:
        """Where it stands in the file; a key that is not known before one that is missing, which it may have been meant for."""
        places = []
        for part in self.path:
            if isinstance(content, Mapping) and part in content:
                places.append(list(content).index(part))
                content = content[part]
            elif isinstance(content, list) and isinstance(part, int):
                places.append(part)
                content = content[part]
        return places, self.kind not in UNKNOWN

    def words(self) -> str:
        """Where, what was found, what is allowed, and the nearest."""
        where, kind = place(self.path), _unwrapped(self.type)[0]
        if self.kind in UNKNOWN:
            return f"{where}: {self._unknown_key()}"
        if self.kind in ("missing", "union_tag_not_found"):
            lacking = self.key if self.kind == "missing" else "kind"
            given = ", ".join(map(str, self.found)) if isinstance(self.found, Mapping) else ""
            if self.kind == "union_tag_not_found" and not isinstance(self.found, Mapping):
                return f"{where}: found {_show(self.found)}, expected a mapping"
            return f"{where}: the key '{lacking}' is missing; given: {given or 'nothing'}"
        if self.of_key:
            expected = "a text (put it into quotes)" if self.kind == "string_type" else self._expected()
            return f"{where}: '{self.key}' is not a possible name here; expected {expected}"
        if self.kind == "union_tag_invalid":
            known = [word.strip("'") for word in self.error["ctx"]["expected_tags"].split(", ")]
            return _not_one_of(f"{where}.kind", self.error["ctx"]["tag"], known)
        if self.kind == "unknown":
            return _not_one_of(where, self.found, self.error["ctx"]["known"])
        if get_origin(kind) is Literal:
            return _not_one_of(where, self.found, get_args(kind))
        return f"{where}: found {_show(self.found)}, expected {self._expected()}"

    def _unknown_key(self) -> PelError:
        known = self.error.get("ctx", {}).get("known") or self.owner.model_fields
        others = [other.model_fields["kind"].annotation for other in self.siblings if "kind" in getattr(other, "model_fields", {})
                  and self.key in other.model_fields]  # fmt: skip
        hint = f"'{self.key}' is a key of kind: {' and '.join(get_args(other)[0] for other in others)}." if others else ""
        if issubclass(self.owner, Fields):
            hint = "A knob of an entry is written ENTRY.KNOB, e.g. loss.gamma. " + PLUGIN
        if self.key in ("label", "row") and self.path[:1] == ["claims"] and "parts" in self.path:
            return PelError(f"unknown key '{self.key}': a claim has no rows to name; write what the row sets, e.g. {{loss: ce}}")
        return unknown("key", self.key, known, hint)

    def _expected(self) -> str:
        if self.kind == "field_value":
            return self.error["ctx"]["expected"]
        own = [item.words for item in _unwrapped(self.type)[1] if isinstance(item, Expected)]
        return own[-1] if own else EXPECTED.get(self.kind) or self.error["msg"]


def _unwrapped(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without Annotated, and its metadata."""
    metadata: tuple[Any, ...] = ()
    while get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        metadata = (*metadata, *more)
    return kind, metadata


def _bare(kind: Any) -> Any:
    return _unwrapped(kind)[0]


def _field(model: type[BaseModel], name: Any) -> Any:
    info = model.model_fields.get(name)
    return Annotated[info.annotation, info, *info.metadata] if info else Any


def _chosen(kind: Any, metadata: Iterable[Any], tag: Any) -> Any:
    """The member of a discriminated union that a tag names, if it is one."""
    for item in metadata:
        by = item.discriminator if isinstance(item, FieldInfo) else item
        for member in get_args(kind) if isinstance(by, str | Discriminator) else ():
            bare, marks = _unwrapped(member)
            tags = [mark.tag for mark in marks if isinstance(mark, Tag)]
            if tag in (get_args(bare.model_fields[by].annotation) if isinstance(by, str) else tags):
                return member
    return None


def _not_one_of(where: str, found: Any, known: Iterable[str]) -> str:
    of_plugins = where.startswith("figures.") and where.endswith(".kind")
    return str(unknown(f"{where} =", found, known, PLUGIN if of_plugins else "")).replace("unknown ", "", 1)


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
