"""The noise schedule of a diffusers scheduler: z_t = alpha(t) x + sigma(t) epsilon for t in [0, 1].

Its log-SNR is lambda(t) = ln(alpha^2 / sigma^2). Integer timestep k of K is the time t = (k + 1) / K, so t = 0 is the
clean image. Two families cover the six models: variance-preserving (Stable Diffusion 1, 2, XL) and rectified flow
(Stable Diffusion 3, FLUX).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from elbo_core.errors import ScheduleError, UnsupportedModelError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass(frozen=True)
class PathPoint:
    """Where the path z = alpha x + sigma epsilon is at some times, and how fast it moves; each float64 [T'].

    Slopes are derivatives by t over [0, 1].
    """

    alpha: Tensor
    sigma: Tensor
    alpha_slope: Tensor
    sigma_slope: Tensor

    @property
    def snr(self) -> Tensor:
        """e^lambda = alpha^2 / sigma^2."""
        return (self.alpha / self.sigma) ** 2

    @property
    def log_snr(self) -> Tensor:
        """lambda = ln(alpha^2 / sigma^2); -inf where alpha = 0, +inf where sigma = 0."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def log_snr_slope(self) -> Tensor:
        """lambda' = 2 (alpha'/alpha - sigma'/sigma), negative; -inf at both ends of a full path."""
        return 2 * (self.alpha_slope / self.alpha - self.sigma_slope / self.sigma)

    def like(self, samples: Tensor) -> PathPoint:
        """The same point with every number shaped to multiply `samples` [T', ...], in their dtype and device."""
        values = (self.alpha, self.sigma, self.alpha_slope, self.sigma_slope)
        return PathPoint(*(broadcast(value, samples) for value in values))


class NoiseSchedule(ABC):
    """alpha, sigma and lambda as functions of time, differentiable, in float64.

    Attributes:
        steps: the number K of integer timesteps.
        released_error: in which error the released code sums the losses of such models, a name in `elbo.ESTIMATORS`
            (`utils/diffusion.py:354-393`).
    """

    steps: int
    released_error: str

    @staticmethod
    def of(scheduler: SchedulerMixin, image_tokens: int | None = None) -> NoiseSchedule:
        """The schedule that the model behind `scheduler` was trained with.

        DDPM, DDIM, PNDM, Euler, DPM-Solver, ... share `alphas_cumprod`. A flow-matching scheduler, or a solver with
        `use_flow_sigmas`, that shifts dynamically depends on the resolution: give it the number of `image_tokens`. How
        a scheduler chooses its steps (Karras sigmas, a terminal shift, ...) is no matter of the schedule.

        Raises:
            UnsupportedModelError: the scheduler is of neither family, as those of EDM.
            ScheduleError: the schedule is not monotone, a dynamic shift lacks `image_tokens`, or the scheduler
                contradicts itself.
        """
        config = getattr(scheduler, "config", {})
        _check_consistent(type(scheduler).__name__, config)
        is_known = "FlowMatch" in type(scheduler).__name__ or hasattr(scheduler, "alphas_cumprod")
        if is_known and _is_flow(type(scheduler).__name__, config):
            return RectifiedFlow(_flow_shift(scheduler, image_tokens), config["num_train_timesteps"])
        if is_known:
            return VariancePreserving(1 - scheduler.alphas_cumprod.double())
        raise UnsupportedModelError(
            f"{type(scheduler).__name__} has neither alphas_cumprod nor flow matching; use a pipeline with a "
            "DDPM-like or FlowMatchEulerDiscrete scheduler"
        )

    def __len__(self) -> int:
        return self.steps

    @abstractmethod
    def point(self, time: Tensor) -> PathPoint:
        """The path at `time` [T'] in [0, 1].

        Raises:
            ScheduleError: a time lies outside [0, 1].
        """

    def time(self, timesteps: Tensor) -> Tensor:
        """The time (k + 1) / K of integer `timesteps` [T'], float64.

        Raises:
            ScheduleError: a timestep lies outside 0 .. K - 1.
        """
        bad = timesteps[(timesteps < 0) | (timesteps >= self.steps)]
        if len(bad):
            raise ScheduleError(f"timestep {int(bad[0])} is outside 0..{self.steps - 1}")
        return (timesteps.cpu().double() + 1) / self.steps

    def at(self, timesteps: Tensor) -> PathPoint:
        """The path at integer `timesteps` [T']."""
        return self.point(self.time(timesteps))


class VariancePreserving(NoiseSchedule):
    """alpha^2 + sigma^2 = 1, given by sigma^2 at the integer timesteps, float64 [K].

    Between them sigma^2, which starts at 0 and is nearly straight there, is a cubic with the slope of its neighbours'
    secant at each timestep (Catmull-Rom): smooth, exact at every integer, and fit for a terminal SNR of zero, where
    lambda itself is infinite.

    Raises:
        ScheduleError: sigma^2 does not rise from step to step within [0, 1].
    """

    released_error = "epsilon"

    def __init__(self, variance: Tensor):
        self.steps = len(variance)
        self.knots = torch.cat([torch.zeros(1, dtype=torch.float64), variance.double()])  # [K + 1], at t = i / K
        _check_rising(self.knots)
        rise = self.knots.diff()
        self.slopes = torch.cat([2 * rise[:1] - _mean(rise)[:1], _mean(rise), rise[-1:]])  # [K + 1], per step

    def point(self, time: Tensor) -> PathPoint:
        _check_time(time)
        place = time.double().cpu() * self.steps
        left = place.detach().floor().long().clamp(max=self.steps - 1)
        variance, slope = _hermite(place - left, self.knots, self.slopes, left)
        alpha, sigma = (1 - variance).sqrt(), variance.sqrt()
        slope = slope * self.steps
        return PathPoint(alpha, sigma, -slope / (2 * alpha), slope / (2 * sigma))


class RectifiedFlow(NoiseSchedule):
    """alpha = 1 - sigma and sigma = s t / (1 + (s - 1) t) with the shift s (Esser et al. 2024, eq. 23).

    Raises:
        ScheduleError: the shift is not positive.
    """

    released_error = "flow"

    def __init__(self, shift: float = 1.0, steps: int = 1000):
        if not 0 < shift < math.inf:
            raise ScheduleError(f"the shift of a flow must be positive, got {shift}")
        self.shift, self.steps = shift, steps

    def point(self, time: Tensor) -> PathPoint:
        _check_time(time)
        time = time.double().cpu()
        stretch = 1 + (self.shift - 1) * time
        sigma, slope = self.shift * time / stretch, self.shift / stretch**2
        return PathPoint((1 - time) / stretch, sigma, -slope, slope)


def broadcast(values: Tensor, like: Tensor) -> Tensor:
    """Per-sample `values` [B] shaped to multiply `like` [B, ...], in its dtype and on its device."""
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(-1, *(1,) * (like.ndim - 1))


FLOW = "flow_prediction"
"""What diffusers calls the prediction of a flow, where a scheduler says it."""


def _is_flow(kind: str, config: Mapping) -> bool:
    return "FlowMatch" in kind or bool(config.get("use_flow_sigmas"))


def _check_consistent(kind: str, config: Mapping) -> None:
    """Refuse a scheduler of which one setting says flow and another does not, or whose time is not the network's."""
    prediction = config.get("prediction_type", FLOW if _is_flow(kind, config) else "epsilon")
    if (prediction == FLOW) != _is_flow(kind, config):
        raise ScheduleError(
            f"{kind} contradicts itself: prediction_type is {prediction!r}, use_flow_sigmas is "
            f"{bool(config.get('use_flow_sigmas'))}; use FlowMatchEulerDiscreteScheduler for a flow model"
        )
    for setting, odd in (("invert_sigmas", True), ("timestep_type", "continuous")):
        if config.get(setting) == odd:
            raise ScheduleError(
                f"{kind} has {setting}={odd!r}, whose timesteps are not those of a diffusion model here"
            )


def _flow_shift(scheduler: SchedulerMixin, image_tokens: int | None) -> float:
    """The static shift, or the one that a resolution of so many tokens asks for (Esser et al. 2024, section 5.3.2)."""
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return getattr(
            scheduler, "shift", config.get("shift", config.get("flow_shift"))
        )  # `set_shift` leaves the config
    if image_tokens is None:
        raise ScheduleError("this flow schedule depends on the resolution; say how many image tokens there are")
    if config.get("base_image_seq_len") is None:
        raise ScheduleError(f"{type(scheduler).__name__} shifts dynamically, but does not say by how much")
    low, high = config.base_image_seq_len, config.max_image_seq_len
    mu = config.base_shift + (config.max_shift - config.base_shift) * (image_tokens - low) / (high - low)
    return mu if config.time_shift_type == "linear" else math.exp(mu)


def _hermite(u: Tensor, knots: Tensor, slopes: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Value and slope at `u` in [0, 1] of the cubic between knots `left` and `left + 1`."""
    start, end, m0, m1 = knots[left], knots[left + 1], slopes[left], slopes[left + 1]
    a, b = 2 * (start - end) + m0 + m1, 3 * (end - start) - 2 * m0 - m1
    return ((a * u + b) * u + m0) * u + start, (3 * a * u + 2 * b) * u + m0


def _mean(rise: Tensor) -> Tensor:
    return (rise[1:] + rise[:-1]) / 2


def _check_rising(variance: Tensor) -> None:
    falls = (~(variance.diff() > 0)).nonzero()  # also where it is no number
    if len(falls) or not 0 <= variance[-1] <= 1:
        step = int(falls[0]) if len(falls) else len(variance) - 2
        raise ScheduleError(
            f"the noise must grow with every step and end at 1 or below; sigma^2 is {variance[step + 1]:.6g} at "
            f"timestep {step} and {variance[step]:.6g} before"
        )


def _check_time(time: Tensor) -> None:
    bad = time[~((time >= 0) & (time <= 1))]
    if len(bad):
        raise ScheduleError(f"time {float(bad[0]):.6g} is outside [0, 1]")
