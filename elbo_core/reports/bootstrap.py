"""Intervals: numbers measured on all images, and on resamples of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elbo_core.checks import check_whole


@dataclass(frozen=True)
class Estimate:
    """A measured number with its 95 % bootstrap interval over images."""

    value: float
    low: float
    high: float


def bootstrap_weights(n_images: int, resamples: int = 1000, seed: int = 4307) -> np.ndarray:
    """How often each image is drawn in each resample, [resamples, n_images]. One matrix for all rows pairs them.

    Raises:
        TypeError, ValueError: there is no image or no resample.
    """
    check_whole(n_images, "the number of images")
    check_whole(resamples, "the number of resamples")
    draws = np.random.default_rng(seed).integers(n_images, size=(resamples, n_images))
    return np.stack([np.bincount(row, minlength=n_images) for row in draws])


def interval(value: float, samples: np.ndarray) -> Estimate:
    """The 95 % percentile interval of bootstrap `samples` around the value measured on all images."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


@dataclass(frozen=True)
class Measured:
    """A number measured on all images, and on each resample of them, float64 [R]. Differences are paired."""

    value: float
    samples: np.ndarray

    def __sub__(self, other: Measured) -> Measured:
        return Measured(self.value - other.value, self.samples - other.samples)

    @property
    def estimate(self) -> Estimate:
        return interval(self.value, self.samples)

    @staticmethod
    def best(candidates: Sequence[Measured]) -> Measured:
        """The highest of several, chosen on the images themselves and anew on each resample: an upper bound."""
        samples = np.max([candidate.samples for candidate in candidates], axis=0)
        return Measured(max(candidate.value for candidate in candidates), samples)
