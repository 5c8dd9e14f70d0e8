"""Soups of runs: against means and greedy choices written out; what cannot be averaged is refused by name."""

import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.batches import EvalBatches
from pel_core.spec.choices import CHOICES, SOUPS
from pel_core.spec.results import metrics_file, run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.training.loop import predict
from pel_core.training.parents import read_parents, take_over
from pel_core.training.run_inputs import load
from pel_core.training.soups import accuracy

METHOD, CPU = "lora+ln", torch.device("cpu")
OWN = {"epochs": 1, "data.val": 0.3}


def made(seed=0, method=METHOD, **options):
    return RunSpec.make("toy-ir20", "toy", method, seed, **{**OWN, **options})


PARENTS = [made(seed, lr=lr) for lr in (0.02, 0.5) for seed in (0, 1)]


def soup(how="uniform", parents=PARENTS, **options):
    return made(soup=how, parents=parents, **{"epochs": 0, **options})


def trained(results, spec):
    return load_file(run_folder(results, spec.slug) / "delta.safetensors")


@pytest.fixture(scope="module")
def results(toy_results):
    for spec in (*PARENTS, soup(), soup("greedy"), soup("greedy", **{"soup.metric": "mean_class"})):
        assert main(["train", spec.slug, "--results", str(toy_results), "--no-tensorboard"]) == 0
    return toy_results


def plain_mean(states):
    return {name: np.mean([state[name].double().numpy() for state in states], 0) for name in states[0]}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_a_uniform_soup_is_the_mean_of_all(results):
    same(trained(results, soup()), plain_mean([trained(results, spec) for spec in PARENTS]))
    record = read_json(run_folder(results, soup().slug) / "train.json")
    assert record["soup"] == {"taken": [spec.slug for spec in PARENTS]}
    assert [parent["slug"] for parent in record["parents"]] == [spec.slug for spec in PARENTS]
    assert record["training"]["curve"] == []


@pytest.mark.parametrize("metric", ["overall", "mean_class"])
def test_a_greedy_soup_is_the_greedy_choice_on_validation_images(results, metric):
    spec = soup("greedy", **({} if metric == "overall" else {"soup.metric": metric}))
    data, classifier, _ = load(spec, results, CPU)
    batches = EvalBatches(data.val, spec.tte, spec.expand, spec.pixels, spec.vit.mean, spec.vit.std, CPU)
    labels = np.asarray(data.val.labels)
    states = [trained(results, parent) for parent in PARENTS]

    def score(taken):
        mean = plain_mean([states[position] for position in taken])
        classifier.load_trainable({name: torch.as_tensor(value, dtype=torch.float32) for name, value in mean.items()})
        right = predict(classifier, batches).argmax(1).numpy() == labels
        return np.mean(right) if metric == "overall" else np.mean([right[labels == label].mean() for label in set(labels)])

    order = sorted(range(len(states)), key=lambda position: -score([position]))
    taken = order[:1]
    for position in order[1:]:
        if score([*taken, position]) >= score(taken):
            taken.append(position)
    same(trained(results, spec), plain_mean([states[position] for position in taken]))
    record = read_json(run_folder(results, spec.slug) / "train.json")["soup"]
    assert record["taken"] == [PARENTS[position].slug for position in taken] and record["validation"]["metric"] == metric
    assert record["validation"]["scores"][str(order[0])] == pytest.approx(100 * score(order[:1]))


def folded(results, parents, weight, **options):
    """LT-Soups' running mean, step by step, from the network before training on; runs of other seeds are averaged first."""
    start = load(made(epochs=0, train_head=True, **options), results, CPU, fresh=True)[1].trainable_state()
    now = {name: value.double().numpy() for name, value in start.items()}
    for lr in dict.fromkeys(parent.lr for parent in parents):
        mean = plain_mean([trained(results, parent) for parent in parents if parent.lr == lr])
        now = {name: (1 - weight) * value + weight * mean[name] for name, value in now.items()}
    return now


@pytest.mark.parametrize("weight", [0.7, 0.25, 1])
def test_a_fold_is_the_running_mean_from_the_start_of_the_training(results, weight):
    spec = soup("fold", **({} if weight == 0.7 else {"soup.weight": weight}))
    same(load(spec, results, CPU, fresh=True)[1].trainable_state(), folded(results, PARENTS, weight))


def test_the_order_of_a_fold_counts(results):
    heads = [
        load(soup("fold", parents=parents), results, CPU, fresh=True)[1].trainable_state()["head.weight"]
        for parents in (PARENTS, [*PARENTS[2:], *PARENTS[:2]])
    ]
    assert not torch.allclose(*heads)


def test_a_fold_says_what_each_run_counts(results):
    found = load(soup("fold"), results, CPU, fresh=True)[2]["soup"]
    assert found["shares"] == pytest.approx([0.09, 0.105, 0.105, 0.35, 0.35]) and sum(found["shares"]) == pytest.approx(1)
    assert found["taken"] == [spec.slug for spec in PARENTS]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.floats(0.01, 1))
def test_the_shares_of_a_fold_are_those_of_its_steps(kinds, weight):
    first, rest = SOUPS["fold"].shares([str(kind) for kind in kinds], weight=weight)
    values = dict(enumerate((3.0, -1.0, 4.0, 8.0)))
    now = 10.0
    for kind in dict.fromkeys(kinds):
        now = (1 - weight) * now + weight * values[kind]
    assert first * 10 + sum(share * values[kind] for share, kind in zip(rest, kinds, strict=True)) == pytest.approx(now)


def test_runs_of_other_classes_give_a_soup_of_their_deltas(results):
    """What is not taken over need not fit."""
    parents = [made(3, **{"data.val": 0}), made(3, **{"data.val": 0, "data.classes": 4})]
    for parent in parents:
        assert main(["train", parent.slug, "--results", str(results), "--no-tensorboard"]) == 0
    for how in ("uniform", "fold"):
        spec = soup(how, parents=parents, take="delta", **{"data.val": 0})
        found = load(spec, results, CPU, fresh=True)[1].trainable_state()
        delta = next(name for name in found if not name.startswith("head."))
        assert found[delta].isfinite().all() and len(found["head.weight"]) == 6


def test_it_is_evaluated_like_any_run_and_says_what_it_is_made_of(results):
    assert main(["evaluate", soup().slug, "--results", str(results), "--no-tensorboard"]) == 0
    record = read_json(metrics_file(results, soup().slug))
    assert record["metrics"]["overall"] >= 0 and len(record["parents"]) == 4 and record["soup"]["taken"]


def test_the_delta_alone_is_averaged_and_the_head_trains_on_it(results):
    """The second half of LT-Soups: the classifier alone, on a mean of deltas."""
    spec = soup(take="delta", train_delta=False, epochs=1)
    assert main(["train", spec.slug, "--results", str(results), "--no-tensorboard"]) == 0
    mean, found = plain_mean([trained(results, parent) for parent in PARENTS]), trained(results, spec)
    parts = {name: value for name, value in found.items() if not name.startswith("head.")}
    same(parts, {name: mean[name] for name in parts})
    assert not np.allclose(found["head.weight"].numpy(), mean["head.weight"])


@given(st.lists(st.floats(0, 100), min_size=2, max_size=5), st.randoms())
def test_a_greedy_soup_is_never_worse_on_validation_images_than_its_best_run(alone, random):
    """Whatever means score; a run that is taken did not make the mean worse when it came."""
    count = len(alone)
    sets = [taken for size in range(2, count + 1) for taken in combinations(range(count), size)]
    scores = {taken: random.uniform(0, 100) for taken in sets} | {(i,): value for i, value in enumerate(alone)}
    taken = SOUPS["greedy"].choose(count, lambda positions: scores[tuple(sorted(positions))])
    steps = [scores[tuple(sorted(taken[:size]))] for size in range(1, len(taken) + 1)]
    assert steps == sorted(steps) and steps[0] == max(alone) and len({*taken}) == len(taken)


def test_mean_class_accuracy_is_over_the_classes_that_have_images():
    logits, labels = torch.eye(3)[[0, 0, 0, 2]], torch.tensor([0, 0, 2, 2])
    assert accuracy(logits, labels, "overall") == accuracy(logits, labels, "mean_class") == pytest.approx(75)
    assert accuracy(logits[:3], labels[:3], "mean_class") == pytest.approx(50)


def test_its_name_gives_it_back_and_one_of_several_seeds_is_no_run_of_a_seed():
    spec = soup("greedy")
    assert RunSpec.parse(spec.slug) == spec and spec.pooled and not spec.seeded
    one = soup(parents=[made(lr=lr) for lr in (0.02, 0.5)])
    assert not one.pooled and one.seeded
    assert soup(epochs=1).seeded and not made(parents=[spec], epochs=0).seeded


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parents": [made()]}, "soup=uniform averages several different runs; from names one run"),
        ({"parents": [made(), made()]}, "from names the same run twice"),
        ({"parents": [made(), made(method="adapter")]}, "its method is adapter, this run's ln\\+lora"),
        ({"parents": [made(), made(head="linear")]}, "its head is linear, this run's cosine"),
        ({"parents": [made(), made(adapter_dim=2)]}, "its adapter_dim is 2, this run's auto"),
        ({"parents": [made(), made(**{"data.val": 0})]}, "it trains on images that this run holds out"),
        ({"how": "none"}, "a run starts from one other; expected one, or soup=uniform"),
        ({"parents": []}, "soup=uniform has no effect on ln\\+lora here: it needs a run to start from"),
        ({"wise_ft": 0.5}, "no zero-shot start"),
        ({"how": "fold", "init": "class-mean"}, "soup=fold counts the zero-shot classifier in: init=text, here class-mean"),
        ({"soup.weight": 0.5}, "soup.weight=0.5 has no effect .*soup=fold"),
        ({"how": "fold", "soup.weight": 0}, "soup.weight=0 is not possible; it must be above 0 and at most 1"),
        ({"soup.metric": "overall"}, "soup.metric=overall has no effect .*soup=greedy"),
    ],
)
def test_what_cannot_be_averaged_is_refused(options, words):
    with pytest.raises(PelError, match=words):
        soup(**options)


def test_a_greedy_soup_without_validation_images_is_refused(toy_results):
    def plain(seed):
        return RunSpec.make("toy-ir20", "toy", METHOD, seed, epochs=1)

    spec = RunSpec.make("toy-ir20", "toy", METHOD, 0, epochs=0, soup="greedy", parents=[plain(0), plain(1)])
    for parent in spec.parent_specs:
        assert main(["train", parent.slug, "--results", str(toy_results), "--no-tensorboard"]) == 0
    with pytest.raises(PelError, match=r"has no split 'val'; data\.val=0\.1 holds one out"):
        load(spec, toy_results, CPU, fresh=True)


def test_tensors_of_other_shapes_are_refused_by_name(results):
    """Whichever of the parents has them."""
    data, classifier, _ = load(soup(), results, CPU)
    parents = read_parents(soup(), results)
    last = parents[-1]
    other = {**last.state, "head.weight": last.state["head.weight"][1:]}
    with pytest.raises(PelError, match=f"cannot start from {re.escape(last.spec.slug)}: .*'head.weight'"):
        take_over(classifier, soup(), [*parents[:-1], replace(last, state=other)], data)


def test_every_entry_is_here():
    assert set(CHOICES["soup"]) == {"none", "uniform", "greedy", "fold"}
