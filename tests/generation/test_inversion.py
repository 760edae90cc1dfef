"""Pictures carried to noise and back."""

from __future__ import annotations

import math

import pytest
import torch

from elbo_core.diffusion.families import wrap
from elbo_core.diffusion.sampling import Guidance, ReleasedGrid
from elbo_core.generation.inversion import invert, optimise_null_text, pin, psnr
from elbo_core.generation.prompt2prompt import Edit, edit
from tests.tiny import stable_diffusion

GRID, TEXT = ReleasedGrid(10), "a red star"


@pytest.fixture(scope="module")
def denoiser():
    pipeline = stable_diffusion()
    for name, module in pipeline.unet.named_modules():
        if name == "conv_out":
            module.weight.data.mul_(0.3)  # random networks are wild; a tamer one has a way back
    return wrap(pipeline, "tiny")


@pytest.fixture(scope="module")
def picture():
    return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def inversion(denoiser, picture):
    return invert(denoiser, picture, TEXT, "one", GRID)


def test_inversion_is_the_original_loop(denoiser, picture, inversion):
    """`ddim_loop` and `next_step` of the original."""
    abar, z = denoiser.pipeline.scheduler.alphas_cumprod, denoiser.encode_image(picture)[None]
    text, way = denoiser.encode_text([TEXT]).embeddings, [z]
    with torch.no_grad():
        for t in range(99, 1000, 100):
            epsilon, here = denoiser.network(z, torch.tensor(t), text).sample, abar[max(t - 100, 0)]
            clean = (z - (1 - here).sqrt() * epsilon) / here.sqrt()
            z = abar[t].sqrt() * clean + (1 - abar[t]).sqrt() * epsilon
            way.append(z)
    torch.testing.assert_close(inversion.latents, torch.cat(way[::-1]), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(inversion.noise, inversion.latents[0])


def error(denoiser, start, latents, guidance=Guidance()) -> float:
    found = edit(denoiser, TEXT, [], start, sampler=GRID, guidance=guidance).latents[0]
    return float((found - latents[-1]).square().mean())


def test_null_text_holds_the_source_where_guidance_leads_it_off(denoiser, inversion):
    start = optimise_null_text(denoiser, inversion, TEXT, inner_steps=20, sampler=GRID)
    assert len(start.negatives) == 10
    assert error(denoiser, start, inversion.latents) < 0.5 * error(denoiser, inversion, inversion.latents)


def test_null_text_needs_nothing_where_guidance_does_nothing(denoiser, inversion):
    start = optimise_null_text(denoiser, inversion, TEXT, scale=1.0, inner_steps=1, sampler=GRID)
    assert all(negative.embeddings.isfinite().all() for negative in start.negatives)
    assert not any(negative.embeddings.requires_grad for negative in start.negatives)


def test_a_pinned_source_is_kept_exactly_and_its_edit_is_not_the_source(denoiser, inversion):
    found = edit(
        denoiser, TEXT, [Edit("a red moon"), Edit(TEXT, cross_steps=0, self_steps=0)], pin(inversion), sampler=GRID
    )
    torch.testing.assert_close(found.latents[0], inversion.latents[-1])
    assert (found.latents[1] - found.latents[0]).abs().max() > 1e-3
    assert found.pictures.shape == (3, 3, 32, 32)


def test_psnr():
    picture = torch.zeros(3, 4, 4)
    other = picture.clone()
    other[:, 0, 0] = 0.1
    assert psnr(picture, picture) == math.inf
    assert psnr(picture, other) == pytest.approx(-10 * math.log10(0.01 / 16))
    where = torch.zeros(4, 4, dtype=torch.bool)
    assert math.isnan(psnr(picture, other, where))
    where[0, 0] = True
    assert psnr(picture, other, where) == pytest.approx(20)
