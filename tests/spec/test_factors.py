"""Data factors of a run: their one spelling, what is refused, and runs of them from the command line to the result."""

import json
import re
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from own_trees import fill

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.factors import FACTORS
from pel_core.ingest.cache_build import build
from pel_core.ingest.entries import declared
from pel_core.ingest.prepare import prepare
from pel_core.ingest.sources import require_split, validation_options
from pel_core.models.class_texts import prepare_text
from pel_core.reporting.statistics.reading import Reader
from pel_core.reporting.statistics.runs import require_same_images
from pel_core.spec.results import metrics_file, run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.cost import classes, data_size, work
from pel_core.studies.study import load, load_settings


def make(dataset="toy-ir20", method="adaptformer", **options) -> RunSpec:
    """A spec; ``data_seed`` stands for ``data.seed``."""
    options = {name.replace("data_", "data.", 1): value for name, value in options.items()}
    return RunSpec.make(dataset, "toy", method, 0, **options)


def run(results: Path, spec: RunSpec) -> dict:
    """Train, where it trains, and evaluate; returns the record."""
    if spec.trains:
        assert main(["train", spec.train.slug, "--results", str(results)]) == 0
    assert main(["evaluate", spec.slug, "--results", str(results)]) == 0
    return read_json(metrics_file(results, spec.slug))


# One spelling each


@pytest.mark.parametrize(
    ("spec", "slug"),
    [
        (make(), "toy-ir20.toy.adaptformer.s0"),
        (make("toy", data_ratio=20), "toy-ir20.toy.adaptformer.s0"),
        (make(data_ratio=20), "toy-ir20.toy.adaptformer.s0"),
        (make("toy", data_ratio="own"), "toy.toy.adaptformer.s0"),
        (make("inat2018", data_ratio=12.5, data_profile="step"), "inat2018.toy.adaptformer.s0.data.profile=step.data.ratio=12.5"),
        (make(data_seed=0, data_noise=0, data_classes="all", data_groups=[100, 20]), "toy-ir20.toy.adaptformer.s0"),
        (make(data_val=0.1, split="val", lr=0.1), "toy-ir20.toy.adaptformer.s0.lr=0.1.data.val=0.1.split=val"),
        (make(data_groups=[50, 9.5]), "toy-ir20.toy.adaptformer.s0.data.groups=50,9.5"),
    ],
)  # fmt: skip
def test_a_run_has_one_name(spec, slug):
    assert spec.slug == slug and RunSpec.parse(slug) == spec


def test_every_factor_round_trips():
    values = {"seed": 3, "classes": 4, "class_seed": 1, "per_class": 60, "ratio": 7, "profile": "step", "head_tail_ratio": 0.25}
    values |= {"val": 0.1, "val_rule": "train", "val_seed": 2, "noise": 0.2, "noise_seed": 5, "groups": "terciles"}
    values |= {"cap_ratio": 3, "cap_seed": 1}
    values |= {"groups_from": "subset"}
    assert {*values} == {knob.name for knob in FACTORS.knobs}, "a new factor belongs here"
    for needed in ({"ratio", "classes", "val"}, {"ratio", "noise"}):
        for name in values:
            asked = {key: values[key] for key in {*needed, name, "noise" if name == "noise_seed" else name}}
            asked |= {"cap_ratio": 3} if name == "cap_seed" else {}
            asked |= {"classes": 4} if name == "class_seed" else {"val": 0.1} if name.startswith("val_") else {}
            spec = make("toy", **{f"data_{key}": value for key, value in asked.items()})
            assert spec.dataset == "toy-ir7" and RunSpec.parse(spec.slug) == spec
            assert getattr(spec.factors, name) == values[name] or name == "ratio"
            assert spec.factors.content().keys() == asked.keys() - {"ratio", "groups", "groups_from"}


def test_only_how_classes_are_grouped_is_evaluations():
    spec = make(data_val=0.1, data_seed=1, split="val", data_groups="terciles")
    assert spec.train.slug == "toy-ir20.toy.adaptformer.s0.data.seed=1.data.val=0.1"
    assert run_folder("r", spec.slug) == Path("r/runs", spec.train.slug, "split=val.data.groups=terciles")


@pytest.mark.parametrize(
    ("dataset", "options", "words"),
    [
        ("toy-ir20", {"data_classes": 6}, r"data.classes=6 is not possible for toy-ir20 here; it must be 2\.\.5 or all"),
        ("toy-ir20", {"data_classes": 1}, "data.classes=1 is not possible; it must be all or at least 2"),
        ("toy-ir20", {"data_clases": 2}, "unknown option 'data.clases'; .*Did you mean 'data.classes'"),
        ("toy-ir20", {"data_per_class": 0}, "data.per_class=0 is not possible"),
        ("toy", {"data_per_class": 120}, "it must be below 120, the images that each class has"),
        ("toy-ir20", {"data_per_class": 10}, "it must be larger: imbalance ratio 20 leaves 2 of 6 classes without an image"),
        ("toy-ir20", {"data_cap_ratio": 0.5}, "data.cap_ratio=0.5 is not possible; it must be none or at least 1"),
        ("toy-ir20", {"data_cap_seed": 1}, "data.cap_seed=1 has no effect on toy-ir20 here: it needs data.cap_ratio"),
        ("toy", {"data_ratio": 0.5}, "data.ratio=0.5 is not possible"),
        ("toy-ir20", {"data_ratio": 10}, "the name 'toy-ir20' has a ratio; ask for 'toy' with data.ratio"),
        ("mine-ir20", {"data_ratio": 10}, "the name 'mine-ir20' has a ratio"),
        ("toy-ir20", {"data_noise": 1.5}, "data.noise=1.5 is not possible; it must be at least 0 and below 1"),
        ("toy-ir20", {"data_noise_seed": 1}, "data.noise_seed=1 has no effect on toy-ir20 here: it needs data.noise above 0"),
        ("toy-ir20", {"data_val": 1}, "data.val=1 is not possible"),
        ("places-lt", {"data_val": 0.1}, "it needs a data set without a validation list; places-lt has one"),
        ("inat2018", {"data_val": 0.1, "data_val_rule": "train"}, "data.val_rule=train has no effect on inat2018 here"),
        ("toy", {"data_seed": 1}, "data.seed=1 has no effect on toy here: it needs a subset that the run draws"),
        ("toy", {"data_profile": "step"}, "data.profile=step has no effect on toy here: it needs an imbalance ratio"),
        ("toy-ir9", {"data_profile": "stairs"}, "data.profile=stairs is not possible; it must be one of exponential, "),
        ("toy-ir9", {"data_profile": "pareto", "data_head_tail_ratio": 0.2}, "it needs data.profile=exponential or step"),
        ("toy-ir9", {"data_head_tail_ratio": 1}, "data.head_tail_ratio=1 is not possible; it must be above 0 and below 1"),
        ("toy-ir9", {"data_groups": [20, 100]}, "data.groups=20,100 is not possible"),
        ("toy-ir9", {"data_groups": "quartiles"}, "data.groups=quartiles: expected a number"),
        ("toy-ir20", {"data_groups_from": "subset"}, "it needs another imbalance ratio than 20, at which groups are told"),
        ("inat2018", {"data_groups_from": "subset"}, "it needs a subset that the run draws"),
    ],
)  # fmt: skip
def test_what_cannot_be_or_has_no_effect_is_refused(dataset, options, words):
    with pytest.raises(PelError, match=words):
        make(dataset, **options)


def test_zero_shot_reads_what_is_told_and_not_what_is_trained_on():
    assert make(method="zero-shot", data_classes=3).trains is False
    for options in ({"data_noise": 0.1}, {"data_seed": 1}, {"data_val": 0.1}):
        with pytest.raises(PelError, match="it needs a method that trains"):
            make(method="zero-shot", **options)
    assert make(method="zero-shot", data_val=0.1, split="val").factors.val == 0.1


def test_what_a_configuration_shares_stays_away_where_it_has_no_effect():
    shared = {"data.val": 0.1, "data.seed": 2, "data.ratio": 10}
    assert RunSpec.make("places-lt", "toy", "ln", 0, {"data.val": 0.1, "data.seed": 2}).slug == "places-lt.toy.ln.s0"
    assert RunSpec.make("toy", "toy", "ln", 0, shared).slug == "toy-ir10.toy.ln.s0.data.seed=2.data.val=0.1"
    assert RunSpec.make("toy-ir20", "toy", "ln", 0, shared).slug == "toy-ir20.toy.ln.s0.data.seed=2.data.val=0.1"


# Runs


@pytest.fixture(scope="module")
def done(toy_results):
    """Records of runs that differ in one factor, by it."""
    asked = {
        "plain": {}, "classes": {"data_classes": 3}, "others": {"data_classes": 3, "data_class_seed": 1},
        "noise": {"data_noise": 0.3},
        "val": {"data_val": 0.2}, "held": {"data_val": 0.2, "split": "val"}, "seed": {"data_seed": 1},
        "thirds": {"data_groups": "terciles"},
    }  # fmt: skip
    specs = {name: make(epochs=1, **options) for name, options in asked.items()}
    specs["zero"] = make(method="zero-shot", data_classes=3)
    return {name: (spec, run(toy_results, spec)) for name, spec in specs.items()}


def test_head_priors_and_groups_follow_the_subset(done, toy_results):
    record = done["classes"][1]
    assert record["data"]["classes"] == 3 and record["data"]["test_images"] == 30 and record["data"]["factors"] == {"classes": 3}
    assert len(record["metrics"]["per_class"]) == 3 and sum(record["data"]["groups"].values()) == 3
    assert record["parameters"]["head"] * 2 == done["plain"][1]["parameters"]["head"]
    assert done["zero"][1]["data"]["sha256"] == record["data"]["sha256"]
    assert "factors" not in done["plain"][1]["data"]
    noisy, plain = (done[name][1]["data"] for name in ("noise", "plain"))
    assert noisy["train_counts"] != plain["train_counts"] and noisy["train_images"] == plain["train_images"]
    assert noisy["groups"] == plain["groups"]


def test_a_validation_is_of_images_that_its_training_never_saw(done, toy_results):
    (spec, record), (held, of_val) = done["val"], done["held"]
    assert held.train == spec and spec.slug != done["plain"][0].slug
    assert record["data"]["train_images"] == of_val["data"]["train_images"] < done["plain"][1]["data"]["train_images"]
    assert (record["data"]["test_images"], of_val["data"]["test_images"]) == (60, 6 * 24)
    again = main(["evaluate", make(epochs=1, split="val").slug, "--results", str(toy_results)])
    assert again == 1, "a run that trained on all has no validation"
    assert record["data"]["sha256"] == of_val["data"]["sha256"] != done["plain"][1]["data"]["sha256"]


def test_grouping_otherwise_trains_nothing_again(done, toy_results):
    (plain, one), (thirds, two) = done["plain"], done["thirds"]
    assert thirds.train == plain and two["delta_sha256"] == one["delta_sha256"]
    assert two["metrics"]["overall"] == one["metrics"]["overall"] and two["data"]["groups"] == {"head": 2, "med": 2, "tail": 2}
    reader = Reader(toy_results)
    assert reader.run(plain).groups != reader.run(thirds).groups


def test_images_are_known_by_what_they_are_not_by_their_number(done, toy_results):
    """Of two subsets of classes, as many images each with the same labels: paired, they would have compared apples with pears."""
    reader = Reader(toy_results)
    one, other, zero = (reader.run(done[name][0]) for name in ("classes", "others", "zero"))
    assert one.images.labels.tolist() == other.images.labels.tolist() and one.images != other.images
    require_same_images(one, zero)
    with pytest.raises(PelError, match="have different test sets"):
        require_same_images(one, other)
    table = parquet.read_table(run_folder(toy_results, done["held"][0].slug) / "predictions.parquet", columns=["index", "label"])
    index = table.column("index").to_numpy()
    assert len(set(index)) == 144 and index.max() > 144, "positions in the prepared list of training images"


def test_another_subset_is_another_run_of_as_many_images(done):
    plain, other = done["plain"][1]["data"], done["seed"][1]["data"]
    assert plain["train_counts"] == other["train_counts"] and plain["sha256"] != other["sha256"]


def test_decoded_images_follow_a_subset(tmp_path):
    """Files and their decoded copies give the same numbers, whichever images a run takes."""
    results = tmp_path / "results"
    root = fill(tmp_path / "images", dict.fromkeys(("a cat", "a dog", "a cow", "an owl"), 14))
    prepare("mine", results / "data/mine", {"datasets": {"mine": {"kind": "auto", "root": str(root)}}})
    assert main(["backbone", "toy", "--out", f"{results}/backbones/toy"]) == 0
    prepare_text(results / "backbones/toy", results / "data/mine", "default", results / "text/toy/mine.default.safetensors")
    build("mine", 16, results)
    options = {"epochs": 1, "data_classes": 3, "data_val": 0.2, "data_per_class": 6, "split": "val"}
    files, cached = (run(results, make("mine", **options, **more)) for more in ({"native": 16}, {"image_cache": 16}))
    assert files["data"]["train_counts"] == [6, 6, 6] and files["data"]["test_images"] == 6, (
        "of 11 images a class, 2 are held out"
    )
    assert files["metrics"]["nll"] == cached["metrics"]["nll"]


# Studies

STUDY = {
    "title": "Factors",
    "roles": {"small": "Toy"},
    "shared": {},
    "tables": {
        "t": {
            "title": "T",
            "where": {"dataset": "small", "method": "ln", "value": "overall", "data.class_seed": 3, "data.classes": 4},
            "rows": [{"sweep": "data.ratio", "values": [2, 20], "label": "ratio {}"}],
            "columns": [{"label": "Clean"}, {"label": "Noisy", "data.noise": 0.2}],
        }
    },
}
CONFIG = {"title": "C", "backbone": "toy", "seeds": [0, 1], "data": {"small": "toy"}, "recipe": {"data.seed": 7}}


def study(folder, where=(), config=(), **changes):
    """A study of one table, with other keys of `where` or of the configuration."""
    content = json.loads(json.dumps(STUDY))
    content["tables"]["t"]["where"] |= dict(where)
    del content["shared"]
    content["tables"]["t"] |= changes
    (folder / "study.yaml").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(json.dumps({**CONFIG, "results": str(folder / "results"), **dict(config)}))
    return folder / "study.yaml", folder / "config.yaml"


def test_a_study_says_factors_wherever_it_says_options(tmp_path):
    made = load(*study(tmp_path))
    assert len(made.specs) == 8
    start = "data.class_seed=3.data.classes=4"
    assert "toy-ir20.toy.ln.s1." + start + ".data.noise=0.2.data.seed=7" in made.specs
    assert f"toy-ir2.toy.ln.s0.{start}.data.seed=7" in made.specs
    spec = made.specs[f"toy-ir20.toy.ln.s0.{start}.data.seed=7"]
    assert classes(made, "toy", spec.factors) == 4
    prepare("toy", made.results / "data/toy")
    assert data_size(made, spec.dataset, spec.factors) == (120 + 44 + 16 + 6, 40) and work(made, spec).train == 2 * 186


def test_a_plan_counts_what_is_held_out(tmp_path):
    made = load(*study(tmp_path, {"data.val": 0.25, "split": "val"}))
    spec = next(spec for spec in made.specs.values() if spec.dataset == "toy-ir20" and not spec.factors.noise)
    assert data_size(made, spec.dataset, spec.factors) == (90 + 44 + 16 + 6, 4 * 30)


def test_a_validation_that_is_not_there_is_told_with_what_to_do(tmp_path):
    with pytest.raises(PelError, match=r"split=val: data set 'toy-ir2' has no validation split; .* data.val=0.1 holds a tenth"):
        load(*study(tmp_path, {"split": "val"}))


def test_a_study_refuses_what_its_data_do_not_allow(tmp_path):
    images = fill(tmp_path / "images", {"a": 9, "b": 12, "c": 30})
    mine = {
        "data": {"small": "mine"},
        "datasets": {"mine": {"kind": "auto", "root": str(images), "profile": "step", "ratios": [2]}},
    }
    with pytest.raises(PelError, match=r"data.ratio=2: data set 'mine' is prepared at that ratio; ask for 'mine-ir2'"):
        load(*study(tmp_path, config=mine))
    paths = study(tmp_path, config=mine, rows=[{"label": "x"}])
    with pytest.raises(PelError, match=r"data.classes=4: there are 3 classes; expected 2\.\.2, or all"):
        load_settings({"study": str(paths[0]), "config": str(paths[1])}, compare=False)
    mine["datasets"]["mine"] = {"kind": "auto", "root": str(images), "val_fraction": 0.2}
    paths = study(tmp_path, {"data.classes": 2, "data.val": 0.1}, mine, rows=[{"label": "x"}])
    with pytest.raises(PelError, match=r"data.val=0.1: data set 'mine' has validation images of its own"):
        load_settings({"study": str(paths[0]), "config": str(paths[1])}, compare=False)


def test_the_documented_study_runs_on_cifar(tmp_path):
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "data.seed" in text]
    (tmp_path / "study.yaml").write_text(block)
    made = load(tmp_path / "study.yaml", "cifar", seeds=[0])
    assert len(made.specs) == 5 * 4
    assert "cifar100-ir10.clip-b16.adaptformer.s0.data.seed=2.data.val=0.1.split=val" in made.specs
    trained = {spec.train.slug for spec in made.specs.values()}
    assert len(trained) == 4 * 3, "a validation column and another grouping train nothing more"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cifar100-ir100", {"split": "val", "data.val": 0.2}),
        ("inat2018", {"split": "val", "data.val": 0.2}),
        ("places-lt", {"split": "val"}),
        ("mine", {"split": "val", "data.val": 0.2}),
        ("divided", {"split": "val"}),
    ],
)
def test_how_any_data_set_is_validated(name, options):
    entry = {"kind": "folders", "root": "x"}
    datasets = declared({"datasets": {"mine": entry, "divided": {**entry, "val_fraction": 0.1}}})
    assert validation_options(name, datasets, 0.2) == options
    require_split(name, "val", datasets, options.get("data.val", 0))
    RunSpec.make(name, "toy", "ln", 0, **options)


def test_factors_of_data_are_factors_of_a_design(tmp_path):
    levels = {"classes": [3, "all"], "per_class": [20, 60], "ratio": [1, 4]}
    factors = {name: [{"sweep": f"data.{name}", "values": values, "label": f"{name} {{}}"}] for name, values in levels.items()}
    entry = {"title": "T", "where": {"dataset": "small", "method": "ln"}, "factors": factors}
    content = {"title": "T", "roles": {"small": "Toy"}, "factorial": {"d": entry}}
    (tmp_path / "design.yaml").write_text(json.dumps(content))
    made = load(tmp_path / "design.yaml", study(tmp_path)[1])
    asked = {(spec.dataset, spec.factors.classes, spec.factors.per_class) for spec in made.specs.values()}
    assert asked == {(f"toy-ir{ratio}", n, cap) for ratio in (1, 4) for n in (3, "all") for cap in (20, 60)}
    assert {spec.factors.seed for spec in made.specs.values()} == {7}, "shared by the configuration"
