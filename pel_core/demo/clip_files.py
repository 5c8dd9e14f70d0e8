"""The `clip-mini` folder: an open_clip local directory, its weights, tokenizer file and model card.

The merges file is named relative to the folder; open_clip resolves it against the working directory, so load
the tokenizer with `tokenizer(folder)`, which gives the whole path.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

MERGES, CONFIG, WEIGHTS, CARD = "merges.txt.gz", "open_clip_config.json", "open_clip_model.safetensors", "MODEL_CARD.md"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
CONTEXT = 20
FOLDER = Path(__file__).parent / "clip-mini"


def model_config() -> dict:
    from pel_core.demo.captions import merges

    return {
        "embed_dim": 64,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 12, "width": 96, "head_width": 32, "patch_size": 8},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": 512 + len(merges()) + 2,
            "width": 96,
            "heads": 2,
            "layers": 3,
            "tokenizer_kwargs": {"bpe_path": MERGES},
        },
    }


def new_model():
    """A randomly initialised clip-mini (global torch generator)."""
    from open_clip.model import CLIP

    config = model_config()
    return CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=config["quick_gelu"])


def load_model(folder: Path):
    """clip-mini through open_clip's own local-dir door, fp32, on the CPU, offline."""
    import open_clip

    return open_clip.create_model(f"local-dir:{folder}", precision="fp32", device="cpu").eval()


def tokenizer(folder: Path):
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(folder / MERGES), context_length=CONTEXT)


def shrink_residual(model, factor: float) -> None:
    """Scale the vision tower's residual stream by `factor`, in place; what the model computes stays the same.

    Everything written to the stream (ln_pre, the attention and MLP output projections) shrinks; every reader
    normalises first. Adapters, which write un-normalised sums to the stream, then matter at a learning rate of 0.01
    as they do in a full-size CLIP; unscaled, this small model's stream is too loud for them.
    """
    import torch

    with torch.no_grad():
        writers = [model.visual.ln_pre]
        for block in model.visual.transformer.resblocks:
            writers += [block.attn.out_proj, block.mlp.c_proj]
        for writer in writers:
            writer.weight.mul_(factor)
            writer.bias.mul_(factor)


def save(model, folder: Path) -> None:
    """Weights as fp16 safetensors and the configuration."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items() if name != "attn_mask"}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "model_cfg": model_config(),
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bilinear", "resize_mode": "shortest"},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_card(folder: Path, facts: dict) -> None:
    """The model card; `facts` are what pretrain.train returned and pretrain.unseen_accuracy measured."""
    folder = Path(folder)
    rows = "\n".join(
        f"| `{name}` | {(folder / name).stat().st_size:,} | `{sha256(folder / name)}` |" for name in (WEIGHTS, CONFIG, MERGES)
    )
    (folder / CARD).write_text(_CARD.format(rows=rows, **facts))


_CARD = """# clip-mini: the demo's CLIP

A very small CLIP (12 vision blocks of width 96, patch 8, 32 px, 17 tokens, QuickGELU; text: 3 layers of width 96, 20
tokens; {parameters:,} parameters), pre-trained by this repository on a world that it renders itself. **It knows that
world and nothing else: no photograph, no web text.** It exists so that the demo study can run on a fresh machine;
numbers made with it say nothing about CLIP or about real images.

## Files
open_clip loads the folder offline: `open_clip.create_model("local-dir:" + folder)`, and
`open_clip.get_tokenizer("local-dir:" + folder, bpe_path=folder + "/{merges}")` (open_clip reads a relative `bpe_path`
from the working directory, hence the argument). Weights are fp16; compute in fp32. Normalise with CLIP's mean and
std; resize bilinearly.

| file | bytes | SHA-256 |
|---|---|---|
{rows}

## Data
{pictures:,} pictures of 36 px with two captions each (`world.py`, `captions.py`): 12 colours x 7 patterns x 16 shapes
on 6 backgrounds, single, in twos and threes, or in 8 layouts; mild nuisance. 30 % of the (colour, pattern, shape)
triples and of the (background, layout, colour) triples never occur, though all their pairs do; the stand-ins' classes
are drawn from those alone.

## Recipe
`python -m pel_core.demo.pretrain` (torch {torch}, {threads} threads): {steps} steps of {batch} pairs, AdamW {lr},
weight decay {decay}, warm-up {warmup} steps, constant, linear to 0 over the last 30 %; random crop to 32 px and
mirror; fp32. Loss: symmetric contrastive, identical captions sharing the target, plus a bag-of-words loss (weight
{words} falling to 0 over {words_steps} steps: a linear layer, thrown away, names the caption's words from the class
token, which shortens the start). Took {seconds} s{note}; final contrastive loss {loss:.2f}.
Drawn from named generators: the same torch, processor kind and thread count give the same weights;
another machine gives an equivalent model, not the same bytes.

**Residual scale.** After pre-training, everything that writes to the vision tower's residual stream (ln_pre,
attention and MLP output projections) is multiplied by {scale}. The blocks and ln_post normalise what they read, so
features stay the same but for the normalisation's epsilon; but adapters and prompts, which write un-normalised sums,
then have an effect at PEL's learning rate of 0.01. Without it they hardly move so small a model.

## What it can do
Zero-shot, {classes} unseen triples each, ten pictures a class in the pre-training style: objects {objects:.1f} %,
scenes {scenes:.1f} % (chance {chance:.1f} %).

## Limits
The vocabulary is {words_known} English words, spelt in lower case; other words become letters that it never saw.
Counting is coarse. Do not use it for anything but tests and demonstrations of this repository.

## Licence
That of the repository (see LICENSE): code, data and weights were all made by it.
"""
