"""The paper's maps for editing: heatmaps of the source text, scaled to its cross-attention, in the place of it.

The paper says no more than that ("we scale these heatmaps based on source text cross-attention", Section IV-B), and the
released code has no editing. What it leaves open is a field of `Calibration`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from elbo_core.captions import find_classes
from elbo_core.checks import check_share
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.heatmaps import Heatmaps, min_max
from elbo_core.methods.align import ConstantScore, ElboScore, Recipe
from elbo_core.methods.observe import observe
from elbo_core.methods.plan import Ask, Plan
from elbo_core.scene import Scene

PHRASES = "a photo of {phrase}"
"""What the model is told when a phrase is scored."""


def keep_mass(attention: Tensor, heatmap: Tensor) -> Tensor:
    """The heatmap [Q], so that each head's and column's sum over the pixels stays that of its attention [h, Q, n]; the
    attention itself, where the heatmap is zero."""
    total = heatmap.sum()
    scaled = heatmap[:, None] * (attention.sum(dim=-2, keepdim=True) / total.clamp(min=1e-12))
    return torch.where(total > 0, scaled, attention)


def keep_range(attention: Tensor, heatmap: Tensor) -> Tensor:
    """The heatmap [Q], so that each head's and column's least and greatest value stay those of its attention
    [h, Q, n]."""
    low, high = attention.amin(dim=-2, keepdim=True), attention.amax(dim=-2, keepdim=True)
    return low + (high - low) * min_max(heatmap, [0])[:, None]


SCALINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mass": keep_mass, "range": keep_range}
"""By what is preserved of the source's attention."""


@dataclass(frozen=True)
class Calibration:
    """How the injected maps of a source text are calibrated.

    recipe: of the heatmaps, one for each phrase of the text. scaling: a name in `SCALINGS`. share: of the heatmap; the
    rest is the source's attention. sums_to_one: whether each pixel's weights on all words are divided by their sum.

    Raises:
        TypeError, ValueError: the scaling is unknown, or the share is no number in [0, 1].
    """

    recipe: Recipe = Recipe.reference()
    scaling: str = "mass"
    share: float = 1.0
    sums_to_one: bool = False

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise ValueError(f"unknown scaling {self.scaling!r}; known: {', '.join(SCALINGS)}")
        check_share(self.share, "share")

    @classmethod
    def with_gamma(cls, gamma: float, recipe: Recipe = Recipe.reference(), scaling: str = "mass") -> Calibration:
        """With the released score of this strength; gamma 1 leaves the heatmaps uncalibrated."""
        score = ConstantScore(1.0) if gamma == 1 else ElboScore(gamma=gamma)
        return cls(replace(recipe, score=score), scaling)

    def __call__(self, attention: Tensor, heatmaps: Tensor, columns: Sequence[Sequence[int]]) -> Tensor:
        """Attention [h, Q, L] with the columns of each phrase replaced by its heatmap, [P, H, W] in [0, 1]."""
        side = round(attention.shape[-2] ** 0.5)
        calibrated = attention.clone()
        for heatmap, own in zip(at_side(heatmaps, side).flatten(1), columns, strict=True):
            theirs = attention[..., list(own)]
            scaled = SCALINGS[self.scaling](theirs, heatmap.to(attention))
            calibrated[..., list(own)] = self.share * scaled + (1 - self.share) * theirs
        return calibrated / calibrated.sum(dim=-1, keepdim=True) if self.sums_to_one else calibrated


def at_side(maps: Tensor, side: int) -> Tensor:
    """Maps [P, H, W] at [P, side, side]: the means of what falls together, or enlarged bilinearly."""
    if maps.shape[-1] >= side:
        return F.adaptive_avg_pool2d(maps, side)
    return F.interpolate(maps[None], size=(side, side), mode="bilinear")[0]


def source_heatmaps(
    denoiser: Denoiser, picture: Tensor, text: str, phrases: Sequence[str], recipes: Sequence[Recipe], key: str
) -> list[Heatmaps]:
    """The heatmaps of a source text's phrases in its picture [3, H, W] by several recipes, from one observation.

    phrases: as they stand in the text; an article does not count as their own. key: names the noise.

    Raises:
        ValueError: a phrase is not in the text, or the text is too long for one caption.
    """
    names = [without_article(phrase) for phrase in phrases]
    scene = Scene(picture.cpu(), tuple(names), key, find_classes(text, names), phrases=tuple(phrases))
    plans = [of_phrases(recipe.needs) for recipe in recipes]
    observation = observe(denoiser, scene, Plan.union(plans))
    return Recipe.read_all(observation, list(zip(recipes, plans, strict=True)))


def of_phrases(plan: Plan) -> Plan:
    """The plan with the whole phrase in the place of the class, where it asks for losses of a template."""
    return replace(plan, losses=tuple(Ask(PHRASES, ask.timesteps) for ask in plan.losses))


def without_article(phrase: str) -> str:
    first, _, rest = phrase.partition(" ")
    return rest if first.lower() in ("a", "an", "the") and rest else phrase
