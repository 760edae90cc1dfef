"""How a UNet with one CLIP text encoder learns from captions that were drawn and cut into tokens beforehand.

Words are slow: a GPU that takes a hundred steps a second must not wait until a hundred captions are told anew. So every
scene is told a few times at the start, and a step only picks. Batches have one shape, and a whole step can be replayed
as a CUDA graph (`fit.SplitLoss`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from elbo_core.diffusion.denoiser import Conditioning
from elbo_core.diffusion.families import StableDiffusion
from elbo_core.diffusion.schedule import PathPoint, broadcast
from elbo_core.toy.describe import CaptionStyle, random_caption
from elbo_core.toy.world import SceneSpec
from elbo_core.training.fit import History, SplitLoss, TrainingPlan, autocast, fit, pick
from elbo_core.training.train_diffusion import (
    CAPTION_DROPOUT,
    EASY_CLASSES,
    Course,
    emphasis_of,
    learning_parts,
    prediction_loss,
    step_attention,
    stratified_timesteps,
)

TELLINGS = 8
"""How often each scene is told."""


def draw_captions(
    specs: Sequence[SceneSpec], tokenizer: CLIPTokenizer, style: CaptionStyle, seed: int, tellings: int = TELLINGS
) -> np.ndarray:
    """Captions of all scenes as tokens, int16 [scenes, tellings, 77]."""
    tell = partial(_tell, tokenizer=tokenizer, style=style, seed=seed, tellings=tellings)
    with get_context("fork").Pool() as pool:
        return np.stack(pool.starmap(tell, enumerate(specs), chunksize=256))


def _tell(
    index: int, spec: SceneSpec, tokenizer: CLIPTokenizer, style: CaptionStyle, seed: int, tellings: int
) -> np.ndarray:
    rng = np.random.default_rng([seed, index])
    return tokens_of(tokenizer, [random_caption(rng, spec, style) for _ in range(tellings)])


def tokens_of(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> np.ndarray:
    """Token ids, int16 [captions, 77], as the pipeline reads them."""
    ids = tokenizer(list(captions), padding="max_length", max_length=tokenizer.model_max_length).input_ids
    return np.array(ids, np.int16)


def train_from_bank(
    denoiser: StableDiffusion, latents: np.ndarray, specs: Sequence[SceneSpec], checkpoints: Path, plan: TrainingPlan,
    course: Course, text_encoders: Sequence[nn.Module] = (),
) -> History:  # fmt: skip
    """As `train_diffusion.train_diffusion`, from latents [count, C, h, w] of the scenes `specs`."""
    learning = learning_parts(denoiser, text_encoders)
    loss = SplitLoss(
        batches(denoiser, latents, specs, plan, course),
        partial(told_loss, denoiser, bool(text_encoders)),
        denoiser.device,
    )
    with step_attention(denoiser.device):
        return fit(denoiser.name, learning, loss, plan, checkpoints)


def batches(
    denoiser: StableDiffusion, latents: np.ndarray, specs: Sequence[SceneSpec], plan: TrainingPlan, course: Course
) -> Callable[[int, np.random.Generator, torch.Generator], tuple[Tensor, ...]]:
    """What draws a batch: latents and noise [B, C, h, w], tokens [B, 77], timesteps, alpha and sigma [B]."""
    tokenizer = denoiser.pipeline.tokenizer
    bank, silence = draw_captions(specs, tokenizer, course.captions, plan.seed), tokens_of(tokenizer, [""])[0]
    counts = np.array([len({thing.name for thing in spec.things}) for spec in specs])
    easy, everything = np.flatnonzero(counts <= EASY_CLASSES), np.arange(len(counts))
    emphasis, schedule = emphasis_of(denoiser, course), denoiser.schedule

    def draw(step: int, rng: np.random.Generator, generator: torch.Generator) -> tuple[Tensor, ...]:
        index = pick(rng, easy if step < course.easy_share * plan.steps else everything, course.batch)
        tokens = bank[index, rng.integers(TELLINGS, size=course.batch)]
        tokens[rng.random(course.batch) < CAPTION_DROPOUT] = silence
        clean = torch.from_numpy(latents[index]).float()
        timesteps = stratified_timesteps(course.batch, len(schedule), generator, emphasis)
        path, noise = schedule.at(timesteps), torch.randn(clean.shape, generator=generator)
        return clean, noise, torch.from_numpy(tokens).long(), timesteps, path.alpha.float(), path.sigma.float()

    return draw


def told_loss(
    denoiser: StableDiffusion, text_learns: bool, latents: Tensor, noise: Tensor, tokens: Tensor, timesteps: Tensor,
    alpha: Tensor, sigma: Tensor,
) -> Tensor:  # fmt: skip
    """The loss of a batch of `batches`, the captions read as the pipeline reads them."""
    with autocast(latents.device), torch.set_grad_enabled(text_learns):
        text = Conditioning(denoiser.pipeline.text_encoder(tokens)[0])
    alpha, sigma = broadcast(alpha, latents), broadcast(sigma, latents)
    path = PathPoint(alpha, sigma, torch.zeros_like(alpha), torch.zeros_like(sigma))  # slopes are not asked here
    return prediction_loss(denoiser, latents, noise, timesteps, path, text)
