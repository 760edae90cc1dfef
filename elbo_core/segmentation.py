"""The whole of the companion in one call: a picture and class names in, calibrated heatmaps and a mask out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from elbo_core.checks import check_share
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.models import load
from elbo_core.heatmaps import Heatmaps
from elbo_core.images import ImageLike
from elbo_core.methods.align import Recipe
from elbo_core.methods.method import Method
from elbo_core.methods.named import method_of
from elbo_core.methods.observe import Observation, observe
from elbo_core.methods.plan import Plan
from elbo_core.scene import Scene

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Segmentation:
    """after: the heatmaps of the method; mask: theirs, int64 [H, W], 0 background, k the k-th class.

    before: the heatmaps of Algorithm 1 without calibration; None for another method, which calibrates nothing.
    """

    scene: Scene
    observation: Observation
    before: Heatmaps | None
    after: Heatmaps
    mask: Tensor


def segment(
    model: Denoiser | DiffusionPipeline | str | os.PathLike,
    image: ImageLike,
    classes: Iterable[str],
    caption: str | None = None,
    method: str | Method = "reference",
    plan: Plan | None = None,
    threshold: float = DEFAULT_THRESHOLD,
) -> Segmentation:
    """Find `classes` in `image`, with Algorithm 1 or another method: one of `methods.named.METHODS` or of your own.

    Without a `caption` the model is shown "a photo of c1, c2, ..."; one of your own must name every class. `plan` is
    what the model is asked; by default what the method needs.

    Raises:
        ImageReadError, TypeError, ValueError, UnsupportedModelError: for a bad picture, class list, caption, method,
            threshold or model; see `Scene.of` and `load`; or the plan lacks what the method needs.
    """
    threshold = check_share(threshold, "threshold")
    method = method_of(method)
    scene = Scene.of(image, classes, caption)
    denoiser = model if isinstance(model, Denoiser) else load(model)
    plan = plan or method.needs
    observation = observe(denoiser, scene, plan)
    if isinstance(method, Recipe):
        before, after = Recipe.read_all(observation, [(method.off(), plan), (method, plan)])
    else:
        before, after = None, method(observation)
    return Segmentation(scene, observation, before, after, after.mask(threshold))
