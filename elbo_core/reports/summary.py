"""From counts and scores to the numbers of a table, each with its interval."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd

from elbo_core.datasets import mirrored
from elbo_core.diffusion.registry import paper_name
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.records import Evaluation
from elbo_core.experiments.rows import RowId
from elbo_core.metrics import METRICS, POLICIES, Stack, everything
from elbo_core.reports.bootstrap import Estimate, Measured, bootstrap_weights, interval
from elbo_core.reports.paper import beside_paper

COLUMNS = ["model", "dataset", "reading", "row", "metric", "paper", "ours", "low", "high", "n_images"]
"""Of a tidy table."""
Lead = tuple[str, str]
"""A row, and the one that it is compared with."""


def agreement(scores: pd.DataFrame, quantity: str, resamples: int, seed: int) -> Estimate:
    """How often, in percent, the class with the higher alignment score also has the more of `quantity`.

    scores: the lines of one row (`Evaluation.scores_of`). Over all pairs of classes of one image that differ in both;
    50 is chance, and NaN says that there is no such pair. The bootstrap draws images.
    """
    images = scores.groupby("scene")
    pairs = [_concordant(image.score.to_numpy(), image[quantity].to_numpy()) for _, image in images]
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


def measured(counts: Stack, weights: np.ndarray, metric: str = "miou", policy: str = "oracle") -> Measured:
    """A metric under a threshold policy on all images of `counts` and on the resamples `weights` [R, n_images]."""
    score = functools.partial(POLICIES[policy], METRICS[metric])
    return Measured(score(counts, everything(counts))[0], score(counts, weights))


def summarise(
    counts: Mapping[RowId, Stack], resamples: int, seed: int, metric: str = "miou", policy: str = "oracle",
    best_of: Mapping[str, Sequence[str]] = MappingProxyType({}), leads: Mapping[str, Lead] = MappingProxyType({}),
) -> pd.DataFrame:  # fmt: skip
    """A metric of each row under a threshold policy, and its gain over the row "off" of its reading on the same
    resampled images.

    best_of: further rows of each reading, each the best of the named ones (`Measured.best`).
    leads: further gains of each reading that has both, each that of a row over another one instead of over "off".
    Columns: reading, row, metric (its name, and with "_gain" behind), ours, low, high, n_images.
    """
    n_images = next(iter(counts.values())).n_images
    weights = bootstrap_weights(n_images, resamples, seed)
    rows = {place: measured(stack, weights, metric, policy) for place, stack in counts.items()}
    for reading in dict.fromkeys(reading for reading, _ in counts):
        for name, candidates in best_of.items():
            rows[reading, name] = Measured.best([rows[reading, candidate] for candidate in candidates])
    records = []
    for (reading, name), row in rows.items():
        numbers = {metric: row} if name == "off" else {metric: row, f"{metric}_gain": row - rows[reading, "off"]}
        records += [_record(reading, name, called, number.estimate, n_images) for called, number in numbers.items()]
    for reading in dict.fromkeys(reading for reading, _ in counts):
        for name, (better, other) in leads.items():
            if not {(reading, better), (reading, other)} <= set(rows):
                continue
            lead = rows[reading, better] - rows[reading, other]
            records.append(_record(reading, name, f"{metric}_gain", lead.estimate, n_images))
    return pd.DataFrame(records).sort_values("reading", key=_order_of(counts), kind="stable", ignore_index=True)


def _order_of(counts: Mapping[RowId, Stack]) -> Callable[[pd.Series], pd.Series]:
    """A sorting key that keeps the readings in the order in which they come."""
    order = {reading: k for k, reading in enumerate(dict.fromkeys(reading for reading, _ in counts))}
    return lambda readings: readings.map(order)


def _record(reading: str, row: str, metric: str, estimate: Estimate, n_images: int) -> dict:
    numbers = {"ours": estimate.value, "low": estimate.low, "high": estimate.high}
    return {"reading": reading, "row": row, "metric": metric, **numbers, "n_images": n_images}


def compare(
    evaluations: Mapping[str, Mapping[str, Evaluation]], rows: Sequence[str], table: str, profile: Profile,
    metric: str = "miou", best_of: Mapping[str, Sequence[str]] = MappingProxyType({}),
    leads: Mapping[str, Lead] = MappingProxyType({}),
) -> pd.DataFrame:  # fmt: skip
    """The chosen rows of every model and data set, in every reading that they have, beside the numbers of a table of
    the paper; tidy.

    Whatever the metric, the threshold is that of the best mIoU. evaluations: by model, then by data set. best_of,
    leads: as for `summarise`. A row whose method is not defined for a model has no line there.

    Raises:
        ValueError: a row was not measured, or "off" is not among them.
    """
    frames = []
    for model, sets in evaluations.items():
        for name, evaluation in sets.items():
            readings = dict.fromkeys(reading for reading, _ in evaluation.counts)
            _check_rows(rows, evaluation)
            places = [(reading, row) for reading in readings for row in rows if (reading, row) in evaluation.counts]
            chosen = {place: evaluation.counts[place] for place in places}
            frame = summarise(chosen, profile.resamples, profile.seed, metric, "best miou", best_of, leads)
            frame = beside_paper(frame, table, paper_name(model), mirrored(name), leads)
            frames.append(frame.assign(model=model, dataset=name))
    return tidy(pd.concat(frames))


def _check_rows(rows: Sequence[str], evaluation: Evaluation) -> None:
    known = {row for _, row in (*evaluation.counts, *evaluation.undefined)}
    if set(rows) - known or "off" not in rows:
        raise ValueError(f"rows must be measured and name 'off', got {list(rows)}; measured: {sorted(known)}")


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns in the common order, numbers rounded to 0.01.

    Raises:
        ValueError: a column is missing.
    """
    missing = set(COLUMNS) - set(frame.columns)
    if missing:
        raise ValueError(f"a tidy table needs the columns {sorted(missing)} too")
    return frame[COLUMNS].round({"paper": 2, "ours": 2, "low": 2, "high": 2}).reset_index(drop=True)
