import pytest
import torch
from diffusers import DDIMScheduler

from elbo_core.objectives import TO_EPSILON, to_epsilon


@pytest.mark.parametrize("prediction_type", TO_EPSILON)
def test_recovers_the_noise_from_a_perfect_prediction(prediction_type):
    x, epsilon = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    alpha, sigma = 0.8, 0.6
    target = {"epsilon": epsilon, "v_prediction": alpha * epsilon - sigma * x, "sample": x}[prediction_type]
    estimate = to_epsilon(prediction_type, target, alpha * x + sigma * epsilon, alpha, sigma)
    torch.testing.assert_close(estimate, epsilon)


def test_velocity_is_that_of_diffusers():
    scheduler = DDIMScheduler()
    x, epsilon, t = torch.randn(1, 4), torch.randn(1, 4), torch.tensor([300])
    alpha = scheduler.alphas_cumprod[300].sqrt()
    sigma = (1 - alpha**2).sqrt()
    velocity = scheduler.get_velocity(x, epsilon, t)
    noisy = scheduler.add_noise(x, epsilon, t)
    torch.testing.assert_close(to_epsilon("v_prediction", velocity, noisy, alpha, sigma), epsilon)


def test_unknown_objectives_are_named():
    with pytest.raises(ValueError, match=r"'score'; known: epsilon, v_prediction, sample"):
        to_epsilon("score", *torch.ones(4))
