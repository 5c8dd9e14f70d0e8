"""Data sets of the user's own: entries of a configuration's ``datasets:``, checked, as `LongTailed`. Torch-free."""

from collections.abc import Mapping
from typing import Any

from pel_core.datasets import DATASETS, NAME, LongTailed, split_name
from pel_core.errors import PelError, unknown
from pel_core.lists import NAME_FORMATS


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


TEXT_KEYS = ("kind", "root", "lists", "train", "test", "val", "names", "names_format")
USER_KEYS = (*TEXT_KEYS, "ratios", "native_resolution", "groups_from")


def _user_entry(name: str, entry: Any) -> LongTailed:
    where = f"data set '{name}' of the configuration"
    if not NAME.fullmatch(name) or split_name(name)[1] is not None:
        raise PelError(f"{where}: expected a name of lower-case letters, digits, - and _ that does not end in -irRATIO")
    if not isinstance(entry, Mapping):
        raise PelError(f"{where}: expected a mapping with {', '.join(USER_KEYS)}, found {entry!r}")
    for key in entry:
        if key not in USER_KEYS:
            raise unknown(f"key of {where}:", key, USER_KEYS)
    values = {"kind": "lists", **entry}
    for key in TEXT_KEYS:
        if not isinstance(values.get(key, ""), str):
            raise PelError(f"{where}: {key} is {values[key]!r}, expected text")
    if values["kind"] != "lists":
        raise PelError(f"{where}: kind is '{values['kind']}', expected 'lists' (an image folder and list files)")
    for key in ("root", "train", "test", "names"):
        if not values.get(key):
            raise PelError(f"{where}: {key} is missing")
    if values.get("names_format", "auto") not in NAME_FORMATS:
        raise unknown(f"names_format of {where}:", values["names_format"], NAME_FORMATS)
    values["ratios"] = _ratios(where, values)
    groups_from, native = values.get("groups_from"), values.get("native_resolution")
    if groups_from is not None and groups_from not in values["ratios"]:
        raise PelError(f"{where}: groups_from is {groups_from!r}, expected one of its ratios {list(values['ratios'])}")
    if native is not None and not (isinstance(native, int) and native > 0):
        raise PelError(f"{where}: native_resolution is {native!r}, expected a number of pixels")
    return LongTailed(**values)


def _ratios(where: str, values: Mapping[str, Any]) -> tuple[float, ...]:
    ratios = values.get("ratios") or []
    ratios = ratios if isinstance(ratios, list | tuple) else [ratios]
    for ratio in ratios:
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1 <= ratio < 1e6:
            raise PelError(f"{where}: ratio {ratio!r} is not a number of 1 or more")
    if bool(ratios) != ("{ir}" in values["train"]):
        raise PelError(
            f"{where}: train is '{values['train']}' and ratios is {list(ratios)}; "
            "several ratios need '{ir}' in the name of the training list, and one list needs neither"
        )
    return tuple(map(float, ratios))
