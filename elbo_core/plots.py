"""One look for all figures, and files whose bytes depend on the numbers alone."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.core.pylabtools import print_figure
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from torch import Tensor

from elbo_core.heatmaps import Heatmaps
from elbo_core.scene import IGNORED

PALETTE = "colorblind"
"""Of seaborn: its colours stay apart for readers who tell red from green badly."""
MARKERS = "osD^vPX*"
"""Beside the colour, so that a figure can be read in grey."""
CLASS_COLORS = np.array(sns.color_palette(PALETTE))
BACKGROUND_COLOR = np.array([0.93, 0.93, 0.93])
IGNORED_COLOR = np.array([1.0, 1.0, 1.0])


def use_style() -> None:
    """Set the look of all figures of this process."""
    sns.set_theme(style="whitegrid", context="notebook", font="DejaVu Sans", palette=PALETTE)
    plt.rcParams.update(
        {"figure.dpi": 72, "savefig.dpi": 160, "svg.hashsalt": "elbo", "image.interpolation": "nearest",
         "axes.titlesize": 12, "figure.titlesize": 13, "legend.fontsize": 10}
    )  # fmt: skip
    _show_with_alt_text()


def describe(figure: Figure, text: str) -> Figure:
    """Give a figure the alternative text that stands for it where it is not seen; returns it."""
    figure.set_label(text)
    return figure


def alt_text(figure: Figure) -> str:
    """What `describe` said of a figure, else its titles and the names of its axes."""
    if figure.get_label():
        return str(figure.get_label())
    title = figure.get_suptitle()
    panels = dict.fromkeys(axes.get_title() for axes in figure.axes if axes.get_title())
    named = dict.fromkeys(name for axes in figure.axes for name in (axes.get_xlabel(), axes.get_ylabel()) if name)
    parts = [title, "Panels: " + ", ".join(panels) if panels else "", "Axes: " + ", ".join(named) if named else ""]
    return " ".join(". ".join(filter(None, parts)).split()) or "A figure"


def _show_with_alt_text() -> None:
    """In a notebook, let every figure carry its alternative text. Done anew before each cell: the backend that draws in
    notebooks registers its own way when it is first used."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is None or shell.display_formatter is None:
        return
    png = shell.display_formatter.formatters["image/png"]

    def register(*_: object) -> None:
        png.for_type(Figure, _png_with_alt_text)

    plt.switch_backend(plt.get_backend())  # first use
    register()
    shell.events.register("pre_run_cell", register)


def _png_with_alt_text(figure: Figure) -> tuple[str, dict[str, str]]:
    return print_figure(figure, base64=True), {"alt": alt_text(figure)}


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
    table = np.concatenate([BACKGROUND_COLOR[None], np.resize(colors, (IGNORED, 3))])
    table[IGNORED] = IGNORED_COLOR
    return table[labels]


def draw_masks(image: Tensor, truth: np.ndarray, masks: Mapping[str, Tensor], classes: Sequence[str]) -> Figure:
    """In one row the picture, its truth, and masks by their titles; the classes in the colours of the masks below."""
    figure, axes = plt.subplots(1, len(masks) + 2, figsize=(2.6 * (len(masks) + 2), 3.4), layout="constrained")
    show_picture(axes[0], image, "picture")
    show_picture(axes[1], color_mask(truth), "truth")
    for axis, (title, mask) in zip(axes[2:], masks.items(), strict=True):
        show_picture(axis, color_mask(mask), title)
    class_legend(figure, classes)
    return figure


def class_legend(figure: Figure, classes: Sequence[str]) -> None:
    """The classes in the colours of `color_mask`, below the figure."""
    handles = _patches(classes)
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncol=max(1, len(classes)), frameon=False, fontsize=11
    )
    _without_formulas(legend)


def axes_legend(axes: Axes, classes: Sequence[str]) -> None:
    """The classes in the colours of `color_mask`, below one picture."""
    place = {"loc": "upper left", "bbox_to_anchor": (0.0, 0.0), "borderpad": 0.2}
    legend = axes.legend(handles=_patches(classes), ncol=3, frameon=False, fontsize=9, handlelength=1.0,
                         columnspacing=0.8, handletextpad=0.4, **place)  # fmt: skip
    _without_formulas(legend)


def _patches(classes: Sequence[str]) -> list[Patch]:
    colors = [CLASS_COLORS[k % len(CLASS_COLORS)] for k in range(len(classes))]
    return [Patch(color=color, label=name) for color, name in zip(colors, classes, strict=True)]


def _without_formulas(legend: Legend) -> None:
    for text in legend.get_texts():
        text.set_parse_math(False)


def draw_heatmaps(rows: Mapping[str, Heatmaps]) -> Figure:
    """A row of heatmaps for each name, a column for each class, all on one colour scale."""
    classes = next(iter(rows.values())).classes
    size = (2.1 * len(classes) + 1.2, 2.35 * len(rows))
    figure, axes = plt.subplots(len(rows), len(classes), figsize=size, squeeze=False, layout="constrained")
    for line, (name, heatmaps) in zip(axes, rows.items(), strict=True):
        for k, label in enumerate(classes):
            show_heatmap(line[k], heatmaps.values[k], f"{label}, S = {heatmaps.scores[k]:.2f}")
        line[0].text(-0.08, 0.5, name, rotation=90, va="center", ha="right", transform=line[0].transAxes, fontsize=12)
    scale = figure.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.8, aspect=30, pad=0.02)
    scale.set_label("heatmap", fontsize=10)
    return figure


WRAP = 18
"""So many letters of a small title stand in a line above a picture of a contact sheet."""


def _lines(titles: Sequence[str]) -> int:
    return max((len(textwrap.wrap(title, WRAP)) for title in titles), default=0)


def contact_sheet(pictures: Sequence[np.ndarray], columns: int, titles: Sequence[str] = ()) -> Figure:
    """Pictures [H, W, 3] in a grid, with small titles if there are any."""
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.5 * columns, (1.5 + 0.17 * _lines(titles)) * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for k, picture in enumerate(pictures):
        show_picture(axes.flat[k], picture)
        if titles:
            _title(axes.flat[k], textwrap.fill(titles[k], WRAP), fontsize=9)
    figure.tight_layout(pad=0.3, h_pad=1.0)
    return figure
