"""How much memory a full-size model needs. Its weights are fake: every operation runs, on shapes alone."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel

from elbo_core import Plan, Recipe, observe
from elbo_core.diffusion.families import wrap
from elbo_core.diffusion.live import LiveTensors
from elbo_core.methods.evidence import Evidence, EvidenceTimesAttention
from elbo_core.scene import Scene
from elbo_core.toy.world import THINGS
from elbo_core.training.siblings import build_scheduler
from elbo_core.training.text import build_tokenizer

PIXELS = 64 * 64


@pytest.fixture(scope="module")
def full_size():
    """Stable Diffusion 1.5 for pictures of 512 x 512, 860 M parameters in the UNet."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        vae = AutoencoderKL(
            sample_size=512, block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        text_encoder = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
    pipeline = StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=text_encoder, tokenizer=build_tokenizer(), scheduler=build_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return wrap(pipeline, "full-size")


def modules(denoiser):
    return [part for part in denoiser.pipeline.components.values() if isinstance(part, torch.nn.Module)]


def is_matrix_of_pixels(shape):
    return shape[-2:] == (PIXELS, PIXELS)


@pytest.fixture(scope="module")
def plain(full_size):
    """A forward pass of a whole batch, in numbers."""
    batch = Plan().batch_size
    with LiveTensors(*modules(full_size)) as live, torch.no_grad():
        full_size.network(torch.zeros(batch, 4, 64, 64), torch.zeros(batch), torch.zeros(batch, 77, 768))
    assert live.peak > 4 * sum(p.numel() for p in full_size.network.parameters())
    return live.peak


METHODS = [Recipe(), Evidence(weight="epsilon"), EvidenceTimesAttention()]
"""The default weight of evidence looks at numbers, which tensors without numbers cannot give; its maps are as many."""


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@torch.no_grad()
def test_ten_classes_need_hardly_more_than_a_forward_pass(full_size, plain, method):
    with LiveTensors(*modules(full_size)) as whole:
        heatmaps = method(observe(full_size, Scene.of(torch.rand(3, 512, 512), list(THINGS[:10])), method.needs))
    assert heatmaps.values.shape == (10, 512, 512)
    assert whole.peak <= 1.15 * plain
    assert not [shape for shape in whole.shapes if is_matrix_of_pixels(shape)]


@torch.no_grad()
def test_a_matrix_of_pixels_would_be_seen(full_size):
    with LiveTensors() as live, sdpa_kernel(SDPBackend.MATH):
        full_size.network(torch.zeros(1, 4, 64, 64), torch.zeros(1), torch.zeros(1, 77, 768))
    assert any(map(is_matrix_of_pixels, live.shapes))
