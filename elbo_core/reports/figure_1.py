"""Figure 1 of the paper, drawn: one base scene under four manipulations, and the measured curves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from elbo_core.datasets.manipulated import MANIPULATED, MANIPULATIONS, Variant, manipulated_variants, variant_dataset
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.experiments.masses import iou_curves
from elbo_core.experiments.rows import plan_of, rows_of
from elbo_core.experiments.run import read_rows
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.observe import observe
from elbo_core.plots import MARKERS, PALETTE, describe, show_heatmap, show_picture
from elbo_core.reports.labels import label
from elbo_core.reports.misalignment import AMOUNTS, RESPONSES, TITLES, finding
from elbo_core.scene import Scene

SHOWN = {"origin": ("size", 1), "small": ("size", 3), "hidden": ("occlusion", 3), "many": ("crowd", 4),
         "rare": ("rarity", 4)}  # fmt: skip
"""The columns of the figure, as in the paper: a manipulation and one of its levels."""
TARGET_COLOR = np.array([0.87, 0.56, 0.02])


@dataclass(frozen=True)
class Example:
    """One picture and what the model answers: the heatmaps off and on."""

    variant: Variant
    scene: Scene
    off: Heatmaps
    on: Heatmaps

    @property
    def position(self) -> int:
        """Of the target among the candidate classes."""
        return self.scene.classes.index(self.variant.target)

    def mask(self, heatmaps: Heatmaps, threshold: float) -> np.ndarray:
        """Whether each pixel is taken for the target, bool [H, W]."""
        return (heatmaps.mask(threshold) == self.position + 1).numpy()


def examples(denoiser: Denoiser, base: int, reading: str) -> dict[str, Example]:
    """The pictures of `SHOWN` for a base scene, each with the heatmaps of a reading."""
    variants = [variant for variant in manipulated_variants(base + 1) if variant.base == base]
    places = {(variant.manipulation, variant.level): k for k, variant in enumerate(variants)}
    dataset = variant_dataset(MANIPULATED, variants)
    return {
        name: ask(denoiser, dataset.read(places[place]), variants[places[place]], reading)
        for name, place in SHOWN.items()
    }


def ask(denoiser: Denoiser, scene: Scene, variant: Variant, reading: str) -> Example:
    """What a model answers to one picture, calibration off and on."""
    off, on = (next(row for row in rows_of("models") if row.id == (reading, name)) for name in ("off", "on"))
    heatmaps = read_rows(observe(denoiser, scene, plan_of([off, on])), [off, on])
    return Example(variant, scene, heatmaps[off.definition], heatmaps[on.definition])


def draw_figure_1(shown: dict[str, Example], table: pd.DataFrame, model: str, reading: str) -> Figure:
    """Pictures, heatmaps and masks of the target on top; below, the IoU at every level, all models, off and on."""
    figure = plt.figure(figsize=(11.5, 11), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.75, 1))
    _draw_examples(top, shown)
    draw_curves(bottom, table, ["iou"], reading)
    said = finding(table, model, reading)
    figure.suptitle(f"{model}: {said[0].lower()}{said[1:]}")
    words = ", ".join(f"{name}: {example.variant.target}" for name, example in shown.items())
    return describe(figure, f"Figure 1. Picture, heatmap and mask of the target ({words}); curves. {said}.")


def _draw_examples(place: SubFigure, shown: dict[str, Example]) -> None:
    axes = place.subplots(3, len(shown))
    for column, (name, example) in zip(axes.T, shown.items(), strict=True):
        heatmap = example.off.values[example.position]
        show_picture(column[0], example.scene.image, f"{name}: {example.variant.target}")
        show_heatmap(column[1], heatmap)
        _show_mask(column[2], example, example.off, 0.5)
    for axis, words in zip(axes[:, 0], ("picture", "heatmap", "mask at 50 %"), strict=True):
        axis.text(-0.06, 0.5, words, rotation=90, ha="center", va="center", transform=axis.transAxes, fontsize=11)


def _show_mask(axis: Axes, example: Example, heatmaps: Heatmaps, threshold: float) -> None:
    """The mask of the target, its true outline dashed."""
    picture = np.where(example.mask(heatmaps, threshold)[..., None], TARGET_COLOR, 0.93)
    show_picture(axis, picture)
    truth = np.asarray(example.scene.label_map) == example.scene.labels[example.position]
    axis.contour(truth, levels=[0.5], colors="black", linewidths=1.2, linestyles="dashed")


def draw_curves(place: Figure | SubFigure, table: pd.DataFrame, responses: Sequence[str], reading: str) -> None:
    """A line of panels per response, a panel per manipulation: every model, calibration off and on, at each level. The
    bars are 95 % intervals of the change from the first level, within base scenes."""
    chosen = table[(table.reading == reading) & table.response.isin(responses)]
    axes = place.subplots(len(responses), len(MANIPULATIONS), squeeze=False, sharey="row")
    models = list(chosen.model.unique())
    for line, response in zip(axes, responses, strict=True):
        for axis, manipulation in zip(line, MANIPULATIONS, strict=True):
            panel = chosen[(chosen.response == response) & (chosen.manipulation == manipulation)]
            _draw_panel(axis, panel, models)
        line[0].set_ylabel(RESPONSES[response].words)
    for axis, manipulation in zip(axes[0], MANIPULATIONS, strict=True):
        axis.set_title(TITLES[manipulation])
    for axis, manipulation in zip(axes[-1], MANIPULATIONS, strict=True):
        axis.set_xlabel(AMOUNTS[manipulation], fontsize=9)
    rows = list(chosen.row.unique())
    handles = _handles(models, rows if len(rows) > 1 else [])
    place.legend(handles=handles, loc="outside lower center", ncol=5, frameon=False)


def _handles(models: Sequence[str], rows: Sequence[str]) -> list[Line2D]:
    colors = sns.color_palette(PALETTE)
    handles = [Line2D([], [], color=colors[k], marker=MARKERS[k], label=model) for k, model in enumerate(models)]
    styles = {"off": "-", "on": "--"}
    return handles + [Line2D([], [], color="0.3", linestyle=styles[row], label=label(row)) for row in rows]


def _draw_panel(axis: Axes, panel: pd.DataFrame, models: Sequence[str]) -> None:
    colors = sns.color_palette(PALETTE)
    for k, model in enumerate(models):
        for row, style in (("off", "-"), ("on", "--")):
            line = panel[(panel.model == model) & (panel.row == row)].sort_values("level")
            if line.empty:
                continue
            spread = [line.change - line.change_low, line.change_high - line.change]
            axis.errorbar(line.level + 0.06 * k, line.ours, yerr=spread, color=colors[k], marker=MARKERS[k],
                          markersize=5, linestyle=style, linewidth=1.6, elinewidth=1, capsize=2)  # fmt: skip
    levels = panel.drop_duplicates("level").sort_values("level")
    axis.set_xticks(levels.level, _ticks(levels), fontsize=9)


def _ticks(levels: pd.DataFrame) -> list[str]:
    words = {
        "occlusion": lambda amount, level: f"{amount:.0%}",
        "rarity": lambda amount, level: f"{level + 1}",
    }
    ((manipulation,),) = [levels.manipulation.unique()]
    say = words.get(manipulation, lambda amount, level: f"{amount:g}")
    return [say(line.amount, line.level) for line in levels.itertuples()]


def extremes(lines: pd.DataFrame, model: str, reading: str) -> dict[str, int]:
    """Where calibration helped the target most and where it harmed it most: the variants by their index."""
    own = lines[(lines.model == model) & (lines.reading == reading)]
    best = own.assign(best=own.iou.map(np.max)).pivot(index="index", columns="row", values="best")
    gain = best["on"] - best["off"]
    return {"helped most": int(gain.idxmax()), "harmed most": int(gain.idxmin())}


def draw_extremes(denoiser: Denoiser, chosen: dict[str, int], count: int, reading: str) -> Figure:
    """For each chosen variant of the first `count` base scenes: the picture, the target's heatmap off and on, and its
    masks at the threshold that is best for each."""
    variants = manipulated_variants(count)
    dataset = variant_dataset(MANIPULATED, variants)
    figure, axes = plt.subplots(len(chosen), 5, figsize=(11.5, 2.6 * len(chosen)), layout="constrained")
    for line, (words, index) in zip(np.atleast_2d(axes), chosen.items(), strict=True):
        _draw_line(line, ask(denoiser, dataset.read(index), variants[index], reading), words)
    return describe(
        figure, f"Where calibration {' and where it '.join(chosen)}: picture, heatmaps and masks off and on"
    )


def _draw_line(line: Sequence[Axes], example: Example, words: str) -> None:
    show_picture(line[0], example.scene.image, f"{words}: {example.variant.target}")
    for axis, heatmaps, row in zip(line[1:3], (example.off, example.on), ("off", "on"), strict=True):
        score = heatmaps.scores[example.position]
        show_heatmap(axis, heatmaps.values[example.position], f"{row}, S = {score:.2f}")
    for axis, heatmaps, row in zip(line[3:], (example.off, example.on), ("off", "on"), strict=True):
        curve = iou_curves(heatmaps, example.scene)[example.position]
        _show_mask(axis, example, heatmaps, (int(curve.argmax()) + 1) / 100)
        axis.set_title(f"mask {row}, IoU {curve.max():.0f} %", fontsize=11)


OF_ATTENTION, OF_THE_SCORE = ("raw_inside", "density", "peak"), ("score", "advantage")
"""Responses that calibration does not change, and those that it consists of."""


def draw_responses(table: pd.DataFrame, models: Sequence[str], reading: str) -> Figure:
    """What else changes: the attention on the target, its density there, its peak, and what the score is made of."""
    chosen = table[table.model.isin(models)]
    read = chosen.response.isin(OF_ATTENTION) & (chosen.row == "off")
    scored = chosen.response.isin(OF_THE_SCORE) & (chosen.row == "on")
    responses = [*OF_ATTENTION, *OF_THE_SCORE]
    figure = plt.figure(figsize=(11.5, 2.1 * len(responses) + 0.8), layout="constrained")
    draw_curves(figure, chosen[read | scored].assign(row="off"), responses, reading)
    for axis in figure.axes:
        axis.set_ylabel(textwrap.fill(axis.get_ylabel(), 22), fontsize=9)
    figure.suptitle(f"Where the attention to the target goes when one thing is turned ({label(reading)})")
    return figure
