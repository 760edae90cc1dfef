"""How a diffusion model is trained: the timesteps of a batch, and the attention while it learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from elbo_core.toy.train_sd import EMPHASIS, plain_attention, stratified_timesteps


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
