"""The committed models: plain diffusers and transformers load them, and their cards tell the truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel

from elbo_core.paths import MODELS
from elbo_core.training.card import caption_worth, clip_accuracy, load_clip


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(MODELS / "toy-sd14")
    loaded.set_progress_bar_config(disable=True)
    return loaded


def metrics(name: str) -> dict:
    return json.loads((MODELS / name / "metrics.json").read_text())


def test_it_generates_with_plain_diffusers(pipeline):
    generator = torch.Generator().manual_seed(0)
    image = pipeline("a photo of a star on grass", num_inference_steps=8, generator=generator, output_type="np").images[
        0
    ]
    assert image.shape == (128, 128, 3)
    assert image.std() > 0.05
    assert np.unique((255 * image).astype(np.uint8).reshape(-1, 3), axis=0).shape[0] > 500


def test_the_prompt_matters(pipeline):
    """Snow is white and grass is green, in every one of four seeds."""
    means = {}
    for stuff in ("snow", "grass"):
        generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
        images = pipeline([f"a photo of a star, {stuff}"] * 4, num_inference_steps=12, guidance_scale=4.0,
                          generator=generators, output_type="np").images  # fmt: skip
        means[stuff] = images.mean(axis=(1, 2))
    assert (means["snow"][:, 2] > means["grass"][:, 2] + 0.1).all()


def test_the_text_tower_is_shared_with_the_clip(pipeline):
    clip = CLIPModel.from_pretrained(MODELS / "toy-clip")
    for key, value in clip.text_model.state_dict().items():
        assert torch.equal(value, pipeline.text_encoder.state_dict()[key]), key


def test_right_captions_explain_held_out_scenes_best(toy):
    worth = caption_worth(toy, count=24)
    for right, wrong in zip(worth["right"][1:], worth["wrong"][1:], strict=True):
        assert right < wrong


def test_the_cards_number_can_be_measured_again():
    clip, tokenizer = load_clip(MODELS / "toy-clip")
    assert clip_accuracy(clip, tokenizer) == pytest.approx(metrics("toy-clip")["held_out_accuracy"], abs=0.02)


@pytest.mark.parametrize(
    ("name", "number"),
    [("toy-clip", "held_out_accuracy"), ("toy-sd15", "recognition_common"), ("toy-sd35", "recognition_common")],
)
def test_cards_say_what_was_measured(name, number):
    assert f"**{metrics(name)[number]:.1%}**" in (MODELS / name / "README.md").read_text()
