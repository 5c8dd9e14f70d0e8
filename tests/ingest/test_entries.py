"""What a configuration's ``datasets:`` may say: errors that name the entry and the key, and one model for the schema."""

import pytest
from pydantic import TypeAdapter, ValidationError

from pel_core.common.errors import PelError
from pel_core.data.datasets import DATASETS, find_dataset
from pel_core.data.sampling import PROFILES
from pel_core.ingest.entries import Entry, declared, user_kinds

USER = {"root": "images", "train": "train_{ir}.txt", "test": "test.txt", "names": "names.txt", "ratios": [10]}


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("cifar100", {}, "shadows the built-in"),
        ("Mine", {}, "expected a name"),
        ("mine-ir5", {}, "does not end in -irRATIO"),
        ("mine", {"clases": 3}, "unknown key .*'clases'"),
        ("mine", {"root": None}, "root is None, expected text"),
        ("mine", {"root": ""}, "root is missing"),
        ("mine", {"kind": "cifar"}, "unknown kind of data set 'mine'"),
        ("mine", {"ratios": []}, "needs? '{ir}'"),
        ("mine", {"train": "train.txt"}, "needs? '{ir}'"),
        ("mine", {"ratios": ["ten"]}, "ratio 'ten'"),
        ("mine", {"ratios": [0.5]}, "ratio 0.5"),
        ("mine", {"ratios": True}, "ratio True"),
        ("mine", {"groups_from": 50}, "one of its ratios"),
        ("mine", {"native_resolution": "64"}, "number of pixels"),
        ("mine", {"names_format": "csv"}, "names_format"),
    ],
)
def test_bad_entries(name, change, message):
    with pytest.raises(PelError, match=message):
        declared({"datasets": {name: {**USER, **change}}})


@pytest.mark.parametrize("datasets", [["mine"], {"mine": None}, {"mine": "lists"}])
def test_entries_that_are_no_mappings(datasets):
    with pytest.raises(PelError, match="expected a mapping"):
        declared({"datasets": datasets})


@pytest.mark.parametrize("config", [None, {}, {"datasets": None}])
def test_no_entries(config):
    assert declared(config) == DATASETS


def test_an_entry_comes_as_its_ratios():
    with pytest.raises(PelError, match="mine-ir10, mine-ir50"):
        find_dataset("mine", declared({"datasets": {"mine": {**USER, "ratios": [10, 50]}}}))
    drawn = declared({"datasets": {"mine": {"kind": "folders", "root": "x", "profile": "step", "ratios": 10}}})
    assert find_dataset("mine", drawn) is find_dataset("mine-ir10", drawn)
    with pytest.raises(PelError, match="mine comes as mine, mine-ir10"):
        find_dataset("mine-ir20", drawn)


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"kind": None}, "unknown kind of data set 'mine' .*'None'; known: auto, csv, folders, .*huggingface, lists"),
        ({"kind": ["csv"]}, "unknown kind"),
        ({"kind": "csv", "profile": "steep", "ratios": [2]}, "unknown profile of .*Did you mean 'step'"),
        ({"kind": "csv", "profile": "flat", "ratios": [2]}, "Leave it out for the imbalance as found"),
        ({"kind": "csv", "split_seed": -1}, "split_seed is -1, expected a whole number of 0 or more"),
        ({"kind": "csv", "largest": 0}, "largest is 0, expected a whole number of 1 or more"),
        ({"kind": "folders", "file": "x.csv"}, "unknown key .*'file' is a key of kind: csv and split_file\\."),
        ({"kind": "folders", "groups_from": "x"}, "groups_from is 'x', expected one of its ratios"),
        ({"kind": "folders", "recipe": {}, "profile": 3}, "unknown key .*A recipe stands beside `datasets:`"),
    ],
)
def test_bad_entries_of_ones_own_images(entry, message):
    with pytest.raises(PelError, match=message):
        declared({"datasets": {"mine": {"root": "x", **entry}}})


def test_the_type_of_an_entry_is_told_by_its_kind():
    """A configuration's model takes it as it is; what it made is declared as if it were the text."""
    whole = TypeAdapter(dict[str, Entry])
    texts = {
        "own": {**USER, "groups_from": 10},
        "found": {"kind": "auto", "root": "x", "largest": 5, "profile": "step", "ratios": 3},
    }
    assert declared({"datasets": whole.validate_python(texts)}) == declared({"datasets": texts})
    for wrong in ({"kind": "csv"}, {"kind": "cifar", "root": "x"}, {**USER, "clases": 3}):
        with pytest.raises(ValidationError):
            whole.validate_python({"mine": wrong})


def test_the_schema_describes_every_key():
    schema = TypeAdapter(Entry).json_schema()
    names = {source.Entry.__name__: kind for kind, source in user_kinds().items()}
    models = {names[name]: model for name, model in schema["$defs"].items()}
    assert set(models) == set(user_kinds())
    for kind, model in models.items():
        assert model["additionalProperties"] is False and model["properties"]["kind"]["const"] == kind
        assert all(value.get("description") for value in model["properties"].values()), kind


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_profile_may_be_drawn(profile):
    entry = {"kind": "folders", "root": "x", "profile": profile, "ratios": [2]}
    assert declared({"datasets": {"mine": entry}})["mine"].options["profile"] == profile
