"""The prompt sets of Table V: A&E, DVMP and ABC-6K, drawn by their rules or read from their files; and those of the
embedded world."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from elbo_core.datasets.dataset import check_count, read_text
from elbo_core.datasets.folders import default_root
from elbo_core.datasets.phrases import COLORS, NounPhrase, noun_phrases
from elbo_core.datasets.toy_prompts import draw_toy_abc, draw_toy_ae, draw_toy_dvmp
from elbo_core.errors import DatasetError

Generator: TypeAlias = np.random.Generator
SEED = 4307

ANIMALS = ("cat", "dog", "bird", "bear", "lion", "horse", "elephant", "monkey", "frog", "turtle", "rabbit",
           "mouse")  # fmt: skip
OBJECTS = ("backpack", "glasses", "crown", "suitcase", "chair", "balloon", "bow", "car", "bowl", "bench", "clock",
           "apple")  # fmt: skip
WITHOUT_COLOR = frozenset({"glasses", "crown", "bow"})
"""What an animal wears in A&E has no colour."""
PLAIN_COLORS = COLORS[:11]


@dataclass(frozen=True)
class Category:
    """Things of DVMP that take the same modifiers, at most so many of them."""

    names: tuple[str, ...]
    modifiers: tuple[str, ...]
    most: int


DVMP = (
    Category(
        ("backpack", "crown", "suitcase", "chair", "balloon", "bow", "car", "bowl", "bench", "clock", "camera",
         "umbrella", "guitar", "shoe", "hat", "surfboard", "skateboard", "bicycle"),
        ("modern", "spotted", "wooden", "metal", "curved", "spiky", "checkered"), 2),
    Category(("apple", "tomato", "banana", "strawberry"), ("sliced", "skewered"), 1),
    Category((*ANIMALS, "panda", "zebra", "gorilla", "penguin"), ("furry", "baby", "spotted", "sleepy"), 2),
)  # fmt: skip
DVMP_COUNT = 200
COLOR_PROBABILITY = 1 / 3


@dataclass(frozen=True)
class Prompt:
    """A text with the things in it. pair: in ABC-6K, the number of the two lines that differ in their attributes."""

    text: str
    phrases: tuple[NounPhrase, ...]
    pair: int | None = None


def prompt_set(
    name: str, count: int | None = None, seed: int = SEED, root: str | os.PathLike | None = None
) -> list[Prompt]:
    """The first `count` prompts of a set, all by default: from its file in `root`/prompts if there is one, else drawn.

    A&E and DVMP have rules; the colours of A&E and all of DVMP were drawn without a recorded seed, so ours differ from
    the authors'. ABC-6K is a list of captions and must be there.

    Raises:
        TypeError, ValueError: unknown set, or a count below one.
        DatasetError: the file is missing and cannot be drawn, or is not what it should be.
    """
    if name not in PROMPT_SETS:
        raise ValueError(f"unknown prompt set {name!r}; known: {', '.join(PROMPT_SETS)}")
    chosen, count = PROMPT_SETS[name], check_count(count, "prompts")
    path = (default_root() if root is None else Path(os.path.expanduser(root))) / "prompts" / chosen.file
    texts = chosen.read(path) if os.path.lexists(path) else chosen.draw(np.random.default_rng(seed), path)
    pairs = (k // 2 for k in itertools.count()) if chosen.paired else itertools.repeat(None)
    return [Prompt(text, tuple(noun_phrases(text)), pair) for text, pair in zip(texts[:count], pairs, strict=False)]


def _read_lines(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise DatasetError(f"{path} holds no prompt")
    return lines


def _read_pairs(path: Path) -> list[str]:
    lines = _read_lines(path)
    if len(lines) % 2:
        raise DatasetError(
            f"{path} has {len(lines)} prompts; pairs of a caption and its swapped twin need an even number"
        )
    return lines


def _read_groups(path: Path) -> list[str]:
    """The official file of A&E: three lists by name."""
    try:
        groups = json.loads(read_text(path))
        lists = [groups[group] for group in ("animals", "animals_objects", "objects")]
        if not all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists):
            raise TypeError("a group is no list of texts")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f"{path} is not A&E's list of animals, animals_objects and objects: {error!r}") from error
    return list(itertools.chain.from_iterable(lists))


def draw_attend_and_excite(rng: Generator, _: Path | None = None) -> list[str]:
    """All 276 prompts of Attend-and-Excite: pairs of animals, of an animal and an object, and of objects."""
    animals = [f"{a(first)} and {a(second)}" for first, second in itertools.combinations(ANIMALS, 2)]
    mixed = [_animal_and_object(rng, *pair) for pair in itertools.product(ANIMALS, OBJECTS)]
    objects = [f"{_colored(rng, one)} and {_colored(rng, two)}" for one, two in itertools.combinations(OBJECTS, 2)]
    return animals + mixed + objects


def _animal_and_object(rng: Generator, animal: str, thing: str) -> str:
    if thing in WITHOUT_COLOR:
        return f"{a(animal)} with {a(thing)}"
    return f"{a(animal)} and {_colored(rng, thing)}"


def _colored(rng: Generator, thing: str) -> str:
    return a(f"{rng.choice(PLAIN_COLORS)} {thing}")


def a(words: str) -> str:
    """The words with their indefinite article."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def draw_dvmp(rng: Generator, _: Path | None = None) -> list[str]:
    """Distinct prompts of one to three distinct phrases, by the rules of `dvmp.py` (SynGen's repository)."""
    prompts: dict[str, None] = {}
    while len(prompts) < DVMP_COUNT:
        wanted = rng.integers(1, 4)
        distinct = dict.fromkeys(itertools.islice(_dvmp_phrases(rng), wanted))
        if len(distinct) == wanted:
            prompts[" and ".join(distinct)] = None
    return list(prompts)


def _dvmp_phrases(rng: Generator) -> Iterator[str]:
    while True:
        category = DVMP[rng.integers(len(DVMP))]
        modifiers = rng.choice(category.modifiers, rng.integers(category.most + 1), replace=False).tolist()
        if rng.random() < COLOR_PROBABILITY:
            modifiers.insert(0, str(rng.choice(COLORS)))
        if modifiers:
            yield a(" ".join([*modifiers, str(rng.choice(category.names))]))


def _not_drawn(_: Generator, path: Path) -> list[str]:
    raise DatasetError(
        f"{path} is missing; get ABC-6K.txt (6434 lines) from the repository weixi-feng/Structured-Diffusion-Guidance"
    )


@dataclass(frozen=True)
class PromptSet:
    """file: its name in the folder of prompts; draw: the rule that stands in for it; paired: lines come in twos."""

    file: str
    read: Callable[[Path], Sequence[str]]
    draw: Callable[[Generator, Path], Sequence[str]]
    paired: bool = False


PROMPT_SETS = {
    "a&e": PromptSet("AnE.json", _read_groups, draw_attend_and_excite),
    "dvmp": PromptSet("DVMP.txt", _read_lines, draw_dvmp),
    "abc-6k": PromptSet("ABC-6K.txt", _read_pairs, _not_drawn, paired=True),
    "toy-ae": PromptSet("toy-AE.txt", _read_lines, draw_toy_ae),
    "toy-dvmp": PromptSet("toy-DVMP.txt", _read_lines, draw_toy_dvmp),
    "toy-abc": PromptSet("toy-ABC.txt", _read_pairs, draw_toy_abc, paired=True),
}
