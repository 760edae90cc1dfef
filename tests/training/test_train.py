"""`make models`, two steps each: what it writes loads and generates with plain diffusers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline
from transformers import CLIPModel, CLIPTokenizer

from elbo_core.diffusion.models import load
from elbo_core.toy.world import THINGS
from elbo_core.training import card, train, train_vae
from elbo_core.training.corpus import TrainingSet
from elbo_core.training.share import share_parts
from elbo_core.training.train_clip import classify
from elbo_core.training.twins import TWINS

ARGUMENTS = ["--scenes", "128", "--steps", "2", "--samples", "1", "--models", "toy-sd14", "toy-judge", "toy-clip"]
STAGES = ["vae", "decoder", "unet"]
"""Of the first model."""
SIBLINGS = [name for name in train.TRAINERS if name not in {"toy-sd14", "toy-judge", "toy-clip", *TWINS}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All models; the slow part, the cards, only of the first two."""
    root = tmp_path_factory.mktemp("a space")
    train.main([*ARGUMENTS, "--output", str(root / "models"), "--scratch", str(root / "scratch")])
    shop = train.Workshop(root / "models", root / "scratch", scenes=128, steps=2, samples=1)
    for name in [*SIBLINGS, "toy-twin-reversed"]:
        train.TRAINERS[name](shop, name)
    share_parts(root / "models")
    return root


@pytest.mark.parametrize("name", ["toy-sd14", *SIBLINGS, "toy-twin-reversed"])
def test_every_pipeline_loads_and_generates(folder, name):
    pipeline = DiffusionPipeline.from_pretrained(folder / "models" / name)
    networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert {network.dtype for network in networks} == {torch.float32}
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a photo of star", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (128, 128, 3)
    assert np.isfinite(image).all()


def test_a_twin_shares_all_but_its_unet_with_the_model_that_it_is_compared_with(folder):
    twin = folder / "models" / "toy-twin-reversed"
    shared = {part.name: part.resolve().parent.name for part in twin.iterdir() if part.is_symlink()}
    assert set(shared) == {"vae", "text_encoder", "tokenizer", "scheduler"}
    assert (twin / "unet").is_dir()
    assert not (twin / "unet").is_symlink()


def test_each_objective_is_that_of_the_original(folder):
    objectives = {name: load(folder / "models" / name).prediction_type for name in ["toy-sd14", *SIBLINGS]}
    assert objectives == {
        "toy-sd14": "epsilon",
        "toy-sd15": "epsilon",
        "toy-sd2": "v_prediction",
        "toy-sd21": "v_prediction",
        "toy-sdxl": "epsilon",
        "toy-sd35": "flow_prediction",
    }


def test_shared_parts_are_stored_once(folder):
    models = folder / "models"
    assert not any(part.is_symlink() for part in (models / "toy-sd15").iterdir())
    for name in ("toy-sd2", "toy-sd21", "toy-sdxl"):
        for part in ("vae", "text_encoder"):
            assert (models / name / part).is_symlink()
            assert (models / name / part).resolve() == models / "toy-sd14" / part
        assert (models / name / "tokenizer").resolve() == models / "toy-sd15" / "tokenizer"
    assert not (models / "toy-sd14" / "vae").is_symlink(), "toy-sd15 goes on with one of its own"
    assert not (models / "toy-sd2" / "unet").is_symlink()


def test_training_again_leaves_the_others_parts_alone(folder):
    before = (folder / "models" / "toy-sd14" / "text_encoder" / "model.safetensors").read_bytes()
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "models" / "toy-sd2")
    pipeline.text_encoder.final_layer_norm.weight.data.zero_()
    train.save_pipeline(pipeline, folder / "models" / "toy-sd2")
    assert (folder / "models" / "toy-sd14" / "text_encoder" / "model.safetensors").read_bytes() == before


def test_the_text_encoder_is_that_of_the_clip(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "models" / "toy-sd14")
    clip = CLIPModel.from_pretrained(folder / "models" / "toy-clip")
    tokens = pipeline.tokenizer(["a photo of star"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = clip.text_model(tokens).last_hidden_state
        torch.testing.assert_close(pipeline.text_encoder(tokens).last_hidden_state, expected)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "models" / "toy-clip")
    assert set(classify(clip, tokenizer, torch.zeros(2, 3, 128, 128), THINGS)) <= set(THINGS)


def test_latents_have_unit_variance(folder):
    cached = [np.load(path) for path in (folder / "scratch" / "cache").glob("latents-train-*-128-*.npy")]
    assert {latents.shape[1] for latents in cached} == {4, 16}
    for latents in cached:
        assert latents.astype(np.float32).std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", ["toy-clip", "toy-sd14"])
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


def test_a_second_start_trains_nothing(folder):
    shop = train.Workshop(folder / "models", folder / "scratch", scenes=128, steps=2, samples=1)
    vae, histories = train.learn_vae(shop, "toy-sd14", train_vae.build_vae())
    assert [len(history.losses) for history in histories.values()] == [2, 2]
    saved = AutoencoderKL.from_pretrained(folder / "models" / "toy-sd14" / "vae")
    torch.testing.assert_close(vae.decoder.conv_out.weight, saved.decoder.conv_out.weight, atol=1e-3, rtol=1e-3)


@pytest.fixture(scope="module")
def onward(folder, tmp_path_factory):
    """The first model, trained on for two steps from a copy of the folder, and the trainings that it had by then."""
    root = tmp_path_factory.mktemp("onward")
    shutil.copytree(folder, root, symlinks=True, dirs_exist_ok=True)
    shop = train.Workshop(root / "models", root / "scratch", scenes=128, steps=None, samples=1)
    histories = train.train_on(shop, "toy-sd14", steps=2)
    share_parts(root / "models")
    return root, histories


def test_a_model_that_goes_on_starts_where_it_was(folder, onward):
    roots = folder, onward[0]
    before, after = (StableDiffusionPipeline.from_pretrained(root / "models" / "toy-sd14") for root in roots)
    moved = (after.unet.conv_in.weight - before.unet.conv_in.weight).abs().max()
    assert 0 < moved < 0.01
    assert (onward[0] / "models" / "toy-sd2" / "vae").resolve().parent.name == "toy-sd14", "shared as it was"
    part = "models/toy-sd2/text_encoder/model.safetensors"
    assert (onward[0] / part).read_bytes() == (folder / part).read_bytes(), "only the first model's text tower learns"


def test_a_model_that_went_on_tells_of_all_stages(folder, onward):
    _, histories = onward
    seed = train.SEED + 2 * len(STAGES)
    assert list(histories) == [*STAGES, f"unet-{seed}"]
    assert [history.seed for history in histories.values()] == [train.SEED] * len(STAGES) + [seed]
    assert [len(history.losses) for history in histories.values()] == [2] * (len(STAGES) + 1)


def test_a_model_can_start_from_another_folder(folder, tmp_path):
    """The second one, as if it were the first: what was learnt before is counted, its weights are moved on."""
    shop = train.Workshop(
        tmp_path / "new", folder / "scratch", scenes=128, steps=None, samples=1, start=folder / "models" / "toy-sd14"
    )
    histories = train.train_on(shop, "toy-sd14", steps=1)
    assert list(histories)[: len(STAGES)] == STAGES
    before, after = (
        StableDiffusionPipeline.from_pretrained(root / "toy-sd14") for root in (folder / "models", shop.models)
    )
    for part in ("unet", "text_encoder"):
        pairs = zip(getattr(before, part).parameters(), getattr(after, part).parameters(), strict=True)
        assert 0 < max((old - new).abs().max().item() for old, new in pairs) < 0.1


def test_notes_stay_in_a_card_that_is_written_anew(folder, tmp_path):
    shutil.copytree(folder / "models" / "toy-sd14" / "training", tmp_path / "training")
    (tmp_path / "training" / "notes.md").write_text("- These weights: two steps.\n")
    facts = card._training_facts(tmp_path, {}, TrainingSet(folder / "scratch" / "cache", 128))
    assert facts.endswith("Zipf class frequencies\n- These weights: two steps.")


def test_one_start_is_for_one_model_that_goes_on(capsys):
    for arguments in (["--models", "toy-sd14"], ["--onward", "2", "--models", "toy-sd14", "toy-sd15"]):
        with pytest.raises(SystemExit):
            train.main(["--start", "anywhere", *arguments])
        assert "--start goes with --onward and one model" in capsys.readouterr().err


@pytest.mark.parametrize("names", [["toy-clip"], ["toy-judge"], ["toy-sd15", "toy-clip"]])
def test_only_diffusion_models_go_on(names, capsys):
    with pytest.raises(SystemExit):
        train.main(["--onward", "2", "--models", *names])
    assert "toy-sd14, toy-sd15, toy-sd2" in capsys.readouterr().err
