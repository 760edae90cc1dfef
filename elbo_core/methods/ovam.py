"""OVAM: open-vocabulary attention maps (Marcos-Manchon et al. 2024; `vpulab/ovam` @ 12afd87)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from elbo_core.diffusion.attention import AttentionLayer, CrossAttention
from elbo_core.heatmaps import min_max, resize
from elbo_core.methods.baseline import Baseline, alike, by_caption, each_token, outside_middle, put_together
from elbo_core.methods.observe import CaptionAttention, Observation
from elbo_core.methods.plan import CAPTION


@dataclass(frozen=True)
class Ovam(Baseline):
    """The picture's queries against the keys of an attribution prompt, in a softmax over that prompt's own tokens (with
    those that mark its start and end, without padding); summed over timesteps, heads and layers, bilinear to the finest
    side; the mean over a class's tokens; bilinear to the picture; min-max. The middle block is left out.

    queries: of which text's pass they are. The original takes those of the unconditional half of its batch, `EMPTY`;
        with `CAPTION`, the attribution prompt's own.

    The keys of text attention are the same at every timestep and for every picture, so they can be taken from the
    caption's own pass. Where text and image share one softmax, only the caption's own queries belong to its keys.
    Left out: its factor from self-attention, which is attention applied to ones, a constant but for rounding; and the
    optimisation of tokens.
    """

    queries: str = CAPTION

    def undefined(self, observation: Observation) -> str:
        joint = any(layer.part for layer in observation.all_attention[0].captions[0].cross.layers)
        if joint and self.queries != CAPTION:
            return "text and image share one softmax, so that the keys of a text are not those of another pass"
        return ""

    def maps(self, observation: Observation) -> Tensor:
        (source, *more) = observation.attention_of(self.queries).captions
        captions = observation.attention_of(CAPTION).captions
        sources = captions if self.queries == CAPTION else [source] * len(captions)
        if more and self.queries != CAPTION:
            raise ValueError(f"the queries of {self.queries!r} come from {1 + len(more)} captions, which is ambiguous")
        by_class = {caption.classes: own.cross.layers for caption, own in zip(captions, sources, strict=True)}
        size = observation.image_size
        return by_caption(observation, captions, lambda caption: _read(caption, by_class[caption.classes], size))


def _read(caption: CaptionAttention, queries: Sequence[AttentionLayer], size: tuple[int, int]) -> Tensor:
    columns, extent = caption.columns_of("first"), next(iter(caption.extents.values()))
    pairs = zip(caption.cross.layers, queries, strict=True)
    layers = outside_middle([replace(layer, query=own.query).among(extent) for layer, own in pairs])
    finest = max(layer.side for layer in layers)
    tokens = [[column - extent.start for column in group] for group in each_token(columns)]
    maps = CrossAttention(layers).maps(tokens)  # each [T, n, side, side], the mean over heads
    heat = sum(layer.heads * resize(own.sum(dim=0), (finest, finest)) for layer, own in zip(layers, maps, strict=True))
    return min_max(resize(put_together(heat, alike(columns)), size), [-2, -1])
