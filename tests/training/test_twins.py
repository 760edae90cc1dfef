"""Twins see the same scenes in all but the classes, and those as often as they should."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from elbo_core.paths import MODELS
from elbo_core.toy.describe import VARIED
from elbo_core.toy.world import CHARACTERISTIC_LOOK, THINGS, SceneStyle, zipf
from elbo_core.training import twins

SCENES = 1500
SEEN = {name: twins.twin_specs(f"toy-twin-{name}", SCENES) for name in ("zipf", "uniform", "reversed", "incomplete")}
SINGLE = SceneStyle((1, 1))


def everything_else(spec):
    """A scene without what its classes decide: their names, and the looks of things."""
    return replace(spec, things=tuple(replace(thing, name="", color="", pattern="") for thing in spec.things))


def test_scenes_differ_in_their_classes_alone():
    rest = {name: [everything_else(spec) for spec in specs] for name, specs in SEEN.items()}
    assert rest["zipf"] == rest["uniform"] == rest["reversed"]


def test_the_same_things_look_as_their_class_usually_does():
    """Or both by chance: a random look is the same random look."""
    for ours, theirs in zip(SEEN["zipf"], SEEN["uniform"], strict=True):
        for a, b in zip(ours.things, theirs.things, strict=True):
            same = (a.color, a.pattern) == (b.color, b.pattern)
            usual = [(thing.color, thing.pattern) == CHARACTERISTIC_LOOK[thing.name] for thing in (a, b)]
            assert same or all(usual)


def test_the_reversed_twin_sees_the_same_scenes_under_exchanged_names():
    for ours, theirs in zip(SEEN["zipf"], SEEN["reversed"], strict=True):
        ranks = [THINGS.index(a.name) + THINGS.index(b.name) for a, b in zip(ours.things, theirs.things, strict=True)]
        assert set(ranks) == {len(THINGS) - 1}


def test_the_incomplete_twin_sees_what_the_zipf_twin_sees_and_is_told_less():
    assert SEEN["incomplete"] == SEEN["zipf"]
    zipf, incomplete = (twins.twin_course(f"toy-twin-{name}").captions for name in ("zipf", "incomplete"))
    assert zipf == VARIED
    assert incomplete == replace(VARIED, incomplete=0.6)


def test_no_scene_shows_a_class_as_two_different_things():
    for spec in SEEN["uniform"]:
        looks = {
            name: {(t.color, t.pattern) for t in spec.things if t.name == name}
            for t in spec.things
            for name in [t.name]
        }
        assert all(len(of_class) == 1 for of_class in looks.values())


@pytest.mark.parametrize("name", ["zipf", "uniform", "reversed"])
def test_first_classes_are_as_frequent_as_is_said(name):
    """Scenes of one class; each share within four standard errors."""
    wanted = twins.FREQUENCIES[name]
    drawn = [twins.twin_scene(index, wanted, SINGLE).things[0].name for index in range(4000)]
    shares = np.array([Counter(drawn)[thing] for thing in THINGS]) / len(drawn)
    assert (np.abs(shares - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / len(drawn))).all()


def test_classes_are_drawn_as_numpy_draws_them():
    """Without replacement, in proportion to what is left: pairs are as frequent as the closed form says."""
    p = zipf()
    uniforms = np.random.default_rng(0).random((4000, 2))
    pairs = Counter(tuple(twins.draw_classes(u, p)) for u in uniforms)
    for first, second in (("star", "tree"), ("tree", "star"), ("star", "ball")):
        a, b = p[THINGS.index(first)], p[THINGS.index(second)]
        wanted = a * b / (1 - a)
        assert pairs[first, second] / 4000 == pytest.approx(wanted, abs=4 * np.sqrt(wanted / 4000))
    assert all(a != b for a, b in pairs)


def test_extreme_numbers_give_the_commonest_and_the_rarest():
    lowest, highest = np.zeros(2), np.full(2, np.nextafter(1, 0))
    assert twins.draw_classes(lowest, zipf()) == list(THINGS[:2])
    assert twins.draw_classes(highest, zipf()) == [THINGS[-1], THINGS[-2]]
    assert twins.draw_classes(lowest, zipf()[::-1]) == [THINGS[-1], THINGS[-2]]


def test_frequencies_sum_to_one_and_are_mirrored():
    zipf, reversed_ = (twins.frequencies(f"toy-twin-{name}") for name in ("zipf", "reversed"))
    assert sum(zipf.values()) == pytest.approx(1)
    assert list(zipf.values()) == list(reversed_.values())[::-1]


def test_twins_of_a_seed_start_alike():
    first, other, again = (
        twins.start_twin(MODELS, name).unet.state_dict()
        for name in ("toy-twin-zipf", "toy-twin-reversed", "toy-twin-zipf-again")
    )
    assert all(torch.equal(first[name], other[name]) for name in first)
    assert not torch.equal(first["conv_in.weight"], again["conv_in.weight"])


def test_starting_a_twin_draws_nothing_from_torch():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    twins.start_twin(MODELS, "toy-twin-zipf")
    assert torch.equal(torch.rand(3), wanted)


def test_unknown_twins_are_named():
    with pytest.raises(ValueError, match="unknown twin 'toy-sd15'; known: toy-twin-zipf"):
        twins.find_twin("toy-sd15")
