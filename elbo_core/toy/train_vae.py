"""The toy VAE: a small `AutoencoderKL` with the compression of Stable Diffusion's (factor 8, four channels)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from elbo_core.toy.corpus import TrainingSet
from elbo_core.toy.fit import History, Plan, autocast, fit, pick_device
from elbo_core.toy.world import IMAGE_SIZE

PLAN = Plan(steps=6600, learning_rate=1.5e-3, warmup=100, ema_decay=0.998)
BATCH, CROP, KL_WEIGHT, SQUARED_WEIGHT = 16, 64, 1e-4, 5.0


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=IMAGE_SIZE,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def vae_loss(vae: AutoencoderKL, images: Tensor, generator: torch.Generator) -> Tensor:
    """Reconstruction of images [B, 3, H, W] and a light KL.

    The squared error cares for the few large mistakes (a wrong colour, a lost object), the absolute error for sharp
    edges; alone it would spend itself on the grain of the textures.
    """
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(images.device)
    error = vae.decode(posterior.mean + posterior.std * noise).sample.float() - images
    reconstruction = SQUARED_WEIGHT * error.square().mean() + error.abs().mean()
    return reconstruction + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()


def train_vae(corpus: TrainingSet, checkpoints: Path, plan: Plan = PLAN) -> tuple[AutoencoderKL, History]:
    """Train on random crops; the network is fully convolutional, so crops are as good as whole images and cheaper."""
    device = pick_device()
    torch.manual_seed(plan.seed)
    vae = build_vae().to(device)

    def loss(step: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        index = np.sort(rng.choice(len(corpus.images), BATCH, replace=False))
        top, left = rng.integers(0, IMAGE_SIZE - CROP + 1, size=2)
        crops = corpus.images[index][:, top : top + CROP, left : left + CROP]
        if rng.random() < 0.5:
            crops = crops[:, :, ::-1]
        with autocast(device):
            return vae_loss(vae, to_tensor(crops).to(device), generator)

    history = fit("vae", vae, loss, plan, checkpoints)
    _normalise_latents(vae, to_tensor(corpus.images[:512]).to(device))
    return vae, history


@torch.no_grad()
def _normalise_latents(vae: AutoencoderKL, images: Tensor) -> None:
    """Set the scaling factor so that latents have unit standard deviation, as Rombach et al. (2022) do."""
    latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(64)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
