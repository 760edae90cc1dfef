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
    that are best on the data set's measured pictures, which these are none of. Rows without a number are left out."""
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
    """Figure 3: a line for each scene with the picture and every method's heatmap of the class it was chosen for."""
    figure, axes = _grid(len(chosen), 1 + len(read[0]))
    for line, one, methods in zip(axes, chosen, read, strict=True):
        name = subject(one)
        place = one.scene.classes.index(name)
        show_picture(line[0], one.scene.image, f"{one.rule}:\n{name}")
        line[0].contour(one.scene.truth == place + 1, [0.5], colors="white", linewidths=1)
        for axis, (method, _, heatmaps) in zip(line[1:], methods, strict=True):
            show_heatmap(axis, heatmaps.values[place], method.replace(", ", ",\n"))
    scale = figure.colorbar(axes[0, 1].images[0], ax=axes, shrink=0.5, aspect=30, pad=0.01)
    scale.set_label("heatmap", fontsize=10)
    return describe(
        figure,
        f"Heatmaps of {', '.join(subject(one) for one in chosen)} by {'; '.join(name for name, *_ in read[0])}, one "
        "line per scene; the true outline is drawn on the picture",
    )


def draw_masks(chosen: Sequence[Chosen], read: Sequence[Read]) -> Figure:
    """Figure 4: a line for each scene with the picture, the truth and every method's mask with its mean IoU."""
    figure, axes = _grid(len(chosen), 2 + len(read[0]))
    best: list[str] = []
    for line, one, methods in zip(axes, chosen, read, strict=True):
        show_picture(line[0], one.scene.image, one.rule)
        axes_legend(line[0], one.scene.classes)
        show_picture(line[1], color_mask(one.scene.truth), "truth")
        ious = [mean_iou(one, heatmaps, cut) for _, cut, heatmaps in methods]
        best.append(methods[int(np.argmax(ious))][0])
        for axis, (method, cut, heatmaps), iou in zip(line[2:], methods, ious, strict=True):
            show_picture(axis, color_mask(heatmaps.mask(cut)), f"{method.replace(', ', chr(10))}\nIoU {iou:.0f} %")
    title = "Best mask: " + "; ".join(f"{one.rule}: {name}" for one, name in zip(chosen, best, strict=True))
    figure.suptitle(title)
    return describe(figure, f"{title}. Masks of every method beside picture and truth, with the IoU of each.")


def mean_iou(one: Chosen, heatmaps: Heatmaps, threshold: float) -> float:
    """The mean IoU, in percent, of a scene's classes, background aside."""
    ious = mask_ious(heatmaps.mask(threshold).numpy(), one.scene.truth, len(one.scene.classes))
    return float(np.nanmean(ious))


def _grid(lines: int, columns: int) -> tuple[Figure, np.ndarray]:
    size = (1.75 * columns, 2.5 * lines + 0.4)
    return plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
