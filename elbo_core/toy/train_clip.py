"""The toy CLIP: a real `CLIPTokenizer` over our own small vocabulary and a small `CLIPModel`.

Its text tower is learnt with the first diffusion model (`train_sd`); here the vision tower is trained to agree with it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from elbo_core.captions import TEMPLATE
from elbo_core.toy.corpus import TrainingSet
from elbo_core.toy.describe import random_caption, vocabulary_corpus
from elbo_core.toy.fit import History, Plan, autocast, fit
from elbo_core.toy.train_vae import to_tensor
from elbo_core.toy.world import IMAGE_SIZE, SceneSpec

PLAN = Plan(steps=20_000, learning_rate=8e-4, warmup=200, weight_decay=0.1)
BATCH, SHIFT = 96, 8
MODEL_MAX_LENGTH = 77
WORD_SPREAD = 25.0
"""Words start far apart. From CLIP's small initial embeddings, all words of one characteristic colour drift to one
place before any shape is learnt, and part again only slowly."""


def build_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding learnt from our captions, laid out as CLIP's: bytes, bytes ending a word, merges, specials."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", min_frequency=1, show_progress=False)
    learner.train_from_iterator(vocabulary_corpus(), trainer)
    merges = _merges(learner)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = alphabet + [f"{letter}</w>" for letter in alphabet] + ["".join(pair) for pair in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MODEL_MAX_LENGTH)


def _merges(learner: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]


def build_image_processor() -> CLIPImageProcessorPil:
    half = [0.5, 0.5, 0.5]
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size=size, image_mean=half, image_std=half, do_convert_rgb=True
    )


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "hidden_act": "gelu",
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": MODEL_MAX_LENGTH,
        "projection_dim": 128,
        **special,
    }
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
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
    clip.text_model.embeddings.token_embedding.weight.data.mul_(WORD_SPREAD)
    return clip


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
    checkpoints: Path, plan: Plan = PLAN,
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
    return images[index], [random_caption(rng, specs[i], incomplete=0.05) for i in index]


@torch.no_grad()
def classify(clip: CLIPModel, tokenizer: CLIPTokenizer, pixels: Tensor, names: tuple[str, ...]) -> list[str]:
    """The class whose "a photo of {name}" lies nearest to each image of `pixels` [B, 3, 128, 128] in [-1, 1]."""
    prompts = tokenizer([TEMPLATE.format(name) for name in names], padding=True, return_tensors="pt").to(pixels.device)
    logits = clip(**prompts, pixel_values=pixels).logits_per_image
    return [names[i] for i in logits.argmax(dim=1).tolist()]
