"""One observation per scene, read by every row of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from elbo_core.align import ConstantScore, ElboScore, Heatmaps, Recipe, align
from elbo_core.denoiser import Denoiser
from elbo_core.elbo import ESTIMATORS
from elbo_core.metrics import Counts, Estimate, bootstrap_weights, count, interval, oracle_miou, stack
from elbo_core.observe import Plan, observe
from elbo_core.scene import Scene


def calibration_rows(recipe: Recipe) -> dict[str, Recipe]:
    """Table III's two rows, and the controls that it lacks, for one way of reading the attention."""
    return {
        "off": recipe.off(),
        "on": recipe,
        "constant 1/2": replace(recipe, score=ConstantScore(1 / 2)),
        "constant 1/3": replace(recipe, score=ConstantScore(1 / 3)),
        "velocity": replace(recipe, score=ElboScore("velocity")),
    }


def estimator_rows(recipe: Recipe) -> dict[str, Recipe]:
    """A row per estimator of the class loss, beside calibration off and a constant."""
    controls = {"off": recipe.off(), "constant 1/3": replace(recipe, score=ConstantScore(1 / 3))}
    return controls | {name: replace(recipe, score=ElboScore(name)) for name in ESTIMATORS}


def _in_both_readings(rows: Callable[[Recipe], dict[str, Recipe]]) -> dict[str, Recipe]:
    return rows(Recipe.reference()) | {f"{name}, tuned": recipe for name, recipe in rows(TUNED).items()}


TUNED = replace(Recipe.reference(), layer_weights="up", refinements=())
"""The layers and refinement that read the toy model best with calibration off, chosen on the development split."""

TABLE_3_ROWS = _in_both_readings(calibration_rows)
ESTIMATOR_ROWS = _in_both_readings(estimator_rows)


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a data set yields.

    counts: per row the pixel counts, stacked over images.
    scores: one line per image and candidate class: scene, class, area (share of the labelled pixels), and the
        alignment score of every row in a column of its name.
    """

    counts: dict[str, Counts]
    scores: pd.DataFrame


def evaluate(
    denoiser: Denoiser, scenes: Iterable[Scene], rows: Mapping[str, Recipe], n_labels: int, plan: Plan = Plan()
) -> Evaluation:
    """Observe every scene once and read it by every row.

    Raises:
        ValueError: there is no scene, or a scene has no label map.
    """
    counts: dict[str, list[Counts]] = {name: [] for name in rows}
    scores = []
    for scene in tqdm(scenes, desc="scenes", leave=False, disable=None):
        if scene.label_map is None:
            raise ValueError(f"scene {scene.id!r} has no label map to compare with")
        observation = observe(denoiser, scene, plan)
        heatmaps = {name: align(observation, recipe) for name, recipe in rows.items()}
        for name, maps in heatmaps.items():
            counts[name].append(count(maps, scene.labels, scene.label_map, n_labels))
        scores.append(_scores(scene, heatmaps))
    if not scores:
        raise ValueError("no scenes to evaluate")
    return Evaluation({name: stack(images) for name, images in counts.items()}, pd.concat(scores, ignore_index=True))


def _scores(scene: Scene, heatmaps: Mapping[str, Heatmaps]) -> pd.DataFrame:
    area = [float(np.mean(scene.label_map == label)) for label in scene.labels]
    columns = {name: maps.scores.tolist() for name, maps in heatmaps.items()}
    return pd.DataFrame({"scene": scene.id, "class": scene.classes, "area": area, **columns})


def agreement(scores: pd.DataFrame, row: str, quantity: str, resamples: int, seed: int) -> Estimate:
    """How often, in percent, the class with the higher score in `row` also has the more of `quantity`.

    Over all pairs of classes of one image that differ in both; 50 is chance. The bootstrap draws images.
    """
    pairs = [_concordant(group[row].to_numpy(), group[quantity].to_numpy()) for _, group in scores.groupby("scene")]
    agree, total = np.array(pairs, dtype=float).T
    weights = bootstrap_weights(len(pairs), resamples, seed)
    return interval(100 * agree.sum() / total.sum(), 100 * (weights @ agree) / np.maximum(weights @ total, 1))


def _concordant(score: np.ndarray, quantity: np.ndarray) -> tuple[int, int]:
    """(pairs in the same order, pairs that differ in both)."""
    first, second = np.triu_indices(len(score), k=1)
    signs = np.sign(score[first] - score[second]) * np.sign(quantity[first] - quantity[second])
    return int((signs > 0).sum()), int((signs != 0).sum())


def summarise(counts: Mapping[str, Counts], resamples: int, seed: int) -> pd.DataFrame:
    """mIoU of each row at its best threshold, and its gain over its "off" row on the same resampled images.

    Columns: row, metric ("miou" or "miou_gain"), ours, low, high, n_images.
    """
    n_images = len(next(iter(counts.values())).true)
    weights = bootstrap_weights(n_images, resamples, seed)
    everything = np.ones((1, n_images))
    values = {name: oracle_miou(c, everything)[0] for name, c in counts.items()}
    samples = {name: oracle_miou(c, weights) for name, c in counts.items()}
    records = []
    for name in counts:
        records.append((name, "miou", interval(values[name], samples[name])))
        baseline = "off, tuned" if name.endswith(", tuned") else "off"
        if name != baseline:
            gain = interval(values[name] - values[baseline], samples[name] - samples[baseline])
            records.append((name, "miou_gain", gain))
    return pd.DataFrame([_record(name, metric, estimate, n_images) for name, metric, estimate in records])


def _record(row: str, metric: str, estimate: Estimate, n_images: int) -> dict:
    numbers = {"ours": estimate.value, "low": estimate.low, "high": estimate.high}
    return {"row": row, "metric": metric, **numbers, "n_images": n_images}
