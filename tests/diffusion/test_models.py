"""Loading from everywhere but the network."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from elbo_core.diffusion import models
from elbo_core.diffusion.folder import fetched_folder
from elbo_core.diffusion.models import check, load
from elbo_core.diffusion.registry import REGISTRY
from elbo_core.errors import ModelAccessError, UnsupportedModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "my model"
    tiny.stable_diffusion().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd35", "flux", "pixart-sigma"])
def test_every_family_is_saved_and_loaded(name, tmp_path):
    tiny.PIPELINES[name]().save_pretrained(tmp_path / name)
    loaded, original = load(tmp_path / name, "cpu"), models.wrap(tiny.PIPELINES[name](), name)
    assert type(loaded) is type(original)
    texts = ["a photo of star"]
    torch.testing.assert_close(loaded.encode_text(texts).embeddings, original.encode_text(texts).embeddings)


def test_an_alias_can_be_taken_from_elsewhere(folder, monkeypatch):
    monkeypatch.setenv("ELBO_MODEL_SD15", str(folder))
    assert load("sd15", "cpu").image_size == 32


def test_unknown_names_list_the_known():
    with pytest.raises(FileNotFoundError, match=r"toy models: .*toy-sd15.*others: sd14, sd15"):
        load("no-such-model")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("nobody/nothing", "HF_HUB_OFFLINE=1; download it once with `hf download nobody/nothing`"),
        ("sd15", "or set ELBO_MODEL_SD15 to a local folder"),
        ("sd15", f"--revision {REGISTRY['sd15'].revision}`"),
        ("sd35", "accept the licence on the model's page, run `hf auth login`"),
    ],
)
def test_what_cannot_be_fetched_says_what_to_do(name, advice, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelAccessError, match=re.escape(advice)):
        load(name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A pipeline of every kind of network."""
    folder = tmp_path_factory.mktemp("models") / "sd35"
    tiny.stable_diffusion_3().save_pretrained(folder)
    return folder


@pytest.fixture
def broken(whole, tmp_path):
    """A copy to be broken."""
    return shutil.copytree(whole, tmp_path / "broken")


NETWORKS = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


def weights_of(part: Path) -> Path:
    return next(part.glob("*.safetensors"))


def rewrite(part: Path, change) -> None:
    path = weights_of(part)
    weights = load_file(path)
    save_file(change({name: weights[name] for name in sorted(weights)}), path, {"format": "pt"})


def without_one(weights: dict) -> dict:
    return dict(list(weights.items())[1:])


def renamed(weights: dict) -> dict:
    return {f"module.{name}": weight for name, weight in weights.items()}


def with_another(weights: dict) -> dict:
    return weights | {"another.layer.weight": torch.zeros(2)}


def reshaped(weights: dict) -> dict:
    name = next(iter(weights))
    return weights | {name: torch.cat([weights[name], weights[name]])}


@pytest.mark.parametrize("part", NETWORKS)
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without_one, "1 missing"),
        (renamed, "unexpected (module."),
        (with_another, "1 unexpected (another.layer.weight)"),
        (reshaped, "damaged"),
    ],
)
def test_weights_that_do_not_load_are_named_not_drawn_at_random(part, change, complaint, broken):
    rewrite(broken / part, change)
    with pytest.raises(ModelAccessError, match=re.escape(complaint)) as caught:
        load(broken, "cpu")
    assert complaint == "damaged" or f"the weights of {part} are not those of its config" in str(caught.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("part", NETWORKS)
@pytest.mark.parametrize("spoil", [cut, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x" * 999)])
def test_damaged_weights_are_refused_by_check_too(part, spoil, broken):
    spoil(weights_of(broken / part))
    for ask in (load, check):
        with pytest.raises(ModelAccessError, match="the folder is incomplete or damaged"):
            ask(broken)


@pytest.mark.parametrize(
    "lost",
    [
        "transformer",
        "vae/config.json",
        "text_encoder_3/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer",
        "tokenizer/tokenizer.json",
        "tokenizer_2/tokenizer_config.json",
        "tokenizer_3/tokenizer.json",
        "model_index.json",
    ],
)
def test_what_an_interrupted_download_lacks_is_named(lost, broken):
    path = broken / lost
    path.rename(path.with_name(f"{path.name}.incomplete"))
    for ask in (load, check):
        with pytest.raises(ModelAccessError, match=lost.split("/")[0]):
            ask(broken)


def index_with(broken: Path, **changes) -> None:
    path = broken / "model_index.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value != "drop"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "drop"},
        {"_class_name": None},
        {"_class_name": ["custom.py", "Pipeline"]},
        {"vae": "drop"},
        {"vae": [None, None]},
        {"tokenizer": [None, None]},
        {"transformer": ["diffusers", "NoSuchClass"]},
        {"transformer": ["os", "system"]},
        {"text_encoder": ["transformers", "T5EncoderModel"]},
        {"scheduler": ["diffusers", "AutoencoderKL"]},
    ],
)
def test_an_index_that_does_not_fit_is_refused(changes, broken):
    index_with(broken, **changes)
    with pytest.raises((ModelAccessError, UnsupportedModelError)):
        load(broken, "cpu")


@pytest.mark.parametrize(
    "file",
    ["model_index.json", "vae/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json",
     "tokenizer_3/tokenizer_config.json"],
)  # fmt: skip
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null", b"1"])
def test_damaged_settings_are_refused(file, content, broken):
    (broken / file).write_bytes(content)
    with pytest.raises(ModelAccessError):
        load(broken, "cpu")


def same_weights(a, b) -> bool:
    parts = [(part, b.pipeline.components[name]) for name, part in a.pipeline.components.items()]
    pairs = [(x.state_dict(), y.state_dict()) for x, y in parts if isinstance(x, torch.nn.Module)]
    return bool(pairs) and all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs)


def test_weights_under_older_names_load(whole, broken):
    """Older files of CLIP list positions, and the text tower beside a projection that is not asked for."""
    rewrite(broken / "text_encoder", lambda w: w | {"text_model.embeddings.position_ids": torch.arange(77)[None]})
    assert same_weights(load(broken, "cpu"), load(whole, "cpu"))
    pipeline = tiny.stable_diffusion()
    pipeline.save_pretrained(broken.with_name("sd"))
    rewrite(
        broken.with_name("sd") / "text_encoder",
        lambda w: (
            {f"text_model.{name}": weight for name, weight in w.items()}
            | {"text_model.embeddings.position_ids": torch.arange(77)[None], "text_projection.weight": torch.zeros(2)}
        ),
    )
    assert same_weights(load(broken.with_name("sd"), "cpu"), models.wrap(pipeline, "sd"))


def test_a_folder_as_it_lies_on_the_hub_loads(tmp_path):
    """The oldest models name a safety checker, whose folder may be left out, and the VAE's attention otherwise."""
    pipeline = tiny.stable_diffusion()
    pipeline.save_pretrained(tmp_path)
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index_with(tmp_path, safety_checker=checker, requires_safety_checker=True, _name_or_path="elsewhere")
    older = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for new, old in older.items():
        rewrite(tmp_path / "vae", lambda w, new=new, old=old: {key.replace(new, old): w[key] for key in w})
    loaded = load(tmp_path, "cpu")
    assert loaded.pipeline.safety_checker is None
    assert same_weights(loaded, models.wrap(pipeline, "sd"))


def test_shards_load_and_none_may_be_lost(whole, tmp_path):
    tiny.stable_diffusion_3().save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").rglob("*-of-*.safetensors"))) > 10
    assert same_weights(load(tmp_path / "sharded", "cpu"), load(whole, "cpu"))
    for part in ("transformer", "text_encoder_3"):
        lost = sorted((tmp_path / "sharded" / part).glob("*-of-*.safetensors"))[-1]
        lost.rename(lost.with_suffix(".incomplete"))
        with pytest.raises(ModelAccessError, match=lost.name):
            load(tmp_path / "sharded", "cpu")
        lost.with_suffix(".incomplete").rename(lost)


def test_a_folder_of_half_precision_loads(tmp_path):
    pipeline = tiny.stable_diffusion_3().to(torch.float16)
    pipeline.save_pretrained(tmp_path / "fp16", variant="fp16")
    half = load(tmp_path / "fp16", "cpu")
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.network.state_dict(), pipeline.to(torch.float32).transformer.state_dict())
    pipeline.save_pretrained(tmp_path / "both")
    shutil.copytree(tmp_path / "fp16" / "vae", tmp_path / "both" / "vae", dirs_exist_ok=True)
    rewrite(tmp_path / "both" / "transformer", lambda w: {name: weight + 1 for name, weight in w.items()})
    for path in (tmp_path / "fp16" / "transformer").glob("*.safetensors"):
        shutil.copy(path, tmp_path / "both" / "transformer")
    both = load(tmp_path / "both", "cpu").network.state_dict()
    assert all(torch.equal(both[name], half.network.state_dict()[name] + 1) for name in both), "the plain ones are read"
    for path in (tmp_path / "fp16" / "text_encoder").glob("*.safetensors"):
        path.rename(path.with_name("model.bf16.safetensors"))
    with pytest.raises(ModelAccessError, match="different kinds"):
        load(tmp_path / "fp16", "cpu")


def test_a_pipeline_is_taken_as_it_is():
    pipeline = tiny.stable_diffusion()
    assert load(pipeline).pipeline is pipeline
    assert load(pipeline).name == "StableDiffusionPipeline"
    assert load(pipeline).dtype == torch.float32
    assert load(pipeline, "cpu", torch.bfloat16).dtype == load(pipeline).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float16", torch.int8, 16])
def test_precisions_that_are_none_are_refused(dtype, folder):
    with pytest.raises(ValueError, match="floating"):
        load(folder, "cpu", dtype)


def test_a_single_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="is a single file; give a folder"):
        load(str(tmp_path / "model.safetensors"))


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


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A local cache that holds `someone/tiny`, and a current directory."""
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(folder, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return repository / "snapshots" / ("a" * 40)


def test_a_model_of_the_hub_is_loaded_from_the_local_cache(hub):
    check("someone/tiny")
    assert load("someone/tiny", "cpu").image_size == 32
    assert load(f"hf://someone/tiny@{'a' * 40}", "cpu").name.startswith("hf://")


def test_an_alias_of_the_hub_is_not_shadowed_by_a_folder_of_that_id(hub, monkeypatch):
    monkeypatch.setenv("ELBO_MODEL_SD15", "hf://someone/tiny")
    (Path.cwd() / "someone" / "tiny").mkdir(parents=True)
    assert load("sd15", "cpu").image_size == 32
    assert fetched_folder("someone/tiny") == hub


@pytest.mark.parametrize("lost", ["unet/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json", "vae"])
def test_a_download_that_was_interrupted_is_not_used(hub, lost):
    path = hub / lost
    path.rename(path.with_name("lost.incomplete"))
    for ask in (load, check):
        with pytest.raises(ModelAccessError, match="download it once with `hf download someone/tiny`"):
            ask("someone/tiny")
