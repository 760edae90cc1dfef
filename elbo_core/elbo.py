"""The alignment score: how well the model explains an image when it is told one class (eq. 4 to 6 of the paper)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from elbo_core.schedule import NoiseSchedule

if TYPE_CHECKING:
    from elbo_core.denoiser import Denoiser

Weighting = Callable[[NoiseSchedule, Tensor], Tensor]


def _velocity(schedule: NoiseSchedule, timesteps: Tensor) -> Tensor:
    alpha, sigma = schedule.at(timesteps)
    return ((alpha**2 + sigma**2) / alpha) ** 2


def _flow(schedule: NoiseSchedule, timesteps: Tensor) -> Tensor:
    alpha, sigma = schedule.at(timesteps)
    return ((alpha + sigma) / alpha) ** 2


ESTIMATORS: dict[str, Weighting] = {
    "epsilon": lambda schedule, timesteps: torch.ones(len(timesteps), dtype=torch.float64),
    "velocity": _velocity,
    "flow": _flow,
    "elbo": lambda schedule, timesteps: -0.5 * schedule.log_snr_slope(timesteps),
}
"""By name, the weight w(t) [T] of the epsilon-MSE at each timestep; a class's loss is sum_t w(t) MSE(t).

epsilon: what the released code sums. velocity, flow: the squared errors of those targets. elbo: eq. 4, literally.
"""


def keyed_noise(shape: Sequence[int], seed: int, image_id: str, purpose: str, timesteps: Sequence[int]) -> Tensor:
    """Standard normal noise [T, *shape], float32 on the CPU. Each entry depends only on (seed, image, purpose,
    timestep), never on the batch, the order or the number of processes."""
    return torch.stack([_one_noise(shape, f"{seed}/{image_id}/{purpose}/{timestep}") for timestep in timesteps])


def _one_noise(shape: Sequence[int], key: str) -> Tensor:
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(*shape, generator=generator)


def class_losses(
    denoiser: Denoiser, latents: Tensor, texts: Tensor, noise: Tensor, timesteps: Tensor, batch_size: int = 32
) -> Tensor:
    """The epsilon-MSE of every class at every timestep, with the same noise for all classes: float32 [N, T].

    latents: [C, h, w]; texts: [N, L, d], one conditioning per class; noise: [T, C, h, w]; timesteps: int [T].
    """
    pairs = torch.cartesian_prod(torch.arange(len(texts)), torch.arange(len(timesteps)))  # [N*T, 2]
    losses = []
    for block in pairs.split(batch_size):
        of_class, of_time = block.unbind(dim=1)
        epsilon, times = noise[of_time], timesteps[of_time]
        noisy = denoiser.noise(latents.expand(len(block), *latents.shape), epsilon, times)
        predicted = denoiser.predict(noisy, times, texts[of_class])
        losses.append((predicted - epsilon).square().flatten(1).mean(dim=1))
    return torch.cat(losses).view(len(texts), len(timesteps))


ROUNDING = 2e-6
"""Relative differences below this are the rounding of single precision, not information."""


def min_max(values: Tensor, dims: Sequence[int]) -> Tensor:
    """Scale to [0, 1] over `dims`; what is constant there, up to rounding, becomes 0, never NaN or amplified noise."""
    low, high = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    spread = high - low
    varies = spread > ROUNDING * torch.maximum(low.abs(), high.abs())
    return torch.where(varies, (values - low) / torch.where(varies, spread, 1.0), 0.0)


def alignment_score(class_loss: Tensor, gamma: float) -> Tensor:
    """S = gamma^norm(loss) in [gamma, 1] for losses [N] (eq. 5); the lowest loss, the best explained class, gets 1.

    One class, or equal losses, give S = 1.

    Raises:
        ValueError: gamma is not in (0, 1], or a loss is not finite.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must lie in (0, 1], got {gamma}")
    if not class_loss.isfinite().all():
        raise ValueError(f"class losses must be finite, got {class_loss.tolist()}")
    return gamma ** min_max(class_loss, [0])
