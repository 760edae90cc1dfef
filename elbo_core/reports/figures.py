"""The figures that show tables. Every one takes a tidy table and the rows that it is to show.

Titles say what was found and are computed from the numbers. Colour, marker and place say the same, so that a figure can
be read in grey. A shaded band marks one point around zero: less than that is nothing that a reader should act on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from elbo_core.datasets import mirrored
from elbo_core.plots import MARKERS, PALETTE, describe
from elbo_core.reports.labels import label
from elbo_core.reports.styles import clear_of_zero

NEGLIGIBLE = 1.0
"""Points around zero that are shaded."""
SPACE = 0.28
"""Between the readings of a row, in rows."""


GAIN_AXIS = "gain in mIoU over calibration off (points; line: 95 % interval)"


def draw_gains(table: pd.DataFrame, rows: Sequence[str], title: str = "", axis_label: str = GAIN_AXIS) -> Figure:
    """The gains of some rows over "off", in every reading, and the paper's. A line of panels per model, a column per
    data set. Without a `title` it counts what is clear of zero."""
    gains = table[(table.metric == "miou_gain") & table.row.isin(rows)]
    models, datasets = list(gains.model.unique()), list(gains.dataset.unique())
    readings = list(gains.reading.unique())
    size = (1.5 + 2.6 * len(datasets), (0.42 * len(rows) + 0.5) * len(models) + 1.5)
    figure, axes = plt.subplots(
        len(models), len(datasets), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for line, model in zip(axes, models, strict=True):
        for axis, name in zip(line, datasets, strict=True):
            chosen = gains[(gains.model == model) & (gains.dataset == name)]
            _draw_panel(axis, chosen.set_index(["reading", "row"]), rows, readings)
        line[0].set_yticks(range(len(rows)), [label(row) for row in rows])
        if len(models) > 1:
            line[0].set_ylabel(model)
    for axis, name in zip(axes[0], datasets, strict=True):
        axis.set_title(column_title(name))
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(title or finding(gains))
    _legend(figure, readings, bool(gains.paper.notna().any()), axis_label)
    return describe(figure, f"{title or finding(gains)}. {in_words(gains)}")


def column_title(dataset: str) -> str:
    """The name of a data set, and that of the paper's which it stands for."""
    mirror = mirrored(dataset)
    return dataset if mirror == dataset else f"{dataset}\n(for {label(mirror)})"


def finding(gains: pd.DataFrame) -> str:
    """How many of all intervals are clear of zero, and where."""
    clear = [clear_of_zero(line.low, line.high) for line in gains.itertuples()]
    up, down = clear.count(1), clear.count(-1)
    rest = len(clear) - up - down
    return f"Of {len(clear)} gains {up} are clear of zero, {down} are losses clear of zero, {rest} are undecided"


def in_words(gains: pd.DataFrame) -> str:
    """The mean gain of every row and reading over models and data sets, for those who do not see the figure."""
    means = gains.groupby(["row", "reading"], sort=False).ours.mean()
    return "Mean gains: " + "; ".join(
        f"{label(row)}, {label(reading)}, {mean:+.1f}" for (row, reading), mean in means.items()
    )


def _legend(figure: Figure, readings: Sequence[str], with_paper: bool, axis_label: str) -> None:
    """What colours and marks mean, under the name of the horizontal axis."""
    colors = sns.color_palette(PALETTE)
    handles = [
        Line2D([], [], color=colors[k], marker=MARKERS[k], label=f"read {label(reading)}"
               if reading == "released" else f"{label(reading)} only")
        for k, reading in enumerate(readings)
    ]  # fmt: skip
    if with_paper:
        handles.append(_paper_mark([], [], label="the paper, on the data set in brackets"))
    handles.append(Line2D([], [], color="0.85", linewidth=8, label=f"within {NEGLIGIBLE:g} point of zero"))
    figure.legend(
        handles=handles, title=axis_label, title_fontsize=11, loc="outside lower center",
        ncol=2 if len(handles) > 3 else 3, frameon=False,
    )  # fmt: skip


def _paper_mark(x: Sequence, y: Sequence, **options) -> Line2D:
    """The paper's values: large, hollow, above the others."""
    return Line2D(x, y, linestyle="", marker="D", markersize=8, markerfacecolor="none", markeredgecolor="black",
                  markeredgewidth=1.6, zorder=5, **options)  # fmt: skip


def draw_gains_by_model(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """The gains of one row, a line per model."""
    (row,) = rows
    chosen = table[table.row == row]
    axis_label = f"gain in mIoU: {_difference(row)} (points; line: 95 % interval)"
    return draw_gains(chosen.assign(row=chosen.model, model=row), list(chosen.model.unique()), axis_label=axis_label)


def _difference(row: str) -> str:
    """What a row's gain is the difference of."""
    return label(row) if " over " in row else f"{label(row)} against off"


def draw_gains_by_metric(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """The gains of several metrics on one data set, a column per metric."""
    gains = table[table.metric.str.endswith("_gain")]
    by_metric = gains.assign(dataset=[label(name.removesuffix("_gain")) for name in gains.metric], metric="miou_gain")
    return draw_gains(by_metric, rows, axis_label="gain over calibration off (points; line: 95 % interval)")


def _draw_panel(axis: Axes, lines: pd.DataFrame, rows: Sequence[str], readings: Sequence[str]) -> None:
    axis.axvspan(-NEGLIGIBLE, NEGLIGIBLE, color="0.9", zorder=0)
    axis.axvline(0, color="0.4", linewidth=1)
    colors = sns.color_palette(PALETTE)
    for k, reading in enumerate(readings):
        if reading not in lines.index.get_level_values("reading"):
            continue
        of_reading = lines.loc[reading].reindex(rows)
        shift = SPACE * (k - (len(readings) - 1) / 2)
        spread = [of_reading.ours - of_reading.low, of_reading.high - of_reading.ours]
        places = np.arange(len(rows)) + shift
        axis.errorbar(
            of_reading.ours, places, xerr=spread, fmt=MARKERS[k], color=colors[k], markersize=6, capsize=2, zorder=3
        )
        if reading == "released":
            axis.add_line(_paper_mark(of_reading.paper, places))
    known = lines.paper.dropna()
    axis.update_datalim([(value, 0) for value in known])
    axis.autoscale_view(scaley=False)


def draw_strengths(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """The gain over γ = 1 against 1/γ, a panel per data set on one scale, with its 95 % interval as a band."""
    datasets, readings = list(table.dataset.unique()), list(table.reading.unique())
    figure, axes = plt.subplots(
        1, len(datasets), figsize=(1 + 2.7 * len(datasets), 3.9), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, name in zip(axes[0], datasets, strict=True):
        axis.axvspan(2, 3, color="0.9", zorder=0)
        axis.axhline(0, color="0.4", linewidth=1)
        lines = table[(table.dataset == name) & (table.metric == "miou_gain")].set_index(["reading", "row"])
        for k, reading in enumerate(readings):
            _draw_strength(axis, lines.loc[reading].reindex(rows), k)
        axis.set(title=column_title(name), xticks=range(1, len(rows) + 1))
    axes[0, 0].set_ylabel("gain in mIoU over γ = 1 (points)")
    title = _best_strengths(table, rows)
    figure.suptitle(title)
    _strength_legend(figure, readings)
    return describe(figure, f"{title}. Curves of the gain in mIoU against 1 / gamma, one panel per data set.")


def _draw_strength(axis: Axes, gain: pd.DataFrame, k: int) -> None:
    strengths, color = np.arange(1, len(gain) + 1), sns.color_palette(PALETTE)[k]
    axis.plot(strengths, gain.ours, marker=MARKERS[k], linestyle=("-", "--", ":")[k % 3], color=color, markersize=5)
    axis.fill_between(strengths, gain.low, gain.high, color=color, alpha=0.2)


def _best_strengths(table: pd.DataFrame, rows: Sequence[str]) -> str:
    gains = table[(table.metric == "miou_gain") & table.row.isin(rows)]
    means = gains.groupby(["reading", "row"], sort=False).ours.mean()
    best = {reading: means[reading].idxmax() for reading in gains.reading.unique()}
    found = ", ".join(f"{label(row)} ({label(reading)})" for reading, row in best.items())
    return f"Best on the mean of the sets: {found}; the paper's optimum is γ = 1/2 to 1/3"


def _strength_legend(figure: Figure, readings: Sequence[str]) -> None:
    colors = sns.color_palette(PALETTE)
    handles = [
        Line2D([], [], color=colors[k], marker=MARKERS[k], linestyle=("-", "--", ":")[k % 3], label=label(reading))
        for k, reading in enumerate(readings)
    ]
    handles.append(Line2D([], [], color="0.85", linewidth=8, label="the paper's optimum"))
    title = "strength of the calibration, 1 / γ (1: off; band around the line: 95 % interval)"
    figure.legend(handles=handles, title=title, title_fontsize=11, loc="outside lower center", ncol=3, frameon=False)


def draw_changes(table: pd.DataFrame, rows: Sequence[str], metrics: Mapping[str, str], title: str = "") -> Figure:
    """Changes of several metrics, in words, by row: a panel per data set, all on one scale."""
    datasets = list(table.dataset.unique())
    figure, axes = plt.subplots(
        1, len(datasets), figsize=(2.2 + 2.4 * len(datasets), 0.36 * len(rows) + 1.9), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    colors = sns.color_palette(PALETTE)
    for axis, name in zip(axes[0], datasets, strict=True):
        axis.axvspan(-NEGLIGIBLE, NEGLIGIBLE, color="0.9", zorder=0)
        axis.axvline(0, color="0.4", linewidth=1)
        for k, metric in enumerate(metrics):
            chosen = table[(table.dataset == name) & (table.metric == metric)].set_index("row").reindex(rows)
            spread, places = (
                [chosen.ours - chosen.low, chosen.high - chosen.ours],
                np.arange(len(rows)) + 0.3 * k - 0.15,
            )
            axis.errorbar(chosen.ours, places, xerr=spread, fmt=MARKERS[k], color=colors[k], markersize=5, capsize=2)
        axis.set(title=column_title(name))
    axes[0, 0].set_yticks(range(len(rows)), [label(row) for row in rows])
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(title)
    handles = [
        Line2D([], [], color=colors[k], marker=MARKERS[k], linestyle="", label=words)
        for k, words in enumerate(metrics.values())
    ]
    figure.legend(
        handles=handles, title="points of mIoU (line: 95 % interval)", title_fontsize=11,
        loc="outside lower center", ncol=len(handles), frameon=False,
    )  # fmt: skip
    return describe(figure, f"{title}. Points of mIoU by row for {', '.join(metrics.values())}, with intervals.")
