"""The sampling loop against diffusers' own pipelines: the same start noise gives the same picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler

from elbo_core.diffusion.families import wrap
from elbo_core.diffusion.objectives import TO_CLEAN
from elbo_core.diffusion.sampling import Guidance, Hook, OwnScheduler, ReleasedGrid, join, move, sample

PROMPTS = ["a photo of star", "a red moon and a tree"]
FAMILIES = ["sd", "sd-v", "sdxl", "sd3", "sd35", "sd35-without-t5"]
UNETS = FAMILIES[:3]
SCHEDULERS = [DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]


def build(name: str):
    return wrap(tiny.PIPELINES[name](), name)


def start(denoiser, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *denoiser.latent_shape, generator=torch.Generator().manual_seed(1))


def last(steps):
    *_, final = steps
    return final


def by_diffusers(denoiser, noise, steps: int, scale: float) -> torch.Tensor:
    """The pipeline's own latents. It multiplies the noise itself where its scheduler wants that."""
    pipeline = denoiser.pipeline
    pipeline.set_progress_bar_config(disable=True)
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(steps)
    started = noise * getattr(scheduler, "init_noise_sigma", 1.0) if denoiser.name.startswith("sd3") else noise
    return pipeline(
        PROMPTS, latents=started, num_inference_steps=steps, guidance_scale=scale, output_type="latent",
        height=denoiser.image_size, width=denoiser.image_size,
    ).images  # fmt: skip


def zeros(denoiser) -> Guidance:
    """What diffusers guides SDXL away from."""
    empty = denoiser.encode_text([""])
    if denoiser.name != "sdxl":
        return Guidance(4.0, empty)
    return Guidance(4.0, replace(empty, embeddings=0 * empty.embeddings, pooled=0 * empty.pooled))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_own_scheduler_gives_the_pictures_of_the_pipeline(family):
    denoiser = build(family)
    noise = start(denoiser)
    wanted = by_diffusers(denoiser, noise, 6, 4.0)
    final = last(sample(denoiser, denoiser.encode_text(PROMPTS), noise, OwnScheduler(6), zeros(denoiser)))
    torch.testing.assert_close(final.latents, wanted, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_kind_of_scheduler_is_stepped_as_it_means(scheduler):
    denoiser = build("sd")
    denoiser.pipeline.scheduler = scheduler.from_config(denoiser.pipeline.scheduler.config)
    noise = start(denoiser)
    wanted = by_diffusers(denoiser, noise, 6, 4.0)
    final = last(sample(denoiser, denoiser.encode_text(PROMPTS), noise, OwnScheduler(6), zeros(denoiser)))
    torch.testing.assert_close(final.latents, wanted, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("family", UNETS)
def test_the_released_grid_is_ddim_from_the_last_timestep(family):
    """Trailing timesteps of diffusers are 999, 979, ..., 19; the released code ends at timestep 0's noise."""
    denoiser = build(family)
    denoiser.pipeline.scheduler = DDIMScheduler.from_config(
        denoiser.pipeline.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=False, clip_sample=False
    )
    noise = start(denoiser)
    wanted = by_diffusers(denoiser, noise, 10, 4.0)
    final = last(sample(denoiser, denoiser.encode_text(PROMPTS), noise, ReleasedGrid(10), zeros(denoiser)))
    torch.testing.assert_close(final.latents, wanted, atol=2e-4, rtol=2e-4)


def test_the_released_grid_of_fifty_steps():
    timesteps = ReleasedGrid().trajectory(build("sd")).timesteps
    assert (timesteps[0], timesteps[1], timesteps[-1], len(timesteps)) == (999, 979, 19, 50)


def test_a_move_on_a_flow_is_eulers_step():
    denoiser = build("sd3")
    schedule, (noisy, velocity) = denoiser.schedule, (start(denoiser), start(denoiser).flip(0))
    for here, there in ((600, 580), (999, 979)):
        sigmas = schedule.at(torch.tensor([here, there])).sigma.float()
        euler = noisy + (sigmas[1] - sigmas[0]) * velocity
        torch.testing.assert_close(move(denoiser, noisy, velocity, here, there), euler, atol=1e-5, rtol=1e-5)


def test_a_move_forth_and_back_changes_nothing():
    """With the noise of the first step, which is what DDIM inversion hopes for."""
    denoiser = build("sd")
    noisy, epsilon = start(denoiser), start(denoiser).flip(0)
    there = move(denoiser, noisy, epsilon, 200, 600)
    torch.testing.assert_close(move(denoiser, there, epsilon, 600, 200), noisy, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", TO_CLEAN)
def test_output_noise_and_clean_latents_belong_together(prediction):
    """z = alpha x + sigma epsilon, whatever is predicted."""
    family = {"flow_prediction": "sd3"}.get(prediction, "sd")
    denoiser = wrap(tiny.PIPELINES[family]() if family == "sd3" else tiny.stable_diffusion(prediction), family)
    noisy, output, times = start(denoiser), start(denoiser).flip(0), torch.tensor([100, 700])
    clean, epsilon = denoiser.to_clean(output, noisy, times), denoiser.to_epsilon(output, noisy, times)
    torch.testing.assert_close(denoiser.noise(clean, epsilon, times), noisy, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd35"])
def test_a_picture_does_not_depend_on_its_batch(family):
    denoiser = build(family)
    noise, text = start(denoiser), denoiser.encode_text(PROMPTS)
    both = last(sample(denoiser, text, noise, ReleasedGrid(4))).latents
    alone = [
        last(sample(denoiser, text[torch.tensor([k])], noise[k : k + 1], ReleasedGrid(4))).latents for k in range(2)
    ]
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_without_guidance_only_the_text_is_asked():
    denoiser = build("sd")
    step = next(sample(denoiser, denoiser.encode_text(PROMPTS), start(denoiser), guidance=Guidance(1.0)))
    assert step.unconditional is None
    torch.testing.assert_close(step.guided, step.conditional)


def test_guidance_is_taken_from_the_family():
    assert [build(name).guidance_scale for name in ("sd", "sdxl", "sd35")] == [7.5, 5.0, 7.0]
    denoiser = build("sdxl")
    step = next(sample(denoiser, denoiser.encode_text(PROMPTS), start(denoiser)))
    torch.testing.assert_close(step.guided, step.unconditional + 5 * (step.conditional - step.unconditional))


def test_pictures_are_decoded_as_the_pipeline_decodes_them():
    for family in ("sd", "sdxl", "sd35"):
        denoiser = build(family)
        noise = start(denoiser)
        denoiser.pipeline.set_progress_bar_config(disable=True)
        wanted = denoiser.pipeline(
            PROMPTS, latents=noise, num_inference_steps=3, guidance_scale=4.0, output_type="pt",
            height=denoiser.image_size, width=denoiser.image_size,
        ).images  # fmt: skip
        final = last(sample(denoiser, denoiser.encode_text(PROMPTS), noise, OwnScheduler(3), zeros(denoiser)))
        torch.testing.assert_close(denoiser.decode_latents(final.latents), wanted, atol=1e-4, rtol=1e-4)


def test_attention_is_yielded_if_asked():
    denoiser = build("sd")
    plain, seen = (
        next(sample(denoiser, denoiser.encode_text(PROMPTS), start(denoiser), attention=attention))
        for attention in (False, True)
    )
    assert plain.attention is None
    cross, own = seen.attention
    assert len(cross.layers[0].query) == len(own.layers[0].query) == 4  # both halves
    torch.testing.assert_close(seen.latents, plain.latents, atol=1e-5, rtol=1e-5)


class Nudge(Hook):
    """Every way to interfere, once: gradients of attention, another text, attention replaced, latents after."""

    def __init__(self, text):
        self.text, self.calls, self.moments = text, 0, []

    def before(self, moment):
        with torch.enable_grad():
            latents = moment.latents.clone().requires_grad_()
            _, (cross, _) = moment.denoiser.respond_and_attend(latents, moment.timesteps, moment.text)
            loss = cross.maps([(1,)])[0].square().sum()
            (gradient,) = torch.autograd.grad(loss, latents)
        assert gradient.abs().max() > 0
        self.moments.append(moment)
        return replace(moment, latents=moment.latents - gradient, text=self.text)

    def replace_attention(self, moment):
        def to_the_mean(call):
            self.calls += call.sees_text
            return None if not call.sees_text else call.value.mean(dim=2, keepdim=True).expand_as(call.query)

        return to_the_mean

    def after(self, step):
        return step.latents.clamp(-1, 1)


def test_a_hook_may_change_everything():
    denoiser = build("sd")
    noise, text = start(denoiser), denoiser.encode_text(PROMPTS)
    hook = Nudge(denoiser.encode_text(["a tree", "a star"]))
    steps = list(sample(denoiser, text, noise, ReleasedGrid(2), hook=hook))
    assert hook.calls == 2 * len(steps[0].moment.denoiser.attend(noise, torch.tensor([1, 1]), text)[0].layers)
    assert not torch.equal(steps[0].moment.latents, noise)
    assert steps[0].moment.text is hook.text
    assert steps[1].latents.abs().max() <= 1
    torch.testing.assert_close(hook.moments[1].latents, steps[0].latents)


def test_join_keeps_vectors_and_order():
    denoiser = build("sdxl")
    text = denoiser.encode_text(PROMPTS)
    joined = join([text, text[torch.tensor([1])]])
    torch.testing.assert_close(joined.pooled, torch.cat([text.pooled, text.pooled[1:]]))
    assert joined.mask is None
    assert len(joined) == 3


@pytest.mark.parametrize(("change", "message"), [
    ({"noise": torch.zeros(2, 3, 8, 8)}, "starts from noise"),
    ({"noise": torch.zeros(1, 4, 8, 8)}, "1 pictures for 2 texts"),
    ({"sampler": ReleasedGrid(7)}, "shared out evenly among 7"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_at_once(change, message):
    denoiser = build("sd")
    arguments = {"denoiser": denoiser, "text": denoiser.encode_text(PROMPTS), "noise": start(denoiser)}
    with pytest.raises(ValueError, match=message):
        next(sample(**arguments | change))
