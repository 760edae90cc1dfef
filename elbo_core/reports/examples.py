"""Two pictures beside every number: the one that a row helps most, and the one that it harms most, by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elbo_core.datasets import open_dataset
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.records import Evaluation
from elbo_core.experiments.rows import Row, plan_of, rows_of
from elbo_core.experiments.run import read_rows
from elbo_core.heatmaps import Heatmaps
from elbo_core.metrics import mask_ious, miou_by_threshold, pairs
from elbo_core.plots import axes_legend, color_mask, describe, show_picture
from elbo_core.reports.labels import label
from elbo_core.scene import Scene


@dataclass(frozen=True)
class Example:
    """A picture of a data set, by its index, and by how many points a row changes the mean IoU of its classes."""

    index: int
    change: float


def changes(evaluation: Evaluation, row: str, over: str, reading: str) -> pd.Series:
    """By index of the picture: the change in the mean IoU of its classes from the row `over` to `row`, in points, each
    at its best threshold for all pictures."""
    first, second = (_ious(evaluation, name, reading) for name in (over, row))
    return (second - first).dropna()


def _ious(evaluation: Evaluation, row: str, reading: str) -> pd.Series:
    counts = evaluation.counts[reading, row]
    return pairs(counts, best_threshold(evaluation, row, reading)).groupby("index").iou.mean()


def best_threshold(evaluation: Evaluation, row: str, reading: str) -> int:
    """The threshold, in percent, with the best mIoU over all pictures."""
    return int(miou_by_threshold(evaluation.counts[reading, row]).argmax()) + 1


def extremes(evaluation: Evaluation, row: str = "on", over: str = "off", reading: str = "released") -> list[Example]:
    """The pictures that gain and lose most, in this order; the first of those that tie."""
    change = changes(evaluation, row, over, reading)
    return [Example(int(index), float(change[index])) for index in (change.idxmax(), change.idxmin())]


def example_pictures(
    evaluations: Mapping[str, Mapping[str, Evaluation]],
    profile: Profile,
    batches: Sequence[str] = ("models",),
    model: str | None = None,
    dataset: str | None = None,
    row: str = "on",
    over: str = "off",
    reading: str = "late layers",
) -> Figure:
    """Draw the two `extremes` of a model and data set: picture, truth, and the masks of both rows with their IoU.

    evaluations: as `Regenerated.evaluations`; batches: where the rows are defined (`Table.batches`). Without a name
    it is the first model, and the data set whose pictures hold most classes.

    Raises:
        KeyError: the model, data set or row was not measured.
    """
    model = model or next(iter(evaluations))
    dataset = dataset or _most_crowded(evaluations[model], profile.datasets)
    evaluation = evaluations[model][dataset]
    rows = {found.name: found for batch in batches for found in rows_of(batch) if found.reading == reading}
    chosen = extremes(evaluation, row, over, reading)
    data = open_dataset(dataset, "test", 1 + max(example.index for example in chosen))
    scenes = [data.read(example.index) for example in chosen]
    masks = _masks(model, scenes, (rows[over], rows[row]), evaluation)
    figure = _draw(scenes, masks, chosen, (over, row))
    figure.suptitle(
        f"{model}, {dataset}: “{label(row)}” against “{label(over)}”, the best and the worst case", fontsize=12
    )
    found = ", ".join(map(_points, chosen))
    figure.canvas.draw()  # settles the layout
    plt.close(figure)  # or a notebook would show it here and where it is asked for
    return describe(
        figure,
        f"Two pictures of {dataset}, each with its truth and the masks of {model} with {label(over)} and {label(row)}: "
        f"the picture that gains most and the one that loses most ({found})",
    )


def _most_crowded(evaluations: Mapping[str, Evaluation], datasets: Sequence[str]) -> str:
    """The data set whose pictures have most candidate classes: there calibration has most to do."""
    known = [name for name in (*datasets, *evaluations) if name in evaluations]
    return max(known, key=lambda name: _crowd(evaluations[name]))


def _crowd(evaluation: Evaluation) -> float:
    """The mean number of candidate classes of a picture."""
    (reading, row), *_ = evaluation.counts
    return float(evaluation.scores_of(row, reading).groupby("index").size().mean())


def _points(example: Example) -> str:
    return f"{round(example.change) + 0.0:+.0f} points of IoU"


Cut = tuple[int, Heatmaps]
"""A threshold in percent, and the heatmaps that it cuts."""


def _masks(model: str, scenes: Sequence[Scene], rows: Sequence[Row], evaluation: Evaluation) -> list[list[Cut]]:
    """For each scene and row what makes its mask. The thresholds are those of the whole data set."""
    from elbo_core.diffusion.models import load  # takes seconds to import: not where nothing is drawn
    from elbo_core.methods.observe import observe

    denoiser, plan = load(model), plan_of(rows)
    thresholds = [best_threshold(evaluation, row.name, row.reading) for row in rows]
    heatmaps = [read_rows(observe(denoiser, scene, plan), rows) for scene in scenes]
    return [[(cut, maps[row.definition]) for cut, row in zip(thresholds, rows, strict=True)] for maps in heatmaps]


def _draw(
    scenes: Sequence[Scene], masks: Sequence[Sequence[Cut]], chosen: Sequence[Example], names: Sequence[str]
) -> Figure:
    """A line for each scene: picture, truth, a mask for each name."""
    size = (2.6 * (2 + len(names)), 3.6 * len(scenes) + 0.6)
    figure, axes = plt.subplots(len(scenes), 2 + len(names), figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)
    for line, scene, cuts, example in zip(axes, scenes, masks, chosen, strict=True):
        show_picture(line[0], scene.image, _points(example))
        show_picture(line[1], color_mask(scene.truth), "truth")
        axes_legend(line[0], scene.classes)
        for axis, (percent, heatmaps), name in zip(line[2:], cuts, names, strict=True):
            _show_mask(axis, heatmaps.mask(percent / 100).numpy(), scene, label(name))
    return figure


def _show_mask(axis: Axes, mask: np.ndarray, scene: Scene, name: str) -> None:
    ious = mask_ious(mask, scene.truth, len(scene.classes))
    show_picture(axis, color_mask(mask), f"{name}\nIoU {np.nanmean(ious):.0f} %")
