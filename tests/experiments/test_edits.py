"""Edits as a work: records that say what is in the pictures, kept item by item."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from elbo_core.diffusion.sampling import ReleasedGrid
from elbo_core.experiments.edits import (
    MAIN,
    PLAIN,
    VARIANTS,
    VISIBLE,
    WAYS,
    Edits,
    Inversions,
    carry_out,
    judge,
    masks_of,
    probability,
    read_edits,
    read_inversions,
    rendered,
    works,
)
from elbo_core.experiments.profiles import PROFILES
from elbo_core.experiments.work import all_works, loaded
from elbo_core.toy.edit_tasks import edit_sources
from elbo_core.toy.render import render

PROFILE = replace(PROFILES["smoke"], edits=1, inverted=1, edit_steps=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def frame(root):
    return read_edits(PROFILE, root)


def test_a_profile_lists_both_sets_and_the_inversions():
    assert [(work.dataset, work.batch) for work in works(PROFILE)] == [
        ("edits-generated", "edits"),
        ("edits-rendered", "edits"),
        ("edits-rendered", "inversions"),
    ]
    assert works(replace(PROFILE, edits=0)) == []
    assert PROFILES["toy"].edits * 2 * 2 >= 60
    assert set(all_works(PROFILE, ["edits"])) == set(works(PROFILE))


def test_definitions_say_all_that_matters_and_no_name():
    assert len({variant.definition for variant in VARIANTS}) == len(VARIANTS)
    assert replace(PLAIN, name="else").definition == PLAIN.definition
    assert replace(PLAIN, self_steps=0.5).definition != PLAIN.definition
    assert MAIN.amplifies_rounding and not PLAIN.amplifies_rounding  # noqa: PT018


def test_every_edit_is_there_by_every_variant(frame):
    assert len(frame) == 2 * 2 * len(VARIANTS)
    assert frame.probability.between(0, 1).all()
    assert (frame.before.groupby([frame.dataset, frame.kind]).nunique() == 1).all(), "variants share the source"


def test_a_record_is_what_a_naive_reading_of_the_pictures_says(frame):
    (source,) = edit_sources(1)
    done = carry_out(loaded(PROFILE.edits_model), "edits-rendered", source, [(source.tasks[0], PLAIN)], ReleasedGrid(2))
    line = frame[(frame.dataset == "edits-rendered") & (frame.kind == "swap") & (frame.variant == PLAIN.name)].iloc[0]
    outside = torch.from_numpy(render(source.spec).instances != 1)
    errors = (done.targets[0] - done.source)[:, outside]
    assert line.psnr == pytest.approx(float(-10 * errors.square().mean().log10()), abs=0.05)
    assert line.changed == pytest.approx(float((errors.abs().amax(0) > VISIBLE).float().mean()), abs=0.01)
    color, name = source.tasks[0].wanted
    verdict = judge()(done.targets)
    thing = verdict.things.index(name)
    expected = verdict.present[0, thing] * verdict.colors[0, thing, verdict.color_names.index(color)]
    assert probability(verdict, 0, (color, name)) == pytest.approx(float(expected))
    assert line.probability == pytest.approx(float(expected), abs=0.02)
    assert line.masked == pytest.approx(float((~outside).float().mean()), abs=1e-4)


def test_what_is_measured_is_not_measured_again(frame, root, monkeypatch):
    monkeypatch.setattr("elbo_core.experiments.edits.carry_out", None)
    assert read_edits(PROFILE, root).equals(frame)


def test_items_do_not_depend_on_how_many_there_are():
    few, many = (Edits("toy-sd15", "edits-rendered", count).contents() for count in (2, 4))
    assert many[:2] == few
    assert len(set(many)) == 4


def test_the_judge_finds_things_in_a_picture_that_is_not_rendered():
    (source,) = edit_sources(1)
    exact, judged = (masks_of(name, source, rendered(source)) for name in ("edits-rendered", "edits-generated"))
    for own, seen in zip(exact, judged, strict=True):
        assert own.shape == seen.shape == (128, 128)
        assert own.dtype == seen.dtype == torch.bool


def test_inversions_are_measured_in_every_way(root):
    found = read_inversions(PROFILE, root).set_index("way")
    assert set(found.index) == set(WAYS)
    assert found.psnr["pinned"] == found.psnr.max()
    assert found.psnr["null text"] > found.psnr["inversion, guidance"]
    assert Inversions("toy-sd15", 1).store(root).run != Edits("toy-sd15", "edits-rendered", 1).store(root).run
