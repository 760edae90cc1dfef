"""Algorithm 1 of the paper: from an `Observation` to one heatmap per class, calibrated by the alignment score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from elbo_core.diffusion.attention import CrossAttention, SelfAttention
from elbo_core.methods.elbo import ESTIMATORS, alignment_score, class_loss, min_max, weights
from elbo_core.methods.observe import CaptionAttention, Observation


@dataclass(frozen=True)
class ElboScore:
    """S = gamma^norm(mean_t w(t) MSE(t)), the weight w by the name of an estimator in `elbo.ESTIMATORS`, or "released"
    for that of the released code."""

    estimator: str = "released"
    gamma: float = 1 / 3

    def __post_init__(self) -> None:
        if self.estimator not in ("released", *ESTIMATORS):
            raise ValueError(f"unknown estimator {self.estimator!r}; known: released, {', '.join(ESTIMATORS)}")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must lie in (0, 1], got {self.gamma}")

    def __call__(self, observation: Observation) -> Tensor:
        """Alignment scores [N] in [gamma, 1]."""
        weight = weights(self.estimator, observation.schedule, observation.elbo_timesteps, observation.losses)
        return alignment_score(class_loss(observation.losses, weight).value, self.gamma).float()


@dataclass(frozen=True)
class ConstantScore:
    """The same score for every class: 1 switches calibration off, 1/2 to 1/4 are the controls of Table VIII."""

    value: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.value <= 1:
            raise ValueError(f"a score must lie in (0, 1], got {self.value}")

    def __call__(self, observation: Observation) -> Tensor:
        return torch.full((len(observation.classes),), self.value)


def gaussian_over_depth(cross: CrossAttention) -> Tensor:
    """exp(-(l - l0)^2 / (2 * 3^2)) over the layer index, centred on the middle block.

    Source: `utils/attention_control.py:266-274` of the released code.
    """
    depth, middle = _depths(cross)
    centre = sum(middle) / len(middle)
    return torch.exp(-((depth - centre) ** 2) / (2 * 3**2))


def late_layers(cross: CrossAttention) -> Tensor:
    """1 for the layers after the middle, where our toy models' words are, else 0: a UNet's up path, the second half of
    a transformer."""
    depth, middle = _depths(cross)
    return (depth > max(middle)).float()


def _depths(cross: CrossAttention) -> tuple[Tensor, list[float]]:
    """The indices of all layers and those of the middle: a UNet's middle block, else half-way."""
    depth = torch.arange(len(cross.layers), dtype=torch.float32)
    middle = [float(index) for index, layer in enumerate(cross.layers) if layer.name.startswith("mid_block")]
    return depth, middle or [(len(cross.layers) - 1) / 2]


LAYER_WEIGHTS: dict[str, Callable[[CrossAttention], Tensor]] = {
    "gaussian": gaussian_over_depth,
    "late": late_layers,
    "uniform": lambda cross: torch.ones(len(cross.layers)),
}


def all_finest(attention: SelfAttention) -> list[float]:
    """1 for every layer of the finest side, else 0."""
    return [float(layer.side == attention.side) for layer in attention.layers]


def last_finest(attention: SelfAttention) -> list[float]:
    """1 for the finest layers after the last coarser one (the up path of a UNet), else 0; all, if none is coarser."""
    sides = [layer.side for layer in attention.layers]
    coarser = [index for index, side in enumerate(sides) if side != attention.side]
    return [float(index > max(coarser, default=-1)) for index in range(len(sides))]


Refinement = Callable[[SelfAttention], list[float]]


@dataclass(frozen=True)
class Recipe:
    """How an observation is read. Paper and released code differ; each difference that matters is a field.

    score: the alignment score.
    layer_weights: of the cross-attention layers, a name in `LAYER_WEIGHTS`.
    refinements: self-attention matrices applied one after another, each a weighting of the layers.
    average_maps: average attention over the timesteps first, rather than the results of each.
    refine_image: refine at image resolution rather than at the attention's.
    readout: how the classes' heatmaps become comparable, a name in `READOUTS`.
    text_part: whose columns are read where a network sees several text encoders ("clip", "t5"), "all" of them, or
        "first": the released code's choice, CLIP in Stable Diffusion 3.
    renormalise: where text and image share one softmax, let each pixel's weights on the text sum to one.
    """

    score: ElboScore | ConstantScore = ElboScore()
    layer_weights: str = "gaussian"
    refinements: tuple[Refinement, ...] = (all_finest, last_finest)
    average_maps: bool = True
    refine_image: bool = False
    readout: str = "min-max"
    text_part: str = "first"
    renormalise: bool = False

    @classmethod
    def reference(cls) -> Recipe:
        """The released code (VCG-team/elbo-t2ialign, `run_segmentation.py`), which produced the published numbers."""
        return cls()

    @classmethod
    def paper(cls) -> Recipe:
        """Algorithm 1 and eq. 4 and 5 to the letter. "Follow [12, 43]" is read as DiffSegmenter's single refinement."""
        return cls(
            ElboScore("elbo"), "uniform", (all_finest,), average_maps=False, refine_image=True, readout="softmax"
        )

    @classmethod
    def best(cls) -> Recipe:
        """The reference with the score that our study of the estimators recommends (notebook `15_table_estimators`).

        On the toy models that is the reference's own: no other weighting did better on the development split.
        """
        return cls(ElboScore("epsilon"))

    def off(self) -> Recipe:
        """The same recipe without calibration."""
        return replace(self, score=ConstantScore(1.0))


READOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "min-max": lambda heatmaps: min_max(heatmaps, [-2, -1]),
    "softmax": lambda heatmaps: heatmaps.softmax(dim=-3),
    "plain": lambda heatmaps: heatmaps.clamp(0, 1),  # in [0, 1] but for rounding
}


@dataclass(frozen=True)
class Heatmaps:
    """values: float32 [N, H, W] in [0, 1], a map per class, on the CPU; scores: the alignment scores S [N]."""

    classes: tuple[str, ...]
    values: Tensor
    scores: Tensor

    def mask(self, threshold: float) -> Tensor:
        """int64 [H, W]: 0 where no class reaches `threshold`, else 1 + the index of the highest class."""
        best, winner = self.values.max(dim=0)
        return torch.where(best >= threshold, winner + 1, 0)


def align(observation: Observation, recipe: Recipe = Recipe.reference()) -> Heatmaps:
    """Algorithm 1 on what the model said about one image."""
    scores = recipe.score(observation)
    (values,) = read(observation, recipe, scores[None])
    return Heatmaps(observation.classes, values, scores)


def read(observation: Observation, recipe: Recipe, scores: Tensor) -> Tensor:
    """Heatmaps [R, N, H, W] of R sets of alignment scores [R, N], whatever the recipe's own score is.

    Layers, refinement and order of averaging are the same for all sets, so the attention is asked once.
    """
    raw = torch.empty(*scores.shape, *observation.image_size)
    for attention in observation.attention:
        index = [observation.classes.index(name) for name in attention.classes]
        calibrated = calibrate(cross_maps(attention, recipe), scores[:, index])  # [T or 1, R, N, M, M]
        refined = _refine(calibrated.flatten(1, 2), attention.self_attention, observation.image_size, recipe)
        raw[:, index] = refined.unflatten(0, (len(scores), len(index))).cpu()
    return READOUTS[recipe.readout](raw)


def cross_maps(attention: CaptionAttention, recipe: Recipe) -> Tensor:
    """The weighted mean over layers of each class's cross-attention, [T or 1, N, M, M]; M is the finest side."""
    weights = LAYER_WEIGHTS[recipe.layer_weights](attention.cross)
    side = attention.cross.layers[0].side
    cross = attention.cross.renormalised() if recipe.renormalise else attention.cross
    maps = cross.maps(attention.columns_of(recipe.text_part))
    mean = sum(w * _resize(m, (side, side)) for w, m in zip(weights, maps, strict=True)) / weights.sum()
    return mean.mean(dim=0, keepdim=True) if recipe.average_maps else mean


def calibrate(maps: Tensor, scores: Tensor) -> Tensor:
    """A <- min-max(A)^(1/S) for maps [T, N, M, M] and scores [..., N]: [T, ..., N, M, M] (Algorithm 1, lines 6, 7)."""
    normalised = min_max(maps, [-2, -1])
    for _ in range(scores.ndim - 1):
        normalised = normalised[:, None]
    return normalised ** (1 / scores.to(maps))[..., None, None]


def _refine(maps: Tensor, attention: SelfAttention, image_size: tuple[int, int], recipe: Recipe) -> Tensor:
    """Self-attention refinement and enlargement in the recipe's order: [T or 1, N, M, M] -> [N, H, W]."""
    if recipe.refine_image:
        maps = _resize(maps, tuple(max(size, attention.side) for size in image_size))
    for refinement in recipe.refinements:
        maps = attention.refine(maps, refinement(attention))
        if recipe.average_maps:
            maps = maps.mean(dim=0, keepdim=True)
    return _resize(maps, image_size).mean(dim=0)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
