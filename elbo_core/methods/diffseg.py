"""Semantic DiffSeg: segments of alike self-attention, named by text attention (Tian et al. 2024; `google/diffseg` @
77ea596)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from elbo_core.checks import check_least
from elbo_core.diffusion.attention import AttentionLayer
from elbo_core.heatmaps import min_max, resize
from elbo_core.methods.baseline import Baseline, by_caption, mean_maps, mean_matrix, of_side, sides
from elbo_core.methods.observe import CaptionAttention, Observation

ANCHORS, THRESHOLD, ITERATIONS = 16, 0.9, 3
"""A side of the grid of anchors; the distance below which two maps are merged; rounds of merging (demo notebook)."""
SMALLEST = 1e-20
"""What is below has no logarithm in single precision that would mean anything."""


@dataclass(frozen=True)
class SemanticDiffSeg(Baseline):
    """The self-attention maps of all layers as distributions over the finest side (a side weighs in proportion to
    itself), merged from a grid of anchors wherever their symmetric KL divergence is below `THRESHOLD`; k-means from the
    merged maps; each pixel of the picture in the segment whose map is highest there.

    A class's heatmap in a segment is the mean there of its text attention: per side the mean over layers, bilinear to
    the picture, as a share of all tokens, summed over sides, of unit length over pixels. Then min-max. So the heatmap
    is constant in every segment, and zero where there is only one.

    threshold: of merging; 0.9 in the original's demo, 1.1 and 0.9 in its benchmarks. It is meant for Stable Diffusion;
        where attention is more diffuse everything becomes one segment, and a lower one is needed.

    Left out: a factor 3/5 on the finest layers of the up path (a slip); single words by position and a tagger's nouns,
    in whose place are the candidates' true tokens. Merging is in single precision.
    """

    amplifies_rounding: ClassVar[bool] = True  # a distance at the threshold merges two segments, or not

    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        check_least(self.threshold, "threshold", 0)

    def maps(self, observation: Observation) -> Tensor:
        return by_caption(
            observation, observation.attention.captions, lambda one: self._read(one, observation.image_size)
        )

    def _read(self, caption: CaptionAttention, size: tuple[int, int]) -> Tensor:
        segments = segment(distributions(caption.self_attention.layers), size, self.threshold)
        return min_max(_means(named(caption, size), segments), [-2, -1])


def distributions(layers: Sequence[AttentionLayer]) -> Tensor:
    """For each pixel of the finest side M a distribution over its pixels, [M*M, M*M]."""
    found = sides(layers)
    parts = [side * _enlarged(mean_matrix(of_side(layers, side)), found[-1]) for side in found]
    return sum(parts) / sum(found)


def _enlarged(matrix: Tensor, finest: int) -> Tensor:
    """A matrix [r*r, r*r] as one of side M: keys bilinear and of sum one, queries repeated."""
    side = round(len(matrix) ** 0.5)
    keys = resize(matrix.unflatten(1, (side, side)), (finest, finest)).flatten(1)
    keys = (keys / keys.sum(dim=1, keepdim=True)).T.unflatten(1, (side, side))
    return F.interpolate(keys[None], size=(finest, finest), mode="nearest")[0].flatten(1).T


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """(KL(p|q) + KL(q|p)) / 2 of distributions p [A, P] and q [B, P], [A, B]."""
    log_first, log_second = first.clamp(min=SMALLEST).log(), second.clamp(min=SMALLEST).log()
    own_first, own_second = (first * log_first).sum(dim=1)[:, None], (second * log_second).sum(dim=1)
    return (own_first - first @ log_second.T + own_second - log_first @ second.T) / 2


def anchors(finest: int) -> list[int]:
    """The pixels of a grid of `ANCHORS` a side, or of all pixels if there are fewer; 1, 5, ..., 61 of 64."""
    step = max(finest // ANCHORS, 1)
    places = range((step - 1) // 2, finest, step)
    return [row * finest + column for row in places for column in places]


def merged(maps: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Proposals [k, P] from distributions [P, P]: the mean of all maps near each anchor, then, twice, the mean of all
    proposals near the next that has not been merged yet."""
    start = maps[anchors(round(len(maps) ** 0.5))]
    near = (divergence(start, maps) < threshold).to(maps)
    proposals = near @ maps / near.sum(dim=1, keepdim=True)
    for _ in range(ITERATIONS - 1):
        proposals = _merge_once(proposals, threshold)
    return proposals


def _merge_once(proposals: Tensor, threshold: float) -> Tensor:
    near = divergence(proposals, proposals) < threshold
    free, found = torch.ones(len(proposals), dtype=torch.bool, device=proposals.device), []
    for index in range(len(proposals)):
        if free[index]:
            members = near[index].clone()
            members[index] = True
            free &= ~members
            found.append(proposals[members].mean(dim=0))
    return torch.stack(found)


def segment(maps: Tensor, size: tuple[int, int], threshold: float = THRESHOLD) -> Tensor:
    """Which segment each pixel of a picture of `size` belongs to, int64 [H, W], from distributions [P, P]."""
    proposals = _centred(maps, merged(maps, threshold))
    side = round(maps.shape[1] ** 0.5)
    return resize(proposals.unflatten(1, (side, side)), size).argmax(dim=0)


def _centred(maps: Tensor, proposals: Tensor) -> Tensor:
    """The centres that k-means finds from some proposals, those that keep a member."""
    from sklearn.cluster import KMeans  # only here: it takes a second to import

    points = maps.double().cpu().numpy()
    kmeans = KMeans(len(proposals), init=proposals.double().cpu().numpy(), n_init=1).fit(points)
    labels = torch.from_numpy(kmeans.labels_).to(maps.device).long()
    return torch.stack([maps[labels == label].mean(dim=0) for label in labels.unique()])


def named(caption: CaptionAttention, size: tuple[int, int]) -> Tensor:
    """The text attention of each class at the size of the picture, of unit length over pixels, [n, H, W]."""
    layers = caption.cross.layers
    everything = range(layers[0].columns)
    total = torch.zeros(())
    for side in sides(layers):
        *classes, mean = resize(mean_maps(of_side(layers, side), [*caption.columns_of("first"), everything]), size)
        total = torch.stack(classes) / (mean * len(everything)) + total.to(mean)
    return F.normalize(total.flatten(1), dim=1).unflatten(1, size)


def _means(maps: Tensor, segments: Tensor) -> Tensor:
    """Maps [n, H, W] with each pixel's value replaced by the mean over its segment."""
    members = F.one_hot(segments.flatten()).to(maps)  # [H*W, k]
    means = maps.flatten(1) @ members / members.sum(dim=0).clamp(min=1)
    return means[:, segments.flatten()].unflatten(1, segments.shape)
