"""How much to compute: the same notebooks and code, another size."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """images: scenes per data set; resamples: of each bootstrap; seed: of noise and bootstrap.

    datasets: those of the segmentation tables, in the paper's order.
    """

    name: str
    images: int
    resamples: int
    seed: int = 4307
    datasets: tuple[str, ...] = ("toy-voc", "toy-context", "toy-coco", "toy-ade")


PROFILES = {profile.name: profile for profile in (Profile("smoke", 4, 50), Profile("toy", 48, 1000))}


def get_profile(name: str) -> Profile:
    """The profile `name`; the environment variable ELBO_PROFILE, if set, wins (tests run every notebook as `smoke`).

    Raises:
        ValueError: unknown profile.
    """
    name = os.environ.get("ELBO_PROFILE") or name
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; known: {', '.join(PROFILES)}")
    return PROFILES[name]
