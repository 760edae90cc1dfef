"""Words for scenes: captions as people write them, varied, in random order, sometimes incomplete."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class CaptionStyle:
    """How people tell of pictures, as probabilities.

    incomplete: that a class is left out. stuff: that the stuff is told. stuff_alone: that it is then all that is told,
    as in "a photo of grass". names_only: that a caption is a plain list of class names. attribute: that a count, size
    or pattern is told, color: that a colour is. template: that a sentence starts with "a photo of".
    """

    incomplete: float = 0.15
    stuff: float = 0.6
    stuff_alone: float = STUFF_ALONE
    names_only: float = 0.5
    attribute: float = 0.6
    color: float = 0.6
    template: float = 0.7


VARIED = CaptionStyle()
COLORFUL = CaptionStyle(
    incomplete=0.03, stuff=0.5, stuff_alone=0.05, names_only=0.2, attribute=0.4, color=0.95, template=0.5
)
"""As captions vary, and with nearly every colour told, for a model that is to paint what it is told."""


def random_caption(rng: np.random.Generator, spec: SceneSpec, style: CaptionStyle = VARIED) -> str:
    """One of the many captions of a scene: plain lists of class names, or sentences with attributes."""
    things = groups(spec)
    kept = [group for group in things if rng.random() >= style.incomplete] or things[:1]
    kept = [kept[i] for i in rng.permutation(len(kept))]
    stuff = spec.stuff if rng.random() < style.stuff else ()
    if stuff and rng.random() < style.stuff_alone:
        kept = []
    if not kept or rng.random() < style.names_only:
        names = [group[0].name for group in kept] + list(stuff)
        return TEMPLATE.format(", ".join(names[i] for i in rng.permutation(len(names))))
    phrases = [phrase(group, _some_attributes(rng, style)) for group in kept]
    sentence = _join(phrases) + _place(stuff)
    return TEMPLATE.format(sentence) if rng.random() < style.template else sentence


def _some_attributes(rng: np.random.Generator, style: CaptionStyle) -> frozenset[str]:
    chances = {"count": style.attribute, "size": style.attribute, "pattern": style.attribute, "color": style.color}
    return frozenset(name for name, chance in chances.items() if rng.random() < chance)


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
