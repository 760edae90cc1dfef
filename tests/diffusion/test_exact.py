import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from elbo_core.diffusion.exact import GaussianMixture, class_losses, negative_log_likelihood
from elbo_core.diffusion.objectives import OBJECTIVES
from elbo_core.diffusion.schedule import NoiseSchedule
from elbo_core.methods.elbo import weights

SCHEDULES = {
    "sd15": NoiseSchedule.of(DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")),
    "sd3": NoiseSchedule.of(FlowMatchEulerDiscreteScheduler(shift=3.0)),
}


def mixture(dimension: int, seed: int = 0, components: int = 3) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(components, dtype=torch.float64, generator=generator) + 0.2
    means = 1.5 * torch.randn(components, dimension, dtype=torch.float64, generator=generator)
    variances = 0.1 + torch.rand(components, dtype=torch.float64, generator=generator)
    return GaussianMixture(weights / weights.sum(), means, variances)


def torch_mixture(world: GaussianMixture) -> MixtureSameFamily:
    scale = world.variances.sqrt()[:, None].expand_as(world.means)
    return MixtureSameFamily(Categorical(world.weights), Independent(Normal(world.means, scale), 1))


def test_density_is_that_of_torch_distributions():
    world = mixture(5)
    x = world.sample(50, torch.Generator().manual_seed(1))
    torch.testing.assert_close(world.log_density(x), torch_mixture(world).log_prob(x))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_denoiser_is_the_score_of_the_noised_world(name):
    """Tweedie's formula, the score by autograd through torch.distributions."""
    world, path = mixture(4), SCHEDULES[name].at(torch.tensor([30, 500, 970]))
    noisy = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    estimate = world.denoise(noisy, path)
    for i in range(3):
        alpha, sigma = path.alpha[i].item(), path.sigma[i].item()
        log_density = torch_mixture(world.noised(alpha, sigma)).log_prob(noisy[i])
        (score,) = torch.autograd.grad(log_density, noisy)
        torch.testing.assert_close(estimate[i], -sigma * score[i])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dimension", [1, 4, 16, 64])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_weighted_loss_is_the_log_likelihood(objective, dimension, name):
    """Within four standard errors, for a point of each of three classes, and those errors are small."""
    for seed in range(3):
        world, generator = mixture(dimension, seed), torch.Generator().manual_seed(seed)
        x = world.sample(1, generator)
        estimate = negative_log_likelihood(world, x[0], objective, SCHEDULES[name], 20_000, generator)
        exact = -world.log_density(x).item()
        assert abs(estimate.total - exact) < 4 * estimate.error
        assert estimate.error < 0.15 * dimension**0.5


def test_the_ends_only_move_nats_between_the_terms():
    world, generator = mixture(2), torch.Generator().manual_seed(0)
    x = world.sample(1, generator)
    narrow, wide = (
        negative_log_likelihood(world, x[0], "epsilon", SCHEDULES["sd15"], 50_000, generator, ends)
        for ends in ((0.1, 0.6), (0.001, 0.999))
    )
    assert narrow.diffusion < wide.diffusion
    assert narrow.total == pytest.approx(wide.total, abs=4 * (narrow.error + wide.error))


def test_equation_4_ranks_classes_as_their_likelihoods_do():
    """With shared noise at all thousand timesteps."""
    classes, generator = [mixture(16, seed) for seed in range(5)], torch.Generator().manual_seed(0)
    timesteps, schedule = torch.arange(1000), SCHEDULES["sd15"]
    for world in classes:
        x = world.sample(1, generator)
        noise = torch.randn(1000, 16, dtype=torch.float64, generator=generator)
        losses = class_losses(classes, x[0], noise, schedule.at(timesteps))
        total = losses @ weights("elbo", schedule, timesteps, losses)
        exact = torch.cat([other.log_density(x) for other in classes])
        assert total.argsort().tolist() == exact.argsort(descending=True).tolist()


def test_class_losses_share_their_noise_unless_given_more():
    classes, generator = [mixture(4), mixture(4)], torch.Generator().manual_seed(0)
    x, path = classes[0].sample(1, generator)[0], SCHEDULES["sd15"].at(torch.tensor([1, 500]))
    noise = torch.randn(2, 2, 4, dtype=torch.float64, generator=generator)
    shared, apart = class_losses(classes, x, noise[0], path), class_losses(classes, x, noise, path)
    assert torch.equal(shared[0], shared[1])
    assert torch.equal(apart[0], shared[0])
    assert not torch.equal(apart[1], shared[1])


def test_samples_come_in_whole_blocks():
    with pytest.raises(ValueError, match="multiple of 50, got 120"):
        negative_log_likelihood(
            mixture(1), torch.zeros(1).double(), "epsilon", SCHEDULES["sd15"], 120, torch.Generator()
        )
