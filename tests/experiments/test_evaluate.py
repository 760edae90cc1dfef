import pandas as pd
import pytest

from elbo_core import Plan
from elbo_core.datasets.toy import toy_scenes
from elbo_core.experiments.evaluate import TABLE_3_ROWS, agreement, evaluate, summarise
from elbo_core.experiments.profiles import get_profile
from elbo_core.metrics import miou_by_threshold

PLAN = Plan(elbo_timesteps=(500,), attention_timesteps=(100,))


@pytest.fixture(scope="module")
def evaluation(tiny):
    return evaluate(tiny, toy_scenes("toy-voc", "dev", 4), TABLE_3_ROWS, n_labels=20, plan=PLAN)


@pytest.fixture(scope="module")
def counts(evaluation):
    return evaluation.counts


def test_scores_name_every_candidate(evaluation):
    scenes = list(toy_scenes("toy-voc", "dev", 4))
    assert list(evaluation.scores["class"]) == [name for scene in scenes for name in scene.classes]
    assert (evaluation.scores["off"] == 1).all()
    assert evaluation.scores["on"].between(1 / 3 - 1e-6, 1).all()
    assert evaluation.scores["area"].between(0, 1, inclusive="neither").all()


def test_agreement_counts_pairs_within_an_image():
    lines = [("a", 1.0, 3), ("a", 0.5, 2), ("a", 0.2, 2.5), ("b", 0.3, 1), ("b", 1.0, 9), ("c", 1.0, 5)]
    scores = pd.DataFrame(lines, columns=["scene", "on", "area"])
    assert agreement(scores, "on", "area", 100, 0).value == pytest.approx(75), "three of four pairs"


def test_one_line_per_row_and_gain(counts):
    frame = summarise(counts, resamples=20, seed=0)
    assert list(frame[frame.metric == "miou"].row) == list(TABLE_3_ROWS)
    assert list(frame[frame.metric == "miou_gain"].row) == [name for name in TABLE_3_ROWS if not name.startswith("off")]
    assert (frame.n_images == 4).all()
    assert (frame.low <= frame.high).all()


def test_gains_are_differences_of_best_mious(counts):
    frame = summarise(counts, resamples=20, seed=0).set_index(["row", "metric"])
    best = {name: miou_by_threshold(c).max() for name, c in counts.items()}
    assert frame.loc[("on", "miou"), "ours"] == pytest.approx(best["on"])
    assert frame.loc[("on", "miou_gain"), "ours"] == pytest.approx(best["on"] - best["off"])
    tuned = best["velocity, tuned"] - best["off, tuned"]
    assert frame.loc[("velocity, tuned", "miou_gain"), "ours"] == pytest.approx(tuned)


def test_nothing_to_evaluate_is_an_error(tiny):
    with pytest.raises(ValueError, match="no scenes"):
        evaluate(tiny, [], TABLE_3_ROWS, 20)


def test_profiles(monkeypatch):
    assert get_profile("toy").images == 96
    monkeypatch.setenv("ELBO_PROFILE", "smoke")
    assert get_profile("toy").name == "smoke"
    monkeypatch.setenv("ELBO_PROFILE", "huge")
    with pytest.raises(ValueError, match="known: smoke, toy"):
        get_profile("toy")
