"""The alignment score: how well the model explains an image when it is told one class (eq. 4 to 6 of the paper)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from elbo_core.checks import check_share
from elbo_core.diffusion.blocks import in_blocks
from elbo_core.diffusion.schedule import NoiseSchedule, PathPoint
from elbo_core.errors import ScheduleError
from elbo_core.heatmaps import min_max

if TYPE_CHECKING:
    from elbo_core.diffusion.denoiser import Conditioning, Denoiser

Weighting = Callable[[PathPoint, Tensor], Tensor]


def _velocity(path: PathPoint, losses: Tensor) -> Tensor:
    return ((path.alpha**2 + path.sigma**2) / path.alpha) ** 2


def _flow(path: PathPoint, losses: Tensor) -> Tensor:
    return ((path.alpha + path.sigma) / path.alpha) ** 2


def _relative(path: PathPoint, losses: Tensor) -> Tensor:
    return 1 / losses.double().mean(dim=0)


def _epsilon(path: PathPoint, losses: Tensor) -> Tensor:
    return torch.ones(losses.shape[1], dtype=torch.float64)


def _elbo(path: PathPoint, losses: Tensor) -> Tensor:
    return -0.5 * path.log_snr_slope


ESTIMATORS: dict[str, Weighting] = {
    "epsilon": _epsilon,
    "velocity": _velocity,
    "flow": _flow,
    "elbo": _elbo,
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


def check_estimator(estimator: str) -> None:
    """
    Raises:
        ValueError: the estimator is unknown.
    """
    if estimator not in ("released", *ESTIMATORS):
        raise ValueError(f"unknown estimator {estimator!r}; known: released, {', '.join(ESTIMATORS)}")


def check_gamma(gamma: float) -> None:
    """
    Raises:
        TypeError, ValueError: gamma is no number in (0, 1].
    """
    if not check_share(gamma, "gamma") > 0:
        raise ValueError(f"gamma must lie in (0, 1], got {gamma}")


def weights(estimator: str, schedule: NoiseSchedule, timesteps: Tensor, losses: Tensor) -> Tensor:
    """w(t) [T] of an estimator for the epsilon-MSE `losses` [N, T] of the classes at integer `timesteps` [T].

    Raises:
        ValueError: see `check_estimator`.
        ScheduleError: it is infinite at a timestep, as at a terminal SNR of zero.
    """
    check_estimator(estimator)
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


def class_losses(
    denoiser: Denoiser, latents: Tensor, texts: Conditioning, noise: Tensor, timesteps: Tensor, batch_size: int = 32
) -> Tensor:
    """The epsilon-MSE of every class at every timestep, with the same noise for all classes: float32 [N, T].

    latents: [C, h, w]; texts: what the network is told of each of N classes; noise: [T, C, h, w]; timesteps: int [T].

    Raises:
        ValueError: there is no class or no timestep.
    """
    return _errors(denoiser, latents, texts, noise, timesteps, batch_size, mean_square)


def error_maps(
    denoiser: Denoiser, latents: Tensor, texts: Conditioning, noise: Tensor, timesteps: Tensor, batch_size: int = 32
) -> Tensor:
    """The same before the mean and the square: the errors estimate - noise, float32 [N, T, C, h, w] on the CPU.

    Raises:
        ValueError: there is no class or no timestep.
    """
    return _errors(denoiser, latents, texts, noise, timesteps, batch_size, Tensor.cpu)


def mean_square(errors: Tensor) -> Tensor:
    """The epsilon-MSE [...] of errors [..., C, h, w]."""
    return errors.square().flatten(-3).mean(dim=-1)


def _errors(
    denoiser: Denoiser, latents: Tensor, texts: Conditioning, noise: Tensor, timesteps: Tensor, batch_size: int,
    kept: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """What is `kept` of the errors [B, C, h, w] of a pass, for every text and timestep: [N, T, ...]."""
    if not len(texts) or not len(timesteps):
        raise ValueError(f"nothing to ask: {len(texts)} classes at {len(timesteps)} timesteps")
    pairs = torch.cartesian_prod(torch.arange(len(texts)), torch.arange(len(timesteps)))  # [N*T, 2]

    def of_block(block: Tensor) -> Tensor:
        of_class, of_time = block.unbind(dim=1)
        epsilon, times = noise[of_time], timesteps[of_time]
        noisy = denoiser.noise(latents.expand(len(block), *latents.shape), epsilon, times)
        return kept(denoiser.predict(noisy, times, texts[of_class]) - epsilon)

    return torch.cat(in_blocks(of_block, pairs, batch_size)).unflatten(0, (len(texts), len(timesteps)))


def alignment_score(class_loss: Tensor, gamma: float) -> Tensor:
    """S = gamma^norm(loss) in [gamma, 1] for losses [N] (eq. 5); the lowest loss, the best explained class, gets 1.

    One class, or equal losses, give S = 1.

    Raises:
        ValueError: gamma is not in (0, 1], or a loss is not finite.
    """
    check_gamma(gamma)
    if not class_loss.isfinite().all():
        raise ValueError(f"class losses must be finite, got {class_loss.tolist()}")
    return gamma ** min_max(class_loss, [0])
