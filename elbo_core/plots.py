"""One look for all figures, and files whose bytes depend on the numbers alone."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from elbo_core.methods.align import Heatmaps
from elbo_core.segment import Segmentation

CLASS_COLORS = np.array(sns.color_palette("tab10"))
BACKGROUND_COLOR = np.array([0.93, 0.93, 0.93])


def use_style() -> None:
    """Set the look of all figures of this process."""
    sns.set_theme(style="whitegrid", context="notebook", font="DejaVu Sans")
    plt.rcParams.update(
        {"figure.dpi": 72, "savefig.dpi": 160, "svg.hashsalt": "elbo", "image.interpolation": "nearest"}
    )


def save_figure(figure: Figure, path: Path, kinds: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Write `path`.svg and `path`.png without dates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.{kind}") for kind in kinds]
    for file, kind in zip(files, kinds, strict=True):
        figure.savefig(file, bbox_inches="tight", metadata={{"svg": "Date", "png": "Software"}[kind]: None})
    return files


def show_picture(axes: Axes, picture: Tensor | np.ndarray, title: str = "") -> None:
    """A picture [3, H, W] or [H, W, 3] without axes."""
    array = np.asarray(picture)
    axes.imshow(array.transpose(1, 2, 0) if array.shape[0] == 3 else array)
    axes.set_title(title, fontsize=11)
    axes.set_axis_off()


def show_heatmap(axes: Axes, heatmap: Tensor, title: str = "") -> None:
    """A heatmap [H, W] in [0, 1] on a fixed colour scale."""
    axes.imshow(heatmap, cmap="magma", vmin=0, vmax=1)
    axes.set_title(title, fontsize=11)
    axes.set_axis_off()


def color_mask(mask: Tensor | np.ndarray, colors: np.ndarray = CLASS_COLORS) -> np.ndarray:
    """A mask [H, W], 0 background and k the k-th class, as colours [H, W, 3]."""
    labels = np.asarray(mask)
    return np.concatenate([BACKGROUND_COLOR[None], np.resize(colors, (labels.max() + 1, 3))])[labels]


def draw_segmentation(result: Segmentation, threshold: float = 0.5) -> Figure:
    """Two rows, before and after calibration: the picture, one heatmap per class, the mask."""
    classes = result.after.classes
    figure, axes = plt.subplots(2, len(classes) + 2, figsize=(2.1 * (len(classes) + 2), 4.8))
    for row, heatmaps, name in ((0, result.before, "before"), (1, result.after, "after")):
        show_picture(axes[row, 0], result.scene.image, name)
        _draw_row(axes[row, 1:], heatmaps, threshold)
    figure.tight_layout()
    return figure


def _draw_row(axes: Sequence[Axes], heatmaps: Heatmaps, threshold: float) -> None:
    for k, name in enumerate(heatmaps.classes):
        show_heatmap(axes[k], heatmaps.values[k], f"{name}  S = {heatmaps.scores[k]:.2f}")
        axes[k].title.set_color(CLASS_COLORS[k % len(CLASS_COLORS)] * 0.85)
    show_picture(axes[-1], color_mask(heatmaps.mask(threshold)), f"mask at {threshold:.2f}")


def draw_gains(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """The gains over "off" of a tidy table: as released, tuned, and the paper's. A line of panels per model, a column
    per data set."""
    gains = table[table.metric == "miou_gain"]
    models, datasets = list(gains.model.unique()), list(gains.dataset.unique())
    size = (3.2 * len(datasets), (0.42 * len(rows) + 0.6) * len(models) + 0.9)
    figure, axes = plt.subplots(len(models), len(datasets), figsize=size, sharex=True, sharey=True, squeeze=False)
    for line, model in zip(axes, models, strict=True):
        for axis, name in zip(line, datasets, strict=True):
            chosen = gains[(gains.model == model) & (gains.dataset == name)]
            _draw_gains(axis, chosen.set_index("row"), rows)
        line[0].set_yticks(range(len(rows)), rows)
        if len(models) > 1:
            line[0].set_ylabel(model)
    for axis, name in zip(axes[0], datasets, strict=True):
        axis.set_title(name)
    for axis in axes[-1]:
        axis.set_xlabel("gain over off (points)")
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    figure.tight_layout()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=3)
    return figure


def _draw_gains(axis: Axes, lines: pd.DataFrame, rows: Sequence[str]) -> None:
    for suffix, shift, label in (("", -0.16, "as released"), (", tuned", 0.16, "tuned reading")):
        found = lines.reindex([row + suffix for row in rows])
        spread = [found.ours - found.low, found.high - found.ours]
        axis.errorbar(found.ours, np.arange(len(rows)) + shift, xerr=spread, fmt="o", capsize=2, label=label)
    axis.plot(lines.paper.reindex(rows), np.arange(len(rows)) - 0.16, "kD", markersize=5, label="the paper")
    axis.axvline(0, color="0.4", linewidth=1)


def _lines(titles: Sequence[str]) -> int:
    return max((len(textwrap.wrap(title, 26)) for title in titles), default=0)


def contact_sheet(pictures: Sequence[np.ndarray], columns: int, titles: Sequence[str] = ()) -> Figure:
    """Pictures [H, W, 3] in a grid, with small titles if there are any."""
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.5 * columns, 1.5 * rows + 0.11 * _lines(titles) * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for k, picture in enumerate(pictures):
        show_picture(axes.flat[k], picture)
        if titles:
            axes.flat[k].set_title(textwrap.fill(titles[k], 26), fontsize=6)
    figure.tight_layout(pad=0.3)
    return figure
