"""Data sets of the user's own: entries of a configuration's ``datasets:``, checked, as `LongTailed`. Torch-free."""

from collections.abc import Mapping
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.data.datasets import DATASETS, NAME, USER_KINDS, LongTailed, split_name
from pel_core.data.lists import NAME_FORMATS
from pel_core.data.sampling import PROFILES

COMMON = ("kind", "root", "ratios", "groups_from", "native_resolution")
LISTS = ("lists", "train", "test", "val", "names", "names_format")
DRAWN = ("class_names", "profile", "largest", "sampling_seed", "test_fraction", "val_fraction", "split_seed")
COLUMNS = ("image_column", "label_column")
CSV = ("file", *COLUMNS, "split_column")
# The keys that an entry of each kind may have.
KEYS: dict[str, tuple[str, ...]] = {
    "lists": (*COMMON, *LISTS),
    "folders": (*COMMON, *DRAWN),
    "csv": (*COMMON, *CSV, *DRAWN),
    "huggingface": (*COMMON, *COLUMNS, *DRAWN),
    "auto": (*COMMON, *CSV, *DRAWN),
}
TEXT_KEYS = ("kind", "root", *LISTS, *CSV, "profile")


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
    where = f"data set '{name}' of the configuration"
    if not NAME.fullmatch(name) or split_name(name)[1] is not None:
        raise PelError(f"{where}: expected a name of lower-case letters, digits, - and _ that does not end in -irRATIO")
    if not isinstance(entry, Mapping):
        raise PelError(f"{where}: expected a mapping with kind ({', '.join(KEYS)}), root and more, found {entry!r}")
    values = {"kind": "lists", **entry}
    kind = values["kind"]
    if kind not in KEYS:
        raise unknown(f"kind of {where}:", kind, KEYS)
    for key in entry:
        if key not in KEYS[kind]:
            raise _unknown_key(where, key, kind)
    for key in TEXT_KEYS:
        if not isinstance(values.get(key, ""), str):
            raise PelError(f"{where}: {key} is {values[key]!r}, expected text")
    for key in ("root", "train", "test", "names") if kind == "lists" else ("root",):
        if not values.get(key):
            raise PelError(f"{where}: {key} is missing")
    values["ratios"] = _ratios(where, values)
    (_check_drawn if kind in USER_KINDS else _check_lists)(where, values)
    _check_common(where, values)
    return LongTailed(**values)


def _unknown_key(where: str, key: Any, kind: str) -> PelError:
    others = [other for other, keys in KEYS.items() if key in keys and other != "auto"]
    hint = f"'{key}' is a key of kind: {' and '.join(others)}." if others else ""
    if key == "recipe":
        hint = "A recipe stands beside `datasets:`, for all data sets of the configuration."
    return unknown(f"key of {where} (kind: {kind}):", key, KEYS[kind], hint)


def _ratios(where: str, values: Mapping[str, Any]) -> tuple[float, ...]:
    ratios = values.get("ratios") or []
    ratios = ratios if isinstance(ratios, list | tuple) else [ratios]
    for ratio in ratios:
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1 <= ratio < 1e6:
            raise PelError(f"{where}: ratio {ratio!r} is not a number of 1 or more")
    return tuple(map(float, ratios))


def _check_lists(where: str, values: Mapping[str, Any]) -> None:
    if values.get("names_format", "auto") not in NAME_FORMATS:
        raise unknown(f"names_format of {where}:", values["names_format"], NAME_FORMATS)
    if bool(values["ratios"]) != ("{ir}" in values["train"]):
        raise PelError(
            f"{where}: train is '{values['train']}' and ratios is {list(values['ratios'])}; "
            "several ratios need '{ir}' in the name of the training list, and one list needs neither"
        )


def _check_common(where: str, values: Mapping[str, Any]) -> None:
    groups_from, native = values.get("groups_from"), values.get("native_resolution")
    if groups_from is not None and groups_from not in values["ratios"]:
        raise PelError(f"{where}: groups_from is {groups_from!r}, expected one of its ratios {list(values['ratios'])}")
    if native is not None and not (isinstance(native, int) and native > 0):
        raise PelError(f"{where}: native_resolution is {native!r}, expected a number of pixels")


def _check_drawn(where: str, values: Mapping[str, Any]) -> None:
    """What is drawn from the images there are: a profile and its ratios, held-out splits, class names."""
    profile = values.get("profile", "")
    if profile and profile not in PROFILES:
        raise unknown(f"profile of {where}:", profile, PROFILES, "Leave it out for the imbalance as found.")
    if bool(profile) != bool(values["ratios"]):
        given = f"profile is '{profile}' and ratios is {list(values['ratios'])}"
        raise PelError(f"{where}: {given}; a drawn profile needs both (profile: exponential, ratios: [100]), none needs neither")
    for key in ("sampling_seed", "split_seed", "largest"):
        least = int(key == "largest")
        if key in values and not (type(values[key]) is int and values[key] >= least):
            raise PelError(f"{where}: {key} is {values[key]!r}, expected a whole number of {least} or more")
    if "largest" in values and not profile:
        raise PelError(f"{where}: largest is {values['largest']}, which means nothing without a profile")
    fractions = {key: values[key] for key in ("test_fraction", "val_fraction") if key in values}
    for key, value in fractions.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise PelError(f"{where}: {key} is {value!r}, expected a number between 0 and 1 such as 0.2")
    if sum(fractions.values()) >= 1:
        raise PelError(f"{where}: test_fraction and val_fraction leave nothing to train on")
    names = values.get("class_names", "")
    if isinstance(names, Mapping):
        for key, name in names.items():
            if not isinstance(key, str | int) or not isinstance(name, str) or not name.strip():
                raise PelError(f"{where}: class_names: {key!r}: {name!r}, expected a class's folder or label: its name, a text")
    elif not isinstance(names, str):
        raise PelError(f"{where}: class_names is {names!r}, expected a mapping (folder: name) or the name of a file")
