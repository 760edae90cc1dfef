"""What every method gives: one heatmap per class, on one scale, and the mask that follows from a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from elbo_core.checks import check_share

ROUNDING = 2e-6
"""Relative differences below this are the rounding of single precision, not information."""


@dataclass(frozen=True)
class Heatmaps:
    """values: float32 [N, H, W] in [0, 1], a map per class, on the CPU; scores: the alignment scores S [N], NaN for a
    method that has none."""

    classes: tuple[str, ...]
    values: Tensor
    scores: Tensor

    def mask(self, threshold: float) -> Tensor:
        """int64 [H, W]: 0 where no class reaches `threshold`, else 1 + the index of the highest class.

        Raises:
            TypeError, ValueError: the threshold is no number in [0, 1].
        """
        best, winner = self.values.max(dim=0)
        return torch.where(best >= check_share(threshold, "threshold"), winner + 1, 0)


def min_max(values: Tensor, dims: Sequence[int]) -> Tensor:
    """Scale to [0, 1] over `dims`; what is constant there, up to rounding, becomes 0, never NaN or amplified noise."""
    low, high = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    spread = high - low
    varies = spread > ROUNDING * torch.maximum(low.abs(), high.abs())
    return torch.where(varies, (values - low) / torch.where(varies, spread, 1.0), 0.0)


def to_maximum(values: Tensor) -> Tensor:
    """Maps [..., H, W] of what is nowhere negative, each divided by its maximum; one that is zero stays so."""
    highest = values.amax((-2, -1), keepdim=True)
    return values / torch.where(highest > 0, highest, 1.0)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [N, h, w] or [B, N, h, w] at another size, bilinear."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    resized = F.interpolate(maps if maps.ndim == 4 else maps[None], size=size, mode="bilinear", align_corners=False)
    return resized if maps.ndim == 4 else resized[0]
