"""SynGen (Rassin et al. 2023): a word that describes a thing looks where the thing is, and nowhere that others look.

Constants and loss of the official code (RoyiRa/Linguistic-Binding-in-Diffusion-Models at 50b8eab); see the fields.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.sampling import Moment
from elbo_core.generation.attention_steps import AttentionSteps
from elbo_core.generation.method import Described, GenerationMethod, Pieces, word_columns

Columns = tuple[int, ...]
SMALLEST = 1e-12
"""What a share of the attention is at least, so that its logarithm is finite."""


@dataclass(frozen=True)
class SynGen(GenerationMethod):
    """A group is a noun with the words that describe it; groups are made anew for every prompt, and a prompt without
    any is left alone. A noun of several words is one noun here, where the official parser calls its first words
    modifiers.

    step_size: of the one gradient step before each of the first steps, `last` of them all.
    """

    amplifies_rounding: ClassVar[bool] = True
    step_size: float = 20.0
    last: float = 0.5

    def hook(self, denoiser: Denoiser, prompts: Sequence[Described]) -> Binding:
        return Binding(self, denoiser, prompts)


@dataclass(frozen=True)
class Term:
    """A part of the loss of one picture: a factor times the largest distance between columns of `one` and `other`."""

    picture: int
    factor: float
    one: Columns
    other: Columns


class Binding(AttentionSteps):
    """The hook of `SynGen`: a list of terms, and where their distances stand."""

    def __init__(self, method: SynGen, denoiser: Denoiser, prompts: Sequence[Described]):
        self.terms = [
            term for picture, prompt in enumerate(prompts) for term in terms_of(picture, *_columns(denoiser, prompt))
        ]
        super().__init__([any(term.picture == row for term in self.terms) for row in range(len(prompts))], method.last)
        self.method = method
        pairs = [
            (k, term.picture, one, other)
            for k, term in enumerate(self.terms)
            for one, other in itertools.product(term.one, term.other)
        ]
        self.entry_term, *self.entry = torch.tensor(pairs, dtype=torch.long).reshape(-1, 4).T
        self.factors = torch.zeros(len(prompts), len(self.terms))
        for k, term in enumerate(self.terms):
            self.factors[term.picture, k] = term.factor

    def before(self, moment: Moment) -> Moment:
        if not self.is_due(moment):
            return moment
        return self.descend(moment, self.acts.nonzero()[:, 0], self.method.step_size)[0]

    def losses(self, maps: Tensor, pictures: Tensor) -> Tensor:
        """The sum of each picture's terms, [b]."""
        device = maps.device
        place = torch.full((len(self.acts),), -1).index_put((pictures,), torch.arange(len(pictures)))
        mine = place[self.entry[0]] >= 0
        term = self.entry_term[mine].to(device)
        rows, one, other = (
            part.to(device) for part in (place[self.entry[0][mine]], *(e[mine] for e in self.entry[1:]))
        )
        apart = distances(maps)[rows, one, other]
        largest = torch.zeros(len(self.terms), device=device, dtype=maps.dtype)
        largest = largest.scatter_reduce(0, term, apart, "amax", include_self=False)
        return self.factors[pictures].to(largest) @ largest


def distances(maps: Tensor) -> Tensor:
    """The symmetric Kullback-Leibler divergence [b, L, L], half of both directions' sum, between the shares of
    attention that each two columns of maps [b, side^2, L] have at each place."""
    shares = (maps / maps.sum(dim=1, keepdim=True)).clamp(min=SMALLEST)
    logs = shares.log()
    across = shares.mT @ logs
    own = (shares * logs).sum(dim=1)
    one_way = own[:, :, None] - across
    return (one_way + one_way.mT) / 2


def _columns(denoiser: Denoiser, prompt: Described) -> tuple[list[tuple[Columns, list[Columns]]], Columns]:
    """The groups of a prompt, each its noun's columns and those of every modifier, and the columns of all words."""
    spans = [span for own in prompt.mentions for span in (own.noun, *own.modifiers)]
    length = denoiser.encode_text([""]).embeddings.shape[1]
    found = iter(Pieces.of(denoiser, [prompt.text], [spans], length).columns)
    groups = [(next(found), [next(found) for _ in own.modifiers]) for own in prompt.mentions]
    return groups, word_columns(denoiser, prompt.text)


def terms_of(picture: int, groups: Sequence[tuple[Columns, Sequence[Columns]]], words: Columns) -> Iterator[Term]:
    """For every noun and modifier, their distance; less half of the mean distance of each from all words outside their
    group."""
    for noun, modifiers in groups:
        outside = sorted(set(words) - {column for own in (noun, *modifiers) for column in own})
        for modifier in modifiers:
            yield Term(picture, 1.0, noun, modifier)
            for inside, other in itertools.product((noun, modifier), outside):
                yield Term(picture, -0.5 / len(outside), inside, (other,))
