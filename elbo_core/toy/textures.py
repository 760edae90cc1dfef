"""Six stuff classes as procedural textures, and the patterns that objects wear. Arrays are float RGB in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 45, 48),
    "orange": (243, 138, 38),
    "yellow": (250, 213, 56),
    "green": (58, 153, 70),
    "blue": (52, 104, 205),
    "purple": (134, 72, 168),
    "pink": (246, 148, 190),
    "brown": (140, 92, 56),
    "gray": (140, 145, 152),
    "white": (246, 246, 242),
}
PATTERNS = ("plain", "striped", "dotted")


def noise(rng: np.random.Generator, size: int, cells: int | tuple[int, int]) -> np.ndarray:
    """Smooth noise [size, size] in about [0, 1]: a random grid of `cells` (x, y) enlarged bicubically."""
    columns, rows = (cells, cells) if isinstance(cells, int) else cells
    grid = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def _tint(base: tuple[int, int, int], light: np.ndarray) -> np.ndarray:
    """The colour `base` (0..255) under a brightness field `light` [H, W]."""
    return np.array(base) / 255 * light[..., None]


def grass(rng: np.random.Generator, size: int) -> np.ndarray:
    blades = noise(rng, size, (size // 2, size // 8))
    return _tint((104, 158, 66), 0.72 + 0.34 * blades + 0.14 * noise(rng, size, 5))


def sand(rng: np.random.Generator, size: int) -> np.ndarray:
    grains = noise(rng, size, size // 2)
    return _tint((228, 198, 142), 0.86 + 0.12 * grains + 0.1 * noise(rng, size, (4, 10)))


def water(rng: np.random.Generator, size: int) -> np.ndarray:
    y = np.arange(size)[:, None]
    ripples = np.sin(2 * np.pi * (y / 9 + 1.6 * noise(rng, size, (5, 7))))
    return _tint((42, 122, 178), 0.92 + 0.16 * ripples)


def brick(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    row = (y + rng.integers(12)) // 12
    column = (x + 12 * (row % 2) + rng.integers(24)) // 24
    tone = 0.82 + 0.3 * rng.random((size, size))[row % size, column % size]
    mortar = ((y + 12 * size) % 12 == 0) | ((x + 12 * (row % 2)) % 24 == 0)
    wall = _tint((172, 88, 68), tone + 0.06 * noise(rng, size, size // 2))
    return np.where(mortar[..., None], np.array([0.78, 0.74, 0.7]), wall)


def sky(rng: np.random.Generator, size: int) -> np.ndarray:
    height = np.linspace(0, 1, size)[:, None, None]
    blue = (1 - height) * np.array([0.42, 0.68, 0.94]) + height * np.array([0.74, 0.88, 0.98])
    cloud = np.clip(1.7 * noise(rng, size, (4, 7)) * noise(rng, size, (8, 12)) - 0.45, 0, 0.8)[..., None]
    return blue * (1 - cloud) + cloud


def snow(rng: np.random.Generator, size: int) -> np.ndarray:
    drifts = noise(rng, size, (3, 7))[..., None]
    shadow = np.array([0.80, 0.86, 0.94])
    sparkle = 0.05 * (noise(rng, size, size // 2)[..., None] - 0.5)
    return shadow + (np.array([0.97, 0.98, 1.0]) - shadow) * np.clip(drifts * 1.4, 0, 1) + sparkle


STUFF: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    texture.__name__: texture for texture in (grass, sand, water, brick, sky, snow)
}
UPPER_STUFF, LOWER_STUFF = ("sky", "brick"), ("grass", "sand", "water", "snow")


def paint(color: str, pattern: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """An object's surface [H, W, 3]: its colour with its pattern, lit from the upper left.

    `u`, `v` [H, W] are the object's own coordinates in [-1, 1], so stripes turn and scale with it.
    """
    base = np.array(COLORS[color]) / 255
    mark = base * 0.45 if base.mean() > 0.45 else base * 0.4 + 0.6
    if pattern == "striped":
        marked = np.mod(v * 2.6 + 0.25, 1) < 0.4
    elif pattern == "dotted":
        marked = (np.mod(u * 2.3, 1) - 0.5) ** 2 + (np.mod(v * 2.3, 1) - 0.5) ** 2 < 0.075
    else:
        marked = np.zeros(u.shape, dtype=bool)
    light = 1.0 - 0.16 * (u + v)
    return np.where(marked[..., None], mark, base) * light[..., None]
