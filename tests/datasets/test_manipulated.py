"""One thing is turned at a time, as far as is said, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from elbo_core.datasets import manipulated
from elbo_core.datasets.manipulated import LEVELS, MANIPULATED, MANIPULATIONS, manipulated_variants, portrait_variants
from elbo_core.toy.render import render
from elbo_core.toy.world import CHARACTERISTIC_LOOK, THINGS, zipf

BASES = 6
VARIANTS = manipulated_variants(BASES)


def of(manipulation: str, base: int):
    return [v for v in VARIANTS if v.manipulation == manipulation and v.base == base]


def test_every_base_scene_has_all_levels():
    assert len(VARIANTS) == BASES * sum(map(len, LEVELS.values()))
    assert [v.level for v in of("size", 2)] == list(range(5))


@pytest.mark.parametrize("base", range(BASES))
def test_the_other_numbers_of_a_scene_stay(base):
    """The ground always; and of the things all but what is turned."""
    origin = of("crowd", base)[0].spec
    for variant in (v for v in VARIANTS if v.base == base):
        spec = variant.spec
        assert (spec.stuff, spec.horizon, spec.seed) == (origin.stuff, origin.horizon, origin.seed)
        target, other, *copies = spec.things
        allowed = {
            "size": replace(target, radius=origin.things[0].radius) == origin.things[0] and other == origin.things[1],
            "occlusion": target == origin.things[0] and replace(other, x=0, y=0) == replace(origin.things[1], x=0, y=0),
            "crowd": (target, other) == origin.things[:2] and len(copies) == variant.level,
            "rarity": replace(target, name="", color="", pattern="")
            == replace(origin.things[0], name="", color="", pattern="")
            and other == origin.things[1],
        }
        assert allowed[variant.manipulation], variant


@pytest.mark.parametrize("base", range(BASES))
def test_as_much_is_hidden_as_is_said(base):
    shown = [render(v.spec).visible[0] for v in of("occlusion", base)]
    np.testing.assert_allclose(1 - np.array(shown), LEVELS["occlusion"], atol=0.06)
    assert shown[0] == 1


def test_nothing_is_hidden_elsewhere_and_sizes_shrink():
    areas = []
    for variant in (v for v in VARIANTS if v.manipulation != "occlusion"):
        rendering = render(variant.spec)
        assert rendering.visible[0] == 1, variant
        areas.append((variant.manipulation, variant.base, (rendering.instances == 1).sum()))
    for base in range(BASES):
        sizes = [area for manipulation, own, area in areas if (manipulation, own) == ("size", base)]
        assert sizes == sorted(sizes, reverse=True)


def test_copies_are_the_other_thing_again():
    for variant in of("crowd", 3):
        assert {thing.name for thing in variant.spec.things[1:]} == {variant.spec.things[1].name}
        assert all(a is b or np.hypot(a.x - b.x, a.y - b.y) > 0.9 * (a.radius + b.radius)
                   for a in variant.spec.things for b in variant.spec.things)  # fmt: skip


def test_targets_become_rarer_in_the_look_of_their_class():
    for base in range(BASES):
        amounts = [v.amount for v in of("rarity", base)]
        assert amounts == sorted(amounts, reverse=True)
        for variant in of("rarity", base):
            target, other = variant.spec.things
            assert (target.color, target.pattern) == CHARACTERISTIC_LOOK[target.name]
            assert variant.amount == pytest.approx(zipf()[THINGS.index(target.name)])
            assert target.name != other.name


def test_levels_of_a_base_scene_share_its_noise():
    dataset = manipulated.variant_dataset(MANIPULATED, VARIANTS)
    per_base = sum(map(len, LEVELS.values()))
    assert len({dataset.read(index).id for index in range(0, per_base, 3)}) == 1
    assert dataset.read(0).id != dataset.read(per_base).id


def test_a_scene_asks_for_its_target_and_the_other_thing():
    dataset = manipulated.variant_dataset(MANIPULATED, VARIANTS)
    for index in (0, 9, 14):
        scene = dataset.read(index)
        assert set(scene.classes) == {thing.name for thing in VARIANTS[index].spec.things}


def test_contents_tell_variants_apart_and_more_bases_leave_them():
    few, more = (manipulated.variant_dataset(MANIPULATED, manipulated_variants(n)) for n in (2, 3))
    assert len(set(more.contents)) == len(more)
    assert more.contents[: len(few)] == few.contents


def test_portraits_differ_in_the_class_alone():
    variants = portrait_variants(2)
    assert [v.target for v in variants] == [*THINGS, *THINGS]
    first = [v.spec.things[0] for v in variants[: len(THINGS)]]
    assert len({replace(thing, name="", color="", pattern="") for thing in first}) == 1
    assert all(len({thing.name for thing in v.spec.things}) == 3 for v in variants)


def test_targets_of_twenty_base_scenes_are_all_classes():
    assert {manipulated.base_scene("test", k).target.name for k in range(20)} == set(THINGS)
    assert manipulated.base_scene("test", 0) != manipulated.base_scene("dev", 0)


def test_unknown_splits_and_classes_are_named():
    with pytest.raises(ValueError, match="unknown split 'train'; known: dev, test"):
        manipulated.base_scene("train", 0)
    with pytest.raises(ValueError, match="unknown classes \\['cat'\\]"):
        portrait_variants(1, ["cat"])


def test_each_manipulation_has_levels():
    assert set(MANIPULATIONS) == set(LEVELS)
