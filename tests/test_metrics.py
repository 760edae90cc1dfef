"""Counts and mIoU against masks made one threshold at a time and scikit-learn's confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, precision_score, recall_score

from elbo_core.heatmaps import Heatmaps
from elbo_core.metrics import (
    METRICS,
    POLICIES,
    at_best_miou,
    bisection,
    count,
    cross_validated,
    everything,
    fixed,
    miou_by_threshold,
    oracle,
    pairs,
    per_label,
    pool,
    stack,
)
from elbo_core.reports.bootstrap import bootstrap_weights

LABELS = 5


def random_image(seed: int, size=(9, 7)):
    rng = np.random.default_rng(seed)
    labels = sorted(rng.choice(np.arange(1, LABELS + 1), size=3, replace=False).tolist())
    values = torch.from_numpy(rng.random((3, *size)).astype(np.float32)) ** 2
    truth = rng.choice([0, 255, *labels], size=size).astype(np.uint8)
    return Heatmaps(("a", "b", "c"), values, torch.ones(3)), labels, truth


@pytest.fixture(scope="module")
def images():
    return [random_image(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def counts(images):
    return stack([count(*image, LABELS) for image in images])


def predictions(images, percent: int) -> tuple[np.ndarray, np.ndarray]:
    """Ground truth and mask of all pixels that count, by thresholding the heatmaps themselves."""
    truths, masks = [], []
    for heatmaps, labels, truth in images:
        mask = np.array([0, *labels])[heatmaps.mask(percent / 100).numpy()]
        truths.append(truth[truth != 255])
        masks.append(mask[truth != 255])
    return np.concatenate(truths), np.concatenate(masks)


@pytest.mark.parametrize("percent", range(1, 100, 7))
def test_counts_equal_the_confusion_matrix(images, counts, percent):
    matrix = confusion_matrix(*predictions(images, percent), labels=range(LABELS + 1))
    sums = pool(counts, everything(counts))
    predicted, right, true = sums.predicted[0], sums.right[0], sums.true[0, :, 0]
    assert np.array_equal(predicted[:, percent - 1], matrix.sum(axis=0))
    assert np.array_equal(right[:, percent - 1], matrix.diagonal())
    assert np.array_equal(true, matrix.sum(axis=1))


def test_miou_equals_scikit_learn_at_all_thresholds(images, counts):
    expected = [100 * jaccard_score(*predictions(images, p), average="macro") for p in range(1, 100)]
    np.testing.assert_allclose(miou_by_threshold(counts), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("metric", "score", "labels"),
    [
        ("miou", jaccard_score, None),
        ("miou_things", jaccard_score, range(1, LABELS + 1)),
        ("precision", precision_score, None),
        ("recall", recall_score, None),
        ("f1", f1_score, None),
    ],
)
@pytest.mark.parametrize("percent", [3, 40, 77])
def test_metrics_equal_scikit_learn(images, counts, metric, score, labels, percent):
    truth, mask = predictions(images, percent)
    expected = 100 * score(truth, mask, average="macro", zero_division=0, labels=None if labels is None else [*labels])
    assert METRICS[metric](pool(counts, everything(counts)))[0, percent - 1] == pytest.approx(expected)


def test_labels_that_never_occur_have_no_metric(images):
    counts = stack([count(*image, LABELS + 2) for image in images])
    values = per_label(pool(counts, everything(counts)), "iou")
    assert np.isnan(values[0, LABELS + 1 :]).all()
    assert np.isfinite(values[0, : LABELS + 1]).all()


def test_cross_validation_equals_a_loop_by_hand(images, counts):
    folds = 3
    parts = [[i for i in range(len(images)) if i % folds == fold] for fold in range(folds)]
    truths, masks = [], []
    for part in parts:
        others = stack([count(*images[i], LABELS) for i in range(len(images)) if i not in part])
        truth, mask = predictions([images[i] for i in part], int(miou_by_threshold(others).argmax()) + 1)
        truths.append(truth)
        masks.append(mask)
    expected = 100 * jaccard_score(np.concatenate(truths), np.concatenate(masks), average="macro")
    assert cross_validated(METRICS["miou"], counts, everything(counts), folds)[0] == pytest.approx(expected)


def test_cross_validation_never_beats_the_oracle(counts):
    weights = bootstrap_weights(6, 50)
    assert (cross_validated(METRICS["f1"], counts, weights, 2) <= oracle(METRICS["f1"], counts, weights) + 1e-9).all()


def test_policies_that_make_no_sense(counts):
    with pytest.raises(ValueError, match=r"percent must be in 1..99, got 0"):
        fixed(0)
    with pytest.raises(ValueError, match="7-fold cross-validation needs as many images, got 6"):
        cross_validated(METRICS["miou"], counts, everything(counts), 7)


def test_pairs_are_the_ious_of_each_image_and_class(images, counts):
    expected = []
    for index, (heatmaps, labels, truth) in enumerate(images):
        mask = np.array([0, *labels])[heatmaps.mask(0.4).numpy()]
        for label in sorted(set(np.unique(truth)) - {0, 255}):
            true, claimed = truth == label, (mask == label) & (truth != 255)
            iou = 100 * (true & claimed).sum() / (true | claimed).sum()
            expected.append((index, label, true.sum() / (truth != 255).sum(), iou))
    found = pairs(counts, 40).sort_values(["index", "label"])
    np.testing.assert_allclose(found[["index", "label", "area", "iou"]], np.array(expected))


def test_by_hand():
    """Class 2 wins the left half (0.9), class 5 the right (0.3), which is background; one pixel is ignored."""
    values = torch.zeros(2, 4, 4)
    values[0, :, :2], values[1, :, 2:] = 0.9, 0.3
    truth = np.zeros((4, 4), np.uint8)
    truth[:, :2] = 2
    truth[0, 0] = 255
    miou = miou_by_threshold(stack([count(Heatmaps(("a", "b"), values, torch.ones(2)), (2, 5), truth, LABELS)]))
    assert miou[50 - 1] == 100, "background 8/8, class 2 7/7; class 5 neither true nor predicted"
    assert miou[20 - 1] == pytest.approx((0 + 100 + 0) / 3), "now class 5 takes the background"
    assert miou[95 - 1] == pytest.approx((100 * 8 / 15 + 0) / 2), "now all is background"


def test_bootstrap_equals_resampling_by_hand(images):
    counts = stack([count(*image, LABELS) for image in images])
    weights = bootstrap_weights(len(images), resamples=5)
    drawn = [np.repeat(np.arange(len(images)), row) for row in weights]
    for row, resample in zip(range(5), drawn, strict=True):
        chosen = stack([count(*images[i], LABELS) for i in resample])
        miou = METRICS["miou"]
        assert oracle(miou, counts, weights)[row] == pytest.approx(miou_by_threshold(chosen).max())
        assert fixed(30)(miou, counts, weights)[row] == pytest.approx(miou_by_threshold(chosen)[29])
        best = METRICS["f1"](pool(chosen, everything(chosen)))[0, miou_by_threshold(chosen).argmax()]
        assert at_best_miou(METRICS["f1"], counts, weights)[row] == pytest.approx(best)
        assert at_best_miou(miou, counts, weights)[row] == oracle(miou, counts, weights)[row]


@pytest.mark.parametrize(("change", "message"), [
    (lambda h, t: (h, t[:-1]), "label map is"),
    (lambda h, t: (h, np.full_like(t, LABELS + 1)), "label 6 is outside"),
    (lambda h, t: (Heatmaps(h.classes, h.values * torch.nan, h.scores), t), "no NaN"),
    (lambda h, t: (Heatmaps(h.classes, h.values + 1, h.scores), t), r"\[0, 1\]"),
    (lambda h, t: (h, t.astype(np.int32) + 65536), "label 65536 is outside|label 655"),
    (lambda h, t: (h, t.astype(np.int16) - 300), "label -"),
])  # fmt: skip
def test_bad_input(change, message):
    heatmaps, labels, truth = random_image(0)
    heatmaps, truth = change(heatmaps, truth)
    with pytest.raises(ValueError, match=message):
        count(heatmaps, labels, truth, LABELS)


@pytest.mark.parametrize("labels", [[1, 2], [1, 2, 2], [1, 2, 3, 4], [0, 1, 2], [-1, 1, 2], [1, 2, LABELS + 1]])
def test_labels_that_are_not_one_for_each_class(labels):
    heatmaps, _, truth = random_image(0)
    with pytest.raises(ValueError, match="label"):
        count(heatmaps, labels, truth, LABELS)


def test_label_maps_of_other_than_whole_numbers():
    heatmaps, labels, truth = random_image(0)
    with pytest.raises(TypeError, match="a label map must hold whole numbers, got float64"):
        count(heatmaps, labels, truth.astype(float), LABELS)


@pytest.mark.parametrize("percent", [0, 100, -1, 0.5, 50.0, "50", True, None])
def test_thresholds_in_percent_are_whole_numbers_from_1_to_99(percent, counts):
    for use in (fixed, lambda percent: pairs(counts, percent)):
        with pytest.raises((TypeError, ValueError), match="a threshold in percent must be"):
            use(percent)


def test_nothing_to_count():
    with pytest.raises(ValueError, match="no counts to stack"):
        stack([])
    with pytest.raises(ValueError, match="number of images must be at least 1"):
        bootstrap_weights(0)
    with pytest.raises(ValueError, match="number of resamples must be at least 1"):
        bootstrap_weights(3, 0)


def test_bisection_finds_the_only_peak_and_may_miss_the_better_of_two(counts):
    places = np.arange(99)
    single = 50.0 - np.abs(places - [[13], [98], [0]])  # three resamples, a peak each
    double = np.maximum(40 - np.abs(places - 20), 50 - 5 * np.abs(places - 90))[None]
    weights = everything(counts)
    assert bisection(lambda sums: single, counts, weights).tolist() == [50, 50, 50]
    assert bisection(lambda sums: double, counts, weights).tolist() == [40], "the released code's search stops there"
    assert bisection(METRICS["miou"], counts, weights)[0] <= oracle(METRICS["miou"], counts, weights)[0]


def test_few_images_are_cross_validated_as_far_as_can_be(images):
    """A run of one to three images must not die at its last table."""
    stacks = [stack([count(*image, LABELS) for image in images[:n]]) for n in (1, 3)]
    single, three = (POLICIES["cross-validated"](METRICS["miou"], counts, everything(counts)) for counts in stacks)
    assert np.isnan(single).all()
    np.testing.assert_array_equal(three, cross_validated(METRICS["miou"], stacks[1], everything(stacks[1]), 3))
