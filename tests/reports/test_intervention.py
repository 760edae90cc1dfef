"""Difference in differences on panels whose effect is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from elbo_core.experiments.profiles import Profile
from elbo_core.reports import intervention
from elbo_core.reports.intervention import association, causal_effect, compared, cube, effect, explained, rivals, slope
from elbo_core.toy.world import THINGS
from elbo_core.training.twins import TWINS, frequencies

PROFILE = Profile("test", 12, 300)
RNG = np.random.default_rng(0)
SHAPE = dict(zip(THINGS, RNG.normal(0, 10, len(THINGS)), strict=True))
ONE = np.ones((1, len(THINGS)))


def panel(causal: float = 5.0, noise: float = 0.0, twins=tuple(TWINS), shape=SHAPE) -> pd.DataFrame:
    """Classes of different shapes, twins of different quality, and a response that gains `causal` for ten times as many
    examples."""
    rng = np.random.default_rng(1)
    made = []
    for name in twins:
        twin, often = TWINS[name], frequencies(name)
        quality = rng.normal(0, 20)
        for thing in THINGS:
            log_frequency = np.log10(often[thing])
            made.append({
                "reading": "released", "model": name, "seed": twin.seed, "twin": twin.frequencies, "class": thing,
                "incomplete": "incomplete" in name, "log_frequency": log_frequency,
                "area": 1000.0 + 30 * THINGS.index(thing),
                "iou": 50 + quality + shape[thing] + causal * log_frequency + noise * rng.normal(),
                "gain": -2.0 * log_frequency,
            })  # fmt: skip
    return pd.DataFrame(made)


def test_the_effect_is_found_whatever_the_shapes_and_the_twins_do():
    found = causal_effect(compared(panel()), "iou", PROFILE).estimate
    assert (found.value, found.low, found.high) == pytest.approx((5, 5, 5))


def test_shape_that_goes_along_with_frequency_misleads_the_observer_and_not_the_intervention():
    """Rare classes are the harder shapes, and frequency does nothing."""
    often = frequencies("toy-twin-zipf")
    harder = {thing: 8 * np.log10(often[thing]) for thing in THINGS}
    lines = compared(panel(causal=0.0, shape=harder))
    assert causal_effect(lines, "iou", PROFILE).value == pytest.approx(0, abs=1e-9)
    assert association(lines, "iou", "zipf", PROFILE).value == pytest.approx(8)
    assert association(lines, "iou", "uniform", PROFILE).value == pytest.approx(8)


def test_it_is_least_squares_with_a_constant_for_every_class_and_every_twin():
    """Against NumPy's solver, two seeds, noise and uneven weights of classes."""
    lines = compared(panel(noise=4.0))
    x, y = cube(lines, "log_frequency"), cube(lines, "iou")
    weights = np.random.default_rng(2).integers(0, 3, (1, len(THINGS))).astype(float)
    seeds, twins, classes = x.shape
    rows, root = [], []
    for s in range(seeds):
        for f in range(twins):
            for c in range(classes):
                of_class, of_twin = np.zeros(seeds * classes), np.zeros(seeds * twins)
                of_class[s * classes + c], of_twin[s * twins + f] = 1, 1
                rows.append([x[s, f, c], *of_class, *of_twin])
                root.append(np.sqrt(weights[0, c]))
    scale = np.array(root)
    solved = np.linalg.lstsq(np.array(rows) * scale[:, None], y.ravel() * scale, rcond=None)[0][0]
    assert effect(x, y, weights)[0] == pytest.approx(solved)


def test_with_two_twins_it_is_the_slope_of_the_changes():
    lines = compared(panel(noise=3.0, twins=("toy-twin-zipf", "toy-twin-reversed")))
    x, y = cube(lines, "log_frequency"), cube(lines, "iou")
    wanted = np.polyfit(x[0, 1] - x[0, 0], y[0, 1] - y[0, 0], 1)[0]
    assert effect(x, y, ONE)[0] == pytest.approx(wanted)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Forty panels of noise: an interval of 95 % misses the truth in few of them."""
    misses = 0
    for seed in range(40):
        lines = compared(panel(twins=("toy-twin-zipf", "toy-twin-uniform", "toy-twin-reversed")))
        lines = lines.assign(iou=lines.iou + np.random.default_rng(seed).normal(0, 5, len(lines)))
        found = causal_effect(lines, "iou", PROFILE).estimate
        misses += not found.low <= 5 <= found.high
    assert misses <= 7


def test_more_noise_makes_a_wider_interval():
    narrow, wide = (causal_effect(compared(panel(noise=noise)), "iou", PROFILE).estimate for noise in (1.0, 10.0))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_twins_with_other_captions_and_seeds_that_lack_a_twin_are_left_out():
    lines = panel(twins=[name for name in TWINS if name != "toy-twin-uniform-again"])
    kept = compared(lines)
    assert set(kept.seed) == {4307}
    assert not kept.incomplete.any()
    assert compared(panel(twins=["toy-twin-zipf", "toy-twin-incomplete"])).empty


def test_what_is_not_whole_is_refused():
    lines = compared(panel())
    with pytest.raises(ValueError, match="not known for every seed, twin and class"):
        cube(lines.iloc[1:], "iou")
    with pytest.raises(ValueError, match="no twin is trained yet"):
        intervention.measure_twins([], PROFILE)


def test_frequency_that_does_not_move_tells_nothing():
    still = np.zeros((1, 2, len(THINGS)))
    assert np.isnan(effect(still, RNG.normal(size=still.shape), ONE)[0])


def test_slopes_and_shares_are_those_of_numpy():
    x, y = RNG.normal(size=20), RNG.normal(size=20)
    assert slope(x, y, ONE)[0] == pytest.approx(np.polyfit(x, y, 1)[0])
    assert explained(x, y, ONE)[0] == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)


def test_an_adjusted_share_is_zero_in_the_mean_where_there_is_nothing():
    rng = np.random.default_rng(4)
    shares = [explained(rng.normal(size=20), rng.normal(size=20), ONE) for _ in range(2000)]
    assert np.mean([intervention.adjusted(share, ONE) for share in shares]) == pytest.approx(0, abs=0.01)
    assert intervention.adjusted(np.array([1.0]), ONE) == [1.0]


def test_rivals_share_the_spread_as_it_was_made():
    """Without an effect, difficulty explains all; without shapes, frequency does."""
    no_effect = rivals(compared(panel(causal=0.0)), "iou", PROFILE)
    assert no_effect["difficulty of the shape"].value == pytest.approx(100)
    assert no_effect["frequency"].value == pytest.approx(0, abs=1e-6)
    no_shape = rivals(compared(panel(shape=dict.fromkeys(THINGS, 0.0), noise=1e-3)), "iou", PROFILE)
    assert no_shape["frequency"].value == pytest.approx(100, abs=0.1)
    assert intervention.weigh(no_effect).more == ("difficulty of the shape",)
    assert "frequency explains more" in intervention.weigh(no_shape).words


def test_captions_change_what_they_change():
    lines = panel()
    lines.loc[lines.incomplete, "iou"] = (
        lines.loc[lines.model.str.fullmatch("toy-twin-zipf(-again)?"), "iou"].values - 3
    )
    found = intervention.caption_effect(lines, "iou", PROFILE).estimate
    assert (found.value, found.low, found.high) == pytest.approx((-3, -3, -3))
    assert np.isnan(intervention.caption_effect(lines[~lines.incomplete], "iou", PROFILE).value)


def test_seeds_are_compared_within_a_kind_of_twin():
    lines = panel(twins=("toy-twin-zipf", "toy-twin-uniform", "toy-twin-incomplete", "toy-twin-zipf-again"))
    lines.loc[lines.model == "toy-twin-zipf-again", "iou"] = lines.loc[lines.model == "toy-twin-zipf", "iou"].values + 4
    assert intervention.seed_spread(lines, "iou") == pytest.approx(4)
    assert np.isnan(intervention.seed_spread(lines[lines.model != "toy-twin-zipf-again"], "iou"))


def test_effects_list_every_response_once_for_a_reading():
    table = intervention.effects(compared(panel()), PROFILE)
    assert set(table.response) == {"iou", "gain"}
    assert set(table.kind) == {"effect", "seen with Zipf", "seen with uniform"}
    assert not table.duplicated(["reading", "response", "kind"]).any()
    gain = table[(table.response == "gain") & (table.kind == "effect")].ours.item()
    assert gain == pytest.approx(-2)
