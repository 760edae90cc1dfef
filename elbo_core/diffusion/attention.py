"""Attention as an operator: seen where it is computed, asked for what is needed, never stored as a matrix.

Every diffusers model ends in `torch.nn.functional.scaled_dot_product_attention`. `AttentionTap` sees each of these
calls with its final query and key and leaves the model untouched. Later, `softmax(QK^T/sqrt(d)) V` is asked for
values V of our own choice: one-hot columns give the cross-attention map of chosen tokens, heatmaps give the
self-attention refinement. Both run through the same fused kernel, so no [pixels, pixels] matrix ever exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from elbo_core.diffusion.precision import whole_precision
from elbo_core.errors import UnsupportedModelError

WIDEST = 128
"""So many values at most go through a kernel at once. The softmax of a layer costs the same for one as for many, and
the heads of small networks are only sixteen wide."""


@dataclass(frozen=True)
class AttentionLayer:
    """The image's queries and all keys of one attention layer, one entry per timestep.

    query: [T, heads, side*side, d]; key: [T, heads, K, d]; scale: factor on QK^T.
    part: which keys are meant, all by default. In a joint sequence, text and image are parts of one softmax, so the
        weights of a part sum to less than one.
    bias: added to scale QK^T, broadcasting to [T, heads, side*side, K], or None.
    """

    name: str
    side: int
    query: Tensor
    key: Tensor
    scale: float
    part: range | None = None
    bias: Tensor | None = None

    @property
    def columns(self) -> int:
        """The number M of keys that are meant."""
        return self.key.shape[2] if self.part is None else len(self.part)

    @whole_precision
    def __call__(self, values: Tensor) -> Tensor:
        """softmax(scale QK^T) V for `values` [M, V] or [T, M, V], averaged over heads: [T, side*side, V] in float32."""
        values = self._among_all_keys(values.to(self.query.device, torch.float32))
        values = values.expand(len(self.query), *values.shape[-2:])
        width = max(self.query.shape[-1], min(values.shape[-1], WIDEST))
        return torch.cat([self._attend(block, width) for block in values.split(width, dim=-1)], dim=-1)

    def only(self, index: Sequence[int]) -> AttentionLayer:
        """The same layer at some of its timesteps, by their position."""
        index = list(index)
        bias = None if self.bias is None else self.bias.expand(len(self.query), *self.bias.shape[1:])[index]
        return replace(self, query=self.query[index], key=self.key[index], bias=bias)

    def renormalised(self) -> AttentionLayer:
        """The same layer with a softmax over its own part alone, so that the weights sum to one."""
        return self if self.part is None else self.among(range(self.columns))

    def among(self, columns: range) -> AttentionLayer:
        """The same layer with a softmax over some of its columns alone, as if the others were not there."""
        first = 0 if self.part is None else self.part.start
        own = slice(first + columns.start, first + columns.stop)
        bias = None if self.bias is None else self.bias[..., own]
        return replace(self, key=self.key[:, :, own], bias=bias, part=None)

    @property
    def heads(self) -> int:
        return self.query.shape[1]

    def each_head(self) -> AttentionLayer:
        """The same layer with every head of every timestep as an entry of its own, [T * heads, 1, ...]."""
        bias = None if self.bias is None else self.bias.expand(*self.query.shape[:2], *self.bias.shape[2:])
        query, key, bias = (
            None if part is None else part.flatten(0, 1)[:, None] for part in (self.query, self.key, bias)
        )
        return replace(self, query=query, key=key, bias=bias)

    @whole_precision
    def matrix(self) -> Tensor:
        """softmax(scale QK^T) itself, the mean over timesteps and heads: float32 [side*side, M]. For what no product
        with values can give; one timestep at a time, as it is large."""
        total = torch.zeros((), device=self.query.device)
        for index in range(len(self.query)):
            one = self.only([index])
            logits = one.scale * one.query[0].float() @ one.key[0].float().mT
            weights = (logits if one.bias is None else logits + one.bias[0].float()).softmax(dim=-1)
            total = total + weights.mean(dim=0)
        own = slice(None) if self.part is None else slice(self.part.start, self.part.stop)
        return (total / len(self.query))[:, own]

    def _among_all_keys(self, values: Tensor) -> Tensor:
        """Values [..., M, V] of this part, with zeros for the other keys: [..., K, V]."""
        if self.part is None:
            return values
        return F.pad(values, (0, 0, self.part.start, self.key.shape[2] - self.part.stop))

    def _attend(self, values: Tensor, width: int) -> Tensor:
        """One kernel call. The fused kernels want values as wide as the keys, so what is narrower than `width` is
        filled up with zeros: in queries and keys they change no product."""
        query, key = (F.pad(one.float(), (0, width - one.shape[-1])) for one in (self.query, self.key))
        heads, filled = query.shape[1], F.pad(values, (0, width - values.shape[-1]))
        bias = None if self.bias is None else self.bias.float()
        spread = filled[:, None].expand(-1, heads, -1, -1)
        mixed = F.scaled_dot_product_attention(query, key, spread, attn_mask=bias, scale=self.scale)
        return mixed.mean(dim=1)[..., : values.shape[-1]]


@dataclass(frozen=True)
class CrossAttention:
    """All text attention layers of a network in execution order."""

    layers: tuple[AttentionLayer, ...]

    def only(self, index: Sequence[int]) -> CrossAttention:
        """The same at some of the timesteps, by their position."""
        return CrossAttention(tuple(layer.only(index) for layer in self.layers))

    def renormalised(self) -> CrossAttention:
        """The same, each pixel's weights on the text summing to one."""
        return CrossAttention(tuple(layer.renormalised() for layer in self.layers))

    def maps(self, columns: Sequence[Sequence[int]]) -> list[Tensor]:
        """Per layer the maps [T, N, side, side] of N groups of token columns, each the mean over its columns."""
        selector = torch.zeros(self.layers[0].columns, len(columns), dtype=torch.float32)
        for group, members in enumerate(columns):
            selector[list(members), group] = 1 / len(members)
        return [layer(selector).mT.unflatten(-1, (layer.side, layer.side)) for layer in self.layers]


@dataclass(frozen=True)
class SelfAttention:
    """All image attention layers of a network in execution order; `side` is that of the first, the finest."""

    layers: tuple[AttentionLayer, ...]

    def only(self, index: Sequence[int]) -> SelfAttention:
        """The same at some of the timesteps, by their position."""
        return SelfAttention(tuple(layer.only(index) for layer in self.layers))

    @property
    def side(self) -> int:
        return self.layers[0].side

    @whole_precision
    def refine(self, heatmaps: Tensor, weights: Sequence[float]) -> Tensor:
        """The weighted mean of the layers applied to `heatmaps` [T or 1, N, H, W]: [T, N, H, W].

        A layer of side r stands for its matrix enlarged bilinearly to H x W on both axes, with rows that still sum to
        one; where r = H = W that is the matrix itself. H and W must not be smaller than r.

        Raises:
            ValueError: the weights do not match the layers or sum to zero.
        """
        if len(weights) != len(self.layers) or not sum(weights):
            raise ValueError(f"need {len(self.layers)} self-attention weights of non-zero sum, got {list(weights)}")
        chosen = [(layer, weight) for layer, weight in zip(self.layers, weights, strict=True) if weight]
        return sum(weight * _apply(layer, heatmaps) for layer, weight in chosen) / sum(weights)


def _apply(layer: AttentionLayer, heatmaps: Tensor) -> Tensor:
    rows, columns = (interpolation_matrix(layer.side, size).to(heatmaps) for size in heatmaps.shape[-2:])  # [H|W, r]
    pooled = (rows / rows.sum(0)).T @ heatmaps @ (columns / columns.sum(0))  # [T, N, r, r]: each key's mean
    mixed = layer(pooled.flatten(2).mT).mT.unflatten(-1, (layer.side, layer.side))
    return rows @ mixed @ columns.T


def interpolation_matrix(size: int, target: int) -> Tensor:
    """The matrix [target, size] of bilinear resizing along one axis (half-pixel centres, no antialiasing)."""
    return F.interpolate(torch.eye(size, dtype=torch.float32)[None], size=target, mode="linear")[0].T


@dataclass(frozen=True)
class Call:
    """One attention call of a network: query [B, heads, Q, d], key [B, heads, K, d], value [B, heads, K, e] and bias as
    the kernel sees them.

    sees_text: whether the layer was given the text beside the image. value: None where it was not asked for.
    """

    name: str
    sees_text: bool
    query: Tensor
    key: Tensor
    value: Tensor | None
    scale: float
    bias: Tensor | None

    def layer(self, rows: range | None = None, part: range | None = None) -> AttentionLayer:
        """The call as seen from some of its rows, the image's, on a part of its keys; both all by default.

        Raises:
            UnsupportedModelError: the rows are no square of pixels, as after a merging of tokens.
        """
        query = self.query if rows is None else self.query[:, :, rows.start : rows.stop]
        side = math.isqrt(query.shape[2])
        if side**2 != query.shape[2]:
            raise UnsupportedModelError(f"layer {self.name} looks from {query.shape[2]} places, which are no square")
        return AttentionLayer(self.name, side, query, self.key, self.scale, part, self.bias)

    def result(self) -> Tensor:
        """What the kernel makes of the call: [B, heads, Q, e]."""
        return F.scaled_dot_product_attention(self.query, self.key, self.value, attn_mask=self.bias, scale=self.scale)


Replacement = Callable[[Call], Tensor | None]
"""What is to take the place of a call's result, or None to leave it."""


class AttentionTap(TorchFunctionMode):
    """While active, records every attention call of `network`; its output does not change unless `replace` changes it.

    with AttentionTap(unet) as tap:
        unet(noisy, timesteps, text)
    cross, self_attention = separate_layers(tap.calls)

    Compiled parts run as they were written meanwhile: nothing would be seen of them.

    gradients: whether the calls stay in the graph of the network's output. values: whether they keep their values.
    replace: given each call, whole and in the graph, what its result is to be (see `Call.result`). remedy: what to
    advise where a layer is not seen.

    Raises:
        UnsupportedModelError: at the end of a pass, if a layer did not make its one call through
            `scaled_dot_product_attention`, or a call was made outside all layers; it names them.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        gradients: bool = False,
        values: bool = False,
        replace: Replacement | None = None,
        remedy: str = "",
    ):
        super().__init__()
        self.network = getattr(network, "_orig_mod", network)  # what torch.compile has wrapped
        self.calls: list[Call] = []
        self._gradients, self._values, self._replace, self._remedy = gradients, values, replace, remedy
        self._is_running, self._before = False, 0
        self._inside: list[_Visit] = []
        self._unseen: dict[str, int] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> AttentionTap:
        add = self._hooks.append
        add(self.network.register_forward_pre_hook(self._starting))
        add(self.network.register_forward_hook(self._ending))
        for name, module in self.network.named_modules():
            if hasattr(module, "to_q") and hasattr(module, "set_processor"):
                add(module.register_forward_pre_hook(self._entering(name), with_kwargs=True))
                add(module.register_forward_hook(self._leaving, always_call=True))
        self._stance = torch.compiler.set_stance("force_eager")
        self._stance.__enter__()
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        super().__exit__(*exception)
        self._stance.__exit__(*exception)
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _starting(self, *_) -> None:
        self._is_running, self._before = True, len(self.calls)
        self._inside.clear()
        self._unseen.clear()

    def _ending(self, *_) -> None:
        self._is_running = False
        if not self._unseen and len(self.calls) == self._before:
            raise UnsupportedModelError(f"{type(self.network).__name__} made no attention call that could be seen")
        if self._unseen:
            found = ", ".join(f"{name} ({count})" for name, count in self._unseen.items())
            raise UnsupportedModelError(
                "these attention layers did not make one call each through scaled_dot_product_attention, but as many "
                f"as stand behind them: {found}{self._remedy and f'; call {self._remedy} first'}"
            )

    def _entering(self, name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            text = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
            self._inside.append(_Visit(name, text is not None))

        return hook

    def _leaving(self, *_) -> None:
        visit = self._inside.pop()
        if visit.calls != 1:
            self._unseen[visit.name] = visit.calls

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is not F.scaled_dot_product_attention or not self._is_running:
            return function(*args, **kwargs)
        if not self._inside:
            self._unseen["outside all layers"] = self._unseen.get("outside all layers", 0) + 1
            return function(*args, **kwargs)
        self._inside[-1].calls += 1
        call = _describe(self._inside[-1], *args, **kwargs)
        self.calls.append(self._kept(call))
        result = self._replace(call) if self._replace else None
        return function(*args, **kwargs) if result is None else result

    def _kept(self, call: Call) -> Call:
        call = call if self._values else replace(call, value=None)
        if self._gradients:
            return call
        value = None if call.value is None else call.value.detach()
        return replace(call, query=call.query.detach(), key=call.key.detach(), value=value)


@dataclass
class _Visit:
    """A layer that is being run, and how many calls were seen of it."""

    name: str
    sees_text: bool
    calls: int = 0


def _describe(
    visit: _Visit,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call:
    """A call from the arguments of `scaled_dot_product_attention`."""
    if is_causal or enable_gqa or dropout_p:
        raise UnsupportedModelError(f"layer {visit.name} uses causal or grouped attention, or dropout")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return Call(visit.name, visit.sees_text, query, key, value, scale, _as_bias(attn_mask, query.dtype))


def _as_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """An attention mask as numbers to add; of a boolean one, False becomes -inf."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -torch.inf)


Operators = tuple[CrossAttention, SelfAttention]


def separate_layers(calls: Sequence[Call]) -> Operators:
    """Of a network whose layers look either at the text or at the image, as UNets and PixArt do.

    Raises:
        UnsupportedModelError: there is no call of one kind.
    """
    cross = [call.layer() for call in calls if call.sees_text]
    own = [call.layer() for call in calls if not call.sees_text]
    return _operators(cross, own)


def joint_layers(calls: Sequence[Call], image: range, text: range) -> Operators:
    """Of a network whose layers look at text and image in one sequence, as Stable Diffusion 3 and FLUX do.

    A layer that sees the image alone (the dual attention of Stable Diffusion 3.5) counts as self-attention.

    Raises:
        UnsupportedModelError: as for `separate_layers`.
    """
    alone = [call.key.shape[2] == len(image) for call in calls]
    cross = [call.layer(image, text) for call, only_image in zip(calls, alone, strict=True) if not only_image]
    own = [
        call.layer() if only_image else call.layer(image, image) for call, only_image in zip(calls, alone, strict=True)
    ]
    return _operators(cross, own)


def _operators(cross: Sequence[AttentionLayer], own: Sequence[AttentionLayer]) -> Operators:
    for kind, layers in (("text", cross), ("image", own)):
        if not layers:
            raise UnsupportedModelError(f"the network has no {kind} attention")
    return CrossAttention(tuple(cross)), SelfAttention(tuple(own))
