"""Prompts as data, templates of data sets, and text sets: what they say of a class, and what each slip is told."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registries import set_entry
from safetensors import safe_open

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.registry import PLUGIN_MODULES, Plugin
from pel_core.models.class_texts import prepare_text, text_features
from pel_core.models.prompts import PROMPTS, Prompt, add_prompt, check_templates, templates
from pel_core.models.published_prompts import CLIP, COOP
from pel_core.models.text_sets import make_text_set, read_descriptions, read_names, read_templates, text_set
from pel_core.models.text_source import TextSource
from pel_core.spec.plugins import plugins_of
from pel_core.spec.run_spec import RunSpec

CLASSES = ["annual_crop", "sea"]


@pytest.mark.parametrize(
    ("prompt", "base", "first", "count"),
    [
        ("default", "dtd", "a photo of a {}.", 1),
        ("dataset", "food101", "a photo of {}, a type of food.", 1),
        ("dataset", "dtd", "{} texture.", 1),
        ("dataset", "eurosat", "a centered satellite photo of {}.", 1),
        ("dataset-ensemble", "caltech101", "a photo of a {}.", 34),
        ("dataset-ensemble", "dtd", "a photo of a {} texture.", 8),
        ("dataset-ensemble", "cifar100", "a photo of a {}.", 18),
    ],
)
def test_templates_of_data_sets(prompt, base, first, count):
    found = templates(prompt, base)
    assert found[0] == first and len(found) == count
    assert text_set(prompt, base) is None or text_set(prompt, base).sentences(["x_y"])[0][0] == first.format("x y")


def test_every_data_set_of_published_templates_is_one_of_ours():
    from pel_core.data.datasets import DATASETS

    assert not ({*COOP, *CLIP} - {*DATASETS})


def test_a_data_set_without_templates_is_refused_by_name():
    with pytest.raises(PelError, match=r"prompt=dataset is not possible here: places-lt has no templates of its own; .*dtd"):
        RunSpec.make("places-lt", "clip-b16", "adaptformer", 0, prompt="dataset")
    assert RunSpec.make("places-lt", "clip-b16", "adaptformer", 0, prompt="default").slug == "places-lt.clip-b16.adaptformer.s0"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("texts", "expected texts:NAME"),
        ("texts:", "expected texts:NAME"),
        ("texts:A/b", "expected texts:NAME"),
        ("ensemble:mine", "ensemble takes no name; texts:mine is a text set"),
        ("ensembel", "unknown prompt 'ensembel'.*Did you mean 'ensemble'"),
    ],
)
def test_prompts_that_there_are_not(prompt, message):
    with pytest.raises(PelError, match=message):
        RunSpec.make("toy", "toy", "adaptformer", 0, prompt=prompt)


def test_a_text_set_is_part_of_a_slug_and_of_a_parent():
    spec = RunSpec.make("toy", "toy", "zero-shot", 0, prompt="texts:my-words", epochs=0)
    assert spec.slug == "toy.toy.zero-shot.s0.prompt=texts:my-words" and RunSpec.parse(spec.slug) == spec
    child = RunSpec.make("toy", "toy", "adaptformer", 0, parents="adaptformer,prompt:texts:my-words")
    assert RunSpec.parse(child.slug).parent_specs[0].prompt == "texts:my-words"


@given(st.text(alphabet="a {}.", max_size=8))
def test_templates_have_one_place_for_the_name(line):
    possible = line.count("{}") == 1 and line.count("{") == line.count("}") == 1
    if possible:
        assert check_templates([line], "x") == [line] and "name" in line.format("name")
    else:
        with pytest.raises(PelError, match="with exactly one"):
            check_templates([line], "x")


@pytest.mark.parametrize(
    ("lines", "message"),
    [("a {}.", "expected a list"), (["{}", "{}"], "there twice"), ([3], "exactly"), (["{0}"], "exactly")],
)
def test_templates_that_are_none(lines, message):
    with pytest.raises(PelError, match=f"here: .*{message}"):
        check_templates(lines, "here")


def test_templates_of_a_file(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("# from nowhere\na {}.\n\nthe {}!\n")
    assert read_templates(path) == ["a {}.", "the {}!"]
    path.write_text("# nothing\n")
    with pytest.raises(PelError, match="holds no template"):
        read_templates(path)
    with pytest.raises(PelError, match=r"none\.txt does not exist"):
        read_templates(tmp_path / "none.txt")


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_names_as_they_are_spoken(tmp_path, suffix):
    path = tmp_path / f"names.{suffix}"
    path.write_text('class,name\nsea,"sea, or lake"\nannual_crop,yearly field\n')
    if suffix == "json":
        path.write_text(json.dumps({"sea": "sea, or lake", "annual_crop": "yearly field"}))
    assert read_names(path, CLASSES) == ["yearly field", "sea, or lake"]
    found = make_text_set("x", "toy", {"names": str(path), "templates": ["a {}.", "the {}."]}).sentences(CLASSES)
    assert found == [["a yearly field.", "the yearly field."], ["a sea, or lake.", "the sea, or lake."]]
    assert make_text_set("x", "toy", {"names": str(path)}).sentences(CLASSES)[0] == ["a photo of a yearly field."]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("n.json", '{"sea": "a"}', "leaves out 1 of 2 classes: annual_crop"),
        ("n.json", '{"sea": "a", "annual_crop": "b", "see": "c"}', "unknown class in .* 'see'.*Did you mean 'sea'"),
        ("n.json", '{"sea": "a", "annual_crop": ""}', "'annual_crop' has '', expected the name"),
        ("n.json", '{"sea": "a", "annual_crop": ["b"]}', "expected the name as it is spoken"),
        ("n.json", '{"sea": "a", "annual_crop": "b", "sea": "c"}', "'sea' is there twice"),
        ("n.json", '["sea"]', "holds a list"),
        ("n.json", "{", "cannot be read as JSON"),
        ("n.csv", "sea,a\nannual_crop,b\n", "expected the header class,name"),
        ("n.csv", "class,name\nsea,a,b\nannual_crop,b\n", "has 3 cells, expected 2"),
        ("n.csv", "class,name\nsea,a\nsea,b\nannual_crop,b\n", "'sea' is there twice"),
        ("n.csv", "", "begins with nothing"),
    ],
)
def test_names_that_cannot_be_used(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(PelError, match=message):
        read_names(tmp_path / name, CLASSES)


def test_a_class_that_is_described_twice_is_refused(tmp_path):
    (tmp_path / "d.json").write_text('{"sea": ["a."], "annual_crop": ["b."], "sea": ["c."]}')
    with pytest.raises(PelError, match="'sea' is there twice"):
        read_descriptions(tmp_path / "d.json", CLASSES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "says no text"),
        ({"source": "me"}, "says no text"),
        ({"template": ["{}"]}, "unknown key of here: 'template'.*Did you mean 'templates'"),
        ({"templates": ["{}"], "prompt": "default"}, "templates and prompt exclude each other"),
        ({"descriptions": "d.json", "names": "n.json"}, "names have no effect beside descriptions"),
        ({"prompt": "descriptions"}, "expected a prompt of templates: default, classname, ensemble"),
        ({"prompt": "texts:other"}, "expected a prompt of templates"),
        ({"prompt": "dataset"}, "toy has no templates of its own"),
    ],
)
def test_text_sets_that_contradict_themselves(given, message):
    with pytest.raises(PelError, match=message):
        make_text_set("here", "toy", given)


def test_the_digest_is_of_content_alone(tmp_path):
    made = []
    for folder, text in (("a", "{}"), ("b", "{}"), ("b", "{ }")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "n.json").write_text(text)
        made.append(make_text_set("x", "toy", {"names": str(tmp_path / folder / "n.json"), "source": folder}).digest())
    assert made[0] == made[1] != made[2]
    digests = {text_set(prompt, "dtd").digest() for prompt in ("dataset", "dataset-ensemble")}
    assert len(digests | {make_text_set("x", "dtd", {"templates": ["a {}."]}).digest()}) == 3
    assert text_set("ensemble", "dtd") is None


def test_features_of_a_text_set_say_what_they_are_made_of(toy_results, tmp_path, capsys):
    folders, out = (toy_results / "backbones" / "toy", toy_results / "data" / "toy"), tmp_path / "text.safetensors"
    given = {"templates": ["a {}.", "the {}."], "source": "nobody"}
    digest = make_text_set("x", "toy", given).digest()
    prepare_text(*folders, "texts:mine", out, texts=given, texts_sha256=digest)
    with safe_open(out, "pt") as handle:
        assert (handle.metadata()["texts"], handle.metadata()["source"]) == (digest, "nobody")
        assert handle.metadata()["prompt"] == "texts:mine"
    words = [
        "text",
        "--backbone-dir",
        str(folders[0]),
        "--data-dir",
        str(folders[1]),
        "--out",
        str(tmp_path / "again.safetensors"),
    ]
    assert main([*words, "--prompt", "texts:mine", "--texts", json.dumps(given)]) == 0
    assert (tmp_path / "again.safetensors").read_bytes() == out.read_bytes()
    assert main([*words, "--prompt", "texts:mine"]) == 1 and "no text set is given" in capsys.readouterr().err
    assert main([*words, "--prompt", "texts:mine", "--texts", "[3]"]) == 1 and "expected a mapping" in capsys.readouterr().err
    other = ["--texts", json.dumps(given | {"templates": ["{}"]}), "--texts-sha256", digest]
    assert main([*words, "--prompt", "texts:mine", *other]) == 1 and "they changed meanwhile" in capsys.readouterr().err


def test_a_text_set_of_the_default_template_gives_the_default_features():
    import torch.nn.functional as F

    from pel_core.models.prompt_tokens import check_prompts

    texts = make_text_set("x", "toy", {"templates": ["a photo of a {}."]})
    assert check_prompts(texts.sentences(CLASSES), CLASSES) == []
    model, names = "clip-mini", ["cyan ringed arrow", "lime plain tee"]
    ours = text_features(TextSource(model, names), "texts:x", texts=texts)
    torch.testing.assert_close(ours, text_features(TextSource(model, names), "default"), atol=1e-6, rtol=0)
    several = make_text_set("x", "toy", {"templates": ["a photo of a {}.", "the {}."]})
    mean = ours + text_features(TextSource(model, names), "texts:y", texts=make_text_set("x", "toy", {"templates": ["the {}."]}))
    torch.testing.assert_close(
        text_features(TextSource(model, names), "texts:z", texts=several), F.normalize(mean, dim=-1), atol=1e-6, rtol=0
    )


def test_a_plugin_adds_a_prompt_and_counts(monkeypatch, toy_results, tmp_path):
    set_entry(monkeypatch, PROMPTS, "mine", Prompt(("my {}.",), {"toy": ("toy {}.",)}, source="me"), about="mine")
    assert templates("mine", "toy") == ("toy {}.",) and templates("mine", "dtd") == ("my {}.",)
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer", 0, prompt="mine")
    assert plugins_of(spec) == {}
    entry = PROMPTS.entry("mine")
    monkeypatch.setitem(PROMPTS._entries, "mine", type(entry)(**{**vars(entry), "plugin": Plugin("my.py", "0" * 64)}))
    assert plugins_of(spec) == {"my.py": "0" * 64}
    assert plugins_of(RunSpec.make("toy-ir20", "toy", "adaptformer", 0)) == {} and PLUGIN_MODULES is not None
    folders = toy_results / "backbones" / "toy", toy_results / "data" / "toy"
    prepare_text(*folders, "mine", tmp_path / "text.safetensors")
    names = read_json(folders[1] / "data.json")["class_names"]
    with safe_open(tmp_path / "text.safetensors", "pt") as handle:
        assert handle.metadata()["texts"] == text_set("mine", "toy").digest()
        assert handle.get_tensor("text.features").shape[0] == len(names)


def test_two_classes_that_a_names_file_calls_alike(toy_results, tmp_path):
    folders = toy_results / "backbones" / "toy", toy_results / "data" / "toy"
    names = read_json(folders[1] / "data.json")["class_names"]
    (tmp_path / "n.json").write_text(json.dumps(dict.fromkeys(names, "a thing")))
    with pytest.raises(PelError, match="cannot tell these classes apart"):
        prepare_text(*folders, "texts:x", tmp_path / "text.safetensors", texts={"names": str(tmp_path / "n.json")})
    assert not (tmp_path / "text.safetensors").exists()


@pytest.mark.parametrize("name", ["tower", "My", "a/b", "texts:x"])
def test_names_that_no_prompt_may_have(name):
    with pytest.raises(PelError, match="expected a name of lower-case letters"):
        add_prompt(name, Prompt(("{}",)), "mine")
