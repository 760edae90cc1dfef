"""Resamples of images, and the intervals that follow from them."""

import numpy as np
import pytest

from elbo_core.reports.bootstrap import bootstrap_weights, interval


def test_every_resample_has_as_many_images():
    weights = bootstrap_weights(7, 100)
    assert (weights.sum(axis=1) == 7).all()
    assert np.array_equal(weights, bootstrap_weights(7, 100))


def test_interval_of_a_normal_sample():
    samples = np.random.default_rng(0).normal(10, 1, 100_000)
    estimate = interval(10, samples)
    assert (estimate.low, estimate.high) == pytest.approx((8.04, 11.96), abs=0.03)
