"""Runs that start from runs: what is taken over and what then trains, beside a plain loop; resumed; checked against parents."""

import shutil
from itertools import islice

import pytest
import torch
from resuming import Asked, interrupted, train_once
from safetensors.torch import load_file, save_file

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, sha256, write_json
from pel_core.common.signals import Stopped
from pel_core.data.batches import TrainBatches
from pel_core.spec.outcomes import diverged
from pel_core.spec.results import read_result
from pel_core.spec.run_spec import RunSpec
from pel_core.training.checkpoints import CheckpointManager, checkpoint_path
from pel_core.training.classifier import cast_frozen_weights
from pel_core.training.run_inputs import identity, load

METHOD = "adaptformer@2:4"
PARENT = RunSpec.make("toy-ir20", "toy", METHOD, 3, loss="ce", epochs=1)
PROBE = RunSpec.make("toy-ir20", "toy", "head-only", 3, epochs=1)
CPU = torch.device("cpu")


def child(parent=PARENT, method=METHOD, **options):
    return RunSpec.make("toy-ir20", "toy", method, 3, parents=[parent], **options)


@pytest.fixture(scope="module")
def results(toy_results):
    for spec in (PARENT, PROBE):
        assert main(["train", spec.slug, "--results", str(toy_results)]) == 0
    return toy_results


def trained(results, spec):
    return load_file(results / "runs" / spec.slug / "delta.safetensors")


def fresh(results, spec):
    return load(spec, results, CPU, fresh=True)[1]


@pytest.mark.parametrize(("take", "parts"), [("all", "delta head"), ("delta", "delta"), ("head", "head")])
def test_a_run_starts_from_what_it_takes_over_and_else_as_it_would_alone(results, take, parts):
    spec = child(take=take, loss="focal")
    there, alone = trained(results, PARENT), fresh(results, RunSpec.make("toy-ir20", "toy", METHOD, 3)).trainable_state()
    found = fresh(results, spec).trainable_state()
    assert found.keys() == there.keys()
    for name, value in found.items():
        part = "head" if name.startswith("head.") else "delta"
        assert torch.equal(value, there[name] if part in parts else alone[name]), name
    assert any(not torch.equal(there[name], alone[name]) for name in alone if not name.startswith("head."))


def test_linear_probing_then_fine_tuning_starts_from_the_probe_with_a_delta_of_its_own(results):
    found = fresh(results, child(PROBE, take="head"))
    assert torch.equal(found.head.weight, trained(results, PROBE)["head.weight"])
    assert {name.partition(".")[0] for name in found.trainable()} == {"adaptformer", "head"}


def test_a_delta_that_does_not_train_stays_bit_for_bit(results):
    for precision in ("fp32", "bf16", "fp16"):
        spec = child(take="delta", train_delta=False, init="random", precision=precision)
        classifier = fresh(results, spec)
        assert list(classifier.trainable()) == ["head.weight"] and classifier.census()["learnable"] == 0
        cast_frozen_weights(classifier, torch.bfloat16)
        assert all(value.dtype == torch.float32 for value in classifier.trainable_state().values())
        state, _ = train_once(results, spec)
        there = trained(results, PARENT)
        assert all(torch.equal(state[name], there[name]) == (name != "head.weight") for name in state)


def plain_steps(results, spec, steps):
    """SGD with momentum and weight decay on a cross-entropy, written out, on the run's own batches."""
    data, classifier, _ = load(spec, results, CPU, fresh=True)
    values = [value for value in classifier.parameters() if value.requires_grad]
    velocity = [torch.zeros_like(value) for value in values]
    batches = TrainBatches(data.train, spec, spec.pixels, spec.vit.mean, spec.vit.std, "cpu")
    for images, labels, _ in islice(batches.epoch(0, 0), steps):
        loss = torch.logsumexp(classifier(images), 1).mean() - classifier(images)[range(len(labels)), labels].mean()
        for value, speed, grad in zip(values, velocity, torch.autograd.grad(loss, values), strict=True):
            with torch.no_grad():
                speed.mul_(spec.momentum).add_(grad + spec.weight_decay * value)
                value.sub_(spec.lr * speed)
    return classifier.trainable_state()


@pytest.mark.parametrize("options", [{"take": "delta", "train_delta": False}, {"take": "all"}], ids=["head", "all"])
def test_three_steps_are_those_of_a_plain_loop(results, options, tmp_path):
    spec = child(loss="ce", precision="fp32", schedule="constant", epochs=1, **options)
    expected = plain_steps(results, spec, 3)
    with pytest.raises(Stopped):
        train_once(results, spec, CheckpointManager(tmp_path / "c", {"slug": spec.slug}, requests=Asked(2)))
    found = {k.removeprefix("parameter."): v for k, v in load_file(tmp_path / "c").items() if k.startswith("parameter.")}
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-6), name


VARIANTS = [
    child(take="delta", train_delta=False, init="class-mean"),
    child(lr=0.1, precision="fp16"),
    child(PROBE, take="head"),
    child(child(PARENT, lr=0.02, epochs=1), train_head=False),
]


@pytest.mark.parametrize("spec", VARIANTS, ids=lambda spec: spec.slug)
def test_an_interrupted_second_stage_ends_bit_for_bit_where_another_ends(results, tmp_path, spec):
    for slug in spec.ancestors:
        if not (results / "runs" / slug / "train.json").is_file():
            assert main(["train", slug, "--results", str(results)]) == 0
    plain, log = train_once(results, spec)
    state, resumed, lives = interrupted(results, spec, tmp_path / "c.safetensors", after=3)
    assert lives > 2 and resumed.curve == log.curve
    assert state.keys() == plain.keys() and all(torch.equal(state[name], plain[name]) for name in plain)


@pytest.fixture
def copy(results, tmp_path):
    """A results folder of its own, to be changed."""
    shutil.copytree(results, tmp_path / "results")
    return tmp_path / "results"


def change(results, spec):
    """As if a run had been trained again, to other numbers."""
    path = results / "runs" / spec.slug / "delta.safetensors"
    state = load_file(path)
    save_file({name: value + 0.01 for name, value in state.items()}, path)
    record = read_json(path.with_name("train.json")) | {"delta_sha256": sha256(path)}
    write_json(path.with_name("train.json"), record)


def test_a_run_says_what_it_was_made_from_and_is_refused_once_that_is_another(copy):
    spec = child(take="delta", train_delta=False)
    assert main(["train", spec.slug, "--results", str(copy)]) == 0
    assert main(["evaluate", spec.slug, "--results", str(copy)]) == 0
    parents = [{"slug": PARENT.slug, "delta_sha256": sha256(copy / "runs" / PARENT.slug / "delta.safetensors")}]
    for name in ("train.json", "metrics.json", "predict.json"):
        assert read_json(copy / "runs" / spec.slug / name)["parents"] == parents
    record = read_json(copy / "runs" / spec.slug / "train.json")
    assert identity(record)["parents"] == parents and "take=delta" in (copy / "runs" / spec.slug / "README.md").read_text()
    assert read_result(copy, spec)["slug"] == spec.slug
    change(copy, PARENT)
    with pytest.raises(PelError, match=f"made from another training of {PARENT.slug}"):
        read_result(copy, spec)


def test_a_checkpoint_is_not_gone_on_with_once_the_parent_is_another(copy, capsys):
    """Stopped, the parent trained again, started again: it starts anew, and ends where a run of the new parent ends."""
    spec = child(take="delta", train_delta=False, epochs=2)
    path = checkpoint_path(copy, spec.slug)
    _, _, info = load(spec, copy, CPU, fresh=True)
    about = {"slug": spec.slug, "parents": info["parents"]}
    with pytest.raises(Stopped):
        train_once(copy, spec, CheckpointManager(path, about, requests=Asked(3)))
    change(copy, PARENT)
    again = {"slug": spec.slug, "parents": load(spec, copy, CPU, fresh=True)[2]["parents"]}
    plain, _ = train_once(copy, spec)
    state, _ = train_once(copy, spec, CheckpointManager(path, again))
    assert all(torch.equal(state[name], plain[name]) for name in plain) and again != about


def refused(capsys, slug, results):
    capsys.readouterr()
    assert main(["train", slug, "--results", str(results)]) == 1
    return capsys.readouterr().err


def test_a_parent_that_is_missing_damaged_stale_or_diverged_is_named(copy, capsys):
    spec = child(take="delta")
    folder = copy / "runs" / PARENT.slug
    stored = read_json(folder / "train.json")
    for change_, message in [
        ({"versions": {"prepare": 1, "train": 0}}, "cannot be used: trained by version 0, this is 1"),
        ({"spec": stored["spec"] | {"lr": 0.7}}, "cannot be used: lr: stored 0.7, now 0.01"),
        ({"delta_sha256": "0" * 64}, "is not the file that train.json describes"),
        ({"data": stored["data"] | {"sha256": "0" * 64}, "inputs": {}}, "made from another data set toy"),
    ]:
        write_json(folder / "train.json", stored | change_)
        assert message in refused(capsys, spec.slug, copy)
    (folder / "train.json").unlink()
    assert f"{folder / 'train.json'} does not exist; train it again first" in refused(capsys, spec.slug, copy)
    bad = RunSpec.make("toy-ir20", "toy", METHOD, 3, lr=1e30)
    assert "the loss became" in refused(capsys, bad.slug, copy)
    assert "its training diverged: the loss became" in refused(capsys, child(bad).slug, copy)
    record = diverged(copy, child(bad).slug, child(bad))
    assert record["failed"]["run"] == bad.slug and record["slug"] == child(bad).slug
    assert record["failed"]["reason"].startswith(f"the run it starts from, {bad.slug}, diverged: the loss became")


def test_tensors_of_another_shape_and_other_classes_are_named(copy, capsys):
    folder = copy / "runs" / PARENT.slug
    state = load_file(folder / "delta.safetensors")
    name = next(name for name in state if name.endswith("up.weight"))
    save_file(state | {name: state[name][:1].clone()}, folder / "delta.safetensors")
    record = read_json(folder / "train.json") | {"delta_sha256": sha256(folder / "delta.safetensors")}
    write_json(folder / "train.json", record)
    assert f"cannot start from {PARENT.slug}: the checkpoint's '{name}' is" in refused(capsys, child().slug, copy)
    save_file(state, folder / "delta.safetensors", {"class_names": '["a", "b", "c", "d", "e", "f"]'})
    write_json(folder / "train.json", record | {"delta_sha256": sha256(folder / "delta.safetensors")})
    assert "takes over the head of" in (error := refused(capsys, child().slug, copy)) and "in another order" in error
