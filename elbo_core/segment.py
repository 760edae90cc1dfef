"""The whole of the companion in one call: a picture and class names in, calibrated heatmaps and a mask out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.models import load
from elbo_core.images import ImageLike
from elbo_core.methods.align import Heatmaps, Recipe, align
from elbo_core.methods.observe import Observation, Plan, observe
from elbo_core.scene import Scene

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Segmentation:
    """before, after: heatmaps without and with calibration; mask: int64 [H, W], 0 background, k the k-th class."""

    scene: Scene
    observation: Observation
    before: Heatmaps
    after: Heatmaps
    mask: Tensor


def segment(
    model: Denoiser | str,
    image: ImageLike,
    classes: Sequence[str],
    caption: str | None = None,
    recipe: Recipe = Recipe.reference(),
    plan: Plan = Plan(),
    threshold: float = DEFAULT_THRESHOLD,
) -> Segmentation:
    """Find `classes` in `image` with Algorithm 1.

    Without a `caption` the model is shown "a photo of c1, c2, ..."; one of your own must name every class.

    Raises:
        ImageReadError, ValueError, UnsupportedModelError: for a bad picture, class list, caption or model; see
            `Scene.of` and `load`.
    """
    denoiser = load(model) if isinstance(model, str) else model
    scene = Scene.of(image, classes, caption)
    observation = observe(denoiser, scene, plan)
    after = align(observation, recipe)
    return Segmentation(scene, observation, align(observation, recipe.off()), after, after.mask(threshold))
