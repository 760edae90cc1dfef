"""DiffPNG: a coarse map, thresholded, spread by self-attention, and fitted to candidate masks (Yang et al. 2024;
`nini0919/DiffPNG` @ fbd3170)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from elbo_core.heatmaps import min_max, resize, to_maximum
from elbo_core.methods.baseline import (
    COMMON,
    Baseline,
    alike,
    by_caption,
    each_token,
    mean_maps,
    mean_matrix,
    of_side,
    outside_middle,
    put_together,
    sides,
)
from elbo_core.methods.observe import CaptionAttention, Observation
from elbo_core.methods.plan import Plan
from elbo_core.methods.proposals import check_proposer

ALPHA, BETA, TAU = 0.3, 0.4, 0.6
"""Thresholds of the mask, of the coarse map, and of the overlap with a candidate, as in the original's script."""


@dataclass(frozen=True)
class DiffPng(Baseline):
    """P = min-max of the sum of the rows of self-attention whose pixels exceed `BETA` in the coarse map of the class.

    The coarse map is the mean text attention of the coarsest side outside the middle block (16 in Stable Diffusion 1.5)
    with the tokens of a class weighted by their CLIP features, bilinear to the next finer side (32) and min-max; the
    self-attention is the mean of that finer side. A network without two such sides has none: the method is not defined.

    proposals: by what means the picture is cut into candidate masks (`proposals.PROPOSERS`); none by default, then P
        at the size of the picture is the heatmap. With them: where Q = [P > `ALPHA`] covers more than `TAU` of a
        candidate, or the candidate more than `TAU` of Q, a pixel gets the mean of P over it (the highest of several),
        else 0; without any such candidate P where it exceeds `ALPHA`. The original makes a binary mask of this; the
        means are ours, so that thresholds and classes can compete.

    The shipped command of the original skips all but the raw text attention by mistake; this is what it means to do.
    """

    amplifies_rounding: ClassVar[bool] = True  # a pixel at a threshold takes a whole row, or a whole mask, with it
    proposals: str = ""

    def __post_init__(self) -> None:
        if self.proposals:
            check_proposer(self.proposals)

    @property
    def sees(self) -> Plan:
        return replace(COMMON, proposals=(self.proposals,) if self.proposals else (), token_features=True)

    def undefined(self, observation: Observation) -> str:
        caption = observation.all_attention[0].captions[0]
        coarsest = sides(outside_middle(caption.cross.layers))[0]
        if max(sides(outside_middle(caption.self_attention.layers))) > coarsest:
            return ""
        return f"it reads self-attention finer than the coarsest text attention, and the network has {coarsest} only"

    def maps(self, observation: Observation) -> Tensor:
        size = observation.image_size
        spread = by_caption(observation, observation.attention.captions, lambda caption: _read(caption, size))
        if not self.proposals:
            return spread
        masks = observation.proposals[self.proposals]
        return torch.stack([fitted(own, masks) for own in spread])


def _read(caption: CaptionAttention, size: tuple[int, int]) -> Tensor:
    """P of each class at the size of the picture, [n, H, W] in [0, 1]."""
    cross, own = outside_middle(caption.cross.layers), outside_middle(caption.self_attention.layers)
    coarsest = sides(cross)[0]
    side = min(side for side in sides(own) if side > coarsest)
    columns = caption.columns_of("first")
    tokens = mean_maps(of_side(cross, coarsest), each_token(columns))
    coarse = min_max(resize(put_together(tokens, token_weights(caption, columns)), (side, side)), [-2, -1])
    chosen = (coarse > BETA).flatten(1).to(coarse)
    spread = min_max((chosen @ mean_matrix(of_side(own, side))).unflatten(1, (side, side)), [-2, -1])
    return resize(spread, size)


def token_weights(caption: CaptionAttention, columns: Sequence[Sequence[int]]) -> list[list[float]]:
    """Of the tokens of each class: how alike their features are to those of the last, as a softmax; all alike where
    none are known (a single token, or T5)."""
    weights = alike(columns)
    for index, name in enumerate(caption.classes):
        if name in caption.token_features:
            features = caption.token_features[name]
            weights[index] = min_max(features @ features.T, [-2, -1])[-1].softmax(dim=0).tolist()
    return weights


def fitted(spread: Tensor, masks: Tensor) -> Tensor:
    """P [H, W] fitted to candidate masks, bool [P, H, W]; highest value 1."""
    wanted, candidates = (spread > ALPHA).to(spread), masks.flatten(1).to(spread)
    area, shared = candidates.sum(dim=1), candidates @ wanted.flatten()
    selected = candidates[(area > 0) & ((shared > TAU * area) | (shared > TAU * wanted.sum()))]
    if not len(selected):
        return to_maximum(spread * wanted)
    means = selected @ spread.flatten() / selected.sum(dim=1)
    return to_maximum((selected * means[:, None]).amax(dim=0).unflatten(0, spread.shape))
