"""Drawing as a work: two steps of a real model are enough to see that each picture is judged and kept."""

from __future__ import annotations

import pytest

from elbo_core.experiments import drawn
from elbo_core.experiments.drawn import Drawn, read_drawn
from elbo_core.experiments.work import lacking


def test_every_picture_is_judged_and_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(drawn.SAMPLER, "num_inference_steps", 2)
    work = Drawn("toy-sd15", 2, ("star", "tree"))
    frame = read_drawn(work, tmp_path)
    assert list(zip(frame["class"], frame.seed, strict=True)) == [("star", 0), ("star", 1), ("tree", 0), ("tree", 1)]
    assert frame.present.between(0, 1).all()
    assert lacking(work, work.store(tmp_path)) == []
    more = Drawn("toy-sd15", 2, ("star", "tree", "ball"))
    assert lacking(more, more.store(tmp_path)) == [2]


def test_other_numbers_of_pictures_are_other_items():
    assert set(Drawn("m", 2).contents()).isdisjoint(Drawn("m", 3).contents())
    assert len(set(Drawn("m", 2).contents())) == 20


def test_a_class_that_cannot_be_drawn_is_named(tmp_path):
    from elbo_core.errors import MeasurementError

    work = Drawn("toy-sd15", 1, ("cat",))
    with pytest.raises(MeasurementError, match="toy-sd15 could not draw cat"):
        work.measure(work.store(tmp_path), [0])
