"""Post-hoc rows of studies: which runs they need, what a plan counts, what tables say of them, what is refused."""

import re

import pytest
import yaml
from fake_results import fake_record, write_predicted, write_results

from pel_core.common.errors import PelError
from pel_core.common.files import write_json
from pel_core.reporting.claims import claim_files
from pel_core.reporting.tables import table_files
from pel_core.spec.outcomes import failed_file
from pel_core.spec.results import metrics_file
from pel_core.studies.plan import plan
from pel_core.studies.study import load

ROWS = [
    {"label": "plain", "method": "adaptformer"},
    {"label": "adjusted", "method": "adaptformer", "posthoc": {"la": 0.5}},
    {"label": "fitted", "method": "adaptformer", "posthoc": {"la": "val", "temperature": "val"}},
    {"label": "ensemble", "method": "adaptformer", "posthoc": {"ensemble": "seeds", "la": 1}},
]
STUDY = {
    "title": "Post-hoc",
    "roles": {"a": "A"},
    "tables": {
        "t": {
            "title": "T",
            "where": {"dataset": "a"},
            "rows": ROWS,
            "columns": [{"label": "All", "value": "overall"}, {"label": "NLL", "value": "nll"}],
        }
    },
}
CONFIG = {"title": "Toy", "backbone": "toy", "seeds": [0, 1, 2], "data": {"a": "imagenet-lt"}}
NAME = "imagenet-lt.toy.adaptformer.s"


@pytest.fixture
def make(tmp_path):
    """Load the study after changes of its keys, on a folder of its own."""

    def study(config=None, **keys):
        for file, content in (("study", {**STUDY, **keys}), ("config", {**CONFIG, **(config or {})})):
            (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path / "results")

    return study


def table(rows=ROWS, **keys):
    return {"tables": {"t": {**STUDY["tables"]["t"], "rows": rows, **keys}}}


def test_rows_need_the_runs_whose_logits_they_take(make):
    study = make()
    ends = {slug.removeprefix(NAME) for slug in study.specs}
    plain, fitted = ["0", "1", "2"], [f"{seed}.split=val" for seed in range(3)]
    steps = [f"{seed}.posthoc.{step}" for seed in range(3) for step in ("la=0.5", "la=val.posthoc.temperature=val")]
    assert ends == {*plain, *fitted, *steps, "0.posthoc.ensemble=0,1,2.posthoc.la=1"}
    assert study.stored(f"{NAME}1.posthoc.la=val.posthoc.temperature=val") == [
        str(metrics_file(study.results, f"{NAME}1{split}")) for split in ("", ".split=val")
    ]
    assert study.stored(f"{NAME}0") == []
    text = plan(study)
    assert "Runs: 13, of which 0 done, 13 missing; to train 3, to evaluate 6, to score from stored logits 7 (seconds)." in text
    assert {*study.planned} == {*study.specs}
    assert all(str(metrics_file(study.results, slug)) in study.targets() for slug in study.specs)


def test_shorter_rows_the_same_and_a_row_changes_what_it_names_alone(make):
    rows = [
        {"label": "short", "method": "adaptformer", "posthoc.la": 0.5},
        {"label": "one less", "method": "adaptformer", "posthoc": {"temperature": "none"}},
        {"label": "again", "method": "adaptformer", "posthoc": {}},
    ]
    study = make(**table(rows, where={"dataset": "a", "posthoc": {"la": 1, "temperature": 2}}))
    steps = [dict(cell.specs[0].knobs) for cell in study.artefact("t").cells[::2]]
    both = {"posthoc.la": 1.0, "posthoc.temperature": 2.0}
    assert steps == [{**both, "posthoc.la": 0.5}, {"posthoc.la": 1.0}, both]


def test_tables_say_what_was_fitted_and_that_an_ensemble_is_one_value(make):
    study = make()
    write_results(study.results, study.specs)
    write_predicted(study.results, study.specs)
    texts = table_files(study, "t")
    assert (
        "Fitted on the validation split, fitted on imagenet-lt: la 1, 1, 1; temperature 1, 1, 1 (seeds 0, 1, 2)." in texts["md"]
    )
    told = "ensemble on imagenet-lt is one value (n = 1), of the mean logit of seeds 0, 1, 2"
    assert told in texts["md"] and "Nothing is marked" not in texts["md"]
    lines = [line.split(",") for line in texts["long.csv"].splitlines()]
    at = {name: lines[0].index(name) for name in ("row", "n", "sd", "low", "training_low")}
    line = next(line for line in lines if line[at["row"]] == "ensemble")
    assert line[at["n"]] == "1" and line[at["sd"]] == line[at["training_low"]] == "" and float(line[at["low"]]) > 0


def test_a_value_at_an_end_of_what_is_tried_is_marked(make):
    study = make()
    write_results(study.results, study.specs)
    for slug, spec in study.specs.items():
        if "la=val" in slug:
            record = fake_record(spec) | {"posthoc": {"la": 3.0, "temperature": 1.5}}
            write_json(metrics_file(study.results, slug), record)
    end = "3 (an end of what is tried)"
    assert f"la {end}, {end}, {end}; temperature 1.5, 1.5, 1.5" in table_files(study, "t")["md"]


def test_a_claim_may_compare_an_ensemble_with_its_row(make):
    part = {
        "a": {"posthoc": {"ensemble": "seeds"}},
        "b": {},
        "over": [{"dataset": "a", "method": "adaptformer"}],
        "value": "overall",
        "expect": "higher",
    }
    study = make(claims={"c": {"statement": "Better", "parts": [part]}})
    write_results(study.results, study.specs)
    write_predicted(study.results, study.specs)
    text = claim_files(study)["md"]
    assert "| 3 | 60 |" in text and "| posthoc.ensemble=seeds - " in text


def test_a_post_hoc_run_diverges_as_its_training_did(make):
    study = make()
    write_results(study.results, study.specs)
    slug = f"{NAME}1"
    record = {key: value for key, value in fake_record(study.spec(slug)).items() if key not in ("metrics", "training")}
    failed = {"reason": "the loss became nan", "step": 3, "epoch": 0, "loss": None, "learning_rate": 0.1}
    write_json(failed_file(study.results, slug), record | {"failed": failed})
    gone = {each for each in study.specs if study.state(each) == "diverged"}
    assert gone == {each for each in study.specs if each.startswith(slug)} | {f"{NAME}0.posthoc.ensemble=0,1,2.posthoc.la=1"}
    assert all(study.result_file(each) == str(failed_file(study.results, slug)) for each in gone)
    assert "diverged (1 of 1)" in table_files(study, "t")["md"]


def test_tuned_rows_are_chosen_without_steps_and_made_with_them(make):
    tune = {"grid": {"lr": [0.001, 0.01]}, "seeds": [10]}
    study = make(tune=tune)
    assert len(study.tunings) == 1 and not any("posthoc" in slug for slug in study.candidates)
    assert "up to 13 runs to follow" in plan(study)
    write_results(study.results, study.candidates)
    study.decide()
    assert len(study.specs) == 2 + 13
    with pytest.raises(PelError, match="tune: seeds 1 are the row's own too"):
        make(tune={**tune, "seeds": [1]}, **table(ROWS[3:]))


def test_a_step_may_be_tuned_over_seeds(make):
    tune = {"grid": {"posthoc.la": [0, 0.5, 1]}, "seeds": [10, 11]}
    study = make(tune=tune, **table(ROWS[:1]))
    assert len(study.candidates) == 6 and len({spec.train.slug for spec in study.candidates.values()}) == 2
    assert {*study.specs} - {*study.candidates} == {f"{NAME}{seed}.split=val" for seed in (10, 11)}
    write_results(study.results, study.specs)
    study.decide()
    (found,) = study.selections.values()
    assert found.hours == pytest.approx(2 * (5 + 2) / 3600)  # two trainings, two passes
    assert {spec.slug for spec in study.artefact("t").cells[0].specs} == {
        f"{NAME}{seed}.posthoc.la={found.chosen.settings['posthoc.la']:g}" for seed in range(3)
    }


LUCK = {"title": "L", "subsets": [{"sweep": "data.seed", "values": [0, 1]}], "where": {"dataset": "c-ir100", "method": "ln"}}
WAYS = [{"label": "one"}, {"label": "all", "posthoc": {"ensemble": "seeds"}}]
FACTORS = {"way": WAYS, "loss": [{"sweep": "loss", "values": ["la", "ce"]}]}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (table([{**ROWS[0], "posthoc": {"lax": 1}}]), "tables.t: lax x All: unknown option 'posthoc.lax'"),
        (table([{**ROWS[0], "posthoc": {"la": "test"}}]), "posthoc.la=test: expected a number or none or val"),
        (table([{**ROWS[0], "posthoc": {"la": True}}]), "found true, expected a number, or val, none or seeds"),
        (table([{**ROWS[0], "posthoc": {"la": 1}, "posthoc.la": 2}]), "posthoc.la is given twice: 2 and 1 (in `posthoc`)"),
        (table([{**ROWS[0], "posthoc": 1}]), "posthoc: found 1"),
        (table([{**ROWS[2], "split": "val"}]), "with split=val it would be fitted to the images that are scored"),
        (table([{"label": "z", "method": "zero-shot", "posthoc": {"la": 1}}]), "it needs a method that trains"),
        ({"config": {"data": {"a": "inat2018"}}}, "study.yaml: t: split=val: data set 'inat2018' has no validation split"),
        ({"factorial": {"f": {"title": "F", "where": {"dataset": "a", "method": "ln"}, "factors": FACTORS}}}, "is one value"),
    ],
)
def test_what_cannot_work_is_refused_when_the_study_is_read(make, keys, words):
    with pytest.raises(PelError, match=re.escape(words.replace("lax x All", "plain x All"))):
        make(**keys)


def test_an_ensemble_has_no_variance_over_seeds(make):
    luck = {**LUCK, "where": {**LUCK["where"], "posthoc": {"ensemble": "seeds"}}}
    with pytest.raises(PelError, match="posthoc: ensemble: it is one value"):
        make(config={"data": {"a": "imagenet-lt", "c": "cifar100"}}, roles={"a": "A", "c": "C"}, variance={"luck": luck})
