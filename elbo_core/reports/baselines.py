"""The figures of Table II: quality of each method, its distance to ELBO-T2IAlign, what protocol and plug-in are worth,
and cost. Colour, marker and place say the same, and titles are computed from the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elbo_core.plots import MARKERS, PALETTE, describe
from elbo_core.reports.figures import column_title, draw_gains, finding
from elbo_core.reports.labels import label
from elbo_core.reports.styles import clear_of_zero

WORDS = {"on": "ELBO-T2IAlign", "off": "the same, uncalibrated"}
"""How rows are called beside baselines."""
COLORS = sns.color_palette(PALETTE)


def in_words(row: str, reading: str = "released") -> str:
    """A row's name as readers of Table II see it."""
    plain = row.partition(", calibrated")[0].partition(", own protocol")[0]
    return WORDS.get(plain, plain) + ("" if reading == "released" else f", {label(reading)}")


def draw_leads(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """mIoU of the baselines, and of Algorithm 1 in both readings, with intervals and the paper's numbers; a panel per
    data set. The title counts the differences `rows` to ELBO-T2IAlign."""
    miou = table[table.metric == "miou"]
    order = miou[["reading", "row"]].drop_duplicates().itertuples(index=False, name=None)
    lines = sorted(order, key=lambda line: line[1] in WORDS)
    datasets = list(miou.dataset.unique())
    figure, axes = plt.subplots(
        1, len(datasets), figsize=(2.2 + 2.5 * len(datasets), 0.38 * len(lines) + 1.7), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, name in zip(axes[0], datasets, strict=True):
        _draw_levels(axis, miou[miou.dataset == name].set_index(["reading", "row"]), lines)
        axis.set_title(column_title(name))
    axes[0, 0].set_yticks(range(len(lines)), [in_words(row, reading) for reading, row in lines])
    axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)
    figure.supxlabel("mIoU (%; line: 95 % interval; hollow diamond: the paper, on the set in brackets)", fontsize=11)
    title = title_of_leads(table, rows)
    figure.suptitle(title)
    return describe(figure, f"{title}. mIoU with intervals, a panel per data set, a line per method.")


def title_of_leads(table: pd.DataFrame, rows: Sequence[str]) -> str:
    """The finding in a sentence: in how many cells a baseline is surely behind or ahead of ELBO-T2IAlign."""
    gains = table[(table.metric == "miou_gain") & table.row.isin(rows)]
    clear = [clear_of_zero(line.low, line.high) for line in gains.itertuples()]
    return (
        f"Against ELBO-T2IAlign as released, baselines are clearly behind in {clear.count(-1)} and clearly ahead in "
        f"{clear.count(1)} of {len(clear)} comparisons"
    )


def _draw_levels(axis: Axes, lines: pd.DataFrame, shown: Sequence[tuple[str, str]]) -> None:
    """Dots with intervals, Algorithm 1 in another colour and shape, and the paper's diamonds."""
    for place, key in enumerate(shown):
        if key not in lines.index:
            continue
        line, is_ours = lines.loc[key], int(key[1] in WORDS)
        spread = [[line.ours - line.low], [line.high - line.ours]]
        axis.errorbar(line.ours, place, xerr=spread, fmt=MARKERS[is_ours], capsize=2, color=COLORS[is_ours])
        axis.plot(line.paper, place, "D", color="0.15", markersize=9, fillstyle="none")
    baselines = sum(row not in WORDS for _, row in shown)
    axis.axhline(baselines - 0.5, color="0.7", linewidth=0.8)


def draw_by_model(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """mIoU averaged over data sets, methods down and models across, in the reading as released; words where a method is
    not defined."""
    miou = table[(table.metric == "miou") & (table.reading == "released")]
    means = miou.pivot_table(index="row", columns="model", values="ours", aggfunc="mean", sort=False)
    means = means.reindex(index=list(rows), columns=list(miou.model.unique()))
    figure, axis = plt.subplots(figsize=(1.2 * len(means.columns) + 3.2, 0.5 * len(means) + 1.6), layout="constrained")
    sns.heatmap(means, annot=True, fmt=".1f", cmap="cividis", ax=axis, annot_kws={"fontsize": 11}, linewidths=1,
                cbar_kws={"label": "mIoU (%), mean over the sets"})  # fmt: skip
    _say_not_defined(axis, means)
    axis.set_yticklabels([in_words(row) for row in means.index], rotation=0)
    axis.set(xlabel="", ylabel="")
    axis.set_xticklabels(means.columns, rotation=20, ha="right")
    title = f"Best on {len(means.columns)} models: {_winners(means)}"
    axis.set_title(title)
    return describe(figure, f"{title}. mIoU of each method, mean over the data sets, for each model.")


def _say_not_defined(axis: Axes, means: pd.DataFrame) -> None:
    """Words in the cells that have no number."""
    axis.grid(False)
    for row, column in zip(*np.where(means.isna()), strict=True):
        axis.text(column + 0.5, row + 0.5, "not defined", ha="center", va="center", fontsize=9, color="0.35")


def _winners(means: pd.DataFrame) -> str:
    return ", ".join(f"{name} ({count})" for name, count in means.idxmax().map(in_words).value_counts().items())


def draw_plug_in(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """What the score adds to each method's own maps: the mean gain over data sets, methods down and models across, and
    on how many of the sets it is clear of zero."""
    gains = table[(table.metric == "miou_gain") & (table.reading == "released") & table.row.isin(rows)]
    clear = gains.assign(clear=[clear_of_zero(line.low, line.high) for line in gains.itertuples()])
    shape = {"index": "row", "columns": "model", "sort": False}
    means = clear.pivot_table(values="ours", aggfunc="mean", **shape).reindex(list(rows))
    words = clear.groupby(["row", "model"], sort=False).apply(_gain_in_words, include_groups=False).unstack()
    words = words.reindex(index=means.index, columns=means.columns).fillna("not\ndefined")
    figure, axis = plt.subplots(figsize=(1.3 * len(means.columns) + 4.0, 0.62 * len(means) + 1.8), layout="constrained")
    limit = max(float(means.abs().max().max()), 0.1)
    sns.heatmap(means, annot=words.where(means.notna(), ""), fmt="", cmap="PuOr_r", vmin=-limit, vmax=limit, ax=axis,
                annot_kws={"fontsize": 9}, linewidths=1, cbar_kws={"label": "gain in mIoU (points)"})  # fmt: skip
    _say_not_defined(axis, means)
    axis.set_yticklabels([in_words(row.partition(" by calibration")[0]) for row in means.index], rotation=0)
    axis.set_xticklabels(means.columns, rotation=20, ha="right")
    axis.set(xlabel="mean gain over the sets; +: clear gains, −: clear losses, of single sets", ylabel="")
    title = f"The score as a plug-in: {finding(gains).lower()}"
    axis.set_title(title, loc="right", fontsize=11)
    return describe(figure, f"{title}. Mean gain of each method by A to the power 1/S, for each model.")


def _gain_in_words(gains: pd.DataFrame) -> str:
    up, down = (gains.clear > 0).sum(), (gains.clear < 0).sum()
    return f"{gains.ours.mean():+.1f}\n{up}+ {down}−"


def draw_protocols(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """What each method gains or loses when its authors' protocol takes the place of the paper's."""
    return _gains(table, rows, "Own protocols", "gain in mIoU over the paper's protocol (points; line: 95 % interval)")


def _gains(table: pd.DataFrame, rows: Sequence[str], what: str, axis: str) -> Figure:
    """Gains of a reading in panels, with a title and an axis of their own."""
    gains = table[(table.metric == "miou_gain") & table.row.isin(rows)]
    known = [row for row in rows if row in set(gains.row)]
    figure = draw_gains(gains, known, f"{what}: {finding(gains).lower()}")
    figure.supxlabel(axis, fontsize=11)
    for legend in figure.legends:
        legend.remove()  # there is one reading, and the title of the axis says what lines are
    figure.axes[0].set_yticks(range(len(known)), [row.partition(" by ")[0] for row in known])
    return figure


def draw_cost(costs: pd.DataFrame) -> Figure:
    """Quality against cost: mIoU (mean over sets) over network evaluations a picture.

    costs: columns method, evaluations, seconds (a picture), miou.
    """
    figure, axis = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for k, line in enumerate(costs.itertuples()):
        axis.plot(line.evaluations, line.miou, MARKERS[k % len(MARKERS)], color=COLORS[k % len(COLORS)], markersize=9,
                  label=f"{in_words(line.method)}: {line.seconds:.2f} s")  # fmt: skip
    axis.set(xscale="log", xlabel="network evaluations per picture (log scale)", ylabel="mIoU (%), mean over the sets")
    best = costs.loc[costs.miou.idxmax()]
    title = f"{in_words(best.method)} is best, at {best.evaluations:.0f} network evaluations a picture"
    axis.set_title(title)
    axis.legend(title="seconds per picture", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return describe(figure, title)
