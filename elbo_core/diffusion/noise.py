"""Noise that belongs to the image: the same for every batch, order and number of processes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def keyed_noise(shape: Sequence[int], seed: int, image_id: str, purpose: str, timesteps: Sequence[int]) -> Tensor:
    """Standard normal noise [T, *shape], float32 on the CPU. Each entry depends only on (seed, image, purpose,
    timestep); without timesteps it is [0, *shape]."""
    draws = [_one_noise(shape, f"{seed}/{image_id}/{purpose}/{timestep}") for timestep in timesteps]
    return torch.stack(draws) if draws else torch.empty(0, *shape, dtype=torch.float32)


def _one_noise(shape: Sequence[int], key: str) -> Tensor:
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(*shape, generator=generator, dtype=torch.float32)  # another dtype would draw other numbers
