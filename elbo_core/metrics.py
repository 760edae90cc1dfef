"""From heatmaps to mIoU at all 99 thresholds, without keeping a mask.

Which class wins a pixel does not depend on the threshold, only whether it wins over the background does. So one
histogram of winning scores per class (all its pixels, and the right ones) answers for every threshold at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from elbo_core.checks import check_whole
from elbo_core.heatmaps import Heatmaps
from elbo_core.scene import IGNORED

BINS = 100


@dataclass(frozen=True)
class Counts:
    """Pixel counts of one image, or, with a leading axis, of several sums. Entry 0 of K + 1 labels is the background.

    won, right: int64 [..., K + 1, 100], pixels that a class wins with a score in [b/100, (b+1)/100), all and rightly
        (row 0: all pixels without class, and those of them that are background).
    true: int64 [..., K + 1], pixels that the ground truth gives to each label.
    background: int64 [..., 100], background pixels by their winning score.
    """

    won: np.ndarray
    right: np.ndarray
    true: np.ndarray
    background: np.ndarray


def count(heatmaps: Heatmaps, labels: Sequence[int], label_map: np.ndarray, n_labels: int) -> Counts:
    """Compare heatmaps with a ground truth [H, W] of labels 0..n_labels, 255 ignored; `labels` are the classes' labels.

    Without any class, all is taken for background.

    Raises:
        TypeError: the label map holds something else than whole numbers.
        ValueError: sizes differ, a label is out of range or given twice, or the heatmaps are not in [0, 1].
    """
    values = heatmaps.values.numpy()
    if values.shape[1:] != label_map.shape:
        raise ValueError(f"heatmaps are {values.shape[1:]}, the label map is {label_map.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("heatmaps must lie in [0, 1] and hold no NaN")
    _check_labels(labels, len(values), n_labels)
    if label_map.dtype.kind not in "ui":
        raise TypeError(f"a label map must hold whole numbers, got {label_map.dtype}")
    kept = label_map != IGNORED
    truth = label_map[kept].astype(np.int64)
    wrong = truth[(truth < 0) | (truth > n_labels)]
    if wrong.size:
        raise ValueError(f"label {wrong[0]} is outside 0..{n_labels}")
    if not len(labels):
        values, labels = np.zeros((1, *label_map.shape), np.float32), [0]
    winner = np.asarray(labels)[values.argmax(axis=0)][kept]
    score = np.minimum((values.max(axis=0)[kept] * BINS).astype(np.int64), BINS - 1)
    shape = (n_labels + 1, BINS)
    won = np.bincount(winner * BINS + score, minlength=np.prod(shape)).reshape(shape)
    correct = winner == truth
    right = np.bincount((winner * BINS + score)[correct], minlength=np.prod(shape)).reshape(shape)
    background = np.bincount(score[truth == 0], minlength=BINS)
    return Counts(won, right, np.bincount(truth, minlength=n_labels + 1), background)


def _check_labels(labels: Sequence[int], n_classes: int, n_labels: int) -> None:
    if len(labels) != n_classes or len(set(labels)) != n_classes:
        raise ValueError(f"{n_classes} heatmaps need as many labels, each its own, got {list(labels)}")
    for label in labels:
        check_whole(label, "the label of a class", 1, n_labels)


@dataclass(frozen=True)
class Stack:
    """The counts of many images, L lines of the labels that occur in each: a data set has many labels, a picture few.

    n_images, n_labels: how many there are, background aside. image, label: int64 [L], sorted.
    won, right: uint32 [L, 100], as in `Counts`, but that "right" of label 0 holds the background. true: int64 [L].
    """

    n_images: int
    n_labels: int
    image: np.ndarray
    label: np.ndarray
    won: np.ndarray
    right: np.ndarray
    true: np.ndarray


def stack(counts: Sequence[Counts]) -> Stack:
    """The counts of many images, in their order.

    Raises:
        ValueError: there is no image.
    """
    if not counts:
        raise ValueError("there are no counts to stack; measure at least one image")
    lines = [(k, label) for k, one in enumerate(counts) for label in np.flatnonzero(one.won.any(axis=1) + one.true)]
    image, label = np.array(lines).reshape(-1, 2).T
    right = [one.right.copy() for one in counts]
    for one, own in zip(counts, right, strict=True):
        own[0] = one.background
    won = np.stack([counts[k].won[label] for k, label in lines]).astype(np.uint32)
    true = np.array([counts[k].true[label] for k, label in lines])
    right = np.stack([right[k][label] for k, label in lines]).astype(np.uint32)
    return Stack(len(counts), len(counts[0].true) - 1, image, label, won, right, true)


def confusion(counts: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels predicted and rightly predicted at each threshold, [..., K + 1, 99], and true, [..., K + 1]."""
    predicted = _at_least(counts.won)
    right = _at_least(counts.right)
    everything = counts.won.sum(axis=(-1, -2))[..., None]
    predicted[..., 0, :] = everything - predicted[..., 1:, :].sum(axis=-2)
    right[..., 0, :] = counts.background.sum(axis=-1)[..., None] - _at_least(counts.background)
    return predicted, right, counts.true


def _at_least(histogram: np.ndarray) -> np.ndarray:
    """Histogram [..., 100] -> number of entries at or above each threshold [..., 99]."""
    return histogram[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:]


@dataclass(frozen=True)
class Sums:
    """Pixels of each label, summed over images, in R resamples: predicted, right [R, K + 1, 99]; true [R, K + 1, 1]."""

    predicted: np.ndarray
    right: np.ndarray
    true: np.ndarray

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.predicted + other.predicted, self.right + other.right, self.true + other.true)

    def at(self, threshold: np.ndarray) -> Sums:
        """The sums of each resample at its own `threshold` [R], an index into the 99: shapes [R, K + 1, 1]."""
        place = threshold[:, None, None]
        predicted, right = (np.take_along_axis(part, place, axis=2) for part in (self.predicted, self.right))
        return Sums(predicted, right, self.true)


def pool(counts: Stack, weights: np.ndarray) -> Sums:
    """Sums over images, each as often as `weights` [R, n_images] say."""
    shape = (len(weights), counts.n_labels + 1)
    predicted, right, true = np.zeros((*shape, BINS - 1)), np.zeros((*shape, BINS - 1)), np.zeros(shape)
    everything = np.zeros(len(weights))
    above = [_at_least(part.astype(np.float64)) for part in (counts.won, counts.right)]  # of each line, not resample
    for label in np.unique(counts.label):
        lines = counts.label == label
        often = weights[:, counts.image[lines]].astype(np.float64)
        predicted[:, label], right[:, label] = (often @ part[lines] for part in above)
        true[:, label] = often @ counts.true[lines]
        everything += often @ counts.won[lines].sum(axis=1)
        if label == 0:  # `right` holds the background's pixels there, which are right below the threshold
            right[:, 0] = (often @ counts.right[lines].sum(axis=1))[:, None] - right[:, 0]
    predicted[:, 0] = everything[:, None] - predicted[:, 1:].sum(axis=1)
    return Sums(predicted, right, true[..., None])


PerLabel = Callable[[Sums], tuple[np.ndarray, np.ndarray]]

PER_LABEL: dict[str, PerLabel] = {
    "iou": lambda sums: (sums.right, sums.predicted + sums.true - sums.right),
    "precision": lambda sums: (sums.right, sums.predicted),
    "recall": lambda sums: (sums.right, sums.true),
    "f1": lambda sums: (2 * sums.right, sums.predicted + sums.true),
}
"""By name, numerator and denominator of a label's metric."""


def per_label(sums: Sums, name: str) -> np.ndarray:
    """A metric of each label in percent [R, K + 1, 99]: 0 where it divides by zero, NaN for labels that never occur."""
    numerator, denominator = PER_LABEL[name](sums)
    occurs = sums.predicted + sums.true > 0
    return 100 * np.where(occurs, numerator / np.maximum(denominator, 1), np.nan)


@dataclass(frozen=True)
class Metric:
    """The mean of a per-label metric over the labels that occur in truth or prediction, with or without background."""

    per_label: str
    background: bool = True

    def __call__(self, sums: Sums) -> np.ndarray:
        """In percent, [R, 99]."""
        first = 0 if self.background else 1
        numerator, denominator = PER_LABEL[self.per_label](sums)  # both are 0 for a label that does not occur
        values = numerator[:, first:] / np.maximum(denominator[:, first:], 1)
        occurs = (sums.predicted + sums.true > 0)[:, first:]
        return 100 * values.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)


METRICS = {
    "miou": Metric("iou"),
    "miou_things": Metric("iou", background=False),
    "precision": Metric("precision"),
    "recall": Metric("recall"),
    "f1": Metric("f1"),
}
"""By name; the paper's mIoU counts the background."""


Policy = Callable[[Metric, Stack, np.ndarray], np.ndarray]


def oracle(metric: Metric, counts: Stack, weights: np.ndarray) -> np.ndarray:
    """The metric [R] at the threshold that is best on each resample itself, as the paper reports it."""
    return metric(pool(counts, weights)).max(axis=1)


def at_best_miou(metric: Metric, counts: Stack, weights: np.ndarray) -> np.ndarray:
    """The metric [R] at the threshold where each resample's mIoU is best: one mask for all metrics of a table."""
    sums = pool(counts, weights)
    return metric(sums.at(METRICS["miou"](sums).argmax(axis=1)))[:, 0]


def fixed(percent: int) -> Policy:
    """The policy of one threshold for all.

    Raises:
        TypeError, ValueError: the threshold is not one of 1 to 99 percent.
    """
    percent = _check_percent(percent)
    return lambda metric, counts, weights: metric(pool(counts, weights))[:, percent - 1]


def _check_percent(percent: int) -> int:
    return check_whole(percent, "a threshold in percent", 1, BINS - 1)


def cross_validated(metric: Metric, counts: Stack, weights: np.ndarray, folds: int = 4) -> np.ndarray:
    """The metric [R] when each fold's threshold is the one that is best on the other folds; every fourth image a fold.

    Raises:
        TypeError, ValueError: there are fewer images than folds, or fewer than two folds.
    """
    check_whole(folds, "the number of folds", 2)
    if weights.shape[1] < folds:
        raise ValueError(f"{folds}-fold cross-validation needs as many images, got {weights.shape[1]}")
    fold_of_image = np.arange(weights.shape[1]) % folds
    parts = [pool(counts, weights * (fold_of_image == fold)) for fold in range(folds)]
    chosen = []
    for fold, part in enumerate(parts):
        others = functools.reduce(Sums.__add__, parts[:fold] + parts[fold + 1 :])
        chosen.append(part.at(metric(others).argmax(axis=1)))
    return metric(functools.reduce(Sums.__add__, chosen))[:, 0]


def with_four_folds(metric: Metric, counts: Stack, weights: np.ndarray) -> np.ndarray:
    """`cross_validated` with four folds, or as many as there are images; NaN for a single image, which leaves no other
    to choose the threshold on."""
    folds = min(4, counts.n_images)
    return cross_validated(metric, counts, weights, folds) if folds > 1 else np.full(len(weights), np.nan)


def bisection(metric: Metric, counts: Stack, weights: np.ndarray) -> np.ndarray:
    """The metric [R] where the released code's search ends: it halves 1..99 % by the sign of the slope.

    That is the best threshold only if the curve has a single peak. Source: `evaluate_segmentation.py:297-324`.
    """
    curves = metric(pool(counts, weights))
    low, high = np.zeros(len(curves), int), np.full(len(curves), curves.shape[1] - 1)
    every = np.arange(len(curves))
    while (low < high).any():
        middle = (low + high) // 2
        rises = curves[every, np.minimum(middle + 1, high)] > curves[every, middle]
        low, high = np.where(rises, middle + 1, low), np.where(rises, high, middle)
    return curves[every, low]


POLICIES: dict[str, Policy] = {
    "oracle": oracle,
    "best miou": at_best_miou,
    "cross-validated": with_four_folds,
    "fixed 50": fixed(50),
    "bisection": bisection,
}


def everything(counts: Stack) -> np.ndarray:
    """The weights [1, n_images] that take each image once."""
    return np.ones((1, counts.n_images))


def miou_by_threshold(counts: Stack) -> np.ndarray:
    """mIoU in percent [99] of a stack of images, at thresholds of 1 to 99 percent."""
    return METRICS["miou"](pool(counts, everything(counts)))[0]


def pairs(counts: Stack, percent: int) -> pd.DataFrame:
    """IoU at one threshold of each (image, label) of the truth, background aside.

    Columns: index (of the image), label, area (share of the image), iou (percent).

    Raises:
        TypeError, ValueError: the threshold is not one of 1 to 99 percent.
    """
    percent = _check_percent(percent)
    things = (counts.label > 0) & (counts.true > 0)
    image, label, area = counts.image[things], counts.label[things], counts.true[things]
    claimed, hit = (part[things, percent:].sum(axis=1, dtype=np.int64) for part in (counts.won, counts.right))
    whole = np.bincount(counts.image, counts.true)[image]
    shares = {"area": area / whole, "iou": 100 * hit / (claimed + area - hit)}
    return pd.DataFrame({"index": image, "label": label} | shares)


def mask_ious(mask: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """The IoU in percent [classes] of one mask [H, W] with its truth [H, W], 0 background and k the k-th class, pixels
    that are `IGNORED` in the truth aside; NaN for a class that is in neither."""
    kept = truth != IGNORED
    found, true = mask[kept], truth[kept]
    both = np.array([((found == k) & (true == k)).sum() for k in range(1, classes + 1)])
    either = np.array([((found == k) | (true == k)).sum() for k in range(1, classes + 1)])
    return np.where(either > 0, 100 * both / np.maximum(either, 1), np.nan)
