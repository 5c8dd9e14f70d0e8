"""Features of a data set's class sentences one by one, for heads that look at several of each class (`vl_ltr`), and their file.

The file `{data}.sentences:{prompt}.safetensors` holds ``text.sentences`` (N, E), class after class and as the text tower gives
them, ``text.counts`` (C,), how many are each class's, and ``text.features`` (C, E), as the file of the prompt itself does.

Shapes: N sentences, C classes, E projected.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.common.seeds import derive
from pel_core.models.backbones import BACKBONES
from pel_core.models.prompt_tokens import check_prompts
from pel_core.models.prompts import DESCRIBED, spoken, templates
from pel_core.models.state_names import State
from pel_core.models.text_sets import TextSet, read_descriptions
from pel_core.models.upstream import load_tokenizer, open_clip_model


@torch.inference_mode()
def sentence_tensors(
    name: str,
    class_names: Sequence[str],
    prompt: str,
    weights: str | None = None,
    cache_dir: str | None = None,
    sha: str | None = None,
    descriptions: str | Path | None = None,
    allow_equal: bool = False,
    notes: list[str] | None = None,
    texts: TextSet | None = None,
) -> State:
    """What the file holds for these classes; arguments as of `weights.text_features`.

    Raises:
        PelError: as there.
    """
    entry, notes = BACKBONES[name], [] if notes is None else notes
    if not entry.text:
        raise PelError(f"{name} has no text tower; use a CLIP backbone")
    if texts:
        lines = texts.sentences(class_names)
    elif prompt == DESCRIBED:
        lines = read_descriptions(descriptions, class_names)
    else:
        lines = [[line.format(name) for line in templates(prompt)] for name in spoken(class_names)]
    tokenizer = None if entry.source == "random" else load_tokenizer(name, weights, cache_dir)
    notes += check_prompts(lines, class_names, tokenizer, allow_equal, allow_cut=entry.source == "bundled")
    flat, counts = [line for own in lines for line in own], [len(own) for own in lines]
    if tokenizer is None:
        seeds = [derive(0, "text", prompt, line) for line in flat]
        rows_NE = torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    else:
        model = open_clip_model(name, weights, cache_dir, sha)
        parts = (flat[start : start + 256] for start in range(0, len(flat), 256))
        rows_NE = torch.cat([model.encode_text(tokenizer(part)).float() for part in parts])
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
