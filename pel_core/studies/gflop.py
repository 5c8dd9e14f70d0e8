"""Operations of one image through the network of a run, in GFLOP: matrix products and attention, a multiply-add as two."""

from pel_core.models.methods import METHODS, MethodPart
from pel_core.spec.choices import LOSSES, SHARPNESS
from pel_core.spec.run_spec import RunSpec

STEM = 64  # channels after the first convolutions of CLIP's RN50 and RN101


def block_gflop(tokens: int, width: int, read: int | None = None, mlp: float = 8.0) -> float:
    """One block: qkv, attention, projection and MLP (24 N D^2 + 4 N^2 D); of the last only ``read`` tokens are asked for.

    ``mlp``: the MLP's weights in D^2.
    """
    read = tokens if read is None else read
    keys = 4 * tokens * width**2  # keys and values are needed of every token
    return (keys + read * (2 * width**2 + 4 * tokens * width + 2 * (mlp + 1) * width**2)) / 1e9


def _blocks(spec: RunSpec) -> list[float]:
    """GFLOP of each block; the last is asked for what the feature is made of."""
    vit, tokens = spec.vit, _tokens(spec)
    hidden = vit.hidden / vit.width if vit.hidden else 4.0
    mlp = hidden * (1.5 if vit.gated else 2)
    last = block_gflop(tokens, vit.width, None if vit.reads_all else 1, mlp)
    return [block_gflop(tokens, vit.width, None, mlp)] * (vit.layers - 1) + [last]


def asked_again(spec: RunSpec) -> int:
    """How many of the last blocks an image goes through twice, first without gradients (`Method.asks`); 0 of most methods."""
    asking = [part for part in spec.parts if METHODS[part.name].asks]
    return spec.vit.layers - min((_lowest(spec, part) for part in asking), default=spec.vit.layers)


def _lowest(spec: RunSpec, part: MethodPart) -> int:
    """The lowest block in which something of a method trains."""
    asks = METHODS[part.name].asks
    return asks(part.blocks, spec.knobs_of(part.name)) if asks else part.start


def resnet_gflop(stages: tuple[int, ...], pixels: int, width: int) -> float:
    """One image through CLIP's ResNet: convolutions (strides come after the 3 x 3 ones) and the attention at its end."""
    side, channels = pixels // 2, STEM
    total = side**2 * (27 * STEM / 2 + 9 * (STEM / 2) ** 2 + 9 * STEM**2 / 2)
    side //= 2
    for number, blocks in enumerate(stages):
        planes = STEM << number
        for index in range(blocks):
            out = side // 2 if number and not index else side
            total += side**2 * (channels * planes + 9 * planes**2) + out**2 * 4 * planes**2
            total += 0 if index else out**2 * channels * 4 * planes  # the shortcut's
            side, channels = out, 4 * planes
    places = side**2 + 1
    total += (2 * places + 1) * channels**2 + 2 * places * channels + channels * width
    return 2 * total / 1e9


def forward_gflop(spec: RunSpec) -> float:
    """One image through the network of a run; all blocks but the last in full. ViT-B/16 at 224: 33 GFLOP."""
    if spec.vit.stages:
        return resnet_gflop(spec.vit.stages, spec.pixels, spec.vit.width)
    vit, tokens = spec.vit, _tokens(spec)
    embed = 2 * (tokens - vit.prefix_tokens) * 3 * vit.patch**2 * vit.width / 1e9
    *full, last = _blocks(spec)
    again = asked_again(spec)
    total = embed + len(full) * full[0] + last if full else embed + last
    return total + sum(_blocks(spec)[-again:]) if again else total


def training_gflop(spec: RunSpec) -> float:
    """One image forward, and the gradient back to the lowest block in which something trains, attention's counted twice.

    Frozen weights have no gradient; ``full`` has one for every weight from there on. Deltas are left out: a few per cent. Where
    an image goes through several times in a step, all `passes` are counted, those that only go `forward` as such.
    """
    return (passes(spec) - forward_only(spec)) * _there_and_back(spec) + forward_only(spec) * forward_gflop(spec)


def _there_and_back(spec: RunSpec) -> float:
    blocks = [_lowest(spec, part) for part in spec.parts if part.blocks and spec.train_delta]
    if not blocks:
        return forward_gflop(spec)
    if spec.vit.stages:
        inside = any(METHODS[part.name].train for part in spec.parts)  # else what trains comes after all of it
        return forward_gflop(spec) * (3 if any(part.name == "full" for part in spec.parts) else 2 if inside else 1)
    vit, tokens, lowest = spec.vit, _tokens(spec), min(blocks)
    linear = _blocks(spec)[lowest:]
    attention = 4 * tokens**2 * vit.width / 1e9 * (vit.layers - 1 - lowest)
    weights = sum(linear) - attention if any(part.name == "full" for part in spec.parts) else 0.0
    return forward_gflop(spec) + sum(linear) + attention + weights


def passes(spec: RunSpec) -> int:
    """The most times that an image goes through in a step: 2 with SAM, once for each view that a loss asks for; of two
    streams an image of each counts."""
    return int(SHARPNESS[spec.sharpness].passes) * spec.train_views * spec.streams


def forward_only(spec: RunSpec) -> int:
    """How many of the `passes` have no way back: those of a loss's momentum encoder."""
    return int(SHARPNESS[spec.sharpness].passes) * getattr(LOSSES[spec.loss], "keys", 0) if spec.trains else 0


def _tokens(spec: RunSpec) -> int:
    prompts = spec.vpt_len if any(part.name.startswith("vpt") or METHODS[part.name].extends for part in spec.parts) else 0
    return spec.vit.prefix_tokens + (spec.pixels // spec.vit.patch) ** 2 + int(prompts)
