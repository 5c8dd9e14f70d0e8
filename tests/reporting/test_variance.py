"""The table of variance components: its numbers are those of the stored predictions, and what cannot be is said."""

import io

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_results import fake_record, write_results

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.reporting.paired import Rows
from pel_core.reporting.runs import read_runs
from pel_core.reporting.screen import Screen
from pel_core.reporting.statistics.components import SOURCES, components
from pel_core.reporting.statistics.reading import Reader
from pel_core.reporting.variance import _components, find_components, variance_files
from pel_core.spec.outcomes import failed_file
from pel_core.spec.results import metrics_file
from pel_core.studies.plan import plan
from pel_core.studies.study import load

ENTRY = {
    "title": "Luck", "where": {"dataset": "cifar100-ir100", "method": "adaptformer"},
    "subsets": [{"sweep": "data.seed", "values": [0, 1, 2], "label": "draw {}"}],
    "values": ["overall", "head", "med", "tail"],
}  # fmt: skip


def study(folder, results=True, **changes):
    path = folder / "study.yaml"
    content = {"title": "S", "roles": {"cifar100": "CIFAR"}, "variance": {"luck": ENTRY | changes}}
    path.write_text(yaml.safe_dump(content))
    made = load(path, "demo", results=folder / "results", figures=folder / "figures")
    if results:
        write_results(made.results, made.specs)
    return made


def test_a_plan_says_that_one_seed_shows_no_component(tmp_path):
    told = "But luck has one seed: no spread of seeds is known from one, so it will show no component"
    assert told in plan(study(tmp_path, results=False, seeds=[0]))
    assert "one seed" not in plan(study(tmp_path, results=False, seeds=[0, 1]))


def test_its_numbers_are_those_of_the_predictions(tmp_path):
    made = study(tmp_path)
    artefact = made.artefact("luck")
    reader = Reader(made.results)
    specs = [cell.specs for cell in artefact.cells if cell.column == 0]
    runs = [[reader.run(spec) for spec in row] for row in specs]
    expected = components(np.array([[run.right for run in row] for row in runs]), runs[0][0].images.labels)
    files = variance_files(made, "luck")
    frame = pd.read_csv(io.StringIO(files["long.csv"])).set_index(["value", "source"])
    for source in SOURCES:
        assert frame.loc[("overall", source), "variance"] == pytest.approx(expected.parts[source].variance, rel=1e-4)
    assert frame.loc["overall", "share"].sum() == pytest.approx(1, abs=1e-4)
    accuracy = np.mean([read_json(metrics_file(made.results, slug))["metrics"]["overall"] for slug in artefact.specs])
    assert frame.loc[("overall", "seed"), "mean"] == pytest.approx(accuracy, abs=1e-3)
    assert {"overall", "head", "med", "tail"} == set(frame.index.get_level_values(0))
    for word in ("[DEMO]", "3 subsets (draw 0, draw 1, draw 2) x seeds 0, 1, 2", "| one run |", "Satterthwaite"):
        assert word in files["md"]
    assert r"\begin{table}" in files["tex"] and r"\begin{table}" not in files["tabular.tex"]
    assert any("one run" in line for line in artefact.how.on_screen("T", files["md"], Screen()))


def test_a_run_that_diverged_leaves_no_components(tmp_path):
    made = study(tmp_path)
    spec = list(made.artefact("luck").specs.values())[4]
    metrics_file(made.results, spec.slug).unlink()
    failed = {"reason": "the loss is nan", "step": 3, "epoch": 0, "learning_rate": 0.01}
    write_json(failed_file(made.results, spec.slug), fake_record(spec) | {"failed": failed})
    artefact = made.artefact("luck")
    found = find_components(artefact, read_runs(made, artefact), Rows(made.results))
    assert all(each.parts is None and "diverged (1 of 9)" in each.reason for each in found)
    assert "overall: runs without a result: diverged (1 of 9)." in variance_files(made, "luck")["md"]


def test_a_group_of_unequal_classes_has_a_reason(tmp_path):
    made = study(tmp_path, values=["tail"])
    read = [Rows(made.results).row(cell) for cell in made.artefact("luck").cells]
    assert _components("tail", read).parts
    for row in read:
        row.images.labels[-1] -= 1  # the last class has one image fewer, that before it one more
    assert "unequally many test images" in _components("tail", read).reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"subsets": [{"label": "a"}]}, "needs two of them or more; there is 1"),
        ({"subsets": [{"label": "a"}, {"label": "b"}]}, "the subsets a and b are the same run"),
        ({"subsets": [{"label": "a"}, {"label": "b", "data.seed": 1, "tune": {"grid": {"lr": [0.1, 0.2]}, "seeds": [9]}}]},
         "tune: the settings of a study of variance are given"),
        ({"values": ["ece"]}, "ece is not an accuracy over test images; choose of overall, head, med, tail"),
        ({"where": {"dataset": "cifar100-ir100", "method": "zero-shot"},
          "subsets": [{"label": "a"}, {"label": "b", "data.groups": "terciles"}]}, "zero-shot trains nothing"),
        ({"subsets": [{"label": "a"}, {"label": "b", "data.seed": -1}]}, "subset b: data.seed"),
        ({"subsets": [{"label": "a"}, {"label": "a"}]}, "two are labelled 'a'"),
        ({"subsets": [{"sweep": "lr", "values": [0.1, 0.2]}]}, "subset 0.1: lr is no choice of training images"),
        ({"subsets": [{"label": "a", "data.classes": 5}, {"label": "b", "data.classes": 5, "data.class_seed": 1}]},
         "the subsets a and b are asked other images"),
        ({"where": {"dataset": "cifar100-ir100", "method": "adaptformer", "data.val": 0.1, "split": "val"}},
         "the subsets draw 0 and draw 1 are asked other images"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(tmp_path, changes, words):
    with pytest.raises(PelError, match=words) as refused:
        study(tmp_path, results=False, **changes)
    assert "variance.luck" in str(refused.value)
