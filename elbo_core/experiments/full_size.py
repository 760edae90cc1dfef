"""The paper's six models at their full size with random weights: what they cost does not depend on what they know.

The networks are those of the originals' configs; tokenizers are the embedded world's, whose few words are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from elbo_core.training.siblings import SCHEDULE, build_scheduler
from elbo_core.training.text import build_t5_tokenizer, build_tokenizer


def _vae(channels: int = 4, size: int = 512, **options) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=size, block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **options,
    )  # fmt: skip


def _clip(width: int, layers: int, heads: int, projected: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    tokenizer = build_tokenizer()
    special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        projection_dim=width, **special,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _stable_diffusion(unet: UNet2DConditionModel, text_encoder: CLIPTextModel, prediction: str, size: int):
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=False, set_alpha_to_one=False, **SCHEDULE)
    return StableDiffusionPipeline(
        vae=_vae(size=size), unet=unet, text_encoder=text_encoder, tokenizer=build_tokenizer(), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sd1() -> StableDiffusionPipeline:
    """Stable Diffusion 1.4 and 1.5: pictures of 512 x 512, a UNet of 860 M parameters."""
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    return _stable_diffusion(unet, _clip(768, 12, 12), "epsilon", 512)


def sd2() -> StableDiffusionPipeline:
    """Stable Diffusion 2 and 2.1: pictures of 768 x 768, the velocity, OpenCLIP's text encoder."""
    unet = UNet2DConditionModel(
        sample_size=96, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    )
    return _stable_diffusion(unet, _clip(1024, 23, 16), "v_prediction", 768)


def sdxl() -> StableDiffusionXLPipeline:
    """Stable Diffusion XL: pictures of 1024 x 1024, a UNet of 2.6 B parameters, two text encoders."""
    unet = UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), transformer_layers_per_block=(1, 2, 10),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=_vae(size=1024), unet=unet, scheduler=build_scheduler(), tokenizer=build_tokenizer(),
        text_encoder=_clip(768, 12, 12), tokenizer_2=build_tokenizer(), text_encoder_2=_clip(1280, 32, 20, True),
    )  # fmt: skip


def sd35() -> StableDiffusion3Pipeline:
    """Stable Diffusion 3.5 medium: a transformer of 2.2 B parameters, three text encoders, T5 with 4.8 B."""
    transformer = SD3Transformer2DModel(
        sample_size=128, patch_size=2, in_channels=16, num_layers=24, attention_head_dim=64, num_attention_heads=24,
        joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048, out_channels=16,
        pos_embed_max_size=384, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
    )  # fmt: skip
    t5 = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(16, 1024, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(768, 12, 12, True), tokenizer=build_tokenizer(),
        text_encoder_2=_clip(1280, 32, 20, True), tokenizer_2=build_tokenizer(),
        text_encoder_3=T5EncoderModel(t5), tokenizer_3=build_t5_tokenizer(),
    )  # fmt: skip


ARCHITECTURES: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd14": sd1, "sd15": sd1, "sd2": sd2, "sd21": sd2, "sdxl": sdxl, "sd35": sd35,
}  # fmt: skip
"""By the name of the model (`diffusion.registry`). 1.4 and 1.5 are of one shape, and so are 2 and 2.1."""


def names() -> Sequence[str]:
    """Of the models, one for each shape."""
    return [name for k, name in enumerate(ARCHITECTURES) if ARCHITECTURES[name] not in list(ARCHITECTURES.values())[:k]]


def build(name: str, device: str, dtype: torch.dtype) -> DiffusionPipeline:
    """A model of random weights, made where it is to be used.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            pipeline = ARCHITECTURES[name]()
    finally:
        torch.set_default_dtype(before)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, dtype)
