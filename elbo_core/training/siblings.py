"""The toy diffusion models, each with the pipeline class, objective and text encoders of its original.

A builder takes the folder of the finished models and returns a pipeline that is ready to be trained: what it shares
with an earlier model is read from there, and so are the weights that it starts from.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from elbo_core.training.text import build_t5, build_t5_tokenizer, build_text_encoder, build_tokenizer

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}
"""The noise of Stable Diffusion 1.x to XL."""
T5_WIDTH = 256


def build_unet(cross_attention_dim: int, **options) -> UNet2DConditionModel:
    """A small UNet with attention at its two finer sides; `options` go to `UNet2DConditionModel`."""
    shape = {
        "sample_size": 16,
        "block_out_channels": (48, 96, 192),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "norm_num_groups": 16,
    }
    return UNet2DConditionModel(cross_attention_dim=cross_attention_dim, **shape | options)


def build_scheduler() -> PNDMScheduler:
    """The scheduler of Stable Diffusion 1.x."""
    return PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, prediction_type="epsilon", **SCHEDULE)


def sd14(vae: AutoencoderKL) -> StableDiffusionPipeline:
    """The first: all but the VAE is new."""
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(CLIPTextModel, tokenizer)
    unet = build_unet(text_encoder.config.hidden_size)
    return _stable_diffusion(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet)


def sd15(models: Path) -> StableDiffusionPipeline:
    """It continues toy-sd14, as 1.5 continued 1.4."""
    return StableDiffusionPipeline.from_pretrained(models / "toy-sd14")


def sd2(models: Path) -> StableDiffusionPipeline:
    """It predicts the velocity. The original started anew; this one starts from toy-sd14, which spares hours."""
    parent = StableDiffusionPipeline.from_pretrained(models / "toy-sd14")
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **SCHEDULE)
    return _stable_diffusion(
        vae=parent.vae, text_encoder=parent.text_encoder, tokenizer=parent.tokenizer, unet=parent.unet,
        scheduler=scheduler,
    )  # fmt: skip


def sd21(models: Path) -> StableDiffusionPipeline:
    """It continues toy-sd2, as 2.1 continued 2."""
    return StableDiffusionPipeline.from_pretrained(models / "toy-sd2")


def sdxl(models: Path) -> StableDiffusionXLPipeline:
    """No attention at the finest side, but at the coarsest; a second text encoder, new, that gives a pooled vector.

    What its UNet has in common with that of toy-sd14 starts from there.
    """
    parent = StableDiffusionPipeline.from_pretrained(models / "toy-sd14")
    second = build_text_encoder(CLIPTextModelWithProjection, parent.tokenizer)
    time_width = 16
    unet = build_unet(
        parent.text_encoder.config.hidden_size + second.config.hidden_size,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=time_width,
        projection_class_embeddings_input_dim=second.config.projection_dim + 6 * time_width,
    )
    inherit(unet, parent.unet)
    return StableDiffusionXLPipeline(
        vae=parent.vae, unet=unet, scheduler=EulerDiscreteScheduler(**SCHEDULE),
        text_encoder=parent.text_encoder, tokenizer=parent.tokenizer, text_encoder_2=second,
        tokenizer_2=parent.tokenizer, force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip


def sd35(models: Path, vae: AutoencoderKL) -> StableDiffusion3Pipeline:
    """A transformer that looks at image and text at once, with query-key norms and, in its first blocks, a second
    attention for the image alone. The two CLIPs are those of toy-clip and toy-sdxl; the T5 is new."""
    tokenizer, t5_tokenizer = build_tokenizer(), build_t5_tokenizer()
    first = CLIPTextModelWithProjection.from_pretrained(models / "toy-clip")
    second = CLIPTextModelWithProjection.from_pretrained(models / "toy-sdxl" / "text_encoder_2")
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=5,
        num_attention_heads=3,
        attention_head_dim=64,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=192,
        pooled_projection_dim=first.config.projection_dim + second.config.projection_dim,
        pos_embed_max_size=8,  # just the 8 x 8 places that there are, so that neighbours lie a whole step apart
        dual_attention_layers=(0, 1),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=first, tokenizer=tokenizer, text_encoder_2=second, tokenizer_2=tokenizer,
        text_encoder_3=build_t5(t5_tokenizer, T5_WIDTH), tokenizer_3=t5_tokenizer,
    )  # fmt: skip


def _stable_diffusion(**parts) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        **{"scheduler": build_scheduler()} | parts,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@torch.no_grad()
def inherit(child: nn.Module, parent: nn.Module) -> None:
    """Give the child each weight that its parent has under the same name. Where the child reads more inputs, those
    that the parent did not know start without influence."""
    weights = parent.state_dict()
    for name, weight in child.state_dict().items():
        known = weights.get(name)
        if known is None or known.shape[:1] != weight.shape[:1] or known.ndim != weight.ndim:
            continue
        if known.shape == weight.shape:
            weight.copy_(known)
        elif known.shape[2:] == weight.shape[2:] and known.shape[1] < weight.shape[1]:
            weight.zero_()
            weight[:, : known.shape[1]] = known
