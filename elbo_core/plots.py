"""One look for all figures, and files whose bytes depend on the numbers alone."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from elbo_core.heatmaps import Heatmaps

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
    _title(axes, title, fontsize=11)
    axes.set_axis_off()


def _title(axes: Axes, text: str, **options) -> None:
    """A title as it is written: "$" in the name of a class begins no formula."""
    axes.set_title(text, parse_math=False, **options)


def show_heatmap(axes: Axes, heatmap: Tensor, title: str = "") -> None:
    """A heatmap [H, W] in [0, 1] on a fixed colour scale."""
    axes.imshow(heatmap, cmap="magma", vmin=0, vmax=1)
    _title(axes, title, fontsize=11)
    axes.set_axis_off()


def color_mask(mask: Tensor | np.ndarray, colors: np.ndarray = CLASS_COLORS) -> np.ndarray:
    """A mask [H, W], 0 background and k the k-th class, as colours [H, W, 3]."""
    labels = np.asarray(mask)
    return np.concatenate([BACKGROUND_COLOR[None], np.resize(colors, (labels.max() + 1, 3))])[labels]


def draw_segmentation(image: Tensor, before: Heatmaps, after: Heatmaps, threshold: float = 0.5) -> Figure:
    """Two rows, before and after calibration: the picture, one heatmap per class, the mask."""
    columns = len(after.classes) + 2
    figure, axes = plt.subplots(2, columns, figsize=(2.1 * columns, 4.8))
    for row, heatmaps, name in ((0, before, "before"), (1, after, "after")):
        show_picture(axes[row, 0], image, name)
        _draw_row(axes[row, 1:], heatmaps, threshold)
    figure.tight_layout()
    return figure


def _draw_row(axes: Sequence[Axes], heatmaps: Heatmaps, threshold: float) -> None:
    for k, name in enumerate(heatmaps.classes):
        show_heatmap(axes[k], heatmaps.values[k], f"{name}  S = {heatmaps.scores[k]:.2f}")
        axes[k].title.set_color(CLASS_COLORS[k % len(CLASS_COLORS)] * 0.85)
    show_picture(axes[-1], color_mask(heatmaps.mask(threshold)), f"mask at {threshold:.2f}")


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
            _title(axes.flat[k], textwrap.fill(titles[k], 26), fontsize=6)
    figure.tight_layout(pad=0.3)
    return figure
