"""The lazy operators against dense matrices, collected by an attention processor of our own."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional as F

from elbo_core.diffusion.attention import AttentionTap, separate_layers
from elbo_core.errors import UnsupportedModelError

T = 3


class DenseProcessor(AttnProcessor):
    """Textbook attention that keeps its probabilities [B, heads, N, M] and whether they look at text."""

    def __init__(self, store: list):
        self.store = store

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        probabilities = (query @ key.mT * attn.scale).softmax(dim=-1)
        self.store.append((encoder_hidden_states is not None, probabilities))
        return attn.to_out[0]((probabilities @ value).transpose(1, 2).flatten(2))


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(T, 4, 8, 8, generator=generator)
    text = torch.randn(T, 77, 16, generator=generator)
    return noisy, torch.tensor([20, 100, 200]), text


@pytest.fixture(scope="module")
def recorded(tiny, inputs):
    """(lazy operators, dense probabilities of text layers, of image layers) of the same forward pass."""
    with torch.no_grad(), AttentionTap(tiny.network) as tap:
        tiny.network(*inputs)
    store: list = []
    before = tiny.network.attn_processors
    tiny.network.set_attn_processor(DenseProcessor(store))
    with torch.no_grad():
        tiny.network(*inputs)
    tiny.network.set_attn_processor(before)
    return (
        separate_layers(tap.calls),
        [p for sees_text, p in store if sees_text],
        [p for sees_text, p in store if not sees_text],
    )


def test_sees_every_layer_in_order(recorded):
    (cross, image), dense_cross, dense_self = recorded
    cross, image = cross.layers, image.layers
    assert [layer.side for layer in cross] == [8, 8, 4, 4, 2, 4, 4, 4, 8, 8, 8]
    assert len(cross) == len(dense_cross)
    assert [layer.side**2 for layer in image] == [p.shape[-1] for p in dense_self]
    assert cross[0].name.startswith("down_blocks.0")
    assert cross[4].name.startswith("mid_block")


def test_cross_maps_equal_the_dense_ones(recorded):
    (cross, _), dense, _ = recorded
    columns = [(5,), (2, 3, 9)]
    for lazy, probabilities in zip(cross.maps(columns), dense, strict=True):
        mean = probabilities.mean(dim=1)  # heads
        expected = torch.stack([mean[..., list(c)].mean(dim=-1) for c in columns], dim=1)
        torch.testing.assert_close(lazy.flatten(2), expected, atol=1e-5, rtol=1e-5)


def test_many_columns_are_asked_in_blocks(recorded):
    (cross, _), dense, _ = recorded
    maps = cross.maps([(i,) for i in range(77)])
    torch.testing.assert_close(maps[0].flatten(2).mT, dense[0].mean(dim=1), atol=1e-5, rtol=1e-5)
    assert torch.stack([m.sum(dim=1) for m in maps[:2]]).allclose(torch.ones(1), atol=1e-5), "rows sum to one"


@pytest.mark.parametrize("size", [(8, 8), (12, 20)])
@pytest.mark.parametrize("weights", [[1] * 11, [1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1], [0.5, 0, 0, 2, 3, 0, 0, 1, 0, 0, 1]])
def test_self_attention_equals_the_enlarged_dense_matrices(recorded, size, weights):
    (_, own), _, dense = recorded
    heatmaps = torch.rand(1, 2, *size)
    expected = sum(w * dense_refine(p.mean(dim=1), heatmaps[0], size) for w, p in zip(weights, dense, strict=True))
    refined = own.refine(heatmaps, weights)
    torch.testing.assert_close(refined, expected / sum(weights), atol=1e-5, rtol=1e-5)


def dense_refine(probabilities: torch.Tensor, heatmaps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Enlarge [T, r*r, r*r] to [T, H*W, H*W] on both axes, normalise its rows, apply it to [N, H, W]."""
    side = int(probabilities.shape[-1] ** 0.5)
    keys = F.interpolate(torch.eye(side * side).view(-1, 1, side, side), size=size, mode="bilinear").flatten(1)
    keys = keys / keys.sum(dim=1, keepdim=True)  # each key of the layer spreads over the pixels that it covers
    matrix = probabilities @ keys  # [T, r*r, H*W]
    matrix = matrix.mT.unflatten(-1, (side, side))
    matrix = F.interpolate(matrix, size=size, mode="bilinear").flatten(2).mT  # [T, H*W, H*W]
    torch.testing.assert_close(matrix.sum(dim=-1), torch.ones(matrix.shape[:2]))
    return (matrix @ heatmaps.flatten(1).T).mT.unflatten(-1, size)


def test_one_map_serves_all_timesteps(recorded):
    attention = recorded[0][1]
    heatmaps = torch.rand(1, 2, 8, 8)
    weights = [1.0] * 11
    torch.testing.assert_close(
        attention.refine(heatmaps, weights), attention.refine(heatmaps.expand(T, -1, -1, -1), weights)
    )


@pytest.mark.parametrize("weights", [[1, 1], [0] * 11])
def test_bad_self_attention_weights(recorded, weights):
    with pytest.raises(ValueError, match="11 self-attention weights"):
        recorded[0][1].refine(torch.rand(1, 1, 8, 8), weights)


def test_a_tapped_pass_gives_the_same_output(tiny, inputs):
    with torch.no_grad():
        plain = tiny.network(*inputs).sample
        with AttentionTap(tiny.network):
            tapped = tiny.network(*inputs).sample
    assert torch.equal(plain, tapped)


def test_nothing_is_left_behind_after_an_exception(tiny, inputs):
    noisy, timesteps, text = inputs
    with torch.no_grad():
        plain = tiny.network(*inputs).sample
        with pytest.raises(RuntimeError), AttentionTap(tiny.network):
            tiny.network(noisy, timesteps, text[..., :3])
        assert torch.equal(plain, tiny.network(*inputs).sample)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in tiny.network.modules())
    with torch.no_grad(), AttentionTap(tiny.network) as tap:
        tiny.network(*inputs)
    assert len(separate_layers(tap.calls)[0].layers) == 11


def test_a_network_without_fused_attention_is_refused(tiny, inputs):
    before = tiny.network.attn_processors
    tiny.network.set_attn_processor(AttnProcessor())
    try:
        with torch.no_grad(), AttentionTap(tiny.network) as tap:
            tiny.network(*inputs)
        with pytest.raises(UnsupportedModelError, match="no text attention call"):
            separate_layers(tap.calls)
    finally:
        tiny.network.set_attn_processor(before)
