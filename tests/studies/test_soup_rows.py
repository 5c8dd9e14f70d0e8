"""Rows that are soups: of which runs, over settings or over seeds; what cannot be meant; what tables say of one value."""

import pytest
import yaml
from fake_results import write_predicted, write_results

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.reporting.paired import Rows, contrast_effect
from pel_core.reporting.runs import read_runs
from pel_core.reporting.tables import table_files, table_grid
from pel_core.spec.results import metrics_file
from pel_core.studies.plan import plan
from pel_core.studies.study import load

CONFIG = "{title: T, backbone: toy, seeds: [0, 1, 2], data: {toy: toy}}"
WHERE = {"method": "adaptformer", "dataset": "toy-ir20"}
OVERALL = [{"label": "All", "value": "overall"}]
SOUP = {"soup": "uniform", "epochs": 0}
ALL = {**SOUP, "from_seeds": "all"}
RUN = {"label": "run", "loss": "ce"}


@pytest.fixture
def study(tmp_path):
    """A study of one table with these rows, on the toy."""

    def make(rows, where=WHERE, seeds="0,1,2", **more):
        table = {"title": "T", "where": where, "rows": rows, "columns": OVERALL}
        (tmp_path / "study.yaml").write_text(
            yaml.safe_dump({"title": "T", "roles": {"toy": "Toy"}, "tables": {"t": table}} | more)
        )
        (tmp_path / "config.yaml").write_text(CONFIG)
        return load(tmp_path / "study.yaml", tmp_path / "config.yaml", seeds=seeds, results=tmp_path / "results")

    return make


def soups(made):
    """The names of the soups, without what all share."""
    return [slug.removeprefix("toy-ir20.toy.") for slug, spec in made.specs.items() if spec.soup != "none"]


def test_a_soup_of_settings_is_a_run_of_each_seed(study):
    made = study([RUN, {"label": "soup", "from": ["run", {"lr": 0.5}], **SOUP}], seeds="0,1")
    named = "adaptformer.s{}.epochs=0.soup=uniform.parents=adaptformer,loss:ce~adaptformer,lr:0.5"
    assert soups(made) == [named.format(seed) for seed in (0, 1)]
    assert "to train 6 (2 of them only for others to start from), to evaluate 4." in plan(made)


def test_a_soup_over_seeds_is_one_run_of_the_seeds_of_the_study(study):
    made = study([RUN, {"label": "soup", "from": "run", **ALL}])
    assert soups(made) == ["adaptformer.s0.epochs=0.soup=uniform.parents=adaptformer,seed:0+1+2,loss:ce"]
    cell = made.artefact("t").cells[1]
    assert len(cell.specs) == 1 and cell.specs[0].pooled and not cell.specs[0].seeded
    assert len(made.parents(cell.slugs[0])) == 3 and "to train 4, to evaluate 4." in plan(made)
    rows = [RUN, {"label": "soup", "from": ["run", {"lr": 0.5}], **ALL}, {"label": "on", "from": "soup", "take": "delta"}]
    made = study(rows, seeds="0,1")
    assert [len(spec.parent_specs) for spec in made.specs.values()] == [0, 0, 4, 1, 1]
    on = [spec for spec in made.specs.values() if spec.parents and spec.soup == "none"]
    assert {spec.parent_specs[0].slug for spec in on} == {made.artefact("t").cells[1].slugs[0]} and all(s.seeded for s in on)


GREEDY = {**SOUP, "soup": "greedy", "from_seeds": "all"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([RUN, {"label": "a", "from": "run", **SOUP}], "soup=uniform averages several different runs; from names one run"),
        ([RUN, {"label": "a", "from": "run", "from_seeds": "all"}], "a run starts from one other; expected one, or soup=uniform"),
        ([RUN, {"label": "a", "from_seeds": "all"}], "from_seeds: all has no effect without `from`"),
        ([RUN, {"label": "a", "from": ["run", {"method": "lora"}], **SOUP}], "its method is lora, this run's adaptformer"),
        ([RUN, {"label": "a", "from": ["run", {"head": "linear"}], **SOUP}], "its head is linear, this run's cosine"),
        (
            [RUN, {"label": "a", "from": "run", **GREEDY}],
            r"study\.yaml: t: soup=greedy: data set 'toy-ir20' has no validation split.*data.val",
        ),
        ([{**RUN, "average": "ema", "average.keep": "val"}], r"t: average.keep=val: data set 'toy-ir20' has no validation split"),
        ([RUN, {"label": "a", "from": "run", **GREEDY, "data.val": 0.2}], "it trains on images that this run holds out"),
        (
            [RUN, {"label": "a", "from": "run", **ALL, "tune": {"grid": {"lr": [0.1, 0.2]}, "seeds": [7], "hold_out": 0.2}}],
            "whose settings cannot be chosen over seeds",
        ),
        ([RUN, {"label": "a", "from": "run", **SOUP, "from_seeds": "every"}], "from_seeds"),
    ],
)
def test_what_is_no_soup_is_refused_when_the_study_is_read(study, rows, message):
    with pytest.raises(PelError, match=message):
        study(rows)


def test_a_factorial_design_takes_no_single_value(study):
    factors = {
        "runs": [{"label": "one", "loss": "ce"}, {"label": "soup", "from": "one", **ALL}],
        "rate": [{"label": "low", "lr": 0.1}, {"label": "high", "lr": 0.2}],
    }
    with pytest.raises(PelError, match="it is one value, and what is taken apart here is over seeds"):
        study([RUN], factorial={"d": {"title": "D", "where": WHERE, "factors": factors}})


def test_a_greedy_soup_with_held_out_images_of_all_is_a_run(study):
    made = study([RUN, {"label": "soup", "from": "run", **GREEDY}], where={**WHERE, "data.val": 0.2})
    assert soups(made) == ["adaptformer.s0.epochs=0.soup=greedy.data.val=0.2.parents=adaptformer,seed:0+1+2,loss:ce,data.val:0.2"]


def test_a_table_says_that_it_is_one_value_and_invents_no_spread(study):
    made = study([RUN, {"label": "soup", "from": "run", **ALL}])
    write_results(made.results, made.specs)
    write_predicted(made.results, made.specs)
    soup = made.artefact("t").cells[1].specs[0]
    parents = [{"slug": parent.slug, "delta_sha256": "b" * 64} for parent in soup.parent_specs]
    path = metrics_file(made.results, soup.slug)
    write_json(path, read_json(path) | {"parents": parents, "soup": {"taken": [parent["slug"] for parent in parents]}})
    grid = table_grid(made, "t")
    assert [stat.n for (stat,) in grid.values] == [3, 1] and grid.values[1][0].std is None
    text = table_files(made, "t")["md"]
    assert "±" not in next(line for line in text.splitlines() if line.startswith("| soup"))
    about = "soup on toy-ir20 is one value (n = 1), the mean of 3 trainings (seeds 0, 1, 2)"
    assert (
        f"{about}: its interval, and its comparisons, are over test images for this soup alone; other seeds would make another."
        in text
    )


def test_a_greedy_soup_that_is_scored_by_what_chose_it_says_so(study):
    """And so does what starts from it; scored on test images neither does."""
    on = {"label": "on", "from": "soup", "take": "delta"}
    chosen = {"taken": [], "validation": {"metric": "overall", "scores": {}}}
    for split, said in (("val", True), ("test", False)):
        made = study([RUN, {"label": "soup", "from": "run", **GREEDY}, on], where={**WHERE, "data.val": 0.2, "split": split})
        write_results(made.results, made.specs)
        write_predicted(made.results, made.specs)
        for slug in made.artefact("t").cells[1].slugs:
            path = metrics_file(made.results, slug)
            write_json(path, read_json(path) | {"parents": [{"slug": slug, "delta_sha256": "b" * 64}] * 3, "soup": chosen})
        text = table_files(made, "t")["md"]
        for name in ("soup", "on"):
            told = f"{name} on toy-ir20 is scored on the validation images that chose what its training gave, which flatters it."
            assert (told in text) == said
        assert "run on toy-ir20 is scored" not in text


def test_a_claim_says_that_one_value_is_held_fixed(study):
    """Of a value that is none of test images, whose interval is over seeds alone."""
    part = {"over": [WHERE], "value": "training.seconds", "expect": "higher"}
    soup = {"from": {"loss": "ce"}, **ALL}
    claims = {"c": {"statement": "S", "parts": [{"a": {"loss": "ce"}, "b": soup, **part}]}}
    made = study([RUN], claims=claims)
    write_results(made.results, made.specs)
    artefact = made.summary("claims")
    effect = contrast_effect(artefact.claims[0].contrasts[0], read_runs(made, artefact), Rows(made.results))
    assert effect.seeds == (0, 1, 2) and any("is one value, of several seeds, and is held fixed" in note for note in effect.notes)
    alike = {"c": {"statement": "S", "parts": [{"a": {"loss": "ce"}, "b": {"loss": "la"}, **part}]}}
    made = study([RUN], claims=alike)
    write_results(made.results, made.specs)
    artefact = made.summary("claims")
    effect = contrast_effect(artefact.claims[0].contrasts[0], read_runs(made, artefact), Rows(made.results))
    assert not any("held fixed" in note for note in effect.notes)
