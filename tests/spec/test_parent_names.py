"""Runs that start from runs: their names say what from, and what cannot be started from is refused."""

import shutil
from dataclasses import replace

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from pel_core.common.errors import PelError
from pel_core.common.files import write_json
from pel_core.spec import long_names
from pel_core.spec.parents import read_parents, spell_parents
from pel_core.spec.plugins import parse_run
from pel_core.spec.results import run_folder
from pel_core.spec.run_spec import RunSpec

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "loss": st.sampled_from(["ce", "focal", "la"]),
        "lr": st.sampled_from([0.5, 1e-4]),
        "optimizer": st.just("adamw"),
        "tte": st.just("none"),
    },
)
BETAS = {"optimizer.betas": (0.9, 0.95)}


def made(method="adaptformer@2:4", seed=0, **options):
    return RunSpec.make("toy-ir20", "toy", method, seed, **options)


def plain(dataset, method, seed, **options):
    return RunSpec.make(dataset, "toy", method, seed, **options)


@given(st.lists(OPTIONS, min_size=1, max_size=3), st.integers(0, 2))
def test_the_name_of_a_run_holds_all_that_it_starts_from(stages, seed):
    """Of a chain of stages, each the parent of the next: the slug alone gives the spec back."""
    spec = None
    for stage in stages:
        stage = stage | (BETAS if "optimizer" in stage else {})
        try:
            spec = made(seed=seed, **stage, **({"parents": [spec]} if spec else {}))
            assert spec.slug
        except PelError as error:
            assert "longer than a folder name may be" in str(error)
            reject()
    again = RunSpec.parse(spec.slug)
    assert again == spec and again.slug == spec.slug and len(spec.ancestors) <= len(stages) - 1
    assert list(again.ancestors) == [parent.train.slug for parent in spec.ancestors.values()]
    assert spec.train.parents == spec.parents and not set(spec.slug) & set(" /\\'\"()&|;<>$*?")


@given(
    st.lists(st.tuples(st.sampled_from(["adaptformer", "ln@1:3", "lora"]), st.integers(0, 3), OPTIONS), min_size=1, max_size=4)
)
def test_several_parents_are_read_as_they_were_spelled(runs):
    parents = tuple(made(method, seed, **options).train for method, seed, options in runs)
    text = spell_parents(parents, "toy-ir20", 0)
    assert read_parents(text, "toy-ir20", 0, plain) == parents


def test_parents_that_differ_in_their_seed_alone_are_named_once():
    """Runs of many seeds would not fit into the name of a folder."""
    parents = tuple(made(loss=loss, seed=seed) for loss in ("ce", "focal") for seed in (0, 1, 2))
    text = "adaptformer@2:4,seed:0+1+2,loss:ce~adaptformer@2:4,seed:0+1+2,loss:focal"
    assert spell_parents(parents, "toy-ir20", 0) == text and read_parents(text, "toy-ir20", 0, plain) == parents


def test_parents_of_parents_are_joined_apart():
    """A parent that itself starts from several: one sign more at each depth."""

    class Run:
        dataset, seed, method, base = "d", 0, "m", {}

        def __init__(self, parents=""):
            self.parents = parents

        def departures(self, base):
            return {"parents": self.parents} if self.parents else {}

    def make(dataset, method, seed, **options):
        return Run(**options)

    def depth(text):
        return [depth(run.parents) for run in read_parents(text, "d", 0, make)] if text else []

    two = spell_parents([Run(), Run()], "d", 0)
    four = spell_parents([Run(two), Run()], "d", 0)
    eight = spell_parents([Run(four), Run(four)], "d", 0)
    assert two == "m~m" and four == "m,parents:m~~m~m"
    assert depth(eight) == [[[[], []], []], [[[], []], []]]


def test_a_run_that_starts_from_none_keeps_its_name():
    assert made().slug == "toy-ir20.toy.adaptformer@2:4.s0" and made().parent_specs == () and made().ancestors == {}


def test_a_parent_is_its_training():
    child = made(parents=[made(loss="ce", tte="none")])
    assert child.slug == "toy-ir20.toy.adaptformer@2:4.s0.parents=adaptformer@2:4,loss:ce"
    assert RunSpec.parse(f"{child.slug}.tte=none").train == child


def test_class_names_are_not_asked_where_the_head_is_taken_over():
    parent = made(init="class-mean")
    assert not made(parents=[parent]).needs_text and made(parents=[parent], take="delta").needs_text


ADAPTER, CACHE = {"head": "clip-adapter"}, {"head": "tip-adapter-f"}
NARROW, FEW = {**ADAPTER, "head.reduction": 2}, {**CACHE, "head.per_class": 4}


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("adaptformer@2:4", {"take": "head"}, "take=head has no effect .* needs a run to start from"),
        ("adaptformer@2:4", {"train_delta": False}, "train_delta=false has no effect .* needs a run to start from"),
        ("adaptformer@2:4", {"parents": [made()], "take": "head", "train_delta": False}, "train_delta=false has no effect"),
        ("adaptformer@2:4", {"parents": [made()], "init": "class-mean"}, "init=class-mean has no effect .* needs take=delta"),
        ("adaptformer@2:4", {"parents": [made()], "prompt": "ensemble"}, "prompt=ensemble has no effect .* needs take=delta"),
        ("adaptformer@2:4", {"parents": [made("zero-shot")]}, "zero-shot trains nothing"),
        ("ln", {"parents": [made()]}, "its method is adaptformer@2:4, this run's ln; .*take=head"),
        ("head-only", {"parents": [made()], "take": "delta"}, "head-only has no delta to take over"),
        ("adaptformer@2:4", {"parents": [made(head="linear")]}, "its head is linear, this run's cosine"),
        (
            "head-only",
            {"parents": [made("head-only", **NARROW)], **ADAPTER},
            "head.reduction is 2, .* 4",
        ),
        ("head-only", {"parents": [made("head-only", **FEW)], **CACHE}, "head.per_class is 4, .* 16"),
        ("adaptformer@2:4", {"parents": [made(adapter_dim=2)]}, "its adapter_dim is 2, this run's auto"),
        ("mask", {"parents": [made("mask", 1, mask_seed="run")], "mask_seed": "run"}, "drawn by seed 1, this run's by 0"),
        ("adaptformer@2:4", {"parents": [made(**{"data.classes": 3})]}, "other classes of the data set"),
        ("head-only", {"parents": [plain("demo-cifar-ir10", "head-only", 0)]}, r"it has \d+ classes, this run 6"),
        ("adaptformer@2:4", {"parents": [made()], "data.val": 0.2}, "trains on images that this run holds out"),
        ("adaptformer@2:4", {"parents": [made(), made(loss="ce")]}, "a run starts from one other"),
        ("adaptformer@2:4", {"parents": [made()], "train_delta": False, "train_head": False}, "nothing else trains"),
        ("zero-shot", {"parents": [made()]}, "from: toy-ir20.* has no effect on zero-shot .* a method that trains"),
        ("adaptformer@2:4", {"parents": "adaptfomer"}, "Did you mean 'adaptformer'"),
        ("adaptformer@2:4", {"parents": "adaptformer,seed:x"}, "expected a whole number"),
        ("adaptformer@2:4", {"parents": "adaptformer,lr:much"}, "lr=much: expected a number"),
        ("adaptformer@2:4", {"parents": "adaptformer,lr"}, "is not NAME or NAME@START:STOP"),
    ],
)
def test_what_cannot_be_started_from_is_refused(method, options, message):
    with pytest.raises(PelError, match=message):
        made(method, **options)


def test_images_held_out_are_held_out_of_all_that_was_trained_before():
    """The same rule at another ratio or draw holds out others; so does an earlier stage, whatever lies between."""
    val = {"data.val": 0.2}
    assert made(parents=[made(**val)], **val).parents
    for other in (plain("toy-ir10", "adaptformer@2:4", 0, **val), made(**val, **{"data.seed": 1})):
        with pytest.raises(PelError, match=r"trains on images that this run holds out \((dataset|data.seed) differs\)"):
            made(parents=[other], **val)
    assert made(parents=[made(**val, **{"data.noise": 0.1})], **val).parents  # which changes labels alone
    assert made(parents=[made(**val, **{"data.cap_ratio": 2})], **val).parents  # which takes of training images alone
    assert made(parents=[made(**val)], **val, **{"data.cap_ratio": 2}).parents
    between = plain("demo-cifar-ir10", "adaptformer@2:4", 0, parents=[made(adapter_dim=4)], take="delta")
    with pytest.raises(PelError, match=r"from: toy-ir20.*trains on images that this run holds out .data.val differs"):
        made(parents=[between], take="delta", adapter_dim=4, **val)


def test_another_backbone_cannot_be_started_from():
    with pytest.raises(PelError, match="its backbone is clip-mini, this run's toy"):
        made(parents=[RunSpec.make("toy-ir20", "clip-mini", "adaptformer@2:4", 0)])


# Names that would be too long


def long_chain(length=5):
    """Each starts from the one before: its name would be longer and longer."""
    spec = made(**{"data.val": 0.2})
    for rate in range(length):
        spec = made(parents=[spec], lr=0.1 + rate / 10, momentum=0.5, weight_decay=0.125, **{"data.val": 0.2})
    return spec


def test_a_name_that_would_be_too_long_has_a_digest_and_is_read_by_who_made_it():
    spec = long_chain()
    ancestors = [*spec.ancestors.values(), spec]
    slugs = [each.slug for each in ancestors]
    assert len({*slugs}) == len(slugs) == 6 and all(len(slug) <= 200 for slug in slugs)
    short = [slug for slug in slugs if "parents=@" not in slug]
    assert slugs[: len(short)] == short and len(short) > 1, "the shorter ones are as they were"
    for each in ancestors:
        assert RunSpec.parse(each.slug) == each and RunSpec.parse(each.slug).parent_specs == each.parent_specs
    within = replace(spec, tte="none")
    assert within.slug == f"{spec.slug}.tte=none" and within.train.slug == spec.slug
    other = made(parents=[long_chain(4)], lr=0.5, momentum=0.5, weight_decay=0.125, **{"data.val": 0.2})
    assert other == spec and made(parents=[long_chain(3)], lr=0.5, momentum=0.5, **{"data.val": 0.2}).slug != spec.slug


def test_a_digest_is_explained_by_a_results_folder_or_refused(tmp_path, monkeypatch):
    spec = long_chain()
    slug = spec.slug
    monkeypatch.setattr(long_names, "_RESULTS", {})

    def parsed():
        monkeypatch.setattr(long_names, "_KNOWN", {})  # as in another process
        return parse_run(slug, tmp_path)

    with pytest.raises(PelError, match=r"parents=@[0-9a-f]{16} stands for .* no results folder says which .*--results"):
        parsed()
    long_names.write_names(tmp_path, {each.slug: each for each in (spec, *spec.ancestors.values())})
    assert parsed() == spec and len([*(tmp_path / "names").iterdir()]) == sum(
        "=@" in slug for slug in [spec.slug, *spec.ancestors]
    )
    shutil.rmtree(tmp_path / "names")
    with pytest.raises(PelError, match="no results folder says which"):
        parsed()
    write_json(run_folder(tmp_path, spec.slug) / "train.json", {"spec": spec.to_json()})  # of a run that was copied
    assert parsed() == spec
