"""The whole classifier as a graph: pixels in, logits out, for any number of images. Shapes: B images, R pixels, C classes."""

import logging
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from pel_core.common.errors import PelError
from pel_core.common.files import replace_file
from pel_core.common.seeds import torch_generator
from pel_core.training.classifier import Classifier

CLOSE = 1e-4  # of the largest logit
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Whole(nn.Module):
    """RGB pixels in 0..1 (B, 3, R, R) -> logits (B, C); the backbone's own mean and deviation are inside."""

    def __init__(self, classifier: Classifier, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.classifier = classifier
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier((pixels - self.mean) / self.std)


@torch.no_grad()
def traced(whole: Whole) -> torch.export.ExportedProgram:
    """The program of ``torch.export``, whose number of images is free."""
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings(action="ignore"):
        return torch.export.export(whole.eval(), (_images(whole, 3),), dynamic_shapes=({0: batch},), strict=False)


def write_torch(path: Path, whole: Whole) -> None:
    """Write ``torch.export``'s file (.pt2), once it answers as the classifier does."""
    program = traced(whole)
    _require_same(whole, lambda images: program.module()(images), "torch.export")
    with replace_file(path) as temporary, open(temporary, "wb") as handle:
        torch.export.save(program, handle)


def write_onnx(path: Path, whole: Whole) -> None:
    """Write an ONNX file, once onnxruntime answers as the classifier does. Input ``pixels``, output ``logits``.

    Raises:
        PelError: the packages are not there, or something of the network has no operator.
    """
    if missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]:
        raise PelError(f"--as onnx needs the package {', '.join(missing)}: pip install 'pel-lab[onnx]'")
    import onnxruntime

    batch = torch.export.Dim("batch", min=1)
    words = {"input_names": ["pixels"], "output_names": ["logits"], "dynamic_shapes": ({0: batch},)}
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(whole.eval(), (_images(whole, 3),), dynamo=True, verbose=False, **words)
    except torch.onnx.errors.OnnxExporterError as error:
        raise PelError(f"the classifier has no ONNX form: {str(error).splitlines()[0]}; --as torch may have one") from None
    finally:
        logging.disable(logging.NOTSET)
    with replace_file(path) as temporary:
        program.save(temporary)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        _require_same(whole, lambda images: torch.from_numpy(session.run(None, {"pixels": images.numpy()})[0]), "onnxruntime")


def _images(whole: Whole, count: int) -> Tensor:
    resolution = whole.classifier.vit.resolution
    return torch.rand(count, 3, resolution, resolution, generator=torch_generator(count, "export", "pixels"))


@torch.no_grad()
def _require_same(whole: Whole, answer, name: str) -> None:
    for count in (1, 5):
        ours, theirs = whole(images := _images(whole, count)), answer(images)
        apart = float((ours - theirs).abs().max() / ours.abs().max())
        if not apart < CLOSE:
            raise PelError(f"{name} answers {count} images otherwise than the run does, by {apart:.2g} of the largest logit")
