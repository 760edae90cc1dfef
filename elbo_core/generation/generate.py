"""Pictures of prompts by a method, many at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from elbo_core.diffusion.blocks import in_blocks
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.noise import keyed_noise
from elbo_core.diffusion.sampling import Guidance, ReleasedGrid, Sampler, sample
from elbo_core.generation.method import Described, GenerationMethod

PIXELS_AT_ONCE = {"cpu": 2**17, "cuda": 2**22}
"""How large a batch is at first, in pixels of its pictures: eight of the toy models' on a CPU, sixteen of 512 x 512 on
a GPU. Where memory is short, it is halved."""


@dataclass(frozen=True)
class Generated:
    """B pictures.

    pictures: uint8 [B, R, R, 3]. evaluations: [B], of the network. acts: [B], whether the method did anything.
    seconds: [B], the time of the batch in equal parts.
    """

    pictures: np.ndarray
    evaluations: np.ndarray
    acts: np.ndarray
    seconds: np.ndarray


def start_noise(denoiser: Denoiser, text: str, seed: int) -> Tensor:
    """The noise [C, h, w] that a picture starts from: of prompt and seed alone, so that all methods start alike. (The
    released code starts all prompts from one noise, `run_generation.py:117-120`.)"""
    return keyed_noise(denoiser.latent_shape, seed, text, "start", [0])[0]


def generate(
    denoiser: Denoiser,
    method: GenerationMethod,
    prompts: Sequence[Described],
    seeds: Sequence[int],
    sampler: Sampler = ReleasedGrid(),
    guidance: Guidance = Guidance(),
) -> Generated:
    """A picture of each prompt, from its seed. No picture depends on the others, but for rounding.

    Raises:
        ValueError: a prompt is longer than the text encoder reads, or the tokens of a phrase cannot be found.
        UnsupportedModelError, ModelOutputError: see `GenerationMethod.hook` and `sample`.
    """
    size = max(1, PIXELS_AT_ONCE.get(denoiser.device.type, PIXELS_AT_ONCE["cpu"]) // denoiser.image_size**2)

    def some(block: Tensor) -> Generated:
        rows = block.tolist()
        return _batch(denoiser, method, [prompts[k] for k in rows], [seeds[k] for k in rows], sampler, guidance)

    blocks = in_blocks(some, torch.arange(len(prompts)), size)
    return Generated(
        *(np.concatenate(parts) for parts in zip(*(vars(block).values() for block in blocks), strict=True))
    )


def _batch(
    denoiser: Denoiser, method: GenerationMethod, prompts: Sequence[Described], seeds: Sequence[int],
    sampler: Sampler, guidance: Guidance,
) -> Generated:  # fmt: skip
    started = time.perf_counter()
    hook = method.hook(denoiser, prompts)
    text = denoiser.encode_text([prompt.text for prompt in prompts])
    noise = torch.stack([start_noise(denoiser, prompt.text, seed) for prompt, seed in zip(prompts, seeds, strict=True)])
    *_, last = sample(denoiser, text, noise, sampler, guidance, hook)
    pictures = to_bytes(denoiser.decode_latents(last.latents))
    passes = 1 if last.unconditional is None else 2
    evaluations = hook.evaluations.numpy() + passes * last.moment.steps
    seconds = np.full(len(prompts), (time.perf_counter() - started) / len(prompts))
    return Generated(pictures, evaluations, hook.acts.numpy(), seconds)


def to_bytes(pictures: Tensor) -> np.ndarray:
    """Pictures [B, 3, H, W] in [0, 1] as uint8 [B, H, W, 3]."""
    return (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
