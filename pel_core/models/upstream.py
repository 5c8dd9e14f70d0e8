"""Upstream models: open_clip's and timm's networks with their pre-trained weights, from the hub, a local file or a folder."""

import json
import logging
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pel_core.common.errors import PelError
from pel_core.common.shipped import make
from pel_core.models.backbones import BACKBONES, HUB, Backbone, local_weights
from pel_core.models.hub import CONFIGS, OPEN_CLIP_FILES, TIMM_FILES, Unavailable, checked_sha256, hub_file, origin
from pel_core.models.state_names import State


def load_open_clip(name: str, weights: str | None = None, cache_dir: str | None = None) -> tuple[nn.Module, dict[str, str]]:
    """The whole CLIP model in fp32 on the CPU, and where its weights came from (tag or file name, SHA-256).

    Raises:
        PelError: no network, a missing or unreadable file, weights of another architecture, or another activation.
    """
    import open_clip

    entry = BACKBONES[name]
    folder = entry.folder
    if entry.source == "bundled":
        path, arch = folder / "open_clip_model.safetensors", f"local-dir:{folder}"
    else:
        path, arch = find_weights(name, weights, cache_dir), entry.arch
    digest = checked_sha256(path)
    logging.disable(logging.WARNING)  # open_clip warns that the model is untrained; its weights come next
    try:
        model = open_clip.create_model(arch, load_weights=False, precision="fp32", device="cpu")
    finally:
        logging.disable(logging.NOTSET)
    state, own = read_state(path), model.state_dict()
    try:
        model.load_state_dict({key: value for key, value in state.items() if key in own or "." in key})
    except RuntimeError as error:
        raise _other(path, entry, error) from None
    blocks = getattr(getattr(model.visual, "transformer", None), "resblocks", None)  # of open_clip's own towers, not of timm's
    act = type(blocks[0].mlp.gelu).__name__ if blocks else ""
    if blocks and (act == "QuickGELU") != entry.quick_gelu:
        raise PelError(f"{name}: open_clip built {act}, expected {'QuickGELU' if entry.quick_gelu else 'GELU'}")
    tag = path.name if weights else entry.tag or path.name  # whoever brings a file may bring any
    return model.eval(), {"tag": tag, "file": path.name, "sha256": digest, **origin(path)}


def load_tokenizer(name: str, weights: str | None = None, cache_dir: str | None = None) -> Any:
    """The tokenizer of a backbone's text tower: CLIP's own, or one of the package transformers (SigLIP), whose files come from
    the model folder in ``weights`` or from the hub.

    Raises:
        PelError: the package is not there, or the files cannot be had.
    """
    import open_clip

    entry, folder = BACKBONES[name], BACKBONES[name].folder
    if entry.source == "bundled":  # open_clip would look for the merges in the working directory
        return open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=str(folder / "merges.txt.gz"))
    repo = open_clip.get_model_config(entry.arch)["text_cfg"].get("hf_tokenizer_name")
    if not repo:
        return open_clip.get_tokenizer(entry.arch)
    if find_spec("transformers") is None:
        raise PelError(f"{name} reads texts with a tokenizer of the package transformers: pip install 'pel-lab[siglip]'")
    given = local_weights(weights)
    has_own = given is not None and (given / "tokenizer_config.json").is_file() and (given / CONFIGS["open_clip"]).is_file()
    try:
        return open_clip.get_tokenizer(f"local-dir:{given}" if has_own else entry.arch, cache_dir=cache_dir)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        get = f"hf download {repo} --local-dir {name}"
        raise PelError(
            f"could not get the tokenizer of {name} ({repo}): {reason}. On a machine with network run `{get}`, bring that folder "
            f"here and name it in the config: `weights: {{{name}: /path/to/{name}}}`"
        ) from None


def open_clip_model(name: str, weights: str | None, cache_dir: str | None, sha: str | None) -> nn.Module:
    """The whole CLIP model, whose weights' SHA-256 is ``sha`` where that is known.

    Raises:
        PelError: as `load_open_clip`, or other weights.
    """
    model, source = load_open_clip(name, weights, cache_dir)
    if sha not in (None, source["sha256"]):
        found = f"{source['file']} is {source['sha256'][:12]}..."
        raise PelError(f"{name} was prepared from weights {sha[:12]}..., {found}; prepare it again")
    return model


def load_timm(name: str, weights: str | None = None, cache_dir: str | None = None) -> tuple[nn.Module, dict[str, str]]:
    """A timm network without its classifier, and where its weights came from.

    Raises:
        PelError: no network, a missing or unreadable file, or weights of another architecture.
    """
    import timm

    entry, path = BACKBONES[name], find_weights(name, weights, cache_dir)
    digest = checked_sha256(path)
    model = timm.create_model(entry.arch, pretrained=False, num_classes=0)
    # Each of timm's files has its own, which knows the original checkpoints of its networks.
    state = import_module(type(model).__module__).checkpoint_filter_fn(read_state(path), model)
    unread = ("head.",) if any(True for _ in model.fc_norm.parameters()) else ("head.", "fc_norm.")
    try:
        model.load_state_dict({key: value for key, value in state.items() if not key.startswith(unread)})
    except RuntimeError as error:
        raise _other(path, entry, error) from None
    return model.eval(), {"tag": path.name if weights else entry.arch, "file": path.name, "sha256": digest, **origin(path)}


def find_weights(name: str, weights: str | None = None, cache_dir: str | None = None) -> Path:
    """The weights file of a backbone: ``weights`` is a file, a model folder (with or without ``local-dir:``), a hub name
    ``hf-hub:owner/name[@revision]``, or None for the registry's own.

    Raises:
        PelError: it cannot be had, or the model's own configuration contradicts the registry.
    """
    entry, given = BACKBONES[name], local_weights(weights)
    files = TIMM_FILES if entry.source == "timm" else OPEN_CLIP_FILES
    if given is None:
        repo, files = (weights.removeprefix(HUB), files) if weights else _registered(entry, files)
        try:
            path = hub_file(repo, files, cache_dir)
        except Unavailable as reason:
            raise _unavailable(name, repo, reason) from None
        if weights:
            _check_config(name, _config(repo, entry, cache_dir))
        return path
    if given.is_dir():
        path = next((given / file for file in files if (given / file).is_file()), None)
        if path is None:
            raise PelError(f"the folder '{given}' holds no weights of {name}: expected {' or '.join(files)}")
        _check_config(name, given / CONFIGS[entry.source])
        return path
    if not given.is_file():
        try:
            how = f"; without a file they are fetched from the hub. {_command(name, _registered(entry, files)[0])}"
        except (PelError, TypeError, AttributeError):  # a model whose weights the hub does not have
            how = ""
        raise PelError(f"the weights file '{given}' of {name} does not exist{how}")
    return given


def _registered(entry: Backbone, files: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Repository and file names of the weights that open_clip or timm itself would load.

    Raises:
        PelError: it knows of none on the hub.
    """
    if entry.source == "timm":
        import timm

        config = timm.get_pretrained_cfg(entry.arch)
        repo, file = config.hf_hub_id, config.hf_hub_filename
        repo = repo + entry.arch if repo and repo.endswith("/") else repo
    else:
        from open_clip.pretrained import get_pretrained_cfg

        owner, model, file = [*(get_pretrained_cfg(entry.arch, entry.tag).get("hf_hub") or "").split("/"), "", ""][:3]
        repo = f"{owner}/{model}" if owner else ""
    if not repo:
        raise PelError(
            f"{entry.source} names no weights of {entry.label} on the hub; name a file of them in the config (weights:)"
        )
    return repo, ((file,) if file else files)


def _config(repo: str, entry: Backbone, cache_dir: str | None) -> Path | None:
    try:
        return hub_file(repo, (CONFIGS[entry.source],), cache_dir)
    except Unavailable:
        return None


def _check_config(name: str, path: Path | None) -> None:
    """Compare a model's own configuration, where it has one, with the registry, which is what a run follows."""
    if path is None or not path.is_file():
        return
    entry = BACKBONES[name]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        own = content.get("preprocess_cfg") or content.get("pretrained_cfg") or {}
        mean, std = (tuple(own.get(key) or getattr(entry, key)) for key in ("mean", "std"))
        quick_gelu = content.get("model_cfg", {}).get("quick_gelu", entry.quick_gelu)  # some of OpenAI's copies do not say
    except (ValueError, AttributeError, TypeError):
        raise PelError(f"{path} is not a model configuration of {entry.source}") from None
    found = {"mean": (mean, entry.mean), "std": (std, entry.std), "quick_gelu": (quick_gelu, entry.quick_gelu)}
    if wrong := [f"{key} is {theirs}, not {ours}" for key, (theirs, ours) in found.items() if theirs != ours]:
        raise PelError(f"{path} contradicts the backbone {name}: {'; '.join(wrong)}. Use another backbone, or add an entry")


def _other(path: Path, entry: Backbone, error: Exception) -> PelError:
    reason = " ".join(str(error).split())[:300]
    return PelError(f"'{path}' does not hold the weights of {entry.arch}: {reason}")


def _unavailable(name: str, repo: str, reason: Exception) -> PelError:
    return PelError(f"could not get the weights of {name}: {reason}. {_command(name, repo)}")


def _command(name: str, repo: str) -> str:
    """How to get weights where there is no network."""
    files = TIMM_FILES[0] if BACKBONES[name].source == "timm" else "--include 'open_clip_*'"
    return (
        f"On a machine with network run `hf download {repo.replace('@', ' --revision ')} {files} --local-dir {name}` "
        f"(hf comes with huggingface_hub), bring that folder here and name it in the config: `weights: {{{name}: "
        f"/path/to/{name}}}`, or by {make('study', WEIGHTS=f'/path/to/{name}')}"
    )


def read_state(path: str | Path) -> State:
    """A state dict from a safetensors file, an OpenAI JIT archive, or a ``torch.save``d state dict; nothing is unpickled freely.

    Raises:
        PelError: the file is none of these.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            with warnings.catch_warnings(action="ignore"):  # OpenAI's files are what they are, deprecated or not
                state = torch.jit.load(str(path), map_location="cpu").state_dict()
        except RuntimeError:  # not an archive of TorchScript
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PelError(f"'{path}' is no readable weights file: {reason}") from None
    except Exception as error:  # pickle.UnpicklingError: torch refuses what is not tensors
        found = f"it is no weights file, or holds more than tensors ({type(error).__name__})"
        raise PelError(f"'{path}' is refused: {found}; save a plain state dict") from None
    if not isinstance(state, Mapping):
        raise PelError(f"'{path}' holds a {type(state).__name__}, expected a state dict")
    state = state.get("state_dict", state)
    return {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
