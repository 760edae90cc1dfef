"""What the baselines of Table II share: the paper's score as a plug-in, and the reading of one caption after another.

To add one: write a frozen dataclass that says in `sees` what is to be put before the network and in `maps` how the
answer becomes heatmaps, and name it in `BASELINES` (`experiments.baselines`).

All read what Algorithm 1 reads: the same prompt and the same noised latents (the paper: "the same seed and text
prompt"). The paper does not say how it adapted methods that generate pictures to given ones; ours is the smallest
change. What a method's authors put before the network instead is another plan for the same method (`PROTOCOLS`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from elbo_core.diffusion.attention import AttentionLayer, CrossAttention
from elbo_core.errors import UnsupportedModelError
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.align import ElboScore
from elbo_core.methods.method import Method
from elbo_core.methods.observe import CaptionAttention, Observation
from elbo_core.methods.plan import ATTENTION_TIMESTEPS, CAPTION, Ask, Plan

COMMON = Plan(losses=(), attention=(Ask(CAPTION, ATTENTION_TIMESTEPS),))
"""What the paper puts before the network for every method."""


@dataclass(frozen=True)
class Baseline(Method):
    """A method that the paper compares with.

    score: the paper's plug-in, heatmaps A <- A^(1/S) with the alignment score S of each class; None leaves them.
    """

    score: ElboScore | None = None

    @property
    def sees(self) -> Plan:
        """What the method itself must see, without a score."""
        return COMMON

    @property
    def needs(self) -> Plan:
        return replace(self.sees, losses=self.score.questions if self.score else ())

    @abstractmethod
    def maps(self, observation: Observation) -> Tensor:
        """Its own heatmaps, float32 [N, H, W] in [0, 1] on the CPU.

        Raises:
            ValueError: the observation answers other questions than `sees`.
        """

    def __call__(self, observation: Observation) -> Heatmaps:
        """Heatmaps [N, H, W]; scores of NaN without the plug-in.

        Raises:
            ValueError: the observation answers other questions than are needed.
            UnsupportedModelError: the method is not defined for this network (`undefined`).
        """
        return self.plug_in(self.checked_maps(observation), observation)

    def checked_maps(self, observation: Observation) -> Tensor:
        """`maps`, or an error where the method is not defined."""
        reason = self.undefined(observation)
        if reason:
            raise UnsupportedModelError(f"{type(self).__name__} is not defined here: {reason}")
        return self.maps(observation)

    def plug_in(self, maps: Tensor, observation: Observation) -> Heatmaps:
        """A <- A^(1/S) for maps [N, H, W] (Algorithm 1, line 7)."""
        if self.score is None:
            return Heatmaps(observation.classes, maps, torch.full((len(maps),), torch.nan))
        scores = self.score(observation)
        return Heatmaps(observation.classes, maps ** (1 / scores)[:, None, None], scores)

    @classmethod
    def read_all(cls, observation: Observation, asked: Sequence[tuple[Self, Plan]]) -> list[Heatmaps]:
        """Methods that differ in the score alone share their maps."""
        maps: dict[tuple, Tensor] = {}
        heatmaps = []
        for method, plan in asked:
            seen, alike = observation.under(plan), (replace(method, score=None), plan.without_losses())
            if alike not in maps:
                maps[alike] = method.checked_maps(seen)
            heatmaps.append(method.plug_in(maps[alike], seen))
        return heatmaps


def by_caption(
    observation: Observation, captions: Sequence[CaptionAttention], read: Callable[[CaptionAttention], Tensor]
) -> Tensor:
    """Heatmaps [N, H, W] of all classes, from what `read` makes of each caption for its own, [n, H, W]."""
    maps = torch.empty(len(observation.classes), *observation.image_size, dtype=torch.float32)
    for caption in captions:
        maps[[observation.classes.index(name) for name in caption.classes]] = read(caption).float().cpu()
    return maps


def outside_middle(layers: Sequence[AttentionLayer]) -> tuple[AttentionLayer, ...]:
    """The layers of a UNet's down and up path; of a network without a middle block, all."""
    return tuple(layer for layer in layers if not layer.name.startswith("mid_block"))


def sides(layers: Sequence[AttentionLayer]) -> list[int]:
    """The sides that occur, from the coarsest on."""
    return sorted({layer.side for layer in layers})


def of_side(layers: Sequence[AttentionLayer], side: int) -> tuple[AttentionLayer, ...]:
    return tuple(layer for layer in layers if layer.side == side)


def mean_maps(layers: Sequence[AttentionLayer], columns: Sequence[Sequence[int]]) -> Tensor:
    """The mean over layers of one side, heads and timesteps of N groups of columns, [N, side, side]."""
    return torch.stack(CrossAttention(tuple(layers)).maps(columns)).mean(dim=(0, 1))


def mean_matrix(layers: Sequence[AttentionLayer]) -> Tensor:
    """The mean over layers of one side, heads and timesteps of the attention matrix, [side*side, M]."""
    return sum(layer.matrix() for layer in layers) / len(layers)


def each_token(columns: Sequence[Sequence[int]]) -> list[list[int]]:
    """Groups of columns, taken apart: one group for each column."""
    return [[column] for group in columns for column in group]


def put_together(tokens: Tensor, weights: Sequence[Sequence[float]]) -> Tensor:
    """Maps [n, H, W] of the tokens of N classes, class by class, as their weighted sums, [N, H, W]."""
    own = tokens.split([len(group) for group in weights])
    factors = [torch.tensor(group).to(tokens)[:, None, None] for group in weights]
    return torch.stack([(factor * maps).sum(dim=0) for factor, maps in zip(factors, own, strict=True)])


def alike(columns: Sequence[Sequence[int]]) -> list[list[float]]:
    """The weights of a mean, for each class."""
    return [[1 / len(group)] * len(group) for group in columns]
