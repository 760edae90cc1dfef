"""The fixed prompts that generation is measured with, and how pictures are counted."""

from __future__ import annotations

import numpy as np
import torch

from elbo_core.generation.judge import Judge, JudgeConfig, JudgeNetwork
from elbo_core.toy.textures import COLORS
from elbo_core.toy.world import THINGS
from elbo_core.training import composition
from elbo_core.training.composition import COMMON, Task


def test_pairs_are_of_two_things_and_two_colors():
    tasks = composition.pairs(48, COMMON)
    assert tasks == composition.pairs(48, COMMON)
    assert len({task.prompt for task in tasks}) > 45
    for task in tasks:
        (color, thing), (other_color, other) = task.wanted
        articles = ["an" if word == "orange" else "a" for word in (color, other_color)]
        assert task.prompt == f"{articles[0]} {color} {thing} and {articles[1]} {other_color} {other}"
        assert color != other_color
        assert thing != other
        assert {thing, other} <= set(COMMON)
        assert {color, other_color} <= set(COLORS)


def test_single_things_are_asked_for_by_name_or_with_a_look():
    assert composition.singles(["star", "owl"], 2)[1] == Task("a photo of star", [(None, "star")])
    assert len(composition.singles(THINGS, 3)) == 60
    prompts = [task.prompt for task in composition.attributed(40)]
    assert sum("striped" in prompt for prompt in prompts) > 4
    assert all(prompt.startswith("a photo of a") for prompt in prompts)


def test_pictures_are_made_with_the_settings_asked_for(toy):
    first = composition.generate(toy.pipeline, ["a red star"] * 2, num_inference_steps=2)
    again = composition.generate(toy.pipeline, ["a red star"] * 2, batch=1, num_inference_steps=2)
    assert first.dtype == np.uint8
    assert first.shape == (2, 128, 128, 3)
    assert np.abs(first.astype(int) - again).max() <= 2, "a picture depends on its place, not on its batch"
    assert (first[0] != first[1]).any()


def test_all_kinds_of_prompts_are_counted(toy):
    torch.manual_seed(0)
    config = JudgeConfig(THINGS, tuple(COLORS), (8, 8, 8))
    shares = composition.composition(toy.pipeline, Judge(JudgeNetwork(config), config), 1, num_inference_steps=1)
    assert list(shares) == ["common", "rare", "attributes", "common pairs", "pairs", "classes"]
    assert set(shares.pop("classes")) == set(THINGS)
    assert all(0 <= share["right"] <= share["there"] <= 1 for share in shares.values())
