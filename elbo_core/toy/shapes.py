"""Twenty silhouettes, drawn as polygons in a unit square.

A shape is a tuple of `Part`s in painting order. Coordinates run from -1 to 1, x to the right and y **down**, as
in an image. A `hole` removes what earlier parts painted, so a ring is a disc and a hole. Everything that a part
paints belongs to the object's mask; only its paint differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Paint = Literal["body", "shade", "accent", "hole"]


@dataclass(frozen=True)
class Part:
    """One polygon: `points` [P, 2] and how it is painted (the object's colour, a darker tone of it, a fixed accent)."""

    points: np.ndarray
    paint: Paint = "body"


Shape = tuple[Part, ...]
ShapeTable = Mapping[str, Callable[[], Shape]]


def _points(*xy: tuple[float, float]) -> np.ndarray:
    return np.array(xy, dtype=np.float64)


def _ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> np.ndarray:
    """Points [P, 2] on an ellipse, angles in degrees, clockwise from the positive x axis (y points down)."""
    angle = np.radians(np.linspace(start, stop, 48))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return _points((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def star() -> Shape:
    angle = np.radians(-90 + 36 * np.arange(10))
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return (Part(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)),)


def ball() -> Shape:
    seam = np.concatenate([_ellipse(-1.25, 0, 1.12, 1.12, -42, 42), _ellipse(-1.25, 0, 1.0, 1.0, 48, -48)])
    return (Part(_ellipse(0, 0, 0.9, 0.9)), Part(seam, "shade"), Part(-seam, "shade"))


def tree() -> Shape:
    tiers = [_points((0, y), (w, y + 0.75), (-w, y + 0.75)) for y, w in ((-1.0, 0.5), (-0.6, 0.68), (-0.15, 0.85))]
    return (Part(_rectangle(-0.16, 0.5, 0.16, 1.0), "accent"), *(Part(tier) for tier in reversed(tiers)))


def house() -> Shape:
    return (
        Part(_rectangle(-0.72, -0.1, 0.72, 0.9)),
        Part(_points((0, -0.95), (1.0, -0.05), (-1.0, -0.05)), "shade"),
        Part(_rectangle(-0.2, 0.3, 0.2, 0.9), "accent"),
    )


def fish() -> Shape:
    return (
        Part(_points((0.35, 0), (1.0, -0.6), (0.85, 0), (1.0, 0.6)), "shade"),
        Part(_ellipse(-0.2, 0, 0.8, 0.5)),
        Part(_ellipse(-0.62, -0.12, 0.1, 0.1), "accent"),
    )


def heart() -> Shape:
    t = np.linspace(0, 2 * np.pi, 64)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return (Part(np.stack([x / 17, (y + 2.5) / 16], axis=1)),)


def mushroom() -> Shape:
    cap = np.concatenate([_ellipse(0, 0.05, 0.95, 0.95, 180, 360), _ellipse(0, 0.05, 0.95, 0.18, 0, 180)])
    return (Part(np.array([(-0.25, 0.1), (0.25, 0.1), (0.34, 0.95), (-0.34, 0.95)]), "accent"), Part(cap))


def cup() -> Shape:
    return (
        Part(_ellipse(0.55, 0.0, 0.42, 0.42)),
        Part(_ellipse(0.58, 0.0, 0.2, 0.22), "hole"),
        Part(_points((-0.8, -0.7), (0.55, -0.7), (0.38, 0.8), (-0.63, 0.8))),
        Part(_ellipse(-0.125, -0.7, 0.675, 0.16), "shade"),
    )


def boat() -> Shape:
    return (
        Part(_rectangle(-0.06, -1.0, 0.06, 0.4), "accent"),
        Part(_points((0.1, -0.95), (0.85, 0.25), (0.1, 0.25)), "accent"),
        Part(_points((-0.1, -0.75), (-0.65, 0.25), (-0.1, 0.25)), "accent"),
        Part(_points((-1.0, 0.35), (1.0, 0.35), (0.62, 0.9), (-0.62, 0.9))),
    )


def moon() -> Shape:
    outer = _ellipse(0, 0, 0.95, 0.95, 50, 310)
    inner = _ellipse(0.42, 0, 0.75, 0.75, 284, 76)
    return (Part(np.concatenate([outer, inner])),)


def ring() -> Shape:
    return (Part(_ellipse(0, 0, 0.95, 0.95)), Part(_ellipse(0, 0, 0.5, 0.5), "hole"))


def box() -> Shape:
    return (
        Part(_points((-0.8, -0.35), (-0.4, -0.8), (0.95, -0.8), (0.55, -0.35))),
        Part(_points((0.55, -0.35), (0.95, -0.8), (0.95, 0.4), (0.55, 0.85)), "shade"),
        Part(_rectangle(-0.8, -0.35, 0.55, 0.85)),
    )


def flower() -> Shape:
    angle = np.radians(np.arange(6) * 60)
    petals = tuple(Part(_ellipse(0.58 * np.cos(a), 0.58 * np.sin(a), 0.37, 0.37)) for a in angle)
    return (*petals, Part(_ellipse(0, 0, 0.34, 0.34), "accent"))


def key() -> Shape:
    return (
        Part(_rectangle(-0.3, -0.13, 1.0, 0.13)),
        Part(_rectangle(0.5, 0.1, 0.66, 0.5)),
        Part(_rectangle(0.8, 0.1, 0.98, 0.42)),
        Part(_ellipse(-0.52, 0, 0.46, 0.46)),
        Part(_ellipse(-0.56, 0, 0.18, 0.18), "hole"),
    )


def arrow() -> Shape:
    shaft_and_head = ((-1, -0.24), (0.1, -0.24), (0.1, -0.7), (1, 0), (0.1, 0.7), (0.1, 0.24), (-1, 0.24))
    return (Part(_points(*shaft_and_head)),)


def bell() -> Shape:
    side = [(-0.3, -0.55), (-0.45, 0.0), (-0.55, 0.3), (-0.9, 0.6)]
    outline = [*side, *((-x, y) for x, y in reversed(side))]
    dome = _ellipse(0, -0.55, 0.3, 0.4, 360, 180)
    return (
        Part(_ellipse(0, 0.68, 0.22, 0.22), "accent"),
        Part(np.concatenate([np.array(outline), dome])),
        Part(_rectangle(-0.9, 0.48, 0.9, 0.64), "shade"),
    )


def kite() -> Shape:
    return (
        Part(_points((0, -1.0), (0.68, -0.25), (0, 0.72), (-0.68, -0.25))),
        Part(_points((0, -1.0), (0.68, -0.25), (0, -0.25)), "shade"),
        Part(_points((0, -0.25), (0, 0.72), (-0.68, -0.25)), "shade"),
        Part(_points((0, 0.7), (0.26, 0.86), (0, 0.86), (0.26, 1.0), (-0.26, 1.0), (0, 0.84), (-0.26, 0.84)), "accent"),
    )


def crown() -> Shape:
    spikes = ((-0.9, 0.7), (-1, -0.55), (-0.48, 0.05), (0, -0.8), (0.48, 0.05), (1, -0.55), (0.9, 0.7))
    return (Part(_points(*spikes)), Part(_rectangle(-0.9, 0.42, 0.9, 0.7), "shade"))


def cross() -> Shape:
    a, b = 0.32, 0.92
    corners = (
        (-a, -b),
        (a, -b),
        (a, -a),
        (b, -a),
        (b, a),
        (a, a),
        (a, b),
        (-a, b),
        (-a, a),
        (-b, a),
        (-b, -a),
        (-a, -a),
    )
    return (Part(_points(*corners)),)


def umbrella() -> Shape:
    scallops = np.concatenate([_ellipse(cx, 0.02, 0.317, 0.2, 360, 180) for cx in (0.633, 0.0, -0.633)])
    canopy = np.concatenate([_ellipse(0, 0.02, 0.95, 0.95, 180, 360), scallops])
    hook = np.concatenate([_ellipse(0.2, 0.7, 0.26, 0.28, 180, 0), _ellipse(0.2, 0.7, 0.13, 0.14, 0, 180)])
    return (Part(_rectangle(-0.06, -0.1, 0.07, 0.75), "accent"), Part(hook, "accent"), Part(canopy))


SHAPES: dict[str, Callable[[], Shape]] = {
    shape.__name__: shape
    for shape in (
        star, tree, ball, house, fish, heart, mushroom, cup, boat, moon,
        ring, box, flower, key, arrow, bell, kite, crown, cross, umbrella,
    )
}  # fmt: skip
"""Shapes by class name, in the order of their training frequency (most frequent first)."""
