"""Figures 3 and 4: heatmaps and masks of all methods beside picture and truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.experiments.records import Evaluation
from elbo_core.experiments.rows import Row, plan_of
from elbo_core.experiments.run import read_rows
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.observe import observe
from elbo_core.metrics import mask_ious
from elbo_core.plots import axes_legend, color_mask, describe, show_heatmap, show_picture
from elbo_core.reports.baselines import in_words
from elbo_core.reports.examples import best_threshold
from elbo_core.reports.scenes import RULES, Chosen

Read = list[tuple[str, float, Heatmaps]]
"""By method: its name, its threshold, its heatmaps."""


def read_scenes(
    denoiser: Denoiser, chosen: Sequence[Chosen], rows: Sequence[Row], evaluations: Mapping[str, Evaluation]
) -> list[Read]:
    """What each row makes of each scene; a scene is observed once. evaluations: by data set, for the thresholds: those
    that are best on all measured pictures of the data set. Rows without a number are left out."""
    found = []
    for one in chosen:
        evaluation = evaluations[one.dataset]
        known = [row for row in rows if row.id in evaluation.counts]
        heatmaps = read_rows(observe(denoiser, one.scene, plan_of(known)), known)
        cuts = [best_threshold(evaluation, row.name, row.reading) / 100 for row in known]
        names = [in_words(row.name, row.reading) for row in known]
        maps = [heatmaps[row.definition] for row in known]
        found.append(list(zip(names, cuts, maps, strict=True)))
    return found


def subject(one: Chosen) -> str:
    """The class for which a scene was chosen: the first that meets its rule."""
    return next(name for name in one.scene.classes if RULES[one.rule](one.scene, name))


def draw_heatmaps(chosen: Sequence[Chosen], read: Sequence[Read]) -> Figure:
    """Figure 3: a column for each scene, with the true outline of the class it was chosen for on the picture, and below
    it every method's heatmap of that class."""
    figure, axes = _grid([name for name, *_ in read[0]], ["picture"], len(chosen))
    for column, one, methods in zip(axes.T, chosen, read, strict=True):
        place = one.scene.classes.index(subject(one))
        show_picture(column[0], one.scene.image, f"{one.rule}:\n{subject(one)}")
        column[0].contour(one.scene.truth == place + 1, [0.5], colors="white", linewidths=1.5)
        for axis, (*_, heatmaps) in zip(column[1:], methods, strict=True):
            show_heatmap(axis, heatmaps.values[place])
    scale = figure.colorbar(axes[1, 0].images[0], ax=axes, location="bottom", shrink=0.5, aspect=30, pad=0.01)
    scale.set_label("heatmap, each on a scale of its own from 0 to 1", fontsize=10)
    return describe(
        figure,
        f"Heatmaps of {', '.join(subject(one) for one in chosen)} by {'; '.join(name for name, *_ in read[0])}: one "
        "column per scene, below the picture with the true outline",
    )


def draw_masks(chosen: Sequence[Chosen], read: Sequence[Read]) -> Figure:
    """Figure 4: a column for each scene with picture and truth, and below them every method's mask with its mean IoU;
    the best of a scene in bold."""
    figure, axes = _grid([name for name, *_ in read[0]], ["picture", "truth"], len(chosen))
    best: list[str] = []
    for column, one, methods in zip(axes.T, chosen, read, strict=True):
        show_picture(column[0], one.scene.image, one.rule)
        show_picture(column[1], color_mask(one.scene.truth))
        axes_legend(column[1], one.scene.classes)
        column[1].get_legend().set_ncols(2)
        ious = [mean_iou(one, heatmaps, cut) for _, cut, heatmaps in methods]
        best.append(methods[int(np.argmax(ious))][0])
        for axis, (_, cut, heatmaps), iou in zip(column[2:], methods, ious, strict=True):
            show_picture(axis, color_mask(heatmaps.mask(cut)), f"IoU {iou:.0f} %")
            axis.title.set_weight("bold" if iou == max(ious) else "normal")
    figure.suptitle("Best: " + "; ".join(f"{one.rule}, {name}" for one, name in zip(chosen, best, strict=True)),
                    fontsize=11, wrap=True)  # fmt: skip
    return describe(figure, f"{figure.get_suptitle()}. Masks of every method below picture and truth, with their IoU.")


def mean_iou(one: Chosen, heatmaps: Heatmaps, threshold: float) -> float:
    """The mean IoU, in percent, of a scene's classes, background aside."""
    ious = mask_ious(heatmaps.mask(threshold).numpy(), one.scene.truth, len(one.scene.classes))
    return float(np.nanmean(ious))


def _grid(methods: Sequence[str], above: Sequence[str], scenes: int) -> tuple[Figure, np.ndarray]:
    """A line for each of `above` and of the methods, which it names at the left; a column for each scene."""
    names = [*above, *methods]
    figure, axes = plt.subplots(
        len(names), scenes, figsize=(1.9 * scenes + 1.8, 2.0 * len(names)), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.text(-0.06, 0.5, name.replace(", ", ",\n"), va="center", ha="right", transform=axis.transAxes, fontsize=11)
    return figure, axes
