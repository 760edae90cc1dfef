import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from tiny import stable_diffusion

from elbo_core.diffusion.families import wrap
from elbo_core.errors import UnsupportedModelError


def test_noise_is_that_of_the_scheduler(tiny):
    latents, epsilon, timesteps = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([1, 500, 999])
    expected = tiny.pipeline.scheduler.add_noise(latents, epsilon, timesteps)
    torch.testing.assert_close(tiny.noise(latents, epsilon, timesteps), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_predict_returns_the_noise_estimate(prediction_type):
    """Oracle: the x0 that diffusers' DDIM step reports satisfies z = alpha x0 + sigma epsilon."""
    from diffusers import DDIMScheduler

    denoiser = wrap(stable_diffusion(prediction_type), "tiny")
    config = dict(denoiser.pipeline.scheduler.config) | {"clip_sample": False}
    scheduler = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(1000)
    noisy, text, timestep = torch.randn(1, 4, 8, 8), denoiser.encode_text(["a star"]), torch.tensor([400])
    with torch.no_grad():
        output = denoiser.network(noisy, timestep, text.embeddings).sample
    clean = scheduler.step(output, 400, noisy).pred_original_sample
    epsilon = denoiser.predict(noisy, timestep, text)
    torch.testing.assert_close(denoiser.noise(clean, epsilon, timestep), noisy, atol=1e-4, rtol=1e-4)


def test_images_are_squashed_and_scaled(tiny):
    latents = tiny.encode_image(torch.rand(3, 20, 50))
    assert latents.shape == (4, 8, 8)
    vae = tiny.pipeline.vae
    with torch.no_grad():
        expected = vae.encode(torch.full((1, 3, 32, 32), -0.6)).latent_dist.mode()[0] * vae.config.scaling_factor
    torch.testing.assert_close(tiny.encode_image(torch.full((3, 7, 7), 0.2)), expected, atol=1e-5, rtol=1e-5)


def test_long_texts_are_never_truncated(tiny):
    with pytest.raises(ValueError, match="77 tokens"):
        tiny.encode_text(["star " * 80])


def test_unsupported_pipelines_list_the_supported():
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="DDPMPipeline; supported: StableDiffusionPipeline"):
        wrap(DDPMPipeline(unet, DDPMScheduler()), "tiny")


def test_an_unknown_prediction_type_is_refused_when_loading():
    with pytest.raises(ValueError, match="unknown prediction_type 'score'"):
        wrap(stable_diffusion("score"), "tiny")
