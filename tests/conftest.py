"""Small real components, built in memory: no mocks, no network."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
from tiny import stable_diffusion

from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.families import wrap
from elbo_core.diffusion.models import load
from elbo_core.paths import MODELS
from elbo_core.scene import Scene


@pytest.fixture(scope="session")
def tiny() -> Denoiser:
    return wrap(stable_diffusion(), "tiny")


@pytest.fixture(scope="session")
def toy() -> Denoiser:
    if not (MODELS / "toy-sd15").is_dir():
        pytest.skip("toy-sd15 is not trained yet: make models")
    return load("toy-sd15")


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(40, 56, 3), dtype=np.uint8)


@pytest.fixture
def scene(picture: np.ndarray) -> Scene:
    return Scene.of(picture, ["star", "tree", "grass"])
