"""SigLIP and SigLIP 2, random weights: entries against open_clip's declarations, features, texts and logits against its own."""

import copy
import importlib.machinery
import json
import sys
import types
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from registries import set_entry
from safetensors.torch import save_file

from pel_core.common.errors import PelError
from pel_core.models.backbones import BACKBONES, repository
from pel_core.models.class_texts import text_features
from pel_core.models.heads import ZeroShot
from pel_core.models.lookup import answer
from pel_core.models.prompt_tokens import check_prompts
from pel_core.models.text_source import TextSource
from pel_core.models.upstream import load_tokenizer
from pel_core.models.weights import load_vit, prepare_backbone
from pel_core.training.classifier import text_head

SIGLIPS = [name for name in BACKBONES if name.startswith("siglip")]
DEPTH = 2


@pytest.mark.parametrize("name", SIGLIPS)
def test_siglip_s_entries_are_what_open_clip_declares(name):
    entry = BACKBONES[name]
    said = answer(f"open_clip--{entry.arch}--{entry.tag}")
    declared = {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in said.items()}
    assert declared.pop("repository") == repository(name) and declared.pop("label")
    assert declared == {key: getattr(entry, key) for key in declared} and not entry.prefix_tokens and entry.reads_all


def small_siglip(name, monkeypatch, tokens=49408):
    """A SigLIP of two blocks with little text, of CLIP's tokens so that no other package is needed."""
    entry, create = BACKBONES[name], timm.create_model
    config = copy.deepcopy(open_clip.get_model_config(entry.arch))
    config["text_cfg"] |= {"width": 64, "heads": 1, "layers": 1, "vocab_size": tokens}
    del config["text_cfg"]["hf_tokenizer_name"], config["text_cfg"]["tokenizer_kwargs"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, entry.arch, config)
    monkeypatch.setattr(timm, "create_model", lambda arch, **options: create(arch, depth=DEPTH, **options))
    set_entry(monkeypatch, BACKBONES, name, type(entry)(**{**vars(entry), "layers": DEPTH}))
    torch.manual_seed(0)
    model = open_clip.create_model(entry.arch, precision="fp32", device="cpu").eval()
    for parameter in model.visual.parameters():
        if parameter.dim() != 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@torch.no_grad()
def test_siglip_s_features_and_texts(monkeypatch, tmp_path):
    model = small_siglip("siglip2-b16", monkeypatch)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    prepare_backbone("siglip2-b16", tmp_path / "out", str(tmp_path / "w.safetensors"))
    vit, text, _ = load_vit(tmp_path / "out")
    images, names, given = torch.randn(2, 3, 224, 224), ["worm", "sea"], str(tmp_path / "w.safetensors")
    torch.testing.assert_close(vit(images), model.encode_image(images), atol=2e-5, rtol=1e-4)
    tokens = open_clip.SimpleTokenizer(context_length=64)
    monkeypatch.setattr("pel_core.models.text_source.load_tokenizer", lambda *given: tokens)
    rows = text_features(TextSource("siglip2-b16", names, given), "default")
    texts = tokens([f"a photo of a {each}." for each in names])
    expected = model.encode_text(texts)
    torch.testing.assert_close(rows, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5, rtol=0)
    # Zero-shot: SigLIP's own logits, but for the bias that all classes share; the head starts from the same rows.
    zero = ZeroShot(text["text.projection"], rows, float(text["text.logit_scale"]))
    own = model(images, texts)
    logits = own[0] @ own[1].T * own[2]
    torch.testing.assert_close(zero(vit(images)), logits, atol=1e-3, rtol=1e-4)
    assert float(model.logit_bias) == -10 and torch.allclose(text_head(rows, text["text.projection"]), rows, atol=1e-6)
    # Half the resolution: positions are resized without a class token.
    vit, _, _ = load_vit(tmp_path / "out", resolution=112)
    model.visual.trunk.set_input_size((112, 112))
    torch.testing.assert_close(vit(images[..., :112, :112]), model.encode_image(images[..., :112, :112]), atol=2e-5, rtol=1e-4)


class Transformers(types.ModuleType):
    """What open_clip asks of the package transformers."""

    def __init__(self):
        super().__init__("transformers")
        self.__spec__ = importlib.machinery.ModuleSpec("transformers", None)
        self.asked, self.AutoTokenizer = [], self

    def from_pretrained(self, name, **options):
        self.asked.append(name)
        if not Path(name).is_dir():
            raise OSError(f"We couldn't connect to the hub to load {name}\nmore")
        return lambda texts, **options: types.SimpleNamespace(input_ids=torch.ones(len(texts), options["max_length"]))


def test_siglip_s_tokenizer(monkeypatch, tmp_path):
    monkeypatch.setattr("pel_core.models.upstream.find_spec", lambda name: None)
    with pytest.raises(PelError, match=r"siglip-b16 reads texts with a tokenizer of the package transformers: pip install"):
        load_tokenizer("siglip-b16")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "transformers", asked := Transformers())
    with pytest.raises(
        PelError, match=r"couldn't connect to the hub to load timm/ViT-B-16-SigLIP. On a machine with network run"
    ):
        load_tokenizer("siglip-b16")
    config = {"model_cfg": open_clip.get_model_config("ViT-B-16-SigLIP")}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    tokenizer = load_tokenizer("siglip-b16", str(tmp_path))
    assert tokenizer(["a", "b"]).shape == (2, 64)
    assert asked.asked == ["timm/ViT-B-16-SigLIP", tmp_path]


@pytest.mark.parametrize("padding", [0, 1])
def test_a_text_that_is_cut_is_noticed_also_where_padding_is_the_end_of_texts(padding):
    """SigLIP's tokenizer fills up with the token that ends a text (1); SigLIP 2's has another (0)."""

    def tokenizer(texts, context_length=4):
        rows = [[*list(map(len, text.split()))[: context_length - 1], 1] for text in texts]
        return torch.tensor([row + [padding] * (context_length - len(row)) for row in rows])

    tokenizer.context_length = 4
    whole, cut = [["aa aaa aaaa"], ["aa aaa aaa"]], [["aa aaa aaaa aa"], ["aa aaa aaa"]]
    assert check_prompts(whole, ["one", "two"], tokenizer) == []
    assert "the texts of 1 of 2 classes are longer than the 4 tokens" in check_prompts(cut, ["one", "two"], tokenizer)[0]
    with pytest.raises(PelError, match="agree in all of the 4 tokens that it reads: 'one' and 'two'"):
        check_prompts([["aa aaa aaaa aa"], ["aa aaa aaaa aaa"]], ["one", "two"], tokenizer)
