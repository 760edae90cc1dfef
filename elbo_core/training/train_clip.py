"""The toy CLIP: a small `CLIPModel`.

Its text tower is learnt with the first diffusion model (`train_diffusion`); here the vision tower is trained to agree
with it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from elbo_core.captions import TEMPLATE
from elbo_core.toy.describe import CaptionStyle, random_caption
from elbo_core.toy.world import IMAGE_SIZE, SceneSpec
from elbo_core.training.corpus import TrainingSet
from elbo_core.training.fit import History, TrainingPlan, autocast, fit
from elbo_core.training.text import clip_text_config
from elbo_core.training.train_vae import to_tensor

PLAN = TrainingPlan(steps=20_000, learning_rate=8e-4, warmup=200, weight_decay=0.1)
BATCH, SHIFT = 96, 8
COMPLETE = CaptionStyle(incomplete=0.05)


def build_image_processor() -> CLIPImageProcessorPil:
    half = [0.5, 0.5, 0.5]
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size=size, image_mean=half, image_std=half, do_convert_rgb=True
    )


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    vision = {
        "image_size": IMAGE_SIZE,
        "patch_size": 16,
        "hidden_size": 160,
        "hidden_act": "gelu",
        "intermediate_size": 640,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "projection_dim": 128,
    }
    text = clip_text_config(tokenizer).to_dict()
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def augment(images: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Mirror half of the images [B, H, W, 3] and shift all by up to `SHIFT` pixels; returns [B, 3, H, W] in [-1, 1]."""
    pixels = to_tensor(images)
    flipped = torch.from_numpy(rng.random(len(images)) < 0.5)[:, None, None, None]
    pixels = torch.where(flipped, pixels.flip(-1), pixels)
    top, left = rng.integers(0, 2 * SHIFT + 1, size=2)
    padded = F.pad(pixels, (SHIFT,) * 4, mode="reflect")
    return padded[..., top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]


def train_clip(
    clip: CLIPModel, tokenizer: CLIPTokenizer, corpus: TrainingSet, shapes: TrainingSet, decoded: np.ndarray,
    checkpoints: Path, plan: TrainingPlan = PLAN,
) -> History:  # fmt: skip
    """Train the vision tower against the text tower, which is locked: it is the one of the diffusion models.

    Two thirds of a batch are scenes in which colour says nothing about the class; without them the vision tower
    contents itself with characteristic colours. Half of the time they are `decoded`, as they come back from the VAE,
    since every generated image does.
    """
    clip.text_model.requires_grad_(False)

    def loss(step: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        source = decoded if rng.random() < 0.5 else shapes.images
        pictures, captions = _draw(source, shapes.specs, 2 * BATCH // 3, rng)
        more_pictures, more_captions = _draw(corpus.images, corpus.specs, BATCH // 3, rng)
        pixels = augment(np.concatenate([pictures, more_pictures]), rng)
        tokens = tokenizer(captions + more_captions, padding=True, return_tensors="pt").to(clip.device)
        with autocast(clip.device):
            return clip(**tokens, pixel_values=pixels.to(clip.device), return_loss=True).loss.float()

    return fit("clip", clip, loss, plan, checkpoints)


def _draw(
    images: np.ndarray, specs: list[SceneSpec], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    index = np.sort(rng.choice(len(images), count, replace=False))
    return images[index], [random_caption(rng, specs[i], COMPLETE) for i in index]


@torch.no_grad()
def classify(clip: CLIPModel, tokenizer: CLIPTokenizer, pixels: Tensor, names: tuple[str, ...]) -> list[str]:
    """The class whose "a photo of {name}" lies nearest to each image of `pixels` [B, 3, 128, 128] in [-1, 1]."""
    prompts = tokenizer([TEMPLATE.format(name) for name in names], padding=True, return_tensors="pt").to(pixels.device)
    logits = clip(**prompts, pixel_values=pixels).logits_per_image
    return [names[i] for i in logits.argmax(dim=1).tolist()]
