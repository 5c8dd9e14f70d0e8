"""VL-LTR's head and its anchor sentences: against the public code's numbers and plain words, in chunks, in runs, and refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.logs import logger
from pel_core.common.tensors import read_tensors, write_tensors
from pel_core.data.batches import EvalBatches, TrainBatches
from pel_core.evaluation.trained_run import open_run
from pel_core.hardware.process_group import ProcessGroup
from pel_core.models.class_texts import text_features
from pel_core.models.prompts import says_several
from pel_core.models.sentences import sentence_tensors, sentences_of
from pel_core.models.text_source import TextSource
from pel_core.models.vl_ltr import LanguageGuided, sentence_losses
from pel_core.spec.run_spec import RunSpec
from pel_core.training.losses import make_loss
from pel_core.training.optimizers import parameter_groups
from pel_core.training.run_inputs import load
from pel_core.training.step import Step

GOLDEN = read_json(Path(__file__).parents[1] / "golden" / "language-guided.json")
CPU, MEAN = torch.device("cpu"), ((0.0,) * 3, (1.0,) * 3)
ATTENTION = ("norm_query.weight", "norm_query.bias", "norm_key.weight", "query", "key")


def spec(method="adaptformer", **options):
    given = {"head": "language-guided", "prompt": "descriptions", "epochs": 1, "precision": "fp32", "head.anchors": 2}
    return RunSpec.make("toy-ir20", "toy", method, 3, **given | options)


def wave(count, step, function, *shape):
    return getattr(torch.arange(count, dtype=torch.float64) * step, function)().reshape(shape).float()


def head(width=6, classes=4, scale=12.0, **knobs):
    return LanguageGuided(width, classes, scale, torch.Generator().manual_seed(0), **knobs)


# The public code's numbers

SIZES = torch.tensor([3, 7, 2, 5])
SENTENCES, POOL = wave(102, 0.9, "sin", 17, 6), wave(54, 1.1, "sin", 9, 6)
POOL_LABELS = torch.tensor(GOLDEN["pool_labels"])
# Theirs in the order of `order`, ours and how they lie.
THEIRS = {
    "attn.norm1k.bias": "", "attn.norm1k.weight": "norm_key.weight", "attn.norm1q.bias": "norm_query.bias",
    "attn.norm1q.weight": "norm_query.weight", "attn.wk.weight": "key", "attn.wq.weight": "query",
    "visual_fc.0.bias": "hidden_bias", "visual_fc.0.weight": "hidden",
    "visual_fc.2.bias": "out_bias", "visual_fc.2.weight": "out",
}  # fmt: skip


def golden_head(case):
    made = head(anchors=case["anchors_per_class"])
    made.attach(SENTENCES, SIZES, GOLDEN["scale"])
    made.choose(POOL, POOL_LABELS)
    assert sorted(THEIRS) == case["order"]
    with torch.no_grad():
        for number, name in enumerate(case["order"]):
            if ours := THEIRS[name]:
                value = made.get_parameter(ours)
                value.copy_(0.3 * wave(value.numel(), 0.37 + 0.11 * number, "sin", *value.shape))
                value += 1 if ours in ("norm_query.weight", "norm_key.weight") else 0
                value += torch.eye(6) if ours in ("query", "key") else 0
    return made


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['anchors_per_class']} anchors")
def test_the_head_is_the_public_codes(case):
    made = golden_head(case)
    torch.testing.assert_close(made.anchors.sum((1, 2)), torch.tensor(case["anchors_sum"]), rtol=1e-4, atol=1e-5)
    images, labels = wave(30, 0.7, "cos", 5, 6).requires_grad_(), torch.tensor(GOLDEN["labels"])
    image, text = made.branches(images)
    for found, expected in ((image, case["image"]), (text, case["text"]), (made(images).exp(), case["average"])):
        torch.testing.assert_close(found.flatten(), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    loss = F.cross_entropy(image, labels) + F.cross_entropy(text, labels)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    torch.testing.assert_close(images.grad.flatten(), torch.tensor(case["grad_images"]), rtol=1e-3, atol=2e-5)
    for name, expected in case["grads"].items():
        if ours := THEIRS[name]:
            torch.testing.assert_close(
                made.get_parameter(ours).grad.flatten(), torch.tensor(expected), rtol=1e-3, atol=2e-5, msg=ours
            )
        else:  # the shift that cancels in the softmax
            assert max(map(abs, expected)) < 1e-6


@pytest.mark.parametrize("at_once", [2**26, 20])
def test_the_loss_of_a_sentence_is_the_public_codes(at_once):
    of = torch.repeat_interleave(torch.arange(4), SIZES)
    found = sentence_losses(SENTENCES, of, POOL, POOL_LABELS, GOLDEN["scale"], at_once)
    torch.testing.assert_close(found, torch.tensor(GOLDEN["losses"]), rtol=1e-5, atol=1e-5)


# In plain words


def plainly(made, f):
    """Both branches' logits, class by class, with keys and attended sentences written out."""
    width, values = f.shape[1], dict(made.named_parameters())

    def norm(x, weight, bias=0.0):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * weight + bias

    query = norm(f, values["norm_query.weight"], values["norm_query.bias"]) @ values["query"].T
    text = []
    for anchors, positions in zip(made.anchors, made.positions, strict=True):
        own = anchors[positions >= 0]
        key = norm(own, values["norm_key.weight"]) @ values["key"].T
        attended = (query @ key.T / width**0.5).softmax(-1) @ own
        text.append(made.scale * (attended * f).sum(-1) / attended.norm(dim=-1) / f.norm(dim=-1))
    hidden = (f @ values["hidden"].T + values["hidden_bias"]).clamp(min=0)
    return hidden @ values["out"].T + values["out_bias"], torch.stack(text, 1)


@given(seed=st.integers(0, 1000), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), anchors=st.integers(1, 6))
def test_the_head_and_its_choice_in_words(seed, sizes, anchors):
    generator = torch.Generator().manual_seed(seed)
    sentences = torch.randn(sum(sizes), 6, generator=generator)
    made, counts = head(classes=len(sizes), anchors=anchors), torch.tensor(sizes)
    if max(sizes) < 2:
        with pytest.raises(PelError, match="the prompt says one of each"):
            made.attach(sentences, counts, 7.0)
        return
    with torch.no_grad():
        for value in made.parameters():
            value += 0.3 * torch.randn(value.shape, generator=generator)
    images, labels = torch.randn(2 * len(sizes), 6, generator=generator), torch.arange(len(sizes)).repeat(2)
    made.attach(sentences, counts, 7.0)
    made.choose(images, labels)
    log_p = (F.normalize(sentences, dim=-1) @ F.normalize(images, dim=-1).T * 7).log_softmax(-1)
    for label, own in enumerate(log_p.split(sizes)):
        kept = made.positions[label][made.positions[label] >= 0].tolist()
        losses = [-float(each[labels == label].mean()) for each in own]
        assert len(kept) == min(anchors, sizes[label])
        assert [losses[i] for i in kept] == pytest.approx(sorted(losses)[: len(kept)], rel=1e-4, abs=1e-5)
        assert torch.equal(made.anchors[label, : len(kept)], sentences.split(sizes)[label][kept])
        assert not made.anchors[label, len(kept) :].any()
    f = torch.randn(3, 6, generator=generator)
    for found, expected in zip(made.branches(f), plainly(made, f), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    average = 0.2 * made.branches(f)[0].softmax(-1) + 0.8 * made.branches(f)[1].softmax(-1)
    torch.testing.assert_close(made(f).exp(), average, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("share", "branch"), [(0.0, 1), (1.0, 0)])
def test_a_share_of_all_is_that_branch(share, branch):
    made = head(image_share=share, chosen_by="order")
    made.attach(SENTENCES, SIZES, 1.0)
    f = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made(f), made.branches(f)[branch].log_softmax(-1))


def test_chunks_change_nothing():
    """But the memory: what is between is computed again."""
    found, kept = [], []
    for chunk in (1024, 2):
        made, sizes = head(classes=40, chunk=chunk, chosen_by="order"), []
        counts = torch.arange(40) % 9 + 1
        made.attach(torch.randn(int(counts.sum()), 6, generator=torch.Generator().manual_seed(1)), counts, 1.0)
        f = torch.randn(16, 6, generator=torch.Generator().manual_seed(2))
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            logits = made.branches(f)[1]
        kept.append(sum(sizes))
        F.cross_entropy(logits, torch.arange(16)).backward()
        found.append([logits.detach(), *(made.get_parameter(name).grad for name in ATTENTION)])
    assert kept[1] < kept[0] / 3
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


# Runs


@pytest.mark.parametrize("loss", ["ce", "la", "grw"])  # grw is no plain mean over images: the gradient at both branches first
def test_three_steps_are_those_of_a_plain_loop(toy_results, loss):
    run = spec(batch_size=10, loss=loss, **{"head.attention_lr": 0.1, "scale": 20, "momentum": 0.9})
    data, classifier, _ = load(run, toy_results, CPU, fresh=True)
    twin, counts = load(run, toy_results, CPU, fresh=True)[1], torch.as_tensor(data.train_counts)
    step, criterion = Step(classifier, make_loss(run, counts), run, CPU, ProcessGroup()), make_loss(run, counts)
    step.micro_batch = 4
    slow = [twin.head.get_parameter(name) for name in ATTENTION]
    rest = [each for each in twin.trainable().values() if not any(each is other for other in slow)]
    groups = [{"params": rest}, {"params": slow, "lr": 0.1 * run.lr}]
    optimizer = torch.optim.SGD(groups, lr=run.lr, momentum=0.9, weight_decay=run.weight_decay)
    batches = TrainBatches(data.train, run, run.pixels, *MEAN, CPU).epoch(0)
    for _, (images, labels, indices) in zip(range(3), batches, strict=False):
        outputs = plainly(twin.head, twin.head.feature(twin.vit(images)))
        value = sum(criterion(each, labels) for each in outputs)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total, correct = step(images, labels, len(indices))
        average = 0.2 * outputs[0].softmax(-1) + 0.8 * outputs[1].softmax(-1)
        assert total.item() / 10 == pytest.approx(value.item(), rel=1e-4)
        assert correct.item() == (average.argmax(1) == labels).sum().item()
    for name, value in twin.trainable().items():
        torch.testing.assert_close(classifier.trainable()[name], value, rtol=1e-3, atol=2e-5, msg=name)
    assert not torch.equal(twin.head.query, torch.eye(16))


def test_the_attention_has_a_rate_of_its_own(toy_results):
    run = spec(**{"optimizer.head_lr": 0.5, "head.attention_lr": 0.01, "optimizer.no_decay": "biases+norms"})
    made = load(run, toy_results, CPU, fresh=True)[1]
    names = {id(value): name for name, value in made.trainable().items()}
    found = {
        names[id(each)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(made, run, 0.5, "biases+norms")
        for each in group["params"]
    }
    assert found["head.query"] == (0.005, run.weight_decay) and found["head.norm_key.weight"] == (0.005, 0.0)
    assert found["head.out"] == (0.5, run.weight_decay) and found["head.out_bias"] == found["head.hidden_bias"] == (0.5, 0.0)


def images_of(run, results, split):
    """Projected features of a split's central crops, by the network as it is, and their labels."""
    data, made, _ = load(run, results, CPU, fresh=True)
    chosen = data.train if split == "train" else data.split(split)
    batches = EvalBatches(chosen, "plain", 0, run.pixels, run.vit.mean, run.vit.std, CPU)
    features = torch.cat([made.head.feature(made.vit(images[:, 0])).detach() for images, _ in batches])
    return made, features, torch.as_tensor(np.asarray(chosen.labels, np.int64))


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_of_the_split_choose(toy_results, split):
    """By the network that the head stands on, before it trains; none of another split, and not the seed."""
    run = spec("head-only", **{"head.chosen_by": split, "data.val": 0.3, "epochs": 1})
    made, features, labels = images_of(run, toy_results, split)
    again = head(16, 6, anchors=2, chosen_by=split)
    texts = sentence_file(toy_results)
    again.attach(texts["text.sentences"], texts["text.counts"], 20.0)
    again.choose(features, labels)
    assert torch.equal(made.head.positions, again.positions) and torch.equal(made.head.anchors, again.anchors)
    assert run.validates == (split == "val")
    other = RunSpec.make("toy-ir20", "toy", "head-only", 5, **{**run.departures(run.base)})
    assert split == "val" or torch.equal(load(other, toy_results, CPU, fresh=True)[1].head.positions, made.head.positions)


def sentence_file(results):
    return read_tensors(results / "text" / "toy" / "toy.sentences:descriptions.safetensors")[0]


def test_the_first_of_the_file(toy_results, caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    made = load(spec(**{"head.chosen_by": "order"}), toy_results, CPU, fresh=True)[1].head
    texts = sentence_file(toy_results)
    assert texts["text.counts"].tolist() == [1, 2, 3, 1, 2, 3]
    assert made.positions.tolist() == [[0, -1], [0, 1], [0, 1], [0, -1], [0, 1], [0, 1]]
    assert torch.equal(made.anchors[2], texts["text.sentences"][3:5])
    assert "2 of 6 classes keep fewer sentences than head.anchors=2: all they have, at least 1" in caplog.text


def test_some_classes_have_their_own_sentences(toy_results):
    made = load(spec(**{"head.chosen_by": "order", "data.classes": 4}), toy_results, CPU, fresh=True)
    own = sentences_of(sentence_file(toy_results), np.asarray(made[0].classes))
    assert made[1].head.positions.ge(0).sum(1).tolist() == own["text.counts"].clamp(max=2).tolist()
    assert sentences_of({}, np.arange(2)) == {}


def test_sentences_one_by_one_are_those_of_the_mean():
    """The demo's tower: the file's mean is that of the prompt's own file."""
    names = ["red square", "two blue moons"]
    made = sentence_tensors(TextSource("clip-mini", names), "ensemble")
    assert made["text.sentences"].shape[0] == 160 and made["text.counts"].tolist() == [80, 80]
    expected = text_features(TextSource("clip-mini", names), "ensemble")
    torch.testing.assert_close(made["text.features"].clone(), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(made["text.sentences"].norm(dim=-1), torch.ones(160))  # as the tower gives them


@pytest.mark.parametrize("slug", ["head-only.s0.epochs=1", "adaptformer.s0.epochs=1"])
def test_a_run_classifies_without_its_texts(toy_results, tmp_path, slug):
    """From the command line; its checkpoint holds the sentences, so that a copied run and the backbone will do."""
    slug = f"toy-ir20.toy.{slug}.head=language-guided.prompt=descriptions.head.anchors=2"
    results = tmp_path / "results"
    assert main(["train", slug, "--results", str(toy_results)]) == 0
    for name in (slug, f"{slug}.tte=none"):
        assert main(["evaluate", name, "--results", str(toy_results)]) == 0
    for part in ("backbones", f"runs/{slug}"):
        shutil.copytree(toy_results / part, results / part)
    record = read_json(results / "runs" / slug / "metrics.json")
    run, classifier, _ = open_run(slug, results, CPU)
    assert record["parameters"]["head"] == 3 * 16 + 2 * 256 + 64 * 16 + 64 + 6 * 64 + 6
    assert len(record["descriptions"]) == 64
    again = load(run, toy_results, CPU, fresh=True)[1]
    again.load_trainable(classifier.trainable_state())
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(classifier(images), again(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(classifier(images).exp().sum(1), torch.ones(3))


def test_other_sentences_than_the_trainings_are_refused(toy_results, tmp_path, capsys):
    slug, results = "toy-ir20.toy.head-only.s1.epochs=1.head=language-guided.prompt=descriptions", tmp_path / "results"
    shutil.copytree(toy_results, results, ignore=shutil.ignore_patterns("runs"))
    assert main(["train", slug, "--results", str(results)]) == 0
    path = results / "text" / "toy" / "toy.sentences:descriptions.safetensors"
    tensors, about = read_tensors(path)
    write_tensors(path, tensors, about | {"descriptions": "0" * 64})
    assert main(["evaluate", slug, "--results", str(results)]) == 1
    assert "was trained from another spec (descriptions)" in capsys.readouterr().err
    path.unlink()
    assert main(["train", slug.replace("s1", "s2"), "--results", str(results)]) == 1
    assert "sentences:descriptions.safetensors" in capsys.readouterr().err


def test_a_second_stage_goes_on_with_its_parents_sentences(toy_results):
    """And one that takes over the delta alone chooses with it, before it trains."""
    parent = spec("adaptformer")
    assert main(["train", parent.slug, "--results", str(toy_results)]) == 0
    text = "adaptformer,epochs:1,precision:fp32,head:language-guided,prompt:descriptions,head.anchors:2"
    child = spec(parents=text, prompt="default")
    made = load(child, toy_results, CPU, fresh=True)[1]
    stored, _ = read_tensors(toy_results / "runs" / parent.slug / "delta.safetensors")
    assert torch.equal(made.head.anchors, stored["head.anchors"]) and torch.equal(made.head.out, stored["head.out"])
    other = load(spec(parents=text, take="delta"), toy_results, CPU, fresh=True)[1]
    assert other.head.anchors.shape == made.head.anchors.shape and not torch.equal(other.head.out, stored["head.out"])


def test_which_file_of_texts_is_read():
    assert spec().text_file == "sentences:descriptions" and spec(prompt="texts:mine").text_file == "sentences:texts:mine"


# Refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "default"}, "one of several sentences for head=language-guided to attend to: descriptions, ensemble"),
        ({"prompt": "classname"}, "must be one of several sentences"),
        ({"init": "class-mean"}, "another head than language-guided, which has no rows"),
        ({"wise_ft": 0.5}, "starts with a branch that knows no class"),
        ({"train_head": False}, "train_head=false is not possible"),
        ({"loss": "bcl"}, "a head that says what it classifies and has rows of its own"),
        ({"loss": "agcl"}, "loss=agcl is not possible .* one that draws no noise"),  # whose order would be that of micro-batches
        ({"head.anchors": 0}, "at least 1"),
        ({"head.image_share": 1.5}, "at least 0 and at most 1"),
        ({"head.chosen_by": "test"}, "one of train, val, order"),
        ({"head.feature": "projected"}, "head.feature"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(PelError, match=message):
        spec(**options)


def test_a_backbone_without_a_text_tower_is_refused():
    with pytest.raises(PelError, match=r"head=language-guided is not possible .*in21k-b16 has no text tower"):
        RunSpec.make("toy", "in21k-b16", "head-only", 0, head="language-guided", prompt="ensemble")


def test_runs_that_start_from_others():
    parent = "adaptformer,epochs:1,head:language-guided,prompt:descriptions,head.anchors:2"
    child = spec(parents=parent, head="language-guided", prompt="default")  # its sentences are the parent's
    assert not child.needs_text and child.takes_head
    with pytest.raises(PelError, match=r"its head.anchors is 2, this run's 3"):
        spec(parents=parent, prompt="default", **{"head.anchors": 3})
    with pytest.raises(PelError, match="holds sentences chosen by each run"):
        spec(parents=parent.replace(",epochs", ",seed:0+1,epochs"), prompt="default", soup="uniform")


def test_a_text_of_one_sentence_each_is_refused_by_the_run(toy_results, tmp_path):
    """What a file says is known when it is read."""
    texts = {**sentence_file(toy_results), "text.counts": torch.ones(6, dtype=torch.long)}
    made = head(16, 6)
    with pytest.raises(PelError, match="attends to several sentences of a class, and the prompt says one of each"):
        made.attach(texts["text.sentences"][:6], texts["text.counts"], 1.0)


def test_no_validation_split_is_named(toy_results):
    with pytest.raises(PelError, match="has no split 'val'"):
        load(spec(**{"head.chosen_by": "val"}), toy_results, CPU, fresh=True)


def test_a_class_without_an_image_is_named():
    made = head(chosen_by="val")
    made.attach(SENTENCES, SIZES, 1.0)
    with pytest.raises(PelError, match="class 2 has no validation image to choose its sentences by"):
        made.choose(POOL[:4], torch.tensor([0, 1, 3, 0]))


def test_which_prompts_say_several():
    several = {"descriptions": True, "texts:mine": True, "ensemble": True, "default": False, "classname": False, "dataset": False}
    assert {prompt: says_several(prompt, "dtd") for prompt in several} == several
    assert says_several("dataset-ensemble", "dtd")
