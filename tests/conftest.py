"""Small real components, built in memory: no mocks, no network."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from elbo_core.denoiser import Denoiser, load, wrap
from elbo_core.paths import MODELS
from elbo_core.scene import Scene
from elbo_core.toy.train_clip import build_tokenizer
from elbo_core.toy.train_sd import build_scheduler


def tiny_pipeline(prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    """A random Stable Diffusion pipeline with sides 8 | 4 | 2 | 4 | 8 and several layers of each."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=77, **special,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32, 32), layers_per_block=2, attention_head_dim=2, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16,
    )  # fmt: skip
    for layer in unet.attn_processors:  # random attention is nearly flat; sharpen it so that errors show
        unet.get_submodule(layer.removesuffix(".processor")).to_q.weight.data.mul_(8)
    vae = AutoencoderKL(
        sample_size=32, block_out_channels=(8, 8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    scheduler = build_scheduler()
    scheduler.register_to_config(prediction_type=prediction_type)
    return StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text).eval(), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> Denoiser:
    return wrap(tiny_pipeline(), "tiny")


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
