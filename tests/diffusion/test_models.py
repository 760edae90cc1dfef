"""The registry of models, and loading from everywhere but the network."""

from __future__ import annotations

import re

import pytest
import tiny
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DModel

from elbo_core.diffusion import models
from elbo_core.diffusion.families import FAMILIES
from elbo_core.diffusion.models import REGISTRY, load, locate, overrides
from elbo_core.diffusion.objectives import OBJECTIVES
from elbo_core.errors import ModelAccessError, UnsupportedModelError
from elbo_core.paths import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "my model"
    tiny.stable_diffusion().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("alias", REGISTRY)
def test_registry_entries_make_sense(alias):
    entry = REGISTRY[alias]
    assert entry.hub_id.count("/") == 1
    assert entry.family in {cls.__name__ for cls in FAMILIES}
    assert entry.objective.removesuffix("_prediction") in {"v", *OBJECTIVES}
    assert entry.resolution in {512, 768, 1024}
    assert entry.revision is None or re.fullmatch("[0-9a-f]{40}", entry.revision)
    assert locate(alias) == (entry.hub_id, entry.revision)


def test_the_papers_six_models_are_known():
    assert {"sd14", "sd15", "sd2", "sd21", "sdxl", "sd35"} <= set(REGISTRY)


def test_hub_ids_stand_in_the_registry_alone():
    folders = ("elbo_core", "tests", "notebooks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".ipynb"}]
    for entry in REGISTRY.values():
        assert [path.name for path in files if entry.hub_id in path.read_text()] == ["models.py"]


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd35", "flux", "pixart-sigma"])
def test_every_family_is_saved_and_loaded(name, tmp_path):
    tiny.PIPELINES[name]().save_pretrained(tmp_path / name)
    loaded, original = load(tmp_path / name, "cpu"), models.wrap(tiny.PIPELINES[name](), name)
    assert type(loaded) is type(original)
    texts = ["a photo of star"]
    torch.testing.assert_close(loaded.encode_text(texts).embeddings, original.encode_text(texts).embeddings)


def test_an_alias_can_be_taken_from_elsewhere(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("ELBO_MODEL_SD15", str(folder))
    assert load("sd15", "cpu").image_size == 32
    written = tmp_path / "models.yaml"
    written.write_text(f"sd15: elsewhere\npixart-alpha: {folder}\n")
    assert overrides(written) == {"sd15": str(folder), "pixart-alpha": str(folder)}, "the environment wins"
    monkeypatch.delenv("ELBO_MODEL_SD15")
    assert overrides(written)["sd15"] == "elsewhere"
    assert overrides(tmp_path / "absent.yaml") == {}


def test_unknown_names_list_the_known():
    with pytest.raises(FileNotFoundError, match=r"toy models: .*toy-sd15.*others: sd14, sd15"):
        load("no-such-model")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("nobody/nothing", "HF_HUB_OFFLINE=1; download it once with `hf download nobody/nothing`"),
        ("sd15", "or set ELBO_MODEL_SD15 to a local folder"),
        ("sd35", "accept the licence on the model's page, run `hf auth login`"),
    ],
)
def test_what_cannot_be_fetched_says_what_to_do(name, advice, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelAccessError, match=re.escape(advice)):
        load(name)


def test_an_incomplete_folder_says_so(folder, tmp_path):
    broken = tmp_path / "broken"
    pipeline = tiny.stable_diffusion()
    pipeline.save_pretrained(broken)
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelAccessError, match="the folder is incomplete"):
        load(broken)


def test_pickled_weights_are_not_read(tmp_path):
    tiny.stable_diffusion().save_pretrained(tmp_path / "pickled", safe_serialization=False)
    assert list((tmp_path / "pickled").rglob("*.bin"))
    with pytest.raises(ModelAccessError):
        load(tmp_path / "pickled")


def test_unsupported_pipelines_are_refused_before_their_weights_are_read(tmp_path):
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    (tmp_path / "ddpm" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match="a DDPMPipeline; supported: StableDiffusionPipeline, "):
        load(tmp_path / "ddpm")


def test_half_precision_keeps_the_autoencoder_whole(folder):
    denoiser = load(folder, "cpu", torch.bfloat16)
    assert (denoiser.dtype, denoiser.pipeline.vae.dtype) == (torch.bfloat16, torch.float32)
    assert isinstance(denoiser.pipeline.vae, AutoencoderKL)
    assert denoiser.encode_image(torch.rand(3, 32, 32)).dtype == torch.float32
