"""From counts and scores to the numbers of a table, each with its interval."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from elbo_core.datasets import mirrored
from elbo_core.diffusion.models import paper_name
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.rows import READINGS, reading
from elbo_core.experiments.run import Evaluation
from elbo_core.metrics import METRICS, POLICIES, Estimate, Stack, bootstrap_weights, everything, interval
from elbo_core.reports.tables import beside_paper, tidy


def agreement(scores: pd.DataFrame, row: str, quantity: str, resamples: int, seed: int) -> Estimate:
    """How often, in percent, the class with the higher score in `row` also has the more of `quantity`.

    Over all pairs of classes of one image that differ in both; 50 is chance, and NaN says that there is no such pair.
    The bootstrap draws images.
    """
    pairs = [_concordant(group[row].to_numpy(), group[quantity].to_numpy()) for _, group in scores.groupby("scene")]
    agree, total = np.array(pairs, dtype=float).T
    if not total.any():
        return Estimate(np.nan, np.nan, np.nan)
    weights = bootstrap_weights(len(pairs), resamples, seed)
    return interval(100 * agree.sum() / total.sum(), 100 * (weights @ agree) / np.maximum(weights @ total, 1))


def _concordant(score: np.ndarray, quantity: np.ndarray) -> tuple[int, int]:
    """(pairs in the same order, pairs that differ in both); what is NaN is not compared."""
    first, second = np.triu_indices(len(score), k=1)
    signs = np.sign(score[first] - score[second]) * np.sign(quantity[first] - quantity[second])
    return int((signs > 0).sum()), int((np.abs(signs) > 0).sum())


@dataclass(frozen=True)
class Measured:
    """A number measured on all images, and on each resample of them, float64 [R]. Differences are paired."""

    value: float
    samples: np.ndarray

    def __sub__(self, other: Measured) -> Measured:
        return Measured(self.value - other.value, self.samples - other.samples)

    @property
    def estimate(self) -> Estimate:
        return interval(self.value, self.samples)

    @staticmethod
    def best(candidates: Sequence[Measured]) -> Measured:
        """The highest of several, chosen on the images themselves and anew on each resample: an upper bound."""
        samples = np.max([candidate.samples for candidate in candidates], axis=0)
        return Measured(max(candidate.value for candidate in candidates), samples)


def measure(counts: Stack, weights: np.ndarray, metric: str = "miou", policy: str = "oracle") -> Measured:
    """A metric under a threshold policy on all images of `counts` and on the resamples `weights` [R, n_images]."""
    score = functools.partial(POLICIES[policy], METRICS[metric])
    return Measured(score(counts, everything(counts))[0], score(counts, weights))


def summarise(
    counts: Mapping[str, Stack], resamples: int, seed: int, metric: str = "miou", policy: str = "oracle",
    best_of: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> pd.DataFrame:  # fmt: skip
    """A metric of each row under a threshold policy, and its gain over its "off" row on the same resampled images.

    best_of: further rows, each the best of the named ones (`Measured.best`).
    Columns: row, metric (its name, and with "_gain" behind), ours, low, high, n_images.
    """
    n_images = next(iter(counts.values())).n_images
    weights = bootstrap_weights(n_images, resamples, seed)
    rows = {name: measure(c, weights, metric, policy) for name, c in counts.items()}
    rows |= {name: Measured.best([rows[one] for one in candidates]) for name, candidates in best_of.items()}
    records = []
    for name, row in rows.items():
        records.append(_record(name, metric, row.estimate, n_images))
        baseline = "off" + reading(name)
        if name != baseline:
            records.append(_record(name, f"{metric}_gain", (row - rows[baseline]).estimate, n_images))
    return pd.DataFrame(records)


def compare(
    evaluations: Mapping[str, Mapping[str, Evaluation]], rows: Sequence[str], table: str, profile: Profile,
    metric: str = "miou", best_of: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> pd.DataFrame:  # fmt: skip
    """The chosen rows of every model and data set, in both readings, beside the numbers of a table of the paper; tidy.

    Whatever the metric, the threshold is that of the best mIoU. evaluations: by model, then by data set; best_of: as
    for `summarise`.
    """
    both = {name + end: [one + end for one in candidates] for end in READINGS for name, candidates in best_of.items()}
    frames = []
    for model, sets in evaluations.items():
        for name, evaluation in sets.items():
            chosen = {row + end: evaluation.counts[row + end] for end in READINGS for row in rows}
            frame = summarise(chosen, profile.resamples, profile.seed, metric, "best miou", both)
            frame = beside_paper(frame, table, paper_name(model), mirrored(name))
            frames.append(frame.assign(model=model, dataset=name))
    return tidy(pd.concat(frames))


def _record(row: str, metric: str, estimate: Estimate, n_images: int) -> dict:
    numbers = {"ours": estimate.value, "low": estimate.low, "high": estimate.high}
    return {"row": row, "metric": metric, **numbers, "n_images": n_images}
