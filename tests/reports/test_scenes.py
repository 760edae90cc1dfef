"""Scenes are chosen by what their label maps say, in a fixed order."""

from __future__ import annotations

import pytest

from elbo_core.reports.qualitative import subject
from elbo_core.reports.scenes import RULES, STUFF, choose

SETS = ("toy-voc", "toy-context", "toy-coco")


@pytest.fixture(scope="module")
def chosen():
    return choose(SETS, "dev", 30)


def test_every_rule_finds_its_scene(chosen):
    assert [one.rule for one in chosen] == list(RULES)
    assert len({(one.dataset, one.index) for one in chosen}) == len(chosen)
    assert all(2 <= len(one.scene.classes) <= 4 for one in chosen)


def test_scenes_are_what_their_rule_says(chosen):
    found = {one.rule: (one.scene, subject(one)) for one in chosen}
    masks = {rule: scene.truth == scene.classes.index(name) + 1 for rule, (scene, name) in found.items()}
    cut = masks["cut by the edge"]
    assert cut[0].any() or cut[-1].any() or cut[:, 0].any() or cut[:, -1].any()
    assert 0 < masks["small"].mean() < 0.02
    scene, name = found["stuff behind"]
    assert name in STUFF
    scene, name = found["mostly hidden"]
    assert dict(zip(scene.classes, scene.visible, strict=True))[name] < 0.5


def test_the_choice_does_not_depend_on_how_many_are_looked_at():
    few, more = choose(SETS[:1], "dev", 10, ["cut by the edge"]), choose(SETS[:1], "dev", 20, ["cut by the edge"])
    assert [(one.dataset, one.index) for one in few] == [(one.dataset, one.index) for one in more]


def test_what_no_scene_meets_is_left_out():
    assert choose(("toy-voc",), "dev", 5, ["stuff behind"]) == []


def test_unknown_rules_list_the_known():
    with pytest.raises(ValueError, match="unknown rule 'pretty'; known: cut by the edge, small"):
        choose(SETS, "dev", 2, ["pretty"])
