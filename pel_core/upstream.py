"""Upstream models: open_clip's and timm's networks with their pre-trained weights, from the network or from a local file."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pel_core.backbones import BACKBONES, Backbone
from pel_core.errors import PelError
from pel_core.files import sha256
from pel_core.state_names import State


def load_open_clip(name: str, weights: str | None = None, cache_dir: str | None = None) -> tuple[nn.Module, dict[str, str]]:
    """The whole CLIP model in fp32 on the CPU, and where its weights came from (tag or file name, SHA-256).

    Raises:
        PelError: no network, a missing or unreadable file, weights of another architecture, or another activation.
    """
    import open_clip

    entry = BACKBONES[name]
    folder = Path(__file__).parent / entry.arch
    if entry.source == "bundled":
        path, arch = folder / "open_clip_model.safetensors", f"local-dir:{folder}"
    else:
        path, arch = Path(weights) if weights else _download(entry, cache_dir), entry.arch
    logging.disable(logging.WARNING)  # open_clip warns that the model is untrained; its weights come next
    try:
        model = open_clip.create_model(arch, load_weights=False, precision="fp32", device="cpu")
    finally:
        logging.disable(logging.NOTSET)
    state, own = read_state(_file(path, name)), model.state_dict()
    try:
        model.load_state_dict({key: value for key, value in state.items() if key in own or "." in key})
    except RuntimeError as error:
        raise _other(path, entry, error) from None
    act = type(model.visual.transformer.resblocks[0].mlp.gelu).__name__
    if (act == "QuickGELU") != entry.quick_gelu:
        raise PelError(f"{name}: open_clip built {act}, expected {'QuickGELU' if entry.quick_gelu else 'GELU'}")
    return model.eval(), {"tag": entry.tag or path.name, "file": path.name, "sha256": sha256(path)}


def load_timm(entry: Backbone, weights: str | None = None, cache_dir: str | None = None) -> tuple[nn.Module, dict[str, str]]:
    """A timm ``VisionTransformer`` without its classifier, and where its weights came from.

    Raises:
        PelError: no network, a missing or unreadable file, or weights of another architecture.
    """
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    if weights is None:
        try:
            model = timm.create_model(entry.arch, pretrained=True, num_classes=0, cache_dir=cache_dir)
        except Exception as error:  # timm, the hub client and the network each raise their own kinds
            raise _unavailable(entry, error) from None
        return model.eval(), {"tag": entry.arch}
    path = _file(weights, entry.arch)
    model = timm.create_model(entry.arch, pretrained=False, num_classes=0)
    state = checkpoint_filter_fn(read_state(path), model)
    try:
        model.load_state_dict({key: value for key, value in state.items() if not key.startswith(("head.", "fc_norm."))})
    except RuntimeError as error:
        raise _other(path, entry, error) from None
    return model.eval(), {"tag": entry.arch, "file": path.name, "sha256": sha256(path)}


def _file(path: str | Path, name: str) -> Path:
    if not Path(path).is_file():
        raise PelError(f"the weights file '{path}' of {name} does not exist")
    return Path(path)


def _other(path: Path, entry: Backbone, error: Exception) -> PelError:
    reason = " ".join(str(error).split())[:300]
    return PelError(f"'{path}' does not hold the weights of {entry.arch}: {reason}")


def _download(entry: Backbone, cache_dir: str | None) -> Path:
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    try:
        return Path(download_pretrained(get_pretrained_cfg(entry.arch, entry.tag), cache_dir=cache_dir))
    except Exception as error:  # the hub client and the network each raise their own kinds
        raise _unavailable(entry, error) from None


def _unavailable(entry: Backbone, error: Exception) -> PelError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    timm = entry.source == "timm"
    call = f"create_model('{entry.arch}', pretrained={True if timm else repr(entry.tag)})"
    return PelError(
        f"could not get the weights of {entry.source}'s {entry.arch} {entry.tag}: {reason}. On a machine with network run "
        f'`python -c "import {entry.source}; {entry.source}.{call}"`, copy the file it downloads, and name it in the config: '
        "`weights: {BACKBONE: /path/to/file}`"
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
