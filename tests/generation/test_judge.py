"""The judge: what its verdicts say, and what the committed one can do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from elbo_core.generation.judge import JUDGE, Judge, JudgeConfig, JudgeNetwork, Verdict
from elbo_core.toy.render import render
from elbo_core.toy.textures import COLORS
from elbo_core.toy.world import THINGS, SceneSpec, Thing

CONFIG = JudgeConfig(("star", "tree"), ("red", "blue"), (8, 16, 16))
VERDICT = Verdict(
    present=torch.tensor([[0.9, 0.8], [0.9, 0.2]]),
    colors=torch.tensor([[[0.7, 0.3], [0.4, 0.6]], [[0.1, 0.9], [0.5, 0.5]]]),
    things=CONFIG.things,
    color_names=CONFIG.colors,
)
BOTH = [("red", "star"), ("blue", "tree")]


def test_all_wanted_things_must_be_there():
    assert VERDICT.there([BOTH, BOTH]).tolist() == [True, False]
    assert VERDICT.there([BOTH[:1], BOTH[:1]]).tolist() == [True, True]
    assert VERDICT.there([BOTH, BOTH], threshold=0.85).tolist() == [False, False]


def test_each_thing_must_have_its_own_color():
    assert VERDICT.right([BOTH, BOTH]).tolist() == [True, False]
    assert VERDICT.right([[("blue", "star"), ("red", "tree")], [("red", "star")]]).tolist() == [False, False]
    assert VERDICT.right([[(None, "star")], [("blue", "star")]]).tolist() == [True, True]


def test_what_the_judge_does_not_know_is_refused():
    with pytest.raises(ValueError, match="'dog'; it knows: star, tree"):
        VERDICT.there([[(None, "dog")]] * 2)
    with pytest.raises(ValueError, match="'mauve'; it knows: red, blue"):
        VERDICT.right([[("mauve", "star")]] * 2)
    with pytest.raises(ValueError, match="1 lists of wanted things for 2 pictures"):
        VERDICT.there([BOTH])


def test_a_saved_judge_says_the_same(tmp_path):
    torch.manual_seed(0)
    judge = Judge(JudgeNetwork(CONFIG), CONFIG)
    images = torch.rand(3, 3, 128, 128)
    judge.save(tmp_path / "a judge")
    loaded = Judge.load(tmp_path / "a judge")
    assert loaded.config == CONFIG
    verdict = loaded(images)
    assert verdict.present.shape == (3, 2)
    assert verdict.colors.shape == (3, 2, 2)
    torch.testing.assert_close(verdict.present, judge(images, batch=2).present, atol=2e-3, rtol=0)
    torch.testing.assert_close(verdict.colors.sum(dim=-1), torch.ones(3, 2))


def test_no_judge_no_verdict(tmp_path):
    with pytest.raises(FileNotFoundError, match="make models"):
        Judge.load(tmp_path)


def test_the_committed_judge_knows_the_whole_world():
    judge = Judge.load()
    assert judge.config.things == THINGS
    assert judge.config.colors == tuple(COLORS)
    assert sum(path.stat().st_size for path in JUDGE.glob("*.safetensors")) <= 5e6


def test_the_committed_judge_tells_who_has_which_color():
    star, tree = (Thing("star", "red", "plain", 36, 60, 26), Thing("tree", "blue", "plain", 92, 66, 28))
    swapped = dataclasses.replace(star, color="blue"), dataclasses.replace(tree, color="red")
    images = [render(SceneSpec(things, ("grass",), 0.5, 3)).image for things in ((star, tree), swapped)]
    verdict = Judge.load()(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255)
    assert verdict.there([BOTH, BOTH]).all()
    assert verdict.right([BOTH, BOTH]).tolist() == [True, False]
    assert not verdict.there([[(None, "fish")]] * 2).any()
