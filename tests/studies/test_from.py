"""``from`` of a study: whose run a row starts from, what is refused, how plan, status and results count such runs."""

import pytest
import yaml
from fake_results import write_results

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.spec.outcomes import failed_file
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.plan import plan
from pel_core.studies.status import status
from pel_core.studies.study import load

CONFIG = "{title: T, backbone: toy, seeds: [0, 1], data: {toy: toy}}"
WHERE = {"method": "adaptformer", "dataset": "toy-ir20"}
OVERALL = [{"label": "All", "value": "overall"}]
CRT = {"take": "delta", "train_delta": False}


@pytest.fixture
def study(tmp_path):
    """A study of one table with these rows, on the toy."""

    def make(rows, columns=OVERALL, where=WHERE, seeds="0", **more):
        table = {"title": "T", "where": where, "rows": rows, "columns": columns}
        content = {"title": "T", "roles": {"toy": "Toy"}, "tables": {"t": table}} | more
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
        (tmp_path / "config.yaml").write_text(CONFIG)
        return load(tmp_path / "study.yaml", tmp_path / "config.yaml", seeds=seeds, results=tmp_path / "results")

    return make


def names(specs):
    """Slugs without what all of them share."""
    return [slug.removeprefix("toy-ir20.toy.") for slug in specs]


def test_a_row_starts_from_another_row_at_each_of_its_seeds(study):
    made = study([{"label": "one", "loss": "ce"}, {"label": "two", "from": "one", **CRT}], seeds="0,1")
    stages = ["adaptformer.s{}.loss=ce", "adaptformer.s{}.take=delta.train_delta=false.parents=adaptformer,loss:ce"]
    assert names(made.specs) == [stage.format(seed) for stage in stages for seed in (0, 1)]
    assert names(made.origins) == [stages[0].format(seed) for seed in (0, 1)] and made.trainings == made.specs
    child = next(slug for slug in made.specs if "s1.take" in slug)
    assert made.parents(child) == [made.delta("toy-ir20.toy.adaptformer.s1.loss=ce")]
    assert "to train 4, to evaluate 4." in plan(made)


def test_a_run_that_is_no_row_is_trained_and_not_evaluated(study):
    rows = [{"label": "two", "from": {"method": "head-only", "loss": "ce", "epochs": 3}, "take": "head"}]
    made = study(rows, seeds="0,1")
    assert names(made.origins) == ["head-only.s0.epochs=3.loss=ce", "head-only.s1.epochs=3.loss=ce"]
    assert len(made.specs) == 2 and len(made.trainings) == 4
    assert "to train 4 (2 of them only for others to start from), to evaluate 2." in plan(made)
    assert "2 trainings only for others to start from: 0 done" in status(made)
    for slug in made.origins:
        write_json(made.results / "runs" / slug / "train.json", {})
        (made.results / "runs" / slug / "delta.safetensors").touch()
    assert "to train 2, to evaluate 2." in plan(made)
    assert "2 trainings only for others to start from: 2 done" in status(made)


def test_stages_follow_each_other_whatever_their_order(study):
    rows = [{"label": "three", "from": "two", "lr": 0.5}, {"label": "two", "from": "one", "lr": 0.2}, {"label": "one", "lr": 0.1}]
    three = next(iter(study(rows).specs.values()))
    assert names(three.ancestors) == ["adaptformer.s0.lr=0.1", "adaptformer.s0.lr=0.2.parents=adaptformer,lr:0.1"]


def test_a_parent_is_the_cell_with_its_row_in_the_place_of_the_one_that_starts(study):
    """Of the same column; and of the same row where a column says so."""
    columns = [{"label": ratio, "value": "overall", "dataset": f"toy-ir{ratio}"} for ratio in (20, 10)]
    made = study([{"label": "one"}, {"label": "two", "from": "one", "lr": 0.5}], columns, {"method": "adaptformer"})
    assert [spec.parent_specs[0].dataset for spec in made.specs.values() if spec.parents] == ["toy-ir20", "toy-ir10"]
    stages = [{"label": "one", "value": "overall"}, {"label": "two", "value": "overall", "from": "one", "lr": 0.5}]
    made = study([{"label": "a", "method": "ln"}, {"label": "b"}], stages)
    assert [names(spec.ancestors) for spec in made.specs.values()] == [[], ["ln.s0"], [], ["adaptformer.s0"]]


def test_what_all_rows_start_from_is_laid_over_where(study):
    """It takes the images of row and column, and no other option of theirs; a row may start anew."""
    rows = [{"label": "a", "lr": 0.5}, {"label": "b", "data.classes": 3}, {"label": "c", "lr": 0.2, "from": False}]
    made = study(rows, where={**WHERE, "batch_size": 16, "from": {"loss": "ce"}})
    found = [names(spec.ancestors) for spec in made.specs.values()]
    assert found == [["adaptformer.s0.batch_size=16.loss=ce"], ["adaptformer.s0.batch_size=16.loss=ce.data.classes=3"], []]


@pytest.mark.parametrize("start", [CRT, {"take": "delta"}, {"soup": "uniform", "from": [{"loss": "ce"}, {"lr": 0.5}]}])
def test_what_where_says_of_the_start_is_not_the_parents(study, start):
    """A parent starts from nothing, so that it can take over, keep or average nothing."""
    where = {**WHERE, "from": {"loss": "ce"}, **start}
    subsets = [{"label": str(seed), "data.seed": seed} for seed in (0, 1)]
    made = study(
        [{"label": "a"}], where=where, variance={"v": {"title": "V", "where": where, "subsets": subsets, "seeds": [0, 1]}}
    )
    parents = [parent for spec in made.specs.values() for parent in spec.ancestors.values()]
    assert len(made.specs) == 4 and {parent.loss for parent in parents if parent.lr != 0.5} == {"ce"}
    assert all(parent.take == "all" and parent.soup == "none" and not parent.parents for parent in parents)


def test_sides_of_a_claim_and_points_of_a_curve_start_from_runs(study):
    part = {"a": {"from": {"method": "adaptformer", "loss": "ce"}, "method": "adaptformer"}, "b": {"method": "adaptformer"}}
    part |= {"over": [{"dataset": "toy-ir20"}], "value": "overall", "expect": "higher"}
    points = [{"sweep": "lr", "values": [0.1, 0.2], "from": {"loss": "ce"}}]
    curve = {"kind": "curve", "title": "C", "where": {**WHERE, "value": "tail"}, "x": "rate", "points": points}
    made = study([{"label": "one"}], claims={"c": {"statement": "S", "parts": [part]}}, figures={"f": curve})
    assert {parent for spec in made.specs.values() for parent in spec.ancestors} == {"toy-ir20.toy.adaptformer.s0.loss=ce"}
    assert made.artefact("study-claims").claims[0].contrasts[0].label == "adaptformer from (adaptformer loss=ce) - adaptformer"
    part["a"]["from"] = "one"
    with pytest.raises(PelError, match=r"claims\.c: from: one: there are no rows here; say a mapping"):
        study([{"label": "one"}], claims={"c": {"statement": "S", "parts": [part]}})


def test_levels_of_a_factor_start_from_each_other(study):
    factors = {
        "stage": [{"label": "one", "loss": "ce"}, {"label": "two", "from": "one"}],
        "rate": [{"label": "low", "lr": 0.1}, {"label": "high", "lr": 0.2}],
    }
    made = study([{"label": "one"}], factorial={"d": {"title": "D", "where": WHERE, "factors": factors}})
    assert [names(spec.ancestors) for spec in made.specs.values() if spec.parents] == [
        ["adaptformer.s0.lr=0.1.loss=ce"], ["adaptformer.s0.lr=0.2.loss=ce"],
    ]  # fmt: skip


def test_images_held_out_for_candidates_are_held_out_of_what_they_start_from(study):
    tune = {"grid": {"lr": [0.1, 0.2]}, "seeds": [7], "hold_out": 0.2}
    made = study([{"label": "a", "from": {"loss": "ce"}, "tune": tune}])
    assert names(made.origins) == ["adaptformer.s7.loss=ce.data.val=0.2"]
    assert {spec.seed for spec in made.planned.values() if spec.parents} == {0, 7} and len(made.known) == len(made.planned) + 2


ONE = {"label": "one", "loss": "ce"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"label": "a", "from": "b"}, {"label": "b", "from": "a"}], "tables.t: from: in a circle: a <- b <- a"),
        ([{"label": "a", "from": "a"}], "in a circle: a <- a"),
        ([{"label": "a", "from": "on"}, ONE], "unknown row to start from: 'on'; known: a, one.*Did you mean 'one'"),
        ([{"label": "a", "from": "one"}, ONE, ONE], "from: one: 2 rows are called so"),
        ([{"label": "a", "from": {"methd": "ln"}}], r"rows\[0\].from: unknown key 'methd'.*Did you mean 'method'"),
        ([{"label": "a", "from": {"value": "tail"}}], "unknown key 'value'"),
        ([{"label": "a", "from": 3}], r"rows\[0\].from: found 3, expected the label of a row, a mapping"),
        ([{"label": "a", "from": []}], "expected a list with at least one label or mapping"),
        ([{"label": "a", "from": ["one", {"loss": "la"}]}, ONE], "a run starts from one other"),
        ([{"label": "a", "from": {"method": "zero-shot"}}], "zero-shot trains nothing"),
        ([{"label": "a", "from": {"backbone": "clip-mini"}}], "its backbone is clip-mini, this run's toy"),
        ([{"label": "a", "from": {"dataset": "tooy"}}], "from: unknown role 'tooy'.*Did you mean 'toy'"),
        ([{"label": "a", "from": {"method": "ln"}}], "a x All: from: toy-ir20.toy.ln.s0: its method is ln"),
        ([{"label": "a", "parents": "adaptformer"}], "unknown key 'parents'"),
        (
            [{"label": "a", "from": "b"}, {"label": "b", "tune": {"grid": {"lr": [0.1, 0.2]}, "seeds": [7], "hold_out": 0.2}}],
            "its settings are still to be chosen",
        ),
    ],
)
def test_what_cannot_be_started_from_is_refused_when_the_study_is_read(study, rows, message):
    with pytest.raises(PelError, match=message):
        study(rows)


def diverge(results, spec):
    """As if a training had diverged."""
    record = {"slug": spec.slug, "versions": {"prepare": 1, "train": 1}, "spec": spec.to_json()}
    record |= {"parameters": {}, "data": {}, "backbone": {}}
    failed = {"reason": "the loss became nan", "step": 3, "epoch": 0, "learning_rate": 0.1}
    write_json(failed_file(results, spec.slug), record | {"failed": failed})


def test_a_run_whose_parent_diverged_has_that_outcome(study):
    made = study([ONE, {"label": "two", "from": "one", "tte": "none"}])
    parent, child = made.specs
    diverge(made.results, RunSpec.parse(parent))
    assert {made.state(slug) for slug in made.specs} == {"diverged"} and not [f for f in made.targets() if "metrics.json" in f]
    assert made.result_file(child) == str(failed_file(made.results, parent))
    assert f"the run it starts from, {parent}, diverged: the loss became nan" in status(made)
    assert "2 done (2 diverged), 0 missing; to train 0" in plan(made)


def test_a_run_is_stale_once_its_parent_is_another(study):
    made = study([ONE, {"label": "two", "from": "one"}])
    write_results(made.results, made.specs)
    parent, child = made.specs
    for slug, sha in ((parent, "b" * 64), (child, "c" * 64)):
        path = made.results / "runs" / slug / "metrics.json"
        record = read_json(path) | {"delta_sha256": sha}
        record |= {"parents": [{"slug": parent, "delta_sha256": "b" * 64}]} if slug == child else {}
        for name in ("metrics.json", "train.json"):
            write_json(path.with_name(name), record)
        path.with_name("delta.safetensors").write_bytes(b"")
    assert made.stale() == {} and made.state(child) == "done"
    write_json(made.results / "runs" / parent / "train.json", read_json(path) | {"delta_sha256": "d" * 64})
    assert made.stale() == {
        made.delta(child): f"{child}: made from another training of {parent} (bbbbbbbbbbbb) than lies there (dddddddddddd)"
    }
    assert "made from another training" in made.state(child)
