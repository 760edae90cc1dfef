"""The toy VAEs: small `AutoencoderKL` with the compression of Stable Diffusion's (factor 8, 4 or 16 channels)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from tqdm import tqdm

from elbo_core.toy.world import IMAGE_SIZE
from elbo_core.training.corpus import TrainingSet, keep_array
from elbo_core.training.fit import History, SplitLoss, TrainingPlan, autocast, fit

PLAN = TrainingPlan(steps=6600, learning_rate=1.5e-3, warmup=100, ema_decay=0.998)
COLOR_PLAN = TrainingPlan(steps=3000, learning_rate=1e-3, warmup=50, ema_decay=0.995)
DECODER_PLAN = TrainingPlan(steps=4000, learning_rate=1e-3, warmup=100, ema_decay=0.998)
COLOR_DECODER_PLAN = TrainingPlan(steps=1500, learning_rate=1e-3, warmup=50, ema_decay=0.995)
BATCH, CROP, KL_WEIGHT, SQUARED_WEIGHT = 32, 64, 1e-4, 5.0


def build_vae(channels: int = 4, **options) -> AutoencoderKL:
    """That of Stable Diffusion 1.x to XL in small; `options` go to `AutoencoderKL`."""
    return AutoencoderKL(
        sample_size=IMAGE_SIZE,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        **options,
    )


def build_shifted_vae() -> AutoencoderKL:
    """That of Stable Diffusion 3 in small: 16 channels, whose mean is shifted to zero, and no convolutions between."""
    return build_vae(16, shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False)


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: Tensor) -> np.ndarray:
    """float [B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3]."""
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().byte().permute(0, 2, 3, 1).cpu().numpy()


def vae_loss(vae: AutoencoderKL, images: Tensor, noise: Tensor) -> Tensor:
    """Reconstruction of images [B, 3, H, W], through latents with this noise [B, C, h, w], and a light KL."""
    posterior = vae.encode(images).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    return _reconstruction_loss(decoded, images) + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()


def _reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """The squared error cares for the few large mistakes (a wrong colour, a lost object), the absolute error for
    sharp edges; alone it would spend itself on the grain of the textures."""
    error = decoded.float() - images
    return SQUARED_WEIGHT * error.square().mean() + error.abs().mean()


def train_vae(
    vae: AutoencoderKL, corpus: TrainingSet, checkpoints: Path, plan: TrainingPlan = PLAN, stage: str = "vae"
) -> History:
    """First stages: encoder and decoder together, on random crops; the network is fully convolutional.

    On scenes in which most things have their usual colour a VAE learns that colour rather than the one it sees: a gray
    ball came back purple, a blue tree green. So it must go on where any thing has any colour (stage `colors`).
    """

    latents_shape = (BATCH, vae.config.latent_channels, CROP // 8, CROP // 8)

    def draw(step: int, rng: np.random.Generator, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return _crops(corpus, rng), torch.randn(latents_shape, generator=generator)

    def loss(images: Tensor, noise: Tensor) -> Tensor:
        with autocast(vae.device):
            return vae_loss(vae, images, noise)

    history = fit(stage, vae, SplitLoss(draw, loss, vae.device), plan, checkpoints)
    _normalise_latents(vae, to_tensor(corpus.images[:512]).to(vae.device))
    return history


def train_decoder(
    vae: AutoencoderKL, corpus: TrainingSet, checkpoints: Path, plan: TrainingPlan = DECODER_PLAN
) -> History:
    """Last stage: the decoder alone, so that the latents that the UNets learn stay as they are.

    Stable Diffusion's improved autoencoders (sd-vae-ft) were made in the same way.
    """
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)

    def draw(step: int, rng: np.random.Generator, generator: torch.Generator) -> tuple[Tensor]:
        return (_crops(corpus, rng),)

    def loss(images: Tensor) -> Tensor:
        with autocast(vae.device):
            with torch.no_grad():
                latents = vae.encode(images).latent_dist.mean
            return _reconstruction_loss(vae.decode(latents).sample, images)

    return fit("vae-decoder", vae, SplitLoss(draw, loss, vae.device), plan, checkpoints)


def _crops(corpus: TrainingSet, rng: np.random.Generator) -> Tensor:
    """A batch of crops [B, 3, 64, 64] at one random place, half of the batches mirrored."""
    index = np.sort(rng.choice(len(corpus.images), BATCH, replace=False))
    top, left = rng.integers(0, IMAGE_SIZE - CROP + 1, size=2)
    crops = corpus.images[index][:, top : top + CROP, left : left + CROP]
    return to_tensor(crops[:, :, ::-1] if rng.random() < 0.5 else crops)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, corpus: TrainingSet, cache: Path) -> np.ndarray:
    """The pictures of a training set as they come back from the VAE, uint8 like the originals; cached."""
    path = cache / f"decoded-{corpus.path.stem}-{weights_hash(vae)}.npy"
    if not path.exists():
        pictures = []
        for start in tqdm(range(0, len(corpus.images), 50), desc="decode training scenes", mininterval=10):
            with autocast(vae.device):
                pixels = to_tensor(corpus.images[start : start + 50]).to(vae.device)
                pictures.append(to_images(vae.decode(vae.encode(pixels).latent_dist.mean).sample))
        keep_array(path, np.concatenate(pictures))
    return np.load(path, mmap_mode="r")


def weights_hash(network: nn.Module) -> str:
    """A name for a network's weights, so that what was computed with another one is never taken for its own."""
    weights = torch.cat([weight.flatten().float().cpu() for weight in network.state_dict().values()])
    return hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:12]


@torch.no_grad()
def _normalise_latents(vae: AutoencoderKL, images: Tensor) -> None:
    """Set the scaling factor so that latents have unit standard deviation, as Rombach et al. (2022) do, and where the
    VAE has a shift, that to their mean (Esser et al. 2024)."""
    latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(64)])
    if vae.config.shift_factor is not None:
        vae.register_to_config(shift_factor=round(latents.mean().item(), 5))
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
