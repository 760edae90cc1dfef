import pytest
import torch
from diffusers import DDIMScheduler
from torch.nn import functional as F

from elbo_core.diffusion.noise import keyed_noise
from elbo_core.diffusion.schedule import NoiseSchedule
from elbo_core.errors import ScheduleError
from elbo_core.heatmaps import min_max
from elbo_core.methods.elbo import (
    ESTIMATORS,
    alignment_score,
    class_loss,
    class_losses,
    weights,
)
from elbo_core.methods.timesteps import STRATEGIES, Timesteps


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
                output = tiny.network(noisy, timestep, texts.embeddings[n : n + 1]).sample
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


ONES = torch.ones(2, 1)


def test_literal_elbo_sits_on_the_first_timestep(tiny):
    """About three quarters of eq. 4's weight on the default grid is at t = 1."""
    timesteps = torch.arange(1, 999, 50)
    weight = weights("elbo", tiny.schedule, timesteps, torch.ones(2, 20))
    assert weight[0] / weight.sum() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("estimator", "timestep", "target"),
    [
        ("epsilon", 300, lambda x, epsilon, alpha, sigma: epsilon),
        ("velocity", 700, lambda x, epsilon, alpha, sigma: alpha * epsilon - sigma * x),
        ("flow", 300, lambda x, epsilon, alpha, sigma: epsilon - x),
    ],
)
def test_weight_turns_the_noise_error_into_that_of_the_target(tiny, estimator, timestep, target):
    """With x implied by z = alpha x + sigma epsilon."""
    x, noise, estimate = torch.randn(3, 4, 8, 8, dtype=torch.float64).unbind()
    path = tiny.schedule.at(torch.tensor([timestep]))
    alpha, sigma = path.alpha.item(), path.sigma.item()
    implied_x = (alpha * x + sigma * noise - sigma * estimate) / alpha
    error = (target(x, noise, alpha, sigma) - target(implied_x, estimate, alpha, sigma)).square().mean()
    weight = weights(estimator, tiny.schedule, torch.tensor([timestep]), ONES)[0]
    torch.testing.assert_close(weight * (noise - estimate).square().mean(), error)


def test_relative_weights_make_every_timestep_count_alike(tiny):
    losses = torch.rand(3, 5) + 0.1
    weight = weights("relative", tiny.schedule, torch.arange(5), losses)
    torch.testing.assert_close((losses * weight).mean(dim=0), torch.ones(5).double())


def test_relative_weights_find_the_class_most_often():
    """By simulation of the model behind the weighting: noise estimates that differ by delta(t), residuals of m(t)."""
    generator = torch.Generator().manual_seed(0)
    residual_size = torch.logspace(-2, 0, 10)[:, None]
    residual = residual_size.sqrt() * torch.randn(4000, 10, 64, generator=generator)
    delta = 0.15 * residual_size.sqrt() * torch.randn(4000, 10, 64, generator=generator)
    right = residual.square().mean(dim=2)
    wrong = (residual + delta).square().mean(dim=2)
    difference = (wrong - right).mean(dim=0), (wrong - right).std(dim=0)
    schedule = NoiseSchedule.of(DDIMScheduler())
    certainty = {}
    for estimator in ESTIMATORS:
        losses = torch.stack([right.mean(dim=0), wrong.mean(dim=0)])
        weight = weights(estimator, schedule, torch.arange(0, 1000, 100), losses).float()
        certainty[estimator] = (weight @ difference[0]) / (weight.square() @ difference[1].square()).sqrt()
    assert max(certainty, key=certainty.get) == "relative"
    optimum = (difference[0] / difference[1]).square().sum().sqrt()
    assert certainty["relative"] > 0.98 * optimum


def test_infinite_weights_are_refused():
    schedule = NoiseSchedule.of(DDIMScheduler(rescale_betas_zero_snr=True))
    with pytest.raises(ScheduleError, match="'velocity' has no finite weight at timestep 999; leave it out"):
        weights("velocity", schedule, torch.tensor([500, 999]), torch.ones(2, 2))


def test_unknown_estimators_are_named(tiny):
    with pytest.raises(ValueError, match="unknown estimator 'best'; known: released, epsilon, velocity"):
        weights("best", tiny.schedule, torch.tensor([1]), ONES)


def test_class_loss_is_a_weighted_mean_with_an_error_of_the_differences():
    losses = torch.tensor([[1.0, 2.0, 3.0], [1.0, 3.0, 5.0]])
    result = class_loss(losses, torch.tensor([1.0, 1.0, 2.0]).double())
    torch.testing.assert_close(result.value, torch.tensor([9 / 3, 14 / 3]).double())
    torch.testing.assert_close(result.error, torch.tensor([0.0, 0.5, 2.0]).double().std().repeat(2) / 3**0.5)


def test_what_all_classes_share_adds_no_error():
    common = 100 * torch.rand(1, 20)
    result = class_loss(common + torch.tensor([[0.0], [1.0]]), torch.ones(20).double())
    assert (result.error < 1e-4).all()


def test_one_draw_says_nothing_about_its_error():
    assert class_loss(ONES, torch.ones(1).double()).error.tolist() == [torch.inf] * 2


@pytest.mark.parametrize("strategy", [*STRATEGIES, "random"])
@pytest.mark.parametrize("count", [1, 5, 10, 20])
def test_timesteps_lie_in_their_range(strategy, count):
    chosen = Timesteps(strategy, count).of(1000)
    low, high = STRATEGIES.get(strategy, (0, 1))
    assert len(chosen) == count
    assert all(1000 * low <= timestep < 1000 * high for timestep in chosen)
    assert list(chosen) == sorted(set(chosen))


def test_even_timesteps_are_the_centres_of_equal_shares():
    assert Timesteps("even", 20).of() == tuple(range(25, 1000, 50))
    assert Timesteps("small", 10).of() == tuple(range(10, 200, 20))
    assert Timesteps("even", 1).of() == (500,)
    assert Timesteps("even", 1000).of(1000) == tuple(range(1000))


def test_random_timesteps_follow_their_seed():
    assert Timesteps("random", 10).of() == Timesteps("random", 10).of() != Timesteps("random", 10, seed=1).of()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evenly",), "unknown strategy 'evenly'; known: even"),
        (("even", 0), "the number of timesteps must be at least 1"),
    ],
)
def test_timesteps_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        Timesteps(*arguments)


@pytest.mark.parametrize("strategy", ["small", "random"])
def test_more_timesteps_than_there_are(strategy):
    with pytest.raises(ValueError, match="of 100 timesteps, asked for 500"):
        Timesteps(strategy, 500).of(100)


@pytest.mark.parametrize(("classes", "timesteps"), [(0, 3), (2, 0)])
def test_nothing_to_ask(tiny, classes, timesteps):
    text, latents = torch.zeros(classes, 77, 16), torch.zeros(4, 8, 8)
    with pytest.raises(ValueError, match=f"nothing to ask: {classes} classes at {timesteps} timesteps"):
        class_losses(tiny, latents, text, torch.zeros(timesteps, 4, 8, 8), torch.arange(timesteps))
