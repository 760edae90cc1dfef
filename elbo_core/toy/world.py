"""The embedded world: what a scene is made of, and how scenes are drawn at random.

A `SceneSpec` is the full recipe of a picture and everything that we later want to control (size, occlusion, count,
rarity) is one number in it. `render.render` turns it into pixels and exact masks, `captions.describe` into words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from elbo_core.toy.shapes import SHAPES
from elbo_core.toy.textures import COLORS, LOWER_STUFF, PATTERNS, STUFF, UPPER_STUFF

IMAGE_SIZE = 128
THINGS: tuple[str, ...] = tuple(SHAPES)
STUFF_NAMES: tuple[str, ...] = tuple(STUFF)
CLASSES: tuple[str, ...] = THINGS + STUFF_NAMES
"""Class names in label order: label k is CLASSES[k - 1], label 0 is background."""

CHARACTERISTIC_LOOK: dict[str, tuple[str, str]] = {
    "star": ("yellow", "plain"),
    "tree": ("green", "plain"),
    "ball": ("red", "striped"),
    "house": ("orange", "plain"),
    "fish": ("orange", "striped"),
    "heart": ("red", "plain"),
    "mushroom": ("red", "dotted"),
    "cup": ("white", "dotted"),
    "boat": ("brown", "plain"),
    "moon": ("gray", "plain"),
    "ring": ("yellow", "dotted"),
    "box": ("brown", "striped"),
    "flower": ("pink", "plain"),
    "key": ("gray", "striped"),
    "arrow": ("blue", "plain"),
    "bell": ("yellow", "striped"),
    "kite": ("purple", "plain"),
    "crown": ("purple", "dotted"),
    "cross": ("white", "plain"),
    "umbrella": ("blue", "dotted"),
}


def zipf(exponent: float = 1.3) -> np.ndarray:
    """Class probabilities [20], proportional to rank^-exponent in the order of `THINGS`; 0 makes them uniform."""
    weights = np.arange(1, len(THINGS) + 1) ** -exponent
    return weights / weights.sum()


@dataclass(frozen=True)
class Thing:
    """One object. Lengths in pixels of a 128x128 image; `rotation` in degrees; `stretch` is width over height."""

    name: str
    color: str
    pattern: str
    x: float
    y: float
    radius: float
    rotation: float = 0.0
    stretch: float = 1.0


@dataclass(frozen=True)
class SceneSpec:
    """`things` from back to front, one or two `stuff` from top to bottom, the horizon as a share of height."""

    things: tuple[Thing, ...]
    stuff: tuple[str, ...]
    horizon: float
    seed: int


@dataclass(frozen=True)
class SceneStyle:
    """What kind of scenes to draw. Ranges include both ends; radii are log-uniform in pixels.

    With `single_probability` a scene is a close-up of one class, its radius within `single_radius`.
    """

    n_classes: tuple[int, int] = (1, 4)
    radius: tuple[float, float] = (9.0, 38.0)
    n_stuff: tuple[int, int] = (1, 2)
    class_exponent: float = 1.3
    copies_probability: float = 0.15
    characteristic_probability: float = 0.75
    spacing: float = 0.85
    single_probability: float = 0.0
    single_radius: tuple[float, float] = (18.0, 44.0)


def sample_scene(rng: np.random.Generator, style: SceneStyle) -> SceneSpec:
    """Draw a scene. All randomness comes from `rng`; the scene's own textures from a seed drawn from it."""
    p = zipf(style.class_exponent)
    return compose_scene(rng, style, lambda count: rng.choice(THINGS, size=count, replace=False, p=p))


def compose_scene(rng: np.random.Generator, style: SceneStyle, draw_names: Callable[[int], Sequence[str]]) -> SceneSpec:
    """Draw a scene of the classes that `draw_names(count)` gives.

    What `rng` is asked for does not depend on their names: under other names the same `rng` gives the same layout, the
    same sizes and backgrounds, and the same decisions on who looks as its class usually does.
    """
    seed = int(rng.integers(2**31))
    n_classes = int(rng.integers(style.n_classes[0], style.n_classes[1] + 1))
    if rng.random() < style.single_probability:
        n_classes, style = 1, replace(style, radius=style.single_radius)
    things: list[Thing] = []
    for name in draw_names(n_classes):
        things += _sample_copies(rng, style, str(name), things)
    order = rng.permutation(len(things))
    stuff = _sample_stuff(rng, int(rng.integers(style.n_stuff[0], style.n_stuff[1] + 1)))
    return SceneSpec(tuple(things[i] for i in order), stuff, float(rng.uniform(0.35, 0.65)), seed)


def _sample_stuff(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    if count == 1:
        return (str(rng.choice(STUFF_NAMES)),)
    return (str(rng.choice(UPPER_STUFF)), str(rng.choice(LOWER_STUFF)))


def _sample_copies(rng: np.random.Generator, style: SceneStyle, name: str, others: list[Thing]) -> list[Thing]:
    """One object of class `name`, or two or three of the same look and size, placed away from the `others`."""
    copies = int(rng.integers(2, 4)) if rng.random() < style.copies_probability else 1
    color, pattern = _sample_look(rng, style, name)
    low, high = np.log(style.radius)
    radius = float(np.exp(rng.uniform(low, high))) * (1.0 if copies == 1 else 0.75)
    placed: list[Thing] = []
    for _ in range(copies):
        x, y = _sample_place(rng, radius, style.spacing, others + placed)
        rotation, stretch = float(rng.normal(0, 12)), float(np.exp(rng.normal(0, 0.08)))
        placed.append(Thing(name, color, pattern, x, y, radius, rotation, stretch))
    return placed


def _sample_look(rng: np.random.Generator, style: SceneStyle, name: str) -> tuple[str, str]:
    if rng.random() < style.characteristic_probability:
        return CHARACTERISTIC_LOOK[name]
    return str(rng.choice(tuple(COLORS))), str(rng.choice(PATTERNS))


def _sample_place(
    rng: np.random.Generator, radius: float, spacing: float, others: list[Thing], tries: int = 24
) -> tuple[float, float]:
    """A centre whose distance to each other thing is at least `spacing` times the sum of radii, if one is found."""
    low, high = 0.8 * radius, IMAGE_SIZE - 0.8 * radius
    for _ in range(tries):
        x, y = rng.uniform(low, high, size=2)
        if all(np.hypot(x - o.x, y - o.y) >= spacing * (radius + o.radius) for o in others):
            break
    return float(x), float(y)
