"""CoOp and the tuned text tower: beside open_clip's and a plain one (values, gradients, steps), in chunks, and refused."""

import math
import shutil

import pytest
import torch
from torch.nn import functional as F

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.tensors import read_tensors, write_tensors
from pel_core.demo.clip_files import FOLDER, load_model, tokenizer
from pel_core.evaluation.trained_run import open_run
from pel_core.models.methods import METHODS
from pel_core.models.text_heads import _fits
from pel_core.models.text_source import TextSource
from pel_core.models.text_tower import load_tower, tower_tensors
from pel_core.spec.run_spec import RunSpec
from pel_core.training.optimizers import parameter_groups
from pel_core.training.run_inputs import load

CPU = torch.device("cpu")
NAMES = ["red circle", "two blue squares", "a long yellow stripe on green", "moon"]


def fresh(results, method="head-only", **options):
    spec = RunSpec.make("toy-ir20", "toy", method, 3, **options)
    return load(spec, results, CPU, fresh=True)[1]


@pytest.fixture(scope="module")
def text(toy_results):
    """The toy's file of texts."""
    return read_tensors(toy_results / "text" / "toy" / "toy.tower.safetensors")[0]


# The tower


@torch.no_grad()
def test_the_tower_is_open_clips():
    """Features of 'a photo of a NAME.' from the file of texts, whose tokens are other numbers and whose padding is cut."""
    made = tower_tensors(TextSource("clip-mini", NAMES))
    model, read = load_model(FOLDER), tokenizer(FOLDER)
    expected = F.normalize(model.encode_text(read([f"a photo of a {name}." for name in NAMES])), dim=-1)
    torch.testing.assert_close(made["text.features"].clone(), expected, rtol=1e-4, atol=1e-5)
    assert len(made["text.tower.embedding"]) == len(set(made["text.tokens"].flatten().tolist() + made["text.words"].tolist()))
    assert len(made["text.words"]) == 4 and load_tower(made).tokens == 20


def plain_tower(text, context, updates):
    """CLIP's text features (C, E) of [context] NAME, class by class and head by head; ``updates``: LoRA's factors by block."""
    state = {name.removeprefix("text.tower."): value for name, value in text.items()}
    heads, rows = int(text["text.heads"]), []

    def norm(x, name):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    for tokens in text["text.tokens"]:
        end = int(tokens.argmax())
        own = state["embedding"][tokens[: end + 1]]
        x = torch.cat([own[:1], context, own[1:]])
        x = x + state["pos"][: len(x)]
        mask = torch.full((len(x), len(x)), -math.inf).triu(1)
        for block in range(2):
            here = f"blocks.{block}"
            y = norm(x, f"{here}.attn.norm")
            q, k, v = linear(y, f"{here}.attn.qkv").chunk(3, -1)
            if updates:
                (down_q, up_q), (down_v, up_v) = updates[block]
                q, v = q + y @ down_q @ up_q / down_q.shape[1], v + y @ down_v @ up_v / down_v.shape[1]
            mixed = [
                (a @ b.T / a.shape[1] ** 0.5 + mask).softmax(-1) @ c
                for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)
            ]
            x = x + linear(torch.cat(mixed, -1), f"{here}.attn.proj")
            hidden = linear(norm(x, f"{here}.ffn.norm"), f"{here}.ffn.fc1")
            x = x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{here}.ffn.fc2")
        rows.append(norm(x[-1], "norm") @ state["projection"])
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("coop", {"context": 3}),
        ("coop", {"context": 4, "words": True, "chunk": 4}),
        ("text-tower", {"rank": 2}),
        ("text-tower", {"context": 2}),
    ],
)
def test_training_is_a_plain_towers(toy_results, text, head, options):
    made = fresh(toy_results, head=head, **{f"head.{name}": value for name, value in options.items()}).head
    trained = {name: value for name, value in made.named_parameters() if value.requires_grad}
    values = {name: value.detach().clone().requires_grad_() for name, value in trained.items()}
    features, labels = torch.randn(7, 32, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 6
    words = text["text.tower.embedding"][text["text.words"]]

    def plain():
        updates = [
            [[values[f"tuned.lora/{block}/attn/qkv/{side}/{part}"] for side in ("down", "up")] for part in range(2)]
            for block in range(2)
        ] if head == "text-tower" else []  # fmt: skip
        rows = plain_tower(text, values.get("context", words), updates)
        f = features @ made.projection
        return 25 * (f / f.norm(dim=1, keepdim=True)) @ (rows / rows.norm(dim=1, keepdim=True)).T

    torch.testing.assert_close(made(features), plain(), rtol=1e-4, atol=1e-4)
    optimizer, speed = torch.optim.SGD(trained.values(), 0.02, 0.9), dict.fromkeys(values, 0.0)
    for step in range(3):
        optimizer.zero_grad()
        F.cross_entropy(made(features), labels).backward()
        gradients = torch.autograd.grad(F.cross_entropy(plain(), labels), list(values.values()))
        for name, gradient in zip(values, gradients, strict=True):
            if not step:
                torch.testing.assert_close(trained[name].grad, gradient, rtol=1e-3, atol=1e-5)
            speed[name] = 0.9 * speed[name] + gradient
        optimizer.step()
        with torch.no_grad():
            for name, value in values.items():
                value -= 0.02 * speed[name]
    for name, value in values.items():
        torch.testing.assert_close(trained[name].detach(), value.detach(), rtol=1e-3, atol=1e-5)
    made.refresh()
    torch.testing.assert_close(made(features), plain(), rtol=1e-3, atol=1e-3)
    assert torch.allclose(made.weight, F.normalize(made.rows().detach(), dim=-1), atol=1e-6)


def test_the_tower_takes_methods_with_a_rank():
    fit = {name for name in METHODS if _fits(name)}
    assert {"lora", "dora", "adaptformer", "adapter", "bias", "ln"} <= fit and not {"mask", "vpt-deep", "convpass"} & fit


@pytest.mark.parametrize("method", [name for name in METHODS if _fits(name)])
def test_every_method_that_fits_tunes_the_tower(toy_results, text, method):
    """And nothing that comes later changes what a token says: it stays causal."""
    head = fresh(toy_results, head="text-tower", **{"head.tuning": method}).head
    head.rows().square().sum().backward()
    assert all(value.grad is not None for value in head.tuned.values()) and len(head.tuned)
    tower, words = head._tower[0], torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))
    words[1, 5:] = 0
    one, other = tower(words, torch.tensor([4, 4])).detach(), tower(words[:1].expand(2, -1, -1), torch.tensor([4, 4])).detach()
    words[1, :5] = words[0, :5]
    torch.testing.assert_close(tower(words, torch.tensor([4, 4])).detach(), other, rtol=1e-4, atol=1e-5)
    assert not torch.equal(one[1], other[1])


def test_what_trains_in_the_tower_has_the_decay_of_its_kind(toy_results, text):
    """Norms, biases and the context without weight decay, where that is asked, as of the image tower."""
    options = {"head": "text-tower", "head.tuning": "adaptformer", "head.context": 4, "weight_decay": 0.1}

    def free(kinds):
        spec = RunSpec.make("toy-ir20", "toy", "head-only", 3, **options, **{"optimizer.no_decay": kinds})
        made = load(spec, toy_results, CPU, fresh=True)[1]
        without = {id(each) for group in parameter_groups(made, spec, no_decay=kinds) if not group["weight_decay"]
                   for each in group["params"]}  # fmt: skip
        return {
            name.rpartition(".")[2].partition("ffn/")[2] or name for name, each in made.trainable().items() if id(each) in without
        }

    assert free("prompts") == {"head.context"} and free("scales") == {"scale"}
    assert free("norms") == {"norm/weight", "norm/bias"} and free("biases") == {"down/bias", "up/bias"}


@pytest.mark.parametrize("method", ["lora", "adaptformer", "adapter", "ssf-attn", "ln", "bias", "lora+ln@1:2"])
def test_the_usual_methods_fit(method):
    """By name: the list above is of what is said to fit."""
    spec = RunSpec.make("toy-ir20", "toy", "head-only", 0, head="text-tower", **{"head.tuning": method})
    assert spec.knob("head.tuning") == method


def test_words_start_as_the_default_prompt(toy_results, text):
    for options in ({"head": "coop", "head.context": 4, "head.words": True}, {"head": "text-tower"}):
        head = fresh(toy_results, **options).head
        torch.testing.assert_close(F.normalize(head.rows(), dim=-1).detach(), text["text.features"], rtol=1e-4, atol=1e-5)
    assert fresh(toy_results, head="coop").head.context.std().item() == pytest.approx(0.02, rel=0.1)


def test_chunks_change_nothing(toy_results):
    """But the memory: each is computed again in the backward pass, of which only the tokens are kept."""
    found, kept = [], []
    for chunk in (256, 4):
        head = fresh(toy_results, head="text-tower", **{"head.chunk": chunk, "head.context": 2}).head
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            rows = head.rows()
        kept.append(sum(sizes))
        (rows * torch.arange(16)).sum().backward()
        found.append([rows.detach(), *(value.grad for value in head.parameters())])
    assert kept[1] < kept[0] / 20
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# A run


@pytest.mark.parametrize("slug", ["head-only.s0.epochs=1.head=coop", "adaptformer.s0.epochs=1.head=text-tower.head.tuning=bias"])
def test_a_run_classifies_without_its_text_tower(toy_results, tmp_path, slug):
    """From the command line; its checkpoint holds the rows, so that a copied run and the backbone will do."""
    slug, results = f"toy-ir20.toy.{slug}", tmp_path / "results"
    assert main(["train", slug, "--results", str(toy_results)]) == 0
    for name in (slug, f"{slug}.tte=none"):
        assert main(["evaluate", name, "--results", str(toy_results)]) == 0
    for part in ("backbones", f"runs/{slug}"):
        shutil.copytree(toy_results / part, results / part)
    record = read_json(results / "runs" / slug / "metrics.json")
    spec, classifier, _ = open_run(slug, results, CPU)
    assert record["parameters"] == read_json(results / "runs" / slug / "train.json")["parameters"]
    assert record["parameters"]["head"] == (16 * 24 if spec.head == "coop" else 2 * (24 + 72 + 24 + 24 + 48 + 24))
    again = load(spec, toy_results, CPU, fresh=True)[1]  # with the tower
    again.load_trainable(classifier.trainable_state())
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(classifier(images), again(images), rtol=1e-4, atol=1e-4)


def test_another_text_tower_than_the_trainings_is_refused(toy_results, tmp_path, capsys):
    slug, results = "toy-ir20.toy.head-only.s1.epochs=1.head=coop", tmp_path / "results"
    shutil.copytree(toy_results, results, ignore=shutil.ignore_patterns("runs"))
    assert main(["train", slug, "--results", str(results)]) == 0
    assert len(read_json(results / "runs" / slug / "train.json")["text_tower"]) == 64
    path = results / "text" / "toy" / "toy.tower.safetensors"
    tensors, about = read_tensors(path)
    write_tensors(path, tensors, about | {"text_tower": "0" * 64})
    assert main(["evaluate", slug, "--results", str(results)]) == 1
    assert "was trained from another spec (text_tower)" in capsys.readouterr().err


def test_a_subset_of_the_classes_has_its_own_texts(toy_results, text):
    spec = RunSpec.make("toy", "toy", "head-only", 0, head="coop", **{"data.classes": 3, "head.context": 4, "head.words": True})
    data, classifier, _ = load(spec, toy_results, CPU, fresh=True)
    rows = F.normalize(classifier.head.rows(), dim=-1).detach()
    torch.testing.assert_close(rows, text["text.features"][list(data.classes)], rtol=1e-4, atol=1e-5)


def test_which_file_of_texts_is_read():
    assert RunSpec.make("toy", "toy", "head-only", 0, head="coop").text_file == "tower"
    assert RunSpec.make("toy", "toy", "head-only", 0, prompt="ensemble").text_file == "ensemble"
    assert RunSpec.make("toy", "toy", "zero-shot", 0).text_file == "default"


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("dinov2-b14", {"head": "coop"}, "must be without a text tower (cosine, ...): dinov2-b14 has none of CLIP's"),
        ("siglip-b16", {"head": "text-tower"}, "(cosine, ...): siglip-b16 has none of CLIP's"),
        ("toy", {"head": "text-tower", "head.tuning": "lora+convpass"}, "must be frozen, or methods that act inside blocks"),
        ("toy", {"head": "coop", "init": "class-mean"}, "must be text: head=coop starts from what the text tower says"),
        ("toy", {"head": "coop", "prompt": "ensemble"}, "prompt=ensemble has no effect"),
        ("toy", {"head": "coop", "head.context": 0}, "at least 1"),
        ("toy", {"head": "text-tower", "head.tuning": "vpt-deep"}, "must be frozen, or methods that act inside blocks"),
        ("toy", {"head": "text-tower", "head.tuning": "mask"}, "must be frozen, or methods that act inside blocks"),
        ("toy", {"head": "text-tower", "head.tuning": "frozen"}, "a method, or context above 0"),
        ("toy", {"head": "text-tower", "head.tuning": "bias", "head.rank": 8}, "needs a head.tuning with a rank"),
        ("toy", {"head": "text-tower", "head.words": True}, "needs head.context above 0"),
        ("toy", {"head": "cosine", "head.context": 8}, "it needs head=coop or head=text-tower"),
    ],
)
def test_what_cannot_work_is_refused(backbone, options, message):
    with pytest.raises(PelError) as found:
        RunSpec.make("toy", backbone, "adaptformer", 0, **options)
    assert message in str(found.value)


def test_what_does_not_fit_the_tower_is_refused(toy_results):
    with pytest.raises(PelError, match=r"the text tower reads 40 tokens, .* takes \d+ of them; it must be at most"):
        fresh(toy_results, head="coop", **{"head.context": 39})
    with pytest.raises(PelError, match=r"head.words=true starts from 4 words: head.context must be 4, not 16"):
        fresh(toy_results, head="coop", **{"head.words": True})
    with pytest.raises(PelError, match="is not inside the 2 blocks"):
        fresh(toy_results, head="text-tower", **{"head.tuning": "lora@0:3"})
