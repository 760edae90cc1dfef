"""Stored losses under other noise are what `observe` gives."""

from __future__ import annotations

import torch

from elbo_core import observe
from elbo_core.experiments import redraws, work
from elbo_core.experiments.profiles import PROFILES
from elbo_core.experiments.redraws import BETWEEN, Redraws, read_redraws
from elbo_core.methods.plan import ELBO_TIMESTEPS, Plan


def test_redraws_are_the_losses_of_observe(tmp_path, tiny, monkeypatch):
    tiny.pipeline.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(redraws, "loaded", lambda name: tiny)
    own = Redraws(str(tmp_path / "model"), "toy-coco", 2, seeds=2)
    store = own.store(tmp_path / "runs")
    own.measure(store, [0, 1])
    assert work.lacking(own, store) == []
    scene = own.opened.read(1)
    lines = [line for line in store.read(own.methods(), own.contents()).to_pylist() if line["index"] == 1]
    for plan in redraws.plans(2):
        expected = observe(tiny, scene, plan).losses.values
        found = sorted((line for line in lines if line["method"] == redraws.definition(plan)), key=lambda r: r["place"])
        assert [line["class"] for line in found] == list(scene.classes)
        torch.testing.assert_close(torch.tensor([line["losses"] for line in found]), expected, rtol=1e-4, atol=1e-5)


def test_pictures_are_read_with_all_their_draws(tmp_path, tiny, monkeypatch):
    tiny.pipeline.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(redraws, "loaded", lambda name: tiny)
    pictures = read_redraws(str(tmp_path / "model"), PROFILES["smoke"], 2, tmp_path / "runs")
    assert pictures
    for picture in pictures:
        count = len(picture.classes)
        assert count > 1
        assert picture.usual.shape == (count, len(ELBO_TIMESTEPS))
        assert picture.redrawn.shape == (2, count, len(ELBO_TIMESTEPS))
        assert picture.between.shape == (count, len(BETWEEN))
        assert not torch.equal(picture.redrawn[0], picture.redrawn[1])


def test_no_two_plans_share_a_name():
    plans = redraws.plans(3)
    assert len({redraws.definition(plan) for plan in plans}) == len(plans) == 5
    assert redraws.definition(Plan.of(ELBO_TIMESTEPS, ())) == redraws.definition(plans[0])
