"""How a diffusion model is trained: the timesteps of a batch, and the attention while it learns."""

from __future__ import annotations

import pytest
import torch
from tiny import stable_diffusion, stable_diffusion_3
from torch.nn.functional import scaled_dot_product_attention

from elbo_core.diffusion.families import wrap
from elbo_core.training.train_diffusion import (
    EMPHASIS,
    LAYOUT,
    learning_parts,
    plain_attention,
    read_cropped,
    read_unpadded,
    stratified_timesteps,
)


def test_timesteps_are_spread_evenly():
    timesteps = stratified_timesteps(32, 1000, torch.Generator().manual_seed(0)).sort().values
    assert timesteps[0] < 32
    assert timesteps[-1] in range(968, 1000)
    assert set(timesteps.diff().tolist()) <= {31, 32}


@pytest.mark.parametrize(("limit", "share"), [(100, 0.1), (350, 0.45), (600, 0.8), (1000, 1.0)])
def test_those_of_a_flow_are_drawn_where_shapes_are_decided(limit, share):
    timesteps = stratified_timesteps(4000, 1000, torch.Generator().manual_seed(1), EMPHASIS["flow_prediction"])
    assert (timesteps < limit).float().mean().item() == pytest.approx(share, abs=0.001)


def test_plain_attention_gives_the_same_gradients_and_leaves_no_trace():
    query, key, value = torch.randn(3, 2, 4, 10, 8).requires_grad_()
    fused = torch.autograd.grad(scaled_dot_product_attention(query, key, value).square().sum(), [query, key, value])
    with plain_attention():
        output = scaled_dot_product_attention(query, key, value)
    plain = torch.autograd.grad(output.square().sum(), [query, key, value])
    torch.testing.assert_close(plain, fused)
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() is False


def test_only_what_learns_keeps_gradients():
    denoiser = wrap(stable_diffusion_3(), "tiny")
    pipeline = denoiser.pipeline
    learning = learning_parts(denoiser, [pipeline.text_encoder_3])
    assert list(learning) == [pipeline.transformer, pipeline.text_encoder_3]
    assert all(weight.requires_grad for weight in learning.parameters())
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        assert not any(weight.requires_grad for weight in part.parameters())


@pytest.mark.parametrize(("limit", "share"), [(100, 0.04), (250, 0.1), (625, 0.55), (1000, 1.0)])
def test_those_of_composing_are_mostly_noisy(limit, share):
    timesteps = stratified_timesteps(4000, 1000, torch.Generator().manual_seed(1), LAYOUT)
    assert (timesteps < limit).float().mean().item() == pytest.approx(share, abs=0.001)


def test_cropped_captions_read_the_same_with_fewer_tokens():
    denoiser = wrap(stable_diffusion(), "tiny")
    captions = ["a photo of a star", "a red star and a blue tree"]
    full, cropped = denoiser.condition(captions), read_cropped(denoiser, captions)
    assert cropped.embeddings.shape[1] in (8, 16, 24)
    torch.testing.assert_close(cropped.embeddings, full.embeddings[:, : cropped.embeddings.shape[1]])
    assert denoiser.pipeline.tokenizer.model_max_length == full.embeddings.shape[1]


def test_unpadded_captions_read_the_same_with_fewer_tokens():
    denoiser = wrap(stable_diffusion_3(), "tiny")
    captions = ["a photo of a star", "a photo of two trees and a large ball"]
    full, short = denoiser.condition(captions), read_unpadded(denoiser, captions)
    half = short.embeddings.shape[1] // 2
    assert half % 16 == 0
    assert half < 77
    torch.testing.assert_close(short.embeddings[:, :half], full.embeddings[:, :half])  # CLIP never looks ahead
    torch.testing.assert_close(short.pooled, full.pooled)
    assert denoiser.pipeline.tokenizer_max_length == denoiser.pipeline.tokenizer.model_max_length
    assert denoiser.condition(captions).embeddings.shape == full.embeddings.shape
