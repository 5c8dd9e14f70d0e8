"""Every option once from the command line to metrics.json, on the toy backbone and data; what each changes and leaves."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.models.backbones import BACKBONES
from pel_core.models.class_texts import prepare_text
from pel_core.models.methods import METHODS, methods_for
from pel_core.models.prompts import lacking
from pel_core.models.weights import load_vit
from pel_core.spec.choices import CHOICES, METRICS
from pel_core.spec.options import RECIPES
from pel_core.spec.results import metrics_file
from pel_core.spec.run_spec import DEFAULTS, RunSpec
from pel_core.training.classifier import adapter_dim, build
from pel_core.training.run_inputs import load

CPU = torch.device("cpu")
# The toy data set has no templates of its own, and no configuration here that has text sets (test_text_sets.py).
PROMPTS_OF_ALL = [name for name in CHOICES["prompt"] if not lacking(name, "toy") and name != "texts"]


@pytest.fixture(scope="module")
def results(toy_results, tmp_path_factory):
    """A results folder of its own with the class-text features of every prompt."""
    folder = tmp_path_factory.mktemp("options") / "results"
    shutil.copytree(toy_results, folder, ignore=shutil.ignore_patterns("runs"))
    names = read_json(folder / "data" / "toy" / "data.json")["class_names"]
    descriptions = folder / "descriptions.json"
    descriptions.write_text(json.dumps({name: [f"a thing that is {name}.", f"{name} all over."] for name in names}))
    for prompt in PROMPTS_OF_ALL:
        out = folder / "text" / "toy" / f"toy.{prompt}.safetensors"
        prepare_text(folder / "backbones" / "toy", folder / "data" / "toy", prompt, out, descriptions=descriptions)
    return folder


def run(results, method="adaptformer", **options):
    """Train and evaluate; returns the record."""
    spec = RunSpec.make("toy-ir20", "toy", method, 0, **{"epochs": 1, **options})
    for slug in spec.ancestors:
        assert main(["train", slug, "--results", str(results)]) == 0
    if spec.trains:
        assert main(["train", spec.train.slug, "--results", str(results)]) == 0
    assert main(["evaluate", spec.slug, "--results", str(results)]) == 0
    return read_json(metrics_file(results, spec.slug))


def fresh(results, method="adaptformer", seed=0, **options):
    """The untrained classifier of a run."""
    spec = RunSpec.make("toy-ir20", "toy", method, seed, **options)
    return load(spec, results, CPU, fresh=True)[1]


PARENT = {"parents": "adaptformer,epochs:1"}
TWO = {"parents": "adaptformer,seed:0+1,epochs:1,data.val:0.3", "data.val": 0.3}
# What a word needs to have an effect.
BESIDE = {("accumulation", "reference"): {"accumulate": 4}, ("head", "knn"): {"epochs": 0}, ("head", "rac"): {"epochs": 0}}
BESIDE[("head", "language-guided")] = {"prompt": "descriptions"}
BESIDE |= {("take", "delta"): PARENT, ("take", "head"): PARENT, ("sampler", "progressive"): {"epochs": 2}}
BESIDE |= {
    ("average", "swa"): {"average.every": "step"},
    ("soup", "uniform"): TWO,
    ("soup", "greedy"): TWO,
    ("soup", "fold"): TWO,
}
CHOSEN = {**CHOICES, "prompt": PROMPTS_OF_ALL}
WORDS = [(name, word) for name, words in CHOSEN.items() for word in words if (name, word) != ("split", "val")]
NUMBERS = [
    ("mask", {"mask_ratio": 0.1}),
    ("mask@1:3", {"mask_seed": "run"}),
    ("mask", {"mask_seed": 7}),
    ("adaptformer", {"delta_seed": 7}),
    ("adaptformer", {"wise_ft": 0.5}),
    ("adaptformer", {"adapter_scale": 0.1}),
    ("adaptformer@2:4", {"adapter_dim": "auto-tuned"}),
    ("adapter+lora", {"adapter_dim": 32}),
    ("vpt-deep", {"vpt_len": 3}),
    ("adaptformer", {"resolution": 24}),
    ("adaptformer", {"native": 7}),
    ("adaptformer", {"accumulate": 3}),
    ("adaptformer", {"train_head": False}),
    ("adaptformer", {"train_delta": False, **PARENT}),
    ("head-only", {"tau": 0.5, "scale": 15, "lr": 0.1, "momentum": 0, "weight_decay": 0, "batch_size": 50}),
    ("head-only", {"tte": "randaug", "crops": 3}),
    ("head-only", {"tte": "tencrop", "expand": 5}),
    ("head-only", {"crop_min_scale": 0.5, "augment": "mda-linear", "epochs": 3}),
]


@pytest.mark.parametrize(("name", "word"), WORDS)
def test_every_word_runs(results, name, word):
    record = run(results, **{name: word}, **BESIDE.get((name, word), {}))
    assert record["spec"][name] == word and record["metrics"]["overall"] >= 0
    assert record["evaluation"]["crops"] == RunSpec.parse(record["slug"]).views
    if word == "descriptions":
        assert len(record["descriptions"]) == 64


@pytest.mark.parametrize(("method", "options"), NUMBERS)
def test_every_number_runs(results, method, options):
    record = run(results, method, **options)
    assert {name: record["spec"][name] for name in options} == options


@pytest.mark.parametrize("method", methods_for("vit"))
def test_every_method_runs(results, method):
    record = run(results, method, epochs=0 if method == "zero-shot" else 1)
    assert record["parameters"]["learnable"] == sum(record["parameters"]["by_part"].values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs(results, recipe):
    record = run(results, "adaptformer@2:4", recipe=recipe, epochs=2)
    assert record["spec"]["recipe"] == recipe
    lift_plus = recipe == "lift+"
    assert (record["spec"]["augment"] == "mda") == lift_plus and (record["spec"]["interpolation"] == "bicubic") == lift_plus


def test_every_field_is_run_here():
    tried = {name for name, _ in WORDS} | {name for _, options in NUMBERS for name in options} | {"recipe"}
    tried |= {"image_cache", "evaluate_on"}  # need image files, another data set: test_image_cache.py, test_evaluate_on.py
    assert tried == set(DEFAULTS)


def test_no_split_to_choose_on_is_named(results, capsys):
    run(results)
    assert main(["evaluate", "toy-ir20.toy.adaptformer.s0.epochs=1.split=val", "--results", str(results)]) == 1
    assert "has no split 'val'" in capsys.readouterr().err


# What options change


CHANGES = [{"interpolation": "bicubic"}, {"augment": "mda"}, {"init": "class-mean"}, {"prompt": "ensemble"}, {"adapter_scale": 1}]


@pytest.mark.parametrize("options", CHANGES)
def test_training_options_change_what_is_trained(results, options):
    changed, plain = run(results, **options), run(results)
    head = [load_file(results / "runs" / record["slug"] / "delta.safetensors")["head.weight"] for record in (changed, plain)]
    assert not torch.equal(*head)
    assert changed["metrics"]["nll"] != plain["metrics"]["nll"]


def test_evaluation_options_share_the_training_run(results):
    plain = run(results)
    for options in ({"tte": "randaug", "crops": 2}, {"expand": 6}):
        record = run(results, **options)
        assert record["metrics"]["nll"] != plain["metrics"]["nll"]
        assert not (results / "runs" / record["slug"] / "delta.safetensors").exists()


def test_random_crops_repeat(results):
    path = metrics_file(results, run(results, tte="randaug")["slug"]).with_name("logits.safetensors")
    before = load_file(path)["logits"]
    path.unlink()
    run(results, tte="randaug")
    assert torch.equal(load_file(path)["logits"], before)


def test_a_fixed_scale_does_not_train(results):
    learnable, fixed = fresh(results), fresh(results, adapter_scale=0.5)
    scales = {f"adaptformer.{block}.ffn.scale" for block in range(4)}
    assert learnable.trainable().keys() - fixed.trainable().keys() == scales
    assert learnable.census()["learnable"] - fixed.census()["learnable"] == 4
    state = fixed.trainable_state()
    one = fresh(results, adapter_scale=1)
    images = torch.randn(2, 3, 16, 16)
    for classifier, factor in ((fixed, 1.0), (one, 0.5)):
        for name, value in classifier.trainable().items():
            if name.endswith("up.weight"):
                value.data = torch.full_like(state[name], 0.01 * factor)
    with torch.no_grad():
        torch.testing.assert_close(fixed(images), one(images))


def test_masks_follow_their_seed(results):
    def chosen(seed, **options):
        return fresh(results, "mask", seed, **options).vit.blocks[0].attn.qkv.delta.index_weight.tolist()

    assert chosen(0) == chosen(1) == chosen(1, mask_seed=0)
    assert chosen(0, mask_seed="run") == chosen(0) != chosen(1, mask_seed="run")
    assert chosen(0, mask_seed=1) == chosen(1, mask_seed="run")


@pytest.mark.parametrize("method", ["lora", "adaptformer", "vpt-deep", "ssf-attn"])
def test_deltas_start_where_their_seed_says(results, method):
    def start(seed, **options):
        return torch.cat([tuned.parameter.detach().flatten() for tuned in fresh(results, method, seed, **options).tuned])

    assert not torch.equal(start(0), start(1))
    assert torch.equal(start(0, delta_seed=5), start(1, delta_seed=5)) and torch.equal(start(0, delta_seed=5), start(5))


def test_the_mask_ratio_is_the_share_that_trains(results):
    classifier = fresh(results, "mask@0:1", mask_ratio=0.25)
    entries = {"attn.qkv": 96 * 33, "attn.proj": 32 * 33, "ffn.fc1": 128 * 33, "ffn.fc2": 32 * 129}
    assert classifier.census()["learnable"] == sum(int(0.25 * count) for count in entries.values())


@pytest.mark.parametrize(
    ("method", "rule", "classes", "dim"),
    [
        ("adaptformer", "auto", 100, 8), ("adaptformer@2:4", "auto", 100, 8), ("adaptformer@2:4", "auto-tuned", 100, 16),
        ("adaptformer", "auto-tuned", 100, 8), ("adaptformer@3:4+lora@0:1", "auto-tuned", 100, 16), ("ln", "auto", 100, 8),
        ("adaptformer@3:4+ln", "auto-tuned", 40, 16), ("adaptformer", "auto", 3, 1), ("adaptformer", 5, 1000, 5),
    ],
)  # fmt: skip
def test_rules_of_the_rank(method, rule, classes, dim):
    assert adapter_dim(RunSpec.make("toy", "toy", method, 0, adapter_dim=rule), classes) == dim


def test_the_rules_on_clip():
    """The reference's numbers, and LIFT+'s for half of the blocks."""
    for classes, whole, half in ((100, 4, 8), (365, 8, 16), (1000, 32, 64), (8142, 256, 512)):
        cases = ("adaptformer", "auto", whole), ("adaptformer@6:12", "auto", whole), ("adaptformer@6:12", "auto-tuned", half)
        for method, rule, dim in cases:
            assert adapter_dim(RunSpec.make("places-lt", "clip-b16", method, 0, adapter_dim=rule), classes) == dim


def test_a_rule_above_the_width_is_refused(results):
    spec = RunSpec.make("toy", "toy", "adaptformer@3:4", 0, adapter_dim="auto-tuned", init="random")
    vit, text, _ = load_vit(results / "backbones" / "toy")
    with pytest.raises(PelError, match="is 64 for 128 classes, above the width 32"):
        build(spec, vit, 128, text)


def test_a_linear_head_starts_from_text(results):
    cosine, linear = fresh(results), fresh(results, head="linear")
    assert torch.equal(cosine.head.weight, linear.head.weight) and not linear.head.bias.any()


def test_other_descriptions_are_another_training_run(results, capsys):
    slug = run(results, "head-only", prompt="descriptions")["slug"]
    path = results / "runs" / slug / "train.json"
    path.write_text(path.read_text().replace(read_json(path)["descriptions"], "0" * 64))
    assert main(["evaluate", slug, "--results", str(results)]) == 1
    assert "descriptions" in capsys.readouterr().err


def test_another_text_set_of_the_same_name_is_another_training_run(results, capsys):
    out = results / "text" / "toy" / "toy.texts:mine.safetensors"
    folders = results / "backbones" / "toy", results / "data" / "toy"
    prepare_text(*folders, "texts:mine", out, texts={"templates": ["a {}."]})
    slug = run(results, "head-only", prompt="texts:mine")["slug"]
    assert slug.endswith(".prompt=texts:mine")
    prepare_text(*folders, "texts:mine", out, texts={"templates": ["the {}."]})
    assert main(["evaluate", slug, "--results", str(results)]) == 1
    assert "trained from another spec (texts)" in capsys.readouterr().err
    assert main(["train", slug, "--results", str(results)]) == 0  # made again, not taken for finished
    assert main(["evaluate", slug, "--results", str(results)]) == 0


# docs/options.md

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")


def test_the_document_names_every_option():
    quoted = set(re.findall(r"[\w+-]+", " ".join(re.findall(r"`([^`]+)`", DOCS))))
    words = [word for words in CHOICES.values() for word in words]
    assert not {*DEFAULTS, *words, *METHODS, *BACKBONES, *RECIPES} - quoted


def test_the_documents_tables_are_those_of_the_registries(tmp_path, capsys):
    pages = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("options.md", "studies.md")}
    for name, text in pages.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert main(["options", "--write", *(str(tmp_path / name) for name in pages)]) == 0
    for name, text in pages.items():
        again = f"run python -m pel_core options --write docs/{name}"
        assert (tmp_path / name).read_text(encoding="utf-8") == text, again
    copy = tmp_path / "options.md"
    assert main(["options"]) == 0 and "| `loss.gamma` | `focal` | `2` |" in capsys.readouterr().out
    copy.write_text("nothing")
    assert main(["options", "--write", str(copy)]) == 1 and "expected a file with the lines" in capsys.readouterr().err
    copy.write_text(DOCS.replace("<!-- end of options -->", ""))
    assert main(["options", "--write", str(copy)]) == 1 and "expected the line <!-- end of options -->" in capsys.readouterr().err


def test_the_table_of_metrics_hides_nothing():
    """Each metric has its definition, range, direction and what becomes of a class without a test image."""
    table = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8").split("<!-- metrics:")[1].split("\n\n")[0]
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in table.splitlines()[3:]]
    assert [row[0] for row in rows] == [f"`{entry.name}`" for entry in METRICS.entries() if not entry.plugin]
    assert all(len(row) == 8 and all(cell.strip() and "..." not in cell for cell in row) for row in rows)
    ece = next(row for row in rows if row[0] == "`ece`")
    assert "15 equal bins" in ece[3] and ece[4:6] == ["0 to 100 %", "lower"]
    assert {row[0]: row[6] for row in rows if row[6] != "none"} == dict.fromkeys(
        ("`hmean`", "`gmean_floor`"), "each class at least 0.001 %"
    )
