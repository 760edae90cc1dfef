import pytest
import sympy
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from elbo_core.diffusion.objectives import OBJECTIVES, TO_EPSILON, conversion
from elbo_core.diffusion.schedule import NoiseSchedule, PathPoint, RectifiedFlow

SD15 = NoiseSchedule.of(DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"))
SD3 = NoiseSchedule.of(FlowMatchEulerDiscreteScheduler(shift=3.0))
objectives = pytest.mark.parametrize("name", OBJECTIVES)


TIME = sympy.symbols("t", positive=True)
ALPHA, SIGMA = (sympy.Function(name, positive=True)(TIME) for name in ("alpha", "sigma"))
SYMBOLIC = PathPoint(ALPHA, SIGMA, ALPHA.diff(TIME), SIGMA.diff(TIME))
"""A path left open: the code's own formulas are then algebra."""


@objectives
def test_each_omega_follows_from_its_target(name):
    """Substitute x for the noise estimate at a fixed z; g = d target / d epsilon; omega must be -g^2 / lambda'."""
    epsilon, noisy = sympy.symbols("epsilon z")
    path, objective = SYMBOLIC, OBJECTIVES[name]
    implied_x = (noisy - path.sigma * epsilon) / path.alpha
    gain = objective.target(implied_x, epsilon, path).diff(epsilon)
    assert sympy.simplify(objective.omega(path) + gain**2 / path.log_snr_slope) == 0


@objectives
def test_conversion_inverts_the_target_symbolically(name):
    x, epsilon = sympy.symbols("x epsilon")
    path, objective = SYMBOLIC, OBJECTIVES[name]
    target = objective.target(x, epsilon, path)
    recovered = objective.to_epsilon(target, path.alpha * x + path.sigma * epsilon, path)
    assert sympy.simplify(recovered - epsilon) == 0


@objectives
@pytest.mark.parametrize("schedule", [SD15, SD3], ids=["sd15", "sd3"])
def test_unweighted_losses_are_the_same_elbo(name, schedule):
    """Half of E[L / omega] equals half of E[-lambda' |error of epsilon|^2], for random predictions."""
    generator = torch.Generator().manual_seed(0)
    x, epsilon, prediction = torch.randn(3, 500, 16, generator=generator, dtype=torch.float64)
    path = schedule.point(torch.rand(500, generator=generator, dtype=torch.float64) * 0.998 + 0.001).like(x)
    objective = OBJECTIVES[name]
    loss = (prediction - objective.target(x, epsilon, path)).square().sum(dim=1, keepdim=True)
    estimate = objective.to_epsilon(prediction, path.alpha * x + path.sigma * epsilon, path)
    of_epsilon = -path.log_snr_slope * (estimate - epsilon).square().sum(dim=1, keepdim=True)
    torch.testing.assert_close((loss / objective.omega(path)), of_epsilon, rtol=1e-6, atol=0)
    assert (loss / objective.omega(path)).mean().item() == pytest.approx(of_epsilon.mean().item(), rel=1e-6)


def test_flow_weight_is_the_printed_one_for_the_straight_path():
    """With alpha = 1 - t, sigma = t the target is epsilon - x and omega = t / (2 (1 - t))."""
    path = RectifiedFlow().point(torch.tensor([0.25]))
    torch.testing.assert_close(OBJECTIVES["flow"].target(1.0, 3.0, path), torch.tensor([2.0]).double())
    torch.testing.assert_close(OBJECTIVES["flow"].omega(path), torch.tensor([0.25 / 1.5]).double())


def test_velocity_is_that_of_diffusers():
    scheduler, t = DDIMScheduler(), torch.tensor([300])
    x, epsilon = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0))
    path = NoiseSchedule.of(scheduler).at(t).like(x)
    velocity = scheduler.get_velocity(x, epsilon, t)
    torch.testing.assert_close(OBJECTIVES["velocity"].target(x, epsilon, path), velocity)
    torch.testing.assert_close(conversion("v_prediction")(velocity, scheduler.add_noise(x, epsilon, t), path), epsilon)


@pytest.mark.parametrize(
    ("prediction_type", "schedule"),
    [("epsilon", SD15), ("v_prediction", SD15), ("sample", SD15), ("flow_prediction", SD3)],
    ids=TO_EPSILON,
)
def test_recovers_the_noise_from_a_perfect_network(prediction_type, schedule):
    """A flow model predicts epsilon - x under any shift."""
    x, epsilon = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    path = schedule.at(torch.tensor([20, 500, 950])).like(x)
    output = {"epsilon": epsilon, "v_prediction": path.alpha * epsilon - path.sigma * x, "sample": x,
              "flow_prediction": epsilon - x}[prediction_type]  # fmt: skip
    estimate = conversion(prediction_type)(output, path.alpha * x + path.sigma * epsilon, path)
    torch.testing.assert_close(estimate, epsilon)


def test_unknown_prediction_types_are_named():
    with pytest.raises(ValueError, match=r"'score'; known: epsilon, v_prediction, sample, flow_prediction"):
        conversion("score")
