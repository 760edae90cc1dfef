"""What a row of Table V can hold: anything that changes how a picture comes about, as data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from elbo_core.captions import Caption
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.sampling import Hook
from elbo_core.words import Span


@dataclass(frozen=True)
class Mention:
    """A thing that a prompt names, by character offsets: its whole phrase, its noun, and each word that describes it.

    "a small red star" is a phrase with the noun "star" and the modifiers "small" and "red".
    """

    phrase: Span
    noun: Span
    modifiers: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Described:
    """A prompt and the things that it names, in order."""

    text: str
    mentions: tuple[Mention, ...] = ()

    def phrases(self) -> list[str]:
        return [self.text[slice(*mention.phrase)] for mention in self.mentions]


class GenerationHook(Hook):
    """A hook that counts.

    evaluations: [B], how often the network was asked for each picture beside what the loop asks. acts: bool [B],
    whether the method does anything for its prompt; where it does not, the picture is that of the baseline.
    """

    def __init__(self, acts: Sequence[bool]):
        self.acts = torch.tensor(list(acts), dtype=torch.bool)
        self.evaluations = torch.zeros(len(self.acts), dtype=torch.long)


class GenerationMethod(ABC):
    """How pictures are generated, apart from model and sampler. Write one as a frozen dataclass of plain data: its
    fields are what distinguishes it from others in the run store.

    amplifies_rounding: whether steps along gradients make differences of rounding large, so that pictures agree between
    machines in their statistics only.
    """

    amplifies_rounding: ClassVar[bool] = False

    @abstractmethod
    def hook(self, denoiser: Denoiser, prompts: Sequence[Described]) -> GenerationHook:
        """What interferes with the loop for B prompts; one run's.

        Raises:
            ValueError: the tokens of a phrase cannot be found, or a prompt does not fit.
            UnsupportedModelError: the model lacks the attention that the method reads.
        """


@dataclass(frozen=True)
class Baseline(GenerationMethod):
    """The model as it is."""

    def hook(self, denoiser: Denoiser, prompts: Sequence[Described]) -> GenerationHook:
        return GenerationHook([True] * len(prompts))


@dataclass(frozen=True)
class Pieces:
    """Which text columns some spans of B prompts are. Of M spans in all: picture [M], the prompt of each; columns, the
    columns of each in the model's first text part; mask [M, L], those of all parts."""

    picture: Tensor
    columns: tuple[tuple[int, ...], ...]
    mask: Tensor = field(repr=False)

    @classmethod
    def of(cls, denoiser: Denoiser, texts: Sequence[str], spans: Sequence[Sequence[Span]], length: int) -> Pieces:
        """length: the number L of columns in all.

        Raises:
            ValueError: a span has no token, or none that the text encoder knows.
        """
        picture: list[int] = []
        columns: list[tuple[int, ...]] = []
        everywhere: list[tuple[int, ...]] = []
        for row, (text, own) in enumerate(zip(texts, spans, strict=True)):
            if not own:
                continue
            parts = denoiser.columns(Caption(text, {str(k): (span,) for k, span in enumerate(own)}))
            picture += [row] * len(own)
            columns += next(iter(parts.values()))
            everywhere += [sum(found, ()) for found in zip(*parts.values(), strict=True)]
        mask = torch.zeros(len(everywhere), length, dtype=torch.bool)
        for row, found in enumerate(everywhere):
            mask[row, list(found)] = True
        return cls(torch.tensor(picture, dtype=torch.long), tuple(columns), mask)


def word_columns(denoiser: Denoiser, text: str) -> tuple[int, ...]:
    """The columns of all words of a text in the model's first text part, without the tokens that begin and end it."""
    part = next(iter(denoiser.parts.values()))
    special = set(part.tokenizer.all_special_ids)
    return tuple(part.first + k for k, token in enumerate(part.tokens(text)) if token not in special)
