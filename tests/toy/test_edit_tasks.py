"""Edits of the embedded world: fixed, of four kinds, and possible."""

from __future__ import annotations

from collections import Counter

from elbo_core.datasets.toy import TOY_SETS, toy_specs
from elbo_core.diffusion.families import wrap
from elbo_core.generation.prompt2prompt import Control
from elbo_core.toy.edit_tasks import KINDS, edit_sources
from elbo_core.toy.render import render
from elbo_core.training.corpus import training_scene
from tests.tiny import stable_diffusion

SOURCES = edit_sources(40)


def test_they_are_always_the_same_however_many():
    assert edit_sources(3) == SOURCES[:3]
    assert len({source.id for source in SOURCES}) == 40


def test_every_kind_is_there_as_often():
    kinds = Counter(task.kind for source in SOURCES for task in source.tasks)
    assert kinds == dict.fromkeys(KINDS, 20)


def test_no_scene_is_known_from_elsewhere():
    seeds = {source.spec.seed for source in SOURCES}
    assert len(seeds) == 40
    for name in TOY_SETS:
        assert not seeds & {spec.seed for split in ("dev", "test") for spec in toy_specs(name, split, 48)}
    assert not seeds & {training_scene(index).seed for index in range(200)}


def test_texts_say_what_the_scene_shows_and_what_is_wanted():
    for source in SOURCES:
        first, second = source.spec.things
        assert len({first.name, second.name}) == len({first.color, second.color}) == 2
        assert all(phrase in source.text for phrase in source.phrases)
        for task in source.tasks:
            assert f"{task.wanted[0]} {task.wanted[1]}" in task.target
            assert task.kept == source.looks[1 - task.subject]
            assert (task.target == source.text) == (task.kind == "emphasis")
            if task.kind != "emphasis":
                assert task.wanted != (source.spec.things[task.subject].color, source.spec.things[task.subject].name)


def test_both_things_are_seen_whole():
    for source in SOURCES[:12]:
        assert render(source.spec).visible.min() == 1


def test_every_edit_fits_its_text():
    part = wrap(stable_diffusion(), "tiny").parts["clip"]
    for source in SOURCES:
        for task in source.tasks:
            control = Control.of(task.edit(), source.text, part)
            assert bool(control.own.any()) == (task.kind == "addition")
            assert bool((control.weight != 1).any()) == (task.kind == "emphasis")
