"""The prompt sets of Table V in miniature: the rules of A&E, DVMP and ABC-6K over the words of the embedded world.

What differs from the originals: prompts are shuffled, so that the first so many are a fair sample of all; an attribute
stands where the embedded world's captions have it, the pattern before the colour; and a prompt never names one thing
twice, since no judge could tell which of two stars is the red one.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TypeAlias

import numpy as np

from elbo_core.toy.describe import PLACES
from elbo_core.toy.textures import COLORS, PATTERNS
from elbo_core.toy.world import THINGS

Generator: TypeAlias = np.random.Generator
COMMON, RARE = THINGS[:10], THINGS[10:]
"""Common things stand for the animals of A&E, which have no colour; rare ones for its objects, which have one."""
DVMP_COUNT, ABC_PAIRS = 200, 100
COLOR_PROBABILITY = 1 / 3
PLACE_PROBABILITY, SENTENCE_PROBABILITY = 0.5, 0.5
"""How often a prompt of toy-abc says where the things are, and begins as a caption does."""


def article(words: str) -> str:
    """The words with their indefinite article."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def draw_toy_ae(rng: Generator, _: Path | None = None) -> list[str]:
    """All 190 pairs: of common things, of a common and a rare one, of rare ones, shuffled."""
    plain = [f"{article(one)} and {article(two)}" for one, two in itertools.combinations(COMMON, 2)]
    mixed = [f"{article(one)} and {_colored(rng, two)}" for one, two in itertools.product(COMMON, RARE)]
    colored = [f"{_colored(rng, one)} and {_colored(rng, two)}" for one, two in itertools.combinations(RARE, 2)]
    return rng.permutation([*plain, *mixed, *colored]).tolist()


def _colored(rng: Generator, thing: str) -> str:
    return article(f"{rng.choice(tuple(COLORS))} {thing}")


def draw_toy_dvmp(rng: Generator, _: Path | None = None) -> list[str]:
    """Distinct prompts of one to three things, each with a pattern or not, and a colour in a third of the cases; one
    without either is drawn again."""
    prompts: dict[str, None] = {}
    while len(prompts) < DVMP_COUNT:
        things = rng.choice(THINGS, rng.integers(1, 4), replace=False)
        prompts[" and ".join(_described(rng, str(thing)) for thing in things)] = None
    return list(prompts)


def _described(rng: Generator, thing: str) -> str:
    words: list[str] = []
    while not words:
        words = rng.choice(PATTERNS[1:], rng.integers(2), replace=False).tolist()
        if rng.random() < COLOR_PROBABILITY:
            words.append(str(rng.choice(tuple(COLORS))))
    return article(" ".join([*words, thing]))


def draw_toy_abc(rng: Generator, _: Path | None = None) -> list[str]:
    """Pairs of prompts one after the other, of which the second has the colours of the two things exchanged."""
    return [prompt for _ in range(ABC_PAIRS) for prompt in _swapped_pair(rng)]


def _swapped_pair(rng: Generator) -> tuple[str, str]:
    things = rng.choice(THINGS, 2, replace=False)
    colors = rng.choice(tuple(COLORS), 2, replace=False)
    start = "a photo of " if rng.random() < SENTENCE_PROBABILITY else ""
    place = f" {PLACES[str(rng.choice(tuple(PLACES)))]}" if rng.random() < PLACE_PROBABILITY else ""
    one, two = (
        " and ".join(article(f"{color} {thing}") for color, thing in zip(order, things, strict=True))
        for order in (colors, colors[::-1])
    )
    return f"{start}{one}{place}", f"{start}{two}{place}"
