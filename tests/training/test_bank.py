"""Captions that are drawn and cut into tokens beforehand, and the loss that is read from them."""

from __future__ import annotations

import numpy as np
import torch
from tiny import stable_diffusion

from elbo_core.diffusion.denoiser import Conditioning
from elbo_core.diffusion.families import wrap
from elbo_core.diffusion.objectives import OBJECTIVES
from elbo_core.toy.describe import VARIED, random_caption
from elbo_core.toy.world import SceneStyle, sample_scene
from elbo_core.training.bank import batches, draw_captions, tokens_of, told_loss
from elbo_core.training.fit import TrainingPlan, random_numbers
from elbo_core.training.text import build_tokenizer
from elbo_core.training.train_diffusion import MAX_WEIGHT, Course

SPECS = [sample_scene(np.random.default_rng(index), SceneStyle()) for index in range(12)]


def test_every_scene_is_told_as_often_as_asked_and_the_same_each_time():
    tokenizer = build_tokenizer()
    bank = draw_captions(SPECS, tokenizer, VARIED, seed=3, tellings=2)
    assert bank.shape == (12, 2, tokenizer.model_max_length)
    assert (bank == draw_captions(SPECS, tokenizer, VARIED, seed=3, tellings=2)).all()
    rng = np.random.default_rng([3, 5])
    told = [random_caption(rng, SPECS[5], VARIED) for _ in range(2)]
    assert (bank[5] == tokens_of(tokenizer, told)).all()


def test_the_loss_is_that_of_the_captions():
    """Oracle: plain loops over the batch, with the pipeline's own reading of the decoded captions."""
    denoiser = wrap(stable_diffusion(), "tiny")
    side, channels = denoiser.network.config.sample_size, denoiser.network.config.in_channels
    latents = np.random.default_rng(0).normal(size=(12, channels, side, side)).astype(np.float16)
    plan, course = TrainingPlan(steps=4, learning_rate=1e-3), Course(batch=4, easy_share=0.0)
    batch = batches(denoiser, latents, SPECS, plan, course)(2, *random_numbers(plan.seed, 2))
    clean, noise, tokens, timesteps, alpha, sigma = batch
    assert tokens.shape == (4, denoiser.pipeline.tokenizer.model_max_length)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(4))
    expected = []
    for k in range(4):
        text = Conditioning(denoiser.pipeline.text_encoder(tokens[k : k + 1])[0])
        path = denoiser.schedule.at(timesteps[k : k + 1]).like(clean[:1])
        noisy = path.alpha * clean[k : k + 1] + path.sigma * noise[k : k + 1]
        output = denoiser.output(noisy, timesteps[k : k + 1], text)
        target = OBJECTIVES["epsilon"].target(clean[k : k + 1], noise[k : k + 1], path)
        expected.append((output - target).square().mean() * (path.alpha**-2).clamp(max=MAX_WEIGHT).squeeze())
    loss = told_loss(denoiser, True, *batch)
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=2e-2, atol=1e-4)  # bfloat16 where there is any
    loss.backward()
    assert denoiser.pipeline.text_encoder.get_input_embeddings().weight.grad is not None


def test_silence_is_the_empty_caption():
    tokenizer = build_tokenizer()
    expected = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length).input_ids
    assert tokens_of(tokenizer, [""])[0].tolist() == expected
