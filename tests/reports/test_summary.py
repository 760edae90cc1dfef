import numpy as np
import pandas as pd
import pytest
from test_metrics import LABELS, random_image

from elbo_core.experiments.profiles import PROFILES
from elbo_core.experiments.records import Evaluation
from elbo_core.metrics import METRICS, count, cross_validated, everything, miou_by_threshold, stack
from elbo_core.reports.figures import draw_gains
from elbo_core.reports.summary import agreement, compare, summarise

ROWS = (("released", "off"), ("released", "on"), ("late layers", "off"), ("late layers", "best"))


@pytest.fixture(scope="module")
def counts():
    return {
        name: stack([count(*random_image(10 * row + k), LABELS) for k in range(8)]) for row, name in enumerate(ROWS)
    }


def test_agreement_counts_pairs_within_an_image():
    lines = [("a", 1.0, 3), ("a", 0.5, 2), ("a", 0.2, 2.5), ("b", 0.3, 1), ("b", 1.0, 9), ("c", 1.0, 5)]
    scores = pd.DataFrame(lines, columns=["scene", "score", "area"])
    assert agreement(scores, "area", 100, 0).value == pytest.approx(75), "three of four pairs"


def test_what_is_unknown_is_not_compared():
    lines = [("a", 1.0, 3), ("a", 0.5, np.nan), ("a", 0.2, 2.5)]
    scores = pd.DataFrame(lines, columns=["scene", "score", "visible"])
    assert agreement(scores, "visible", 100, 0).value == 100
    assert np.isnan(agreement(scores[:2], "visible", 100, 0).value)


def test_one_line_per_row_and_gain(counts):
    frame = summarise(counts, resamples=20, seed=0)
    levels, gains = frame[frame.metric == "miou"], frame[frame.metric == "miou_gain"]
    assert list(zip(levels.reading, levels.row, strict=True)) == list(ROWS)
    assert list(zip(gains.reading, gains.row, strict=True)) == [ROWS[1], ROWS[3]]
    assert (frame.n_images == 8).all()
    assert (frame.low <= frame.high).all()


def test_gains_are_differences_of_best_mious(counts):
    ours = summarise(counts, resamples=20, seed=0).set_index(["reading", "row", "metric"]).ours
    best = {place: miou_by_threshold(c).max() for place, c in counts.items()}
    assert ours["released", "on", "miou"] == pytest.approx(best["released", "on"])
    assert ours["released", "on", "miou_gain"] == pytest.approx(best["released", "on"] - best["released", "off"])
    of_late = best["late layers", "best"] - best["late layers", "off"]
    assert ours["late layers", "best", "miou_gain"] == pytest.approx(of_late)


def test_the_best_of_several_rows_is_chosen_on_each_resample(counts):
    released = {place: c for place, c in counts.items() if place[0] == "released"}
    frame = summarise(released, 50, 0, best_of={"best": ["off", "on"]}).set_index(["row", "metric"])
    assert frame.loc[("best", "miou"), "ours"] == frame.loc[[("off", "miou"), ("on", "miou")], "ours"].max()
    assert frame.loc[("best", "miou"), "low"] >= frame.loc[[("off", "miou"), ("on", "miou")], "low"].max()
    assert frame.loc[("best", "miou_gain"), "low"] >= 0, "off is one of them"


def test_metric_and_policy_are_a_choice(counts):
    frame = summarise(counts, 20, 0, metric="f1", policy="cross-validated").set_index(["reading", "row", "metric"])
    expected = cross_validated(METRICS["f1"], counts["released", "on"], everything(counts["released", "on"]))[0]
    assert frame.ours["released", "on", "f1"] == pytest.approx(expected)


def test_rows_are_compared_in_both_readings_beside_the_paper(counts):
    on = counts["released", "on"]
    renamed = {ROWS[0]: counts[ROWS[0]], ROWS[1]: on, ROWS[2]: counts[ROWS[2]], ("late layers", "on"): on}
    evaluation = Evaluation(renamed, pd.DataFrame())
    evaluations = {"toy-sd15": {"toy-voc": evaluation, "toy-coco": evaluation}, "toy-sd2": {"toy-voc": evaluation}}
    table = compare(evaluations, ["off", "on"], "table_3", PROFILES["smoke"])
    shown = table[(table.metric == "miou") & (table.model == "toy-sd2")]
    assert list(zip(shown.reading, shown.row, strict=True)) == list(renamed)
    lines = table.set_index(["model", "dataset", "reading", "row", "metric"])
    line = lines.loc[("toy-sd15", "toy-coco", "released", "on", "miou_gain")]
    assert line.paper == pytest.approx(42.15 - 39.19)
    assert line.n_images == 8
    assert lines.loc[("toy-sd2", "toy-voc", "released", "on", "miou"), "paper"] == 64.96
    figure = draw_gains(table, ["on"])
    assert [axis.get_title() for axis in figure.axes] == ["toy-voc\n(for VOC)", "toy-coco\n(for COCO)", "", ""]
    assert [axis.get_ylabel() for axis in figure.axes] == ["toy-sd15", "", "toy-sd2", ""]
    shown = figure.axes[1].containers[0].lines[0].get_xdata()
    assert shown == pytest.approx([line.ours])


def test_a_lead_is_the_paired_difference_of_two_rows(counts):
    released = {place: stack for place, stack in counts.items() if place[0] == "released"}
    frame = summarise(released, 20, 1, leads={"ahead": ("on", "off")})
    found = frame.set_index(["row", "metric"])[["ours", "low", "high"]]
    assert found.loc["ahead", "miou_gain"].equals(found.loc["on", "miou_gain"])


def test_leads_stand_beside_the_papers_and_need_both_rows(counts):
    on = counts["released", "on"]
    evaluation = Evaluation(
        {ROWS[0]: counts[ROWS[0]], ROWS[1]: on, ("released", "DAAM"): on, ("late layers", "off"): on},
        pd.DataFrame(),
        {("released", "DiffPNG"): "it is for another kind of network"},
    )
    leads = {"DAAM against ELBO-T2IAlign": ("DAAM", "on"), "DiffPNG against ELBO-T2IAlign": ("DiffPNG", "on")}
    found = compare({"toy-sd15": {"toy-voc": evaluation}}, ["off", "on", "DAAM", "DiffPNG"], "table_2",
                    PROFILES["smoke"], leads=leads).set_index(["reading", "row", "metric"])  # fmt: skip
    lead = found.loc[("released", "DAAM against ELBO-T2IAlign", "miou_gain")]
    assert (lead.ours, lead.low, lead.high) == (0, 0, 0)
    assert lead.paper == pytest.approx(48.11 - 68.15)
    assert found.paper["released", "on", "miou"] == 68.15
    assert not any("DiffPNG" in row for _, row, _ in found.index)
    assert {row for reading, row, _ in found.index if reading == "late layers"} == {"off"}
