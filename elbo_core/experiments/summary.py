"""From counts and scores to the numbers of a table, each with its interval."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from elbo_core.datasets import mirrored
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.tables import beside_paper, tidy
from elbo_core.metrics import METRICS, POLICIES, Counts, Estimate, bootstrap_weights, everything, interval


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


def summarise(
    counts: Mapping[str, Counts], resamples: int, seed: int, metric: str = "miou", policy: str = "oracle"
) -> pd.DataFrame:
    """A metric of each row under a threshold policy, and its gain over its "off" row on the same resampled images.

    Columns: row, metric (its name, and with "_gain" behind), ours, low, high, n_images.
    """
    n_images = len(next(iter(counts.values())).true)
    weights = bootstrap_weights(n_images, resamples, seed)
    measure = functools.partial(POLICIES[policy], METRICS[metric])
    values = {name: measure(c, everything(c))[0] for name, c in counts.items()}
    samples = {name: measure(c, weights) for name, c in counts.items()}
    records = []
    for name in counts:
        records.append((name, metric, interval(values[name], samples[name])))
        baseline = "off, tuned" if name.endswith(", tuned") else "off"
        if name != baseline:
            gain = interval(values[name] - values[baseline], samples[name] - samples[baseline])
            records.append((name, f"{metric}_gain", gain))
    return pd.DataFrame([_record(name, metric, estimate, n_images) for name, metric, estimate in records])


READINGS = ("", ", tuned")


def compare(
    counts: Mapping[str, Mapping[str, Counts]], rows: Sequence[str], table: str, model: str, paper_model: str,
    profile: Profile,
) -> pd.DataFrame:  # fmt: skip
    """The chosen rows of every data set, in both readings, beside the numbers of a table of the paper; tidy.

    counts: by data set, then by row (`Evaluation.counts`).
    """
    frames = []
    for name, measured in counts.items():
        chosen = {row + reading: measured[row + reading] for reading in READINGS for row in rows}
        frame = summarise(chosen, profile.resamples, profile.seed)
        frames.append(beside_paper(frame, table, paper_model, mirrored(name)).assign(model=model, dataset=name))
    return tidy(pd.concat(frames))


def _record(row: str, metric: str, estimate: Estimate, n_images: int) -> dict:
    numbers = {"ours": estimate.value, "low": estimate.low, "high": estimate.high}
    return {"row": row, "metric": metric, **numbers, "n_images": n_images}
