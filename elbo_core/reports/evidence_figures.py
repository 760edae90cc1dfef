"""The figures about evidence: one picture step by step, the table, the cost, whom it helps, and where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter
from torch import Tensor

from elbo_core.datasets import Dataset
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.experiments.rows import LATE_LAYERS, REFERENCE
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.evidence import Evidence, EvidenceTimesAttention
from elbo_core.methods.method import Method
from elbo_core.methods.observe import Observation, observe
from elbo_core.methods.plan import Plan
from elbo_core.metrics import count, miou_by_threshold, stack
from elbo_core.plots import CLASS_COLORS, class_legend, color_mask, describe, show_heatmap, show_picture
from elbo_core.scene import Scene

BLIND = CLASS_COLORS
LOOKS = {
    ("late layers", "on"): ("Algorithm 1, late layers", BLIND[7], "s"),
    ("released", "on"): ("Algorithm 1, as released", BLIND[1], "D"),
    ("released", "evidence"): ("evidence", BLIND[0], "o"),
    ("released", "evidence x attention"): ("evidence × attention", BLIND[2], "^"),
}
"""By row: what people call it, its colour and its marker."""
BY_TITLE = {title: (color, marker) for title, color, marker in LOOKS.values()}


def draw_levels(table: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """The mIoU of evidence and of Algorithm 1 with its interval, a panel per data set and a line per model."""
    levels = table[(table.metric == "miou") & table.row.isin(rows)]
    models, datasets = list(levels.model.unique()), list(levels.dataset.unique())
    size = (3.1 * len(datasets) + 0.8, 0.62 * len(models) + 1.5)
    figure, axes = plt.subplots(1, len(datasets), figsize=size, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], datasets, strict=True):
        of_set = levels[levels.dataset == name].set_index(["reading", "row", "model"]).sort_index()
        for k, (place, (title, color, marker)) in enumerate(LOOKS.items()):
            line = of_set.loc[place].reindex(models)
            spread = [line.ours - line.low, line.high - line.ours]
            heights = np.arange(len(models)) + 0.16 * (k - 1.5)
            axis.errorbar(line.ours, heights, xerr=spread, fmt=marker, color=color, markersize=6, label=title)
        axis.set(title=name, xlabel="mIoU (%)", yticks=range(len(models)), yticklabels=models)
    axes[0, 0].set_ylim(len(models) - 0.5, -0.5)
    figure.suptitle(_finding(levels))
    figure.tight_layout()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=4)
    return describe(figure, f"{_finding(levels)}: mIoU by model and data set.")


def _finding(levels: pd.DataFrame) -> str:
    """In how many cases evidence is ahead of Algorithm 1 in both readings."""
    ours = levels.set_index(["reading", "row", "model", "dataset"]).sort_index().ours
    best = ours.xs("on", level="row").groupby(["model", "dataset"]).max()
    ahead = ours["released", "evidence"].reindex(best.index) > best
    return f"Evidence is ahead of Algorithm 1 in both of its readings in {ahead.sum()} of {len(ahead)} cases"


def draw_costs(costs: pd.DataFrame) -> Figure:
    """mIoU over the network evaluations that a picture takes, a panel per data set; numbers are timesteps.

    costs: as `reports.evidence.costs` makes them.
    """
    datasets = list(costs.dataset.unique())
    size = (3.1 * len(datasets) + 0.8, 3.2)
    figure, axes = plt.subplots(1, len(datasets), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], datasets, strict=True):
        for title, line in costs[costs.dataset == name].groupby("method", sort=False):
            color, marker = BY_TITLE[title]
            axis.plot(line.evaluations, line.miou, marker=marker, color=color, label=title)
            axis.fill_between(line.evaluations, line.low, line.high, color=color, alpha=0.15)
            if title == "evidence":
                for x, y, timesteps in zip(line.evaluations, line.miou, line.timesteps, strict=True):
                    axis.annotate(f"{timesteps}", (x, y), (0, 6), textcoords="offset points", fontsize=8, ha="center")
        axis.set(title=name, xlabel="network evaluations a picture", xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.minorticks_off()
    axes[0, 0].set_ylabel("mIoU (%), mean of models")
    figure.tight_layout()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=3)
    return figure


QUANTITIES = {
    "area": "tenths of all objects, by share of the picture",
    "visible": "share of a thing that nothing hides",
    "frequency": "fifths of the things, by how often training shows them",
    "kind": "thing or stuff",
}


def draw_groups(groups: pd.DataFrame) -> Figure:
    """The IoU by size, visibility, training frequency and kind; a panel each.

    groups: what `reports.evidence.by_group` makes, of several quantities and of rows in `NAMED`.
    """
    quantities = list(groups.quantity.unique())
    widths = [groups[groups.quantity == quantity].group.nunique() + 1.5 for quantity in quantities]
    figure, axes = plt.subplots(1, len(quantities), figsize=(0.52 * sum(widths) + 1.5, 3.8), sharey=True,
                                squeeze=False, width_ratios=widths)  # fmt: skip
    for axis, quantity in zip(axes[0], quantities, strict=True):
        chosen = groups[groups.quantity == quantity]
        names = list(dict.fromkeys(chosen.group))
        for title, line in chosen.groupby("row", sort=False):
            color, marker = BY_TITLE[title]
            places = [names.index(name) for name in line.group]
            spread = [line.iou - line.low, line.high - line.iou]
            axis.errorbar(places, line.iou, yerr=spread, fmt=marker, color=color, label=title)
            if quantity != "kind":
                axis.plot(places, line.iou, color=color)
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
        axis.set_xlabel(QUANTITIES[quantity], fontsize=9)
    axes[0, 0].set_ylabel("IoU (%), mean of objects")
    figure.tight_layout()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=4)
    return figure


# One picture

METHODS: dict[str, Method] = {
    "Algorithm 1, released": REFERENCE,
    "Algorithm 1, late layers": LATE_LAYERS,
    "evidence": Evidence(),
    "evidence × attention": EvidenceTimesAttention(),
}
"""What pictures are read by, as people call it."""


def scene_at(dataset: Dataset, index: int) -> Scene:
    """The scene at a position, or the next before it that has a class to look for.

    Raises:
        ValueError: there is none.
    """
    for position in range(min(index, len(dataset) - 1), -1, -1):
        scene = dataset.read(position)
        if scene.classes:
            return scene
    raise ValueError(f"no scene of {dataset.name} up to {index} has a class to look for")


def read(denoiser: Denoiser, scene: Scene) -> tuple[Observation, dict[str, Heatmaps]]:
    """What a model says about a scene, asked once, and the heatmaps of `METHODS`."""
    observation = observe(denoiser, scene, Plan.union(method.needs for method in METHODS.values()))
    return observation, {title: method(observation.under(method.needs)) for title, method in METHODS.items()}


def truth(scene: Scene) -> np.ndarray:
    """The true mask [H, W], 0 background, k the k-th class of the scene.

    Raises:
        ValueError: the scene has no label map.
    """
    if scene.label_map is None:
        raise ValueError(f"scene {scene.id!r} has no label map")
    mask = np.zeros(scene.label_map.shape, int)
    for k, label in enumerate(scene.labels, start=1):
        mask[scene.label_map == label] = k
    return mask


def best_mask(heatmaps: Heatmaps, scene: Scene) -> tuple[Tensor, float]:
    """The mask at the threshold that is best for this picture, and its mIoU in percent."""
    counts = stack([count(heatmaps, scene.labels, scene.label_map, max(scene.labels))])
    curve = miou_by_threshold(counts)
    return heatmaps.mask((int(curve.argmax()) + 1) / 100), float(curve.max())


def masks(scene: Scene, heatmaps: Mapping[str, Heatmaps], axes: Sequence[Axes]) -> None:
    """A mask per method, each at its best threshold for this picture, with its mIoU."""
    for axis, (title, found) in zip(axes, heatmaps.items(), strict=True):
        mask, miou = best_mask(found, scene)
        show_picture(axis, color_mask(mask), f"{title}\nmIoU {miou:.0f} %".strip())


def draw_steps(scene: Scene, observation: Observation, shown: str, heatmaps: Mapping[str, Heatmaps]) -> Figure:
    """One picture step by step. Above: the picture, the error told the caption and told it without the class `shown`,
    what leaving it out costs, and its heatmap. Below: the truth, and the mask of each method.

    observation: with the error maps of `Evidence`. heatmaps: by title; those of evidence under "evidence".
    """
    method, k = Evidence(), scene.classes.index(shown)
    given, against = (
        observation.error_maps_of(texts).of_each([shown])[0].square().mean(dim=(0, 1))
        for texts in (method.given, method.against)
    )
    evidence = method.maps(observation)[k]
    columns = max(5, len(heatmaps) + 1)
    figure, axes = plt.subplots(2, columns, figsize=(2.45 * columns, 5.7))
    for axis in axes.flat:
        axis.set_axis_off()
    show_picture(axes[0, 0], scene.image, "the picture")
    limits = {"vmin": float(min(given.min(), against.min())), "vmax": float(max(given.max(), against.max()))}
    for axis, error, title in ((axes[0, 1], given, "its error, told all words"),
                               (axes[0, 2], against, f"… without “{shown}”")):  # fmt: skip
        axis.imshow(error, cmap="viridis", **limits)
        axis.set_title(title, fontsize=11, parse_math=False)
    strongest = float(evidence.abs().max())
    axes[0, 3].imshow(evidence, cmap="RdBu_r", vmin=-strongest, vmax=strongest)
    axes[0, 3].set_title("the difference", fontsize=11)
    show_heatmap(axes[0, 4], heatmaps["evidence"].values[k], f"evidence for “{shown}”")
    show_picture(axes[1, 0], color_mask(truth(scene)), "the truth\n")
    masks(scene, heatmaps, axes[1, 1 : len(heatmaps) + 1])
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    class_legend(figure, scene.classes)
    return describe(figure, f"A picture of {', '.join(scene.classes)}; the model's error with and without “{shown}”, "
                            "their difference, the evidence; the truth and the masks of four methods.")  # fmt: skip


def draw_cases(scenes: Sequence[Scene], heatmaps: Sequence[Mapping[str, Heatmaps]], titles: Sequence[str]) -> Figure:
    """A line per picture: the picture, the truth, and the mask of each method at its best threshold for it."""
    columns = len(heatmaps[0]) + 2
    figure, axes = plt.subplots(len(scenes), columns, figsize=(2.3 * columns, 2.75 * len(scenes)), squeeze=False)
    for k, (line, scene, found, title) in enumerate(zip(axes, scenes, heatmaps, titles, strict=True)):
        show_picture(line[0], scene.image, title)
        show_picture(line[1], color_mask(truth(scene)), "\n".join(_in_lines(scene.classes)))
        for axis in line[:2]:
            axis.title.set_fontsize(9)
        masks(scene, found if k == 0 else _nameless(found), line[2:])
    figure.tight_layout()
    names = ", ".join(" ".join(title.split()) for title in heatmaps[0])
    return describe(figure, f"{len(scenes)} pictures, a line each: the picture, its truth, and the masks of {names}.")


def _nameless(heatmaps: Mapping[str, Heatmaps]) -> dict[str, Heatmaps]:
    """The same under titles of white space: their column is named above."""
    return {" " * k: found for k, found in enumerate(heatmaps.values())}


def _in_lines(names: Sequence[str]) -> list[str]:
    """Names in two lines."""
    half = -(-len(names) // 2)
    return [", ".join(names[:half]), ", ".join(names[half:])]
