"""The ledger of claims: what the paper says, what its numbers show, what ours show, and a verdict by rule.

Each claim of `data/paper/claims.yaml` and of `data/claims_ours.yaml` that the embedded world can test is turned into
one number that should be positive (or, for claims of equality, close to zero), with its bootstrap interval over images.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from elbo_core.datasets import mirrored
from elbo_core.diffusion.registry import paper_name
from elbo_core.experiments.cost import read_costs
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.records import Evaluation
from elbo_core.metrics import miou_by_threshold, pairs
from elbo_core.paths import DATA, FIGURES
from elbo_core.reports.bootstrap import Estimate, Measured, bootstrap_weights
from elbo_core.reports.cost import memory_headroom
from elbo_core.reports.paper import DATASET_ORDER, paper_number
from elbo_core.reports.summary import measured

COLUMNS = ["id", "reading", "model", "claim", "paper", "ours", "low", "high", "rule", "verdict"]
SAME = 1.0
"""Rows count as equal when their difference lies within so many points of mIoU."""
EVERY = "the least of all models"
"""What stands for the model of a claim about every model."""


@dataclass(frozen=True)
class Rule:
    """When a claim holds and when it does not, of the 95 % interval of its number; else it is undecided."""

    text: str
    holds: Callable[[Estimate], bool]
    fails: Callable[[Estimate], bool]


RULES: dict[str, Rule] = {
    "more": Rule(
        "holds if the whole interval is above zero, does not hold if it is at or below zero",
        lambda number: number.low > 0,
        lambda number: number.high <= 0,
    ),
    "not less": Rule(
        f"holds if the whole interval is above -{SAME:g} point, does not hold if it is below that",
        lambda number: number.low > -SAME,
        lambda number: number.high < -SAME,
    ),
    "same": Rule(
        f"holds if the whole interval lies within {SAME:g} point of zero, does not hold if it lies outside",
        lambda number: max(-number.low, number.high) <= SAME,
        lambda number: number.low > SAME or number.high < -SAME,
    ),
}
"""By what a claim expects. The only place where they stand: ledger and notebook print these."""


@dataclass(frozen=True)
class Claim:
    """id: a short name; where: its place in the paper; claim: what it says; test: how we test it, empty if we cannot.

    test: `rows: [a, b, ...]`, mIoU of a over the best of the others, by data set less those of `but`; or
        `groups: quantity`, IoU of the (image, class) pairs with more of a quantity over those with less, calibration
        off; or `memory: model`, by how many points the memory of a picture with ten classes stays below that of a
        forward pass and a tenth (`reports.cost`); or `experiment: id`, what a controlled experiment of this id has
        found (`reports.misalignment`, `reports.intervention`); or `edits: metric`, how much more of it edits with
        calibrated maps have (`reports.editing`).
        `across`: how the data sets are put together (`ACROSS`); `table`: of the paper's numbers; `expect`: a rule of
        `RULES`, `more` by default; `attributes`: on the set of Table IV; `models: every`: the least of all models.
    """

    id: str
    where: str
    claim: str
    test: Mapping[str, Any]

    @property
    def rule(self) -> str:
        """The name of the rule of its verdict; of all models if every one is meant."""
        return self.test.get("expect", "more")


def read_claims(path: Path = DATA / "paper" / "claims.yaml") -> list[Claim]:
    """All claims.

    Raises:
        ValueError: two have the same id.
    """
    claims = [Claim(**content) for content in yaml.safe_load(path.read_text())]
    ids = [claim.id for claim in claims]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{path} names a claim twice: {sorted({name for name in ids if ids.count(name) > 1})}")
    return claims


OURS = DATA / "claims_ours.yaml"


def read_all_claims() -> list[Claim]:
    """The paper's claims, then our own, which go by the same rules.

    Raises:
        ValueError: two have the same id.
    """
    paper, ours = read_claims(), read_claims(OURS)
    both = {claim.id for claim in paper} & {claim.id for claim in ours}
    if both:
        raise ValueError(f"{OURS} names claims of the paper: {sorted(both)}; rename them")
    return [*paper, *ours]


def _first_behind(effects: Sequence[Measured]) -> Measured:
    return _mean(effects[1:]) - effects[0]


def _mean(effects: Sequence[Measured]) -> Measured:
    mean = float(np.mean([effect.value for effect in effects]))
    return Measured(mean, np.mean([effect.samples for effect in effects], axis=0))


def _least(effects: Sequence[Measured]) -> Measured:
    values = [effect.value for effect in effects]  # np.min: one that is unknown makes the least unknown
    return Measured(float(np.min(values)), np.min([effect.samples for effect in effects], axis=0))


UNKNOWN = Estimate(math.nan, math.nan, math.nan)
ACROSS: dict[str, Callable[[Sequence[Measured]], Measured]] = {
    "mean": _mean,
    "every set": _least,
    "voc least": _first_behind,
}
"""From the effects on VOC, Context, COCO and ADE20K to one: their mean, the smallest, or the mean of the others over
that on VOC."""


def verdict(number: Estimate, expect: str) -> str:
    """holds, does not hold or undecided, by `RULES`; not tested, if there is no number."""
    if math.isnan(number.value):
        return "not tested"
    rule = RULES[expect]
    return "holds" if rule.holds(number) else "does not hold" if rule.fails(number) else "undecided"


@dataclass(frozen=True)
class Ledger:
    """Tests claims on evaluations by the name of the model and then of the data set.

    model: what claims are about that do not name every model. reading: of the rows (`rows.READINGS`). The four sets of
    `profile` mirror those of the paper's tables, in their order. more: evaluations of more pictures with fewer rows,
    which claims about those rows alone are tested on. experiments: by id and reading, what was found where one thing
    alone was changed.
    """

    evaluations: Mapping[str, Mapping[str, Evaluation]]
    profile: Profile
    model: str
    reading: str = "released"
    more: Mapping[str, Mapping[str, Evaluation]] = field(default_factory=dict)
    experiments: Mapping[tuple[str, str], Measured] = field(default_factory=dict)

    def effect(self, claim: Claim) -> Estimate:
        """The claim's number on our sets; NaN where we have no test for it, or lack a set or a quantity that it needs.

        Raises:
            ValueError: the sets are not those of the paper's tables, in their order.
        """
        if "generation" in claim.test:
            return _generated(self.model, self.profile, claim.test["generation"])[0]
        if "memory" in claim.test:
            headroom = memory_headroom(read_costs(), claim.test["memory"])
            return Estimate(headroom, headroom, headroom)
        if "experiment" in claim.test:
            found = self.experiments.get((claim.test["experiment"], self.reading))
            return UNKNOWN if found is None else found.estimate
        if "edits" in claim.test:
            return _edited(self.profile, claim.test["edits"])
        names, models = self._sets(claim), self._models(claim)
        if not claim.test or not names or any(set(names) - set(self.evaluations[model]) for model in models):
            return UNKNOWN
        if "rows" in claim.test:
            if not all(self._measured(model, name, claim.test) for model in models for name in names):
                return UNKNOWN
            return _together(claim, self._rows, models, names).estimate
        known = all(self._known(model, name, claim.test).shape[0] for model in models for name in names)
        return _together(claim, self._groups, models, names).estimate if known else UNKNOWN

    def paper(self, claim: Claim) -> float:
        """The same number from the paper's table, or NaN where it has none."""
        if "generation" in claim.test:
            return _generated(self.model, self.profile, claim.test["generation"])[1]
        if "table" not in claim.test:
            return math.nan
        names = ("aep",) if "attributes" in claim.test else DATASET_ORDER
        return _together(claim, self._paper, self._models(claim), names).value

    def _models(self, claim: Claim) -> list[str]:
        return list(self.evaluations) if claim.test.get("models") == "every" else [self.model]

    def _sets(self, claim: Claim) -> Sequence[str]:
        """The data sets that a claim is about; none if one of the four is not there."""
        if "attributes" in claim.test:
            return [self.profile.attributes]
        order = tuple(map(mirrored, self.profile.datasets))
        if set(order) < set(DATASET_ORDER):
            return []
        if order != DATASET_ORDER:
            raise ValueError(f"claims need mirrors of {DATASET_ORDER}, got {list(self.profile.datasets)}")
        return self.profile.datasets

    def _paper(self, model: str, name: str, test: Mapping) -> Measured:
        better, *others = _compared(test, name)
        of = functools.partial(paper_number, test["table"], paper_name(model), dataset=mirrored(name))
        effect = of(row=better) - max(of(row=other) for other in others)
        return Measured(effect, np.array([effect]))

    def table(self, claims: Sequence[Claim]) -> pd.DataFrame:
        """One line per claim; columns `COLUMNS`."""
        return pd.DataFrame([self._line(claim) for claim in claims], columns=COLUMNS)

    def _line(self, claim: Claim) -> list:
        number, text = self.effect(claim), f"{claim.claim} ({claim.where})"
        model = self.model if self._models(claim) == [self.model] else EVERY
        judged = verdict(number, claim.rule)
        interval = [number.value, number.low, number.high]
        return [claim.id, self.reading, model, text, self.paper(claim), *interval, claim.rule, judged]

    def _weights(self, name: str, images: int) -> np.ndarray:
        """Resamples of a set's images; other sets are drawn independently, other models on the same images."""
        position = list(self.evaluations[self.model]).index(name)
        return bootstrap_weights(images, self.profile.resamples, self.profile.seed + position)

    def _rows(self, model: str, name: str, test: Mapping) -> Measured:
        evaluation = self._with_rows(model, name, _compared(test, name))
        counts, weights = evaluation.counts, self._weights(name, evaluation.n_images)
        better, *others = [measured(counts[self.reading, row], weights) for row in _compared(test, name)]
        return better - Measured.best(others)

    def _with_rows(self, model: str, name: str, rows: Sequence[str]) -> Evaluation:
        """The evaluation of most pictures that has some rows."""
        more = self.more.get(model, {}).get(name)
        has_all = more is not None and all((self.reading, row) in more.counts for row in rows)
        return more if more is not None and has_all else self.evaluations[model][name]

    def _measured(self, model: str, name: str, test: Mapping) -> bool:
        """Whether the rows of a claim have numbers in this reading: some have one reading only."""
        compared = _compared(test, name)
        counts = self._with_rows(model, name, compared).counts
        return all((self.reading, row) in counts for row in compared)

    def _groups(self, model: str, name: str, test: Mapping) -> Measured:
        evaluation = self._with_rows(model, name, ["off"])
        known, weights = self._known(model, name, test), self._weights(name, evaluation.n_images)
        more = _upper_half(known[test["groups"]])
        return _weighted_mean(known[more], weights) - _weighted_mean(known[~more], weights)

    def _known(self, model: str, name: str, test: Mapping) -> pd.DataFrame:
        """The (image, class) pairs of which the quantity is known, with their IoU, calibration off."""
        evaluation = self._with_rows(model, name, ["off"])
        counts = evaluation.counts[self.reading, "off"]
        ious = pairs(counts, int(miou_by_threshold(counts).argmax()) + 1).drop(columns="area")
        known = ious.merge(evaluation.scores_of("off", self.reading), on=["index", "label"])
        known["fewness"] = -known.groupby("index").label.transform("size")
        return known.dropna(subset=test["groups"])


def _generated(model: str, profile: Profile, metric: str) -> tuple[Estimate, float]:
    """Of a claim about generated pictures, our number and the paper's; unknown where the profile generates none."""
    from elbo_core.reports.generation import claim_number  # only where it is asked: its imports take long

    return claim_number(model, profile, metric) or (UNKNOWN, math.nan)


def _compared(test: Mapping, dataset: str) -> list[str]:
    """The rows that a claim compares on a data set, ours or the paper's: the first with the others."""
    left_out = test.get("but", {}).get(mirrored(dataset), [])
    return [row for row in test["rows"] if row not in left_out]


def _edited(profile: Profile, metric: str) -> Estimate:
    """Of a claim about edits, our number; unknown where the profile edits nothing."""
    from elbo_core.reports.editing import claim_number  # only where it is asked: its imports take long

    return claim_number(profile, metric) or UNKNOWN


def _together(
    claim: Claim, number: Callable[[str, str, Mapping], Measured], models: Sequence[str], names: Sequence[str]
) -> Measured:
    """One number from those on every model and data set that a claim is about."""
    across = ACROSS[claim.test.get("across", "mean")]
    return _least([across([number(model, name, claim.test) for name in names]) for model in models])


def _upper_half(quantity: pd.Series) -> pd.Series:
    """Which values lie in the upper half; those equal to the median do, unless nothing would be left below."""
    middle = quantity.median()
    return quantity >= middle if (quantity < middle).any() else quantity > middle


def _weighted_mean(ious: pd.DataFrame, weights: np.ndarray) -> Measured:
    """The mean IoU of some (image, class) pairs, on resamples [R, n_images]."""
    drawn = weights[:, ious["index"]]
    return Measured(ious.iou.mean(), drawn @ ious.iou.to_numpy() / np.maximum(drawn.sum(axis=1), 1))


def write_ledger(ledger: pd.DataFrame, profile: str, figures: Path = FIGURES) -> list[Path]:
    """Write `figures/<profile>/claims.{csv,md}`; equal numbers give equal bytes."""
    folder = figures / profile
    folder.mkdir(parents=True, exist_ok=True)
    rounded = ledger.round({"paper": 2, "ours": 2, "low": 2, "high": 2})
    rounded.to_csv(folder / "claims.csv", index=False, float_format="%.2f", lineterminator="\n")
    text = rounded.to_markdown(index=False, floatfmt="+.2f").replace("+nan", "    ")
    (folder / "claims.md").write_text(f"{text}\n", encoding="utf-8")
    return [folder / "claims.csv", folder / "claims.md"]
