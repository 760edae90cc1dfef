"""Comparisons of edits against naive means, the choice of those that are shown, and the figures."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from elbo_core.experiments.edits import MAIN, PLAIN, VARIANTS
from elbo_core.experiments.profiles import PROFILES
from elbo_core.reports.bootstrap import Measured
from elbo_core.reports.claims import Ledger, read_claims
from elbo_core.reports.editing import (
    ALL_KINDS,
    METRICS,
    Choice,
    Shown,
    choose,
    compare_edits,
    draw_edit_gains,
    draw_figure_6,
    finding,
    gain,
)
from elbo_core.reports.summary import COLUMNS
from elbo_core.toy.edit_tasks import edit_sources

PROFILE = replace(PROFILES["smoke"], edits=6, resamples=200)


@pytest.fixture(scope="module")
def frame():
    """Edits with random results."""
    rng, lines = np.random.default_rng(0), []
    for dataset in ("edits-generated", "edits-rendered"):
        for index, source in enumerate(edit_sources(6)):
            for task in source.tasks:
                for variant in VARIANTS:
                    result = {
                        "appears": bool(rng.random() < 0.6), "kept": bool(rng.random() < 0.8),
                        "probability": rng.random(), "psnr": rng.uniform(15, 30), "changed": rng.random(),
                    }  # fmt: skip
                    place = {"dataset": dataset, "index": index, "kind": task.kind, "variant": variant.name}
                    lines.append(place | result)
    return pd.DataFrame(lines)


@pytest.fixture(scope="module")
def table(frame):
    return compare_edits(frame, PROFILE)


def test_numbers_are_plain_means_and_gains_their_differences(frame, table):
    assert list(table.columns) == COLUMNS
    found = table.set_index(["dataset", "reading", "row", "metric"]).ours
    for dataset, of_set in frame.groupby("dataset"):
        for kind in (ALL_KINDS, "swap"):
            lines = of_set if kind == ALL_KINDS else of_set[of_set.kind == kind]
            ours, plain = (lines[lines.variant == name] for name in (MAIN.name, PLAIN.name))
            assert found[dataset, kind, MAIN.name, "psnr"] == pytest.approx(ours.psnr.mean(), abs=0.006)
            accurate = [100 * (own.appears & own.kept).mean() for own in (ours, plain)]
            expected = accurate[0] - accurate[1]
            assert found[dataset, kind, MAIN.name, "accurate_gain"] == pytest.approx(expected, abs=0.006)
    assert (table.low <= table.ours + 0.01).all()
    assert set(table.metric) == {*METRICS, *(f"{metric}_gain" for metric in METRICS)}


def test_the_gain_of_the_claim_is_the_mean_of_both_sets(frame, table):
    gains = table[(table.row == MAIN.name) & (table.metric == "accurate_gain") & (table.reading == ALL_KINDS)].ours
    assert gain(frame, PROFILE).value == pytest.approx(gains.mean(), abs=0.01)
    assert gain(frame, PROFILE, PLAIN.name).value == 0
    assert not gain(frame, PROFILE, PLAIN.name).samples.any()


def test_the_claim_gets_a_verdict(frame, monkeypatch):
    (claim,) = [claim for claim in read_claims() if claim.id == "editing"]
    is_main, even = frame.variant == MAIN.name, frame["index"] % 2 == 0
    for appears, verdict in ((is_main, "holds"), (~is_main, "does not hold"), (is_main == even, "undecided")):
        judged = frame.assign(appears=appears, kept=True)
        monkeypatch.setattr("elbo_core.reports.editing.read_edits", lambda profile, judged=judged: judged)
        ledger = Ledger({"toy-sd15": {}}, PROFILE, "toy-sd15")
        assert ledger.effect(claim) == gain(judged, PROFILE).estimate
        assert ledger.table([claim]).verdict.tolist() == [verdict]
    nothing = Ledger({"toy-sd15": {}}, replace(PROFILE, edits=0), "toy-sd15")
    assert nothing.table([claim]).verdict.tolist() == ["not tested"]


def test_what_is_shown_is_chosen_by_rule(frame):
    place = ["dataset", "index", "kind"]
    sides = [frame[frame.variant == name].set_index(place).probability for name in (MAIN.name, PLAIN.name)]
    differences = (sides[0] - sides[1]).sort_values()
    chosen = {choice.rule: choice for choice in choose(frame)}
    assert chosen["hurts most"].difference == differences.iloc[0]
    below = (differences < chosen["median"].difference).mean()
    assert below == pytest.approx(0.5, abs=0.05)
    assert (differences < chosen["90th percentile"].difference).mean() == pytest.approx(0.9, abs=0.06)
    for choice in chosen.values():
        assert differences[choice.dataset, choice.index, choice.kind] == choice.difference


def test_findings_follow_the_interval():
    for value, words in ((5.0, "more edits accurate, by 5.0"), (-5.0, "fewer edits accurate, by 5.0"), (0.0, "open")):
        assert words in finding(Measured(value, value + np.linspace(-1, 1, 9)))


def test_figures_are_legible_and_say_what_they_show(table):
    shown = []
    for index, task in ((0, 0), (1, 1)):
        source = edit_sources(2)[index]
        choice = Choice("median", "edits-rendered", index, source.tasks[task].kind, 0.1)
        shown.append(
            Shown(choice, source, source.tasks[task], torch.rand(3, 3, 32, 32), torch.rand(2, 16, 16), (0, 0.5, 1))
        )
    figure = draw_figure_6(shown)
    texts = [text for part in figure.subfigs for axes in part.axes for text in (*axes.texts, axes.title)]
    texts += [text for part in figure.subfigs for text in part.texts]
    words = " ".join(text.get_text() for text in texts)
    assert min(text.get_fontsize() for text in texts if text.get_text()) >= 8
    assert figure.get_figwidth() <= 7.5
    for expected in ("Prompt-to-Prompt", "calibrated map", "judge: 50 %", shown[0].task.target, "× 3", "given picture"):
        assert expected in words
    gains = draw_edit_gains(table)
    assert len(gains.axes) == 3
    plt.close("all")
