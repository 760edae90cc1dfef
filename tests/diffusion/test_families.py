"""Every supported pipeline class on small random instances, against dense matrices and diffusers' own sampling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler
from released import Recorder
from torch.nn import functional as F

from elbo_core import Plan, Recipe, Scene, align, observe
from elbo_core.diffusion.families import wrap
from elbo_core.methods.plan import CAPTION, WITHOUT_EACH, Ask

CLASSES = ["star", "hot dog", "dog"]
PLAN = Plan.of((1, 501, 901), (20, 100))


@pytest.fixture(scope="module", params=tiny.PIPELINES)
def denoiser(request):
    return wrap(tiny.PIPELINES[request.param](), request.param)


@pytest.fixture(scope="module")
def inputs(denoiser):
    """Two noisy latents, timesteps and texts."""
    channels = denoiser.pipeline.vae.config.latent_channels
    noisy = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    return noisy, torch.tensor([100, 600]), denoiser.encode_text(["a photo of star", "a photo of grass, moon"])


def image_and_text(denoiser, matrix: torch.Tensor, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The image rows of a dense matrix [Q, K]: its image columns and its text columns, by the family's layout."""
    if matrix.shape[0] == matrix.shape[1] == pixels:
        return matrix, matrix[:, :0]
    if denoiser.name.startswith("flux"):
        text = matrix.shape[1] - pixels
        return matrix[text:, text:], matrix[text:, :text]
    if denoiser.name.startswith("sd3"):
        return matrix[:pixels, :pixels], matrix[:pixels, pixels:]
    sees_text = matrix.shape[0] != matrix.shape[1]
    return (matrix[:, :0], matrix) if sees_text else (matrix, matrix[:, :0])


def test_operators_equal_the_dense_matrices(denoiser, inputs):
    noisy, times, text = inputs
    cross, own = denoiser.attend(noisy[:1], times[:1], text[torch.tensor([0])])
    with Recorder() as recorder:
        denoiser.predict(noisy[:1], times[:1], text[torch.tensor([0])])
    split = [image_and_text(denoiser, matrix, cross.layers[-1].query.shape[2]) for matrix in recorder.maps]
    dense_own = [image for image, _ in split if image.shape[1]]
    dense_cross = [words for _, words in split if words.shape[1]]
    assert (len(dense_cross), len(dense_own)) == (len(cross.layers), len(own.layers))
    for lazy, dense in zip(cross.maps([(3,), (1, 5)]), dense_cross, strict=True):
        expected = torch.stack([dense[:, 3], dense[:, [1, 5]].mean(dim=1)])
        torch.testing.assert_close(lazy[0].flatten(1), expected, atol=1e-5, rtol=1e-4)
    for layer, dense in zip(own.layers, dense_own, strict=True):
        values = torch.rand(layer.columns, 3)
        torch.testing.assert_close(layer(values)[0], dense @ values, atol=1e-5, rtol=1e-4)


def test_renormalised_rows_sum_to_one(denoiser, inputs):
    cross, _ = denoiser.attend(*inputs)
    for layer in cross.renormalised().layers:
        torch.testing.assert_close(layer(torch.ones(layer.columns, 1)), torch.ones(2, layer.side**2, 1))
    plain, ours = cross.layers[-1], cross.renormalised().layers[-1]
    if denoiser.name.startswith(("sd3", "flux")):
        assert (plain(torch.ones(plain.columns, 1)) < 0.999).all(), "the image takes its share"
        logits = plain.query[0] @ plain.key[0].mT * plain.scale
        dense = logits[..., plain.part.start : plain.part.stop].softmax(dim=-1).mean(dim=0)
        torch.testing.assert_close(ours(torch.eye(ours.columns))[0], dense, atol=1e-5, rtol=1e-4)


def test_a_sample_does_not_depend_on_its_batch(denoiser, inputs):
    noisy, times, text = inputs
    together = denoiser.predict(noisy, times, text)
    for k in range(2):
        alone = denoiser.predict(noisy[k : k + 1], times[k : k + 1], text[torch.tensor([k])])
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-4, rtol=1e-4)


def one_step(denoiser, noisy: torch.Tensor, prompt: str) -> tuple[torch.Tensor, int]:
    """What the stock pipeline makes of noise in one step, and at which timestep."""
    pipeline, options = denoiser.pipeline, {}
    if denoiser.name.startswith(("sd3", "flux")):
        options["sigmas"] = [0.601]  # before the shift
        timestep = 600
    else:
        whole = {"clip_sample": False, "timestep_spacing": "trailing", "set_alpha_to_one": True}
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **whole)
        timestep = 999
    if denoiser.name.startswith("flux"):
        batch, channels, height, width = noisy.shape
        noisy = pipeline._pack_latents(noisy, batch, channels, height, width)
    if denoiser.name.startswith("pixart"):
        options["use_resolution_binning"] = False
    guidance = 1.0 if not denoiser.name.startswith("sd3") else 0.0
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        prompt, height=32, width=32, num_inference_steps=1, guidance_scale=guidance, latents=noisy.clone(),
        output_type="latent", **options,
    ).images  # fmt: skip
    if denoiser.name.startswith("flux"):
        latents = pipeline._unpack_latents(latents, 32, 32, pipeline.vae_scale_factor)
    return latents, timestep


def test_the_stock_pipeline_denoises_alike(denoiser):
    """Oracle for all that a network is told: one step of the pipeline ends at x0 = (z - sigma epsilon) / alpha."""
    channels = denoiser.pipeline.vae.config.latent_channels
    noisy = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(2))
    expected, timestep = one_step(denoiser, noisy, "a photo of star, moon")
    times = torch.tensor([timestep])
    path = denoiser.schedule.at(times).like(noisy)
    epsilon = denoiser.predict(noisy, times, denoiser.encode_text(["a photo of star, moon"]))
    clean = (noisy - path.sigma * epsilon) / path.alpha
    torch.testing.assert_close(clean, expected, atol=1e-3, rtol=1e-3)


def test_every_recipe_reads_every_family(denoiser, picture):
    timesteps = PLAN.losses[0].timesteps
    left_out = tuple(Ask(texts, timesteps) for texts in (CAPTION, WITHOUT_EACH))
    scene = Scene.of(picture, CLASSES)
    by_questions = {1: observe(denoiser, scene, PLAN), 2: observe(denoiser, scene, replace(PLAN, losses=left_out))}
    for recipe in (
        Recipe.reference(),
        Recipe.paper(),
        Recipe.best(),
        Recipe(renormalise=True),
        Recipe(text_part="all"),
    ):
        heatmaps = align(by_questions[len(recipe.score.questions)], recipe)
        assert heatmaps.values.shape == (3, 40, 56)
        assert heatmaps.values.isfinite().all()
        assert heatmaps.values.amax((1, 2)).min() > 0, "no map is empty"


def test_each_class_finds_its_own_words_in_every_text_part(denoiser, picture):
    columns = observe(denoiser, Scene.of(picture, CLASSES), PLAN).attention.captions[0].columns
    for part, groups in columns.items():
        tokenizer, first = denoiser.parts[part].tokenizer, denoiser.parts[part].first
        ids = tokenizer("a photo of star, hot dog, dog").input_ids
        for name, group in zip(CLASSES, groups, strict=True):
            words = tokenizer.decode([ids[column - first] for column in group])
            assert words.replace(" ", "") == name.replace(" ", "")
        assert len({column for group in groups for column in group}) == sum(map(len, groups)), "nobody shares a word"


def test_long_captions_are_split_for_every_family(denoiser, picture):
    names = [f"star {'a' * (k % 8 + 1)} {'b' * (k // 8 + 1)}" for k in range(64)]
    captions = observe(denoiser, Scene.of(picture, names), Plan.of((500,), (100,))).attention.captions
    assert len(captions) > 1
    for attention in captions:
        total = attention.cross.layers[0].columns
        assert max(column for groups in attention.columns.values() for group in groups for column in group) < total


def test_a_text_part_that_a_family_lacks_lists_those_that_it_has(denoiser, picture):
    observation = observe(denoiser, Scene.of(picture, CLASSES), PLAN)
    for part in {"clip", "t5"} - set(denoiser.parts):
        with pytest.raises(ValueError, match=f"no text part '{part}'; it has: first, all, "):
            align(observation, Recipe(text_part=part))


def test_pixart_of_1024_pixels_is_told_the_size_of_the_image():
    denoiser = wrap(tiny.pixart_alpha(use_additional_conditions=True), "pixart-alpha")
    noisy, times, text = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), denoiser.encode_text(["star", "moon"])
    sizes = {"resolution": torch.full((2, 2), 32.0), "aspect_ratio": torch.ones(2, 1)}
    with torch.no_grad():
        output = denoiser.network(
            noisy, text.embeddings, times, encoder_attention_mask=text.mask, added_cond_kwargs=sizes
        ).sample
    torch.testing.assert_close(denoiser.predict(noisy, times, text), output[:, :4])


def test_masked_words_get_no_attention():
    """PixArt's T5 is padded to 120 tokens; the padding is masked in the attention itself."""
    denoiser = wrap(tiny.pixart_alpha(), "pixart-alpha")
    text = denoiser.encode_text(["a photo of star"])
    cross, _ = denoiser.attend(torch.randn(1, 4, 8, 8), torch.tensor([500]), text)
    weights = cross.layers[0](torch.eye(120))[0]
    assert weights[:, int(text.mask.sum()) :].abs().max() < 1e-6
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(16))


def test_images_are_resized_like_the_released_code(picture):
    from PIL import Image

    from elbo_core.images import read_image, to_network_range

    resized = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
    expected = torch.from_numpy(resized).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(to_network_range(read_image(picture), 32), expected)


def test_flow_models_are_scored_by_their_velocity():
    """Oracle: the mean squared error of the network's own output, epsilon - x."""
    denoiser = wrap(tiny.stable_diffusion_3(), "sd35")
    plan = Plan.of((1, 501, 901), (20,))
    scene = Scene.of(np.zeros((32, 32, 3), np.uint8), ["star", "moon"])
    noise = {"elbo": torch.randn(3, 16, 8, 8), "collect": torch.randn(1, 16, 8, 8)}
    seen = observe(denoiser, scene, plan, noise)
    latents, text = denoiser.encode_image(scene.image), denoiser.encode_text(["a photo of moon"])
    for k, timestep in enumerate(plan.losses[0].timesteps):
        u = (timestep + 1) / 1000
        sigma = 3 * u / (1 + 2 * u)
        noisy = (1 - sigma) * latents + sigma * noise["elbo"][k]
        with torch.no_grad():
            output = denoiser.network(noisy[None], text.embeddings, text.pooled, torch.tensor([1000 * sigma])).sample
        error = F.mse_loss(output[0], noise["elbo"][k] - latents).item()
        assert seen.losses.values[1, k].item() / (1 - sigma) ** 2 == pytest.approx(error, rel=1e-4)
        assert math.isfinite(error)
