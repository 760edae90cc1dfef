"""What each pipeline class does in its own way: one small `Denoiser` for every supported family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from diffusers import (
    DiffusionPipeline,
    FluxPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.models.attention_processor import AttnProcessor2_0, JointAttnProcessor2_0
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from torch import Tensor, nn

from elbo_core.diffusion.attention import Call, Operators, joint_layers, separate_layers
from elbo_core.diffusion.denoiser import Conditioning, Denoiser
from elbo_core.diffusion.schedule import RectifiedFlow
from elbo_core.diffusion.text import Respelt, TextPart, lower_case, with_all_vectors
from elbo_core.errors import UnsupportedModelError


def _part(pipeline: DiffusionPipeline, number: str = "", limit: int | None = None, first: int = 0) -> TextPart:
    """What the tokenizer of this number and its encoder read; a CLIP reads as much as it has positions.

    Raises:
        UnsupportedModelError: the tokenizer is not that of the encoder.
    """
    tokenizer, encoder = (getattr(pipeline, name + number) for name in ("tokenizer", "text_encoder"))
    positions = getattr(encoder.config, "max_position_embeddings", None)
    if limit is None and not tokenizer.model_max_length <= positions:
        raise UnsupportedModelError(f"a tokenizer of {tokenizer.model_max_length} tokens, an encoder of {positions}")
    known = encoder.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise UnsupportedModelError(
            f"tokenizer{number} has {len(tokenizer)} tokens, text_encoder{number} knows {known}"
        )
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    respell = with_all_vectors(tokenizer, convert) if convert else Respelt.plain
    return TextPart(tokenizer, encoder, first, limit or tokenizer.model_max_length, respell)


class StableDiffusion(Denoiser):
    """Stable Diffusion 1.x and 2.x: a UNet that looks at one CLIP text encoder (epsilon-, v- or sample-prediction)."""

    processor = AttnProcessor2_0
    needs: tuple[str, ...] = ("unet", "vae", "scheduler", "tokenizer", "text_encoder")

    def _network(self) -> nn.Module:
        return self.pipeline.unet

    def _parts(self) -> dict[str, TextPart]:
        return {"clip": _part(self.pipeline)}

    def condition(self, texts: list[str]) -> Conditioning:
        embeddings, _ = self.pipeline.encode_prompt(texts, self.device, 1, do_classifier_free_guidance=False)
        return Conditioning(embeddings)

    def output(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        return self.network(noisy, timesteps, text.embeddings).sample

    def _operators(self, calls: Sequence[Call]) -> Operators:
        return separate_layers(calls)


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL: two CLIP encoders side by side, a pooled vector, and the sizes that the image is to have."""

    needs = (*StableDiffusion.needs, "tokenizer_2", "text_encoder_2")
    guidance_scale = 5.0

    def condition(self, texts: list[str]) -> Conditioning:
        embeddings, _, pooled, _ = self.pipeline.encode_prompt(
            texts, device=self.device, do_classifier_free_guidance=False
        )
        return Conditioning(embeddings, pooled)

    def _beside(self) -> Sequence[TextPart]:
        return (_part(self.pipeline, "_2"),)

    def output(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        size = float(self.image_size)
        sizes = torch.tensor([size, size, 0.0, 0.0, size, size]).to(text.pooled).expand(len(noisy), -1)
        added = {"text_embeds": text.pooled, "time_ids": sizes}
        return self.network(noisy, timesteps, text.embeddings, added_cond_kwargs=added).sample


class _RectifiedFlow(Denoiser):
    """What the flow-matching transformers share: they predict epsilon - x and take the noise level as their time."""

    kind = RectifiedFlow
    needs = ("transformer", "vae", "scheduler", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")

    def _network(self) -> nn.Module:
        return self.pipeline.transformer

    def _sigma(self, timesteps: Tensor) -> Tensor:
        return self.schedule.at(timesteps).sigma.to(self.device, self.dtype)


class StableDiffusion3(_RectifiedFlow):
    """Stable Diffusion 3 and 3.5: image tokens first, then 77 of CLIP and 256 of T5, in one sequence."""

    processor = JointAttnProcessor2_0
    guidance_scale = 7.0
    t5_limit = 256

    def _parts(self) -> dict[str, TextPart]:
        clip = _part(self.pipeline)
        if self.pipeline.text_encoder_3 is None:
            return {"clip": clip}
        return {"clip": clip, "t5": _part(self.pipeline, "_3", self.t5_limit, clip.limit)}

    def _beside(self) -> Sequence[TextPart]:
        return (_part(self.pipeline, "_2"),)

    def condition(self, texts: list[str]) -> Conditioning:
        embeddings, _, pooled, _ = self.pipeline.encode_prompt(
            texts, texts, texts, device=self.device, do_classifier_free_guidance=False,
            max_sequence_length=self.t5_limit,
        )  # fmt: skip
        return Conditioning(embeddings, pooled)

    def output(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        time = 1000 * self._sigma(timesteps)
        return self.network(noisy, text.embeddings, text.pooled, time).sample

    def _operators(self, calls: Sequence[Call]) -> Operators:
        pixels = (self.image_size // self.pipeline.vae_scale_factor // self.network.config.patch_size) ** 2
        total = max(call.key.shape[2] for call in calls)
        return joint_layers(calls, image=range(pixels), text=range(pixels, total))


class Flux(_RectifiedFlow):
    """FLUX.1: 512 tokens of T5 first, then the image in packs of 2 x 2; CLIP gives a pooled vector only."""

    processor = FluxAttnProcessor
    T5_LIMIT = 512
    GUIDANCE = 1.0
    """What guidance-distilled models are told: the plain likelihood, no guidance."""

    def _parts(self) -> dict[str, TextPart]:
        return {"t5": _part(self.pipeline, "_2", self.T5_LIMIT)}

    def _readers(self) -> Sequence[TextPart]:
        return (*self.parts.values(), _part(self.pipeline))

    def _remedy(self) -> str:
        return f'{super()._remedy()} and denoiser.network.set_attention_backend("native")'

    def _latent_channels(self) -> int:
        return self.network.config.in_channels // 4

    def _image_tokens(self) -> int:
        return (self.image_size // self.pipeline.vae_scale_factor // 2) ** 2

    def condition(self, texts: list[str]) -> Conditioning:
        embeddings, pooled, _ = self.pipeline.encode_prompt(
            texts, texts, device=self.device, max_sequence_length=self.T5_LIMIT
        )
        return Conditioning(embeddings, pooled)

    def output(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        batch, channels, height, width = noisy.shape
        pipeline, place = self.pipeline, (self.device, self.dtype)
        has_guidance = self.network.config.guidance_embeds
        packed = self.network(
            pipeline._pack_latents(noisy, batch, channels, height, width),
            timestep=self._sigma(timesteps),
            guidance=torch.full((batch,), self.GUIDANCE, device=self.device) if has_guidance else None,
            pooled_projections=text.pooled,
            encoder_hidden_states=text.embeddings,
            txt_ids=torch.zeros(text.embeddings.shape[1], 3, device=place[0], dtype=place[1]),
            img_ids=pipeline._prepare_latent_image_ids(batch, height // 2, width // 2, *place),
        ).sample
        scale = pipeline.vae_scale_factor
        return pipeline._unpack_latents(packed, height * scale, width * scale, scale)

    def _operators(self, calls: Sequence[Call]) -> Operators:
        total, pixels = calls[0].key.shape[2], self._image_tokens()
        return joint_layers(calls, image=range(total - pixels, total), text=range(total - pixels))


class PixArt(Denoiser):
    """PixArt-alpha and -sigma: a transformer with T5 cross-attention that predicts the noise and its variance."""

    processor = AttnProcessor2_0
    needs = ("transformer", "vae", "scheduler", "tokenizer", "text_encoder")

    def _network(self) -> nn.Module:
        return self.pipeline.transformer

    def _image_size(self) -> int:
        """That of the network alone: the VAE is Stable Diffusion's, and speaks of the pictures that it learnt from."""
        return self.network.config.sample_size * self.pipeline.vae_scale_factor

    def _parts(self) -> dict[str, TextPart]:
        limit = 300 if isinstance(self.pipeline, PixArtSigmaPipeline) else 120
        return {"t5": replace(_part(self.pipeline, limit=limit), respell=lower_case)}

    def condition(self, texts: list[str]) -> Conditioning:
        embeddings, mask, _, _ = self.pipeline.encode_prompt(
            texts, do_classifier_free_guidance=False, device=self.device, max_sequence_length=self.parts["t5"].limit
        )
        return Conditioning(embeddings, mask=mask)

    def output(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        output = self.network(
            noisy,
            encoder_hidden_states=text.embeddings,
            encoder_attention_mask=text.mask,
            timestep=timesteps,
            added_cond_kwargs=self._sizes(len(noisy)),
        ).sample
        return output[:, : noisy.shape[1]]

    def _sizes(self, batch: int) -> dict[str, Tensor | None]:
        """What the models with micro-conditioning, those of 1024 pixels, want to know of the image."""
        if not self.network.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        size = torch.full((batch, 2), float(self.image_size), device=self.device, dtype=self.dtype)
        return {"resolution": size, "aspect_ratio": torch.ones_like(size[:, :1])}

    def _operators(self, calls: Sequence[Call]) -> Operators:
        return separate_layers(calls)


FAMILIES: dict[type[DiffusionPipeline], type[Denoiser]] = {
    StableDiffusionPipeline: StableDiffusion,
    StableDiffusionXLPipeline: StableDiffusionXL,
    StableDiffusion3Pipeline: StableDiffusion3,
    FluxPipeline: Flux,
    PixArtAlphaPipeline: PixArt,
    PixArtSigmaPipeline: PixArt,
}


def wrap(pipeline: DiffusionPipeline, name: str) -> Denoiser:
    """The denoiser of a loaded pipeline.

    Raises:
        UnsupportedModelError: its class is not supported.
    """
    family = FAMILIES.get(type(pipeline))
    if family is None:
        known = ", ".join(cls.__name__ for cls in FAMILIES)
        raise UnsupportedModelError(f"{name} is a {type(pipeline).__name__}; supported: {known}")
    return family(pipeline, name)
