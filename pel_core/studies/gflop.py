"""Operations of one image through the network of a run, in GFLOP: matrix products and attention, a multiply-add as two."""

from pel_core.spec.choices import SHARPNESS
from pel_core.spec.run_spec import RunSpec


def block_gflop(tokens: int, width: int, read: int | None = None) -> float:
    """One block: qkv, attention, projection and MLP (24 N D^2 + 4 N^2 D); of the last only ``read`` tokens are asked for."""
    read = tokens if read is None else read
    keys = 4 * tokens * width**2  # keys and values are needed of every token
    return (keys + read * (2 * width**2 + 4 * tokens * width + 18 * width**2)) / 1e9


def forward_gflop(spec: RunSpec) -> float:
    """One image through the network of a run; all blocks but the last in full. ViT-B/16 at 224: 33 GFLOP."""
    vit, tokens = spec.vit, _tokens(spec)
    embed = 2 * (tokens - 1) * 3 * vit.patch**2 * vit.width / 1e9
    return embed + (vit.layers - 1) * block_gflop(tokens, vit.width) + block_gflop(tokens, vit.width, 1)


def training_gflop(spec: RunSpec) -> float:
    """One image forward, and the gradient back to the lowest block in which something trains, attention's counted twice.

    Frozen weights have no gradient; ``full`` has one for every weight from there on. Deltas are left out: a few per cent. Where
    an image goes through several times in a step, all `passes` are counted.
    """
    blocks = [part.start for part in spec.parts if part.blocks]
    if not blocks:
        return passes(spec) * forward_gflop(spec)
    vit, tokens, lowest = spec.vit, _tokens(spec), min(blocks)
    linear = [block_gflop(tokens, vit.width)] * (vit.layers - 1 - lowest) + [block_gflop(tokens, vit.width, 1)]
    attention = 4 * tokens**2 * vit.width / 1e9 * (vit.layers - 1 - lowest)
    weights = sum(linear) - attention if any(part.name == "full" for part in spec.parts) else 0.0
    return passes(spec) * (forward_gflop(spec) + sum(linear) + attention + weights)


def passes(spec: RunSpec) -> int:
    """The most times that an image goes forward and back in a step: 2 with SAM."""
    return int(SHARPNESS[spec.sharpness].passes)


def _tokens(spec: RunSpec) -> int:
    prompts = spec.vpt_len if any(part.name.startswith("vpt") for part in spec.parts) else 0
    return 1 + (spec.pixels // spec.vit.patch) ** 2 + int(prompts)
