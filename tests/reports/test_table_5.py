"""From scores of pictures to the numbers of Table V, on scores whose answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from elbo_core.experiments.generation import BASELINE, OURS, STRENGTHS, strength_name
from elbo_core.experiments.profiles import Profile
from elbo_core.reports import generation as report

PROFILE = Profile("test", images=4, resamples=200)


def scores(rows=(BASELINE, OURS), prompts: int = 20, seeds: int = 2, gain: float = 1.5) -> pd.DataFrame:
    """Each row is `gain` above the one before it, on prompts of very different difficulty."""
    rng = np.random.default_rng(0)
    level = rng.normal(30, 10, prompts)
    lines = [
        {
            "model": "toy-sd15", "dataset": "toy-ae", "row": row, "index": prompt * seeds + seed, "seed": seed,
            "prompt_index": prompt, "prompt": f"prompt {prompt}", "clip_score": level[prompt] + gain * place + seed,
            "there_share": (place + prompt % 2) / 2, "right_share": float(place), "acts": True, "evaluations": 100,
            "seconds": 1.0,
        }
        for place, row in enumerate(rows) for prompt in range(prompts) for seed in range(seeds)
    ]  # fmt: skip
    frame = pd.DataFrame(lines)
    return frame.assign(all_there=100.0 * (frame.there_share == 1), all_right=100.0 * (frame.right_share == 1))


def test_gains_are_paired_over_prompts():
    table = report.table_5(scores(), PROFILE).set_index(["row", "metric"])
    gain = table.loc[(OURS, "clip_score_gain")]
    assert (gain.ours, gain.low, gain.high) == (1.5, 1.5, 1.5)
    assert table.loc[(OURS, "clip_score")].high - table.loc[(OURS, "clip_score")].low > 3
    assert table.loc[(OURS, "all_right_gain")].ours == 100
    assert gain.n_images == 20


def test_the_papers_numbers_stand_beside():
    table = report.table_5(scores(), PROFILE).set_index(["row", "metric"])
    assert table.loc[(BASELINE, "clip_score")].paper == 31.45
    assert table.loc[(OURS, "clip_score_gain")].paper == pytest.approx(1.25)
    assert np.isnan(table.loc[(OURS, "all_there")].paper)


def test_without_a_judge_there_is_the_clip_score_alone():
    blind = scores().assign(all_there=np.nan, all_right=np.nan)
    assert set(report.table_5(blind, PROFILE).metric) == {"clip_score", "clip_score_gain"}


def test_agreement_counts_pairs_that_differ_in_both():
    assert report.agreement(scores(seeds=1), "right_share", PROFILE).value == 100
    assert report.agreement(scores(seeds=1, gain=-1.5), "right_share", PROFILE).value == 0
    assert np.isnan(report.agreement(scores().assign(right_share=1.0), "right_share", PROFILE).value)


def test_examples_follow_the_rule():
    frame = scores(seeds=1, prompts=11)
    gains = np.arange(11)[::-1].astype(float)
    frame.loc[frame.row == OURS, "clip_score"] = frame[frame.row == BASELINE].clip_score.to_numpy() + gains
    chosen = {example.reason: round(example.gain) for example in report.examples(frame)}
    assert chosen == {"the median": 5, "the 90th percentile": 9, "the worst": 0, "the second worst": 1}


def test_strengths_start_at_nothing():
    frame = scores((BASELINE, *map(strength_name, STRENGTHS)), gain=1.0)
    curve = report.strengths(frame, PROFILE, "clip_score")
    assert curve.strength.tolist() == [1.0, *STRENGTHS]
    assert curve.ours.tolist() == pytest.approx([0, *range(1, len(STRENGTHS) + 1)])


def test_a_profile_without_pictures_tests_no_claim():
    assert report.claim_number("toy-sd15", PROFILE, "clip_score") is None


def test_costs_are_means():
    costs = report.costs(scores())
    assert costs.evaluations.tolist() == [100, 100]
    assert costs.acts.tolist() == [100, 100]


def test_figures_can_be_drawn():
    figure = report.draw_gains(report.table_5(scores(), PROFILE))
    assert figure.axes[0].get_title() == "A&E prompts"
    curve = report.strengths(scores((BASELINE, *map(strength_name, STRENGTHS))), PROFILE, "clip_score")
    assert len(report.draw_strengths({"clip_score": curve}).axes) == 1
