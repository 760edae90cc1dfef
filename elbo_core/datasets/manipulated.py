"""Scenes in which one thing at a time is turned, as in the paper's Figure 1, and portraits of every class.

A base scene holds a target and one thing of another class. Each manipulation changes one number of it in five steps:
the target's size, the share of it that the other thing hides, how many copies of the other thing stand around, or how
rare the target's class was in training. All else is the same to the pixel, and so is the noise that the model sees,
because the levels of a base scene share the id that names it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from elbo_core.checks import check_whole
from elbo_core.datasets.dataset import Dataset, check_position
from elbo_core.datasets.toy import toy_scene
from elbo_core.toy.render import render
from elbo_core.toy.world import CHARACTERISTIC_LOOK, STUFF_NAMES, THINGS, SceneSpec, Thing, zipf

MANIPULATED, PORTRAITS = "toy-manipulated", "toy-portraits"
SPLIT_SEEDS = {"dev": 65, "test": 66}
COMPACT = ("ball", "house", "box", "flower")
"""Things that hide what they stand in front of; as many of them are frequent as are rare."""
TARGET_RADIUS, OTHER_RADIUS, COPY_RADIUS = 24.0, 26.0, 12.0
CORNER, JITTER = 28, 3
SLOTS = ((40, -40), (20, -20), (-40, 40), (-20, 20))
"""Where copies stand, from the middle, when the target is up left and the other thing down right."""
SLIDE = 40
"""The other thing comes to lie in front of the target in so many steps."""

LEVELS: dict[str, tuple[float, ...]] = {
    "size": (34.0, 24.0, 17.0, 12.0, 8.5),
    "occlusion": (0.0, 0.2, 0.4, 0.6, 0.8),
    "crowd": (0, 1, 2, 3, 4),
    "rarity": (0, 1, 2, 3, 4),
}
"""By manipulation, from what should be easiest to what should be hardest: the target's radius in pixels, the share of
it that is hidden, the number of copies, and which fifth of the classes the target is from, by training frequency."""


@dataclass(frozen=True)
class Base:
    """A base scene: target and other thing, places for copies of the latter, and the ground."""

    index: int
    target: Thing
    other: Thing
    slots: tuple[tuple[float, float], ...]
    stuff: tuple[str, ...]
    horizon: float
    seed: int

    def scene(self, target: Thing, *others: Thing) -> SceneSpec:
        """The target behind some things, on the base's ground."""
        return SceneSpec((target, *others), self.stuff, self.horizon, self.seed)


@dataclass(frozen=True)
class Variant:
    """One picture. base: of which base scene. manipulation, level: what was turned, and which of its levels this is.
    amount: in the manipulation's own unit; of rarity the training frequency. target: the class that is asked about."""

    base: int
    manipulation: str
    level: int
    amount: float
    target: str
    spec: SceneSpec


def base_scene(split: str, index: int) -> Base:
    """Base scene `index`, always the same; of twenty in a row each class is the target once.

    Raises:
        TypeError, ValueError: unknown split, or an index below zero.
    """
    check_whole(index, "the number of a base scene", 0)
    if split not in SPLIT_SEEDS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLIT_SEEDS)}")
    rng = np.random.default_rng([SPLIT_SEEDS[split], index])
    flip = rng.choice([-1, 1], size=2)
    jitter = rng.integers(-JITTER, JITTER + 1, size=2)
    places = [64 + flip * np.array(place) + jitter for place in ((-CORNER, -CORNER), (CORNER, CORNER), *SLOTS)]
    (x, y), (other_x, other_y), *slots = [(float(x), float(y)) for x, y in places]
    turns = rng.normal(0, 12, size=2)
    name = THINGS[index % len(THINGS)]
    target = dressed(Thing(name, "", "", x, y, TARGET_RADIUS, float(turns[0])), name)
    other = _other_than(COMPACT[(index // 5) % len(COMPACT)], name)
    thing = dressed(Thing(other, "", "", other_x, other_y, OTHER_RADIUS, float(turns[1])), other)
    stuff = (str(rng.choice(STUFF_NAMES)),)
    return Base(index, target, thing, tuple(slots), stuff, float(rng.uniform(0.35, 0.65)), int(rng.integers(2**31)))


def dressed(thing: Thing, name: str) -> Thing:
    """The thing as one of another class, in the look that this class usually has."""
    color, pattern = CHARACTERISTIC_LOOK[name]
    return replace(thing, name=name, color=color, pattern=pattern)


def _other_than(name: str, target: str, among: Sequence[str] = COMPACT) -> str:
    return name if name != target else among[(among.index(name) + 1) % len(among)]


def with_radius(base: Base, radius: float) -> SceneSpec:
    """The target in another size."""
    return base.scene(replace(base.target, radius=radius), base.other)


def resized(base: Base, level: int) -> SceneSpec:
    return with_radius(base, LEVELS["size"][level])


def occluded(base: Base, level: int) -> SceneSpec:
    """The other thing has slid towards the target until it hides as much of it as the level says."""
    return base.scene(base.target, _slid(base)[level])


@functools.lru_cache(maxsize=64)
def _slid(base: Base) -> tuple[Thing, ...]:
    """The other thing at each level of occlusion."""
    target, other = (render(base.scene(thing)).instances > 0 for thing in (base.target, base.other))
    places = [slid(base, k / SLIDE) for k in range(SLIDE + 1)]
    shifts = [(int(place.y - base.other.y), int(place.x - base.other.x)) for place in places]
    hidden = np.array([(target & np.roll(other, shift, axis=(0, 1))).sum() / target.sum() for shift in shifts])
    return tuple(places[int(np.abs(hidden - share).argmin())] for share in LEVELS["occlusion"])


def slid(base: Base, way: float) -> Thing:
    """The other thing after a part of its way to the target, in whole pixels, so that its shape stays the same."""
    across, down = (round(way * distance) for distance in (base.target.x - base.other.x, base.target.y - base.other.y))
    return replace(base.other, x=base.other.x + across, y=base.other.y + down)


def crowded(base: Base, level: int) -> SceneSpec:
    """With copies of the other thing, each half its size."""
    copies = [replace(base.other, x=x, y=y, radius=COPY_RADIUS) for x, y in base.slots[:level]]
    return base.scene(base.target, base.other, *copies)


def made_rare(base: Base, level: int) -> SceneSpec:
    """The target replaced by a class of another frequency, which looks as that class usually does."""
    fifth = THINGS[4 * level : 4 * level + 4]
    name = _other_than(fifth[base.index % 4], base.other.name, fifth)
    return base.scene(dressed(base.target, name), base.other)


MANIPULATIONS: dict[str, Callable[[Base, int], SceneSpec]] = {
    "size": resized,
    "occlusion": occluded,
    "crowd": crowded,
    "rarity": made_rare,
}
"""By name; each takes a base scene and a level of `LEVELS`."""


def manipulated_variants(bases: int, split: str = "test") -> list[Variant]:
    """All levels of all manipulations of the first base scenes, one base scene after another."""
    return [
        _variant(base_scene(split, index), manipulation, level)
        for index in range(check_whole(bases, "the number of base scenes"))
        for manipulation in MANIPULATIONS
        for level in range(len(LEVELS[manipulation]))
    ]


def _variant(base: Base, manipulation: str, level: int) -> Variant:
    spec = MANIPULATIONS[manipulation](base, level)
    target = spec.things[0].name
    rare = manipulation == "rarity"
    amount = zipf()[THINGS.index(target)] if rare else LEVELS[manipulation][level]
    return Variant(base.index, manipulation, level, float(amount), target, spec)


def portrait_variants(layouts: int, classes: Sequence[str] = THINGS, split: str = "test") -> list[Variant]:
    """Every class in the same layouts, with the same other thing and a small third one: what differs is the class.

    Of rarity, each class is a level of its own.

    Raises:
        ValueError: an unknown class.
    """
    unknown = sorted(set(classes) - set(THINGS))
    if unknown:
        raise ValueError(f"unknown classes {unknown}; known: {', '.join(THINGS)}")
    return [
        _portrait(base_scene(split, index), name)
        for index in range(check_whole(layouts, "the number of layouts"))
        for name in classes
    ]


def _portrait(base: Base, name: str) -> Variant:
    start = base.index % len(COMPACT)
    other, third = [thing for thing in COMPACT[start:] + COMPACT[:start] if thing != name][:2]
    x, y = base.slots[0]
    small = dressed(replace(base.other, x=x, y=y, radius=COPY_RADIUS), third)
    spec = base.scene(dressed(base.target, name), dressed(base.other, other), small)
    rank = THINGS.index(name)
    return Variant(base.index, "class", rank, float(zipf()[rank]), name, spec)


def variant_dataset(name: str, variants: Sequence[Variant], split: str = "test") -> Dataset:
    """Variants as a data set of things. The id of a scene is that of its base: all levels get the same noise."""

    def read(index: int):
        variant = variants[check_position(index, len(variants))]
        return toy_scene(render(variant.spec), f"{name}/{split}/{variant.base}")

    def fingerprints() -> list[str]:
        return [hashlib.sha256(f"{look()} {name} {variant!r}".encode()).hexdigest()[:16] for variant in variants]

    return Dataset(name, split, THINGS, len(variants), fingerprints, read)


@functools.cache
def look() -> str:
    """A hash of how every thing and every ground is drawn, so that a variant need not be drawn to be named."""
    digest = hashlib.sha256()
    for k, (name, usual) in enumerate(CHARACTERISTIC_LOOK.items()):
        ground = STUFF_NAMES[k % len(STUFF_NAMES)]
        rendering = render(SceneSpec((Thing(name, *usual, 64, 64, 40),), (ground,), 0.5, k))
        digest.update(rendering.image.tobytes() + rendering.instances.tobytes())
    return digest.hexdigest()[:16]
