"""The five baselines of Table II as their repositories describe them: dense matrices, plain loops, one token, head,
timestep and pixel at a time. An oracle that shares no code with ours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from released import Recorder, Released, min_max, up
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F


class Heads(Recorder):
    """Keeps the probabilities [heads, Q, K] and the last query and key of each call."""

    def _attend(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        probabilities = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(dim=-1)
        self.maps.append((probabilities[0], query[0], key[0]))
        return probabilities @ value


@dataclass
class Layer:
    """One layer at one timestep: probabilities [heads, r*r, K], query and key; where: "down", "mid", "up" or ""."""

    where: str
    probabilities: Tensor
    query: Tensor
    key: Tensor

    @property
    def side(self) -> int:
        return math.isqrt(self.probabilities.shape[1])


Seen = list[tuple[list[Layer], list[Layer]]]
"""By timestep, the text attention and the self-attention."""


@torch.no_grad()
def see(pipeline, shown: list[Tensor], timesteps, text) -> Seen:
    """What the network does when it is shown each of the latents [1, C, h, w] at its timestep."""
    model, seen = Released(pipeline), []
    for noisy, timestep in zip(shown, timesteps, strict=True):
        with Heads() as recorder:
            model.network(noisy, model.alpha_sigma(timestep)[2], text)
        seen.append(split(model, recorder.maps, text[0].shape[1]))
    return seen


def split(model: Released, calls, length: int) -> tuple[list[Layer], list[Layer]]:
    if model.is_sd3:
        pixels = model.pixels()
        joint = [(p, q, k) for p, q, k in calls if p.shape[2] > pixels]
        cross = [Layer("", p[:, :pixels, pixels:], q[:, :pixels], k[:, pixels:]) for p, q, k in joint]
        return cross, [Layer("", p[:, :pixels, :pixels], q[:, :pixels], k[:, :pixels]) for p, q, k in calls]
    cross = [Layer("", *call) for call in calls if call[0].shape[2] == length]
    own = [Layer("", *call) for call in calls if call[0].shape[2] != length]
    names = [name for name in model.pipe.unet.attn_processors if "attn2" in name]
    down, mid = (sum(name.startswith(part) for name in names) for part in ("down", "mid"))
    for layers in (cross, own):
        for k, layer in enumerate(layers):
            layer.where = "down" if k < down else "mid" if k < down + mid else "up"
    return cross, own


def path(layers: list[Layer]) -> list[Layer]:
    return [layer for layer in layers if layer.where != "mid"]


def mean_token(seen: Seen, side: int, token: int, without_middle: bool) -> Tensor:
    """Mean over timesteps, layers of a side and heads of a token's map, [side, side]."""
    maps = []
    for cross, _ in seen:
        for layer in path(cross) if without_middle else cross:
            if layer.side == side:
                maps += [head[:, token].view(side, side) for head in layer.probabilities]
    return sum(maps) / len(maps)


def mean_self(seen: Seen, side: int, without_middle: bool) -> Tensor:
    maps = []
    for _, own in seen:
        for layer in path(own) if without_middle else own:
            if layer.side == side:
                maps += list(layer.probabilities)
    return sum(maps) / len(maps)


def sides(layers: list[Layer]) -> list[int]:
    return sorted({layer.side for layer in layers})


def daam(seen: Seen, columns, size) -> list[Tensor]:
    layers = range(len(path(seen[0][0])))
    finest = max(sides(path(seen[0][0])))
    heatmaps = []
    for tokens in columns:
        words = []
        for token in tokens:
            heads = []
            for k in layers:
                for head in range(len(path(seen[0][0])[k].probabilities)):
                    summed = sum(path(cross)[k].probabilities[head][:, token] for cross, _ in seen)
                    side = path(seen[0][0])[k].side
                    big = F.interpolate(summed.view(1, 1, side, side), size=(finest, finest), mode="bicubic")
                    heads.append(big[0, 0].clamp(min=0))
            words.append(sum(heads) / len(heads))
        word = sum(words) / len(words)
        heatmaps.append(min_max(F.interpolate(word[None, None], size=size, mode="bicubic")[0, 0]))
    return heatmaps


def ovam(queries: Seen, keys: Seen, columns, extent: int, size) -> list[Tensor]:
    """extent: the number of tokens of the prompt, its marks included, its padding not."""
    finest, heatmaps = max(sides(path(queries[0][0]))), []
    for tokens in columns:
        total = torch.zeros(finest, finest)
        for token in tokens:
            for (asked, _), (told, _) in zip(queries, keys, strict=True):
                for q, k in zip(path(asked), path(told), strict=True):
                    for head in range(len(q.query)):
                        logits = q.query[head] @ k.key[head][:extent].T / math.sqrt(q.query.shape[-1])
                        own = logits.softmax(dim=1)[:, token].view(q.side, q.side)
                        total += up(own, (finest, finest)) / len(tokens)
        heatmaps.append(min_max(up(total, size)))
    return heatmaps


def diffsegmenter(seen: Seen, columns, size, weights) -> list[Tensor]:
    """weights: by side."""
    finest, heatmaps = max(sides(seen[0][0])), []
    for tokens in columns:
        attention = torch.zeros(finest, finest)
        for side, weight in weights.items():
            own = sum(mean_token(seen, side, token, False) for token in tokens) / len(tokens)
            attention += weight * min_max(up(own, (finest, finest)))
        refined = mean_self(seen, finest, False) @ attention.flatten()
        heatmaps.append(min_max(up(refined.view(finest, finest), size)))
    return heatmaps


def diffpng(seen: Seen, columns, size, features, masks=None) -> list[Tensor]:
    """features: for each class None, or those of its tokens [n, p]; masks: bool [P, H, W] or None."""
    coarsest = min(sides(path(seen[0][0])))
    side = min(s for s in sides(path(seen[0][1])) if s > coarsest)
    matrix, heatmaps = mean_self(seen, side, True), []
    for tokens, known in zip(columns, features, strict=True):
        weights = torch.ones(1)
        if known is not None:
            gram = torch.tensor([[float(a @ b) for b in known] for a in known])
            weights = min_max(gram)[-1].softmax(dim=0)
        maps = [mean_token(seen, coarsest, token, True) for token in tokens]
        coarse = min_max(up(sum(w * m for w, m in zip(weights, maps, strict=True)), (side, side)))
        spread = torch.zeros(side * side)
        for pixel, value in enumerate(coarse.flatten()):
            if value > 0.4:
                spread += matrix[pixel]
        spread = up(min_max(spread).view(side, side), size)
        heatmaps.append(spread if masks is None else fitted(spread, masks))
    return heatmaps


def fitted(spread: Tensor, masks) -> Tensor:
    wanted, heatmap = spread > 0.3, torch.zeros_like(spread)
    for mask in masks:
        shared = (mask & wanted).sum()
        if shared / mask.sum() > 0.6 or shared / wanted.sum() > 0.6:
            heatmap = torch.where(mask, torch.maximum(heatmap, spread[mask].mean()), heatmap)
    heatmap = heatmap if heatmap.any() else spread * wanted
    return heatmap / heatmap.max()


def distributions(seen: Seen) -> Tensor:
    """A in [M*M, M*M], pixel by pixel."""
    found = sides(seen[0][1])
    finest, parts = found[-1], []
    for side in found:
        matrix = mean_self(seen, side, False)
        part = torch.zeros(finest, finest, finest, finest)
        for y in range(finest):
            for x in range(finest):
                row = matrix[(y * side // finest) * side + x * side // finest].view(side, side)
                big = up(row, (finest, finest))
                part[y, x] = big / big.sum()
        parts.append(side / sum(found) * part)
    return sum(parts).view(finest**2, finest**2)


def kl(p: Tensor, q: Tensor) -> float:
    p, q = p.double().clamp(min=1e-20), q.double().clamp(min=1e-20)
    return float((p * (p.log() - q.log())).sum() + (q * (q.log() - p.log())).sum()) / 2


def merged(maps: Tensor, anchors, threshold=0.9) -> list[Tensor]:
    proposals = []
    for anchor in anchors:
        near = [other for other in maps if kl(maps[anchor], other) < threshold]
        proposals.append(sum(near) / len(near))
    for _ in range(2):
        matched, found = set(), []
        for k, proposal in enumerate(proposals):
            if k not in matched:
                near = [j for j, other in enumerate(proposals) if kl(proposal, other) < threshold]
                matched |= {k, *near}
                found.append(sum(proposals[j] for j in near) / len(near))
        proposals = found
    return proposals


def segments(maps: Tensor, proposals: list[Tensor], size) -> Tensor:
    start = torch.stack(proposals).double().numpy()
    labels = KMeans(len(start), init=start, n_init=1).fit_predict(maps.double().numpy())
    side = math.isqrt(maps.shape[1])
    centres = [maps[labels == k].mean(dim=0).view(side, side) for k in sorted(set(labels))]
    return torch.stack([up(centre, size) for centre in centres]).argmax(dim=0)


def diffseg(seen: Seen, columns, size) -> list[Tensor]:
    maps = distributions(seen)
    where, heatmaps = segments(maps, merged(maps, range(len(maps))), size), []
    length = seen[0][0][0].probabilities.shape[2]
    for tokens in columns:
        named = torch.zeros(size)
        for side in sides(seen[0][0]):
            own = sum(up(mean_token(seen, side, token, False), size) for token in tokens) / len(tokens)
            named += own / sum(up(mean_token(seen, side, token, False), size) for token in range(length))
        named /= named.square().sum().sqrt()
        heatmap = torch.zeros(size)
        for k in where.unique():
            heatmap[where == k] = named[where == k].mean()
        heatmaps.append(min_max(heatmap) if heatmap.max() > heatmap.min() else heatmap * 0)
    return heatmaps
