"""`pel.results`: a row for each run and metric; what cannot be used is left out by name; of nothing an error tells."""

import math
import shutil

import pandas as pd
import pytest
from fake_results import fake_record, write_results

import pel_core as pel
from pel_core.common.files import read_json, write_json
from pel_core.spec.results import METRICS, metrics_file, run_folder
from pel_core.spec.run_spec import RunSpec

SLUGS = (
    "demo-cifar-ir100.clip-mini.adaptformer.s0",
    "demo-cifar-ir100.clip-mini.adaptformer.s0.tte=none",
    "demo-cifar-ir100.clip-mini.ln.s1.loss=focal.loss.gamma=3",
)


@pytest.fixture
def folder(tmp_path):
    write_results(tmp_path, {slug: RunSpec.parse(slug) for slug in SLUGS})
    return tmp_path


def test_a_row_for_each_run_and_metric(folder):
    frame = pel.results(folder)
    assert len(frame) == len(SLUGS) * len(METRICS) and set(frame["run"]) == set(SLUGS) and set(frame["metric"]) == set(METRICS)
    assert list(frame.columns[:8]) == ["run", "metric", "value", "reason", "dataset", "backbone", "method", "seed"]
    assert frame.attrs["left_out"] == {} and frame.columns.is_unique
    for slug in SLUGS:
        record = read_json(metrics_file(folder, slug))
        mine = frame[frame["run"] == slug].set_index("metric")
        for name in METRICS:
            expected = record["metrics"][name]
            assert mine["value"][name] == expected or (expected is None and math.isnan(mine["value"][name])), name
            assert mine["reason"][name] == ("" if expected is not None else record["metrics"]["null_reasons"][name])
        assert {name: mine[name].iloc[0] for name in ("dataset", "method", "seed", "loss", "tte")} == {
            name: record["spec"][name] for name in ("dataset", "method", "seed", "loss", "tte")
        }
    gamma = frame.drop_duplicates("run").set_index("run")["loss.gamma"]
    assert gamma[SLUGS[2]] == 3 and gamma[list(SLUGS[:2])].isna().all()


def test_values_as_a_study_writes_them(folder):
    frame = pel.results(folder, ["tail", "parameters.head", "metrics.per_class.2"])
    record = read_json(metrics_file(folder, SLUGS[0]))
    mine = frame[frame["run"] == SLUGS[0]].set_index("metric")["value"]
    assert mine["tail"] == record["metrics"]["tail"] and mine["parameters.head"] == record["parameters"]["head"]
    assert mine["metrics.per_class.2"] == record["metrics"]["per_class"][2]
    with pytest.raises(pel.PelError, match=r"unknown value 'tial'.*Did you mean 'tail'"):
        pel.results(folder, ["tial"])
    with pytest.raises(pel.PelError, match="is 'adaptformer', not a number"):
        pel.results(folder, ["spec.method"])


def test_what_cannot_be_used_is_left_out_by_name(folder, caplog, capsys):
    old, torn, other = SLUGS
    record = read_json(metrics_file(folder, old))
    write_json(metrics_file(folder, old), record | {"versions": record["versions"] | {"train": 0}})
    metrics_file(folder, torn).write_text("{")
    extra = "demo-cifar-ir100.clip-mini.ln.s2"
    write_json(run_folder(folder, extra) / "train.json", {"slug": extra})
    strange = folder / "runs" / "some-notes"
    strange.mkdir()
    (strange / "metrics.json").write_text("{}")
    frame = pel.results(folder)
    assert set(frame["run"]) == {other}
    left = frame.attrs["left_out"]
    assert left.keys() == {old, torn, extra, "some-notes"}
    assert "stale: trained by version 0" in left[old] and f"python -m pel_core evaluate '{extra}'" in left[extra]
    assert "is not a run" in left["some-notes"]
    told = capsys.readouterr().err
    assert all(f"left out: {slug}" in told for slug in left)
    accepted = pel.results(folder, accept=[old])
    assert set(accepted["run"]) == {old, other}


def test_runs_without_any_result_make_an_empty_frame(tmp_path):
    write_json(run_folder(tmp_path, SLUGS[0]) / "train.json", {"slug": SLUGS[0]})
    frame = pel.results(tmp_path)
    assert frame.empty and list(frame.columns[:3]) == ["run", "metric", "value"] and len(frame.attrs["left_out"]) == 1


def test_where_there_is_nothing_the_error_says_where_to_look(folder, tmp_path, monkeypatch):
    with pytest.raises(pel.PelError, match=r"the results folder .*none does not exist \(looked from"):
        pel.results(tmp_path / "none")
    (tmp_path / "empty" / "deep" / "er").mkdir(parents=True)
    with pytest.raises(pel.PelError, match=r"holds no runs .*make study, snakemake or pel.train make some"):
        pel.results(tmp_path / "empty" / "deep" / "er")
    for near in ("runs", f"runs/{SLUGS[0]}"):
        with pytest.raises(pel.PelError, match=f"is no results folder, {folder} is: give that one"):
            pel.results(folder / near)
    with pytest.raises(pel.PelError, match="an empty path"):
        pel.results("")


def test_a_training_that_was_evaluated_in_another_way_alone_is_not_told(folder):
    base, other = SLUGS[:2]
    write_json(run_folder(folder, base) / "train.json", {"slug": base})
    metrics_file(folder, base).unlink()
    frame = pel.results(folder)
    assert other in set(frame["run"]) and base not in set(frame["run"]) and frame.attrs["left_out"] == {}


def test_a_frame_pivots(folder):
    wide = pel.results(folder, ["overall", "tail"]).pivot(index="run", columns="metric", values="value")
    assert wide.shape == (3, 2) and isinstance(wide, pd.DataFrame)
    shutil.rmtree(folder / "runs" / "demo-cifar-ir100.clip-mini.ln.s1.loss=focal.loss.gamma=3")
    assert fake_record(RunSpec.parse(SLUGS[0]))["metrics"]["tail"] == wide["tail"][SLUGS[0]]
