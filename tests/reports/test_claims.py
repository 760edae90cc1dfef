"""The ledger against sets whose answers are known, and the claims file against the rows that exist."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.records import Evaluation
from elbo_core.experiments.rows import READINGS, rows_of
from elbo_core.metrics import BINS, Counts, Stack, stack
from elbo_core.reports.bootstrap import Estimate, Measured
from elbo_core.reports.claims import (
    ACROSS,
    COLUMNS,
    EVERY,
    OURS,
    RULES,
    Claim,
    Ledger,
    read_all_claims,
    read_claims,
    verdict,
    write_ledger,
)
from elbo_core.reports.paper import DATASET_ORDER, paper_number

IMAGES = 12
PROFILE = Profile("test", IMAGES, 200)
SETS = PROFILE.datasets


def counts_of(hits: np.ndarray, unseen: int = 0) -> Stack:
    """Images [N] of 10 background and 10 object pixels, of which `hits` [N, labels] are found and no pixel is wrong.

    In the first `unseen` images label 2 does not occur.
    """
    n, labels = hits.shape
    won = np.zeros((n, labels + 1, BINS), np.int64)
    won[:, 1:, -1] = hits
    won[:, 1, 0] += 10 * (1 + labels) - hits.sum(axis=1)  # the rest, at a score that no threshold lets through
    true = np.full((n, labels + 1), 10)
    true[:unseen, 2:] = 0
    true[:unseen, 0] += 10
    background = np.zeros((n, BINS), np.int64)
    background[:, 0] = true[:, 0]
    right = np.zeros_like(won)
    right[:, 1:, -1] = hits
    return stack([Counts(*image) for image in zip(won, right, true, background, strict=True)])


def evaluation(**rows: int) -> Evaluation:
    """Every row finds so many of the ten pixels of the one object of each image."""
    counts = {("released", name): counts_of(np.full((IMAGES, 1), hits)) for name, hits in rows.items()}
    return Evaluation(counts, pd.DataFrame())


def ledger_of(sets: dict[str, Evaluation], **others: dict[str, Evaluation]) -> Ledger:
    """A ledger about toy-sd15; `others` are further models."""
    return Ledger({"toy-sd15": sets} | others, PROFILE, "toy-sd15")


def test_a_rival_can_be_left_out_on_one_set():
    """On VOC the claim of Table II is not about DiffSegmenter, which the paper's table has ahead there."""
    (about,) = [one for one in read_claims() if one.id == "baselines"]
    rivals = dict.fromkeys(about.test["rows"][1:], 4)
    sets = {name: evaluation(on=8, **rivals | {"DiffSegmenter": 9 if name == "toy-voc" else 5}) for name in SETS}
    found = ledger_of(sets).effect(about)
    assert found.low > 0
    assert verdict(found, about.rule) == "holds"
    everywhere = replace(about, test={**about.test, "but": {}})
    assert ledger_of(sets).effect(everywhere).value < 0
    assert ledger_of({}).paper(about) == pytest.approx(42.15 - 38.88)
    assert ledger_of({}).paper(everywhere) == pytest.approx(68.15 - 68.68)


def test_rows_without_numbers_in_a_reading_are_not_tested():
    about = claim(rows=["on", "DAAM"])
    assert np.isnan(ledger_of({name: evaluation(on=8) for name in SETS}).effect(about).value)


def claim(**test) -> Claim:
    return Claim("c", "here", "it is so", test)


def test_rows_are_compared_with_the_best_of_the_others():
    ledger = ledger_of({name: evaluation(on=8, off=4, half=5) for name in SETS})
    against_both = ledger.effect(claim(rows=["on", "off", "half"]))
    assert against_both.value == pytest.approx(ledger.effect(claim(rows=["on", "half"])).value)
    assert 0 < against_both.value < ledger.effect(claim(rows=["on", "off"])).value
    assert against_both.low == against_both.high == pytest.approx(against_both.value), "all images are alike"


def test_sets_are_put_together_as_the_claim_says():
    by_set = dict(zip(SETS, (5, 6, 7, 8), strict=True))
    ledger = ledger_of({name: evaluation(on=hits, off=4) for name, hits in by_set.items()})
    mean, least, less = (ledger.effect(claim(rows=["on", "off"], across=across)).value for across in ACROSS)
    gains = [ledger_of({name: evaluation(on=hits, off=4) for name in SETS}).effect(
        claim(rows=["on", "off"])).value for hits in by_set.values()]  # fmt: skip
    assert mean == pytest.approx(np.mean(gains))
    assert least == pytest.approx(gains[0])
    assert less == pytest.approx(np.mean(gains[1:]) - gains[0])


def test_the_papers_number_is_made_in_the_same_way():
    ledger = ledger_of({})
    gains = [paper_number("table_3", "SD1.5", "on", s) - paper_number("table_3", "SD1.5", "off", s)
             for s in ("voc", "context", "coco", "ade20k")]  # fmt: skip
    assert ledger.paper(claim(rows=["on", "off"], table="table_3")) == pytest.approx(np.mean(gains))
    assert ledger.paper(claim(rows=["on", "off"], table="table_3", across="every set")) == pytest.approx(min(gains))
    assert np.isnan(ledger.paper(claim(rows=["on", "off"])))


@pytest.mark.parametrize("quantity", ["area", "visible", "frequency", "fewness"])
def test_groups_compare_pairs_with_more_and_less(quantity):
    """Six images with one object, found, and six with two, one of which is missed."""
    hits = np.array([[9, 0]] * 6 + [[9, 3]] * 6)
    counts = counts_of(hits, unseen=6)
    lines = [(i, label, hits[i, label - 1]) for i in range(IMAGES) for label in ((1,) if i < 6 else (1, 2))]
    scores = pd.DataFrame(lines, columns=["index", "label", "area"]).assign(visible=lambda s: s.area / 10)
    scores = scores.assign(frequency=scores.area, row="off", reading="released")
    ledger = ledger_of(dict.fromkeys(SETS, Evaluation({("released", "off"): counts}, scores)))
    found = ledger.effect(claim(groups=quantity))
    expected = 90 - (30 if quantity != "fewness" else 60)
    assert found.value == pytest.approx(expected)
    assert found.low <= found.value <= found.high


def test_what_is_unknown_is_left_out_of_the_groups():
    counts = counts_of(np.array([[9, 3]] * IMAGES))
    lines = [(i, label, np.nan if label == 2 else float(i)) for i in range(IMAGES) for label in (1, 2)]
    scores = pd.DataFrame(lines, columns=["index", "label", "visible"]).assign(row="off", reading="released")
    ledger = ledger_of(dict.fromkeys(SETS, Evaluation({("released", "off"): counts}, scores)))
    assert ledger.effect(claim(groups="visible")).value == 0, "only the first label is known, and it is always found"


@pytest.mark.parametrize(
    ("low", "high", "expect", "expected"),
    [
        (0.1, 2, "more", "holds"),
        (-2, 0, "more", "does not hold"),
        (-1, 1, "more", "undecided"),
        (-0.9, 0.9, "same", "holds"),
        (1.1, 3, "same", "does not hold"),
        (-3, -1.1, "same", "does not hold"),
        (-0.5, 1.5, "same", "undecided"),
        (-0.9, 5, "not less", "holds"),
        (-3, -1.1, "not less", "does not hold"),
        (-3, 0, "not less", "undecided"),
    ],
)
def test_verdicts(low, high, expect, expected):
    assert verdict(Estimate((low + high) / 2, low, high), expect) == expected


def test_the_worst_of_all_models_decides_where_every_one_is_meant():
    good, bad = (dict.fromkeys(SETS, evaluation(on=hits, off=4)) for hits in (8, 5))
    ledger = ledger_of(good, **{"toy-sdxl": bad})
    every, own = claim(rows=["on", "off"], models="every"), claim(rows=["on", "off"])
    assert ledger.effect(every).value == pytest.approx(ledger_of(bad).effect(own).value)
    assert ledger.effect(own).value == pytest.approx(ledger_of(good).effect(own).value)
    gains = [np.mean([paper_number("table_3", model, "on", name, "miou_gain") for name in DATASET_ORDER])
             for model in ("SD1.5", "SDXL")]  # fmt: skip
    assert ledger.paper(claim(rows=["on", "off"], models="every", table="table_3")) == pytest.approx(min(gains))


def test_a_claim_can_be_about_one_other_set():
    sets = dict.fromkeys(SETS, evaluation(on=8, off=4)) | {"toy-aep": evaluation(on=5, phrases=7)}
    ledger = ledger_of(sets)
    about = claim(rows=["phrases", "on"], attributes=True, table="table_4")
    assert ledger.effect(about).value > 0
    assert ledger.paper(about) == pytest.approx(60.58 - 60.11)


def test_what_needs_an_absent_set_or_quantity_is_not_tested():
    three = replace(PROFILE, datasets=SETS[:3])
    ledger = Ledger({"toy-sd15": {name: evaluation(on=8, off=4) for name in SETS[:3]}}, three, "toy-sd15")
    gains = claim(rows=["on", "off"], table="table_3")
    assert verdict(ledger.effect(gains), "more") == "not tested"
    assert ledger.paper(gains) == ledger_of({}).paper(gains)
    assert np.isnan(ledger.effect(claim(rows=["phrases", "on"], attributes=True)).value)
    scores = pd.DataFrame({"index": range(IMAGES), "label": 1, "visible": np.nan, "row": "off", "reading": "released"})
    unseen = Evaluation({("released", "off"): counts_of(np.full((IMAGES, 1), 4))}, scores)
    assert np.isnan(ledger_of(dict.fromkeys(SETS, unseen)).effect(claim(groups="visible")).value)


def test_sets_in_another_order_are_refused():
    profile = replace(PROFILE, datasets=tuple(reversed(SETS)))
    ledger = Ledger({"toy-sd15": {name: evaluation(on=8, off=4) for name in SETS}}, profile, "toy-sd15")
    with pytest.raises(ValueError, match="claims need mirrors of"):
        ledger.effect(claim(rows=["on", "off"]))


def test_every_claim_asks_for_rows_that_exist():
    claims = read_all_claims()
    batches = ("ablations", "estimators", "phrases", "evidence", "baselines")
    known = {row.name for batch in batches for row in rows_of(batch)}
    for one in claims:
        assert set(one.test.get("rows", [])) <= known
        assert one.test.get("across", "mean") in ACROSS
        assert one.rule in RULES
        assert one.claim.endswith(".")
        assert {"rows", "groups", "memory", "experiment", "generation", "edits"} & set(one.test) or not one.test
    assert len(claims) >= 16


def test_our_own_claims_stand_in_the_same_ledger():
    """With the same rules, in both readings, beside nothing of the paper's."""
    ours = read_claims(OURS)
    assert read_all_claims() == [*read_claims(), *ours]
    assert len(ours) == 5
    assert all(np.isnan(ledger_of({}).paper(one)) for one in ours)
    rows = {"on": 6, "off": 4, "evidence": 8}
    ledger = ledger_of(dict.fromkeys(SETS, evaluation(**rows)), **{"toy-sdxl": dict.fromkeys(SETS, evaluation(**rows))})
    assert list(ledger.table(ours[:2]).verdict) == ["holds", "holds"]
    names = {reading: [row.name for row in rows_of("evidence") if row.reading == reading] for reading in READINGS}
    assert names["released"] == names["late layers"], "each claim can be tested in both"


def test_claims_with_a_table_have_a_number_in_it():
    ledger = ledger_of({})
    with_table = [one for one in read_claims() if "table" in one.test]
    assert len(with_table) > 8
    assert all(np.isfinite(ledger.paper(one)) for one in with_table)


def test_a_claim_named_twice_is_refused(tmp_path):
    line = "- {id: a, where: x, claim: y., test: {}}\n"
    (tmp_path / "claims.yaml").write_text(2 * line)
    with pytest.raises(ValueError, match=r"names a claim twice: \['a'\]"):
        read_claims(tmp_path / "claims.yaml")


def test_the_ledger_is_written_the_same_every_time(tmp_path):
    ledger = ledger_of({name: evaluation(on=8, off=4) for name in SETS})
    table = ledger.table([claim(rows=["on", "off"], table="table_3"), claim()])
    assert list(table.verdict) == ["holds", "not tested"]
    first = [path.read_bytes() for path in write_ledger(table, "p", tmp_path)]
    assert first == [path.read_bytes() for path in write_ledger(table, "p", tmp_path)]
    assert pd.read_csv(tmp_path / "p" / "claims.csv").columns.tolist() == COLUMNS


def test_the_model_and_the_rule_of_a_claim_are_named():
    """The paper's number is that of the same model; of a claim about all, the least."""
    ledger = ledger_of({name: evaluation(on=8, off=4) for name in SETS})
    every = claim(rows=["on", "off"], models="every", table="table_3", expect="not less")
    ledger = replace(ledger, evaluations=dict(ledger.evaluations) | {"toy-sdxl": ledger.evaluations["toy-sd15"]})
    table = ledger.table([claim(rows=["on", "off"], table="table_3"), every])
    assert list(table.model) == ["toy-sd15", EVERY]
    assert list(table.rule) == ["more", "not less"]
    assert list(table.reading) == ["released", "released"]


def test_differences_are_paired():
    first, second = Measured(3.0, np.array([1.0, 5.0])), Measured(2.0, np.array([0.0, 4.0]))
    assert (first - second).estimate == Estimate(1.0, 1.0, 1.0)
    assert Measured.best([first, second]).value == 3


def test_an_experiment_tests_the_claim_of_its_reading():
    found = Measured(4.0, np.array([3.0, 4.0, 5.0]))
    ledger = replace(ledger_of({}), experiments={("small", "released"): found})
    assert ledger.effect(claim(experiment="small")) == found.estimate
    assert verdict(ledger.effect(claim(experiment="small")), "more") == "holds"
    assert np.isnan(replace(ledger, reading="late layers").effect(claim(experiment="small")).value)
    assert np.isnan(ledger.effect(claim(experiment="many")).value)


def test_every_experiment_that_a_claim_asks_for_exists():
    from elbo_core.reports.misalignment import CLAIMS

    asked = {one.test["experiment"] for one in read_claims() if "experiment" in one.test}
    assert asked == {*CLAIMS, "long-tail-causes", "rare-gain-most"}
