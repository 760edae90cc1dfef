"""What the judge is taught, and that the committed one learnt it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from elbo_core.generation.judge import JUDGE, Judge
from elbo_core.paths import MODELS
from elbo_core.toy.render import render
from elbo_core.toy.world import THINGS, SceneSpec, Thing
from elbo_core.training import train_judge
from elbo_core.training.fit import TrainingPlan
from elbo_core.training.train_judge import IGNORED, LARGER, Lessons


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Lessons:
    return train_judge.lessons(tmp_path_factory.mktemp("cache"), 24)


def test_lessons_are_drawn_once_and_always_the_same(drawn, tmp_path):
    again = train_judge.lessons(tmp_path, 24)
    stored = train_judge.lessons(tmp_path, 24)
    for name in ("images", "cells", "present", "colors"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(again, name), getattr(stored, name))


def test_what_is_seen_is_there_and_has_a_color(drawn):
    assert drawn.images.shape == (24, 128, 128, 3)
    assert drawn.cells.shape == (24, 16, 16)
    assert set(np.unique(drawn.present)) <= {0, 1, IGNORED}
    assert (drawn.colors[drawn.present == 1] < 10).all()
    assert (drawn.colors[drawn.present != 1] == IGNORED).all()


def test_what_is_half_hidden_is_not_asked_for():
    things = tuple(Thing(name, "red", "plain", x, 64, 30) for name, x in (("ball", 50), ("box", 62), ("star", 110)))
    present, colors = train_judge._truth(render(SceneSpec(things, ("sand",), 0.5, 0)))
    assert present[THINGS.index("box")] == 1
    assert colors[THINGS.index("star")] == 0
    assert present[THINGS.index("ball")] != 1
    assert colors[THINGS.index("ball")] == IGNORED


def test_an_impostor_is_painted_but_no_thing():
    blob = Thing("impostor", "red", "plain", 64, 64, 30)
    spec = SceneSpec((blob,), ("sand",), 0.5, 0)
    rendering = render(spec, {"impostor": lambda: train_judge.impostor(5)})
    present, _ = train_judge._truth(rendering)
    assert (rendering.instances == 1).sum() > 500
    assert not present.any()
    assert not train_judge._cells(rendering).any()


def test_the_colors_of_cells_are_those_of_their_things():
    cells = torch.tensor([[[0, 1], [2, IGNORED]]])
    colors = torch.full((1, len(THINGS)), IGNORED)
    colors[0, :2] = torch.tensor([4, 7])
    assert train_judge._cell_colors(cells, colors).tolist() == [[[IGNORED, 4], [7, IGNORED]]]


def test_it_learns_from_both_kinds_of_pictures(drawn, tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(MODELS / "toy-sd15" / "vae")
    decoded = train_judge.decoded_lessons(vae, drawn, tmp_path, count=8)
    assert len(decoded) == 8
    assert 0 < np.abs(decoded.images.astype(int) - drawn.images[:8]).mean() < 20
    judge = train_judge.build_judge()
    plan = TrainingPlan(steps=6, learning_rate=1e-3, warmup=1, ema_decay=0.0)
    history = train_judge.train_judge(judge, drawn, decoded, tmp_path, "first", plan)
    assert history.losses[-1] < history.losses[0]


def test_the_committed_judge_is_as_good_as_its_card_says():
    """On things of the size that prompts of one or two things ask for."""
    style = replace(train_judge.JUDGE_STYLE, radius=train_judge.HELD_OUT_RADII[LARGER])
    truth = train_judge.gather([train_judge.lesson(index, train_judge.HELD_OUT_SEED, style) for index in range(200)])
    measured = train_judge.accuracy(Judge.load(), truth)
    told = json.loads((JUDGE / "metrics.json").read_text())["accuracy"][LARGER]
    for name in ("found", "true", "color"):
        assert told[name] >= 0.95
        assert measured[name] == pytest.approx(told[name], abs=0.03)
