"""A configuration's ``datasets:`` -> `LongTailed`: users' entries, checked by the model of their kind. Torch-free."""

from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import BaseModel, Discriminator, Tag, ValidationError

from pel_core.common.errors import PLUGIN, PelError, unknown
from pel_core.common.locales import check_locale
from pel_core.data.datasets import DATASETS, NAME, LongTailed, split_name
from pel_core.ingest.options import Declared
from pel_core.ingest.sources import SOURCES, Source

DEFAULT = "lists"  # the kind of an entry that says none
EXPECTED = {
    "groups_from": "one of its ratios",
    "native_resolution": "a number of pixels",
    "test_fraction": "a number between 0 and 1 such as 0.2",
    "val_fraction": "a number between 0 and 1 such as 0.2",
}
# What is told first where several things are wrong: a key that is lacking may be the one that was misspelled.
ORDER = ("extra_forbidden", "string_type", "missing", "string_too_short")


def user_kinds() -> dict[str, type[Source]]:
    """The sources that an entry of a configuration may have, by kind."""
    return {kind: source for kind, source in SOURCES.items() if source.Entry}


def entry_type() -> Any:
    """The type of an entry, for pydantic: a union discriminated by ``kind``, of all kinds that there are now."""
    tagged = [Annotated[source.Entry, Tag(kind)] for kind, source in user_kinds().items()]
    return Annotated[Union[tuple(tagged)], Discriminator(_kind)]  # noqa: UP007


def _kind(entry: Any) -> Any:
    return entry.get("kind", DEFAULT) if isinstance(entry, Mapping) else getattr(entry, "kind", None)


Entry = entry_type()


def declared(config: Mapping[str, Any] | None) -> dict[str, LongTailed]:
    """Built-in data sets and those of a configuration's ``datasets:`` mapping.

    Raises:
        PelError: an entry that is malformed, incomplete, or named like a built-in one.
    """
    entries = (config or {}).get("datasets") or {}
    if not isinstance(entries, Mapping):
        raise PelError(f"datasets: expected a mapping of name to entry, found {type(entries).__name__}")
    for name in entries:
        if name in DATASETS:
            raise PelError(f"data set '{name}' of the configuration shadows the built-in one; give it another name")
    return {**DATASETS, **{str(name): _user_entry(str(name), entry) for name, entry in entries.items()}}


def _user_entry(name: str, entry: Any) -> LongTailed:
    where, kinds = f"data set '{name}' of the configuration", user_kinds()
    if not NAME.fullmatch(name) or split_name(name)[1] is not None:
        raise PelError(f"{where}: expected a name of lower-case letters, digits, - and _ that does not end in -irRATIO")
    if isinstance(entry, BaseModel):  # of a configuration that was checked as a whole
        entry = entry.model_dump(exclude_unset=True)
    if not isinstance(entry, Mapping):
        raise PelError(f"{where}: expected a mapping with kind ({', '.join(kinds)}), root and more, found {entry!r}")
    kind = _kind(entry)
    if not isinstance(kind, str) or kind not in kinds:
        raise unknown(f"kind of {where}:", kind, kinds, PLUGIN)
    source = kinds[kind]
    try:
        values = source.Entry.model_validate({"kind": kind, **entry})
    except ValidationError as error:
        raise _first(where, kind, source.Entry, error) from None
    options = values.model_dump(include=set(source.Options.model_fields), exclude_unset=True)
    return LongTailed(
        kind=kind,
        native_resolution=values.native_resolution,
        ratios=values.ratios,
        as_found=source.is_users,
        groups_from=values.groups_from,
        options=options,
    )


def _first(where: str, kind: str, model: type[Declared], errors: ValidationError) -> PelError:
    """The first thing that is wrong with an entry, in words."""
    rank = {word: place for place, word in enumerate(ORDER)}
    error = min(errors.errors(), key=lambda error: rank.get(error["type"], len(rank)))
    key, given = str(error["loc"][0]) if error["loc"] else "", error["input"]
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(where, key, kind, model)
        case "missing" | "string_too_short":
            return PelError(f"{where}: {key} is missing")
        case "string_type":
            return PelError(f"{where}: {key} is {given!r}, expected text")
        case "string_unicode":
            check_locale([given])
            return PelError(f"{where}: {key} is {given!a}, which is not UTF-8; rename it")
        case "unknown_word":
            return unknown(f"{key} of {where}:", given, error["ctx"]["known"], error["ctx"]["hint"])
        case "value_error":
            return PelError(f"{where}: {error['ctx']['error']}")
    least = next((rule.ge for rule in model.model_fields[key].metadata if hasattr(rule, "ge")), 0)
    return PelError(f"{where}: {key} is {given!r}, expected {EXPECTED.get(key, f'a whole number of {least} or more')}")


def _unknown_key(where: str, key: str, kind: str, model: type[Declared]) -> PelError:
    others = [other for other, source in user_kinds().items() if key in source.Entry.model_fields and other != "auto"]
    hint = f"'{key}' is a key of kind: {' and '.join(others)}." if others else ""
    if key == "recipe":
        hint = "A recipe stands beside `datasets:`, for all data sets of the configuration."
    return unknown(f"key of {where} (kind: {kind}):", key, model.model_fields, hint)
