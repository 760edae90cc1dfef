"""DAAM: what text attention looks at, heat map of a word (Tang et al. 2023; `castorini/daam` @ 09564e0, `trace.py`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from elbo_core.diffusion.attention import CrossAttention
from elbo_core.heatmaps import min_max
from elbo_core.methods.baseline import Baseline, alike, by_caption, each_token, outside_middle, put_together
from elbo_core.methods.observe import CaptionAttention, Observation


@dataclass(frozen=True)
class Daam(Baseline):
    """The mean over layers and heads of max(0, bicubic(sum over timesteps of a head's map of a token)), at the finest
    side; the mean over a class's tokens; bicubic to the picture; min-max.

    Every head counts once, so a layer of many heads weighs more. The middle block is left out; a transformer has none,
    so all its layers are read. Left out of the original: its exchange of width and height, which squares do not show.
    """

    def maps(self, observation: Observation) -> Tensor:
        size = observation.image_size
        return by_caption(observation, observation.attention.captions, lambda caption: _read(caption, size))


def _read(caption: CaptionAttention, size: tuple[int, int]) -> Tensor:
    columns = caption.columns_of("first")
    tokens = put_together(_heat(caption.cross, each_token(columns)), alike(columns))
    enlarged = F.interpolate(tokens[None], size=size, mode="bicubic", align_corners=False)[0]
    return min_max(enlarged, [-2, -1])


def _heat(cross: CrossAttention, columns: list[list[int]]) -> Tensor:
    """The heat map of each token, [n, M, M]."""
    layers = outside_middle(cross.layers)
    finest = max(layer.side for layer in layers)
    heads = []
    for layer in layers:
        (each,) = CrossAttention((layer.each_head(),)).maps(columns)  # [T * heads, n, side, side]
        summed = each.unflatten(0, (-1, layer.heads)).sum(dim=0)
        heads.append(F.interpolate(summed, size=(finest, finest), mode="bicubic", align_corners=False).clamp(min=0))
    return torch.cat(heads).mean(dim=0)
