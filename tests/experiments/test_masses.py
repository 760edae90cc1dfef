"""Masses against closed forms, and the work as the store sees it, with a real model of the embedded world."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elbo_core.datasets.manipulated import MANIPULATED, PORTRAITS, manipulated_variants, variant_dataset
from elbo_core.experiments import masses
from elbo_core.experiments.masses import Masses, definition, iou_curves, where
from elbo_core.experiments.profiles import PROFILES
from elbo_core.experiments.work import lacking
from elbo_core.heatmaps import Heatmaps
from elbo_core.metrics import count as count_pixels
from elbo_core.metrics import pairs, stack

SCENE = variant_dataset(MANIPULATED, manipulated_variants(1)).read(0)
REGION = torch.from_numpy(SCENE.label_map == SCENE.labels[0])


def test_an_even_heatmap_lies_on_a_region_by_its_area():
    found = where(torch.full(REGION.shape, 0.3), REGION)
    assert found["inside"] == pytest.approx(REGION.float().mean().item(), rel=1e-5)


def test_a_heatmap_that_is_the_region_lies_there_entirely():
    found = where(REGION.float(), REGION)
    assert found == {"inside": 1.0, "hit": True}
    assert where(1 - REGION.float(), REGION) == {"inside": 0.0, "hit": False}


def test_half_the_mass_inside():
    heatmap = REGION / REGION.sum() + ~REGION / (~REGION).sum()
    assert where(heatmap, REGION)["inside"] == pytest.approx(0.5, abs=1e-5)


def test_an_empty_heatmap_lies_nowhere():
    assert where(torch.zeros(REGION.shape), REGION) == {"inside": 0.0, "hit": False}


def test_the_iou_of_the_truth_is_whole_at_every_threshold():
    values = torch.stack([torch.from_numpy(SCENE.label_map == label).float() for label in SCENE.labels])
    curves = iou_curves(Heatmaps(SCENE.classes, values, torch.ones(len(values))), SCENE)
    np.testing.assert_allclose(curves, 100)


def test_curves_are_those_of_the_metrics():
    values = torch.rand(len(SCENE.classes), *SCENE.label_map.shape, generator=torch.Generator().manual_seed(0))
    heatmaps = Heatmaps(SCENE.classes, values, torch.ones(len(values)))
    curves = iou_curves(heatmaps, SCENE)
    counts = stack([count_pixels(heatmaps, SCENE.labels, SCENE.label_map, 20)])
    for percent in (1, 30, 99):
        wanted = pairs(counts, percent).set_index("label").iou
        np.testing.assert_allclose(curves[:, percent - 1], [wanted[label] for label in SCENE.labels])


def test_rows_of_other_definitions_are_told_apart():
    assert len(set(map(definition, masses.ROWS))) == 4


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two portraits, measured with the smallest of real models."""
    root = tmp_path_factory.mktemp("runs")
    work = Masses("toy-sd15", PORTRAITS, 1, ("star", "umbrella"))
    return work, root, masses.read_masses(work, root)


def test_every_candidate_of_every_variant_is_measured_by_every_row(measured):
    _, _, frame = measured
    assert len(frame) == 2 * 3 * len(masses.ROWS)
    targets = frame[frame.target]
    assert dict(zip(targets["index"], targets["class"], strict=True)) == {0: "star", 1: "umbrella"}
    assert (frame.inside.between(0, 1) & frame.raw_inside.between(0, 1) & frame.peak.between(0, 1)).all()
    off = frame[frame.row == "off"]
    assert (off.score == 1).all()
    assert off.losses.map(len).eq(0).all()
    assert set(frame[frame.row == "on"].losses.map(len)) == {20}


def test_calibration_leaves_the_raw_attention_alone(measured):
    frame = measured[2]
    wide = frame.pivot(index=["index", "class", "reading"], columns="row", values="raw_inside")
    assert (wide["on"] == wide["off"]).all()


def test_what_is_stored_is_not_measured_again(measured):
    work, root, frame = measured
    store = work.store(root)
    assert lacking(work, store) == []
    files = sorted(store.folder.glob("*.parquet"))
    work.measure(store, [0, 1])
    assert sorted(store.folder.glob("*.parquet")) == files
    np.testing.assert_array_equal(masses.read_masses(work, root).inside, frame.inside)


def test_more_items_leave_those_that_are_measured(measured):
    _, root, _ = measured
    more = Masses("toy-sd15", PORTRAITS, 2, ("star", "umbrella"))
    assert lacking(more, more.store(root)) == [2, 3]


def test_profiles_ask_for_as_much_as_they_say():
    toy, smoke, paper = (PROFILES[name] for name in ("toy", "smoke", "paper"))
    assert (masses.bases(toy), masses.bases(smoke), masses.bases(paper)) == (40, 1, 40)
    assert masses.layouts(toy) == 6
    assert len(masses.portrayed(smoke)) == 5
    assert not masses.has_twins(paper)
    assert {work.dataset for work in masses.works(smoke)} >= {MANIPULATED}
    assert [work.model for work in masses.works(smoke) if work.dataset == MANIPULATED] == ["toy-sd15"]


def test_unknown_sets_are_named():
    with pytest.raises(ValueError, match="unknown set 'toy-voc'"):
        Masses("toy-sd15", "toy-voc", 1).contents()
