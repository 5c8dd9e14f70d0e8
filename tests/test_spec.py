"""RunSpec and slugs: one name per spec, one spec per name, refusals that say what to do."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pel_core.backbones import BACKBONES
from pel_core.datasets import DATASETS
from pel_core.errors import PelError
from pel_core.methods import METHODS, format_method, parse_method
from pel_core.options import CHOICES, RECIPES, recipe
from pel_core.spec import DEFAULTS, ENGINE, RunSpec, differences

METHOD = st.lists(
    st.sampled_from([name for name in METHODS if METHODS[name].blocks == "any" and name != "vpt-deep"]), min_size=1, max_size=3, unique=True
)
OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 50),
        "lr": st.floats(1e-6, 1),
        "scale": st.floats(0.5, 50),
        "loss": st.sampled_from(CHOICES["loss"]),
        "head": st.sampled_from(CHOICES["head"]),
        "tte": st.sampled_from(CHOICES["tte"]),
        "adapter_dim": st.one_of(st.just("auto"), st.integers(1, 32)),
        "resolution": st.sampled_from([None, 16, 24, 32]),
        "weight_decay": st.floats(0, 0.1),
    },
)


@given(METHOD, st.integers(0, 3), st.integers(1, 4), st.integers(0, 99), OVERRIDES, st.sampled_from(sorted(DATASETS)))
def test_slug_round_trip(names, start, stop, seed, overrides, dataset):
    if start >= stop:
        start, stop = 0, 4
    spec = RunSpec.make(dataset, "toy", "+".join(f"{name}@{start}:{stop}" for name in names), seed, **overrides)
    again = RunSpec.parse(spec.slug)
    assert again == spec
    assert again.slug == spec.slug
    assert "/" not in spec.slug and " " not in spec.slug


@given(OVERRIDES, OVERRIDES)
def test_two_specs_never_share_a_slug(a, b):
    one, other = (RunSpec.make("toy-ir10", "toy", "adaptformer", 0, **overrides) for overrides in (a, b))
    assert (one == other) == (one.slug == other.slug)


def test_the_design_examples():
    spec = RunSpec.parse("cifar100-ir100.clip-b16.adaptformer@6:12+vpt-shallow.s0.loss=ce")
    assert (spec.loss, spec.epochs, spec.seed, spec.pixels) == ("ce", 10, 0, 224)
    assert RunSpec.make("cifar100-ir100", "clip-b16", "vpt-shallow+adaptformer@-6:", 0, loss="ce") == spec
    assert RunSpec.make("inat2018", "clip-b16", "adaptformer", 1).epochs == 20
    assert RunSpec.make("inat2018", "clip-b16", "adaptformer", 1).slug == "inat2018.clip-b16.adaptformer.s1"


def test_recipe_values_stay_out_of_the_slug_and_departures_are_in():
    assert recipe("inat2018", "adaptformer")["epochs"] == 20
    assert RunSpec.make("inat2018", "clip-b16", "adaptformer", 0, epochs=10).slug.endswith(".s0.epochs=10")
    assert RunSpec.make("cifar100-ir10", "clip-b16", "full", 0).lr == 5e-4


def test_evaluation_fields_share_the_training_run():
    spec = RunSpec.make("toy-ir10", "toy", "adaptformer", 0, tte="none", loss="ce")
    assert spec.train.slug == "toy-ir10.toy.adaptformer.s0.loss=ce"
    assert spec.train.train == spec.train
    assert RunSpec.make("toy-ir10", "toy", "adaptformer", 0, epochs=3).train.epochs == 3


def test_defaults_are_pinned_with_the_engine():
    """A changed default changes what old slugs mean: raise ENGINE and write this file anew, together."""
    pinned = json.loads((Path(__file__).parent / "golden" / "defaults.json").read_text())
    recipes = {name: dict(entry.recipe) for name, entry in DATASETS.items()} | {name: dict(entry.recipe) for name, entry in METHODS.items()}
    now = {"engine": ENGINE, "defaults": DEFAULTS, "recipes": {name: value for name, value in recipes.items() if value}}
    assert json.loads(json.dumps(now)) == pinned


def test_differences_name_the_field_and_forgive_young_fields():
    spec = RunSpec.make("toy-ir10", "toy", "adaptformer", 0)
    stored = spec.to_json()
    assert differences(stored, spec) == []
    del stored["crop_min_scale"]  # a record older than this field
    assert differences(stored, spec) == []
    assert differences({**stored, "lr": 0.02}, spec) == ["lr: stored 0.02, now 0.01"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (dict(method="adaptfomer"), "Did you mean 'adaptformer'"),
        (dict(backbone="clip-b61"), "Did you mean 'clip-b16'"),
        (dict(method="adaptformer@2:9"), "not inside the 4 blocks"),
        (dict(method="adaptformer@3:3"), "not inside the 4 blocks"),
        (dict(method="vpt-shallow+vpt-deep"), "exclude each other"),
        (dict(method="lora+lora"), "twice"),
        (dict(method="head-only+lora"), "stands alone"),
        (dict(method="vpt-shallow@0:2"), "takes no block range"),
        (dict(method="a b"), "NAME@START:STOP"),
        (dict(los="ce"), "Did you mean 'loss'"),
        (dict(loss="cee"), "unknown loss 'cee'"),
        (dict(lr="fast"), "expected a number"),
        (dict(lr=float("nan")), "expected a number"),
        (dict(epochs=1.5), "expected a whole number"),
        (dict(batch_size=0), "at least 1"),
        (dict(scale=0), "above 0"),
        (dict(adapter_dim=33), "auto, auto-tuned or 1..32"),
        (dict(resolution=17), "a multiple of 8"),
        (dict(backbone="in21k-b16"), "has no text tower"),
        (dict(backbone="in21k-b16", method="zero-shot", init="random"), "has no text tower"),
        (dict(method="zero-shot", epochs=3), "trains nothing"),
    ],
)
def test_impossible_specs_are_refused_by_name(make, message):
    values = {"dataset": "toy-ir10", "backbone": "toy", "method": "adaptformer", "seed": 0, **make}
    with pytest.raises(PelError, match=message.replace("(", r"\(")):
        RunSpec.make(**values)


@pytest.mark.parametrize("slug", ["", "toy", "toy.toy.adaptformer", "toy.toy.adaptformer.s", "toy.toy.adaptformer.s0.", "../x.toy.lora.s0"])
def test_text_that_is_no_slug(slug):
    with pytest.raises(PelError, match="is not a run"):
        RunSpec.parse(slug)


@pytest.mark.parametrize("slug", ["toy.toy.adaptformer@0:4.s0", "toy.toy.lora+adapter.s0", "toy.toy.lora.s0.loss=la", "toy.toy.lora.s00"])
def test_only_the_canonical_spelling_is_a_name(slug):
    with pytest.raises(PelError, match="not the name of its run"):
        RunSpec.parse(slug)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_name_that_reads_back(name):
    parts = parse_method(name, 12)
    assert format_method(parts, 12) == name
    assert parse_method(format_method(parts, 12), 12) == parts


@pytest.mark.parametrize(("text", "blocks"), [("lora@-6:", (6, 12)), ("lora@:6", (0, 6)), ("lora@2:-2", (2, 10)), ("lora@:", (0, 12))])
def test_ranges_are_python_slices(text, blocks):
    part = parse_method(text, 12)[0]
    assert (part.start, part.stop) == blocks


def test_backbones_declare_possible_sizes():
    for name, entry in BACKBONES.items():
        assert entry.resolution % entry.patch == 0, name
        assert len(entry.mean) == len(entry.std) == 3
