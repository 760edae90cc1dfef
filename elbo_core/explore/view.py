"""What the explorer shows of a picture, as numbers: one observation, read again at every setting."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from elbo_core.diffusion.attention import AttentionLayer
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.experiments.rows import READINGS
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.align import ElboScore, Recipe, align
from elbo_core.methods.observe import CaptionAttention, Observation, observe
from elbo_core.methods.plan import ATTENTION_TIMESTEPS, Plan
from elbo_core.metrics import mask_ious
from elbo_core.scene import Scene

FURTHER_TIMESTEPS = (400, 600, 800)
"""Beside those of the released code, so that one can see where in the noise a word is."""
TIMESTEPS = (20, 100, 200, *FURTHER_TIMESTEPS)
"""Those that can be looked at alone."""


@dataclass(frozen=True)
class Settings:
    """How an observation is read, and where one looks.

    reading: a name in `rows.READINGS`. gamma, threshold: of score and mask. timestep: of the attention, or None for the
    mean over those of the released code. layer: of the cross-attention by its position, read as it is, without
    refinement; or None for those of the reading. pixel: (x, y) in the picture. wipe: the share of the picture, from
    the left, where the mask before calibration is shown.
    """

    reading: str = "late layers"
    gamma: float = 1 / 3
    threshold: float = 0.5
    timestep: int | None = None
    layer: int | None = None
    pixel: tuple[int, int] = (0, 0)
    wipe: float = 0.5


@dataclass(frozen=True)
class Subject:
    """A picture, and all that a model said about it."""

    model: str
    scene: Scene
    observation: Observation

    @property
    def layers(self) -> list[AttentionLayer]:
        """The cross-attention layers, in the order in which they run."""
        return list(self.observation.attention.captions[0].cross.layers)


@dataclass(frozen=True)
class Look:
    """What one setting shows.

    before, after: heatmaps without and with calibration. masks: theirs, int64 [H, W]. ious: of each with the truth, the
        mean over the classes in percent, or NaN where there is no truth.
    attended: float32 [side, side], how much the pixel looks at each place of the picture, at most 1.
    """

    before: Heatmaps
    after: Heatmaps
    masks: tuple[Tensor, Tensor]
    ious: tuple[float, float]
    attended: Tensor


def look_at(denoiser: Denoiser, scene: Scene) -> Subject:
    """Ask the model: the only slow step, about two seconds for a toy model.

    Raises:
        ValueError: the scene has no class.
    """
    if not scene.classes:
        raise ValueError("tick at least one class to look for")
    plan = Plan.of(attention_timesteps=(*ATTENTION_TIMESTEPS, *FURTHER_TIMESTEPS))
    return Subject(denoiser.name, scene, observe(denoiser, scene, plan))


def look(subject: Subject, settings: Settings) -> Look:
    """Read what was observed at one setting: some hundredths of a second.

    Raises:
        ValueError: a setting is unknown or out of range.
    """
    observation, recipe = _narrowed(subject.observation, settings), _recipe(settings)
    before, after = align(observation, recipe.off()), align(observation, recipe)
    masks = (before.mask(settings.threshold), after.mask(settings.threshold))
    ious = (_mean_iou(masks[0], subject.scene), _mean_iou(masks[1], subject.scene))
    return Look(before, after, masks, ious, attended(observation, settings.pixel))


def _recipe(settings: Settings) -> Recipe:
    if settings.reading not in READINGS:
        raise ValueError(f"unknown reading {settings.reading!r}; known: {', '.join(READINGS)}")
    recipe = replace(READINGS[settings.reading], score=ElboScore(gamma=settings.gamma))
    return recipe if settings.layer is None else replace(recipe, layer_weights="uniform", refinements=())


def _narrowed(observation: Observation, settings: Settings) -> Observation:
    """The observation at the timestep and in the layer that are looked at."""
    times = ATTENTION_TIMESTEPS if settings.timestep is None else (settings.timestep,)
    narrowed = observation.under(Plan.of(attention_timesteps=times))
    if settings.layer is None:
        return narrowed
    (attention,) = narrowed.all_attention
    captions = tuple(_one_layer(caption, settings.layer) for caption in attention.captions)
    return replace(narrowed, all_attention=(replace(attention, captions=captions),))


def _one_layer(caption: CaptionAttention, layer: int) -> CaptionAttention:
    if not 0 <= layer < len(caption.cross.layers):
        raise ValueError(f"layer must be one of 0 to {len(caption.cross.layers) - 1}, got {layer}")
    return replace(caption, cross=replace(caption.cross, layers=(caption.cross.layers[layer],)))


def _mean_iou(mask: Tensor, scene: Scene) -> float:
    if scene.label_map is None:
        return float("nan")
    return float(np.nanmean(mask_ious(mask.numpy(), scene.truth, len(scene.classes))))


def attended(observation: Observation, pixel: tuple[int, int]) -> Tensor:
    """How much one pixel (x, y) looks at each place of the picture: float32 [side, side], divided by the maximum; the
    mean over timesteps and over the finest layers of the self-attention."""
    attention = observation.attention.captions[0].self_attention
    height, width = observation.image_size
    row, column = (min(at * attention.side // size, attention.side - 1) for at, size in
                   ((pixel[1], height), (pixel[0], width)))  # fmt: skip
    finest = [layer for layer in attention.layers if layer.side == attention.side]
    weights = torch.stack([_weights_of(layer, row * layer.side + column) for layer in finest]).mean(dim=0)
    return (weights / weights.max()).reshape(attention.side, attention.side)


def _weights_of(layer: AttentionLayer, place: int) -> Tensor:
    """The weights [side * side] that one place gives to all places, the mean over timesteps and heads: one row of the
    matrix that is never stored."""
    query = layer.query[:, :, place : place + 1].float()
    logits = layer.scale * query @ layer.key.float().mT
    if layer.bias is not None:
        logits = logits + (layer.bias if layer.bias.shape[2] == 1 else layer.bias[:, :, place : place + 1]).float()
    weights = logits.softmax(dim=-1).mean(dim=(0, 1, 2))
    return (weights if layer.part is None else weights[layer.part.start : layer.part.stop]).cpu()
