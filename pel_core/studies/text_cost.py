"""What a step through CLIP's text tower costs (`models.text_heads`): its sizes stand in the prepared file of texts. Torch-free.

Shapes: C classes, L tokens of a text.
"""

import json
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.data.datasets import split_name
from pel_core.models.text_heads import PREFIX
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.gflop import block_gflop, passes


def tower_file(results: Path, spec: RunSpec) -> Path:
    """The file of the text tower that a run trains through."""
    return results / "text" / spec.backbone / f"{split_name(spec.dataset)[0]}.{spec.text_file}.safetensors"


def text_gflop(results: Path, spec: RunSpec, images: int) -> float | None:
    """GFLOP of the text tower over a training on so many images an epoch: 0 of a run without one, None before it is prepared.

    All classes go through in each step, and back; what trains in all of the tower has a gradient of its own. With more classes
    than ``head.chunk`` what lies between is computed twice.

    Raises:
        PelError: the file is damaged.
    """
    if not spec.reads_tower or not spec.epochs:
        return 0.0
    path = tower_file(results, spec)
    if not path.is_file():
        return None
    knobs = spec.knobs_of("head")
    try:
        shapes, tokens_CL = _sizes(path)
        hidden, width = shapes[f"{PREFIX}blocks.0.ffn.fc1.weight"]
        number = shapes["text.words"][0]
    except (OSError, ValueError, KeyError) as error:
        raise PelError(f"{path} is damaged ({error}); delete it and run again") from None
    classes = len(tokens_CL) if spec.factors.classes == "all" else int(spec.factors.classes)
    length = int(tokens_CL.argmax(1).max()) + 1 + (knobs["context"] or number)
    layers = len({name.split(".")[3] for name in shapes if name.startswith(f"{PREFIX}blocks.")})
    forward = classes * layers * block_gflop(length, width, None, 2 * hidden / width)
    times = 2 + ("full" in knobs.get("tuning", "").split("+")) + (classes > knobs["chunk"])
    return spec.epochs * ceil(images / spec.batch_size) * times * passes(spec) * forward


def _sizes(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The shapes of a safetensors file's tensors by name (8 bytes of length, a JSON header, the tensors), and the tokens."""
    with open(path, "rb") as handle:
        header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
        start = handle.tell()
        told = header["text.tokens"]
        low, high = told["data_offsets"]
        handle.seek(start + low)
        tokens = np.frombuffer(handle.read(high - low), {"I64": "<i8", "I32": "<i4"}[told["dtype"]])
    shapes = {name: each["shape"] for name, each in header.items() if name != "__metadata__"}
    return shapes, tokens.reshape(told["shape"])
