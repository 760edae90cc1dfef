"""The rule for choices on rows whose numbers are known, and the questions against the rows that exist."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from elbo_core.experiments.choices import BATCH, SCENES, SPLIT, evaluate_choices, works
from elbo_core.experiments.profiles import PROFILES
from elbo_core.experiments.records import Evaluation
from elbo_core.experiments.rows import rows_of
from elbo_core.experiments.work import all_works
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.align import ElboScore, LeaveOneOutScore
from elbo_core.methods.evidence import Evidence, EvidenceTimesAttention
from elbo_core.metrics import Stack, count, stack
from elbo_core.reports.choices import COLUMNS, Question, chosen, decide, questions, row_of

IMAGES = 12
NAMES = ("plain", "better", "best", "noisy", "hardly")


def found(hits: list[int]) -> Stack:
    """Pictures of 400 pixels, half of them one object, of which so many are found and nothing else."""
    truth = np.repeat([1, 0], 200)[None].astype(np.uint8)
    maps = [Heatmaps(("star",), (torch.arange(400) < k)[None, None].float(), torch.ones(1)) for k in hits]
    return stack([count(one, [1], truth, 1) for one in maps])


def evaluations(**others: list[int]) -> dict[str, Evaluation]:
    """ "better" and "best" find more in every picture, "noisy" in one only, "hardly" one pixel more in each."""
    rows = {"plain": [80] * IMAGES, "better": [110] * IMAGES, "best": [120] * IMAGES,
            "noisy": [200, *[79] * (IMAGES - 1)], "hardly": [81] * IMAGES} | others  # fmt: skip
    one = Evaluation({("released", name): found(hits) for name, hits in rows.items()}, pd.DataFrame())
    return {"first": one, "second": one}


def question(*names: str) -> Question:
    return Question("q", "plain", {name: [("released", name)] for name in names})


def test_the_best_of_those_that_pass_the_rule_is_chosen():
    frame = decide(question(*NAMES), evaluations(), resamples=200).set_index("candidate")
    assert frame.decision.to_dict() == {"plain": "", "better": "wins", "best": "chosen", "noisy": "", "hardly": ""}
    assert frame.lead["best"] == pytest.approx(frame.miou["best"] - frame.miou["plain"])
    assert frame.low["best"] == pytest.approx(frame.lead["best"]), "pictures are alike"
    assert 0 < frame.low["hardly"] <= frame.lead["hardly"] < 1, "clear, and too little"
    assert frame.low["noisy"] <= 0 < 1 < frame.lead["noisy"], "much, and not clear"


def test_the_default_stays_if_nothing_passes():
    frame = decide(question("plain", "noisy", "hardly"), evaluations(), resamples=200)
    assert list(frame.columns) == COLUMNS
    assert chosen(frame) == "plain"
    worse = decide(question("plain", "worse"), evaluations(worse=[10] * IMAGES), resamples=50)
    assert chosen(worse) == "plain"
    assert worse.lead[1] < -10


def test_a_candidate_may_be_the_mean_of_several_rows():
    pair = Question("q", "plain", {"plain": [("released", "plain")],
                                   "both": [("released", "plain"), ("released", "best")]})  # fmt: skip
    frame = decide(pair, evaluations(), resamples=50).set_index("candidate")
    alone = decide(question("plain", "best"), evaluations(), resamples=50).set_index("candidate")
    assert frame.lead["both"] == pytest.approx(alone.lead["best"] / 2)


def test_without_measurements_there_is_no_choice():
    with pytest.raises(ValueError, match="nothing was measured to choose by"):
        decide(question(*NAMES), {})


def test_the_questions_are_about_rows_that_are_measured():
    known = {row.id: row for row in rows_of(BATCH)}
    alone, product, score = questions()
    for one in (alone, product, score):
        assert {row for rows in one.candidates.values() for row in rows} <= set(known)
    assert row_of(alone, alone.default).method == Evidence(weight="epsilon", blur=1.0, clamp=True)
    assert isinstance(row_of(product, product.default).method, EvidenceTimesAttention)
    assert {"not clamped", "blur 0", "weight relative", "middle timesteps"} < set(alone.candidates)
    assert len(product.candidates) == 6
    scores = [[known[row].method.score for row in rows] for rows in score.candidates.values()]
    assert scores == [[ElboScore()] * 2, [LeaveOneOutScore()] * 2]


def test_choices_are_made_in_the_embedded_world_on_scenes_of_their_own():
    toy, paper = works(PROFILES["toy"]), works(PROFILES["paper"])
    assert [work.dataset for work in toy] == list(PROFILES["toy"].datasets)
    assert {(work.model, work.batch, work.split, work.images) for work in toy} == {("toy-sd15", BATCH, SPLIT, SCENES)}
    assert paper == []
    assert evaluate_choices(PROFILES["paper"]) == {}
    smoke = works(PROFILES["smoke"])
    assert {(work.split, work.images) for work in smoke} == {("dev", 4)}, "nobody looks at the others to try the code"
    assert set(toy) <= set(all_works(PROFILES["toy"], ["choices"]))
