"""Words for scenes: captions as people write them, varied, in random order, sometimes incomplete."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from elbo_core.captions import TEMPLATE
from elbo_core.toy.textures import COLORS, PATTERNS
from elbo_core.toy.world import CLASSES, STUFF_NAMES, THINGS, SceneSpec, Thing

PLACES = {
    "grass": "on grass",
    "sand": "on sand",
    "water": "on water",
    "brick": "in front of brick",
    "sky": "in the sky",
    "snow": "on snow",
}
COUNTS = {1: "a", 2: "two", 3: "three"}
STUFF_ALONE = 0.15
SMALL, LARGE = 13.0, 28.0
"""Radii in pixels: things below the first may be called small, above the second large."""


def plural(name: str) -> str:
    if name == "fish":
        return name
    return name + ("es" if name.endswith(("s", "x", "sh")) else "s")


def class_names(spec: SceneSpec) -> list[str]:
    """The distinct classes of a scene, in label order: things, then stuff."""
    present = {thing.name for thing in spec.things} | set(spec.stuff)
    return [name for name in CLASSES if name in present]


def groups(spec: SceneSpec) -> list[list[Thing]]:
    """The things of each class together, in label order."""
    by_label = sorted(spec.things, key=lambda thing: THINGS.index(thing.name))
    return [list(group) for _, group in groupby(by_label, key=lambda thing: thing.name)]


def phrase(group: list[Thing], attributes: frozenset[str] = frozenset({"count", "size", "pattern", "color"})) -> str:
    """A noun phrase for things of one class and look, e.g. "two small striped red stars"."""
    first = group[0]
    words = []
    if "size" in attributes and first.radius < SMALL:
        words.append("small")
    if "size" in attributes and first.radius > LARGE:
        words.append("large")
    if "pattern" in attributes and first.pattern != "plain":
        words.append(first.pattern)
    if "color" in attributes:
        words.append(first.color)
    several = "count" in attributes and len(group) > 1
    words.append(plural(first.name) if several else first.name)
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([COUNTS[len(group)] if several else article, *words])


def attributed_caption(spec: SceneSpec) -> str:
    """The complete caption with all attributes, e.g. "a photo of a small red star and two boats on water"."""
    return TEMPLATE.format(_join([phrase(group) for group in groups(spec)]) + _place(spec.stuff))


def random_caption(rng: np.random.Generator, spec: SceneSpec, incomplete: float = 0.15) -> str:
    """One of the many captions of a scene: half of them plain lists of class names, half sentences with attributes.

    Now and then a caption names the stuff alone, as "a photo of grass" does.
    """
    things = groups(spec)
    kept = [group for group in things if rng.random() >= incomplete] or things[:1]
    kept = [kept[i] for i in rng.permutation(len(kept))]
    stuff = spec.stuff if rng.random() < 0.6 else ()
    if stuff and rng.random() < STUFF_ALONE:
        kept = []
    if not kept or rng.random() < 0.5:
        names = [group[0].name for group in kept] + list(stuff)
        return TEMPLATE.format(", ".join(names[i] for i in rng.permutation(len(names))))
    phrases = [phrase(group, _some_attributes(rng)) for group in kept]
    sentence = _join(phrases) + _place(stuff)
    return TEMPLATE.format(sentence) if rng.random() < 0.7 else sentence


def _some_attributes(rng: np.random.Generator) -> frozenset[str]:
    return frozenset(name for name in ("count", "size", "pattern", "color") if rng.random() < 0.6)


def _join(phrases: list[str]) -> str:
    if len(phrases) < 2:
        return "".join(phrases)
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _place(stuff: tuple[str, ...]) -> str:
    return " and".join(f" {PLACES[name]}" for name in stuff)


def vocabulary_corpus() -> list[str]:
    """Sentences that contain every word that captions use; the tokenizer is trained on them."""
    words = [*THINGS, *map(plural, THINGS), *STUFF_NAMES, *COLORS, *PATTERNS, *COUNTS.values()]
    words += ["an", "small", "large", "and", "photo", "of", "the", "in", "on", "front", ","]
    return [TEMPLATE.format(word) for word in words]
