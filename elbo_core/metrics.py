"""From heatmaps to mIoU at all 99 thresholds, with bootstrap intervals over images, without keeping a mask.

Which class wins a pixel does not depend on the threshold, only whether it wins over the background does. So one
histogram of winning scores per class (all its pixels, and the right ones) answers for every threshold at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elbo_core.align import Heatmaps

BINS = 100
THRESHOLDS = np.arange(1, BINS)
"""Thresholds in percent."""
IGNORED = 255


@dataclass(frozen=True)
class Counts:
    """Pixel counts of one image, or, with a leading axis, of many. Entry 0 of K + 1 labels is the background.

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

    Raises:
        ValueError: sizes differ, a label is out of range, or the heatmaps are not in [0, 1].
    """
    values = heatmaps.values.numpy()
    if values.shape[1:] != label_map.shape:
        raise ValueError(f"heatmaps are {values.shape[1:]}, the label map is {label_map.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("heatmaps must lie in [0, 1] and hold no NaN")
    kept = label_map != IGNORED
    truth = label_map[kept].astype(np.int64)
    if truth.size and truth.max() > n_labels:
        raise ValueError(f"label {truth.max()} is outside 0..{n_labels}")
    winner = np.asarray(labels)[values.argmax(axis=0)][kept]
    score = np.minimum((values.max(axis=0)[kept] * BINS).astype(np.int64), BINS - 1)
    shape = (n_labels + 1, BINS)
    won = np.bincount(winner * BINS + score, minlength=np.prod(shape)).reshape(shape)
    correct = winner == truth
    right = np.bincount((winner * BINS + score)[correct], minlength=np.prod(shape)).reshape(shape)
    background = np.bincount(score[truth == 0], minlength=BINS)
    return Counts(won, right, np.bincount(truth, minlength=n_labels + 1), background)


def stack(counts: Sequence[Counts]) -> Counts:
    """The counts of many images with a leading image axis."""
    return Counts(*(np.stack([getattr(c, name) for c in counts]) for name in ("won", "right", "true", "background")))


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


def mean_iou(predicted: np.ndarray, right: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Mean IoU in percent over the labels, background included, that occur in truth or prediction: [..., 99]."""
    union = predicted + true[..., None] - right
    with np.errstate(invalid="ignore"):
        iou = np.where(union > 0, right / np.maximum(union, 1), np.nan)
    return 100 * np.nanmean(iou, axis=-2)


def miou_by_threshold(counts: Counts) -> np.ndarray:
    """mIoU in percent [99] of a stack of images, at thresholds of 1 to 99 percent."""
    return mean_iou(*(part.sum(axis=0) for part in confusion(counts)))


@dataclass(frozen=True)
class Estimate:
    """A measured number with its 95 % bootstrap interval over images."""

    value: float
    low: float
    high: float


def bootstrap_weights(n_images: int, resamples: int = 1000, seed: int = 4307) -> np.ndarray:
    """How often each image is drawn in each resample, [resamples, n_images]. One matrix for all rows pairs them."""
    draws = np.random.default_rng(seed).integers(n_images, size=(resamples, n_images))
    return np.stack([np.bincount(row, minlength=n_images) for row in draws])


def oracle_miou(counts: Counts, weights: np.ndarray) -> np.ndarray:
    """mIoU [R] of each resample at the threshold that is best on that resample, as the paper reports it."""
    return _resampled_miou(counts, weights).max(axis=-1)


def fixed_miou(counts: Counts, weights: np.ndarray, threshold: int) -> np.ndarray:
    """mIoU [R] of each resample at a given threshold in percent."""
    return _resampled_miou(counts, weights)[:, threshold - 1]


def _resampled_miou(counts: Counts, weights: np.ndarray) -> np.ndarray:
    parts = [part.astype(np.float64) for part in confusion(counts)]
    return mean_iou(*(np.tensordot(weights, part, axes=1) for part in parts))


def interval(value: float, samples: np.ndarray) -> Estimate:
    """The 95 % percentile interval of bootstrap `samples` around the value measured on all images."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))
