"""Evidence beside Algorithm 1, on counts and classes that are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from elbo_core import Plan, Scene, observe
from elbo_core.datasets import Dataset
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.records import Evaluation
from elbo_core.experiments.rows import READINGS, rows_of
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.evidence import Evidence
from elbo_core.methods.plan import Ask
from elbo_core.metrics import Stack, count, pairs, stack
from elbo_core.reports import evidence as report
from elbo_core.reports import evidence_figures as figures
from elbo_core.reports.styles import compact
from elbo_core.reports.summary import compare
from elbo_core.reports.tables import TABLES

IMAGES, LABELS = 9, 3
PROFILE = Profile("test", IMAGES, 60)
ROWS = sorted({row.id for batch in ("models", "evidence") for row in rows_of(batch)})
CLASSES = ("star", "crown", "grass")


def random_stack(seed: int) -> Stack:
    """Pictures of 12 x 12 whose thirds are a star, a crown and grass, and heatmaps that know more or less of it."""
    generator = torch.Generator().manual_seed(seed)
    truth = np.repeat(np.repeat([1, 2, 3], 4)[:, None], 12, axis=1).astype(np.uint8)
    right = torch.stack([torch.from_numpy(truth == label) for label in (1, 2, 3)]).float()
    maps = [(right + 1.5 * torch.rand(3, 12, 12, generator=generator)) / 2.5 for _ in range(IMAGES)]
    return stack([count(Heatmaps(CLASSES, one, torch.ones(3)), [1, 2, 3], truth, LABELS) for one in maps])


def evaluation(seed: int) -> Evaluation:
    lines = [
        (reading, row, k, f"scene {k}", label, CLASSES[label - 1], 1 / 3, [0.4, 1.0, np.nan][label - 1], 1.0)
        for reading, row in ROWS for k in range(IMAGES) for label in (1, 2, 3)
    ]  # fmt: skip
    columns = ["reading", "row", "index", "scene", "label", "class", "area", "visible", "score"]
    counts = {row: random_stack(100 * seed + k) for k, row in enumerate(ROWS)}
    return Evaluation(counts, pd.DataFrame(lines, columns=columns))


@pytest.fixture(scope="module")
def evaluations() -> report.Evaluations:
    return {model: {name: evaluation(2 * m + s) for s, name in enumerate(("toy-voc", "toy-context"))}
            for m, model in enumerate(("toy-sd15", "toy-sd35"))}  # fmt: skip


@pytest.fixture(scope="module")
def found(evaluations) -> pd.DataFrame:
    return report.class_pairs(evaluations, report.NAMED, {"star": 0.5, "crown": 0.1})


def test_leads_are_over_the_best_of_algorithm_1(evaluations):
    leads = report.leads(evaluations, PROFILE).set_index(["model", "dataset", "reading", "row"])
    rows = ["off", "on", "evidence", "evidence x attention", "Kong et al.", "class against empty"]
    table = compare(evaluations, rows, "table_3", PROFILE).query("metric == 'miou'")
    levels = table.set_index(["model", "dataset", "reading", "row"]).ours
    for model, dataset in levels.index.droplevel([2, 3]).unique():
        best = max(levels[model, dataset, reading, row] for reading in READINGS for row in ("off", "on"))
        ours = leads.ours[model, dataset, "released", "evidence"]
        assert ours == pytest.approx(levels[model, dataset, "released", "evidence"] - best, abs=0.011)
    assert (leads.low <= leads.ours + 0.01).all()


def test_the_score_of_leaving_out_is_compared_in_each_reading(evaluations):
    leads = report.score_leads(evaluations, PROFILE)
    table = compare(evaluations, ["off", "on", report.LEFT_OUT], "table_3", PROFILE).query("metric == 'miou'")
    levels = table.set_index(["model", "dataset", "reading", "row"]).ours
    for line in leads.itertuples():
        place = line.model, line.dataset, line.reading
        assert line.ours == pytest.approx(levels[*place, report.LEFT_OUT] - levels[*place, "on"], abs=0.011)
    assert len(leads) == 2 * 2 * len(READINGS)


def test_leads_can_be_shown(evaluations):
    assert "bold" in compact(report.leads(evaluations, PROFILE), "lead_gain", ["evidence"], ["model"]).to_html()
    shown = compact(report.score_leads(evaluations, PROFILE), "lead_gain", [report.LEFT_OUT])
    assert "late layers" in shown.to_html()


def test_costs_count_evaluations_by_hand(evaluations):
    costs = report.costs(evaluations, PROFILE).set_index(["dataset", "method", "timesteps"])
    assert costs.evaluations["toy-voc", "evidence", 20] == (3 + 1) * 20
    assert costs.evaluations["toy-voc", "evidence", 1] == 3 + 1
    assert costs.evaluations["toy-voc", "Algorithm 1, late layers", 20] == 3 * 20 + 10
    assert costs.evaluations["toy-voc", "Algorithm 1, as released", 1] == 3 + 10
    means = compare(evaluations, ["off", "evidence"], "table_3", PROFILE).query("metric == 'miou'")
    means = means[(means.row == "evidence") & (means.reading == "released")].groupby("dataset").ours.mean()
    assert costs.miou["toy-context", "evidence", 20] == pytest.approx(means["toy-context"], abs=0.01)


def test_pairs_hold_the_iou_of_every_row(evaluations, found):
    assert len(found) == 2 * 2 * IMAGES * 3
    stack_of = evaluations["toy-sd35"]["toy-voc"].counts["released", "evidence"]
    from elbo_core.metrics import miou_by_threshold

    best = int(miou_by_threshold(stack_of).argmax()) + 1
    own = found[(found.model == "toy-sd35") & (found.dataset == "toy-voc")]
    assert sorted(own.evidence) == pytest.approx(sorted(pairs(stack_of, best).iou))
    assert found.frequency[found["class"] == "star"].eq(0.5).all()
    assert found.frequency[found["class"] == "grass"].isna().all()


@pytest.mark.parametrize(("quantity", "names", "size"), [
    ("kind", ["thing", "stuff"], [72, 36]), ("visible", ["less than half", "all"], [36, 36]),
    ("frequency", ["3rd", "commonest"], [36, 36]),
])  # fmt: skip
def test_groups_hold_the_mean_iou_of_their_lines(found, quantity, names, size):
    groups = report.by_group(found, quantity, ["evidence"], "Algorithm 1, late layers", PROFILE)
    assert list(groups.group) == names
    assert list(groups.pairs) == size
    members = found[report.group_by(found, quantity) == names[-1]]
    line = groups.iloc[-1]
    assert line.iou == pytest.approx(members.evidence.mean())
    assert line.gain == pytest.approx(members.evidence.mean() - members["Algorithm 1, late layers"].mean())
    assert line.low <= line.iou <= line.high
    assert line.gain_low <= line.gain <= line.gain_high


def test_areas_are_in_tenths(found):
    groups = report.by_group(found, "area", ["evidence"], "evidence", PROFILE)
    assert len(groups) == 10
    assert groups.pairs.sum() == len(found)
    assert (groups.gain == 0).all()


def test_the_bootstrap_of_a_group_is_a_naive_loop(found):
    """All models of a picture are drawn together, and data sets independently."""
    from elbo_core.reports.bootstrap import bootstrap_weights

    mean = report._drawn_mean(found, "evidence", found, PROFILE)
    first, second = (bootstrap_weights(IMAGES, PROFILE.resamples, PROFILE.seed + k)[7] for k in range(2))
    often = [(first if line.dataset == "toy-voc" else second)[line.index_] for line in
             found.rename(columns={"index": "index_"}).itertuples()]  # fmt: skip
    assert mean.samples[7] == pytest.approx(np.average(found.evidence, weights=often))


def test_what_is_not_known_makes_no_groups(found):
    unknown = found.assign(visible=np.nan, frequency=np.nan)
    assert report.by_group(unknown, "visible", ["evidence"], "evidence", PROFILE).empty
    assert report.by_group(unknown, "frequency", ["evidence"], "evidence", PROFILE).empty
    with pytest.raises(ValueError, match="unknown quantity 'size'; known: area, visible, frequency, kind"):
        report.by_group(found, "size", ["evidence"], "evidence", PROFILE)


def test_cases_are_picked_by_rule(found):
    pictures = report.by_picture(found[found.model == "toy-sd15"], "evidence", "Algorithm 1, late layers")
    assert len(pictures) == 2 * IMAGES
    assert pictures.lead.is_monotonic_increasing
    one = found[(found.model == "toy-sd15") & (found.dataset == pictures.dataset[0])]
    one = one[one["index"] == pictures["index"][0]]
    assert pictures.ours[0] == pytest.approx(one.evidence.mean())
    picked = report.cases(pictures)
    assert picked.why.tolist() == ["worst", "worst", "worst", "middle", "best"]
    assert picked.lead.tolist() == pictures.lead[[0, 1, 2, IMAGES, 2 * IMAGES - 1]].tolist()
    assert len(report.cases(pictures.head(1))) == 1


def test_figures_show_every_set_and_quantity(evaluations, found):
    table = compare(evaluations, TABLES["evidence"].rows, "table_3", PROFILE)
    levels = figures.draw_levels(table, TABLES["evidence"].drawn)
    assert [axis.get_title() for axis in levels.axes] == ["toy-voc", "toy-context"]
    assert "of 4 cases" in levels.get_suptitle()
    costs = figures.draw_costs(report.costs(evaluations, PROFILE))
    assert len(costs.axes) == 2
    groups = [report.by_group(found, quantity, list(report.NAMED), "evidence", PROFILE) for quantity in report.GROUPS]
    assert len(figures.draw_groups(pd.concat(groups)).axes) == 4
    plt.close("all")


def test_masks_are_the_best_of_their_picture(tiny):
    label_map = np.zeros((20, 28), np.uint8)
    label_map[:10], label_map[10:, :9] = 5, 7
    scene = Scene(torch.rand(3, 20, 28), ("tree", "star"), "s", label_map=label_map, labels=(5, 7))
    exact = torch.stack([torch.from_numpy(label_map == label) for label in (5, 7)]).float() * 0.4
    mask, miou = figures.best_mask(Heatmaps(scene.classes, exact, torch.ones(2)), scene)
    assert miou == pytest.approx(100)
    assert np.array_equal(mask, figures.truth(scene))
    asks = tuple(Ask(ask.texts, (1, 501)) for ask in Evidence().needs.error_maps)
    seen = observe(tiny, scene, Plan((), (), error_maps=asks))
    heatmaps = {"evidence": Evidence()(seen), "again": Evidence()(seen)}
    assert len(figures.draw_steps(scene, seen, "star", heatmaps).axes) == 10
    assert len(figures.draw_cases([scene], [heatmaps], ["a"]).axes) == 4
    plt.close("all")
    dataset = Dataset(
        "d", "test", ("tree",), 3, lambda: [], [Scene(scene.image, (), "empty"), scene, scene].__getitem__
    )
    assert figures.scene_at(dataset, 17) is scene
    with pytest.raises(ValueError, match="no scene of d up to 0 has a class"):
        figures.scene_at(dataset, 0)
    with pytest.raises(ValueError, match="scene 's' has no label map"):
        figures.truth(Scene(scene.image, scene.classes, "s"))
