"""Algorithm 1 against a literal transcription of the released steps with dense matrices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from elbo_core import Recipe, Scene, align, observe
from elbo_core.diffusion.attention import CrossAttention
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.align import LAYER_WEIGHTS, ConstantScore, ElboScore, calibrate, last_finest, read
from elbo_core.methods.plan import Plan

PLAN = Plan.of(elbo_timesteps=(1, 501), attention_timesteps=(20, 100))


@pytest.fixture(scope="module")
def observation(tiny):
    picture = torch.rand(3, 20, 28, generator=torch.Generator().manual_seed(3))
    return observe(tiny, Scene.of(picture, ["star", "tree", "grass"]), PLAN)


def dense(layer) -> torch.Tensor:
    """[side*side, M] attention probabilities of a layer, averaged over heads and timesteps."""
    return (layer.query @ layer.key.mT * layer.scale).softmax(dim=-1).mean(dim=(0, 1))


def with_caption(observation, caption):
    """The observation with another answer of its only caption."""
    return replace(observation, all_attention=(replace(observation.attention, captions=(caption,)),))


def min_max(x):
    return (x - x.min()) / (x.max() - x.min())


def test_reference_equals_the_released_steps(observation):
    """`run_segmentation.py:160-247` of the released code, one class at a time, with every matrix formed."""
    heatmaps = align(observation, Recipe.reference())
    (attention,) = observation.attention.captions
    summed = observation.losses.values.sum(dim=1)
    exponents = 3 ** ((summed - summed.min()) / (summed.max() - summed.min() + 1e-10))
    depth = torch.arange(11)
    weights = torch.exp(-((depth - 4) ** 2) / 18)  # five layers down (two of side 8, two of 4), one in the middle
    finest = [dense(layer) for layer in attention.self_attention.layers if layer.side == 8]
    s_1, s_2 = torch.stack(finest).mean(dim=0), torch.stack(finest[2:]).mean(dim=0)
    for n, columns in enumerate(attention.columns_of("first")):
        maps = [
            dense(layer)[:, list(columns)].mean(dim=1).view(1, 1, layer.side, layer.side)
            for layer in attention.cross.layers
        ]
        enlarged = [F.interpolate(m, size=(8, 8), mode="bilinear") for m in maps]
        mean = sum(w * m for w, m in zip(weights, enlarged, strict=True)) / weights.sum()
        refined = s_2 @ (s_1 @ (min_max(mean).flatten() ** exponents[n]))
        expected = min_max(F.interpolate(refined.view(1, 1, 8, 8), size=(20, 28), mode="bilinear"))[0, 0]
        torch.testing.assert_close(heatmaps.values[n], expected, atol=1e-4, rtol=0)


def test_calibration_is_the_root_of_the_score():
    maps = torch.rand(2, 3, 4, 4)
    scores = torch.tensor([1.0, 0.5, 0.25])
    for t in range(2):
        for n in range(3):
            expected = min_max(maps[t, n]) ** (1 / scores[n])
            torch.testing.assert_close(calibrate(maps, scores)[t, n], expected)


@pytest.mark.parametrize("recipe", [Recipe.reference(), Recipe.paper()], ids=["reference", "paper"])
def test_many_scores_are_read_as_each_alone(observation, recipe):
    scores = torch.tensor([[1.0, 0.5, 0.25], [1.0, 1.0, 1.0], [0.3, 0.4, 1.0]])
    together = read(observation, recipe, scores)
    for several, alone in zip(together, scores, strict=True):
        torch.testing.assert_close(several, read(observation, recipe, alone[None])[0], atol=1e-4, rtol=0)


def test_constant_maps_become_zeros():
    assert torch.equal(calibrate(torch.ones(1, 2, 4, 4), torch.tensor([1.0, 0.3])), torch.zeros(1, 2, 4, 4))


def test_constant_attention_gives_zeros_not_nan(observation):
    (attention,) = observation.attention.captions
    flat = [replace(layer, query=torch.zeros_like(layer.query)) for layer in attention.cross.layers]
    blind = with_caption(observation, replace(attention, cross=CrossAttention(tuple(flat))))
    assert torch.equal(align(blind).values, torch.zeros(3, 20, 28))


def test_one_class_is_left_alone(tiny):
    observed = observe(tiny, Scene.of(torch.rand(3, 16, 16), ["star"]), PLAN)
    heatmaps = align(observed, Recipe.reference())
    assert heatmaps.scores.tolist() == [1.0]
    assert torch.equal(heatmaps.values, align(observed, Recipe.reference().off()).values)


def test_off_is_score_one(observation):
    assert Recipe.reference().off().score == ConstantScore(1.0)
    assert align(observation, Recipe.reference().off()).scores.tolist() == [1, 1, 1]


def test_paper_recipe_ends_in_a_softmax(observation):
    heatmaps = align(observation, Recipe.paper())
    torch.testing.assert_close(heatmaps.values.sum(dim=0), torch.ones(20, 28))


def test_per_timestep_results_are_averaged(tiny):
    """With average_maps off, two timesteps give the mean of what each gives alone."""
    recipe = replace(Recipe.reference(), average_maps=False, readout="softmax")
    scene = Scene.of(torch.rand(3, 16, 16), ["star", "tree"])
    raw = []
    for timesteps in ((20, 100), (20,), (100,)):
        heatmaps = align(observe(tiny, scene, Plan.of((1, 501), timesteps)), recipe)
        raw.append(heatmaps.values[0].logit())  # softmax of two maps: the logit is their difference
    torch.testing.assert_close(raw[0], (raw[1] + raw[2]) / 2, atol=1e-4, rtol=1e-4)


def test_last_finest_takes_the_up_path(observation):
    assert last_finest(observation.attention.captions[0].self_attention) == [0] * 8 + [1] * 3


def test_the_late_layers_alone_can_be_read(observation):
    (caption,) = observation.attention.captions
    cross = caption.cross
    assert LAYER_WEIGHTS["late"](cross).tolist() == [0] * 5 + [1] * 6
    heatmaps = align(observation, replace(Recipe.reference().off(), layer_weights="late", refinements=()))
    alone = with_caption(observation, replace(caption, cross=CrossAttention(cross.layers[8:] + cross.layers[5:8])))
    torch.testing.assert_close(
        heatmaps.values,
        align(alone, replace(Recipe.reference().off(), layer_weights="uniform", refinements=())).values,
        atol=1e-5,
        rtol=0,
    )


def test_tiny_and_non_square_pictures(tiny):
    for size in ((1, 1), (3, 50)):
        for recipe in (Recipe.reference(), Recipe.paper()):
            values = align(observe(tiny, Scene.of(torch.rand(3, *size), ["star", "tree"]), PLAN), recipe).values
            assert values.shape == (2, *size)
            assert values.isfinite().all()


def test_mask_takes_the_highest_map_above_the_threshold():
    values = torch.tensor([[[0.2, 0.9]], [[0.4, 0.8]]])
    mask = Heatmaps(("star", "tree"), values, torch.ones(2)).mask(0.5)
    assert mask.tolist() == [[0, 1]]


@pytest.mark.parametrize(("build", "message"), [
    (lambda: ElboScore("elbow"), "'elbow'; known: released, epsilon"),
    (lambda: ElboScore(gamma=0), "gamma must lie in"),
    (lambda: ElboScore(gamma="a"), "gamma must be a number"),
    (lambda: ElboScore(gamma=True), "gamma must be a number"),
    (lambda: ConstantScore("x"), "a score must be a number"),
    (lambda: Recipe(score="elbo"), "score must be an ElboScore or a ConstantScore"),
    (lambda: Recipe(average_maps="no"), "average_maps must be True or False"),
    (lambda: Recipe(refinements="all finest"), "refinements must be a list of names"),
    (lambda: ConstantScore(2), "got 2"),
    (lambda: Recipe(layer_weights="lat"), "unknown layer_weights 'lat'; known: gaussian, late, uniform"),
    (lambda: Recipe(refinements=("finest",)), "unknown refinements 'finest'; known: all finest, last finest"),
    (lambda: Recipe(readout="max"), "unknown readout 'max'; known: min-max, softmax, plain"),
    (lambda: Recipe(text_part="t6"), "unknown text_part 't6'; known: first, all, clip, t5"),
])  # fmt: skip
def test_bad_settings(build, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build()
