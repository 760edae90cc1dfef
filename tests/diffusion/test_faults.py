"""Pipelines that somebody changed: what comes out is right, or refused in our words."""

from __future__ import annotations

import threading
import warnings

import diffusers
import pytest
import tiny
import torch
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    UniPCMultistepScheduler,
)
from diffusers.models.attention_processor import AttnProcessor, IPAdapterAttnProcessor2_0, SlicedAttnProcessor

from elbo_core import Plan, Recipe, Scene, align, load, observe, segment
from elbo_core.datasets import open_dataset
from elbo_core.diffusion.families import wrap
from elbo_core.errors import ModelOutputError, ScheduleError, UnsupportedModelError

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
CLASSES = ["star", "hot dog"]
FEW = Plan.of((1, 901), (100,))


def denoiser_of(family: str):
    return wrap(tiny.PIPELINES[family](), family)


def asked(denoiser):
    """A noise estimate, and a cross-attention map."""
    channels = denoiser.pipeline.vae.config.latent_channels
    noisy = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    timestep, text = torch.tensor([500]), denoiser.encode_text(["a photo of star"])
    return denoiser.predict(noisy, timestep, text), denoiser.attend(noisy, timestep, text)[0].maps([(2,)])[0]


def read(denoiser, picture):
    observation = observe(denoiser, Scene.of(picture, CLASSES), FEW)
    return observation.losses.values, align(observation, Recipe.reference()).values


# --- attention layers that do not go through the fused function ---

FOREIGN = {
    "plain": lambda network: network.set_attn_processor(AttnProcessor()),
    "sliced": lambda network: network.set_attn_processor(SlicedAttnProcessor(1)),
    "one plain": lambda network: network.set_attn_processor(
        network.attn_processors | {list(network.attn_processors)[1]: AttnProcessor()}
    ),
}


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "sd35", "flux", "pixart-sigma"])
@pytest.mark.parametrize("change", FOREIGN)
def test_layers_that_are_not_seen_are_named_with_a_remedy_that_works(family, change):
    denoiser = denoiser_of(family)
    expected = asked(denoiser)
    names = [name.removesuffix(".processor") for name in denoiser.network.attn_processors]
    FOREIGN[change](denoiser.network)
    with pytest.raises(UnsupportedModelError) as caught:
        asked(denoiser)
    message = str(caught.value)
    for name in names[1:2] if change == "one plain" else names:
        assert f"{name} (" in message
    remedy = message.split("; call ")[1].removesuffix(" first")
    for line in remedy.split(" and "):
        exec(line, {"denoiser": denoiser, "diffusers": diffusers})
    torch.testing.assert_close(asked(denoiser), expected)


def test_another_backend_of_flux_is_refused_with_a_remedy_that_works():
    denoiser = denoiser_of("flux")
    expected = asked(denoiser)
    denoiser.network.set_attention_backend("flex")
    with pytest.raises(UnsupportedModelError, match=r'set_attention_backend\("native"\)'):
        asked(denoiser)
    denoiser.network.set_attention_backend("native")
    torch.testing.assert_close(asked(denoiser), expected)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_attention_slicing_is_refused(family):
    denoiser = denoiser_of(family)
    denoiser.pipeline.enable_attention_slicing()
    with pytest.raises(UnsupportedModelError, match="mid_block"):
        asked(denoiser)


@pytest.mark.parametrize("family", ["sd3", "flux", "pixart-sigma"])
def test_attention_slicing_without_effect_does_no_harm(family):
    denoiser = denoiser_of(family)
    expected = asked(denoiser)
    denoiser.pipeline.enable_attention_slicing()
    torch.testing.assert_close(asked(denoiser), expected)


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_compiled_blocks_work(family):
    denoiser = denoiser_of(family)
    expected = asked(denoiser)
    denoiser.network.compile_repeated_blocks(fullgraph=True, backend="eager")
    torch.testing.assert_close(asked(denoiser), expected)


def test_ip_adapters_are_refused_by_name():
    pipeline = tiny.stable_diffusion()
    pipeline.unet.set_attn_processor(
        {
            name: IPAdapterAttnProcessor2_0(16, 16) if name.endswith("attn2.processor") else processor
            for name, processor in pipeline.unet.attn_processors.items()
        }
    )
    with pytest.raises(UnsupportedModelError, match=r"IP-Adapter .*unload_ip_adapter"):
        wrap(pipeline, "sd")


def test_control_nets_are_refused_by_name():
    plain = tiny.stable_diffusion()
    pipeline = StableDiffusionControlNetPipeline(
        **plain.components, controlnet=ControlNetModel.from_unet(plain.unet), requires_safety_checker=False
    )
    with pytest.raises(UnsupportedModelError, match="a StableDiffusionControlNetPipeline; supported: "):
        load(pipeline)


# --- the scheduler ---


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart-sigma"])
def test_a_scheduler_exchanged_after_loading_is_obeyed(family):
    denoiser = denoiser_of(family)
    before = asked(denoiser)
    schedulers = [
        DDIMScheduler(beta_start=0.001, beta_end=0.03),
        DDPMScheduler(prediction_type="v_prediction"),
        EulerDiscreteScheduler(prediction_type="sample"),
    ]
    for scheduler in schedulers:
        denoiser.pipeline.scheduler = scheduler
        fresh = wrap(denoiser.pipeline, family)
        assert denoiser.prediction_type == fresh.prediction_type == scheduler.config.prediction_type
        assert torch.equal(denoiser.schedule.at(torch.arange(9)).sigma, fresh.schedule.at(torch.arange(9)).sigma)
        torch.testing.assert_close(asked(denoiser), asked(fresh))
    assert not torch.equal(asked(denoiser)[0], before[0])


def test_a_scheduler_changed_in_place_is_obeyed():
    denoiser = denoiser_of("sd")
    denoiser.pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    assert denoiser.prediction_type == "v_prediction"
    flow = denoiser_of("sd3")
    flow.pipeline.scheduler.set_shift(7.0)
    assert flow.schedule.shift == 7.0


def test_parts_exchanged_after_loading_are_obeyed():
    denoiser, other = denoiser_of("sd"), tiny.stable_diffusion()
    other.unet.conv_in.weight.data.mul_(2)
    other.text_encoder.get_input_embeddings().weight.data.mul_(2)
    for part in ("unet", "text_encoder", "tokenizer", "vae"):
        setattr(denoiser.pipeline, part, getattr(other, part))
        torch.testing.assert_close(asked(denoiser), asked(wrap(denoiser.pipeline, "sd")))
    torch.testing.assert_close(asked(denoiser), asked(wrap(other, "sd")))


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_another_solver_of_a_flow_is_obeyed(family):
    denoiser = denoiser_of(family)
    denoiser.pipeline.scheduler = UniPCMultistepScheduler(**FLOW, flow_shift=2.0)
    assert denoiser.schedule.shift == 2.0
    expected = asked(denoiser)
    denoiser.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    torch.testing.assert_close(asked(denoiser), expected)


@pytest.mark.parametrize(
    ("family", "scheduler"),
    [
        ("sd", FlowMatchEulerDiscreteScheduler()),
        ("sdxl", DPMSolverMultistepScheduler(**FLOW)),
        ("pixart-sigma", FlowMatchEulerDiscreteScheduler()),
        ("sd3", DDIMScheduler()),
        ("flux", DPMSolverMultistepScheduler()),
        ("flux", UniPCMultistepScheduler(use_flow_sigmas=True)),
        ("sd", EDMEulerScheduler()),
        ("sd", DDIMScheduler(prediction_type="score")),
    ],
)
def test_a_scheduler_of_another_kind_is_refused_at_use(family, scheduler):
    denoiser = denoiser_of(family)
    noisy, text = torch.randn(1, denoiser.pipeline.vae.config.latent_channels, 8, 8), denoiser.encode_text(["star"])
    denoiser.pipeline.scheduler = scheduler
    uses = [
        lambda: denoiser.noise(noisy, noisy, torch.tensor([5])),
        lambda: denoiser.predict(noisy, torch.tensor([5]), text),
        lambda: denoiser.attend(noisy, torch.tensor([5]), text),
        lambda: wrap(denoiser.pipeline, family),
    ]
    for use in uses:
        with pytest.raises((ScheduleError, UnsupportedModelError, ValueError)):
            use()


@pytest.mark.parametrize(("model", "wrong"), [("toy-sd15", "v_prediction"), ("toy-sd15", "sample"),
                                              ("toy-sd2", "epsilon"), ("toy-sd2", "sample")])  # fmt: skip
def test_a_prediction_type_that_contradicts_the_network_is_warned_of_once(model, wrong, picture):
    denoiser, image = load(model, "cpu"), open_dataset("toy-voc", "test", 1).read(0).image
    right = denoiser.prediction_type
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoiser.encode_image(image)
    denoiser.pipeline.scheduler.register_to_config(prediction_type=wrong)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoiser.encode_image(Scene.of(picture, ["star"]).image)  # noise, of which nothing can be learnt
    with pytest.warns(UserWarning, match=f"says prediction_type='{wrong}', but its network seems to predict '{right}'"):
        denoiser.encode_image(image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoiser.encode_image(image)


@pytest.mark.parametrize("family", tiny.PIPELINES)
def test_untrained_networks_are_let_be(family, scene):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoiser_of(family).encode_image(scene.image)


# --- the VAE ---


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd35"])
def test_the_working_size_is_that_of_the_network(family):
    pipeline = tiny.PIPELINES[family]()
    pipeline.vae.register_to_config(sample_size=256)
    with pytest.raises(
        UnsupportedModelError, match=r"pictures of 32 pixels, its VAE's config says 256.*sample_size=32"
    ):
        wrap(pipeline, "mine")
    assert wrap(pipeline, "sd15").image_size == 32, "known models are known"
    pipeline.vae.register_to_config(sample_size=None)
    assert wrap(pipeline, "mine").image_size == 32


@pytest.mark.parametrize("size", [(8, 12), [8, 8], None, "8"])
def test_sizes_that_are_no_square_are_refused(size):
    pipeline = tiny.stable_diffusion()
    pipeline.unet.register_to_config(sample_size=size)
    pipeline.vae.register_to_config(sample_size=None)
    with pytest.raises(UnsupportedModelError, match="only squares are supported"):
        wrap(pipeline, "mine")


def small_vae(channels: int = 4) -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1), latent_channels=channels,
    )  # fmt: skip


def test_a_vae_without_a_posterior_works(picture):
    torch.manual_seed(0)
    pipeline = tiny.stable_diffusion()
    pipeline.register_modules(vae=small_vae())
    denoiser = wrap(pipeline, "mine")
    image = torch.rand(3, 32, 32)
    with torch.no_grad():
        expected = pipeline.vae.encode(2 * image[None] - 1).latents[0]
    torch.testing.assert_close(denoiser.encode_image(image), expected, atol=1e-5, rtol=1e-5)
    assert read(denoiser, picture)[1].isfinite().all()


def without_factor(vae):
    vae.register_to_config(scaling_factor=None)


def with_means(vae):
    vae.register_to_config(latents_mean=[0.0] * 4)


def of_other_channels(vae):
    vae.quant_conv = torch.nn.Conv2d(8, 12, 1)


@pytest.mark.parametrize("change", [without_factor, with_means, of_other_channels])
def test_latents_that_are_not_those_of_the_network_are_refused(change):
    denoiser = denoiser_of("sd")
    change(denoiser.pipeline.vae)
    with pytest.raises(UnsupportedModelError, match=r"wants latents \(1, 4, 8, 8\)|one factor"):
        denoiser.encode_image(torch.rand(3, 32, 32))


def test_a_vae_of_another_compression_is_refused():
    denoiser = denoiser_of("sd")
    denoiser.pipeline.vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )  # fmt: skip
    with pytest.raises(
        UnsupportedModelError, match=r"wants latents \(1, 4, 8, 8\), AutoencoderTiny has \(1, 4, 16, 16\)"
    ):
        denoiser.encode_image(torch.rand(3, 32, 32))


def test_a_network_of_more_channels_is_refused():
    """As those for inpainting, which want a mask and a picture beside the noise."""
    pipeline = tiny.stable_diffusion()
    pipeline.unet = tiny.unet(in_channels=9)
    with pytest.raises(UnsupportedModelError, match=r"wants latents \(1, 9, 8, 8\)"):
        wrap(pipeline, "inpainting").encode_image(torch.rand(3, 32, 32))


def test_a_vae_that_overflows_is_named():
    denoiser = denoiser_of("sd")
    denoiser.pipeline.vae.quant_conv.bias.data.fill_(float("inf"))
    with pytest.raises(ModelOutputError, match="the VAE of sd returned NaN or infinity"):
        denoiser.encode_image(torch.rand(3, 32, 32))


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder", "vae", "unet", "scheduler"])
def test_a_pipeline_that_lacks_a_part_is_refused(part):
    pipeline = tiny.stable_diffusion()
    setattr(pipeline, part, None)
    with pytest.raises(UnsupportedModelError, match=f"lacks its {part}"):
        wrap(pipeline, "sd")


# --- precision and threads ---


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd35", "flux", "pixart-sigma"])
def test_precision_around_us_changes_nothing(family, picture):
    denoiser = denoiser_of(family)
    expected = read(denoiser, picture)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(read(denoiser, picture), expected, atol=0, rtol=0)
    torch.set_default_dtype(torch.float64)
    try:
        torch.testing.assert_close(read(denoiser, picture), expected, atol=0, rtol=0)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd35", "flux", "pixart-sigma"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_pipeline_may_change_its_precision_later(family, dtype, picture):
    denoiser = denoiser_of(family)
    expected = read(denoiser, picture)[0]
    denoiser.pipeline.to(dtype)
    losses, heatmaps = read(denoiser, picture)
    assert (denoiser.dtype, losses.dtype, heatmaps.dtype) == (dtype, torch.float32, torch.float32)
    torch.testing.assert_close(losses, expected, atol=0.02, rtol=0.02)
    assert heatmaps.isfinite().all()
    assert denoiser.pipeline.vae.dtype == torch.float32


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd35", "flux", "pixart-sigma"])
def test_a_text_encoder_may_have_its_own_precision(family, picture):
    denoiser = denoiser_of(family)
    expected = read(denoiser, picture)[0]
    denoiser.pipeline.text_encoder.to(torch.bfloat16)
    torch.testing.assert_close(read(denoiser, picture)[0], expected, atol=0.02, rtol=0.02)


def test_threads_take_turns(picture):
    """On one denoiser, and on two of one pipeline."""
    denoiser = denoiser_of("sd")
    expected = read(denoiser, picture)
    results = {}

    def work(index: int) -> None:
        results[index] = read(denoiser if index % 2 else wrap(denoiser.pipeline, "sd"), picture)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results.values():
        torch.testing.assert_close(result, expected, atol=0, rtol=0)


def test_a_pipeline_segments(picture):
    pipeline = tiny.stable_diffusion()
    result = segment(pipeline, picture, CLASSES, plan=FEW)
    torch.testing.assert_close(
        result.after.values, segment(wrap(pipeline, "sd"), picture, CLASSES, plan=FEW).after.values
    )
