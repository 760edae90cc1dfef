"""The lazy operators against dense matrices, collected by an attention processor of our own."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from tiny import stable_diffusion
from torch.nn import functional as F

from elbo_core.diffusion.attention import AttentionTap, separate_layers
from elbo_core.diffusion.families import wrap
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


def plain_processors(network, *layers: str) -> dict:
    """The network's processors, with the unfused one in some layers, or in all."""
    return {
        name: AttnProcessor() if not layers or name.removesuffix(".processor") in layers else processor
        for name, processor in network.attn_processors.items()
    }


TEXT, IMAGE = "mid_block.attentions.0.transformer_blocks.0.attn2", "mid_block.attentions.0.transformer_blocks.0.attn1"


@pytest.mark.parametrize("layers", [(TEXT,), (IMAGE,), (TEXT, IMAGE), ()])
def test_layers_that_are_not_seen_are_named(tiny, inputs, layers):
    before = tiny.network.attn_processors
    tiny.network.set_attn_processor(plain_processors(tiny.network, *layers))
    try:
        with pytest.raises(UnsupportedModelError) as caught, torch.no_grad(), AttentionTap(tiny.network):
            tiny.network(*inputs)
        for name in (TEXT, IMAGE):
            assert (f"{name} (0)" in str(caught.value)) == (not layers or name in layers)
    finally:
        tiny.network.set_attn_processor(before)
    with torch.no_grad(), AttentionTap(tiny.network) as tap:
        tiny.network(*inputs)
    assert len(tap.calls) == 22


def test_calls_beside_the_layers_are_noticed(tiny, inputs):
    """A layer that asks twice, as an adapter for pictures does, and a call that belongs to no layer."""

    def ask(module, args, output):
        F.scaled_dot_product_attention(*torch.rand(3, 1, 1, 4, 8))

    layer = tiny.network.get_submodule(TEXT)
    for module, complaint in ((layer.to_out[0], rf"{TEXT} \(2\)"), (tiny.network.conv_in, r"outside all layers \(1\)")):
        handle = module.register_forward_hook(ask)
        try:
            with pytest.raises(UnsupportedModelError, match=complaint), torch.no_grad(), AttentionTap(tiny.network):
                tiny.network(*inputs)
        finally:
            handle.remove()


def test_calls_of_other_networks_are_none_of_its_business(tiny, inputs):
    with torch.no_grad(), AttentionTap(tiny.network) as tap:
        F.scaled_dot_product_attention(*torch.rand(3, 1, 1, 4, 8), is_causal=True)
        tiny.pipeline.text_encoder(torch.tensor([[1, 2, 3]]))
        tiny.network(*inputs)
    assert len(tap.calls) == 22


def test_a_network_without_attention_is_refused():
    network = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedModelError, match="Linear made no attention call"), AttentionTap(network):
        network(torch.zeros(1, 2))


@pytest.mark.parametrize("option", [{"is_causal": True}, {"dropout_p": 0.5}, {"enable_gqa": True}])
def test_attention_of_another_kind_is_refused(tiny, inputs, option):
    class Odd(AttnProcessor):
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
            query = attn.head_to_batch_dim(attn.to_q(hidden_states), 4)
            F.scaled_dot_product_attention(query, query, query, **option)

    before = tiny.network.attn_processors
    tiny.network.set_attn_processor({name: Odd() for name in before})
    try:
        complaint = "uses causal or grouped attention, or dropout"
        with pytest.raises(UnsupportedModelError, match=complaint), torch.no_grad(), AttentionTap(tiny.network):
            tiny.network(*inputs)
    finally:
        tiny.network.set_attn_processor(before)


def test_values_are_kept_on_request(tiny, inputs):
    with torch.no_grad(), AttentionTap(tiny.network) as plain:
        tiny.network(*inputs)
    with torch.no_grad(), AttentionTap(tiny.network, values=True) as tap:
        tiny.network(*inputs)
    assert all(call.value is None for call in plain.calls)
    for call in tap.calls:
        dense = (call.query @ call.key.mT * call.scale).softmax(dim=-1) @ call.value
        torch.testing.assert_close(call.result(), dense, atol=1e-5, rtol=1e-5)


def test_gradients_are_kept_on_request(tiny, inputs):
    noisy, timesteps, text = (tensor.clone() for tensor in inputs)
    noisy.requires_grad_()
    with AttentionTap(tiny.network) as tap:
        tiny.network(noisy, timesteps, text)
    assert not any(call.query.requires_grad or call.key.requires_grad for call in tap.calls)
    with AttentionTap(tiny.network, gradients=True, values=True) as tap:
        tiny.network(noisy, timesteps, text)
    last = tap.calls[-1]
    maps = (last.query @ last.key.mT * last.scale).softmax(dim=-1)
    (gradient,) = torch.autograd.grad(maps[..., 5].square().sum() + last.value.sum(), noisy)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()


def test_the_gradient_of_a_map_is_right(tiny, inputs):
    """Oracle: central differences along a random direction, in double precision."""
    network = copy.deepcopy(tiny.network).double()
    noisy, timesteps, text = (tensor[:1].double() if tensor.is_floating_point() else tensor[:1] for tensor in inputs)
    direction = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(3)).double()

    def mass(z):
        with AttentionTap(network, gradients=True) as tap:
            network(z, timesteps, text)
        call = next(call for call in tap.calls if call.sees_text)
        return (call.query @ call.key.mT * call.scale).softmax(dim=-1)[..., 7].square().sum()

    z = noisy.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mass(z), z)
    with torch.no_grad():
        slope = (mass(noisy + 1e-5 * direction) - mass(noisy - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-9)


def test_a_result_can_be_replaced(tiny, inputs):
    """Zeros in the place of a layer's result are what the network sees when the layer's values are zero."""
    layer = tiny.network.get_submodule(TEXT)
    with torch.no_grad():
        plain = tiny.network(*inputs).sample
        values = layer.to_v.weight.clone()
        layer.to_v.weight.zero_()
        expected = tiny.network(*inputs).sample
        layer.to_v.weight.copy_(values)
        with AttentionTap(tiny.network, replace=lambda call: 0 * call.result() if call.name == TEXT else None) as tap:
            replaced = tiny.network(*inputs).sample
        with AttentionTap(tiny.network, replace=lambda call: call.result()):
            same = tiny.network(*inputs).sample
    assert not torch.equal(replaced, plain)
    torch.testing.assert_close(replaced, expected)
    torch.testing.assert_close(same, plain)
    assert len(tap.calls) == 22, "calls within the replacement are not recorded"


def test_a_replaced_result_keeps_its_gradient(tiny, inputs):
    noisy, timesteps, text = inputs
    strength = torch.ones((), requires_grad=True)
    with AttentionTap(tiny.network, replace=lambda call: strength * call.result() if call.name == TEXT else None):
        output = tiny.network(noisy, timesteps, text).sample
    (gradient,) = torch.autograd.grad(output.square().mean(), strength)
    assert gradient.abs() > 0


@pytest.mark.parametrize("compile_it", ["blocks", "network"])
def test_a_compiled_network_is_seen(inputs, compile_it):
    denoiser = wrap(stable_diffusion(), "tiny")
    with torch.no_grad(), AttentionTap(denoiser.network) as plain:
        denoiser.network(*inputs)
    if compile_it == "blocks":
        denoiser.network.compile_repeated_blocks(fullgraph=True, backend="eager")
        network = denoiser.network
    else:
        network = torch.compile(denoiser.network, backend="eager")
    with torch.no_grad():
        network(*inputs)
        with AttentionTap(network) as tap:
            network(*inputs)
    assert [call.name for call in tap.calls] == [call.name for call in plain.calls]
    for ours, theirs in zip(tap.calls, plain.calls, strict=True):
        torch.testing.assert_close(ours.query, theirs.query)


def test_places_that_are_no_square_are_refused(recorded, tiny, inputs):
    with torch.no_grad(), AttentionTap(tiny.network) as tap:
        tiny.network(*inputs)
    merged = replace(tap.calls[0], query=tap.calls[0].query[:, :, :60])
    with pytest.raises(UnsupportedModelError, match="60 places, which are no square"):
        separate_layers([merged])


@pytest.mark.parametrize(("kind", "text"), [("image", True), ("text", False)])
def test_a_network_of_one_kind_of_layers_is_refused(tiny, inputs, kind, text):
    with torch.no_grad(), AttentionTap(tiny.network) as tap:
        tiny.network(*inputs)
    with pytest.raises(UnsupportedModelError, match=f"no {kind} attention"):
        separate_layers([call for call in tap.calls if call.sees_text == text])
