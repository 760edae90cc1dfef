"""Caches of training are whole or absent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elbo_core.training.corpus import TrainingSet, keep_array
from elbo_core.training.train_diffusion import encode_corpus
from elbo_core.training.train_vae import build_vae, reconstruct


def test_an_array_comes_back(tmp_path):
    array = np.random.default_rng(0).random((3, 4)).astype(np.float16)
    keep_array(tmp_path / "cache.npy", array)
    assert [path.name for path in tmp_path.iterdir()] == ["cache.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "cache.npy"), array)


class KilledError(BaseException):
    """What a signal does to a process."""


def killed(*_, **__):
    raise KilledError


@pytest.mark.parametrize("moment", ["numpy.save", "os.fsync", "pathlib.Path.replace"])
def test_what_is_interrupted_leaves_what_was_there(moment, tmp_path, monkeypatch):
    path = tmp_path / "cache.npy"
    keep_array(path, np.zeros(3))
    monkeypatch.setattr(moment, killed)
    with pytest.raises(KilledError):
        keep_array(path, np.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["cache.npy"]
    np.testing.assert_array_equal(np.load(path), np.zeros(3))


def test_every_cache_of_a_training_is_whole_or_absent(tmp_path, monkeypatch):
    """Rendered scenes, their latents and what comes back from these."""
    torch.manual_seed(0)
    vae = build_vae().eval()
    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KilledError):
        TrainingSet(tmp_path, 4)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    scenes = TrainingSet(tmp_path, 4)
    for make in (encode_corpus, reconstruct):
        before = sorted(tmp_path.iterdir())
        monkeypatch.setattr("os.fsync", killed)
        with pytest.raises(KilledError):
            make(vae, scenes, tmp_path)
        assert sorted(tmp_path.iterdir()) == before
        monkeypatch.undo()
        first = np.array(make(vae, scenes, tmp_path))
        np.testing.assert_array_equal(make(vae, scenes, tmp_path), first)
    assert len(list(tmp_path.iterdir())) == 3
