import copy

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    HeliosScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from elbo_core.diffusion.schedule import NoiseSchedule, RectifiedFlow, VariancePreserving
from elbo_core.errors import ScheduleError, UnsupportedModelError

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = DDIMScheduler(**SD, rescale_betas_zero_snr=True, timestep_spacing="trailing")
DDPM_LIKE = {
    "sd14": PNDMScheduler(**SD, skip_prk_steps=True),
    "sd15": DDIMScheduler(**SD),
    "sd2": EulerDiscreteScheduler(**SD),
    "sd21": DDIMScheduler(**SD, prediction_type="v_prediction"),
    "sdxl": EulerDiscreteScheduler(**SD, timestep_spacing="leading"),
    "linear": DDPMScheduler(),
    "zero-snr": ZERO_SNR,
    "zero-snr euler": EulerDiscreteScheduler(**SD, rescale_betas_zero_snr=True),
    "pixart": DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
}
FLOWS = {
    "straight": (FlowMatchEulerDiscreteScheduler(), None),
    "sd3": (FlowMatchEulerDiscreteScheduler(shift=3.0), None),
    "flux": (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), 1024),
}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SOLVERS = {
    "DPM-Solver++": DPMSolverMultistepScheduler(**FLOW, flow_shift=3.0),
    "DPM-Solver++ (single)": DPMSolverSinglestepScheduler(**FLOW, flow_shift=3.0),
    "UniPC": UniPCMultistepScheduler(**FLOW, flow_shift=3.0),
    "DEIS": DEISMultistepScheduler(**FLOW, flow_shift=3.0),
    "SA-Solver": SASolverScheduler(**FLOW, flow_shift=3.0),
    "Heun": FlowMatchHeunDiscreteScheduler(shift=3.0),
    "LCM": FlowMatchLCMScheduler(shift=3.0),
}
"""Other solvers for a flow model, with the same shift as that of Stable Diffusion 3."""
ALL = {name: NoiseSchedule.of(scheduler) for name, scheduler in DDPM_LIKE.items()} | {
    name: NoiseSchedule.of(*arguments) for name, arguments in FLOWS.items()
}
schedules = pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)


@pytest.mark.parametrize("name", DDPM_LIKE)
def test_every_timestep_agrees_with_add_noise(name):
    timesteps = torch.arange(1000)
    clean, noise = torch.randn(2, 1000, 3, generator=torch.Generator().manual_seed(0))
    scheduler = DDIMScheduler.from_config(DDPM_LIKE[name].config)  # Euler's own add_noise knows no schedule of VP form
    path = ALL[name].at(timesteps).like(clean)
    expected = scheduler.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(path.alpha * clean + path.sigma * noise, expected, rtol=1e-5, atol=5e-4)
    torch.testing.assert_close(path.alpha.flatten()[:-1] ** 2, scheduler.alphas_cumprod[:-1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", FLOWS)
def test_every_timestep_agrees_with_scale_noise(name):
    scheduler, image_tokens = FLOWS[name]
    scheduler = copy.deepcopy(scheduler)
    mu = calculate_shift(image_tokens) if image_tokens else None
    scheduler.set_timesteps(sigmas=[(k + 1) / 1000 for k in reversed(range(1000))], mu=mu)
    if name == "sd3":  # `set_timesteps` shifts the sigmas that it is given
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    clean, noise = torch.randn(2, 1000, 3, generator=torch.Generator().manual_seed(0))
    path = ALL[name].at(torch.arange(1000)).like(clean)
    expected = scheduler.scale_noise(clean, scheduler.timesteps[:1000].flip(0), noise)
    torch.testing.assert_close(path.alpha * clean + path.sigma * noise, expected, rtol=1e-4, atol=1e-5)


@schedules
def test_slopes_agree_with_autograd(schedule):
    time = torch.linspace(0.002, 0.997, 333, dtype=torch.float64, requires_grad=True)
    point = schedule.point(time)
    for value, slope in ((point.alpha, point.alpha_slope), (point.sigma, point.sigma_slope),
                         (point.log_snr, point.log_snr_slope)):  # fmt: skip
        (derivative,) = torch.autograd.grad(value.sum(), time, retain_graph=True)
        torch.testing.assert_close(slope, derivative, rtol=1e-8, atol=1e-8)


@schedules
def test_log_snr_slope_agrees_with_central_differences(schedule):
    time, step = torch.linspace(0.002, 0.997, 333, dtype=torch.float64), 1e-7
    difference = (schedule.point(time + step).log_snr - schedule.point(time - step).log_snr) / (2 * step)
    torch.testing.assert_close(schedule.point(time).log_snr_slope, difference, rtol=1e-4, atol=0)


@schedules
def test_log_snr_slope_integrates_to_the_log_snr(schedule):
    time = torch.linspace(0.001, 0.999, 200_001, dtype=torch.float64)
    point = schedule.point(time)
    area = torch.trapezoid(point.log_snr_slope, time)
    assert area.item() == pytest.approx((point.log_snr[-1] - point.log_snr[0]).item(), rel=1e-6)


@schedules
def test_starts_clean_and_only_gets_noisier(schedule):
    point = schedule.point(torch.linspace(0, 1, 10_001))
    assert (point.alpha[0], point.sigma[0]) == (1, 0)
    assert (point.log_snr.diff() < 0).all()
    assert (point.log_snr_slope < 0).all()


def test_zero_terminal_snr_is_infinite_only_there():
    point = ALL["zero-snr"].at(torch.tensor([998, 999]))
    assert point.alpha[1] == 0
    assert point.log_snr.tolist()[1] == point.log_snr_slope.tolist()[1] == float("-inf")
    assert point.log_snr[0].isfinite()


def test_timesteps_of_sd3_index_the_shifted_schedule():
    """As in the released code, so that "timestep 200" is far noisier than for Stable Diffusion 1.5."""
    sigma = ALL["sd3"].at(torch.tensor([20, 100, 200, 501, 951])).sigma
    torch.testing.assert_close(sigma, torch.tensor([0.0605, 0.252, 0.430, 0.752, 0.984]).double(), atol=1e-3, rtol=0)


def test_linear_dynamic_shift_is_that_of_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    time = torch.tensor([0.1, 0.5, 0.9])
    expected = scheduler.time_shift(calculate_shift(1024), 1.0, time)
    torch.testing.assert_close(NoiseSchedule.of(scheduler, 1024).point(time).sigma, expected.double())


@pytest.mark.parametrize("timestep", [-1, 1000])
@schedules
def test_timesteps_out_of_range_are_named(schedule, timestep):
    with pytest.raises(ScheduleError, match=f"timestep {timestep} is outside 0..999"):
        schedule.at(torch.tensor([5, timestep]))


@pytest.mark.parametrize("time", [-0.1, 1.5, float("nan")])
@schedules
def test_times_out_of_range_are_named(schedule, time):
    with pytest.raises(ScheduleError, match=f"time {time} is outside"):
        schedule.point(torch.tensor([0.5, time]))


def test_a_schedule_that_does_not_grow_is_refused():
    with pytest.raises(ScheduleError, match=r"sigma.2 is 0.2 at timestep 2 and 0.3 before"):
        VariancePreserving(torch.tensor([0.1, 0.3, 0.2, 0.5]))
    with pytest.raises(ScheduleError, match=r"end at 1 or below; sigma.2 is 1.2 at timestep 1"):
        VariancePreserving(torch.tensor([0.1, 1.2]))
    with pytest.raises(ScheduleError, match="positive, got 0"):
        RectifiedFlow(shift=0)


def test_a_dynamic_shift_needs_the_resolution():
    with pytest.raises(ScheduleError, match="how many image tokens"):
        NoiseSchedule.of(FLOWS["flux"][0])


@pytest.mark.parametrize("name", SOLVERS)
def test_the_solver_does_not_change_the_flow(name):
    """Oracle: each solver's own sigmas at its own steps."""
    schedule, scheduler = NoiseSchedule.of(SOLVERS[name]), copy.deepcopy(SOLVERS[name])
    assert torch.equal(schedule.at(torch.arange(1000)).sigma, ALL["sd3"].at(torch.arange(1000)).sigma)
    if name in ("Heun", "LCM"):
        expected, times = scheduler.sigmas, 1 - torch.arange(1000) / 1000
    else:
        scheduler.set_timesteps(10)
        last = torch.linspace(1, 0.001, 11) if name == "UniPC" else torch.linspace(0.999, 0, 11)
        expected, times = scheduler.sigmas[:10], last[:10]
    torch.testing.assert_close(schedule.point(times.double()).sigma, expected.double(), atol=1e-4, rtol=1e-4)


def test_a_shift_that_is_set_later_is_obeyed():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_shift(5.0)
    assert NoiseSchedule.of(scheduler).shift == 5.0


@pytest.mark.parametrize(
    "scheduler",
    [
        UniPCMultistepScheduler(use_flow_sigmas=True),
        DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="v_prediction"),
        UniPCMultistepScheduler(prediction_type="flow_prediction"),
        DPMSolverMultistepScheduler(prediction_type="flow_prediction"),
    ],
    ids=repr,
)
def test_a_scheduler_that_contradicts_itself_is_refused(scheduler):
    with pytest.raises(ScheduleError, match="contradicts itself"):
        NoiseSchedule.of(scheduler)


@pytest.mark.parametrize(
    ("scheduler", "complaint"),
    [
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas=True"),
        (EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"), "timestep_type='cont"),
        (UniPCMultistepScheduler(**FLOW, use_dynamic_shifting=True), "does not say by how much"),
        (FlowMatchHeunDiscreteScheduler(shift=0.0), "must be positive"),
        (DDPMScheduler(trained_betas=[0.1, float("nan"), 0.2]), "must grow"),
    ],
)
def test_schedules_of_another_kind_are_refused(scheduler, complaint):
    with pytest.raises(ScheduleError, match=complaint):
        NoiseSchedule.of(scheduler, 1024)


@pytest.mark.parametrize("options", [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}])
def test_how_a_sampler_chooses_its_steps_does_not_matter(options):
    expected = ALL["sd15"].at(torch.arange(1000)).sigma
    for kind in (EulerDiscreteScheduler, HeunDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler):
        scheduler = kind(**SD, **options)
        scheduler.set_timesteps(7)
        torch.testing.assert_close(NoiseSchedule.of(scheduler).at(torch.arange(1000)).sigma, expected)


@pytest.mark.parametrize("kind", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler, HeliosScheduler])
def test_schedulers_of_other_families_are_refused(kind):
    with pytest.raises(UnsupportedModelError, match=f"{kind.__name__} has neither"):
        NoiseSchedule.of(kind())


def test_other_schedulers_are_refused():
    with pytest.raises(TypeError, match="object has neither alphas_cumprod nor flow matching"):
        NoiseSchedule.of(object())
