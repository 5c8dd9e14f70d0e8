"""Features of a data set's class sentences one by one, for heads that look at several of each class (`vl_ltr`), and their file.

The file `{data}.sentences:{prompt}.safetensors` holds ``text.sentences`` (N, E), class after class and as the text tower gives
them, ``text.counts`` (C,), how many are each class's, and ``text.features`` (C, E), as the file of the prompt itself does.

Shapes: N sentences, C classes, E projected.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pel_core.common.seeds import derive
from pel_core.models.prompts import spoken, templates
from pel_core.models.state_names import State
from pel_core.models.text_sets import TextSet, written
from pel_core.models.text_source import TextSource


@torch.inference_mode()
def sentence_tensors(
    source: TextSource, prompt: str, descriptions: str | Path | None = None, texts: TextSet | None = None
) -> State:
    """What the file holds for the classes of ``source``; the other arguments as of `class_texts.text_features`.

    Raises:
        PelError: as there.
    """
    lines = written(source.class_names, prompt, descriptions, texts)
    lines = lines or [[line.format(name) for line in templates(prompt)] for name in spoken(source.class_names)]
    source.check(lines)
    flat, counts = [line for own in lines for line in own], [len(own) for own in lines]
    if source.tokenizer is None:
        seeds = [derive(0, "text", prompt, line) for line in flat]
        rows_NE = torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    else:
        model = source.model()
        parts = (flat[start : start + 256] for start in range(0, len(flat), 256))
        rows_NE = torch.cat([model.encode_text(source.tokenizer(part)).float() for part in parts])
    means = [own.mean(0) for own in F.normalize(rows_NE, dim=-1).split(counts)]
    return {
        "text.sentences": rows_NE,
        "text.counts": torch.tensor(counts),
        "text.features": F.normalize(torch.stack(means), dim=-1),
    }


def sentences_of(texts: Mapping[str, Tensor], classes: np.ndarray) -> State:
    """The sentences of some of a file's classes, and how many each has; nothing of a file without sentences."""
    if "text.sentences" not in texts:
        return {}
    counts = texts["text.counts"]
    own = texts["text.sentences"].split(counts.tolist())
    return {"text.sentences": torch.cat([own[label] for label in classes]), "text.counts": counts[torch.as_tensor(classes)]}
