"""Classes that a text tower cannot tell apart, and texts that it cuts."""

import json

import open_clip
import pytest
from own_trees import fill, make
from safetensors import safe_open

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.models.prompt_tokens import check_prompts


@pytest.fixture(scope="module")
def tokenizer():
    return open_clip.get_tokenizer("ViT-B-16")


def prompts(*names: str) -> list[list[str]]:
    return [[f"a photo of a {name}."] for name in names]


@pytest.mark.parametrize(
    "one, other",
    [("Cat", "cat"), ("red  deer", "red deer"), ("caf\u00e9", "cafe\u0301"), ("\ufb01sh", "fish"), ("a &amp; b", "A & B")],
)
def test_names_that_the_tokenizer_reads_alike(tokenizer, one, other):
    with pytest.raises(PelError) as refused:
        check_prompts(prompts("dog", one, other), ["dog", one, other], tokenizer)
    assert f"{one!r} and {other!r}" in str(refused.value) and "class_names" in str(refused.value)
    assert "dog" not in str(refused.value)
    notes = check_prompts(prompts("dog", one, other), ["dog", one, other], tokenizer, allow_equal=True)
    assert len(notes) == 1 and f"{one!r} and {other!r}" in notes[0]


def test_names_that_differ_are_let_pass(tokenizer):
    names = ["cat", "cats", "caf\u00e9", "cafe", "10", "10.0", "Зубр", "寺"]
    assert check_prompts(prompts(*names), names, tokenizer) == []


def test_texts_that_agree_in_all_that_is_read(tokenizer, capsys):
    long = "very " * 80
    names = [f"{long}old oak", f"{long}young oak", "oak"]
    with pytest.raises(PelError, match=r"agree in all of the 77 tokens that it reads: 'very .*old oak' and 'very .*young oak'"):
        check_prompts(prompts(*names), names, tokenizer)
    notes = check_prompts(prompts(*names[1:]), names[1:], tokenizer)
    assert len(notes) == 1 and "the texts of 1 of 2 classes are longer than the 77 tokens" in notes[0]
    assert f"warning: {notes[0]}" in capsys.readouterr().err


def test_the_end_of_a_text_that_just_fits_counts(tokenizer):
    """The tower sees 77 tokens, of which the last ends the text: one that fits may equal one that is cut."""
    fits = next(n for n in range(60, 80) if len(tokenizer.encode("x " * n)) == 75)
    assert check_prompts([["x " * fits]], ["x"], tokenizer) == []
    sentences = [["x " * fits], ["x " * fits + "y"]]
    assert (tokenizer(sentences[0]) == tokenizer(sentences[1])).all()
    with pytest.raises(PelError, match="cannot tell these classes apart"):
        check_prompts(sentences, ["one", "two"], tokenizer)


def test_all_sentences_of_a_class_count(tokenizer):
    sentences = [["a cat", "a big cat"], ["A cat", "a small cat"], ["a BIG cat", "a cat"]]
    with pytest.raises(PelError, match="'one' and 'three'"):
        check_prompts(sentences, ["one", "two", "three"], tokenizer)


@pytest.mark.parametrize("backbone", ["clip-mini", "toy"])
def test_a_head_from_text_needs_classes_that_differ(tmp_path, capsys, backbone):
    """As the pipeline does it: data of a user's own stop, published names are told."""
    one, other = ("Cat", "cat") if backbone == "clip-mini" else ("cat_a", "cat a")  # the toy backbone has no tokenizer
    make(fill(tmp_path / "images", {one: 3, other: 3, "dog": 3}), tmp_path / "data")
    if backbone == "toy":
        one = "cat a"
    assert main(["backbone", backbone, "--out", str(tmp_path / "backbone")]) == 0
    words = [
        "text",
        "--backbone-dir",
        str(tmp_path / "backbone"),
        "--data-dir",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "t"),
    ]
    assert main(words) == 1 and not (tmp_path / "t").exists()
    told = capsys.readouterr().err
    assert f"{one!r} and {other!r}" in told and "init=class-mean" in told
    about = read_json(tmp_path / "data/data.json")
    write_json(tmp_path / "data/data.json", about | {"name": "imagenet-lt"})
    assert main(words) == 0
    with safe_open(tmp_path / "t", "pt") as file:
        assert f"{one!r} and {other!r}" in json.loads(file.metadata()["notes"])[0]
