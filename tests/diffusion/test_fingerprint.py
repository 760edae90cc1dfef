"""Whatever changes what a model computes changes its fingerprint, and nothing else does."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from elbo_core.diffusion import fingerprint
from elbo_core.diffusion.fingerprint import model_fingerprint
from elbo_core.errors import ModelAccessError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.stable_diffusion().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "fingerprints.json"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def negate_one_weight(path):
    weights = load_file(path)
    name = sorted(weights)[0]
    weights[name].view(-1)[0] *= -1
    save_file(weights, path)


CHANGES = {
    "prediction type": lambda model: edit(model / "scheduler/scheduler_config.json", prediction_type="v_prediction"),
    "betas": lambda model: edit(model / "scheduler/scheduler_config.json", beta_end=0.013),
    "scaling factor": lambda model: edit(model / "vae/config.json", scaling_factor=0.2),
    "network": lambda model: edit(model / "unet/config.json", act_fn="relu"),
    "text encoder": lambda model: edit(model / "text_encoder/config.json", hidden_act="gelu"),
    "tokenizer": lambda model: edit(model / "tokenizer/tokenizer_config.json", model_max_length=70),
    "new token": lambda model: (model / "tokenizer/added_tokens.json").write_text('{"<cat>": 1000}'),
    "index": lambda model: edit(model / "model_index.json", requires_safety_checker=True),
    "weight of the network": lambda model: negate_one_weight(model / "unet/diffusion_pytorch_model.safetensors"),
    "weight of the VAE": lambda model: negate_one_weight(model / "vae/diffusion_pytorch_model.safetensors"),
    "weight of the text encoder": lambda model: negate_one_weight(model / "text_encoder/model.safetensors"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_all_that_matters_changes_it(change, folder, cache):
    before = model_fingerprint(folder, cache=cache)
    change(folder)
    assert model_fingerprint(folder, cache=cache) != before


def test_what_does_not_matter_leaves_it(folder, cache):
    before = model_fingerprint(folder, cache=cache)
    (folder / "README.md").write_text("a card")
    (folder / "training").mkdir()
    (folder / "training" / "loss.json").write_text("[]")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not read")
    (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"not read")
    moved = folder.rename(folder.with_name("elsewhere"))
    assert model_fingerprint(moved, cache=cache) == before


def test_precision_is_part_of_it(folder, cache):
    values = [model_fingerprint(folder, dtype, cache) for dtype in (torch.float32, torch.float16, "float32")]
    assert values[0] == values[2] != values[1]


def test_links_are_followed(folder, cache):
    before = model_fingerprint(folder, cache=cache)
    shared = (folder / "vae").rename(folder.with_name("kept-once"))
    (folder / "vae").symlink_to("../kept-once", target_is_directory=True)
    assert model_fingerprint(folder, cache=cache) == before
    CHANGES["weight of the VAE"](folder)
    assert shared.is_dir()
    assert model_fingerprint(folder, cache=cache) != before


def test_a_change_is_seen_when_size_and_date_are_put_back(folder, cache, monkeypatch):
    monkeypatch.setattr(fingerprint, "CLOCK_TICK", 0)
    path = folder / "scheduler" / "scheduler_config.json"
    before, dates = model_fingerprint(folder, cache=cache), path.stat()
    time.sleep(0.05)
    path.write_text(path.read_text().replace("0.012", "0.013"))
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    assert path.stat().st_size == dates.st_size
    assert model_fingerprint(folder, cache=cache) != before


def test_a_change_right_after_another_is_seen(folder, cache):
    path = folder / "scheduler" / "scheduler_config.json"
    values = set()
    for end in range(10, 20):
        edit(path, beta_end=end / 1000)
        values.add(model_fingerprint(folder, cache=cache))
    assert len(values) == 10


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that are read to be hashed."""
    names, original = [], fingerprint._hash
    monkeypatch.setattr(fingerprint, "_hash", lambda path: names.append(path.name) or original(path))
    monkeypatch.setattr(fingerprint, "CLOCK_TICK", -1)
    return names


def test_weights_are_read_once_even_by_several_processes(folder, cache, reads, monkeypatch):
    before = model_fingerprint(folder, cache=cache)
    assert "diffusion_pytorch_model.safetensors" in reads
    reads.clear()
    assert model_fingerprint(folder, cache=cache) == before
    monkeypatch.setattr(fingerprint, "_known", {})
    assert model_fingerprint(folder, cache=cache) == before
    assert not reads


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[1]", b'{"a": ', b'{"a": 1}'])
def test_a_damaged_cache_is_made_anew(content, folder, cache, reads, monkeypatch):
    monkeypatch.setattr(fingerprint, "_known", {})
    before = model_fingerprint(folder, cache=cache)
    cache.write_bytes(content)
    monkeypatch.setattr(fingerprint, "_known", {})
    assert model_fingerprint(folder, cache=cache) == before
    assert len(json.loads(cache.read_bytes())) >= len(reads) // 2
    assert not list(cache.parent.glob(".*"))


def test_a_cache_that_cannot_be_written_is_done_without(folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert model_fingerprint(folder, cache=tmp_path / "file" / "fingerprints.json")


@pytest.mark.parametrize("lost", ["model_index.json", "unet", "tokenizer", "vae/diffusion_pytorch_model.safetensors"])
def test_what_is_missing_is_named(lost, folder, cache):
    path = folder / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ModelAccessError, match=lost.split("/")[0]):
        model_fingerprint(folder, cache=cache)


def test_a_model_of_the_hub_is_read_from_the_local_cache(folder, cache, tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(folder, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert model_fingerprint("someone/tiny", cache=cache) == model_fingerprint(folder, cache=cache)
    with pytest.raises(ModelAccessError, match="someone/other is not in the local cache"):
        model_fingerprint("someone/other", cache=cache)
