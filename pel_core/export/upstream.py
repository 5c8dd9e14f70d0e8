"""The library's own network with the merged weights: built without its pre-trained ones, filled by the reader that reads it, and
compared with ours."""

import logging
from dataclasses import dataclass

import torch
from torch import nn

from pel_core.common.errors import PelError
from pel_core.common.seeds import torch_generator
from pel_core.export.merge import CLOSE
from pel_core.models.backbones import BACKBONES
from pel_core.models.open_clip_towers import open_clip_tower
from pel_core.models.resnet import ResNet
from pel_core.models.state_names import State
from pel_core.models.towers import Reader, timm_tower, upstream_features
from pel_core.models.vit import ViT

LIBRARIES = {"open_clip": "open_clip", "bundled": "open_clip", "timm": "timm"}


@dataclass(frozen=True)
class Filled:
    """A network of a library: ``model`` as the library makes it of ``arch``, ``tower`` the image tower in it."""

    library: str
    arch: str
    model: nn.Module
    tower: nn.Module


def library_of(backbone: str) -> str:
    """The library that has a backbone's network.

    Raises:
        PelError: none has it.
    """
    source = BACKBONES[backbone].source
    if source not in LIBRARIES:
        raise PelError(f"{backbone} is made of {source} numbers and in no library; export it as onnx or torch")
    return LIBRARIES[source]


@torch.no_grad()
def filled(backbone: str, plain: ViT | ResNet, text: State) -> Filled:
    """The library's network with the weights of ``plain``; of CLIP, the projection too, and its text tower left as it was drawn.

    Args:
        text: ``text.projection`` (D, E), where there is one.

    Raises:
        PelError: the network has no place for them.
    """
    library = library_of(backbone)
    made = (_timm if library == "timm" else _open_clip)(backbone, plain.resolution)
    if library == "timm":
        timm_tower(made.tower, read := Reader(made.tower))
        read.write(plain.state_dict())
    elif isinstance(plain, ResNet):
        own = made.tower.state_dict()
        state = {name.removeprefix("blocks.0."): value for name, value in plain.state_dict().items()}
        made.tower.load_state_dict({name: state.get(name, value) for name, value in own.items()})
    else:
        open_clip_tower(made.tower, read := Reader(getattr(made.tower, "trunk", made.tower)))
        read.write(plain.state_dict())
        _project(made.tower, text)
    _require_same(backbone, plain, made.tower)
    return made


def _timm(backbone: str, resolution: int) -> Filled:
    import timm

    arch, entry = BACKBONES[backbone].arch, BACKBONES[backbone]
    size = {} if resolution == (entry.native or entry.resolution) else {"img_size": resolution}
    model = timm.create_model(arch, pretrained=False, num_classes=0, **size).eval()
    return Filled("timm", arch, model, model)


def _open_clip(backbone: str, resolution: int) -> Filled:
    import open_clip

    entry = BACKBONES[backbone]
    arch = f"local-dir:{entry.folder}" if entry.source == "bundled" else entry.arch
    logging.disable(logging.WARNING)  # open_clip warns that the model is untrained
    try:
        model = open_clip.create_model(arch, load_weights=False, precision="fp32", device="cpu", force_image_size=resolution)
    finally:
        logging.disable(logging.NOTSET)
    return Filled("open_clip", entry.arch, model.eval(), model.visual)


def _project(visual: nn.Module, text: State) -> None:
    """CLIP's image projection, which is frozen in every run: (D, E), with a shift in few towers."""
    if getattr(visual, "proj", None) is not None:
        visual.proj.copy_(text["text.projection"])
        return
    for layer in [each for part in (visual.trunk.head, visual.head) for each in part.modules() if isinstance(each, nn.Linear)]:
        layer.weight.copy_(text["text.projection"].T)
        if layer.bias is not None:
            layer.bias.copy_(text["text.shift"])


def _require_same(backbone: str, plain: nn.Module, tower: nn.Module) -> None:
    images = torch.randn(2, 3, plain.resolution, plain.resolution, generator=torch_generator(0, "export", "image"))
    ours, theirs = plain(images), upstream_features(tower, images)
    apart = float((ours - theirs).abs().max() / ours.abs().max())
    if not apart < CLOSE:
        raise PelError(
            f"{BACKBONES[backbone].arch} of {library_of(backbone)} has no place for these weights (its features differ by "
            f"{apart:.2g} of the largest): export the whole classifier, --as onnx or --as torch"
        )
