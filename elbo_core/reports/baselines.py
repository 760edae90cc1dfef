"""The figures of Table II: quality of each method, its distance to ELBO-T2IAlign, and what protocol and plug-in are
worth. Rows are told from each other by colour, marker and place."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WORDS = {"on": "ELBO-T2IAlign", "off": "the same, uncalibrated"}
"""How rows are called in figures, where not by their own names."""
READINGS = {"released": "", "late layers": " (late layers)"}
SETS = {"toy-voc": "toy-voc (VOC)", "toy-context": "toy-context (Context)", "toy-coco": "toy-coco (COCO)",
        "toy-ade": "toy-ade (ADE20K)"}  # fmt: skip
POINT = 1.0
"""A difference of so many points is shaded: no more than noise between two runs of a sampler."""
COLORS = sns.color_palette("colorblind")
MARKERS = "oD"


def in_words(row: str) -> str:
    """A row's name as readers see it."""
    return WORDS.get(row, row.partition(", calibrated")[0].partition(", own protocol")[0])


def draw_leads(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """mIoU of the baselines and of ELBO-T2IAlign in both readings, with intervals and the paper's numbers; a panel per
    data set. The title counts the baselines that are surely behind."""
    miou = table[table.metric == "miou"]
    lines = [*(("released", row) for row in rows), ("released", "off"), ("released", "on"), ("late layers", "off"),
             ("late layers", "on")]  # fmt: skip
    datasets = list(miou.dataset.unique())
    figure, axes = plt.subplots(1, len(datasets), figsize=(3.1 * len(datasets), 4.3), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], datasets, strict=True):
        _draw_levels(axis, miou[miou.dataset == name].set_index(["reading", "row"]), lines)
        axis.set(title=SETS.get(name, name), xlabel="mIoU (%)")
    axes[0, 0].set_yticks(range(len(lines)), [in_words(row) + READINGS[reading] for reading, row in lines])
    axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)
    figure.suptitle(title_of_leads(table, rows), y=1.0)
    _finish(figure, axes)
    return figure


def title_of_leads(table: pd.DataFrame, rows: Sequence[str]) -> str:
    """The finding in a sentence: in how many cells a baseline is surely behind or ahead of ELBO-T2IAlign."""
    gains = table[(table.metric == "miou_gain") & table.row.isin(rows)]
    behind, ahead = (gains.high < 0).sum(), (gains.low > 0).sum()
    return (
        f"Of {len(gains)} comparisons with ELBO-T2IAlign as released, the baseline is clearly behind in {behind} and "
        f"clearly ahead in {ahead}"
    )


def _draw_levels(axis: Axes, lines: pd.DataFrame, shown: Sequence[tuple[str, str]]) -> None:
    """Dots with intervals, ours in another colour, and the paper's diamonds."""
    for place, key in enumerate(shown):
        if key not in lines.index:
            continue
        line, is_ours = lines.loc[key], key[1] in WORDS
        spread = [[line.ours - line.low], [line.high - line.ours]]
        axis.errorbar(line.ours, place, xerr=spread, fmt="os"[is_ours], capsize=2, color=COLORS[int(is_ours)],
                      label="Algorithm 1" if is_ours else "baseline")  # fmt: skip
        if not np.isnan(line.paper):
            axis.plot(line.paper, place, "D", color="0.15", markersize=6, fillstyle="none", label="the paper, its set")
    axis.axhline(len(shown) - 4.5, color="0.7", linewidth=0.8)


def draw_by_model(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """mIoU averaged over data sets, methods down and models across; a cross where a method is not defined."""
    miou = table[(table.metric == "miou") & (table.reading == "released")]
    means = miou.pivot_table(index="row", columns="model", values="ours", aggfunc="mean", sort=False)
    means = means.reindex(index=list(rows), columns=list(miou.model.unique()))
    figure, axis = plt.subplots(figsize=(1.25 * len(means.columns) + 2.6, 0.5 * len(means) + 1.3))
    words = means.map(lambda number: "not defined" if pd.isna(number) else f"{number:.1f}")
    sns.heatmap(means, annot=words.where(means.notna(), ""), fmt="", cmap="cividis", ax=axis,
                cbar_kws={"label": "mIoU (%), mean over sets"}, annot_kws={"fontsize": 10}, linewidths=1)  # fmt: skip
    for row, column in zip(*np.where(means.isna()), strict=True):
        axis.text(column + 0.5, row + 0.5, "not defined", ha="center", va="center", fontsize=8, color="0.35")
    axis.set_yticklabels([in_words(row) for row in means.index], rotation=0)
    axis.set(xlabel="", ylabel="", title=f"Best baseline or Algorithm 1 on each model: {_winners(means)}")
    axis.set_xticklabels(means.columns, rotation=20, ha="right")
    figure.tight_layout()
    return figure


def _winners(means: pd.DataFrame) -> str:
    counts = means.idxmax().map(in_words).value_counts()
    return ", ".join(f"{name} {count} ×" for name, count in counts.items())


def draw_plug_in(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """What the score adds to each method's own maps."""
    return _draw_gains(table, rows, "gain by A ← A^(1/S) (points)", "The score as a plug-in")


def draw_protocols(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """What each method gains or loses when its authors' protocol takes the place of the paper's."""
    return _draw_gains(table, rows, "gain over the paper's protocol (points)", "Each method under its own protocol")


def _draw_gains(table: pd.DataFrame, rows: Sequence[str], label: str, what: str) -> Figure:
    """Paired gains with intervals, a panel per data set; the title counts those that are clear of zero."""
    gains = table[(table.metric == "miou_gain") & table.row.isin(rows)]
    datasets, readings = list(table.dataset.unique()), list(gains.reading.unique())
    size = (3.1 * len(datasets), 0.42 * len(rows) + 1.9)
    figure, axes = plt.subplots(1, len(datasets), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], datasets, strict=True):
        axis.axvspan(-POINT, POINT, color="0.9", label="within a point")
        axis.axvline(0, color="0.4", linewidth=1)
        for k, reading in enumerate(readings):
            chosen = gains[(gains.dataset == name) & (gains.reading == reading)].set_index("row").reindex(rows)
            spread = [chosen.ours - chosen.low, chosen.high - chosen.ours]
            places = np.arange(len(rows)) + 0.24 * (k - (len(readings) - 1) / 2)
            axis.errorbar(chosen.ours, places, xerr=spread, fmt=MARKERS[k], capsize=2, color=COLORS[k], label=reading)
        axis.set(title=SETS.get(name, name), xlabel=label)
        axis.xaxis.label.set_size(9)
    axes[0, 0].set_yticks(range(len(rows)), [in_words(row) for row in rows])
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    up, down = (gains.low > 0).sum(), (gains.high < 0).sum()
    figure.suptitle(f"{what}: a clear gain in {up}, a clear loss in {down} of {len(gains)} comparisons", y=1.0)
    _finish(figure, axes)
    return figure


def _finish(figure: Figure, axes: np.ndarray) -> None:
    figure.tight_layout()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    distinct = dict(zip(labels, handles, strict=True))
    figure.legend(distinct.values(), distinct, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncol=4, frameon=False)


def draw_cost(costs: pd.DataFrame) -> Figure:
    """Quality against cost: mIoU (mean over sets) over network evaluations a picture; columns method, evaluations,
    seconds, miou."""
    figure, axis = plt.subplots(figsize=(6.4, 4.0))
    for k, line in enumerate(costs.itertuples()):
        axis.plot(line.evaluations, line.miou, "os^Dv<>PX"[k % 9], color=COLORS[k % len(COLORS)], markersize=9)
        axis.annotate(f"{in_words(line.method)}\n{line.seconds:.2f} s", (line.evaluations, line.miou), fontsize=8,
                      xytext=(7, -3), textcoords="offset points", va="center")  # fmt: skip
    axis.set(xscale="log", xlabel="network evaluations per picture (log scale)", ylabel="mIoU (%), mean over sets")
    best = costs.loc[costs.miou.idxmax()]
    axis.set_title(f"The best, {in_words(best.method)}, asks the network {best.evaluations:.0f} times a picture")
    axis.margins(x=0.25, y=0.12)
    figure.tight_layout()
    return figure
