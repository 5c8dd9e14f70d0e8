"""What evaluations share: the bits are those without, for every method that leaves blocks alone; a bad file costs time only."""

import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pel_core.cli.main import main
from pel_core.common.files import read_json
from pel_core.data.batches import EvalBatches
from pel_core.models.methods import METHODS, methods_for
from pel_core.models.vit import ViT
from pel_core.spec.choices import CHOICES
from pel_core.spec.run_spec import RunSpec
from pel_core.studies import job_options
from pel_core.studies.schema.configuration import Configuration
from pel_core.training.look import Look
from pel_core.training.loop import predict
from pel_core.training.prefix_cache import Entry, PrefixCache, Writer, name, worth_reading
from pel_core.training.run_inputs import load

LIMITS = [({}, ""), ({"prefix_cache_gb": 0}, "--prefix-cache-gb 0"), ({"prefix_cache_gb": 2.5}, "--prefix-cache-gb 2.5")]
RANGED = [name for name in methods_for("vit") if METHODS[name].blocks == "any"]


@pytest.fixture(autouse=True)
def all_pays(monkeypatch):
    """The toy's blocks are too small to be worth a file."""
    monkeypatch.setattr("pel_core.training.prefix_cache.WORTH", {"cpu": 0, "cuda": 0})


def run(results, method, **options):
    """A run's spec, batches and classifier, whose deltas are not at their start."""
    spec = RunSpec.make("toy-ir20", "toy", method, 0, **options)
    data, classifier, _ = load(spec, results, torch.device("cpu"), fresh=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in classifier.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    batches = EvalBatches(data.test, spec.tte, spec.expand, spec.pixels, spec.vit.mean, spec.vit.std, "cpu")
    return spec, batches, classifier


def through(cache, spec, batches, classifier, **about):
    return cache.predict(classifier, batches, spec.num_frozen_prefix_blocks, about, spec.eval_precision)


DEPTHS = {f"{name}@2:": 2 for name in RANGED} | {"adaptformer@3:+lora@2:3": 2, "ln@3:": 3, "head-only": 4, "zero-shot": 4}
FROM_THE_START = [*(f"{name}@:2" for name in RANGED), "vpt-shallow", "vpt-shallow+adaptformer@2:", "full", "ln"]


@pytest.mark.parametrize(("method", "depth"), DEPTHS.items())
def test_the_bits_are_those_without(toy_results, tmp_path, method, depth):
    made = run(toy_results, method)
    plain, cache = predict(made[2], made[1]), PrefixCache(tmp_path)
    assert torch.equal(through(cache, *made), plain) and cache.used == 0
    assert torch.equal(through(cache, *made), plain) and cache.used == depth
    (entry,) = (tmp_path / "prefixes").iterdir()
    assert np.load(entry).shape == (made[1].images, 5, *(() if depth == 4 else (5,)), 32)


@pytest.mark.parametrize("options", [{"eval_precision": "bf16"}, {"eval_precision": "fp16"}, {"tte": "none"}, {"tte": "tencrop"}])
def test_other_precisions_and_crops_too(toy_results, tmp_path, options):
    made = run(toy_results, "adaptformer@2:", **options)
    cache = PrefixCache(tmp_path)
    plain = predict(made[2], made[1], precision=made[0].eval_precision)
    for used in (0, 2):
        assert torch.equal(through(cache, *made), plain) and cache.used == used


@pytest.mark.parametrize("method", FROM_THE_START)
def test_a_method_that_touches_the_first_block_shares_nothing(toy_results, tmp_path, method):
    made = run(toy_results, method)
    cache = PrefixCache(tmp_path)
    assert made[0].num_frozen_prefix_blocks == 0
    assert torch.equal(through(cache, *made), predict(made[2], made[1])) and not (tmp_path / "prefixes").exists()


@pytest.mark.parametrize("method", [*RANGED, "head-only"])
def test_untouched_blocks_are_the_backbone_s_own(toy_results, method):
    """No parameter of theirs trains and nothing is attached; the next block's is touched."""
    classifier = run(toy_results, f"{method}@1:" if method in RANGED else method)[2]
    first = RunSpec.make("toy-ir20", "toy", f"{method}@1:" if method in RANGED else method, 0).num_frozen_prefix_blocks
    pristine = ViT(layers=4, width=32, heads=2, patch=8, resolution=16, quick_gelu=True)
    touched = []
    for block, model in zip(classifier.vit.blocks, pristine.blocks, strict=True):
        same = [key for key, _ in block.named_modules()] == [key for key, _ in model.named_modules()]
        touched.append(not same or any(value.requires_grad for value in block.parameters()))
    assert touched == [index >= first for index in range(4)]


def test_one_entry_serves_all_ratios_seeds_and_methods_of_a_depth(toy_results, tmp_path):
    cache, used = PrefixCache(tmp_path), []
    for method, depth in (("adaptformer@2:", 2), ("ssf-ln@2:", 2), ("zero-shot", 4), ("head-only", 4), ("full@3:", 3)):
        made = run(toy_results, method)
        assert torch.equal(through(cache, *made), predict(made[2], made[1]))
        used.append(cache.used)
        assert made[0].num_frozen_prefix_blocks == depth
    assert used == [0, 2, 0, 4, 0] and len(list((tmp_path / "prefixes").iterdir())) == 3


def test_what_changes_the_bits_changes_the_name(toy_results, monkeypatch):
    spec, batches, network = run(toy_results, "adaptformer@2:")
    vit = network.vit
    split, kind = batches.split, (spec.vit.mean, spec.vit.std, "cpu")
    others = [
        EvalBatches(split, "none", 24, 16, *kind), EvalBatches(split, "fivecrop", 8, 16, *kind),
        EvalBatches(split, "fivecrop", 24, 16, *kind, interpolation="bicubic"), EvalBatches(split, "fivecrop", 24, 24, *kind),
        EvalBatches(split, "fivecrop", 24, 16, spec.vit.std, spec.vit.std, "cpu"), EvalBatches(split, "randaug", 24, 16, *kind),
        EvalBatches(split, "fivecrop", 24, 16, *kind, batch_size=32),
    ]  # fmt: skip
    names = [name(vit, batches, depth, {}, "fp32") for depth in (2, 3)] + [name(vit, batches, 2, {"images": "other"}, "fp32")]
    names += [name(vit, batches, 2, {}, word) for word in CHOICES["eval_precision"] if word != "fp32"]
    names += [name(vit, other, 2, {}, "fp32") for other in others]
    monkeypatch.setattr("pel_core.training.prefix_cache.PREDICT", 99)
    names.append(name(vit, batches, 2, {}, "fp32"))
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "9")
    names.append(name(vit, batches, 2, {}, "fp32"))
    monkeypatch.undo()
    for target in ("PIL.__version__", "numpy.__version__", "pel_core.hardware.cpu.model", "torch.get_num_threads"):
        monkeypatch.setattr(target, "9" if target.endswith("version__") else lambda: "9")
        names.append(name(vit, batches, 2, {}, "fp32"))
        monkeypatch.undo()
    assert len(set(names)) == len(names)
    assert names[0] == name(vit, batches, 2, {}, "fp32")


def tear(path):
    os.truncate(path, path.stat().st_size - 5000)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"more")


def empty(path):
    path.write_bytes(b"")


def scribble(path):
    path.write_bytes(os.urandom(path.stat().st_size))


def exchange(path):
    np.save(path, np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("damage", [tear, flip, lengthen, empty, scribble, exchange])
def test_a_damaged_entry_is_told_and_made_again(toy_results, tmp_path, capsys, damage):
    made = run(toy_results, "adaptformer@2:")
    cache, plain = PrefixCache(tmp_path), predict(made[2], made[1])
    through(cache, *made)
    (entry,) = (tmp_path / "prefixes").iterdir()
    good = entry.read_bytes()
    damage(entry)
    capsys.readouterr()
    assert torch.equal(through(cache, *made), plain) and cache.used == 0
    assert f"{entry} cannot be used" in capsys.readouterr().err and entry.read_bytes() == good
    assert torch.equal(through(cache, *made), plain) and cache.used == 2


def test_a_full_disk_is_told_once_and_costs_nothing_else(toy_results, tmp_path, capsys, monkeypatch):
    made = run(toy_results, "adaptformer@2:")
    monkeypatch.setattr(
        "pel_core.training.prefix_cache.os.replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    assert torch.equal(through(PrefixCache(tmp_path), *made), predict(made[2], made[1]))
    assert capsys.readouterr().err.count("No space left") == 1
    assert not list((tmp_path / "prefixes").iterdir())


def test_a_folder_that_cannot_be_made_is_told(toy_results, tmp_path, capsys):
    made = run(toy_results, "adaptformer@2:")
    (tmp_path / "prefixes").write_text("a file in its place")
    assert torch.equal(through(PrefixCache(tmp_path), *made), predict(made[2], made[1]))
    assert capsys.readouterr().err.count("prefix cache: not used") == 1


def test_an_evaluation_that_fails_leaves_nothing(toy_results, tmp_path):
    spec, batches, classifier = run(toy_results, "adaptformer@2:")
    classifier.head = nn.Linear(3, 3)
    with pytest.raises(RuntimeError):
        through(PrefixCache(tmp_path), spec, batches, classifier)
    assert not list((tmp_path / "prefixes").iterdir())


@pytest.mark.parametrize(("gigabytes", "told"), [(0, 0), (1e-6, 1), (4, 0)])
def test_the_limit(toy_results, tmp_path, capsys, gigabytes, told):
    made = run(toy_results, "adaptformer@2:")
    assert torch.equal(through(PrefixCache(tmp_path, gigabytes), *made), predict(made[2], made[1]))
    assert capsys.readouterr().err.count("warning: prefix cache:") == told
    assert len(list((tmp_path).rglob("*.npy"))) == (gigabytes == 4)


def test_a_full_cache_stays_useful(toy_results, tmp_path, capsys):
    """The entry that was not used for longest makes room for the next."""
    made = {depth: run(toy_results, f"adaptformer@{depth}:") for depth in (1, 2, 3)}
    through(PrefixCache(tmp_path), *made[1])
    size = next((tmp_path / "prefixes").iterdir()).stat().st_size + 2000
    cache, used = PrefixCache(tmp_path, 2 * size / 1e9), []
    for depth in (1, 2, 1, 3, 1, 2, 3):  # 3 pushes 2 out, then 2 pushes 3 out, then 3 pushes 1 out
        assert torch.equal(through(cache, *made[depth]), predict(made[depth][2], made[depth][1]))
        used.append(cache.used)
        assert sum(path.stat().st_size for path in (tmp_path / "prefixes").iterdir()) <= 2 * size
    assert used == [1, 0, 1, 0, 1, 0, 0] and "not used" not in capsys.readouterr().err


def test_an_entry_that_is_evicted_while_it_is_read_is_read_to_its_end(toy_results, tmp_path):
    spec, batches, classifier = run(toy_results, "adaptformer@2:")
    cache, plain = PrefixCache(tmp_path), predict(classifier, batches)
    through(cache, spec, batches, classifier)
    reads = Entry.read

    def read(entry):
        for batch in reads(entry):
            entry.path.unlink(missing_ok=True)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Entry, "read", read)
        assert torch.equal(through(cache, spec, batches, classifier), plain) and cache.used == 2
    assert torch.equal(through(cache, spec, batches, classifier), plain) and cache.used == 0


def test_what_a_process_that_was_killed_while_writing_left_is_removed(toy_results, tmp_path):
    made = run(toy_results, "adaptformer@2:")
    other = run(toy_results, "adaptformer@3:")
    if not (child := os.fork()):
        Writer.finish = lambda writer: os.kill(os.getpid(), signal.SIGKILL)
        through(PrefixCache(tmp_path), *made)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    (left,) = (tmp_path / "prefixes").iterdir()
    assert left.name.startswith(".")
    cache, plain = PrefixCache(tmp_path, 1.5 * left.stat().st_size / 1e9), predict(other[2], other[1])
    assert torch.equal(through(cache, *other), plain) and cache.used == 0
    assert torch.equal(through(cache, *other), plain) and cache.used == 3
    assert not left.exists() and len(list((tmp_path / "prefixes").iterdir())) == 1


def test_processes_that_make_one_at_once(toy_results, tmp_path):
    """Each has its own temporary file; the last one's stays, and all results are right."""
    made = run(toy_results, "adaptformer@2:")
    plain, children = predict(made[2], made[1]), []
    for _ in range(4):
        if not (child := os.fork()):
            os._exit(not torch.equal(through(PrefixCache(tmp_path), *made), plain))
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    (entry,) = (tmp_path / "prefixes").iterdir()
    cache = PrefixCache(tmp_path)
    assert entry.suffix == ".npy" and torch.equal(through(cache, *made), plain) and cache.used == 2


@pytest.mark.parametrize(("config", "option"), LIMITS)
def test_a_configuration_s_limit_reaches_the_jobs(config, option):
    Configuration.model_validate({"title": "x", "backbone": "toy", "seeds": [0], "data": {"small": "toy"}, **config})
    assert job_options.evaluate_options(config) == job_options.train_options(config) == option


def test_the_rule_of_what_pays(monkeypatch):
    """Tokens on a CPU, features of a large network on a GPU too."""
    monkeypatch.undo()
    sizes = {"mini": (96, 8, 32), "b16": (768, 16, 224)}
    with torch.device("meta"):
        vits = {word: ViT(layers=12, width=w, heads=w // 64 or 1, patch=p, resolution=r) for word, (w, p, r) in sizes.items()}
    found = {
        (word, depth, kind): worth_reading(vit, depth, torch.device(kind))
        for word, vit in vits.items() for depth in (6, 12) for kind in ("cpu", "cuda")
    }  # fmt: skip
    assert [key for key, value in found.items() if not value] == [
        ("mini", 6, "cuda"), ("mini", 12, "cuda"), ("b16", 6, "cuda")
    ]  # fmt: skip


@pytest.mark.parametrize("init", ["class-mean", "shot-1", "linear-probe"])
def test_heads_that_start_from_images_share_their_features(toy_results, tmp_path, init):
    spec = RunSpec.make("toy-ir20", "toy", "adaptformer", 0, init=init)
    rows, used, cache = [], [], PrefixCache(tmp_path)
    for kept in (None, cache, cache):
        data, classifier, _ = load(replace(spec, method="head-only"), toy_results, torch.device("cpu"))
        rows.append(Look(spec, classifier.vit, data, torch.device("cpu"), kept, "sha").rows())
        used.append(cache.used)
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[1], rows[2]) and used == [0, 0, 4]


def test_from_the_command_line(toy_results, capsys):
    """The second evaluation takes whole features from the first one's file; without a cache the result is the same."""
    slug, words = "toy-ir20.toy.zero-shot.s0", ["--results", str(toy_results), "--no-tensorboard"]
    found = []
    shutil.rmtree(toy_results / "prefixes", ignore_errors=True)  # of another test
    for more in ([], [], ["--prefix-cache-gb", "0"]):
        (toy_results / "runs" / slug / "logits.safetensors").unlink(missing_ok=True)  # or it would only be scored
        assert main(["evaluate", slug, *words, *more]) == 0
        record = read_json(toy_results / "runs" / slug / "metrics.json")
        found.append((record["environment"]["blocks_from_cache"], record["metrics"]))
    assert [blocks for blocks, _ in found] == [0, 4, 0] and found[0][1] == found[1][1] == found[2][1]
    assert main(["evaluate", slug, *words, "--prefix-cache-gb", "-1"]) == 1
    assert "--prefix-cache-gb -1" in capsys.readouterr().err
