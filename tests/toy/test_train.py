"""`make models` from end to end, two steps each: what it writes loads and generates with plain diffusers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, CLIPTokenizer

from elbo_core.toy import train, train_vae
from elbo_core.toy.corpus import TrainingSet
from elbo_core.toy.train_clip import classify
from elbo_core.toy.world import THINGS

ARGUMENTS = ["--scenes", "128", "--steps", "2", "--samples", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("a space")
    train.main([*ARGUMENTS, "--output", str(root / "models"), "--scratch", str(root / "scratch")])
    return root


def test_the_pipeline_loads_alone_and_generates(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "models" / "toy-sd15")
    assert {pipeline.unet.dtype, pipeline.text_encoder.dtype, pipeline.vae.dtype} == {torch.float32}
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a photo of star", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (128, 128, 3)
    assert np.isfinite(image).all()


def test_the_text_encoder_is_that_of_the_clip(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "models" / "toy-sd15")
    clip = CLIPModel.from_pretrained(folder / "models" / "toy-clip")
    tokens = pipeline.tokenizer(["a photo of star"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = clip.text_model(tokens).last_hidden_state
        torch.testing.assert_close(pipeline.text_encoder(tokens).last_hidden_state, expected)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "models" / "toy-clip")
    assert set(classify(clip, tokenizer, torch.zeros(2, 3, 128, 128), THINGS)) <= set(THINGS)


def test_latents_have_unit_variance(folder):
    (cached,) = (folder / "scratch" / "cache").glob("latents-train-*-128-*.npy")
    latents = np.load(cached).astype(np.float32)
    assert latents.std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", ["toy-clip", "toy-sd15"])
def test_the_card_holds_measured_numbers(folder, name):
    model = folder / "models" / name
    card, metrics = (model / "README.md").read_text(), json.loads((model / "metrics.json").read_text())
    assert metrics["training_scenes"] == 128
    assert all(steps == 2 for steps in metrics["steps"].values())
    assert "2 steps" in card
    assert (model / "training" / "curve.png").exists()


def test_no_path_of_this_machine_is_saved(folder):
    for path in (folder / "models").rglob("*.json"):
        assert str(folder) not in path.read_text()


def test_only_the_wanted_parts_start_from_known_weights(folder):
    known = str(folder / "models")
    options = train._parse(["--warm-start", known, "--parts", "vae"])
    assert train._known(options, "toy-sd15", "vae") == folder / "models" / "toy-sd15" / "vae"
    assert train._known(options, "toy-sd15", "unet") is None
    assert train._known(train._parse([]), "toy-clip") is None


def test_a_second_start_trains_nothing(folder):
    vae = train.start(train_vae.build_vae, None)
    corpus = TrainingSet(folder / "scratch" / "cache", 128)
    plan = replace(train_vae.PLAN, steps=2)
    history = train_vae.train_vae(vae, corpus, folder / "scratch" / "checkpoints", plan)
    assert len(history.losses) == 2
    saved = train.start(train_vae.build_vae, folder / "models" / "toy-sd15" / "vae")
    torch.testing.assert_close(vae.encoder.conv_in.weight, saved.encoder.conv_in.weight, atol=1e-3, rtol=1e-3)
