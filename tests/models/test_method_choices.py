"""What a study may say of the methods' knobs: what is refused when it is read, and what reaches the attached modules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_surgery import WIDTH, classifier, tune
from torch import nn

from pel_core.common.errors import PelError
from pel_core.models.methods import MATRICES, MATRIX_NAMES
from pel_core.spec.run_spec import RunSpec
from pel_core.training.optimizers import parameter_groups

REFUSED = [
    ("lora", {"lora.matrices": "v+q"}, r"lora.matrices=v\+q.*some of q, k, v, o, fc1, fc2, in this order and joined by \+"),
    ("dora", {"dora.matrices": "qkv"}, r"dora.matrices=qkv.*some of q, k, v"),
    ("vera", {"vera.matrices": "q+q"}, r"vera.matrices=q\+q"),
    ("bitfit", {"bitfit.matrices": ""}, r"bitfit.matrices="),
    ("lora", {"lora.alpha": 0}, r"lora.alpha=0 .*above 0"),
    ("lora", {"dora.alpha": 2}, r"dora.alpha=2 has no effect on lora here: it needs.*dora"),
    ("dora+mask", {}, "dora and mask exclude each other"),
    ("mask@:6+dora@6:", {}, "exclude each other"),
    ("vpt-gated+vpt-deep", {}, "vpt-gated and vpt-deep exclude each other"),
    (
        "vpt-gated@-1:",
        {"vpt-gated.gate": 0},
        "vpt-gated.gate=0 has no effect.*it needs vpt-gated on a block that is not the last",
    ),
    ("repadapter", {"repadapter.groups": 5}, "repadapter.groups=5 is not possible.*a divisor of the width 768"),
    ("repadapter", {"adapter_dim": 3}, "repadapter.groups=2 is not possible.*a divisor of adapter_dim=3"),
    ("repadapter", {"repadapter.sites": "ffn"}, "one of both, attn"),
    ("convpass", {"convpass.scale": -1}, "convpass.scale=-1.*above 0"),
    ("fact-tt", {"adapter_dim": 769}, r"adapter_dim=769.*1\.\.768"),
    ("difffit", {"adapter_dim": 8}, "adapter_dim=8 has no effect on difffit"),
    ("mask", {"mask.sites": "ffn"}, "one of all, attn, mlp"),
]


@pytest.mark.parametrize("method", ["fact-tt", "fact-tk"])
def test_fact_on_an_mlp_of_another_width_is_refused_but_for_the_attention(method):
    with pytest.raises(PelError, match=rf"{method}.sites=both is not possible .*attn: the MLP of siglip-so400m \(1152 to 4304"):
        RunSpec.make("cifar100-ir100", "siglip-so400m", method, 0)
    assert RunSpec.make("cifar100-ir100", "siglip-so400m", method, 0, **{f"{method}.sites": "attn"}).knobs
    RunSpec.make("cifar100-ir100", "siglip-b16", method, 0)


@pytest.mark.parametrize(("method", "options", "told"), REFUSED)
def test_refused_when_the_study_is_read(method, options, told):
    with pytest.raises(PelError, match=told):
        RunSpec.make("cifar100-ir100", "clip-b16", method, 0, **options)


@given(st.lists(st.sampled_from(MATRIX_NAMES), max_size=6))
def test_matrices_have_one_spelling(words):
    """Every choice of matrices is possible in one way of writing it: in the block's order, each once, at least one."""
    text, possible = "+".join(words), bool(words) and words == sorted(set(words), key=MATRIX_NAMES.index)
    try:
        spec = RunSpec.make("cifar100-ir100", "clip-b16", "dora", 0, **{"dora.matrices": text})
        assert possible and RunSpec.parse(spec.slug) == spec
    except PelError:
        assert not possible


def test_a_knob_is_in_the_name_and_comes_back():
    slug = "cifar100-ir100.clip-b16.lora@6:12.s0.lora.alpha=16.lora.matrices=q+k+v+o"
    spec = RunSpec.parse(slug)
    assert spec.slug == slug and spec.knobs_of("lora") == {"alpha": 16, "matrices": "q+k+v+o"}
    assert RunSpec.make("cifar100-ir100", "clip-b16", "lora", 0, **{"lora.matrices": "q+v"}).slug.endswith("lora.s0")


@pytest.mark.parametrize("method", ["lora", "dora", "vera", "bitfit"])
@pytest.mark.parametrize("chosen", ["o", "k+fc2", "q+k+v+o+fc1+fc2"])
def test_what_is_attached_is_what_is_chosen(method, chosen):
    vit, tuned = tune(f"{method}@1:2", knobs={method: {"matrices": chosen}})
    sites = {site for site, names in MATRICES.items() if {*names} & {*chosen.split("+")}}
    assert {entry.site for entry in tuned} == sites
    assert {site for site in MATRICES if not isinstance(vit.blocks[1].get_submodule(site), nn.Linear)} == sites


@pytest.mark.parametrize("branch", ["attn", "mlp"])
def test_sparse_weights_in_one_branch(branch):
    _, tuned = tune("mask", knobs={"mask": {"sites": branch}})
    assert {entry.site.partition(".")[0] for entry in tuned} == {"attn" if branch == "attn" else "ffn"}


def test_an_odd_rank_is_raised_to_the_groups():
    _, tuned = tune("repadapter", adapter_dim=1)
    assert {entry.parameter.shape for entry in tuned if entry.name.endswith("down.weight")} == {(2, WIDTH)}


def test_matrices_are_updated_before_others_act_on_what_they_give():
    """As LoRA's, updates of weights lie within scale and shift, whatever the order of METHODS; DoRA's lies innermost."""
    vit, _ = tune("dora+vera+ssf-attn+lora")
    found, module = [], vit.blocks[0].attn.qkv
    while not isinstance(module, nn.Linear):
        found.append(type(module.delta).__name__)
        module = module.module
    assert found == ["ScaleShift", "VeRA", "LoRA", "DoRA"]


def test_which_parameters_count_as_biases_and_scales():
    model = classifier("bitfit+difffit@:1+vpt-gated")
    spec = RunSpec.make("toy-ir20", "toy", "bitfit+vpt-gated", 0)
    names = {id(value): name for name, value in model.trainable().items()}

    def exempt(kinds):
        groups = parameter_groups(model, spec, no_decay=kinds)
        return {names[id(value)] for group in groups if not group["weight_decay"] for value in group["params"]}

    biases, scales, prompts = exempt("biases"), exempt("scales"), exempt("prompts")
    assert "bitfit.0.attn.qkv.shift" in biases and "blocks.0.ffn.fc2.bias" in biases
    assert {"vpt-gated.0.logit", "vpt-gated.2.attn.qkv.temperature", "difffit.0.attn.gamma"} <= scales
    assert prompts == {"vpt-gated.0.prompt"}
