"""Several text sets in one study: what a configuration says of them, and what follows when it says something else."""

import json
from pathlib import Path

import pytest
import yaml

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.datasets import split_name
from pel_core.models.class_texts import prepare_text
from pel_core.models.text_sets import make_text_set
from pel_core.studies.inputs import other_inputs
from pel_core.studies.plan import plan
from pel_core.studies.study import load

CONFIGS = Path(__file__).parents[2] / "workflow/config"
STUDY = {
    "title": "Texts",
    "roles": {"toy": "Toy"},
    "tables": {
        "t": {
            "title": "T",
            "where": {"dataset": "toy-ir20"},
            "rows": [
                {"label": "default"},
                {"label": "{}", "sweep": "prompt", "values": ["texts:short", "texts:spoken"]},
                {"label": "head", "method": "head-only", "init": "random"},
            ],
            "columns": [{"label": "all", "method": "adaptformer", "value": "overall"}],
        }
    },
}
STUDY["tables"]["t"]["rows"][2].pop("method")
TEXTS = {"short": {"templates": ["a {}."]}, "spoken": {"names": "names.json", "prompt": "classname"}}
SLUG = "toy-ir20.toy.adaptformer.s0"


@pytest.fixture
def make(tmp_path):
    """The study with these text sets of the toy data set."""
    (tmp_path / "names.json").write_text("{}")

    def study(texts=TEXTS, base="toy"):
        config = {"title": "C", "backbone": "toy", "seeds": [0], "data": {"toy": "toy"}, "texts": {base: texts}}
        for name, content in (("study", STUDY), ("config", config)):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path / "results")

    return study


def params(study):
    """What each row's training and evaluation depend on."""
    return {slug: (study.train_params(slug), study.predict_params(slug)) for slug in study.specs}


def test_rows_lie_over_several_text_sets(make, tmp_path):
    study = make()
    assert {f"{SLUG}.prompt=texts:short", f"{SLUG}.prompt=texts:spoken", SLUG} < {*study.specs}
    assert study.descriptions("toy", "texts:spoken") == [str(tmp_path / "names.json")]
    assert study.descriptions("toy", "texts:short") == study.descriptions("toy", "tower") == []
    assert study.prepared(f"{SLUG}.prompt=texts:short")["text"].endswith("text/toy/toy.texts:short.safetensors")
    assert study.text_option("toy", "default") == ""
    option = study.text_option("toy", "texts:short")
    assert option.startswith("--texts='{") and option.endswith(make_text_set("x", "toy", TEXTS["short"]).digest())


def test_other_texts_are_other_runs_and_no_others(make, tmp_path):
    first = params(make())
    assert params(make({**TEXTS, "short": {"templates": ["a {}."], "source": "me"}})) == first
    changed = params(make({**TEXTS, "short": {"templates": ["the {}."]}}))
    assert {slug for slug in first if changed[slug] != first[slug]} == {f"{SLUG}.prompt=texts:short"}
    (tmp_path / "names.json").write_text("{ }")
    changed = params(make())
    assert {slug for slug in first if changed[slug] != first[slug]} == {f"{SLUG}.prompt=texts:spoken"}
    assert all(new != old for new, old in zip(changed[f"{SLUG}.prompt=texts:spoken"], first[f"{SLUG}.prompt=texts:spoken"]))


def test_features_of_other_texts_are_noticed(make, toy_results, tmp_path):
    study = make()
    path = study.prepared(f"{SLUG}.prompt=texts:short")["text"]
    prepare_text(toy_results / "backbones" / "toy", toy_results / "data" / "toy", "texts:short", path, texts=TEXTS["short"])
    assert path not in other_inputs(study, {})
    study = make({**TEXTS, "short": {"templates": ["the {}."]}})
    assert "the texts are not those that" in other_inputs(study, {})[path]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"short": TEXTS["short"]}, r"config\.yaml: unknown text set of toy: 'spoken'; known: short"),
        ({**TEXTS, "spoken": {"names": "none.json"}}, r"none\.json does not exist"),
        ({**TEXTS, "short": {"templates": ["a photo"]}}, "the template 'a photo' is not possible; expected .*exactly one"),
        ({**TEXTS, "short": {"templates": "none.txt"}}, r"none\.txt does not exist"),
        ({**TEXTS, "short": {"templates": 3}}, r"texts\.toy\.short\.templates: found 3"),
        ({**TEXTS, "short": {"template": ["{}"]}}, "unknown key 'template'"),
        ({**TEXTS, "short": {"templates": ["{}"], "prompt": "default"}}, "exclude each other"),
        ({**TEXTS, "Short": {}}, "texts.toy"),
    ],
)
def test_text_sets_that_are_refused_before_anything_is_planned(make, texts, message):
    with pytest.raises(PelError, match=message):
        make(texts)


def test_text_sets_are_of_data_sets_that_there_are(make):
    with pytest.raises(PelError, match="texts: unknown data set 'toi'"):
        make(base="toi")


def test_the_demo_names_every_class_of_its_stand_in():
    study = load("prompts", "demo")
    names = [*read_json(study.descriptions("demo-imagenet", "descriptions")[0])]
    spoken = study.text_set("demo-imagenet", "texts:synonyms").sentences(names)
    assert len(spoken) == 30 and spoken[names.index("lime plain tee")] == ["a photo of a lime solid tee."]
    assert json.dumps(spoken).count("disc") == 0


def test_a_swept_prompt_without_words_is_left_out_and_named(make, tmp_path):
    config = {"title": "C", "backbone": "toy", "seeds": [0], "data": {"toy": "toy"}}
    make()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    study = load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path / "results")
    assert [row["label"] for row in study.artefacts["t"].declaration["rows"]] == ["default", "head"]
    assert study.left_out == {f"texts:{name} of t": "the config has no `texts`" for name in TEXTS}
    assert "Leaves out texts:short of t, texts:spoken of t: the config has no `texts`." in plan(study)


SHIPPED = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIGS.glob("*.yaml")}
FIXED = {("tour", "images"), ("subsets", "images")}  # another subset is asked for of lists, of which there is one


@pytest.mark.parametrize(
    "config", [name for name, content in SHIPPED.items() if "backbone" in content and "roles" not in content]
)
def test_every_shipped_study_has_its_words_on_every_shipped_configuration(config, monkeypatch):
    """`baselines` on images.yaml once asked for descriptions that this configuration cannot have."""
    monkeypatch.setenv("PEL_DATA", "nowhere")
    for name in [name for name, content in SHIPPED.items() if "roles" in content]:
        try:
            study = load(name, config)
        except PelError as error:
            reason = "needs a subset that the run draws" if (name, config) in FIXED else "makes nothing"
            assert reason in str(error), (name, config)
            continue
        for spec in study.specs.values():
            study.descriptions(split_name(spec.dataset)[0], spec.prompt)
