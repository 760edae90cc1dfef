"""The explorer's readings against the package's own, and its frame."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from elbo_core.datasets import open_dataset
from elbo_core.explore.panel import explorer, pixel_at, with_classes
from elbo_core.explore.picture import GAP, PANEL, TITLE, WIDTH, alt_text, frame
from elbo_core.explore.view import Settings, attended, look, look_at
from elbo_core.methods.align import Recipe, align
from elbo_core.methods.observe import observe
from elbo_core.scene import IGNORED


@pytest.fixture(scope="module")
def scene():
    return open_dataset("toy-coco", "dev", 3).read(2)


@pytest.fixture(scope="module")
def subject(toy, scene):
    return look_at(toy, scene)


def test_at_rest_it_shows_what_segment_gives(toy, scene, subject):
    expected = align(observe(toy, scene), Recipe.reference())
    seen = look(subject, Settings(reading="released"))
    assert torch.allclose(seen.after.values, expected.values, atol=1e-4)
    assert torch.allclose(seen.after.scores, expected.scores, atol=1e-4)


def test_gamma_one_is_off(subject):
    seen = look(subject, Settings(gamma=1.0))
    assert torch.equal(seen.before.values, seen.after.values)
    assert seen.ious[0] == seen.ious[1]


def test_every_setting_changes_the_view(subject):
    settings = Settings()
    first = look(subject, settings).after.values
    for change in ({"timestep": 600}, {"layer": 1}, {"reading": "released"}, {"gamma": 0.2}):
        assert not torch.equal(look(subject, replace(settings, **change)).after.values, first), change


def test_what_a_pixel_attends_to_is_a_row_of_the_dense_matrix(subject):
    caption = subject.observation.attention.captions[0]
    layers = [layer for layer in caption.self_attention.layers if layer.side == caption.self_attention.side]
    side = layers[0].side
    dense = torch.stack([layer(torch.eye(side * side)).mean(dim=0) for layer in layers]).mean(dim=0)
    row = dense[3 * side + 5]
    pixel = (5 * 128 // side + 1, 3 * 128 // side + 1)
    assert torch.allclose(attended(subject.observation, pixel).flatten(), row / row.max(), atol=1e-4)


@pytest.mark.parametrize(("change", "message"), [
    ({"layer": 99}, "layer must be one of 0 to"),
    ({"reading": "upside down"}, "unknown reading"),
    ({"threshold": 2.0}, "threshold"),
])  # fmt: skip
def test_wrong_settings_are_named(subject, change, message):
    with pytest.raises(ValueError, match=message):
        look(subject, replace(Settings(), **change))


def test_a_frame_is_quick_and_told_in_words(subject):
    settings = Settings(pixel=(40, 60))
    frame(subject, look(subject, settings), settings)  # fonts and colours are read once
    started = time.perf_counter()
    seen = look(subject, settings)
    picture = Image.open(io.BytesIO(frame(subject, seen, settings)))
    assert time.perf_counter() - started < 2, "0.05 s on a machine of its own"
    assert picture.width == WIDTH
    words = alt_text(subject, seen, settings)
    assert all(name in words for name in subject.scene.classes)
    assert "IoU" in words


def test_a_click_in_any_panel_is_its_pixel(subject):
    assert pixel_at(f"0, {TITLE}", subject) == (0, 0)
    assert pixel_at(f"{PANEL + GAP + PANEL - 1}, {TITLE + PANEL - 1}", subject) == (127, 127)
    assert pixel_at(f"{PANEL + 1}, {TITLE + 5}", subject) is None, "between two panels"
    assert pixel_at("5, 3", subject) is None, "on a title"


def test_other_classes_keep_the_truth_that_there_is(scene):
    changed = with_classes(scene, (scene.classes[0], "umbrella"))
    assert (changed.truth == 1).sum() == (scene.truth == 1).sum()
    assert not (changed.truth == 2).any()


def test_truth_is_in_the_order_of_the_classes(scene):
    for k, label in enumerate(scene.labels, start=1):
        assert np.array_equal(scene.truth == k, scene.label_map == label)
    ignored = replace(scene, label_map=np.full_like(scene.label_map, IGNORED))
    assert (ignored.truth == IGNORED).all()


def test_the_panel_answers_to_its_controls(scene):
    box = explorer(["toy-sd15"], {"one": scene}, list(scene.classes))
    assert "elbo-explorer" in box._dom_classes
    controls, status, picture, clicked = box.children
    gamma = next(
        control for column in controls.children for control in column.children if control.description == "1 / γ"
    )
    before = picture.value
    gamma.value = 6.0
    assert picture.value != before
    before = picture.value
    clicked.value = f"50, {TITLE + 50}"
    assert picture.value != before
    assert "asked about" in status.value


def test_nothing_to_explore_is_refused():
    with pytest.raises(ValueError, match="at least one model"):
        explorer([], {}, [])
