"""A world whose likelihood is known: Gaussian mixtures, with their perfect denoiser in closed form.

Here the claim behind the paper's score can be checked to the last constant. With the perfect denoiser,

    -log p(x) = KL(q(z_1|x) || p(z_1))                       the prior term
              + 1/2 E_t,eps[-lambda'(t) |eps_hat - eps|^2]   the diffusion loss, eq. 4
              + E[-log p(x|z_0)]                             the reconstruction term

holds with equality (Kingma et al. 2021, eq. 11 to 18; the I-MMSE relation of Guo, Shamai and Verdu 2005).
Here z_0 and z_1 are the first and the last noisy latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elbo_core.diffusion.objectives import OBJECTIVES
from elbo_core.diffusion.schedule import NoiseSchedule, PathPoint

BLOCKS = 50


@dataclass(frozen=True)
class GaussianMixture:
    """Isotropic Gaussians in D dimensions: weights [K] that sum to 1, means [K, D], variances [K]; float64."""

    weights: Tensor
    means: Tensor
    variances: Tensor

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) [B] of points [B, D]."""
        return self._log_joint(x).logsumexp(dim=1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Points [count, D]."""
        component = self.weights.multinomial(count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], dtype=torch.float64, generator=generator)
        return self.means[component] + self.variances[component, None].sqrt() * noise

    def noised(self, alpha: float, sigma: float) -> GaussianMixture:
        """The distribution of z = alpha x + sigma epsilon."""
        return GaussianMixture(self.weights, alpha * self.means, alpha**2 * self.variances + sigma**2)

    def denoise(self, noisy: Tensor, path: PathPoint) -> Tensor:
        """The perfect noise estimate E[epsilon | z] [B, D] for z [B, D], each at its own time; `path` holds B times.

        It is -sigma times the score of p(z), the mean of the components' scores under their responsibilities.
        """
        alpha, sigma = path.alpha[:, None], path.sigma[:, None]
        variances = alpha**2 * self.variances + sigma**2  # [B, K]
        offset = noisy[:, None] - alpha[..., None] * self.means  # [B, K, D]
        log_joint = self.weights.log() + _log_normal(offset.square().sum(dim=2), variances, noisy.shape[1])
        pull = log_joint.softmax(dim=1) / variances  # [B, K]
        return sigma * (pull[..., None] * offset).sum(dim=1)

    def _log_joint(self, x: Tensor) -> Tensor:
        squared = (x[:, None] - self.means).square().sum(dim=2)
        return self.weights.log() + _log_normal(squared, self.variances, x.shape[1])


def _log_normal(squared_distance: Tensor, variance: Tensor, dimension: int) -> Tensor:
    return -0.5 * (squared_distance / variance + dimension * (2 * math.pi * variance).log())


@dataclass(frozen=True)
class Likelihood:
    """Monte Carlo estimate of -log p(x) in nats: its three terms, their sum, and the standard error of the sum."""

    prior: float
    diffusion: float
    reconstruction: float
    error: float

    @property
    def total(self) -> float:
        return self.prior + self.diffusion + self.reconstruction


def negative_log_likelihood(
    mixture: GaussianMixture, x: Tensor, objective: str, schedule: NoiseSchedule, samples: int,
    generator: torch.Generator, ends: tuple[float, float] = (0.001, 0.999),
) -> Likelihood:  # fmt: skip
    """-log p(x) of one point [D] through the loss of a perfect network of any objective of Table I.

    `ends` are the times of z_0 and z_1. The times in between are drawn uniformly in the log-SNR and weighed back,
    since -lambda' alone would leave nearly all weight to the first instants. They come in 50 independent blocks,
    each spread evenly, whose scatter gives the error.

    Raises:
        ValueError: `samples` is not a multiple of 50.
    """
    if samples < BLOCKS or samples % BLOCKS:
        raise ValueError(f"samples must be a multiple of {BLOCKS}, got {samples}")
    times, density = _uniform_in_log_snr(schedule, samples, ends, generator)
    path = schedule.point(times)
    clean, epsilon = x.expand(samples, -1), torch.randn(samples, len(x), dtype=torch.float64, generator=generator)
    loss = objective_loss(mixture, clean, epsilon, path, objective)
    diffusion = 0.5 * loss / OBJECTIVES[objective].omega(path) / density
    first, last = (schedule.point(torch.tensor([end]).double()) for end in ends)
    reconstruction = -_log_posterior(mixture, clean, epsilon, first)
    prior = -_log_ratio(mixture, clean, epsilon, last)
    blocks = (prior + diffusion + reconstruction).view(BLOCKS, -1).mean(dim=1)
    error = blocks.std() / BLOCKS**0.5
    return Likelihood(*(part.mean().item() for part in (prior, diffusion, reconstruction, error)))


def objective_loss(mixture: GaussianMixture, x: Tensor, epsilon: Tensor, path: PathPoint, objective: str) -> Tensor:
    """The squared error [B] of a perfect network that was trained for `objective`; x and epsilon are [B, D]."""
    row, wide = OBJECTIVES[objective], path.like(x)
    noisy = wide.alpha * x + wide.sigma * epsilon
    estimate = mixture.denoise(noisy, path)
    prediction = row.target((noisy - wide.sigma * estimate) / wide.alpha, estimate, wide)
    return (prediction - row.target(x, epsilon, wide)).square().sum(dim=1)


def class_losses(classes: Sequence[GaussianMixture], x: Tensor, noise: Tensor, path: PathPoint) -> Tensor:
    """The epsilon-MSE of every class at every time, as `elbo.class_losses` measures it for a network: [N, T].

    x: [D]; noise: [T, D], the same for all classes, or [N, T, D]; path: T times.
    """
    noise = noise.expand(len(classes), *noise.shape[-2:])
    squared = [
        objective_loss(world, x.expand_as(epsilon), epsilon, path, "epsilon")
        for world, epsilon in zip(classes, noise, strict=True)
    ]
    return torch.stack(squared) / len(x)


def _uniform_in_log_snr(
    schedule: NoiseSchedule, samples: int, ends: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Times [samples], spread evenly over the log-SNR between the ends in each block, and their density."""
    low, high = schedule.point(torch.tensor(ends).double()).log_snr.flip(0).tolist()
    per_block = samples // BLOCKS
    place = torch.arange(per_block).repeat(BLOCKS)
    strata = (place + torch.rand(samples, dtype=torch.float64, generator=generator)) / per_block
    times = _bisect(schedule, low + (high - low) * strata, ends)
    return times, -schedule.point(times).log_snr_slope / (high - low)


def _bisect(schedule: NoiseSchedule, log_snr: Tensor, ends: tuple[float, float], rounds: int = 60) -> Tensor:
    """The times at which the schedule passes `log_snr` [B]."""
    early, late = (torch.full_like(log_snr, end) for end in ends)
    for _ in range(rounds):
        middle = (early + late) / 2
        noisier = schedule.point(middle).log_snr < log_snr
        early, late = torch.where(noisier, early, middle), torch.where(noisier, middle, late)
    return (early + late) / 2


def _log_ratio(mixture: GaussianMixture, x: Tensor, epsilon: Tensor, point: PathPoint) -> Tensor:
    """log p(z) - log q(z|x) [B] at z = alpha x + sigma epsilon."""
    alpha, sigma = point.alpha.item(), point.sigma.item()
    log_q = _log_normal(sigma**2 * epsilon.square().sum(dim=1), torch.tensor(sigma**2).double(), x.shape[1])
    return mixture.noised(alpha, sigma).log_density(alpha * x + sigma * epsilon) - log_q


def _log_posterior(mixture: GaussianMixture, x: Tensor, epsilon: Tensor, point: PathPoint) -> Tensor:
    """log p(x|z) [B] at z = alpha x + sigma epsilon: again a mixture, its components updated by z."""
    alpha, sigma, dimension = point.alpha.item(), point.sigma.item(), x.shape[1]
    noisy = alpha * x + sigma * epsilon
    responsibilities = mixture.noised(alpha, sigma)._log_joint(noisy).log_softmax(dim=1)  # [B, K]
    variances = 1 / (1 / mixture.variances + alpha**2 / sigma**2)  # [K]
    means = variances[:, None] * (mixture.means / mixture.variances[:, None] + alpha / sigma**2 * noisy[:, None])
    squared = (x[:, None] - means).square().sum(dim=2)
    return (responsibilities + _log_normal(squared, variances, dimension)).logsumexp(dim=1)
