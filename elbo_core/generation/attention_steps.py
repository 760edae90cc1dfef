"""What Attend-and-Excite and SynGen share: the latents step along a gradient of the cross-attention, in some steps."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from elbo_core.diffusion.attention import CrossAttention
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.sampling import Moment
from elbo_core.errors import UnsupportedModelError
from elbo_core.generation.method import GenerationHook

QUERIES = 256
"""Both methods read the layers that look from 16 x 16 places: in Stable Diffusion 1, a quarter of the latents' side."""


def attention_side(cross: CrossAttention, denoiser: Denoiser) -> int:
    """The side of the maps to read: 16 where the model has such layers, as published for Stable Diffusion 1; else a
    quarter of the latents' side, as diffusers generalises it.

    Raises:
        UnsupportedModelError: the model has neither.
    """
    quarter = math.ceil(denoiser.latent_shape[-1] / 4)
    sides = [layer.side for layer in cross.layers]
    for side in (math.isqrt(QUERIES), quarter):
        if side in sides:
            return side
    raise UnsupportedModelError(
        f"{denoiser.name} has text attention of the sides {sorted(set(sides))}; this method reads side 16 or {quarter}"
    )


def mean_maps(cross: CrossAttention, side: int) -> Tensor:
    """The attention [B, side * side, L] on each text column, averaged over the layers of one side and their heads."""
    layers = [layer for layer in cross.layers if layer.side == side]
    selector = torch.eye(layers[0].columns)
    return torch.stack([layer(selector) for layer in layers]).mean(dim=0)


class AttentionSteps(GenerationHook):
    """Follows, before a step, the gradient of a loss of the conditional attention. Each picture's loss depends on that
    picture alone, so that the gradients of a batch are those of its pictures.

    last: the part of the steps that are interfered with.
    """

    def __init__(self, acts: Sequence[bool], last: float):
        super().__init__(acts)
        self.last = last

    @abstractmethod
    def losses(self, maps: Tensor, pictures: Tensor) -> Tensor:
        """A loss [b] for each of some pictures, by their position [b] in the batch, from their maps [b, side^2, L]."""

    def is_due(self, moment: Moment) -> bool:
        return moment.step < round(self.last * moment.steps) and bool(self.acts.any())

    def descend(self, moment: Moment, pictures: Tensor, size: float) -> tuple[Moment, Tensor]:
        """The moment after one gradient step of this size for some pictures, and their losses [b] before it. Where the
        loss is zero, nothing changes."""
        rows = pictures.to(moment.latents.device)
        with torch.enable_grad():
            latents = moment.latents[rows].detach().requires_grad_()
            losses = self._losses(moment, latents, pictures)
            (gradient,) = torch.autograd.grad(losses.sum(), latents)
        stepped = moment.latents.clone()
        stepped[rows] = latents.detach() - size * gradient
        return replace(moment, latents=stepped), losses.detach().cpu()

    def _losses(self, moment: Moment, latents: Tensor, pictures: Tensor) -> Tensor:
        denoiser = moment.denoiser
        _, (cross, _) = denoiser.respond_and_attend(latents, moment.timesteps[pictures], moment.text[pictures])
        self.evaluations[pictures] += 1
        return self.losses(mean_maps(cross, attention_side(cross, denoiser)), pictures)
