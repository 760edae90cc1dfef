"""One diffusers pipeline behind four verbs: `encode_image`, `encode_text`, `noise`, `predict`.

Nothing above this module asks which family a model belongs to.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from torch import Tensor, nn

from elbo_core.attention import AttentionTap, CrossAttention, SelfAttention
from elbo_core.errors import ModelOutputError, UnsupportedModelError
from elbo_core.images import to_network_range
from elbo_core.objectives import conversion
from elbo_core.paths import MODELS
from elbo_core.schedule import NoiseSchedule


class Denoiser:
    """A text-to-image UNet pipeline of the Stable Diffusion 1.x/2.x family (epsilon-, v- or sample-prediction).

    Attributes:
        image_size: the side R of the square images that the model works on, in pixels.
        schedule: its noise schedule.
        network: the UNet, for `AttentionTap`.
        tokenizer: the tokenizer whose positions are the columns of its cross-attention.
    """

    def __init__(self, pipeline: StableDiffusionPipeline, name: str):
        self.name = name
        self.pipeline = pipeline
        self.network: nn.Module = pipeline.unet.eval()
        self.tokenizer = pipeline.tokenizer
        self.schedule = NoiseSchedule.of(pipeline.scheduler)
        self.to_epsilon = conversion(pipeline.scheduler.config.prediction_type)
        self.image_size: int = pipeline.vae.config.sample_size
        if pipeline.vae.eval().dtype != torch.float32:
            pipeline.vae.to(torch.float32)  # half precision overflows in the decoder

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        """An image [3, H, W] in [0, 1] of any size -> its latents [C, R/8, R/8] in float32, the posterior mean.

        The image is squashed to R x R, as the released code does (`utils/diffusion.py:112-124`).
        """
        vae = self.pipeline.vae
        pixels = to_network_range(image, self.image_size).to(self.device)
        mean = vae.encode(pixels[None]).latent_dist.mean[0]
        return (mean - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor

    def fits(self, text: str) -> bool:
        """Whether the text encoder can read all of `text`."""
        return len(self.tokenizer(text, verbose=False).input_ids) <= self.tokenizer.model_max_length

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> conditioning [N, 77, d].

        Raises:
            ValueError: a text is longer than the encoder can read; it is never truncated silently.
        """
        for text in texts:
            if not self.fits(text):
                limit = self.tokenizer.model_max_length
                raise ValueError(f"the text encoder reads {limit} tokens; shorten or split {text!r}")
        embeddings, _ = self.pipeline.encode_prompt(
            list(texts), self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return embeddings

    def noise(self, latents: Tensor, epsilon: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = alpha x + sigma epsilon for latents and noise [B, C, h, w] at integer timesteps [B]."""
        path = self.schedule.at(timesteps).like(latents)
        return path.alpha * latents + path.sigma * epsilon

    @torch.no_grad()
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The noise estimate, float32 [B, C, h, w], without guidance, whatever the network was trained to predict.

        Raises:
            ModelOutputError: the network returned NaN or infinity.
        """
        output = self.network(noisy.to(self.dtype), timesteps.to(self.device), text).sample.float()
        if not output.isfinite().all():
            broken = timesteps[~output.isfinite().flatten(1).all(dim=1).cpu()]
            raise ModelOutputError(f"{self.name} returned NaN or infinity at timesteps {broken.unique().tolist()}")
        return self.to_epsilon(output, noisy, self.schedule.at(timesteps).like(noisy))

    def attend(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> tuple[CrossAttention, SelfAttention]:
        """The attention operators of one forward pass, one entry per sample of the batch."""
        with AttentionTap(self.network) as tap:
            self.predict(noisy, timesteps, text)
        return CrossAttention(tap.layers(text=True)), SelfAttention(tap.layers(text=False))


ADAPTERS: dict[type, type[Denoiser]] = {StableDiffusionPipeline: Denoiser}


def wrap(pipeline: DiffusionPipeline, name: str) -> Denoiser:
    """The adapter for a loaded pipeline.

    Raises:
        UnsupportedModelError: its class has no adapter.
    """
    adapter = ADAPTERS.get(type(pipeline))
    if adapter is None:
        known = ", ".join(cls.__name__ for cls in ADAPTERS)
        raise UnsupportedModelError(f"{name} is a {type(pipeline).__name__}; supported: {known}")
    return adapter(pipeline, name)


def load(model: str | os.PathLike, device: str | None = None, dtype: torch.dtype = torch.float32) -> Denoiser:
    """Load a model of the embedded world ("toy-sd15"), a local diffusers folder, or a hub id.

    Only safetensors are read and no remote code runs. The safety checker is left out: nothing is generated for
    publication here, and it would blacken benchmark images.

    Raises:
        FileNotFoundError: no such toy model or folder.
        UnsupportedModelError: the pipeline's class has no adapter.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = DiffusionPipeline.from_pretrained(
        locate(model), dtype=dtype, use_safetensors=True, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return wrap(pipeline.to(device), str(model))


def locate(model: str | os.PathLike) -> str:
    """The folder of a toy model or a local folder as it is; anything with a single "/" is taken for a hub id."""
    if Path(model).is_dir():
        return str(model)
    if (MODELS / model).is_dir():
        return str(MODELS / model)
    if str(model).count("/") == 1 and not str(model).startswith((".", "/", "~")):
        return str(model)
    toys = sorted(folder.parent.name for folder in MODELS.glob("*/model_index.json"))
    raise FileNotFoundError(f"no model {str(model)!r}; toy models: {', '.join(toys)}; or give a folder or a hub id")
