"""RunSpec and slugs: one name per spec, one spec per name, refusals that say what to do."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pel_core.common.errors import PelError
from pel_core.common.versions import TRAIN
from pel_core.data.datasets import DATASETS
from pel_core.models.backbones import BACKBONES
from pel_core.models.methods import METHODS, format_method, methods_for, parse_method
from pel_core.spec.choices import CHOICES, HEADS, LOSSES, REGISTRIES
from pel_core.spec.options import RECIPES, recipe, spell
from pel_core.spec.run_spec import DEFAULTS, RunSpec, completed, differences
from pel_core.studies.provenance import train_params
from pel_core.training.contrastive import needs_features, takes_features

ALONE = ("vpt-deep", "dora", "repadapter")  # exclude others, or want an even rank
RANGED = [name for name in methods_for("vit") if METHODS[name].blocks == "any" and name not in ALONE]
METHOD = st.lists(st.sampled_from(RANGED), min_size=1, max_size=3, unique=True)


def rounded(low: float, high: float):
    """Numbers with few digits, so that a name with many of them is still short enough for a folder."""
    return st.floats(low, high).map(lambda value: float(f"{value:.2g}"))


OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 50),
        "recipe": st.sampled_from(sorted(RECIPES)),
        "lr": rounded(1e-6, 1),
        "scale": rounded(0.5, 50),
        "loss": st.sampled_from(CHOICES["loss"]),
        "head": st.sampled_from(["cosine", "linear", "l2norm", "layernorm"]),
        "tte": st.sampled_from(CHOICES["tte"]),
        "adapter_dim": st.one_of(st.sampled_from(["auto", "auto-tuned"]), st.integers(1, 32)),
        "resolution": st.sampled_from([None, 16, 24, 32]),
        "augment": st.sampled_from(CHOICES["augment"]),
    },
)


def with_effect(overrides, names=("adaptformer",)):
    """Without those that are refused beside the others."""
    head, loss = ({**DEFAULTS, **RECIPES[overrides.get("recipe", "lift")].values, **overrides}[name] for name in ("head", "loss"))
    scaled = "scale" in HEADS.entry(head).reads + LOSSES.entry(loss).reads
    ranked = {*names} & {name for name in METHODS if "adapter_dim" in METHODS.entry(name).reads}
    halves = "repadapter" not in names or overrides.get("adapter_dim") not in range(1, 32, 2)  # its groups of 2
    idle = {"scale": not scaled, "adapter_dim": not ranked or not halves}
    still = not any(METHODS[name].blocks != "none" for name in names)
    alike = SimpleNamespace(head=head, train_delta=True, parts=[SimpleNamespace(blocks=not still)])
    idle |= {"loss": takes_features(loss) and bool(needs_features(alike))}
    trains = {"epochs": 0} if "head-only" in names and not getattr(HEADS[head], "trains", True) else {}
    return {name: value for name, value in overrides.items() if not idle.get(name)} | trains


@given(METHOD, st.integers(0, 3), st.integers(1, 4), st.integers(0, 99), OVERRIDES, st.sampled_from(sorted(DATASETS)))
def test_slug_round_trip(names, start, stop, seed, overrides, dataset):
    if start >= stop:
        start, stop = 0, 4
    method = "+".join(f"{name}@{start}:{stop}" for name in names)
    spec = RunSpec.make(dataset, "toy", method, seed, **with_effect(overrides, names))
    again = RunSpec.parse(spec.slug)
    assert again == spec
    assert again.slug == spec.slug
    assert "/" not in spec.slug and " " not in spec.slug


@given(OVERRIDES, OVERRIDES)
def test_two_specs_never_share_a_slug(a, b):
    one, other = (RunSpec.make("toy-ir10", "toy", "adaptformer", 0, **with_effect(overrides)) for overrides in (a, b))
    assert (one == other) == (one.slug == other.slug)


def test_the_design_examples():
    spec = RunSpec.parse("cifar100-ir100.clip-b16.adaptformer@6:12+vpt-shallow.s0.loss=ce")
    assert (spec.loss, spec.epochs, spec.seed, spec.pixels) == ("ce", 10, 0, 224)
    assert RunSpec.make("cifar100-ir100", "clip-b16", "vpt-shallow+adaptformer@-6:", 0, loss="ce") == spec
    assert RunSpec.make("inat2018", "clip-b16", "adaptformer", 1).epochs == 20
    assert RunSpec.make("inat2018", "clip-b16", "adaptformer", 1).slug == "inat2018.clip-b16.adaptformer.s1"


def test_options_with_an_effect_only_beside_others():
    def make(method="adaptformer", shared=None, **options):
        return RunSpec.make("cifar100-ir100", "clip-b16", method, 0, shared, **options)

    assert make(tau=0).slug.endswith(".s0.tau=0")  # the end of a sweep: plain cross-entropy
    assert make(head="linear", loss="ldam", scale=3).scale == 3
    assert make(accumulation="reference", accumulate=4).accumulate == 4
    assert make("zero-shot", tte="randaug", crop_min_scale=0.5).crop_min_scale == 0.5
    shared = {"tau": 2, "expand": 4, "adapter_dim": 8, "vpt_len": 5, "precision": "fp32"}  # dropped where they do nothing
    assert make("ln", shared, loss="ce", tte="none").slug == "cifar100-ir100.clip-b16.ln.s0.loss=ce.precision=fp32.tte=none"
    assert make("zero-shot", shared).slug == "cifar100-ir100.clip-b16.zero-shot.s0.expand=4"


def test_a_training_runs_name_can_be_read_whatever_is_evaluated():
    for options in ({"tte": "none"}, {"tte": "randaug", "crops": 3, "crop_min_scale": 0.5, "augment": "mda-max"}):
        spec = RunSpec.make("toy", "toy", "adaptformer", 0, **options)
        assert RunSpec.parse(spec.train.slug) == spec.train


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
    """A changed default changes what old slugs mean: raise TRAIN and write this file anew, together."""
    pinned = json.loads((Path(__file__).parents[1] / "golden" / "defaults.json").read_text())
    recipes = {name: dict(entry.recipe) for registry in (DATASETS, METHODS) for name, entry in registry.items()}
    named = {name: {"values": dict(entry.values), "datasets": dict(entry.datasets)} for name, entry in RECIPES.items()}
    recipes = {name: value for name, value in recipes.items() if value}
    now = {"train": TRAIN, "defaults": DEFAULTS, "recipes": recipes, "named": named}
    assert json.loads(json.dumps(now)) == pinned


# What the first engine-1 runs were made with. Options that came later have defaults under which nothing changes.
FIRST = {
    "epochs": 10, "batch_size": 128, "accumulate": 1, "accumulation": "exact", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4,
    "loss": "la", "tau": 1.0, "head": "cosine", "scale": 25.0, "init": "text", "prompt": "default", "resolution": None,
    "adapter_dim": "auto", "vpt_len": 10, "crop_min_scale": 0.08, "precision": "fp16", "tte": "fivecrop", "expand": 24,
    "split": "test",
}  # fmt: skip


@pytest.mark.parametrize(
    ("slug", "departures"),
    [
        ("cifar100-ir100.clip-b16.adaptformer@6:12+vpt-shallow.s0", {}),
        ("places-lt.clip-b16.lora.s3.lr=0.02.loss=ce.tte=none", {"lr": 0.02, "loss": "ce", "tte": "none"}),
        ("inat2018.clip-b16.adapter.s0.adapter_dim=4.split=val", {"epochs": 20, "adapter_dim": 4, "split": "val"}),
        ("inat2018.clip-b16.full.s0", {"epochs": 20, "lr": 5e-4}),
        ("imagenet-lt.in21k-b16.head-only.s0.head=linear.init=random", {"head": "linear", "init": "random"}),
        ("imagenet-lt.clip-l14.zero-shot.s0.prompt=ensemble", {"epochs": 0, "prompt": "ensemble"}),
    ],
)
def test_old_names_mean_what_they_meant(slug, departures):
    spec = RunSpec.parse(slug)
    stored = {**FIRST, **departures}
    assert {name: spec.to_json()[name] for name in FIRST} == stored
    names = {name: spec.to_json()[name] for name in ("dataset", "backbone", "method", "seed")}
    assert differences({**names, **stored}, spec) == []


def test_a_named_recipe_is_in_the_name_and_its_values_are_not():
    spec = RunSpec.make("places-lt", "clip-b16", "adaptformer@-6:", 0, recipe="lift+")
    assert spec.slug == "places-lt.clip-b16.adaptformer@6:12.s0.recipe=lift+"
    assert (spec.epochs, spec.lr, spec.augment, spec.interpolation, spec.expand) == (5, 0.02, "mda", "bicubic", 24)
    assert spec.adapter_dim == "auto-tuned" and RunSpec.parse(spec.slug) == spec
    assert RunSpec.make("inat2018", "clip-b16", "adaptformer", 0, recipe="lift+").epochs == 15
    assert RunSpec.make("places-lt", "clip-b16", "full", 0, recipe="lift+").lr == 5e-4
    changed = RunSpec.make("places-lt", "clip-b16", "adaptformer", 0, recipe="lift+", lr=0.01, augment="rrc")
    assert changed.slug.endswith(".s0.recipe=lift+.lr=0.01.augment=rrc") and RunSpec.parse(changed.slug) == changed
    assert changed.train == changed and RunSpec.parse(f"{changed.slug}.tte=none").train == changed


@pytest.mark.parametrize("dataset", sorted(DATASETS))
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_possible_on_every_data_set(dataset, name):
    spec = RunSpec.make(dataset, "clip-mini", "adaptformer", 0, recipe=name)
    assert RunSpec.parse(spec.slug) == spec


def test_what_a_configuration_shares_gives_way():
    def make(method="adaptformer", shared=None, **overrides):
        return RunSpec.make("toy-ir10", "toy", method, 0, shared, **overrides)

    assert make(shared={"epochs": 3}).epochs == 3 and make(shared={"epochs": 3}, epochs=4).epochs == 4
    assert make("full", {"lr": 0.1}).lr == 5e-4 and make("full", {"lr": 0.1}, lr=0.2).lr == 0.2
    assert make("zero-shot", {"epochs": 3}).epochs == 0
    assert make(shared={"epochs": 3, "lr": 0.5}, recipe="lift+").epochs == 5
    assert make(shared={"recipe": "lift+", "epochs": 3}) == make(recipe="lift+", epochs=3)
    # Options without any effect stay away from runs they do not concern, and are refused where they are asked for.
    assert make("ln", {"mask_ratio": 0.01, "crops": 3, "adapter_scale": 2}) == make("ln")
    assert make("mask", {"mask_ratio": 0.01}).mask_ratio == 0.01
    with pytest.raises(PelError, match="unknown option 'epoch'"):
        make(shared={"epoch": 3})


@pytest.mark.parametrize(("asked", "meant"), [("epoch", "epochs"), ("average.decy", "average.decay")])
def test_of_a_hundred_options_the_nearest_are_told_and_where_the_others_are(asked, meant):
    with pytest.raises(PelError) as told:
        RunSpec.make("toy", "toy", "ln", 0, **{asked: 3})
    message = str(told.value)
    assert message.startswith(f"unknown option '{asked}'; known: ") and f"Did you mean '{meant}'?" in message
    assert "more, listed in docs/options.md (python -m pel_core options)" in message and len(message) < 300


def test_crops_of_an_image():
    for tte, crops in {"none": 1, "fivecrop": 5, "tencrop": 10, "randaug": 10}.items():
        assert RunSpec.make("toy", "toy", "ln", 0, tte=tte).views == crops
    assert RunSpec.make("toy", "toy", "ln", 0, tte="randaug", crops=3).views == 3
    assert RunSpec.make("toy", "toy", "ln", 0, tte="randaug", crops=3).train.slug == "toy.toy.ln.s0"


@pytest.mark.parametrize("options", [{}, {"posthoc.la": 1}, {"average": "ema", "tte": "none"}, {"method": "lora"}])
def test_a_record_of_now_is_complete(options):
    """Or no checkpoint would be of its run, and no finished training be known as one."""
    spec = RunSpec.make("toy-ir20", "toy", **{"method": "adaptformer", "seed": 0, **options})
    assert completed(spec.to_json(), spec) == spec.to_json()


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
        (dict(backbone="in21k-b16"), "class-mean"),
        (dict(backbone="dinov2-b14"), "has no text tower"),
        (
            dict(backbone="clip-rn50"),
            "does not act on clip-rn50, which is a ResNet",
        ),
        (dict(recipe="lift++"), "Did you mean 'lift+'"),
        (dict(augment="mda-convex"), "unknown augment"),
        (dict(interpolation="nearest"), "unknown interpolation"),
        (dict(init="class_mean"), "Did you mean 'class-mean'"),
        (dict(adapter_dim="tuned"), "a whole number or auto or auto-tuned"),
        (dict(adapter_dim=0), "auto, auto-tuned or 1..32"),
        (dict(adapter_dim=-4), "auto, auto-tuned or 1..32"),
        (dict(adapter_scale=0), "learnable or above 0"),
        (dict(adapter_scale=-1), "learnable or above 0"),
        (dict(adapter_scale="fixed"), "a number or learnable"),
        (dict(method="mask", mask_ratio=0), "auto or 0.00095..1"),
        (dict(method="mask", mask_ratio=1.5), "auto or 0.00095..1"),
        (dict(method="mask", mask_ratio=1e-5), "has a weight that trains"),
        (dict(method="mask", mask_seed=-1), "run or at least 0"),
        (dict(method="mask", mask_seed="own"), "a whole number or run"),
        (dict(method="lora", delta_seed=-1), "run or at least 0"),
        (dict(method="ln", delta_seed=1), "needs the method lora or"),
        (dict(mask_ratio=0.01), "needs the method mask"),
        (dict(mask_seed="run"), "needs the method mask"),
        (dict(method="lora", adapter_scale=0.1), "needs the method adaptformer"),
        (dict(init="random", prompt="ensemble"), "needs init=text"),
        (dict(crops=5), "needs tte=randaug"),
        (dict(tte="randaug", crops=0), "at least 1"),
        (dict(expand=-1), "at least 0"),
        (dict(crop_min_scale=0), "above 0 and at most 1"),
        (dict(tau=-1), "at least 0"),
        (dict(loss="ce", tau=2), "needs loss=la"),
        (dict(loss="bs", tau=0.5), "needs loss=la"),
        (dict(head="linear", scale=3), "needs head=cosine or clip-adapter or rac or coop"),
        (dict(accumulation="reference"), "needs accumulate above 1"),
        (dict(accumulation="reference", accumulate=3), "a divisor of the batch size 32"),
        (dict(tte="none", expand=3), "needs tte=fivecrop or tencrop"),
        (dict(tte="randaug", expand=3), "needs tte=fivecrop or tencrop"),
        (dict(method="ln", adapter_dim=4), "needs the method lora or lora-mlp or adapter or adaptformer"),
        (dict(vpt_len=5), "needs the method vpt-shallow or vpt-deep"),
        (dict(method="zero-shot", lr=0.1), "needs a method that trains"),
        (dict(method="zero-shot", precision="bf16"), "needs a method that trains"),
        (dict(method="zero-shot", crop_min_scale=0.5), "needs a method that trains, or tte=randaug"),
        (dict(vpt_len=0), "at least 1"),
        (dict(accumulate=200), "at most the batch size"),
    ],
)
def test_impossible_specs_are_refused_by_name(make, message):
    values = {"dataset": "toy-ir10", "backbone": "toy", "method": "adaptformer", "seed": 0, **make}
    with pytest.raises(PelError, match=re.escape(message)):
        RunSpec.make(**values)


NO_SLUGS = ["", "toy", "toy.toy.adaptformer", "toy.toy.adaptformer.s", "toy.toy.adaptformer.s0.", "../x.toy.lora.s0"]


@pytest.mark.parametrize("slug", NO_SLUGS)
def test_text_that_is_no_slug(slug):
    with pytest.raises(PelError, match="is not a run"):
        RunSpec.parse(slug)


OTHER_SPELLINGS = ["toy.toy.adaptformer@0:4.s0", "toy.toy.lora+adapter.s0", "toy.toy.lora.s0.loss=la", "toy.toy.lora.s00"]


@pytest.mark.parametrize("slug", [*OTHER_SPELLINGS, "toy.toy.lora.s0.recipe=lift", "toy.toy.mask.s0.mask_ratio=1e-1"])
def test_only_the_canonical_spelling_is_a_name(slug):
    with pytest.raises(PelError, match="not the name of its run"):
        RunSpec.parse(slug)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_name_that_reads_back(name):
    parts = parse_method(name, 12)
    assert format_method(parts, 12) == name
    assert parse_method(format_method(parts, 12), 12) == parts


RANGES = [("lora@-6:", (6, 12)), ("lora@:6", (0, 6)), ("lora@2:-2", (2, 10)), ("lora@:", (0, 12))]


@pytest.mark.parametrize(("text", "blocks"), RANGES)
def test_ranges_are_python_slices(text, blocks):
    part = parse_method(text, 12)[0]
    assert (part.start, part.stop) == blocks


def test_backbones_declare_possible_sizes():
    for name, entry in BACKBONES.items():
        assert entry.resolution % entry.patch == 0 and entry.native % entry.patch == 0, name
        assert len(entry.mean) == len(entry.std) == 3


KNOBS = [
    (f"{scope}={entry.name}.{knob.name}", knob)
    for scope, registry in {**REGISTRIES, "method": METHODS}.items()
    for entry in registry.entries()
    for knob in entry.knobs
]


@pytest.mark.parametrize(("name", "knob"), KNOBS, ids=[name for name, _ in KNOBS])
def test_every_default_is_a_value_that_may_be_given(name, knob):
    """Nothing reads a default before a run of it, so that an entry could not be chosen with its own."""
    assert knob.convert(name, spell(knob.default)) == knob.default


def test_a_stored_spec_is_completed_without_steps_after_training():
    """A checkpoint keeps no post-hoc step, and what was stored before a knob came is gone on with."""
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer", 0)
    assert completed(spec.to_json(), spec) == spec.to_json()
    older = {name: value for name, value in spec.to_json().items() if "." not in name}
    assert completed(older, spec) == spec.to_json()


@pytest.mark.parametrize(
    "method, options, concerned",
    [
        ("head-only", {"recipe": "tip-adapter"}, True),
        ("head-only", {"recipe": "tip-adapter", "head.per_class": 0}, False),
        ("fact-tt", {"optimizer.layer_decay": 0.7}, True),
        ("fact-tt", {}, False),
        ("adaptformer", {"optimizer.layer_decay": 0.7}, False),
        ("adaptformer", {"init": "shot-1"}, True),
        ("adaptformer", {"init": "shot-10", "head": "linear"}, True),
        ("adaptformer", {"init": "class-mean"}, False),
        ("zero-shot", {}, False),
    ],
)
def test_what_was_stored_before_a_change_of_a_few_entries_is_known(method, options, concerned):
    """Their numbers changed for the same name without a stage's version: such a record is another's, and all others stand."""
    spec = RunSpec.make("demo-imagenet", "clip-mini", method, 0, **options)
    stored = {name: value for name, value in spec.to_json().items() if name != "revised"}
    assert bool(differences(stored, spec)) == concerned and not differences(spec.to_json(), spec)
    assert ("revised" in train_params(spec, 1)) == concerned
