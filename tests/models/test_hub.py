"""Weights by hub name, from a cache or a folder, and what happens where there is no network. Nothing here asks for one."""

import json
import time
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from registries import set_entry
from safetensors.torch import save_file
from test_weights import SMALL, write

from pel_core.common.errors import PelError
from pel_core.common.files import sha256
from pel_core.models import hub
from pel_core.models.backbones import BACKBONES, HALF, Backbone, local_weights
from pel_core.models.upstream import find_weights
from pel_core.models.weights import load_vit, prepare_backbone
from pel_core.studies.provenance import backbone_params

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VISION = {"layers": 2, "width": 64, "patch_size": 8, "image_size": 16}
MODEL = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": VISION,
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
GOOD = {"model_cfg": MODEL, "preprocess_cfg": {"mean": list(SMALL.mean), "std": list(SMALL.std), "interpolation": "bicubic"}}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A small CLIP that open_clip and our registry know as "small"; returns its state dict."""
    (tmp_path / "small-quickgelu.json").write_text(json.dumps(MODEL))
    open_clip.add_model_config(tmp_path / "small-quickgelu.json")
    set_entry(monkeypatch, BACKBONES, "small", SMALL)
    torch.manual_seed(0)
    return open_clip.create_model("small-quickgelu", device="cpu").state_dict()


@pytest.fixture
def no_network(monkeypatch):
    """Whoever asks for the network fails the test."""
    monkeypatch.setattr(hub, "require_network", lambda: (_ for _ in ()).throw(hub.Unavailable("no network")))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked for the network"))


def cached(cache: Path, repo: str, name: str, source: Path, commit: str = COMMIT) -> Path:
    """Put a file into a hub cache as the hub's client does."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob, snapshot = folder / "blobs" / sha256(source), folder / "snapshots" / commit
    for each in (blob.parent, snapshot, folder / "refs"):
        each.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(source.read_bytes())
    (folder / "refs" / "main").write_text(commit)
    (snapshot / name).symlink_to(blob)
    return snapshot / name


def file_of(small, folder: Path, kind: str = "safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    return write(kind, small, folder)


@pytest.mark.parametrize(
    ("kind", "name"), [("safetensors", "open_clip_model.safetensors"), ("state dict", "open_clip_pytorch_model.bin")]
)
@pytest.mark.parametrize("how", ["option", "HF_HOME"])
def test_a_hub_name_is_read_from_the_cache(small, no_network, monkeypatch, tmp_path, kind, name, how):
    source = file_of(small, tmp_path / "source", kind)
    cached(tmp_path / "hub", "someone/small-clip", name, source)
    if how == "HF_HOME":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))  # read from HF_HOME at import
    cache = str(tmp_path / "hub") if how == "option" else None
    prepare_backbone("small", tmp_path / "out", "hf-hub:someone/small-clip", cache)
    vit, _, info = load_vit(tmp_path / "out")
    assert torch.equal(vit.cls, small["visual.class_embedding"])
    assert info["source"] == {
        "tag": name, "file": name, "sha256": sha256(source), "hub": "someone/small-clip", "revision": COMMIT,
    }  # fmt: skip


def test_a_revision_is_asked_for(small, no_network, tmp_path):
    source = file_of(small, tmp_path / "source")
    path = cached(tmp_path / "hub", "someone/small-clip", "open_clip_model.safetensors", source, "f" * 40)
    assert find_weights("small", f"hf-hub:someone/small-clip@{'f' * 40}", str(tmp_path / "hub")) == path
    with pytest.raises(PelError, match=rf"hf download someone/small-clip --revision {COMMIT} --include"):
        find_weights("small", f"hf-hub:someone/small-clip@{COMMIT}", str(tmp_path / "hub"))


def test_a_download_that_is_not_what_the_hub_sent_is_refused(small, no_network, tmp_path):
    source = file_of(small, tmp_path / "source")
    path = cached(tmp_path / "hub", "someone/small-clip", "open_clip_model.safetensors", source)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.resolve().write_bytes(content)
    with pytest.raises(PelError, match=r"is damaged: SHA-256 .*; delete it and fetch it again"):
        prepare_backbone("small", tmp_path / "out", "hf-hub:someone/small-clip", str(tmp_path / "hub"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_model_folder(small, no_network, tmp_path, prefix):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(
        PelError, match=r"holds no weights of small: expected open_clip_model\.safetensors or open_clip_pytorch_model"
    ):
        find_weights("small", f"{prefix}{folder}")
    save_file({key: value.contiguous() for key, value in small.items()}, folder / "open_clip_model.safetensors")
    assert find_weights("small", f"{prefix}{folder}").parent == folder
    (folder / "open_clip_config.json").write_text(json.dumps(GOOD))
    prepare_backbone("small", tmp_path / "out", f"{prefix}{folder}")
    assert load_vit(tmp_path / "out")[2]["source"]["sha256"] == sha256(folder / "open_clip_model.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GOOD | {"preprocess_cfg": {"mean": [0.5] * 3, "std": list(SMALL.std)}}, r"mean is \(0\.5, 0\.5, 0\.5\), not \(0\.4814"),
        (GOOD | {"preprocess_cfg": {"mean": list(SMALL.mean), "std": [0.5] * 3}}, "std is"),
        (GOOD | {"model_cfg": MODEL | {"quick_gelu": False}}, "quick_gelu is False, not True"),
        ([], "not a model configuration"),
        (GOOD | {"preprocess_cfg": {"mean": 3}}, "not a model configuration"),
    ],
)
@pytest.mark.parametrize("where", ["folder", "hub"])
def test_a_model_that_declares_other_preprocessing_is_refused(small, no_network, tmp_path, config, message, where):
    """open_clip #1068: weights by path with another configuration swap the preprocessing in silence."""
    folder = tmp_path / "model"
    folder.mkdir()
    source = file_of(small, tmp_path / "source").rename(folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if where == "hub":
        for name in ("open_clip_model.safetensors", "open_clip_config.json"):
            cached(tmp_path / "hub", "someone/small-clip", name, folder / name)
    given = "hf-hub:someone/small-clip" if where == "hub" else str(folder)
    assert source.is_file()
    with pytest.raises(PelError, match=message):
        find_weights("small", given, str(tmp_path / "hub"))


def test_timm_s_weights_by_hub_name_and_from_a_folder(no_network, monkeypatch, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0).eval()
    entry = Backbone("test", "timm", "test_vit", len(model.blocks), 64, 16, 160, text=False, mean=HALF, std=HALF)
    set_entry(monkeypatch, BACKBONES, "test", entry)
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    cached(tmp_path / "hub", "someone/small-vit", "model.safetensors", folder / "model.safetensors")
    for number, given in enumerate((str(folder), "hf-hub:someone/small-vit")):
        prepare_backbone("test", tmp_path / str(number), given, str(tmp_path / "hub"))
        assert len(load_vit(tmp_path / str(number))[2]["source"]["sha256"]) == 64
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.485, 0.456, 0.406], "std": [0.5, 0.5, 0.5]}}))
    with pytest.raises(PelError, match=r"contradicts the backbone test: mean is \(0\.485"):
        find_weights("test", str(folder))


@pytest.mark.parametrize("name", [name for name, entry in BACKBONES.items() if entry.source in ("open_clip", "timm")])
def test_the_registry_s_own_weights_come_from_the_cache_too(no_network, tmp_path, name):
    """Repository and file are those that the library itself would ask for; without them, one command fetches them."""
    with pytest.raises(PelError) as error:
        find_weights(name, None, str(tmp_path))
    repo, file = str(error.value).split("hf download ")[1].split(" --local-dir")[0].split(" ", 1)
    file = "open_clip_model.safetensors" if "include" in file else file
    (tmp_path / "file").write_text("weights")
    path = cached(tmp_path, repo, file, tmp_path / "file")
    assert find_weights(name, None, str(tmp_path)) == path
    assert all(part in str(error.value) for part in (f"--local-dir {name}`", f"weights: {{{name}: /path/to/{name}}}"))


def test_offline_is_believed(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from HF_HUB_OFFLINE at import
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked for the network"))
    with pytest.raises(PelError, match="could not get the weights of clip-b16: HF_HUB_OFFLINE is set"):
        find_weights("clip-b16", None, str(tmp_path))


def test_no_network_is_found_out_at_once(monkeypatch, tmp_path):
    for word in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(word, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://localhost:9")  # nobody listens there
    start = time.perf_counter()
    with pytest.raises(PelError, match=r"no network: localhost cannot be reached \(Connection refused\)\. On a machine with"):
        find_weights("clip-b16", None, str(tmp_path))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("repo", ["", "a b", "a/b/c/d", "../up"])
def test_a_name_that_is_none(no_network, tmp_path, repo):
    with pytest.raises(PelError, match="could not get the weights of clip-b16: "):
        find_weights("clip-b16", f"hf-hub:{repo}", str(tmp_path))


def test_a_hub_name_is_what_a_backbone_depends_on(tmp_path):
    assert local_weights("hf-hub:a/b") is None and local_weights(None) is None
    assert local_weights("local-dir:x/y") == local_weights("x/y") == Path("x/y")
    named = {backbone_params("clip-b16", given) for given in (None, "hf-hub:a/b", "hf-hub:a/b@main")}
    assert len(named) == 3
    (tmp_path / "w.pt").write_bytes(b"weights")
    with_prefix, plain = (backbone_params("clip-b16", f"{prefix}{tmp_path}") for prefix in ("local-dir:", ""))
    assert with_prefix == plain
    with pytest.raises(PelError, match="does not exist"):
        backbone_params("clip-b16", "local-dir:nowhere")


def test_a_file_that_is_missing_says_how_to_get_it(tmp_path):
    with pytest.raises(
        PelError, match=r"no\.pt' of clip-b16 does not exist; .*`hf download \S+ .*--local-dir clip-b16`.*WEIGHTS="
    ):
        find_weights("clip-b16", str(tmp_path / "no.pt"))
