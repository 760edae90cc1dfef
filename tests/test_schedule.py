import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from elbo_core.schedule import NoiseSchedule

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("scheduler", [DDIMScheduler(**SD), DDPMScheduler(), PNDMScheduler(**SD)])
def test_agrees_with_add_noise(scheduler):
    timesteps = torch.tensor([0, 1, 500, 951, 999])
    clean, noise = torch.randn(5, 3), torch.randn(5, 3)
    alpha, sigma = NoiseSchedule.of(scheduler).at(timesteps)
    ours = alpha[:, None] * clean + sigma[:, None] * noise
    torch.testing.assert_close(ours.float(), scheduler.add_noise(clean, noise, timesteps), rtol=1e-5, atol=1e-5)


def test_log_snr_slope_integrates_to_the_log_snr():
    schedule = NoiseSchedule.of(EulerDiscreteScheduler(**SD))
    timesteps = torch.arange(1, 999)
    slope = schedule.log_snr_slope(timesteps)
    assert (slope < 0).all(), "the signal-to-noise ratio falls with time"
    rise = schedule.log_snr(torch.tensor([998])) - schedule.log_snr(torch.tensor([1]))
    assert (slope.sum() / len(schedule)).item() == pytest.approx(rise.item(), rel=0.15)


@pytest.mark.parametrize("timestep", [-1, 1000])
def test_timesteps_out_of_range_are_named(timestep):
    with pytest.raises(ValueError, match=f"timestep {timestep} is outside 0..999"):
        NoiseSchedule.of(DDIMScheduler()).at(torch.tensor([5, timestep]))


def test_other_schedulers_are_refused():
    with pytest.raises(TypeError, match="FlowMatchEulerDiscreteScheduler"):
        NoiseSchedule.of(FlowMatchEulerDiscreteScheduler())
