"""The alignment score: how well the model explains an image when it is told one class (eq. 4 to 6 of the paper)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from elbo_core.diffusion.blocks import in_blocks
from elbo_core.diffusion.schedule import NoiseSchedule, PathPoint
from elbo_core.errors import ScheduleError

if TYPE_CHECKING:
    from elbo_core.diffusion.denoiser import Conditioning, Denoiser

Weighting = Callable[[PathPoint, Tensor], Tensor]


def _velocity(path: PathPoint, losses: Tensor) -> Tensor:
    return ((path.alpha**2 + path.sigma**2) / path.alpha) ** 2


def _flow(path: PathPoint, losses: Tensor) -> Tensor:
    return ((path.alpha + path.sigma) / path.alpha) ** 2


def _relative(path: PathPoint, losses: Tensor) -> Tensor:
    return 1 / losses.double().mean(dim=0)


ESTIMATORS: dict[str, Weighting] = {
    "epsilon": lambda path, losses: torch.ones(losses.shape[1], dtype=torch.float64),
    "velocity": _velocity,
    "flow": _flow,
    "elbo": lambda path, losses: -0.5 * path.log_snr_slope,
    "relative": _relative,
}
"""By name, the weight w(t) [T] of the epsilon-MSE [N, T] at each timestep; a class's loss is the mean of w(t) MSE(t).

epsilon: the plain error. velocity, flow: the squared errors of alpha epsilon - sigma x and epsilon - x. elbo: eq. 4,
literally. "released" stands for what the released code sums: epsilon, or flow for a flow model.
relative: 1 / (mean MSE of the classes), the weighting whose class differences vary least.

Why `relative`: classes share their noise, so two of them differ by (a - b) . (a + b - 2 epsilon) for their noise
estimates a and b. With delta = a - b and a residual of mean square m per entry, that difference has a mean
proportional to |delta|^2 and a variance proportional to |delta|^2 m. The sum over t with the least variance for a
given mean weighs each term by mean over variance, which is 1 / m.
"""


def weights(estimator: str, schedule: NoiseSchedule, timesteps: Tensor, losses: Tensor) -> Tensor:
    """w(t) [T] of an estimator for the epsilon-MSE `losses` [N, T] of the classes at integer `timesteps` [T].

    Raises:
        ValueError: the estimator is unknown.
        ScheduleError: it is infinite at a timestep, as at a terminal SNR of zero.
    """
    if estimator not in ("released", *ESTIMATORS):
        raise ValueError(f"unknown estimator {estimator!r}; known: released, {', '.join(ESTIMATORS)}")
    values = ESTIMATORS[schedule.released_error if estimator == "released" else estimator](
        schedule.at(timesteps), losses
    )
    infinite = timesteps[~values.isfinite()]
    if len(infinite):
        raise ScheduleError(
            f"estimator {estimator!r} has no finite weight at timestep {int(infinite[0])}; leave it out"
        )
    return values


@dataclass(frozen=True)
class ClassLoss:
    """value: the loss of each class, float64 [N]. error: the standard error of its difference to the class mean."""

    value: Tensor
    error: Tensor


def class_loss(losses: Tensor, weight: Tensor) -> ClassLoss:
    """The weighted mean over timesteps of the epsilon-MSE [N, T], and how sure we are of the differences.

    The errors take the timesteps for independent draws, so an even grid does better; one draw has an infinite error.
    """
    terms = losses.double() * weight
    differences = terms - terms.mean(dim=0)
    count = terms.shape[1]
    error = differences.std(dim=1) / count**0.5 if count > 1 else torch.full((len(terms),), torch.inf)
    return ClassLoss(terms.mean(dim=1), error)


STRATEGIES = {"even": (0.0, 1.0), "small": (0.0, 0.2), "middle": (0.4, 0.6), "large": (0.7, 0.9)}


@dataclass(frozen=True)
class Timesteps:
    """Which timesteps to ask (Tables VI, VII and IX): `count` of them, evenly inside the range of a strategy.

    "even" covers [0, 1], "small" [0, 0.2], "middle" [0.4, 0.6], "large" [0.7, 0.9]; "random" draws all from [0, 1]
    once, by `seed`, as the released code does at its start.

    Raises:
        ValueError: the strategy is unknown or the count is not positive.
    """

    strategy: str = "even"
    count: int = 20
    seed: int = 4307

    def __post_init__(self) -> None:
        if self.strategy not in (*STRATEGIES, "random"):
            raise ValueError(f"unknown strategy {self.strategy!r}; known: {', '.join(STRATEGIES)}, random")
        if self.count < 1:
            raise ValueError(f"at least one timestep is needed, got {self.count}")

    def of(self, total: int = 1000) -> tuple[int, ...]:
        """Distinct integer timesteps below `total`, in rising order.

        Raises:
            ValueError: the range holds fewer than `count` timesteps.
        """
        if self.strategy == "random":
            chosen = random.Random(self.seed).sample(range(1, total), min(self.count, total - 1))
        else:
            low, high = STRATEGIES[self.strategy]
            width = (high - low) / self.count
            chosen = {int(round(total * (low + (index + 0.5) * width), 6)) for index in range(self.count)}
        if len(chosen) < self.count:
            raise ValueError(f"{self.strategy!r} holds only {len(chosen)} of {total} timesteps, asked for {self.count}")
        return tuple(sorted(chosen))


def keyed_noise(shape: Sequence[int], seed: int, image_id: str, purpose: str, timesteps: Sequence[int]) -> Tensor:
    """Standard normal noise [T, *shape], float32 on the CPU. Each entry depends only on (seed, image, purpose,
    timestep), never on the batch, the order or the number of processes."""
    return torch.stack([_one_noise(shape, f"{seed}/{image_id}/{purpose}/{timestep}") for timestep in timesteps])


def _one_noise(shape: Sequence[int], key: str) -> Tensor:
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(*shape, generator=generator)


def class_losses(
    denoiser: Denoiser, latents: Tensor, texts: Conditioning, noise: Tensor, timesteps: Tensor, batch_size: int = 32
) -> Tensor:
    """The epsilon-MSE of every class at every timestep, with the same noise for all classes: float32 [N, T].

    latents: [C, h, w]; texts: what the network is told of each of N classes; noise: [T, C, h, w]; timesteps: int [T].

    Raises:
        ValueError: there is no class or no timestep.
    """
    if not len(texts) or not len(timesteps):
        raise ValueError(f"nothing to ask: {len(texts)} classes at {len(timesteps)} timesteps")
    pairs = torch.cartesian_prod(torch.arange(len(texts)), torch.arange(len(timesteps)))  # [N*T, 2]

    def of_block(block: Tensor) -> Tensor:
        of_class, of_time = block.unbind(dim=1)
        epsilon, times = noise[of_time], timesteps[of_time]
        noisy = denoiser.noise(latents.expand(len(block), *latents.shape), epsilon, times)
        predicted = denoiser.predict(noisy, times, texts[of_class])
        return (predicted - epsilon).square().flatten(1).mean(dim=1)

    return torch.cat(in_blocks(of_block, pairs, batch_size)).view(len(texts), len(timesteps))


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
