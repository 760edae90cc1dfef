"""What the released code (VCG-team/elbo-t2ialign, `run_segmentation.py`) computes for one image, step by step.

Written from its description, dense and slow, one network pass at a time: an oracle that shares no code with ours. In
float32, with noise that is given.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


class Recorder:
    """Textbook attention in the place of the fused function; keeps head-averaged probabilities [Q, K] of each call."""

    def __enter__(self) -> Recorder:
        self.maps: list[Tensor] = []
        self.fused = F.scaled_dot_product_attention
        F.scaled_dot_product_attention = self._attend
        return self

    def __exit__(self, *_) -> None:
        F.scaled_dot_product_attention = self.fused

    def _attend(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        logits = query @ key.mT / math.sqrt(query.shape[-1])
        if attn_mask is not None:
            logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
        probabilities = logits.softmax(dim=-1)
        self.maps.append(probabilities.mean(dim=1)[0])
        return probabilities @ value


class Released:
    """The released code's `Diffusion` wrapper for Stable Diffusion 1, 2, XL and 3."""

    def __init__(self, pipeline):
        self.pipe = pipeline
        self.is_sd3 = hasattr(pipeline, "transformer")
        self.is_xl = hasattr(pipeline, "text_encoder_2") and not self.is_sd3
        self.size = pipeline.vae.config.sample_size

    def alpha_sigma(self, timestep: int) -> tuple[float, float, float]:
        """(alpha, sigma, what the network is told of the time)."""
        if self.is_sd3:
            shift, u = self.pipe.scheduler.config.shift, (timestep + 1) / 1000
            sigma = shift * u / (1 + (shift - 1) * u)
            return 1 - sigma, sigma, 1000 * sigma
        cumulative = self.pipe.scheduler.alphas_cumprod[timestep].item()
        return math.sqrt(cumulative), math.sqrt(1 - cumulative), timestep

    def encode(self, image: Image.Image) -> Tensor:
        resized = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).float().permute(2, 0, 1)[None] / 127.5 - 1
        config = self.pipe.vae.config
        mean = self.pipe.vae.encode(pixels).latent_dist.mean
        return (mean - (config.shift_factor or 0)) * config.scaling_factor

    def text(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        if self.is_sd3 or self.is_xl:
            prompts = [prompt] * (3 if self.is_sd3 else 1)
            embeddings, _, pooled, _ = self.pipe.encode_prompt(*prompts, do_classifier_free_guidance=False)
            return embeddings, pooled
        ids = self.pipe.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
        return self.pipe.text_encoder(ids).last_hidden_state, None

    def network(self, noisy: Tensor, time: float, text: tuple[Tensor, Tensor | None]) -> Tensor:
        embeddings, pooled = text
        if self.is_sd3:
            return self.pipe.transformer(noisy, embeddings, pooled, torch.tensor([time])).sample
        added = None
        if self.is_xl:
            sizes = torch.tensor([[self.size, self.size, 0, 0, self.size, self.size]]).float()
            added = {"text_embeds": pooled, "time_ids": sizes}
        return self.pipe.unet(noisy, torch.tensor(time), embeddings, added_cond_kwargs=added).sample

    def loss(self, latents: Tensor, epsilon: Tensor, timestep: int, text) -> float:
        """epsilon-MSE, for SD3 the MSE of the velocity."""
        alpha, sigma, time = self.alpha_sigma(timestep)
        noisy = alpha * latents + sigma * epsilon
        output = self.network(noisy, time, text)
        if self.is_sd3:
            return F.mse_loss(output, epsilon - latents).item()
        kind = self.pipe.scheduler.config.prediction_type
        estimate = {"epsilon": output, "v_prediction": alpha * output + sigma * noisy}[kind]
        return F.mse_loss(estimate, epsilon).item()

    def attention(self, latents: Tensor, noise: Tensor, timesteps, text) -> tuple[list[Tensor], list[Tensor]]:
        """Cross maps [r*r, L] and self maps [r*r, r*r] in execution order, averaged over the timesteps."""
        total = None
        for epsilon, timestep in zip(noise, timesteps, strict=True):
            alpha, sigma, time = self.alpha_sigma(timestep)
            with Recorder() as recorder:
                self.network(alpha * latents + sigma * epsilon[None], time, text)
            maps = recorder.maps
            total = maps if total is None else [a + b for a, b in zip(total, maps, strict=True)]
        mean = [m / len(timesteps) for m in total]
        if not self.is_sd3:
            length = text[0].shape[1]
            return [m for m in mean if m.shape[1] == length], [m for m in mean if m.shape[1] != length]
        pixels = min(m.shape[0] for m in mean) if len({m.shape[0] for m in mean}) > 1 else self.pixels()
        joint = [m for m in mean if m.shape[1] > pixels]
        return [m[:pixels, pixels:] for m in joint], [m[:pixels, :pixels] for m in mean]

    def pixels(self) -> int:
        return (self.pipe.transformer.config.sample_size // self.pipe.transformer.config.patch_size) ** 2


def up(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def cross_weights(count: int, down: int | None, middle: int | None) -> list[float]:
    centre = (count - 1) / 2 if down is None else down + (middle - 1) / 2
    return [math.exp(-((k - centre) ** 2) / (2 * 3**2)) for k in range(count)]


def level_indices(sides: list[int]) -> list[int]:
    """k grows whenever the side differs from that of the layer before."""
    indices = [0]
    for before, after in itertools.pairwise(sides):
        indices.append(indices[-1] + (before != after))
    return indices


def self_rows(levels: int) -> list[list[int]]:
    """All finest maps, then those of the last level; for a single level, as in the shipped SD3 notebook."""
    if levels == 1:
        return [[1], [1]]
    first, last = [0] * levels, [0] * levels
    first[0] = first[-1] = last[-1] = 1
    return [first, last]


def class_columns(tokenizer, classes) -> dict[str, list[int]]:
    """Where the tokens of each class first occur among those of "a photo of c1, c2, ..."."""
    ids = tokenizer("a photo of " + ", ".join(classes)).input_ids
    found = {}
    for name in classes:
        own = tokenizer(name).input_ids[1:-1]
        starts = [k for k in range(len(ids)) if ids[k : k + len(own)] == own]
        found[name] = list(range(starts[0], starts[0] + len(own)))
    return found


def depth_weights(model: Released, count: int) -> list[float]:
    if model.is_sd3:
        return cross_weights(count, None, None)
    names = [name for name in model.pipe.unet.attn_processors if "attn2" in name]
    down, middle = (sum(name.startswith(part) for name in names) for part in ("down", "mid"))
    return cross_weights(count, down, middle)


def enhance(attention: Tensor, own: list[Tensor]) -> Tensor:
    """The two self-attention matrices, one after the other, on a map [M, M]."""
    indices = level_indices([math.isqrt(m.shape[0]) for m in own])
    heatmap = attention.flatten()
    for row in self_rows(max(indices) + 1):
        chosen = [(row[k], m) for k, m in zip(indices, own, strict=True) if row[k]]
        heatmap = sum(w * m for w, m in chosen) @ heatmap / sum(w for w, _ in chosen)
    return heatmap.view(attention.shape)


def min_max(values: Tensor) -> Tensor:
    return (values - values.min()) / (values.max() - values.min())


@torch.no_grad()
def segment(pipeline, image, classes, noise, elbo_timesteps, collect_timesteps, strength=3.0) -> dict:
    """By class: loss (sum over timesteps), minmax, cross_att [M, M] and heatmap [h, w]."""
    model = Released(pipeline)
    latents = model.encode(image)
    losses = []
    for name in classes:
        text = model.text(f"a photo of {name}")
        pairs = zip(noise["elbo"], elbo_timesteps, strict=True)
        losses.append(sum(model.loss(latents, epsilon[None], t, text) for epsilon, t in pairs))
    minmax = [(loss - min(losses)) / (max(losses) - min(losses) + 1e-10) for loss in losses]
    text = model.text("a photo of " + ", ".join(classes))
    cross, own = model.attention(latents, noise["collect"], collect_timesteps, text)
    sides = [math.isqrt(m.shape[0]) for m in cross]
    weights, columns = depth_weights(model, len(cross)), class_columns(pipeline.tokenizer, classes)
    found = {}
    for name, loss, e in zip(classes, losses, minmax, strict=True):
        means = [m[:, columns[name]].mean(dim=1).view(r, r) for m, r in zip(cross, sides, strict=True)]
        mean = sum(w * up(m, (sides[0], sides[0])) for w, m in zip(weights, means, strict=True)) / sum(weights)
        attention = min_max(mean) ** (strength**e)
        heatmap = min_max(up(enhance(attention, own), (image.height, image.width)))
        found[name] = {"loss": loss, "minmax": e, "cross_att": attention.numpy(), "heatmap": heatmap.numpy()}
    return found
