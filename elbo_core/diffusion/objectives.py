"""What a network was trained to predict: the five rows of Table I, and how to read the noise out of each.

At a fixed z_t = alpha x + sigma epsilon a prediction and a noise estimate are the same thing in other units, so their
errors differ by a factor g(t) alone: ||prediction - target||^2 = g^2 ||estimate - epsilon||^2. The ELBO weighs the
noise error by -lambda'(t) (eq. 4), hence each objective's own error by 1/omega(t) with omega = -g^2 / lambda' (eq. 6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from elbo_core.diffusion.schedule import PathPoint


@dataclass(frozen=True)
class Objective:
    """A row of Table I. Samples are [B, ...]; the path's numbers broadcast to them (`PathPoint.like`).

    target: (x, epsilon, path) -> what the network should predict.
    to_epsilon: (prediction, z, path) -> the noise estimate that the prediction amounts to.
    omega: path -> the weight omega(t) as printed in the table.
    """

    target: Callable[[Tensor, Tensor, PathPoint], Tensor]
    to_epsilon: Callable[[Tensor, Tensor, PathPoint], Tensor]
    omega: Callable[[PathPoint], Tensor]


def _flow_to_epsilon(prediction: Tensor, noisy: Tensor, path: PathPoint) -> Tensor:
    drift = path.alpha_slope / path.alpha
    return (prediction - drift * noisy) / (path.sigma_slope - drift * path.sigma)


def _velocity_to_epsilon(prediction: Tensor, noisy: Tensor, path: PathPoint) -> Tensor:
    return (path.alpha * prediction + path.sigma * noisy) / (path.alpha**2 + path.sigma**2)


OBJECTIVES: dict[str, Objective] = {
    "score": Objective(
        target=lambda x, epsilon, path: -epsilon / path.sigma,
        to_epsilon=lambda prediction, noisy, path: -path.sigma * prediction,
        omega=lambda path: -1 / (path.sigma**2 * path.log_snr_slope),
    ),
    "flow": Objective(
        target=lambda x, epsilon, path: path.alpha_slope * x + path.sigma_slope * epsilon,
        to_epsilon=_flow_to_epsilon,
        omega=lambda path: -(path.sigma**2) * path.log_snr_slope / 4,
    ),
    "sample": Objective(
        target=lambda x, epsilon, path: x,
        to_epsilon=lambda prediction, noisy, path: (noisy - path.alpha * prediction) / path.sigma,
        omega=lambda path: -1 / (path.log_snr_slope * path.snr),
    ),
    "epsilon": Objective(
        target=lambda x, epsilon, path: epsilon,
        to_epsilon=lambda prediction, noisy, path: prediction,
        omega=lambda path: -1 / path.log_snr_slope,
    ),
    "velocity": Objective(
        target=lambda x, epsilon, path: path.alpha * epsilon - path.sigma * x,
        to_epsilon=_velocity_to_epsilon,
        omega=lambda path: -((path.alpha**2 + path.sigma**2) ** 2) / (path.alpha**2 * path.log_snr_slope),
    ),
}
"""Table I by name. score: grad ln q(z_t|x). flow: dz_t/dt, the derivative of the path by the schedule's own time."""


def _rectified_flow_to_epsilon(prediction: Tensor, noisy: Tensor, path: PathPoint) -> Tensor:
    """diffusers' flow models predict epsilon - x = dz/dsigma, whatever the shift of their schedule."""
    return OBJECTIVES["flow"].to_epsilon(prediction * path.sigma_slope, noisy, path)


TO_EPSILON: dict[str, Callable[[Tensor, Tensor, PathPoint], Tensor]] = {
    "epsilon": OBJECTIVES["epsilon"].to_epsilon,
    "v_prediction": OBJECTIVES["velocity"].to_epsilon,
    "sample": OBJECTIVES["sample"].to_epsilon,
    "flow_prediction": _rectified_flow_to_epsilon,
}
"""By diffusers' `prediction_type`: (network output, z_t, path) -> noise estimate."""

TO_CLEAN: dict[str, Callable[[Tensor, Tensor, PathPoint], Tensor]] = {
    "epsilon": lambda output, noisy, path: (noisy - path.sigma * output) / path.alpha,
    "v_prediction": lambda output, noisy, path: path.alpha * noisy - path.sigma * output,
    "sample": lambda output, noisy, path: output,
    "flow_prediction": lambda output, noisy, path: noisy - path.sigma * output,
}
"""By the same: (network output, z_t, path) -> the clean latents x. At pure noise (alpha = 0) a noise estimate says
nothing of them, so that they are read from the output itself; only an epsilon-predicting network cannot start there."""


def conversion(prediction_type: str) -> Callable[[Tensor, Tensor, PathPoint], Tensor]:
    """How to read the noise estimate out of a network of this diffusers `prediction_type`.

    Raises:
        ValueError: the prediction type is unknown.
    """
    if prediction_type not in TO_EPSILON:
        raise ValueError(f"unknown prediction_type {prediction_type!r}; known: {', '.join(TO_EPSILON)}")
    return TO_EPSILON[prediction_type]
