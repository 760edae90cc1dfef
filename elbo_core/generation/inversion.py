"""Where an edit starts: from noise, or from a real picture that is carried back to the noise that it came from.

Source: Song et al. 2021 for DDIM's inversion; Mokady et al. 2023, google/prompt-to-prompt (9c472e4,
`null_text_w_ptp.ipynb`) for null-text optimisation. (The released code of the paper holds a copy of it that nobody
calls, with both schedules reversed, `utils/diffusion.py:256-352`.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from elbo_core.diffusion.denoiser import Conditioning, Denoiser
from elbo_core.diffusion.sampling import Grid, Moment, ReleasedGrid, Step, take

INNER_STEPS = 10


@dataclass(frozen=True)
class Start:
    """Where a source picture begins, and what holds it on its way; here nothing does.

    noise: [C, h, w]. key: names the source, and thereby the noise of what is asked of it. picture: [3, H, W], if it is
    known beforehand.
    """

    noise: Tensor
    key: str
    picture: Tensor | None = None

    def negative(self, moment: Moment) -> Conditioning:
        """What a step is guided away from."""
        return moment.negative

    def source_after(self, step: Step) -> Tensor:
        """The source's latents [C, h, w] after a step."""
        return step.latents[0]


@dataclass(frozen=True)
class Inversion(Start):
    """The noise that a picture came from, and the way there without guidance.

    latents: [steps + 1, C, h, w], from the noise to the picture. Guidance leads the source off this way; `Pinned` and
    `NullText` hold it.
    """

    latents: Tensor = torch.empty(0)


@dataclass(frozen=True)
class Pinned(Inversion):
    """The source is put back on the way of the inversion after every step. So it is kept exactly, at no cost, and its
    attention is that of the picture itself; the edits start from the same noise (Ju et al. 2024, "direct inversion").
    """

    def source_after(self, step: Step) -> Tensor:
        return self.latents[step.moment.step + 1]


@dataclass(frozen=True)
class NullText(Inversion):
    """Each step is guided away from its own text, optimised so that guidance leads along the way of the inversion.

    negatives: by step, of one text each.
    """

    negatives: tuple[Conditioning, ...] = ()

    def negative(self, moment: Moment) -> Conditioning:
        return self.negatives[moment.step][torch.zeros(len(moment.latents), dtype=torch.long)]


@torch.no_grad()
def invert(
    denoiser: Denoiser, picture: Tensor, text: str, key: str, sampler: ReleasedGrid = ReleasedGrid()
) -> Inversion:
    """DDIM backwards, without guidance: the noise that leads to a picture [3, H, W] of `text`.

    Each step from a timestep to a noisier one takes the noise estimate at the noisier one, as the original's
    `ddim_loop` does.
    """
    told, grid = denoiser.encode_text([text]), sampler.trajectory(denoiser)
    latents = [denoiser.encode_image(picture)[None]]
    for here, there in _upwards(grid):
        time = torch.tensor([there], dtype=torch.float64)
        epsilon = denoiser.predict(latents[-1], time, told)
        start = denoiser.schedule.at(torch.tensor([here], dtype=torch.float64)).like(epsilon)
        clean = (latents[-1] - start.sigma * epsilon) / start.alpha
        latents.append(denoiser.noise(clean, epsilon, time))
    way = torch.cat(latents[::-1])
    return Inversion(way[0], key, picture, way)


def _upwards(grid: Grid) -> list[tuple[float, float]]:
    """The steps of a grid from its last timestep to its first."""
    return list(pairwise([grid.last, *reversed(grid.timesteps)]))


def pin(inversion: Inversion) -> Pinned:
    """The same, with the source held on its way."""
    return Pinned(**vars(inversion))


def optimise_null_text(
    denoiser: Denoiser,
    inversion: Inversion,
    text: str,
    scale: float | None = None,
    inner_steps: int = INNER_STEPS,
    sampler: ReleasedGrid = ReleasedGrid(),
) -> NullText:
    """Step by step, the empty text's embedding that leads guidance of this scale to where the inversion was.

    Adam with the learning rate 0.01 (1 - i/100) at step i, at most `inner_steps` times, until the latents' mean square
    error is below 1e-5 + 2e-5 i; each step begins with what the step before ended with.
    """
    grid, told, negative = sampler.trajectory(denoiser), denoiser.encode_text([text]), denoiser.encode_text([""])
    scale = denoiser.guidance_scale if scale is None else scale
    latents, negatives = inversion.latents[:1], []
    for step, timestep in enumerate(grid.timesteps):
        moment = Moment(denoiser, step, len(grid.timesteps), timestep, latents, told, negative)
        negative = _optimised(moment, grid, scale, inversion.latents[step + 1 : step + 2], inner_steps)
        latents = take(replace(moment, negative=negative), grid, scale).latents
        negatives.append(negative)
    return NullText(**vars(inversion), negatives=tuple(negatives))


def _optimised(moment: Moment, grid: Grid, scale: float, goal: Tensor, inner_steps: int) -> Conditioning:
    """The moment's negative text, so that its step leads to the latents `goal` [1, C, h, w]."""
    denoiser, step = moment.denoiser, moment.step
    embeddings = moment.negative.embeddings.detach().clone().float().requires_grad_(True)
    adam = torch.optim.Adam([embeddings], lr=0.01 * (1 - step / 100))
    with torch.no_grad():
        conditional = denoiser.respond(moment.latents, moment.timesteps, moment.text)
    for _ in range(inner_steps):
        with torch.enable_grad():
            unconditional = denoiser.respond(
                moment.latents, moment.timesteps, replace(moment.negative, embeddings=embeddings)
            )
            guided = unconditional + scale * (conditional - unconditional)
            loss = (grid.advance(step, moment.latents, guided) - goal).square().mean()
        (embeddings.grad,) = torch.autograd.grad(loss, [embeddings])
        adam.step()
        if loss.item() < 1e-5 + 2e-5 * step:
            break
    return replace(moment.negative, embeddings=embeddings.detach().to(moment.negative.embeddings))


def psnr(picture: Tensor, other: Tensor, where: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two pictures [3, H, W] in [0, 1], on the pixels `where`, bool [H, W], or on
    all; infinite if they are equal there, NaN if there are no such pixels."""
    errors = (picture - other).square().mean(dim=0)
    error = float((errors if where is None else errors[where]).mean())
    return float("inf") if error == 0 else -10 * torch.log10(torch.tensor(error)).item()
