"""The noise schedule of a diffusers scheduler: z_t = alpha(t) x + sigma(t) epsilon.

Its log-SNR is lambda(t) = ln(alpha^2 / sigma^2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha, sigma: float64 [T], indexed by integer timestep, as the scheduler trained with them."""

    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, scheduler: SchedulerMixin) -> NoiseSchedule:
        """Read the schedule of any DDPM-like scheduler (DDIM, PNDM, Euler, ... share `alphas_cumprod`).

        Raises:
            TypeError: the scheduler has no `alphas_cumprod`, so it is not of the DDPM family.
        """
        if not hasattr(scheduler, "alphas_cumprod"):
            raise TypeError(
                f"{type(scheduler).__name__} has no alphas_cumprod; use a pipeline with a DDPM-like scheduler"
            )
        alpha_squared = scheduler.alphas_cumprod.double()
        return cls(alpha_squared.sqrt(), (1 - alpha_squared).sqrt())

    def __len__(self) -> int:
        return len(self.alpha)

    def at(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), each float64 [T'], at integer `timesteps` [T'].

        Raises:
            ValueError: a timestep lies outside 0 .. len(self) - 1.
        """
        bad = timesteps[(timesteps < 0) | (timesteps >= len(self))]
        if len(bad):
            raise ValueError(f"timestep {int(bad[0])} is outside 0..{len(self) - 1}")
        index = timesteps.cpu()
        return self.alpha[index], self.sigma[index]

    def log_snr(self, timesteps: Tensor) -> Tensor:
        """lambda(t) = ln(alpha^2/sigma^2), float64 [T']."""
        alpha, sigma = self.at(timesteps)
        return 2 * (alpha.log() - sigma.log())

    def log_snr_slope(self, timesteps: Tensor) -> Tensor:
        """d lambda / dt for t over [0, 1], by central differences on the timestep grid (one-sided at its ends)."""
        last = len(self) - 1
        after, before = (timesteps + 1).clamp(max=last), (timesteps - 1).clamp(min=0)
        return (self.log_snr(after) - self.log_snr(before)) / (after - before) * len(self)


def broadcast(values: Tensor, like: Tensor) -> Tensor:
    """Per-sample `values` [B] shaped to multiply `like` [B, ...], in its dtype and on its device."""
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(-1, *(1,) * (like.ndim - 1))
