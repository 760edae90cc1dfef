"""The figures that show tables. Every one takes a tidy table and the rows that it is to show."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def draw_gains(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """The gains of some rows over "off", in every reading, and the paper's. A line of panels per model, a column per
    data set."""
    gains = table[table.metric == "miou_gain"]
    models, datasets = list(gains.model.unique()), list(gains.dataset.unique())
    size = (3.2 * len(datasets), (0.42 * len(rows) + 0.6) * len(models) + 0.9)
    figure, axes = plt.subplots(len(models), len(datasets), figsize=size, sharex=True, sharey=True, squeeze=False)
    for line, model in zip(axes, models, strict=True):
        for axis, name in zip(line, datasets, strict=True):
            chosen = gains[(gains.model == model) & (gains.dataset == name)]
            _draw_panel(axis, chosen.set_index(["reading", "row"]), rows)
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


def draw_gains_by_model(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """The gains of one row, a line per model."""
    (row,) = rows
    chosen = table[table.row == row]
    return draw_gains(chosen.assign(row=chosen.model, model=row), list(chosen.model.unique()))


def draw_gains_by_metric(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """The gains of several metrics on one data set, a column per metric."""
    gains = table[table.metric.str.endswith("_gain")]
    return draw_gains(gains.assign(dataset=gains.metric.str.removesuffix("_gain"), metric="miou_gain"), rows)


def _draw_panel(axis: Axes, lines: pd.DataFrame, rows: Sequence[str]) -> None:
    readings = list(dict.fromkeys(lines.index.get_level_values("reading")))
    if not readings:
        return
    for k, reading in enumerate(readings):
        of_reading = lines.loc[reading].reindex(rows)
        shift = 0.32 * k - 0.16 * (len(readings) - 1)
        spread = [of_reading.ours - of_reading.low, of_reading.high - of_reading.ours]
        places = np.arange(len(rows)) + shift
        axis.errorbar(of_reading.ours, places, xerr=spread, fmt="o", capsize=2, label=reading)
    paper = lines.loc[readings[0]].paper.reindex(rows)
    axis.plot(paper, np.arange(len(rows)) - 0.16, "kD", markersize=5, label="the paper")
    axis.axvline(0, color="0.4", linewidth=1)


def draw_strengths(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """mIoU against 1/gamma, a panel per data set: the band is the 95 % interval of the gain over 1, dotted."""
    datasets = list(table.dataset.unique())
    figure, axes = plt.subplots(1, len(datasets), figsize=(3.4 * len(datasets), 3.4), sharex=True, squeeze=False)
    for axis, name in zip(axes[0], datasets, strict=True):
        lines = table[table.dataset == name].set_index(["reading", "row", "metric"])
        for reading in table.reading.unique():
            _draw_strength(axis, lines.loc[reading], rows, reading)
        axis.set(title=name, xlabel="1 / γ", xticks=range(1, len(rows) + 1))
    axes[0, 0].set_ylabel("mIoU (%)")
    figure.tight_layout()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=2)
    return figure


def _draw_strength(axis: Axes, lines: pd.DataFrame, rows: Sequence[str], label: str) -> None:
    off, strengths = lines.ours["off", "miou"], range(1, len(rows) + 1)
    gain = lines.loc[[(row, "miou_gain") for row in rows]]
    (curve,) = axis.plot(strengths, off + gain.ours, marker="o", markersize=4, label=label)
    axis.fill_between(strengths, off + gain.low, off + gain.high, color=curve.get_color(), alpha=0.2)
    axis.axhline(off, color=curve.get_color(), linestyle=":")
