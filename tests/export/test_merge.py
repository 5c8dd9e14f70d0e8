"""Deltas folded into weights: the same features, or a refusal by name."""

import pytest
import torch
from torch import nn

from pel_core.common.errors import PelError
from pel_core.common.seeds import torch_generator
from pel_core.export.linear import NORMALISED, linear_head
from pel_core.export.merge import merged
from pel_core.models.heads import HEADS
from pel_core.models.methods import METHODS
from pel_core.models.surgery import Wrapped
from pel_core.models.weights import load_vit
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier, build

# What has an activation between its matrices, mixes tokens, or adds some; every other method is to merge, a plugin's too.
STAY = {"adapter", "adaptformer", "vpt-shallow", "vpt-deep", "vpt-gated", "convpass"}

FORMS = {"cosine": "l2", "coop": "l2", "text-tower": "l2", "linear": "none", "l2norm": "none", "layernorm": "layernorm"}


def classifier_of(results, method, **options) -> Classifier:
    """Built, and moved away from where it starts: an untrained delta is often the identity."""
    spec = RunSpec.make("toy-ir20", "toy", method, 0, **options)
    vit, text, _ = load_vit(results / "backbones" / "toy")
    features = torch.randn(6, 16, generator=torch_generator(0, "test"))
    made = build(spec, vit, 6, {**text, "text.features": features})
    draw = torch_generator(1, "test", method)
    with torch.no_grad():
        for tuned in made.tuned:
            tuned.parameter.add_(torch.randn(tuned.parameter.shape, generator=draw), alpha=0.05)
    return made.eval()


def methods():
    names = [name for name, method in METHODS.items() if "vit" in method.networks and not method.extends]
    return [*names, "lora@1:3+ssf-attn+ln", "repadapter+lora+bias", "ssf-ln+ssf-mlp+mask"]


@pytest.mark.parametrize("method", methods())
def test_merged_weights_give_the_same_features_or_are_refused(toy_results, method):
    made = classifier_of(toy_results, method)
    images = torch.randn(2, 3, 16, 16, generator=torch_generator(2, "test"))
    with torch.inference_mode():
        expected = made.vit(images)
    names = {part.name for part in RunSpec.make("toy-ir20", "toy", method, 0).parts}
    if names & STAY:
        with pytest.raises(PelError, match=f"{min(names & STAY)} cannot be merged .* --as onnx or --as torch"):
            merged(made)
        return
    plain = merged(made)
    assert not any(isinstance(module, Wrapped) for module in plain.modules())
    assert (
        plain.state_dict().keys() - {f"blocks.{i}.attn.qkv.bias" for i in range(4)}
        <= load_vit(toy_results / "backbones" / "toy")[0].state_dict().keys()
    )
    with torch.inference_mode():
        torch.testing.assert_close(plain(images), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made.vit(images), expected)  # the classifier itself stays as it was


def test_what_only_looks_affine_is_refused(toy_results):
    made = classifier_of(toy_results, "lora")
    inner = made.vit.blocks[1].attn.qkv
    inner.delta.forward = lambda x: 1e-3 * torch.tanh(x) @ torch.ones(x.shape[-1], 3 * x.shape[-1], dtype=x.dtype)
    with pytest.raises(PelError, match=r"lora cannot be merged .*block 1, site 'attn.qkv'.*no affine map"):
        merged(made)


@pytest.mark.parametrize("head", [name for name in HEADS if HEADS[name].rows is True])
@pytest.mark.parametrize("scales", ["none", "learnable"])
def test_a_head_as_a_matrix(head, scales):
    knobs = {knob.name for knob in HEADS.entry(head).knobs}
    draw = torch_generator(3, "test", head)
    options = {"scales": scales} if "scales" in knobs else {}
    made = HEADS[head](
        12,
        5,
        20.0,
        draw,
        **{knob.name: knob.default for knob in HEADS.entry(head).knobs if knob.name not in ("feature", "scales")},
        **options,
    )
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn(value.shape, generator=draw), alpha=0.3)
    found = linear_head(made)
    if head in FORMS:
        assert found is not None and found.normalised == FORMS[head]
    if found is None:  # it has layers of its own
        return
    features = torch.randn(9, 12, generator=draw)
    logits = NORMALISED[found.normalised](features) @ found.weight.T + found.bias
    torch.testing.assert_close(logits, made(features), rtol=1e-4, atol=1e-4)


def test_a_head_of_layers_is_none():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 12))

        def forward(self, f_BD):
            return torch.relu(f_BD) @ self.weight.T

    assert linear_head(Deep()) is None
