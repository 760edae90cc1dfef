"""Whether a network predicts what its scheduler says, tried on pictures as they come."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from elbo_core.diffusion.objectives import conversion
from elbo_core.diffusion.schedule import NoiseSchedule

PREDICTION_TYPES = "epsilon", "v_prediction", "sample"
"""Those that one schedule, a variance-preserving one, leaves open."""
PICTURES = 4
"""So many are tried at most."""


@dataclass
class Trial:
    """The trial of one network with one scheduler.

    At 0.7 of the schedule the right prediction type has a third of the error of all others. A network that is no better
    under any than the best linear guess from the noisy latents alone proves nothing: it is untrained, or the picture
    is like none that it knows. Then the next picture is tried.
    """

    left: int = PICTURES

    def on(
        self, latents: Tensor, declared: str, schedule: NoiseSchedule, predict: Callable[[Tensor, Tensor], Tensor],
        name: str,
    ) -> None:  # fmt: skip
        """Warn if another prediction type reads the network far better than the declared one.

        latents: [C, h, w]. predict: noisy latents [1, C, h, w] and timestep [1] -> the network's own output.
        """
        if not self.left:
            return
        self.left -= 1
        errors, guess = _errors(latents, schedule, predict)
        best = min(errors, key=lambda kind: errors[kind])
        if errors[best] > 0.7 * guess:
            return
        self.left = 0
        if errors[declared] > 2 * errors[best]:
            warnings.warn(
                f"{name} says prediction_type={declared!r}, but its network seems to predict {best!r}: read so, its "
                f"error is {errors[best]:.3f} instead of {errors[declared]:.3f}; check the scheduler's config",
                stacklevel=2,
            )


def _errors(
    latents: Tensor, schedule: NoiseSchedule, predict: Callable[[Tensor, Tensor], Tensor]
) -> tuple[dict[str, float], float]:
    """The epsilon-MSE of one pass under each prediction type, and that of the best linear guess."""
    timestep = torch.tensor([7 * len(schedule) // 10])
    path = schedule.at(timestep).like(latents[None])
    generator = torch.Generator().manual_seed(0)
    epsilon = torch.randn(1, *latents.shape, generator=generator, dtype=torch.float32).to(latents)
    noisy = path.alpha * latents + path.sigma * epsilon
    output = predict(noisy, timestep)
    errors = {
        kind: (conversion(kind)(output, noisy, path) - epsilon).square().mean().item() for kind in PREDICTION_TYPES
    }
    signal, noise = path.alpha.square() * latents.square().mean(), path.sigma.square()
    return errors, (signal / (signal + noise)).item()
