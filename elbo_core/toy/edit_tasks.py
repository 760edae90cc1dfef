"""Edits of the embedded world whose success can be told: what a picture shows, what its text becomes, what is wanted.

Every source has two things, so that their scores differ, and two edits of one text. Four kinds: another thing ("swap"),
another colour ("colour"), a colour where none was told ("addition"), more weight on a colour that is told ("emphasis").
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from elbo_core.generation.prompt2prompt import Edit
from elbo_core.toy.describe import PLACES
from elbo_core.toy.textures import COLORS
from elbo_core.toy.world import CHARACTERISTIC_LOOK, STUFF_NAMES, THINGS, SceneSpec, Thing, zipf

KINDS = ("swap", "colour", "addition", "emphasis")
SEED = 71
"""Of the scenes; training and the held-out sets have others."""
EMPHASIS = 3.0
"""The weight on an emphasised word, one of the original's examples."""


Look = tuple[str | None, str]
"""A colour, or None for any, and a thing."""


@dataclass(frozen=True)
class Task:
    """An edit to be judged.

    kind: one of `KINDS`. target: the edited text. words, weights: as of `Edit`. subject: the position of the edited
    thing in the scene. wanted: the colour and the thing that are to appear. kept: those of the other thing.
    """

    kind: str
    target: str
    words: str
    weights: tuple[tuple[str, float], ...]
    subject: int
    wanted: tuple[str, str]
    kept: Look

    def edit(self, **settings) -> Edit:
        """The edit, with further settings."""
        return Edit(self.target, self.words, self.weights, **settings)


@dataclass(frozen=True)
class Source:
    """A scene with two things, its text, the phrases and looks of the things in it, and two edits."""

    id: str
    spec: SceneSpec
    text: str
    phrases: tuple[str, str]
    looks: tuple[Look, Look]
    tasks: tuple[Task, Task]


def edit_sources(count: int) -> list[Source]:
    """The first `count` sources, always the same: swap and colour in turns with addition and emphasis."""
    return [_source(index) for index in range(count)]


def _source(index: int) -> Source:
    rng = np.random.default_rng([SEED, index])
    spec, spare_thing, spare_color = _scene(rng)
    return _exchange(index, spec, spare_thing, spare_color) if index % 2 == 0 else _telling(index, spec, spare_color)


def _scene(rng: np.random.Generator) -> tuple[SceneSpec, str, str]:
    """Two things side by side in two colours, and a thing and a colour that are not there."""
    names = [str(name) for name in rng.choice(THINGS, size=3, replace=False, p=zipf(0.6))]
    colors = [str(color) for color in rng.choice(list(COLORS), size=3, replace=False)]
    places = zip(names, colors, (rng.uniform(34, 42), rng.uniform(86, 94)), strict=False)
    things = tuple(
        Thing(name, color, "plain", float(x), float(rng.uniform(50, 84)), float(rng.uniform(20, 28)))
        for name, color, x in places
    )
    return SceneSpec(things, (str(rng.choice(STUFF_NAMES)),), 0.5, int(rng.integers(2**31))), names[2], colors[2]


def _exchange(index: int, spec: SceneSpec, thing: str, color: str) -> Source:
    """One thing becomes another one, of the same colour; the other gets another colour."""
    first, second = spec.things
    phrases = (phrase(first.color, first.name), phrase(second.color, second.name))
    swapped = (phrase(first.color, thing), phrases[1])
    colored = (phrases[0], phrase(color, second.name))
    looks = ((first.color, first.name), (second.color, second.name))
    tasks = (
        Task("swap", text_of(swapped, spec), "replace", (), 0, (first.color, thing), looks[1]),
        Task("colour", text_of(colored, spec), "replace", (), 1, (color, second.name), looks[0]),
    )
    return Source(f"edit/{index}", spec, text_of(phrases, spec), phrases, looks, tasks)


def _telling(index: int, spec: SceneSpec, color: str) -> Source:
    """The first thing's colour, not told before, is told, and is another one; the second one's is emphasised."""
    first, second = spec.things
    first = replace(first, color=CHARACTERISTIC_LOOK[first.name][0])
    color = next(name for name in (color, *COLORS) if name not in (first.color, second.color))
    spec = replace(spec, things=(first, second))
    phrases = (phrase("", first.name), phrase(second.color, second.name))
    told, text = (phrase(color, first.name), phrases[1]), text_of(phrases, spec)
    weight = ((f"{second.color} {second.name}", EMPHASIS),)
    looks = ((None, first.name), (second.color, second.name))
    tasks = (
        Task("addition", text_of(told, spec), "refine", (), 0, (color, first.name), looks[1]),
        Task("emphasis", text, "replace", weight, 1, (second.color, second.name), looks[0]),
    )
    return Source(f"edit/{index}", spec, text, phrases, looks, tasks)


def phrase(color: str, name: str) -> str:
    """ "a red star", "an orange box"; without a colour "a star"."""
    words = f"{color} {name}".strip()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def text_of(phrases: tuple[str, str], spec: SceneSpec) -> str:
    """ "a photo of a red star and a blue boat on grass"."""
    return f"a photo of {phrases[0]} and {phrases[1]} {PLACES[spec.stuff[0]]}"
