"""What a network was trained to predict, and how to read the noise out of it (Table I of the paper)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

ToEpsilon = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

TO_EPSILON: dict[str, ToEpsilon] = {
    "epsilon": lambda output, noisy, alpha, sigma: output,
    "v_prediction": lambda output, noisy, alpha, sigma: alpha * output + sigma * noisy,
    "sample": lambda output, noisy, alpha, sigma: (noisy - alpha * output) / sigma,
}
"""By diffusers' `prediction_type`: (output, z_t, alpha, sigma) -> epsilon, for alpha^2 + sigma^2 = 1."""


def to_epsilon(prediction_type: str, output: Tensor, noisy: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise estimate [B, ...] that a network's `output` [B, ...] amounts to; `alpha`, `sigma` broadcast to it.

    Raises:
        ValueError: the prediction type is unknown.
    """
    if prediction_type not in TO_EPSILON:
        raise ValueError(f"unknown prediction_type {prediction_type!r}; known: {', '.join(TO_EPSILON)}")
    return TO_EPSILON[prediction_type](output, noisy, alpha, sigma)
