"""Sixteen silhouettes as signed distance functions (negative inside), in a frame where size is about 1.

Every function takes x, y of one shape (M, P) and gives distances (M, P). Not all are exact distances: near
the outline they are, which is all that anti-aliasing and the banded patterns need.
"""

from __future__ import annotations

import math

import torch

from pel_core.demo.attributes import SHAPES


def _box(x, y, half_width: float, half_height: float):
    dx, dy = x.abs() - half_width, y.abs() - half_height
    return torch.hypot(dx.clamp_min(0), dy.clamp_min(0)) + torch.maximum(dx, dy).clamp_max(0)


def _disc(x, y, radius: float = 1.0):
    return torch.hypot(x, y) - radius


def _half_planes(x, y, *planes: tuple[float, float, float]):
    """Intersection of nx*x + ny*y <= d."""
    return torch.stack([nx * x + ny * y - d for nx, ny, d in planes]).amax(0)


def _triangle(x, y):
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    return _half_planes(x, y, (0, 1, 0.55), (c, -s, 0.55), (-c, -s, 0.55))


def _star(x, y):
    """Five points; the fold maps every sector onto one edge."""
    sector = math.pi / 5
    radius, angle = torch.hypot(x, y), torch.atan2(x, -y)
    folded = torch.remainder(angle + sector, 2 * sector) - sector
    px, py = radius * torch.cos(folded), radius * torch.sin(folded).abs()
    tip, notch = (1.1, 0.0), (0.45 * math.cos(sector), 0.45 * math.sin(sector))
    ex, ey = notch[0] - tip[0], notch[1] - tip[1]
    length = math.hypot(ex, ey)
    return ((px - tip[0]) * -ey + (py - tip[1]) * ex) / -length


def _heart(x, y):
    x, y = x.abs(), -y + 0.1
    lobes = torch.hypot(x - 0.42, y - 0.3) - 0.52
    body = _half_planes(x, y, (0.77, -0.64, 0.72), (0, 1, 0.45))
    return torch.minimum(lobes, body)


def _arrow(x, y):
    head = _half_planes(x, y, (0, 1, -0.0), (0.74, -0.67, 0.64), (-0.74, -0.67, 0.64))
    return torch.minimum(head, _box(x, y - 0.4, 0.26, 0.55))


def _flower(x, y):
    return (torch.hypot(x, y) - 0.72 - 0.26 * torch.cos(5 * torch.atan2(y, x))) * 0.75


def _drop(x, y):
    body = torch.hypot(x, y - 0.3) - 0.62
    tip = _half_planes(x, y, (0.87, -0.5, 0.39), (-0.87, -0.5, 0.39), (0, 1, 0.0))
    return torch.minimum(body, tip)


_FUNCTIONS = {
    "disc": lambda x, y: _disc(x, y, 0.9),
    "square": lambda x, y: _box(x, y, 0.78, 0.78),
    "triangle": lambda x, y: _triangle(x, y - 0.15),
    "star": _star,
    "ring": lambda x, y: _disc(x, y, 0.68).abs() - 0.26,
    "cross": lambda x, y: torch.minimum(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95)),
    "heart": _heart,
    "moon": lambda x, y: torch.maximum(_disc(x, y, 0.95), -_disc(x - 0.5, y, 0.75)),
    "arrow": _arrow,
    "bar": lambda x, y: _box(x, y, 0.32, 1.0),
    "oval": lambda x, y: torch.hypot(x / 0.55, y) * 0.62 - 0.62,
    "drop": _drop,
    "flower": _flower,
    "tee": lambda x, y: torch.minimum(_box(x, y + 0.62, 0.85, 0.28), _box(x, y - 0.1, 0.28, 0.8)),
    "corner": lambda x, y: torch.minimum(_box(x + 0.5, y, 0.28, 0.85), _box(x, y - 0.57, 0.78, 0.28)),
    "dome": lambda x, y: torch.maximum(_disc(x, y - 0.45, 1.0), y - 0.45),
}
if tuple(_FUNCTIONS) != SHAPES:
    raise AssertionError("shapes.py and attributes.SHAPES disagree")


def signed_distance(shape: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Distance (M, P) of points x, y (M, P) to the outline of shape (M,), an index into SHAPES."""
    out = torch.empty_like(x)
    for index, function in enumerate(_FUNCTIONS.values()):
        rows = (shape == index).nonzero()[:, 0]
        if len(rows):
            out[rows] = function(x[rows], y[rows])
    return out
