"""Curves of made-up lines whose answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from elbo_core.datasets.manipulated import LEVELS, MANIPULATIONS
from elbo_core.experiments.profiles import Profile
from elbo_core.reports import misalignment
from elbo_core.reports.misalignment import RESPONSES, advantage, curves, finding, last_changes, loss_of_alignment

PROFILE = Profile("test", 12, 200)
BASES = 8


def lines(drop: float = 10.0, noise: float = 0.0) -> pd.DataFrame:
    """Base scenes of very different IoU, which each lose `drop` points a level under "size" and nothing else."""
    rng = np.random.default_rng(0)
    made = []
    for base in range(BASES):
        for manipulation in MANIPULATIONS:
            for level, amount in enumerate(LEVELS[manipulation]):
                best = 20 + 5 * base + 40 - (drop * level if manipulation == "size" else 0) + noise * rng.normal()
                curve = np.full(99, best - 10)
                curve[30] = best
                made.append({
                    "model": "m", "reading": "released", "row": "off", "base": base, "manipulation": manipulation,
                    "level": level, "amount": amount, "iou": curve, "inside": 0.5, "raw_inside": 0.25,
                    "area": 128 * 128 / 8,
                    "peak": 0.1, "hit": base % 2 == 0, "score": 1.0, "advantage": np.nan,
                })  # fmt: skip
    return pd.DataFrame(made)


def test_changes_are_taken_within_base_scenes():
    """Base scenes differ by up to 35 points, but all change alike: the interval of the change has no width."""
    table = curves(lines(), PROFILE).set_index(["response", "manipulation", "level"])
    last = table.loc[("iou", "size", 4)]
    assert (last.change, last.change_low, last.change_high) == pytest.approx((-40, -40, -40))
    assert last.ours == pytest.approx(37.5)
    assert last.high - last.low > 5
    assert table.loc[("iou", "crowd", 4)].change == pytest.approx(0)


def test_responses_are_read_off_as_they_are_called():
    table = curves(lines(), PROFILE)
    first = table[(table.manipulation == "size") & (table.level == 0)].set_index("response").ours
    assert first["iou"] == pytest.approx(77.5)
    assert first["iou_fixed"] == pytest.approx(67.5)
    assert first["inside"] == pytest.approx(50)
    assert first["density"] == pytest.approx(2), "a quarter of the attention on an eighth of the picture"
    assert first["hit"] == pytest.approx(50)
    assert "advantage" not in first.index, "a row without losses has none"
    assert set(first.index) == set(RESPONSES) - {"advantage"}


def test_the_ledgers_number_is_what_the_last_level_costs():
    found = loss_of_alignment(lines(), "size", PROFILE).estimate
    assert (found.value, found.low, found.high) == pytest.approx((40, 40, 40))


def test_the_finding_names_what_is_clear():
    table = curves(lines(noise=0.5), PROFILE)
    said = finding(table, "m", "released")
    assert "found worse where it is smaller" in said
    assert "more hidden" in said.split(";")[1]


def test_changes_to_the_last_level_are_ready_for_a_table():
    changes = last_changes(curves(lines(), PROFILE), "released")
    assert set(changes.metric) == {"change_gain"}
    assert len(changes) == len(MANIPULATIONS)
    assert changes.set_index("manipulation").ours["size"] == pytest.approx(-40)


def test_a_level_that_is_missing_is_refused():
    broken = lines().iloc[1:]
    with pytest.raises(ValueError, match="not known at every level"):
        curves(broken, PROFILE)


def test_advantage_is_the_relative_lead_over_the_others():
    """Losses 0.9 and 1.1 at every timestep: 0.2 below the other, over a mean of 1."""
    np.testing.assert_allclose(advantage(np.array([[0.9] * 3, [1.1] * 3])), [20, -20])
    np.testing.assert_allclose(advantage(np.array([[1.0, 2.0], [1.0, 2.0], [4.0, 8.0]])), [75, 75, -150])
    assert advantage(np.array([[1.0, 2.0]])) == [0]


def test_advantages_are_taken_within_a_picture_and_a_row():
    frame = pd.DataFrame({
        "model": "m", "index": [0, 0, 0, 0, 1, 1], "method": ["on", "on", "off", "off", "on", "on"],
        "losses": [[0.9, 0.9], [1.1, 1.1], [], [], [1.0, 1.0], [1.0, 1.0]],
        "target": [True, False, True, False, False, True],
    })  # fmt: skip
    found = misalignment.targets(frame).advantage
    assert found[0] == pytest.approx(20)
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(0)
