"""Conformance on what the committed golden folder leaves out: accumulation, ensembles, class means, probes, more sets."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import Tower, classify, encode
from torch.nn import functional as F

from pel_core.conformance import check_folder

GOLDEN = Path(__file__).parents[1] / "golden"


def bad(report):
    return [str(check) for check in report.checks if check.status != "ok"]


def load(name):
    with np.load(GOLDEN / name) as stored:
        return dict(stored)


@pytest.fixture
def folder(tmp_path):
    """A copy of the golden folder without its configurations, to which a test adds."""
    for name in ("tiny_clip.npz", "batch.npz"):
        shutil.copy(GOLDEN / name, tmp_path / name)
    index = json.loads((GOLDEN / "index.json").read_text())
    wanted = {key: index[key] for key in ("num_classes", "tolerances")}
    files = {name: index["files"][name] for name in ("tiny_clip.npz", "batch.npz")}
    (tmp_path / "index.json").write_text(json.dumps({**wanted, "configs": {}, "files": files}))
    return tmp_path


def add(folder, name, arrays, about=""):
    np.savez(folder / name, **arrays)
    index = json.loads((folder / "index.json").read_text())
    index["files"][name] = {"about": about}
    (folder / "index.json").write_text(json.dumps(index))


def clip_state():
    return {key: torch.from_numpy(value) for key, value in load("tiny_clip.npz").items()}


def accumulate(arrays, batch, micro, epochs):
    """The reference's accumulation, written out: every micro-batch's loss is divided by batch / micro."""
    tower = Tower.of_clip(clip_state(), 12, 8, 32)
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
    named = {key.removeprefix("init/"): value.clone() for key, value in tensors.items() if key.startswith("init/")}
    for value in named.values():
        value.requires_grad_(True)
    tuner = {key.removeprefix("tuner."): value for key, value in named.items()}
    images, labels, counts = (tensors[key] for key in ("images", "labels", "cls_num_list"))
    optimizer = torch.optim.SGD(named.values(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    rates, losses = [], []
    for epoch in range(epochs):
        rate = optimizer.param_groups[0]["lr"] = 0.005 * (1 + math.cos(math.pi * epoch / epochs))
        micros = list(zip(images.split(micro), labels.split(micro), strict=True))
        for number, (some, target) in enumerate(micros):
            logits = classify(encode(tower, tower.state, tuner, {}, 4, some), named, "CosineClassifier", 25)
            loss = F.cross_entropy(logits + torch.log(counts / counts.sum()), target)
            (loss / (batch // micro)).backward()
            losses.append(loss.item())
            if (number + 1) % (batch // micro) == 0 or number + 1 == len(micros):
                optimizer.step()
                optimizer.zero_grad()
                rates.append(rate)
    with torch.no_grad():
        logits = classify(encode(tower, tower.state, tuner, {}, 4, images), named, "CosineClassifier", 25)
    final = {f"final/{key}": value.detach().numpy() for key, value in named.items()}
    return {"lr_per_step": np.array(rates), "micro_losses": np.array(losses), "final_logits": logits.numpy(), **final}


@pytest.fixture(scope="module")
def loop():
    arrays = load("train_loop.npz")
    run = {f"accum/{key}": value for key, value in accumulate(arrays, batch=8, micro=4, epochs=3).items()}
    return {**arrays, **run, "lr_epochs20": 0.005 * (1 + np.cos(np.pi * np.arange(20) / 20))}


ABOUT = "plain: batches 8,8,4. accum: batch 8 as micro 4 (5 micro-batches/epoch)."


def test_accumulation_as_the_reference_does_it(folder, loop):
    add(folder, "loop.npz", loop, ABOUT)
    report = check_folder(folder)
    assert not bad(report)
    assert any("accum/final" in str(check) for check in report.checks)


def test_another_weighting_of_the_left_over_group_fails(folder, loop):
    arrays = dict(loop)
    exact = accumulate(load("train_loop.npz"), batch=4, micro=4, epochs=3)
    arrays |= {f"accum/final/{key.removeprefix('final/')}": value for key, value in exact.items() if key.startswith("final/")}
    add(folder, "loop.npz", arrays, ABOUT)
    assert any("accum/final" in line and "FAILED" in line for line in bad(check_folder(folder)))


def test_a_loop_whose_batch_size_is_not_said_is_unsupported(folder, loop):
    add(folder, "loop.npz", loop)
    assert any("unsupported" in line for line in bad(check_folder(folder)))


def text_parts():
    import open_clip
    from open_clip.model import build_model_from_openai_state_dict

    state = clip_state()
    projection = state["visual.proj"]
    model = build_model_from_openai_state_dict(state, quick_gelu=True, cast_dtype=None).float().eval()
    return open_clip, model, projection


NAMES = ["red_panda", "worm", "Grand Piano", "apple"]


@torch.no_grad()
def test_the_ensemble_of_prompts(folder):
    open_clip, model, projection = text_parts()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    lines = [[line(name.replace("_", " ")) for name in NAMES] for line in open_clip.OPENAI_IMAGENET_TEMPLATES]
    raw = torch.stack([model.encode_text(tokenizer(line)) for line in lines])
    mean = F.normalize(raw, dim=-1).mean(0)
    head = F.normalize(F.normalize(mean, dim=-1) @ projection.T, dim=-1)
    tokens = torch.stack([tokenizer(line) for line in lines])
    arrays = {"classnames": np.array(NAMES), "ensemble/head_weight": head.numpy(), "ensemble/text_features_raw": mean.numpy()}
    add(folder, "head.npz", {**arrays, "ensemble/token_ids": tokens.transpose(0, 1).flatten(0, 1).numpy()})
    assert not bad(check_folder(folder))
    add(folder, "head.npz", {**arrays, "ensemble/head_weight": head.flip(0).numpy()})
    assert any("ensemble/head_weight" in line for line in bad(check_folder(folder)))


@torch.no_grad()
def features():
    tower = Tower.of_clip(clip_state(), 12, 8, 32)
    return encode(tower, tower.state, {}, {}, 1, torch.from_numpy(load("batch.npz")["images"]))


@pytest.mark.parametrize("recorded", [True, False])
def test_class_means_and_linear_probes(folder, recorded):
    from sklearn import linear_model

    found, labels = features(), np.arange(8) % 4
    means = torch.stack([found[labels == label].mean(0) for label in range(4)])
    model = linear_model.LogisticRegression(max_iter=100, class_weight="balanced", solver="lbfgs").fit(found.numpy(), labels)
    arrays = {"classnames": np.array(NAMES), "class_mean/head_weight": F.normalize(means, dim=-1).numpy()}
    arrays["linear_probe/head_weight"] = model.coef_ / np.linalg.norm(model.coef_, axis=1, keepdims=True)
    add(folder, "head.npz", arrays | ({"class_mean/labels": labels} if recorded else {}))
    assert not bad(check_folder(folder))


def test_an_initialisation_that_does_not_exist_is_unsupported(folder):
    add(folder, "head.npz", {"classnames": np.array(NAMES), "descriptor/head_weight": np.zeros((4, 128), np.float32)})
    assert any("unsupported" in line and "descriptor" in line for line in bad(check_folder(folder)))


def test_more_evaluation_sets(folder):
    """A class that is never right, one that is absent, and an empty group."""
    logits, labels = np.eye(4, dtype=np.float32)[[0, 0, 1, 0]], np.array([0, 0, 1, 2])
    accuracies = np.array([100.0, 100.0, 0.0])
    result = {
        "accuracy": 75.0, "error_rate": 25.0, "worst_case_acc": 0.0, "gmean_acc": 0.0, "mean_acc": accuracies.mean(),
        "hmean_acc": 3 / (1 / np.maximum(accuracies, 1e-3)).sum(), "many_acc": 100.0, "med_acc": 0.0, "few_acc": np.nan,
        "macro_f1": 100 * (0.8 + 1.0 + 0.0) / 3,
    }  # fmt: skip
    arrays = {f"b/result/{name}": np.float64(value) for name, value in result.items()}
    inputs = {"b/logits": logits, "b/labels": labels, "b/cls_num_list": np.array([200, 101, 30, 20])}
    add(folder, "evaluator.npz", inputs | arrays)
    assert not bad(check_folder(folder))
    add(folder, "evaluator.npz", inputs | {"b/result/new": np.zeros(())})
    assert any("no metric of that name" in line for line in bad(check_folder(folder)))


@pytest.mark.parametrize("ratio", [10, 50, 200])
def test_more_imbalance_ratios(folder, ratio):
    labels = load("cifar_lt.npz")["labels"]
    state, chosen = np.random.RandomState(0), []
    counts = [int(500 * (1 / ratio) ** (label / 99)) for label in range(100)]
    for label, count in enumerate(counts):
        positions = np.flatnonzero(labels == label)
        state.shuffle(positions)
        chosen.append(positions[:count])
    arrays = {f"counts_ir{ratio}": np.array(counts), f"indices_ir{ratio}": np.concatenate(chosen), "labels": labels}
    add(folder, "sampling.npz", arrays)
    assert not bad(check_folder(folder))
    add(folder, "sampling.npz", {**arrays, f"indices_ir{ratio}": np.sort(np.concatenate(chosen))})
    assert any("indices" in line for line in bad(check_folder(folder)))


def test_a_tensor_resize_in_the_place_of_pil_fails(folder):
    arrays = load("transforms_tte.npz")
    keep = {key: value for key, value in arrays.items() if key in ("image/h40w50", "single/h40w50")}
    add(folder, "transforms.npz", keep, "resolution 32, expand 8")
    assert not bad(check_folder(folder))
    shifted = keep["single/h40w50"].copy()
    shifted[0, 0, 0, 0] += 1 / 255 / 0.2686
    add(folder, "transforms.npz", {**keep, "single/h40w50": shifted}, "resolution 32, expand 8")
    assert any("single/h40w50 " in line and "FAILED" in line for line in bad(check_folder(folder)))


@pytest.mark.parametrize("loss", ["LA_x2", "LDAM_g1", "Dice", "Focal_"])
def test_a_loss_variant_that_does_not_exist_is_unsupported(folder, loss):
    arrays = {key: value for key, value in load("losses.npz").items() if key in ("a/logits", "a/labels", "a/cls_num_list")}
    add(folder, "losses.npz", {**arrays, f"a/value/{loss}": np.float64(1.0)})
    assert any("unsupported" in line and loss in line for line in bad(check_folder(folder)))
