"""Scenes chosen by rule, not by hand, for the figures that show pictures (Figures 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from elbo_core.datasets import open_dataset
from elbo_core.scene import Scene
from elbo_core.toy.world import STUFF_NAMES

SMALL, HIDDEN = 0.02, 0.5
"""Shares: of a picture that is little, and of a thing that is seen."""
STUFF = frozenset({*STUFF_NAMES, "sky", "wall", "floor", "ceiling", "road", "sidewalk", "mountain", "ground", "field"})
"""Names of what fills a background, in the embedded world and in Context and ADE20K."""


@dataclass(frozen=True)
class Chosen:
    """A scene with the rule that chose it, in words, and where it was found."""

    rule: str
    dataset: str
    index: int
    scene: Scene


def of_label(scene: Scene, name: str) -> np.ndarray:
    """Where a class is, bool [H, W]."""
    return scene.truth == scene.classes.index(name) + 1


def is_cut(scene: Scene, name: str) -> bool:
    """Whether a thing reaches the edge of the picture."""
    mask = of_label(scene, name)
    return name not in STUFF and bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def is_small(scene: Scene, name: str) -> bool:
    """Whether a thing covers less than `SMALL` of the picture."""
    return name not in STUFF and of_label(scene, name).mean() < SMALL


def is_stuff(scene: Scene, name: str) -> bool:
    """Whether a class fills a background."""
    return name in STUFF


def is_hidden(scene: Scene, name: str) -> bool:
    """Whether less than `HIDDEN` of a thing is seen; never, where that is not known."""
    known = dict(zip(scene.classes, scene.visible, strict=True)) if scene.visible else {}
    return known.get(name, 1.0) < HIDDEN


RULES: dict[str, Callable[[Scene, str], bool]] = {
    "cut by the edge": is_cut,
    "small": is_small,
    "stuff behind": is_stuff,
    "mostly hidden": is_hidden,
}
"""By their words: whether a class of a scene is such."""


def choose(
    datasets: Sequence[str], split: str, count: int, rules: Iterable[str] = RULES, most: int = 4, least: int = 2
) -> list[Chosen]:
    """For each rule the first scene, data set by data set in their order, of which a class meets it, that has `least`
    to `most` classes (any number, if no scene has so many) and that no rule before has taken. A rule that no scene
    meets is left out.

    count: so many scenes of each data set are looked at.

    Raises:
        ValueError: a rule is unknown.
    """
    unknown = [rule for rule in rules if rule not in RULES]
    if unknown:
        raise ValueError(f"unknown rule {unknown[0]!r}; known: {', '.join(RULES)}")
    sets = [(name, open_dataset(name, split, count)) for name in datasets]
    scenes = [(name, index, data.read(index)) for name, data in sets for index in range(len(data))]
    scenes = [found for found in scenes if least <= len(found[2].classes) <= most] or scenes
    chosen: list[Chosen] = []
    for rule in rules:
        taken = {(one.dataset, one.index) for one in chosen}
        free = (found for found in scenes if found[:2] not in taken)
        fitting = (found for found in free if any(RULES[rule](found[2], name) for name in found[2].classes))
        chosen += [Chosen(rule, *found) for found in [next(fitting, None)] if found]
    return chosen
