"""The one door for studies and configurations: what it lets in, what each slip is told, and the JSON schema made from it."""

import json
from types import MappingProxyType

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pel_core.cli.main import main
from pel_core.common import renames
from pel_core.common.errors import PelError
from pel_core.common.yaml_files import load_yaml
from pel_core.studies.config import WORKFLOW, read_config, read_study, sized
from pel_core.studies.kinds import FIGURES
from pel_core.studies.schema.configuration import Configuration
from pel_core.studies.schema.generate import json_schemas
from pel_core.studies.schema.study_file import figure_model, study_model
from pel_core.studies.schema.validation import validate

SHIPPED = sorted((WORKFLOW / "config").glob("*.yaml"))
SCHEMAS = {name: json.loads((WORKFLOW / "schemas" / f"{name}.schema.json").read_text()) for name in ("study", "config")}
STUDY = {"title": "Small", "roles": {"small": "Toy"}}
CONFIG = {"title": "Toy", "backbone": "toy", "seeds": [0], "data": {"small": "toy"}}
ROW, PART = {"label": "a", "method": "ln"}, {"a": {}, "b": {}, "over": [{}], "value": "overall", "expect": "lower"}
CURVE = {"kind": "curve", "title": "x", "x": "rate"}


def table(**changes):
    """A study of one table, with some keys changed."""
    return {"tables": {"t": {"title": "T", "rows": [ROW], "columns": [{"label": "b", "value": "tail"}], **changes}}}


def refused(content, model, **options) -> str:
    """What the error says."""
    with pytest.raises(PelError) as error:
        validate(content, model, "file.yaml", **options)
    assert str(error.value).startswith("file.yaml: ")
    return str(error.value).removeprefix("file.yaml: ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"figures": {"f": {"kind": "bras"}}}, f"figures.f.kind = 'bras'; known: {', '.join(FIGURES)}. Did you mean 'bars'?"),
        ({"figures": {"f": {"title": "x"}}}, "figures.f: the key 'kind' is missing; given: title"),
        ({"figures": {"f": 5}}, "figures.f: found 5, expected a mapping"),
        (
            {"figures": {"f": {"kind": "bars", "title": "x", "bars": [], "points": []}}},
            "figures.f: unknown key 'points'; known: axis, bars, digits, each, form, kind, note, "
            "seeds, series, title, tune, where, width. "
            "'points' is a key of kind: curve.",
        ),
        ({"figures": {"f": {**CURVE, "points": [{"at": "x"}]}}}, 'figures.f.points[0].at: found "x", expected a number'),
        ({"figures": {"f": {**CURVE, "points": [{"at": True}]}}}, "figures.f.points[0].at: found true, expected a number"),
        ({"figures": {"f": {**CURVE, "points": [{"label": "x"}]}}}, "figures.f.points[0]: the key 'at' is missing; given: label"),
        (
            {"figures": {"f": {**CURVE, "points": [{"sweep": "lr"}]}}},
            "figures.f.points[0]: the key 'values' is missing; given: sweep",
        ),
        ({"figures": {"f": {**CURVE, "points": [{"sweep": "lrr", "values": []}]}}}, "figures.f.points[0].sweep = 'lrr'; known: "),
        (table(rows=[{"label": "x", "1": 2}]), "tables.t.rows[0]: unknown key '1'; known: "),
        (table(rows=[{"lable": "x"}]), "tables.t.rows[0]: unknown key 'lable'; known: "),
        (
            table(rows=[{"label": "x", "loss": ["ce"]}]),
            'tables.t.rows[0].loss: found ["ce"], expected a text or a number or nothing',
        ),
        (table(rows=[{"label": "x", "lr": True}]), "tables.t.rows[0].lr: found true, expected a text or a number or nothing"),
        (
            table(info=["paramters"]),
            "tables.t.info[0] = 'paramters'; known: backbone, epochs, parameters, parameters_with_head. ",
        ),
        (table(info=[{"label": "x"}]), "tables.t.info[0]: the key 'value' is missing; given: label"),
        (table(digits=9), "tables.t.digits: found 9, expected a whole number from 0 to 6"),
        (table(seeds=[1, -1]), "tables.t.seeds[1]: found -1, expected a whole number of 0 or more"),
        (table(note=None), "tables.t.note: found null, expected a text that is not empty"),
        ({"tables": {7: {}}}, "tables: '7' is not a possible name here; expected a text (put it into quotes)"),
        ({"reported": None}, "reported: found null, expected a mapping"),
        (
            {"designs": {}},
            "(top level): unknown key 'designs'; known: claims, factorial, figures, max_runs, reported, roles, ",
        ),
        (
            {"claims": {"c": {"statement": "x", "parts": [{**PART, "expect": "hihger"}]}}},
            "claims.c.parts[0].expect = 'hihger'; known: ",
        ),
        (
            {"claims": {"c": {"statement": "x", "parts": [{**PART, "a": "CE"}]}}},
            'claims.c.parts[0].a: found "CE", expected a mapping of what it sets, e.g. {loss: ce}: a claim has no rows to name',
        ),
        (
            {"claims": {"c": {"statement": "x", "parts": [{**PART, "a": {"row": "CE"}}]}}},
            "claims.c.parts[0].a: unknown key 'row': a claim has no rows to name; write what the row sets, e.g. {loss: ce}",
        ),
        (
            {"claims": {"c": {"statement": "x", "parts": [{**PART, "margin": 0}]}}},
            "claims.c.parts[0].margin: found 0, expected a number above 0, in the value's unit",
        ),
    ],
)
def test_a_slip_in_a_study(changes, words):
    assert refused({**STUDY, **changes}, study_model()).startswith(words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tilte": "x"}, "(top level): unknown key 'tilte'; known: accept, backbone, cache_dir, "),
        ({"size": "big"}, "size = 'big'; known: full, small"),
        (
            {"data": {"small": {"datset": "toy"}}},
            "data.small: unknown key 'datset'; known: dataset, title. Did you mean 'dataset'?",
        ),
        ({"data": {"small": 3}}, "data.small: found 3, expected a text that is not empty"),
        ({"data": {}}, "data: found {}, expected a mapping of role to data set (or {dataset, title}), at least one"),
        ({"resources": {"gpu_share": 2}}, "resources.gpu_share: found 2, expected a number above 0 and at most 1"),
        (
            {"resources": {"gpu": 2}},
            "resources: unknown key 'gpu'; known: compile, gpu_share, gpus, mem_mb, runtime, threads. Did you mean ",
        ),
        ({"prefix_cache_gb": float("inf")}, "prefix_cache_gb: found Infinity, expected GB, a number of 0 or more"),
        ({"recipe": {"loss": ["ce"]}}, 'recipe.loss: found ["ce"], expected a text or a number or nothing'),
        ({"recipe": {"label": "x"}}, "recipe: unknown key 'label'; known: accumulate, "),
        (
            {"datasets": {"Mine": {}}},
            "datasets: 'Mine' is not a possible name here; expected lower-case letters, digits, - and _, ",
        ),
        ({"accept": ["a", "a"]}, 'accept: found ["a", "a"], expected a list of different texts'),
    ],
)
def test_a_slip_in_a_configuration(changes, words):
    assert refused({**CONFIG, **changes}, Configuration).startswith(words)


def test_the_first_slip_in_reading_order_is_told():
    assert refused({**STUDY, **table(digits=9, note=5)}, study_model()).startswith("tables.t.digits")
    assert refused({**STUDY, **table(note=5, digits=9)}, study_model()).startswith("tables.t.note")


def test_knobs_may_stand_where_fields_may():
    rows = [{"label": "x", "loss.gamma": 2, "optimizer.betas": [0.9, 0.95]}, {"sweep": "loss.gamma", "values": [1, 2]}]
    validate({**STUDY, **table(rows=rows, where={"vpt-shallow.length": 3})}, study_model(), "file.yaml")
    validate({**CONFIG, "recipe": {"loss.gamma": 2}}, Configuration, "file.yaml")


def test_values_stay_as_they_are_written(tmp_path):
    (tmp_path / "s.yaml").write_text(json.dumps({**STUDY, **table(rows=[{"label": 6, "lr": 5e-4, "seed": 1}])}))
    with pytest.raises(PelError, match="unknown key 'seed'"):
        read_study(tmp_path / "s.yaml")
    (tmp_path / "s.yaml").write_text(json.dumps({**STUDY, **table(rows=[{"label": 6, "lr": 5e-4}])}))
    assert read_study(tmp_path / "s.yaml")["tables"]["t"]["rows"] == [{"label": 6, "lr": 5e-4}]


LEAVES = st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=3) | st.sampled_from(["kind", "bars"])
KEYS = st.sampled_from(["kind", "rows", "label", "sweep", "values", "at", "title", "dataset", "loss.gamma", "x"]) | st.integers(
    0, 1
)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


def places(node, path=()):
    """The key path of every value in it."""
    yield path
    for key, item in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(item, (*path, key))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_stands_anywhere_is_let_in_or_told_in_one_line(data):
    """Never a traceback, and never pydantic's own words."""
    path = data.draw(st.sampled_from([file for file in SHIPPED if file.stem in ("report", "parameters", "demo", "own")]))
    content = json.loads(json.dumps(sized(load_yaml(path), "small")))
    *parents, last = data.draw(st.sampled_from([place for place in places(content) if place]))
    holder = content
    for key in parents:
        holder = holder[key]
    holder[last] = data.draw(ANYTHING)
    try:
        validate(content, study_model() if "roles" in content else Configuration, "file.yaml")
    except PelError as error:
        assert "\n" not in str(error) and "Input should" not in str(error) and "should match" not in str(error)


def test_no_file_may_name_plugins(tmp_path):
    for read, content in ((read_study, STUDY), (read_config, CONFIG)):
        (tmp_path / "a.yaml").write_text(json.dumps({**content, "plugins": ["mine.py"]}))
        with pytest.raises(
            PelError, match=r"a\.yaml: the key 'plugins' may not stand here, for .* cannot run code; .*command line"
        ):
            read(tmp_path / "a.yaml")


def test_data_commands_pass_the_same_door(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(json.dumps({"rots": {"imagenet-lt": "/x"}}))
    assert main(["data", "check", "toy", "--config", str(tmp_path / "c.yaml")]) == 1
    assert "unknown key 'rots'" in capsys.readouterr().err
    (tmp_path / "c.yaml").write_text(json.dumps({"check_images": "none"}))  # not what only a study needs
    assert main(["data", "check", "toy", "--config", str(tmp_path / "c.yaml")]) == 0
    with pytest.raises(PelError, match="the key 'title' is missing"):
        read_config(tmp_path / "c.yaml")


# The JSON schema.


def test_the_committed_schema_is_the_one_that_the_models_make(capsys):
    for name, text in json_schemas().items():
        assert (WORKFLOW / "schemas" / name).read_text(encoding="utf-8") == text, "python -m pel_core schema --write"
    assert {path.name for path in (WORKFLOW / "schemas").iterdir()} == json_schemas().keys()
    assert main(["schema"]) == 0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_fit_the_json_schema_as_they_are_written(path):
    content = load_yaml(path)
    jsonschema.Draft202012Validator(SCHEMAS["study" if "roles" in content else "config"]).validate(content)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_says_what_it_means(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    for owner, declared in {"": SCHEMAS[name], **SCHEMAS[name]["$defs"]}.items():
        for key, value in declared.get("properties", {}).items():
            meant = value if "$ref" not in value else SCHEMAS[name]["$defs"]["Fields"]["properties"].get(key, value)
            assert len(meant.get("description", "")) > 5, f"{owner}.{key}"


@pytest.mark.parametrize(
    ("entry", "fits"),
    [
        ({"root": "x", "train": "t", "test": "e", "names": "n"}, True),
        ({"kind": "auto", "root": "$PEL_DATA", "profile": "step", "ratios": 10, "class_names": {"a": "an A"}}, True),
        ({"kind": "folders", "root": "x", "file": "table.csv"}, False),
        ({"kind": "folder", "root": "x"}, False),
        ({"root": "x"}, False),
    ],
)
def test_an_editor_knows_the_keys_of_each_kind_of_data(entry, fits):
    validator = jsonschema.Draft202012Validator(SCHEMAS["config"])
    assert validator.is_valid({**CONFIG, "datasets": {"mine": entry}}) == fits


@pytest.mark.parametrize("kind", FIGURES)
def test_each_kind_of_figure_has_a_model_of_its_own(kind):
    fields = figure_model(FIGURES.entry(kind)).model_fields
    assert fields["kind"].annotation.__args__ == (kind,)
    assert {FIGURES[kind].rows, *(knob.name for knob in FIGURES.entry(kind).knobs)} <= {*fields}
    assert f'"const": "{kind}"' in json.dumps(SCHEMAS["study"])


# Old words.


@pytest.fixture
def silence(monkeypatch):
    """Nothing was warned of yet."""
    monkeypatch.setenv(renames.TOLD, "")


def test_an_old_key_works_and_is_warned_of_once(tmp_path, silence, capsys):
    (tmp_path / "c.yaml").write_text(json.dumps({**CONFIG, "own_lists": ["places-lt"]}))
    for _ in range(2):
        assert read_config(tmp_path / "c.yaml")["user_lists"] == ["places-lt"]
    assert capsys.readouterr().err.count("c.yaml: the key 'own_lists' is called 'user_lists' now") == 1
    (tmp_path / "c.yaml").write_text(json.dumps({**CONFIG, "own_lists": [], "user_lists": []}))
    with pytest.raises(PelError, match="'own_lists' is the old name of 'user_lists'; both are given, keep 'user_lists'"):
        read_config(tmp_path / "c.yaml")


def test_an_old_command_works_and_is_warned_of(silence, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("pel_core.cli.study_commands.open_study", lambda arguments: asked.append(arguments) or Empty)
    assert main(["calibrate", "--config", "cifar"]) == main(["measure-throughput"]) == 0
    assert [arguments.config for arguments in asked] == ["cifar", None]
    assert capsys.readouterr().err.count("the command 'calibrate' is called 'measure-throughput' now") == 1


class Empty:
    """A study without runs."""

    specs = MappingProxyType({})


def test_old_options_of_a_command_line(silence, monkeypatch):
    monkeypatch.setattr(renames, "OPTIONS", {"old": "new"})
    assert renames.renamed_words(["plan", "--old", "--old=3", "--older", "--", "--old"]) == [
        "plan", "--new", "--new=3", "--older", "--", "--old",
    ]  # fmt: skip
