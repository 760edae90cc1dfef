import pytest
import torch
from torch.nn import functional as F

from elbo_core.elbo import ESTIMATORS, alignment_score, class_losses, keyed_noise, min_max


def test_losses_equal_a_naive_loop(tiny):
    """Oracle: one pass at a time, noised by diffusers' own scheduler, compared by `mse_loss`."""
    timesteps = torch.tensor([1, 401, 951])
    latents = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    texts = tiny.encode_text(["a photo of star", "a photo of tree"])
    noise = keyed_noise(latents.shape, 1, "image", "elbo", timesteps.tolist())
    ours = class_losses(tiny, latents, texts, noise, timesteps)
    for n in range(2):
        for k, timestep in enumerate(timesteps):
            noisy = tiny.pipeline.scheduler.add_noise(latents[None], noise[k : k + 1], timestep[None])
            with torch.no_grad():
                output = tiny.network(noisy, timestep, texts[n : n + 1]).sample
            torch.testing.assert_close(ours[n, k], F.mse_loss(output, noise[k : k + 1]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batch_size_does_not_matter(tiny, batch_size):
    timesteps = torch.tensor([1, 251, 501, 751])
    latents = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    texts = tiny.encode_text(["star", "tree", "moon"])
    noise = keyed_noise(latents.shape, 1, "image", "elbo", timesteps.tolist())
    whole = class_losses(tiny, latents, texts, noise, timesteps, batch_size=12)
    torch.testing.assert_close(
        class_losses(tiny, latents, texts, noise, timesteps, batch_size), whole, atol=1e-5, rtol=0
    )


def test_noise_belongs_to_image_purpose_and_timestep():
    whole = keyed_noise((4, 2, 2), 4307, "a", "elbo", [1, 51, 101])
    assert torch.equal(keyed_noise((4, 2, 2), 4307, "a", "elbo", [101, 1]), whole[[2, 0]])
    for other in (keyed_noise((4, 2, 2), 4307, "b", "elbo", [1]), keyed_noise((4, 2, 2), 4307, "a", "attention", [1]),
                  keyed_noise((4, 2, 2), 1, "a", "elbo", [1])):  # fmt: skip
        assert not torch.equal(other[0], whole[0])


def test_noise_is_standard_normal():
    noise = keyed_noise((4, 64, 64), 4307, "a", "elbo", range(8))
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01


def test_score_follows_equation_5():
    scores = alignment_score(torch.tensor([3.0, 1.0, 2.0]), gamma=0.25)
    torch.testing.assert_close(scores, torch.tensor([0.25, 1.0, 0.5]))


@pytest.mark.parametrize("losses", [[7.0], [2.0, 2.0, 2.0]])
def test_nothing_to_compare_means_no_calibration(losses):
    assert torch.equal(alignment_score(torch.tensor(losses), 1 / 3), torch.ones(len(losses)))


@pytest.mark.parametrize("gamma", [0, -1, 1.5])
def test_gamma_out_of_range(gamma):
    with pytest.raises(ValueError, match=f"got {gamma}"):
        alignment_score(torch.ones(2), gamma)


def test_losses_that_are_not_numbers():
    with pytest.raises(ValueError, match="finite"):
        alignment_score(torch.tensor([1.0, float("nan")]), 0.5)


def test_min_max_of_a_constant_is_zero():
    maps = torch.stack([torch.full((3, 3), 5.0), torch.arange(9.0).view(3, 3)])
    scaled = min_max(maps, [-2, -1])
    assert torch.equal(scaled[0], torch.zeros(3, 3))
    assert (scaled[1].min(), scaled[1].max()) == (0, 1)


def test_literal_elbo_sits_on_the_first_timestep(tiny):
    """About three quarters of eq. 4's weight on the default grid is at t = 1."""
    weights = ESTIMATORS["elbo"](tiny.schedule, torch.arange(1, 999, 50))
    assert weights[0] / weights.sum() == pytest.approx(0.76, abs=0.03)


def test_velocity_weight_is_the_squared_error_of_the_velocity(tiny):
    x, noise, estimate = torch.randn(3, 4, 8, 8, dtype=torch.float64).unbind()
    alpha, sigma = (value[0] for value in tiny.schedule.at(torch.tensor([700])))
    noisy = alpha * x + sigma * noise
    implied_x = (noisy - sigma * estimate) / alpha
    velocity_error = ((alpha * noise - sigma * x) - (alpha * estimate - sigma * implied_x)).square().mean()
    weight = ESTIMATORS["velocity"](tiny.schedule, torch.tensor([700]))[0]
    torch.testing.assert_close(weight * (noise - estimate).square().mean(), velocity_error)


def test_flow_weight_is_the_squared_error_of_the_flow(tiny):
    """For u = epsilon - x with x implied by z = alpha x + sigma epsilon."""
    x, noise, estimate = torch.randn(3, 4, 8, 8, dtype=torch.float64).unbind()
    alpha, sigma = (value[0] for value in tiny.schedule.at(torch.tensor([300])))
    implied_x = (alpha * x + sigma * noise - sigma * estimate) / alpha
    flow_error = ((noise - x) - (estimate - implied_x)).square().mean()
    weight = ESTIMATORS["flow"](tiny.schedule, torch.tensor([300]))[0]
    torch.testing.assert_close(weight * (noise - estimate).square().mean(), flow_error)
