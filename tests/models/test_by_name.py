"""Backbones by a library's own name: spelling, what is found out before anything is fetched, and a run on one."""

import json
import subprocess
import sys

import open_clip
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.models import by_name
from pel_core.models.backbones import BACKBONES, backbone_name, find_backbone, repository
from pel_core.models.by_name import file_safe, is_by_name, look_up, name_parts, spelled
from pel_core.models.upstream import find_weights
from pel_core.spec.results import metrics_file
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.config import read_config
from pel_core.studies.gflop import forward_gflop
from pel_core.studies.provenance import backbone_params

TINY = "timm:test_vit.r160_in1k"
SAFE = "timm--test_vit--r160_in1k"


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Nothing is remembered from elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_name_of_both_libraries_is_a_folder_name_of_its_own():
    timms = [f"timm:{name}" for name in timm.list_pretrained()] + [f"timm:{name}" for name in timm.list_models()]
    clips = [f"open_clip:{name}/{tag}" for name, tag in open_clip.list_pretrained()]
    names = {*timms, *clips, *(f"open_clip:{name}" for name in open_clip.list_models())}
    safe = {name: file_safe(name) for name in names}
    assert len({each.lower() for each in safe.values()}) == len(names)  # on file systems that do not tell case either
    assert all(spelled(each) == name and file_safe(each) == each for name, each in safe.items())
    assert all(set(each) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") for each in safe.values())
    assert max(map(len, safe.values())) < 100


@given(st.sampled_from(["timm:", "timm--", "open_clip:", "open_clip--", "", "clip-"]), st.text("aZ0_-./: é", max_size=12))
def test_a_spelling_is_read_whole_or_refused(start, rest):
    try:
        safe = file_safe(start + rest)
    except PelError as error:
        assert is_by_name(start + rest) and "is not timm:NAME.TAG or open_clip:NAME/TAG" in str(error)
        return
    if is_by_name(safe):
        try:
            assert file_safe(spelled(safe)) == safe and "" not in name_parts(safe)[:2]
        except PelError as error:
            assert "is not timm:NAME.TAG" in str(error)
    else:
        assert safe == start + rest


def test_an_entry_is_made_of_what_the_library_says():
    entry = find_backbone(TINY)
    config = timm.get_pretrained_cfg("test_vit.r160_in1k")
    assert (entry.source, entry.arch, entry.text, entry.prefix_tokens) == ("timm", "test_vit.r160_in1k", False, 1)
    assert (entry.layers, entry.width, entry.patch, entry.resolution) == (6, 64, 16, 160)
    assert (entry.mean, entry.std, entry.interpolation) == (config.mean, config.std, config.interpolation)
    assert repository(TINY) == "timm/test_vit.r160_in1k" and SAFE in BACKBONES and TINY in BACKBONES
    assert SAFE not in list(BACKBONES) and BACKBONES.entry(SAFE).about == "test_vit.r160_in1k (timm)"
    clip = find_backbone("open_clip:EVA02-B-16/merged2b_s8b_b131k")
    assert (clip.text, clip.tag, clip.gated, clip.hidden) == (True, "merged2b_s8b_b131k", True, 4096)
    of_text = {"ViT-B-32/laion2b_s34b_b79k": True, "ViT-L-14-CLIPA/datacomp1b": False, "EVA02-B-16/merged2b_s8b_b131k": False}
    assert {name: find_backbone(f"open_clip:{name}").causal_text for name in of_text} == of_text


def test_the_slug_reads_back():
    spec = RunSpec.make("toy", TINY, "ln", 0, init="class-mean", resolution=32)
    assert spec.slug == f"toy.{SAFE}.ln.s0.init=class-mean.resolution=32" and spec.backbone == SAFE
    assert RunSpec.parse(spec.slug) == spec == RunSpec.make("toy", SAFE, "ln", 0, init="class-mean", resolution=32)
    clip = RunSpec.make("toy", "open_clip:ViT-B-16-quickgelu/dfn2b", "ln", 0)
    assert clip.slug == "toy.open_clip--ViT-B-16-quickgelu--dfn2b.ln.s0" and RunSpec.parse(clip.slug) == clip
    same = RunSpec.make("toy", "dfn-b16", "ln", 0)  # the entry of the same network costs as much
    assert forward_gflop(clip) == forward_gflop(same) and clip.vit.quick_gelu == same.vit.quick_gelu
    with pytest.raises(PelError, match=r"resolution=30 is not possible .* a multiple of 16"):
        RunSpec.make("toy", TINY, "ln", 0, init="class-mean", resolution=30)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:vit_base_patch16_225.x", "timm has no architecture 'vit_base_patch16_225'; near it: vit_base_patch16_224"),
        ("timm:vit_base_patch16_224.opnai", "no weights of vit_base_patch16_224 called 'opnai'"),
        ("timm:vit_base_patch16_224", r"say which weights: timm:vit_base_patch16_224\.augreg"),
        ("timm:resnet50.a1_in1k", "timm's ResNet; what fits are its VisionTransformer and Eva"),
        ("open_clip:ViT-B-17/openai", "open_clip has no architecture 'ViT-B-17'; near it"),
        ("open_clip:ViT-B-32", "say which weights: open_clip:ViT-B-32/"),
        ("open_clip:ViT-B-32/openai", "trained with QuickGELU.* open_clip:ViT-B-32-quickgelu/openai has it"),
        ("open_clip:ViT-B-32-quickgelu/laion2b_s34b_b79k", "no weights of ViT-B-32-quickgelu called 'laion2b"),
        ("open_clip:RN50-quickgelu/openai", "it is a ResNet, not a ViT; of these there are clip-rn50 and clip-rn101"),
        ("open_clip:coca_ViT-B-32/laion2b_s13b_b90k", "CoCa"),
        ("open_clip:roberta-ViT-B-32/laion2b_s12b_b32k", "text tower is roberta-base"),
        ("timm:../x", "is not timm:NAME.TAG or open_clip:NAME/TAG"),
        ("vit_base_patch16_224", r"unknown backbone 'vit_base_patch16_224'; .*any ViT of a library: timm:NAME\.TAG"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_fetched(name, message):
    with pytest.raises(PelError, match=message):
        RunSpec.make("toy", name, "ln", 0, init="class-mean")
    with pytest.raises(PelError, match=message):
        backbone_params(name)


def test_text_is_refused_where_there_is_none():
    with pytest.raises(PelError, match=rf"init=text is not possible .*class-mean.*random: {SAFE} has no text tower"):
        RunSpec.make("toy", TINY, "ln", 0)


def test_weights_that_the_hub_does_not_have(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PelError, match=rf"could not get the weights of {SAFE}: HF_HUB_OFFLINE is set.*--local-dir {SAFE}`"):
        find_weights(SAFE, None, str(tmp_path))
    bare = "timm:vit_small_patch16_18x2_224"  # timm has the architecture and no weights of it; it has parallel blocks too
    with pytest.raises(PelError, match=r"does not fit"):
        find_backbone(bare)
    assert "repository" not in json.dumps(backbone_params(SAFE)) or repository(SAFE)


def test_a_configuration_may_name_it_either_way(tmp_path):
    (tmp_path / "w.safetensors").write_text("")
    for name in (TINY, SAFE):
        text = f"title: t\ndata: {{cifar100: toy}}\nbackbone: '{name}'\nseeds: [0]\nweights: {{'{name}': w.safetensors}}\n"
        (tmp_path / "config.yaml").write_text(text)
        values = read_config(tmp_path / "config.yaml")
        assert list(values["weights"]) == [SAFE] and backbone_name(values["backbone"]) == SAFE


def test_answers_are_remembered_and_refusals_are_not(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(by_name, "_ask", lambda name: asked.append(name) or {"arch": "a"})
    look_up.cache_clear()
    assert look_up(SAFE) == ({"arch": "a"}, "") and len(asked) == 1
    look_up.cache_clear()
    assert look_up(SAFE) == ({"arch": "a"}, "") and len(asked) == 1  # from the file
    for memo in (tmp_path / "cache").rglob("*.json"):
        memo.write_text("{")  # damaged: asked again
    look_up.cache_clear()
    assert look_up(SAFE) == ({"arch": "a"}, "") and len(asked) == 2
    monkeypatch.setattr(by_name, "_ask", lambda name: {"refused": "too old"})
    look_up.cache_clear()
    look_up("timm--x")
    assert look_up("timm--x") == ({}, "the backbone timm:x does not fit: too old")
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 1
    look_up.cache_clear()


def test_a_library_that_is_not_there(monkeypatch):
    def missing(name):
        raise by_name.PackageNotFoundError(name)

    monkeypatch.setattr(by_name, "version", missing)
    look_up.cache_clear()
    assert "needs the package open_clip_torch, which is not installed" in look_up("open_clip--ViT-B-32--openai")[1]
    look_up.cache_clear()


def test_a_library_that_breaks(monkeypatch):
    monkeypatch.delitem(sys.modules, "timm")  # so that a process of its own is asked
    said = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: no GL")
    monkeypatch.setattr(by_name.subprocess, "run", lambda *args, **options: said)
    look_up.cache_clear()
    with pytest.raises(PelError, match=r"timm could not be asked for timm:test_vit\.r160_in1k: ImportError: no GL"):
        look_up(SAFE)


@pytest.mark.slow
def test_planning_asks_another_process_and_imports_nothing(tmp_path):
    code = (
        "import sys; from pel_core.spec.run_spec import RunSpec\n"
        f"spec = RunSpec.make('toy', '{TINY}', 'ln', 0, init='class-mean')\n"
        "assert spec.vit.width == 64 and not {'torch', 'timm'} & sys.modules.keys()"
    )
    for arguments in ([], ["-X", "frozen_modules=on"]):
        subprocess.run([sys.executable, *arguments, "-c", code], check=True)
    assert len(list((tmp_path / "cache").rglob(f"{SAFE}.*.json"))) == 1


def test_a_run_on_one(toy_results, tmp_path):
    """Weights from a file, another resolution, a method, training and evaluation, through the command line."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    folder = toy_results / "backbones" / SAFE
    assert main(["backbone", TINY, "--out", str(folder), "--weights", str(tmp_path / "w.safetensors")]) == 0
    info = read_json(folder / "backbone.json")
    assert info["name"] == SAFE and info["registry"]["prefix_tokens"] == 1
    run = RunSpec.make("toy", TINY, "ln+vpt-deep", 0, epochs=1, init="class-mean", resolution=32, tte="none").slug
    for command, of in (("train", RunSpec.parse(run).train.slug), ("evaluate", run)):
        assert main([command, of, "--results", str(toy_results), "--device", "cpu", "--no-tensorboard"]) == 0
    record = read_json(metrics_file(toy_results, run))
    assert record["spec"]["backbone"] == SAFE and record["parameters"]["learnable"] == 6 * (4 * 64 + 10 * 64)
