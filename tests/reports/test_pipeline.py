"""Figure 2 is drawn from the steps that lead to what the library finds."""

from __future__ import annotations

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from elbo_core.diffusion.families import wrap
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.align import ConstantScore, Recipe, align
from elbo_core.methods.observe import observe
from elbo_core.plots import save_figure
from elbo_core.reports.pipeline import STEP_BY_STEP, best_threshold, draw_pipeline, draw_strip, follow, truth
from elbo_core.scene import Scene
from tests.tiny import stable_diffusion


@pytest.fixture(scope="module")
def denoiser():
    return wrap(stable_diffusion(), "tiny")


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    labels = np.zeros((32, 32), np.uint8)
    labels[:16, :16], labels[20:, 20:] = 1, 4
    image = torch.from_numpy(rng.random((3, 32, 32), dtype=np.float32))
    return Scene(image, ("star", "tree"), "one", label_map=labels, labels=(1, 4))


@pytest.fixture(scope="module")
def steps(denoiser, scene):
    return follow(denoiser, scene)


def test_the_steps_end_where_the_library_ends(denoiser, scene, steps):
    expected = align(observe(denoiser, scene, STEP_BY_STEP.needs), STEP_BY_STEP)
    torch.testing.assert_close(steps.posterior, expected.values)
    torch.testing.assert_close(steps.scores, expected.scores)
    torch.testing.assert_close(steps.refined.softmax(dim=0), steps.posterior)


def test_the_maps_on_the_way_follow_from_each_other(steps):
    low, high = steps.mean.amin((1, 2), keepdim=True), steps.mean.amax((1, 2), keepdim=True)
    expected = ((steps.mean - low) / (high - low)) ** (1 / steps.scores[:, None, None])
    torch.testing.assert_close(steps.calibrated, expected)
    assert all(layer.shape[0] == 2 for layer in steps.layers.values())
    assert set(steps.noised) == {20, 200, 501, 951}


def test_the_threshold_is_the_best_of_all(scene, steps):
    heatmaps = Heatmaps(scene.classes, steps.posterior, steps.scores)

    def miou(threshold: float) -> float:
        mask, ious = heatmaps.mask(threshold).numpy(), []
        for label in (0, 1, 2):
            union = ((mask == label) | (truth(scene) == label)).sum()
            ious.append(((mask == label) & (truth(scene) == label)).sum() / union)
        return float(np.mean(ious))

    assert miou(steps.threshold) == pytest.approx(max(miou(percent / 100) for percent in range(1, 100)), abs=1e-6)
    unknown = dataclasses.replace(scene, label_map=None, labels=())
    middle = float(heatmaps.values.max() + heatmaps.values.min()) / 2
    assert best_threshold(heatmaps, unknown) == pytest.approx(middle)


@pytest.mark.parametrize("recipe", [Recipe(score=ConstantScore(0.5)), Recipe.paper()])
def test_recipes_without_these_steps_are_refused(denoiser, scene, recipe):
    with pytest.raises(ValueError, match="average_maps=True and an ElboScore"):
        follow(denoiser, scene, recipe)


def test_the_figure_is_of_the_width_of_a_page_and_readable(steps, tmp_path):
    figure = draw_pipeline(steps)
    texts = [text for axes in figure.axes for text in axes.texts] + figure.texts
    assert figure.get_figwidth() <= 7.5
    assert min(text.get_fontsize() for text in texts if text.get_text()) >= 8
    words = " ".join(text.get_text() for text in texts)
    for expected in ("noised latents", "attention", "score", "posterior", "mask", "truth", *steps.scene.classes):
        assert expected in words
    (path,) = save_figure(figure, tmp_path / "figure_2", ("svg",))
    assert "<path" in path.read_text()
    draw_strip({"one": steps.mean[0], "two": steps.mean[1]}, together=True)
    plt.close("all")
