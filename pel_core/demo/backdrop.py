"""The six backgrounds, and the hash that stands for pixel noise.

Shapes: N pictures, P = side * side pixels; `ground` (N, 4) are uniform numbers that vary one background.
"""

from __future__ import annotations

import torch

from pel_core.demo.attributes import BACKGROUNDS

_MASK = 0xFFFFFFFF


def hash_noise(key_N: torch.Tensor, count: int, salt: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), float32 (N, count), that depend on (key, position, salt) alone."""
    z = (key_N[:, None] * 0x9E3779B1 + torch.arange(count) * 0x85EBCA6B + salt * 0xC2B2AE35) & _MASK
    z = ((z ^ (z >> 16)) * 0x7FEB352D) & _MASK
    z = ((z ^ (z >> 15)) * 0x5F356495) & _MASK
    return (z ^ (z >> 16)).to(torch.float32) * 2.0**-32


def smooth_noise(key_N: torch.Tensor, side: int, cells_y: int, cells_x: int, salt: int) -> torch.Tensor:
    """Noise (N, P) interpolated from a coarse lattice."""
    lattice = hash_noise(key_N, cells_y * cells_x, salt).reshape(-1, 1, cells_y, cells_x)
    fine = torch.nn.functional.interpolate(lattice, size=(side, side), mode="bilinear", align_corners=True)
    return fine.flatten(1)


def _sand(x, y, g, key, side):
    grain = hash_noise(key, side * side, 1) - 0.5
    return (0.86, 0.74, 0.50), 0.22 * grain + 0.08 * smooth_noise(key, side, 4, 4, 2)


def _grass(x, y, g, key, side):
    return (0.35, 0.60, 0.22), 0.55 * (smooth_noise(key, side, side // 6, side // 2, 1) - 0.5)


def _water(x, y, g, key, side):
    wave = torch.sin(9 * y + 6.28 * g[:, :1] + 1.2 * torch.sin(4 * x + 6.28 * g[:, 1:2]))
    return (0.30, 0.52, 0.74), 0.16 * wave


def _brick(x, y, g, key, side):
    row = torch.floor(3 * (y + g[:, :1]))
    across = torch.remainder(1.7 * (x + g[:, 1:2]) + 0.5 * torch.remainder(row, 2), 1)
    along = torch.remainder(3 * (y + g[:, :1]), 1)
    mortar = ((along < 0.2) | (across < 0.11)).float()
    return (0.62, 0.34, 0.26), 0.30 * mortar + 0.06 * (hash_noise(key, side * side, 1) - 0.5)


def _snow(x, y, g, key, side):
    return (0.84, 0.87, 0.92), 0.22 * (smooth_noise(key, side, 5, 5, 1) - 0.5)


def _night(x, y, g, key, side):
    stars = (hash_noise(key, side * side, 1) > 0.975).float()
    return (0.10, 0.10, 0.22), 0.65 * stars + 0.05 * smooth_noise(key, side, 3, 3, 2)


_PAINTERS = {"sand": _sand, "grass": _grass, "water": _water, "brick": _brick, "snow": _snow, "night": _night}
assert tuple(_PAINTERS) == BACKGROUNDS


def paint(background_N, ground_N4, key_N, x_P, y_P, side: int) -> torch.Tensor:
    """Backgrounds float32 (N, 3, P): a base colour with its texture and some variation of tone."""
    out = torch.empty(len(background_N), 3, len(x_P))
    tone = 1 + 0.24 * (ground_N4[:, 2:3] - 0.5)
    for index, painter in enumerate(_PAINTERS.values()):
        rows = (background_N == index).nonzero()[:, 0]
        if len(rows):
            base, texture = painter(x_P, y_P, ground_N4[rows], key_N[rows], side)
            out[rows] = (torch.tensor(base)[:, None] + texture[:, None]) * tone[rows, None]
    return out
