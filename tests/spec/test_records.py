"""A metrics.json that was edited or damaged is refused by every reader: file, key, and the command that makes it again."""

import json
from math import isnan

import pytest
from fake_results import fake_record, write_results

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_bytes
from pel_core.reporting.figure_bars import bar_figure
from pel_core.reporting.runs import read_runs
from pel_core.reporting.runs_table import runs_files
from pel_core.spec.records import damage, why_none
from pel_core.spec.results import METRICS, metrics_file, read_record
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.cost import measured
from pel_core.studies.study import load

NAN, INF = float("nan"), float("inf")
DAMAGED = [
    ("metrics.overall", NAN, r"metrics\.overall is nan, not a number"),
    ("metrics.tail", INF, r"metrics\.tail is inf, not a number"),
    ("metrics.tail", -INF, r"metrics\.tail is -inf, not a number"),
    ("metrics.overall", "79.2", r"metrics\.overall is '79\.2', not a number"),
    ("metrics.overall", True, r"metrics\.overall is True, not a number"),
    ("metrics.overall", [79.2], r"metrics\.overall is \[79\.2\], not a number"),
    ("metrics.overall", None, r"metrics\.overall is null, and metrics\.null_reasons does not say why"),
    ("metrics.per_class", [1.0, NAN], r"metrics\.per_class\.1 is nan"),
    ("metrics.per_class", [1.0, "x"], r"metrics\.per_class\.1 is 'x', not a number"),
    ("metrics", [], r"metrics is \[\], not a mapping"),
    ("training.seconds", NAN, r"training\.seconds is nan"),
    ("training.curve", [{"loss": INF}], r"training\.curve\.0\.loss is inf"),
    ("parameters.learnable", NAN, r"parameters\.learnable is nan"),
    ("parameters.learnable", None, r"parameters\.learnable is None, not a count"),
    ("parameters.learnable", 3.5, r"parameters\.learnable is 3\.5, not a count"),
    ("data.test_images", -1, r"data\.test_images is -1, not a count"),
    ("parameters", None, r"parameters is None, not a mapping"),
]


@pytest.fixture
def study(tmp_path):
    study = load("report", "demo", seeds="0", results=tmp_path)
    write_results(tmp_path, study.specs)
    return study


def spoil(study, path, value):
    """Write a value into the result of a run of figure 3; returns the file."""
    slug = next(slug for slug in study.artefact("figure3").specs)
    file = metrics_file(study.results, slug)
    record = here = read_json(file)
    *parts, last = path.split(".")
    for part in parts:
        here = here[part]
    here[last] = value
    file.write_text(json.dumps(record))
    return file


@pytest.mark.parametrize(("path", "value", "said"), DAMAGED)
def test_every_reader_names_the_file_and_the_key(study, path, value, said):
    file = spoil(study, path, value)
    for read in (lambda: read_runs(study, study.artefact("figure3")), lambda: runs_files(study)):
        with pytest.raises(PelError, match=said) as caught:
            read()
        assert str(file) in str(caught.value) and "delete it and run again (make study)" in str(caught.value)
    assert said.split(" is ")[0].replace("\\", "") in study.state(file.parent.name)
    assert file.parent.name in study.missing()
    speed = measured(study, study.specs[file.parent.name].backbone)
    assert speed and not any(isnan(value) for value in (speed.train, speed.evaluate))


def test_a_number_too_large_for_a_float_is_refused_too(study):
    file = spoil(study, "metrics.overall", 1)
    file.write_text(file.read_text().replace('"overall": 1,', '"overall": 1e999,'))
    with pytest.raises(PelError, match=r"metrics\.overall is inf"):
        read_record(file)


def test_where_predictions_lie_the_command_scores_them(study):
    file = spoil(study, "metrics.overall", NAN)
    write_bytes(file.parent / "logits.safetensors", b"")
    command = rf"python -m pel_core score '{file.parent.name}' --results '{study.results}'"
    with pytest.raises(PelError, match=command):
        read_record(file)


def test_a_file_that_was_cut_off_is_told_the_same_way(study):
    file = spoil(study, "metrics.overall", 1)
    file.write_text(file.read_text()[:-40])
    with pytest.raises(PelError, match=r"is not valid JSON .*; delete it and run again \(make study\)"):
        bar_figure(study, "figure3")
    assert "not valid JSON" in study.state(file.parent.name)


def test_no_json_file_holds_a_nan(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, {"b": NaN}]}')
    with pytest.raises(PelError, match=r"a\.json: a\.1\.b is nan, not a number; delete it"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": NaN, "a": 1}')
    with pytest.raises(PelError, match=r"a key that is there twice is NaN"):
        read_json(tmp_path / "a.json")


def test_what_an_evaluation_writes_is_whole():
    record = fake_record(RunSpec.make("cifar100-ir100", "clip-b16", "adaptformer", 0))
    assert damage(record) == ""
    reasons = {"overall": "no test image", "per_class": "1 class has no test image"}
    reasons |= record["metrics"]["null_reasons"]
    record["metrics"] |= {"overall": None, "per_class": [None, 1.0], "null_reasons": reasons}
    assert damage(record) == ""
    assert why_none(record, "metrics.per_class.0") == "1 class has no test image"
    del record["metrics"][next(iter(METRICS))], record["parameters"]  # of a version that did not know it
    assert damage(record) == ""
