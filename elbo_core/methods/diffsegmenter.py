"""DiffSegmenter: weighted text attention, refined once (Wang et al. 2023; `VCG-team/DiffSegmenter` @ b3a8686)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbo_core.heatmaps import min_max, resize
from elbo_core.methods.align import all_finest
from elbo_core.methods.baseline import Baseline, by_caption, mean_maps, of_side, sides
from elbo_core.methods.observe import CaptionAttention, Observation

WEIGHTS = (0.3, 0.5, 0.1, 0.1)
"""Of the sides 8, 16, 32 and 64 of Stable Diffusion 1.5."""


@dataclass(frozen=True)
class DiffSegmenter(Baseline):
    """The mean map of each side, bilinear to the finest, min-max, weighted; refined once by the mean self-attention of
    the finest side; bilinear to the picture; min-max.

    A network with fewer sides gives its k-th coarsest the k-th of `WEIGHTS` and its finest what is left. One side alone
    leaves nothing to weigh: the method is not defined there. Its scripts' choice of the class's token by position, off
    by one on COCO, is replaced by the class's true tokens.
    """

    def undefined(self, observation: Observation) -> str:
        found = sides(observation.all_attention[0].captions[0].cross.layers)
        return "" if len(found) > 1 else f"it weighs text attention of several sides, and the network has {found} only"

    def maps(self, observation: Observation) -> Tensor:
        size = observation.image_size
        return by_caption(observation, observation.attention.captions, lambda caption: _read(caption, size))


def weights(count: int) -> list[float]:
    """Of `count` sides, from the coarsest on."""
    last = min(count, len(WEIGHTS)) - 1
    return [*WEIGHTS[:last], sum(WEIGHTS[last:])] + [0.0] * (count - last - 1)


def _read(caption: CaptionAttention, size: tuple[int, int]) -> Tensor:
    layers, finest = caption.cross.layers, caption.self_attention.side
    columns = caption.columns_of("first")
    parts = [mean_maps(of_side(layers, side), columns) for side in sides(layers)]
    normalised = torch.stack([min_max(resize(part, (finest, finest)), [-2, -1]) for part in parts])
    maps = (torch.tensor(weights(len(parts))).to(normalised)[:, None, None, None] * normalised).sum(dim=0)
    refined = caption.self_attention.refine(maps[None], all_finest(caption.self_attention)).mean(dim=0)
    return min_max(resize(refined, size), [-2, -1])
