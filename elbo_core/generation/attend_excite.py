"""Attend-and-Excite (Chefer et al. 2023): no thing of the prompt may be without a place that looks at it.

Constants and order of the official code (yuval-alaluf/Attend-and-Excite at 163efdf); see the fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.sampling import Moment
from elbo_core.generation.attention_steps import AttentionSteps
from elbo_core.generation.method import Described, GenerationMethod, Pieces, word_columns

SHARPNESS = 100
"""Attention is multiplied by it before the softmax over tokens."""


@dataclass(frozen=True)
class AttendAndExcite(GenerationMethod):
    """Each noun's smoothed map is to reach a high maximum; the worst one counts. Nouns of several pieces count by their
    last. A prompt without a noun is left alone.

    step_size: of the gradient steps, times the square root of what falls from 1 to `step_end` over all steps.
    last: the part of the steps with an update. refine_at, targets: at these parts of the steps, it is repeated until
    the worst maximum reaches the target, at most `refinements` times. words_only: softmax over the words alone, as the
    official code does for Stable Diffusion 2.1, instead of over all columns but the first and the last.
    """

    amplifies_rounding: ClassVar[bool] = True
    step_size: float = 20.0
    step_end: float = 0.5
    last: float = 0.5
    refine_at: tuple[float, ...] = (0.0, 0.2, 0.4)
    targets: tuple[float, ...] = (0.05, 0.5, 0.8)
    refinements: int = 20
    words_only: bool = False

    def hook(self, denoiser: Denoiser, prompts: Sequence[Described]) -> Excitement:
        return Excitement(self, denoiser, prompts)


class Excitement(AttentionSteps):
    """The hook of `AttendAndExcite`."""

    def __init__(self, method: AttendAndExcite, denoiser: Denoiser, prompts: Sequence[Described]):
        super().__init__([bool(prompt.mentions) for prompt in prompts], method.last)
        self.method = method
        texts = [prompt.text for prompt in prompts]
        length = denoiser.encode_text([""]).embeddings.shape[1]
        nouns = Pieces.of(denoiser, texts, [[own.noun for own in prompt.mentions] for prompt in prompts], length)
        self.picture, self.column = nouns.picture, torch.tensor([own[-1] for own in nouns.columns], dtype=torch.long)
        self.counted = torch.zeros(len(prompts), length, dtype=torch.bool)
        for row, text in enumerate(texts):
            self.counted[row, list(word_columns(denoiser, text)) if method.words_only else slice(1, -1)] = True

    def before(self, moment: Moment) -> Moment:
        if not self.is_due(moment):
            return moment
        pictures = self.acts.nonzero()[:, 0]
        size = self.step_size(moment)
        for part, target in zip(self.method.refine_at, self.method.targets, strict=True):
            if moment.step == round(part * moment.steps):
                moment = self._refine(moment, pictures, size, target)
        return self.descend(moment, pictures, size)[0]

    def step_size(self, moment: Moment) -> float:
        falling = torch.linspace(1, self.method.step_end, moment.steps, dtype=torch.float64)[moment.step]
        return self.method.step_size * falling.sqrt().item()

    def _refine(self, moment: Moment, pictures: Tensor, size: float, target: float) -> Moment:
        """Steps until the loss, as it was before the last of them, is as low as the target asks."""
        with torch.no_grad():
            losses = self._losses(moment, moment.latents[pictures.to(moment.latents.device)], pictures).cpu()
        for _ in range(self.method.refinements):
            pictures = pictures[losses > 1 - target]
            if not len(pictures):
                break
            moment, losses = self.descend(moment, pictures, size)
        return moment

    def losses(self, maps: Tensor, pictures: Tensor) -> Tensor:
        """1 - the lowest of the nouns' highest values, [b]."""
        place = torch.full((len(self.acts),), -1).index_put((pictures,), torch.arange(len(pictures)))
        mine = place[self.picture] >= 0
        rows, columns = place[self.picture[mine]].to(maps.device), self.column[mine].to(maps.device)
        counted = self.counted[pictures].to(maps.device)[:, None]
        shares = (SHARPNESS * maps).masked_fill(~counted, -torch.inf).softmax(dim=-1)
        peaks = smooth(shares[rows, :, columns]).amax(dim=-1)
        lowest = torch.ones(len(pictures), device=maps.device, dtype=maps.dtype)
        lowest = lowest.scatter_reduce(0, rows, peaks, "amin", include_self=False)
        return (1 - lowest).clamp(min=0)


def smooth(maps: Tensor) -> Tensor:
    """Square maps [M, side^2] under a 3 x 3 filter, mirrored at the border. Its exponent is that of the official code,
    -(x / (2 sigma))^2 with sigma 0.5: a Gaussian of standard deviation 0.71."""
    side = round(maps.shape[-1] ** 0.5)
    axis = torch.exp(-torch.arange(-1.0, 2.0).square()).to(maps)
    kernel = torch.outer(axis, axis)
    padded = F.pad(maps.unflatten(-1, (side, side))[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, (kernel / kernel.sum())[None, None]).flatten(1)
