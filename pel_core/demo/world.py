"""The demo world: a vectorised renderer of small pictures of coloured, patterned shapes.

`Scenes` says what is in N pictures (whole-number attributes), `Style` how they are photographed: nuisance
that pre-training knows, and the systematic shift of the stand-ins. `render` turns both into uint8 pictures.
All randomness is drawn with numpy from named generators; pixel noise is a hash of (picture key, pixel), so a
picture depends neither on the chunk that it is rendered in nor on the number of threads.

Shapes: N pictures, K = 6 object slots, S side in pixels, P = S * S. Coordinates run over [-1, 1], y downwards.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import torch

from pel_core.demo import backdrop
from pel_core.demo.attributes import COLOURS, PATTERNS, PLACEMENTS
from pel_core.demo.shapes import signed_distance

SLOTS = 6
CHUNK = 128  # constant, padded: vectorised kernels then split the same way every time

COLOUR_RGB = torch.tensor(
    [
        (0.90, 0.10, 0.10),
        (1.0, 0.52, 0.05),
        (0.98, 0.90, 0.12),
        (0.62, 0.95, 0.15),
        (0.05, 0.55, 0.15),
        (0.10, 0.85, 0.85),
        (0.10, 0.25, 0.90),
        (0.50, 0.12, 0.75),
        (1.0, 0.50, 0.72),
        (0.47, 0.27, 0.10),
        (0.97, 0.97, 0.97),
        (0.06, 0.06, 0.06),
    ]
)
assert len(COLOUR_RGB) == len(COLOURS)

# Where the objects of a placement sit, and their radius; unused slots are None.
_ARC = [(0.66 * math.cos(t), 0.45 - 0.9 * math.sin(t)) for t in np.linspace(0, math.pi, 5)]
_WHEEL = [(0.58 * math.cos(t), 0.58 * math.sin(t)) for t in np.arange(6) * math.pi / 3]
_SITES = {
    "single": ([(0, 0)], 0.68),
    "pair": ([(-0.45, 0), (0.45, 0)], 0.42),
    "trio": ([(0, -0.48), (-0.45, 0.36), (0.45, 0.36)], 0.36),
    "row": ([(-0.62, 0), (0, 0), (0.62, 0)], 0.27),
    "tower": ([(0, -0.62), (0, 0), (0, 0.62)], 0.27),
    "slope": ([(-0.55, 0.55), (0, 0), (0.55, -0.55)], 0.27),
    "wheel": (_WHEEL, 0.24),
    "block": ([(-0.3, -0.3), (0.3, -0.3), (-0.3, 0.3), (0.3, 0.3)], 0.27),
    "arch": (_ARC, 0.22),
    "vee": ([(-0.66, -0.5), (-0.33, 0), (0, 0.5), (0.33, 0), (0.66, -0.5)], 0.22),
    "frame": ([(-0.65, -0.65), (0.65, -0.65), (-0.65, 0.65), (0.65, 0.65)], 0.27),
}
assert tuple(_SITES) == PLACEMENTS
SITE_XY = torch.tensor([[*map(tuple, xy), *[(9.0, 9.0)] * (SLOTS - len(xy))] for xy, _ in _SITES.values()])
SITE_RADIUS = torch.tensor([radius for _, radius in _SITES.values()])
SITE_USED = torch.tensor([[k < len(xy) for k in range(SLOTS)] for xy, _ in _SITES.values()])


@dataclass(frozen=True)
class Scenes:
    """What is in N pictures: int64 indices (N,) into the tuples of attributes.py; size 0 large, 1 small."""

    colour: np.ndarray
    pattern: np.ndarray
    shape: np.ndarray
    background: np.ndarray
    placement: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.colour)


@dataclass(frozen=True)
class Style:
    """How pictures are taken. Angles in degrees; amounts as fractions of the full range; spreads are half-widths."""

    hue: float = 0.0  # rotation of every colour about the grey axis
    hue_spread: float = 8.0
    turn: float = 0.0  # rotation of the objects
    turn_spread: float = 20.0
    roll: float = 0.0  # rotation of the placement: the camera held askew
    position: float = 0.12  # jitter of the whole placement
    outline: float = 0.15  # darkness of a thin line around objects
    hatch: float = 0.0  # strength of diagonal lines over the picture
    stickers: tuple[float, float] = (0.25, 0.0)  # chance of a first and a second distractor
    sticker_radius: float = 0.16
    light: float = 0.25  # largest light gradient
    tint: float = 0.06
    contrast: float = 0.15  # largest loss of contrast
    noise: float = 0.03  # pixel noise, standard deviation about .4 of this
    downsample: int = 1  # average over blocks of this many pixels: a low native resolution


MILD = Style()  # what pre-training sees


def _draw_nuisance(style: Style, n: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Every random number of n pictures, float32 (n, ...), but for the pixel noise."""

    def spread(*shape):
        return rng.uniform(-1, 1, (n, *shape))

    draws = {
        "hue": style.hue + style.hue_spread * spread(),
        "turn": style.turn + style.turn_spread * spread(),
        "shift": style.position * spread(2),
        "site_jitter": 0.035 * spread(SLOTS, 2),
        "radius": 1 + 0.12 * spread(),
        "tilt": style.roll + 8 * spread(),
        "spin": 180 * spread(),
        "phase": math.pi * spread(2),
        "mirror": np.sign(spread()),
        "shade": 0.12 * spread(),
        "light_angle": math.pi * spread(),
        "light": style.light * rng.random(n),
        "tint": style.tint * spread(3),
        "contrast": 1 - style.contrast * rng.random(n),
        "sticker_on": rng.random((n, 2)) < np.array(style.stickers),
        "sticker_angle": math.pi * spread(2),
        "sticker_rgb": rng.random((n, 2, 3)),
        "sticker_box": spread(2) > 0,
        "ground": rng.random((n, 4)),
        "key": rng.integers(0, 2**31 - 1, n),
    }
    return {
        name: torch.from_numpy(np.asarray(value)).to(torch.int64 if name == "key" else torch.float32)
        for name, value in draws.items()
    }


def _grid(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    axis = (torch.arange(side) + 0.5) * (2 / side) - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x.reshape(-1), y.reshape(-1)


def _object_distance(s: dict, d: dict, x_P, y_P) -> torch.Tensor:
    """Distance (N, P) to the nearest object, in units of the picture (1 = half a side)."""
    placement = s["placement"]
    small = (s["size"] == 1) & (placement == 0)
    radius_N = SITE_RADIUS[placement] * d["radius"] * torch.where(small, 0.6, 1.0)
    sites_NK2 = SITE_XY[placement] * torch.stack([d["mirror"], torch.ones_like(d["mirror"])], -1)[:, None]
    free = (placement == 1) | (placement == 2)  # pairs and trios may lie at any angle
    angle = torch.deg2rad(torch.where(free, d["spin"], d["tilt"]))[:, None]
    cos, sin = angle.cos(), angle.sin()
    sx = cos * sites_NK2[..., 0] - sin * sites_NK2[..., 1]
    sy = sin * sites_NK2[..., 0] + cos * sites_NK2[..., 1]
    roam = torch.where(placement == 0, 1.5, 0.6)[:, None]  # a single object moves about more
    centre_NK2 = torch.stack([sx, sy], -1) + (d["shift"] * roam)[:, None] + d["site_jitter"]

    n, k = SITE_USED[placement].nonzero(as_tuple=True)  # the M objects there are
    turn = torch.deg2rad(d["turn"])[n, None]
    dx, dy = x_P - centre_NK2[n, k, 0, None], y_P - centre_NK2[n, k, 1, None]
    r = radius_N[n, None]
    lx, ly = (turn.cos() * dx + turn.sin() * dy) / r, (turn.cos() * dy - turn.sin() * dx) / r
    distance_MP = signed_distance(s["shape"][n], lx, ly) * r
    out = torch.full((len(placement), len(x_P)), 9.0)
    return out.scatter_reduce(0, n[:, None].expand_as(distance_MP), distance_MP, "amin")


def _pattern_mask(s: dict, d: dict, distance_NP, x_P, y_P) -> torch.Tensor:
    """Share (N, P) of the second colour inside the object; the seven patterns of attributes.PATTERNS."""
    turn = torch.deg2rad(d["turn"])[:, None]
    u = turn.cos() * x_P + turn.sin() * y_P
    v = turn.cos() * y_P - turn.sin() * x_P
    pu, pv = d["phase"][:, :1], d["phase"][:, 1:]
    fine = torch.where(s["placement"] == 0, 1.0, 1.35)[:, None]  # smaller objects carry a finer pattern
    f = 9.5 * fine * torch.where((s["size"] == 1) & (s["placement"] == 0), 1.35, 1.0)[:, None]

    def step(wave):
        return (0.5 + 2.5 * wave).clamp(0, 1)

    masks = {
        "plain": torch.zeros_like(distance_NP),
        "striped": step(torch.sin(f * v + pv)),
        "dotted": step(torch.sin(f * u + pu) * torch.sin(f * v + pv).abs() * torch.sign(torch.sin(f * v + pv)) - 0.3),
        "checkered": step(torch.sin(0.62 * f * u + pu) * torch.sin(0.62 * f * v + pv) * 2),
        "wavy": step(torch.sin(f * v + pv + 2.2 * torch.sin(0.7 * f * u + pu))),
        "ringed": step(torch.sin(1.15 * f * distance_NP + 2.4)),
        "rimmed": step((distance_NP * f / 9.5 + 0.16) * 12),
    }
    stacked = torch.stack([masks[name] for name in PATTERNS], 1)
    return stacked[torch.arange(len(stacked)), s["pattern"]]


def _paint_objects(image_N3P, s: dict, d: dict, style: Style, x_P, y_P, pixel: float) -> torch.Tensor:
    """Objects over the background, with their pattern and outline."""
    distance = _object_distance(s, d, x_P, y_P)
    first = (COLOUR_RGB[s["colour"]] * (1 + d["shade"][:, None])).clamp(0, 1)
    bright = (first @ torch.tensor([0.3, 0.59, 0.11]) > 0.55)[:, None]
    second = torch.where(bright, first * 0.35, first * 0.35 + 0.65)
    share = _pattern_mask(s, d, distance, x_P, y_P)[:, None]
    paint = first[..., None] * (1 - share) + second[..., None] * share
    line = (1 - (distance.abs() / (1.1 * pixel))).clamp(0, 1)[:, None] * style.outline
    cover = (0.5 - distance / pixel).clamp(0, 1)[:, None]
    return (image_N3P * (1 - cover) + paint * cover) * (1 - line)


def _paint_stickers(image_N3P, d: dict, style: Style, x_P, y_P, pixel: float) -> torch.Tensor:
    """Up to two plain distractors near the border."""
    for k in range(2):
        reach = 0.82
        dx = x_P - reach * d["sticker_angle"][:, k, None].cos() * 1.1
        dy = y_P - reach * d["sticker_angle"][:, k, None].sin() * 1.1
        box = torch.maximum(dx.abs(), dy.abs()) - style.sticker_radius * 0.9
        disc = torch.hypot(dx, dy) - style.sticker_radius
        distance = torch.where(d["sticker_box"][:, k, None] > 0, box, disc)
        cover = ((0.5 - distance / pixel).clamp(0, 1) * d["sticker_on"][:, k, None])[:, None]
        image_N3P = image_N3P * (1 - cover) + d["sticker_rgb"][:, k, :, None] * cover
    return image_N3P


def hue_rotation(degrees_N: torch.Tensor) -> torch.Tensor:
    """Matrices (N, 3, 3) that turn RGB about the grey axis."""
    a = torch.deg2rad(degrees_N)[:, None, None]
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return torch.eye(3) * a.cos() + cross * a.sin() + (1 - a.cos()) / 3


def _photograph(image_N3P, d: dict, style: Style, x_P, y_P) -> torch.Tensor:
    """Hue, hatching, light, tint, contrast and noise."""
    image = hue_rotation(d["hue"]) @ image_N3P
    lines = torch.sin((x_P + y_P) * 14 + d["phase"][:, :1]).clamp_min(0)[:, None]
    image = image * (1 - style.hatch * lines)
    gradient = d["light_angle"][:, None].cos() * x_P + d["light_angle"][:, None].sin() * y_P
    image = image * (1 + d["light"][:, None] * gradient)[:, None] * (1 + d["tint"])[..., None]
    image = (image - 0.5) * d["contrast"][:, None, None] + 0.5
    noise = torch.stack([backdrop.hash_noise(d["key"], len(x_P), salt) for salt in (11, 12, 13)], 1)
    return image + style.noise * (2 * noise - 1)


def _render_chunk(s: dict, d: dict, style: Style, side: int) -> torch.Tensor:
    x_P, y_P = _grid(side)
    pixel = 2 / side
    image = backdrop.paint(s["background"], d["ground"], d["key"], x_P, y_P, side)
    image = _paint_objects(image, s, d, style, x_P, y_P, pixel)
    image = _paint_stickers(image, d, style, x_P, y_P, pixel)
    image = _photograph(image, d, style, x_P, y_P).reshape(-1, 3, side, side)
    if style.downsample > 1:
        image = torch.nn.functional.avg_pool2d(image, style.downsample)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def render(scenes: Scenes, style: Style, side: int, rng: np.random.Generator) -> np.ndarray:
    """Pictures uint8 (N, side / style.downsample, same, 3); nuisance drawn from rng."""
    n = len(scenes)
    if n == 0:
        return np.zeros((0, side // style.downsample, side // style.downsample, 3), np.uint8)
    what = {f.name: torch.from_numpy(getattr(scenes, f.name)) for f in fields(Scenes)}
    how = _draw_nuisance(style, n, rng)

    def chunk(start: int) -> torch.Tensor:
        rows = (torch.arange(start, start + CHUNK)).clamp_max(n - 1)  # the last chunk repeats its last picture
        part = _render_chunk({k: v[rows] for k, v in what.items()}, {k: v[rows] for k, v in how.items()}, style, side)
        return part[: min(CHUNK, n - start)]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # parallel over chunks instead: the arithmetic is then the same anywhere
    try:
        with torch.inference_mode(), ThreadPoolExecutor(min(threads, 8)) as pool:
            parts = list(pool.map(chunk, range(0, n, CHUNK)))
    finally:
        torch.set_num_threads(threads)
    return torch.cat(parts).numpy()
