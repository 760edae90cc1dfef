"""The twins, drawn: what moved with frequency, what frequency is worth, and whom calibration helps."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elbo_core.captions import TEMPLATE
from elbo_core.datasets.manipulated import PORTRAITS, portrait_variants, variant_dataset
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.work import loaded
from elbo_core.plots import MARKERS, PALETTE, describe, show_heatmap, show_picture
from elbo_core.reports.bootstrap import Estimate, Measured
from elbo_core.reports.figure_1 import ask
from elbo_core.reports.intervention import NUMBERS, causal_effect
from elbo_core.reports.misalignment import by_level
from elbo_core.reports.styles import clear_of_zero
from elbo_core.toy.render import render
from elbo_core.training.composition import generate
from elbo_core.training.twins import TWINS, twin_specs

TWIN_WORDS = {"zipf": "Zipf", "uniform": "uniform", "reversed": "reversed Zipf"}
KIND_WORDS = {"effect": "caused by frequency", "seen with Zipf": "seen in the Zipf twin",
              "seen with uniform": "seen in the uniform twin, where nothing was rare"}  # fmt: skip


def sign_words(number: Estimate) -> str:
    """Whether an interval lies above or below zero, or neither."""
    return {1: "raises", -1: "lowers", 0: "does not clearly change"}[clear_of_zero(number.low, number.high)]


def interval_words(number: Estimate, unit: str = "points") -> str:
    """ "+3.1 points [+1.0, +5.2]"."""
    return f"{number.value:+.1f} {unit} [{number.low:+.1f}, {number.high:+.1f}]"


def draw_moves(panel: pd.DataFrame, responses: Sequence[str], profile: Profile) -> Figure:
    """A panel per response: for every class, how far it moved from its mean over twins, against how far its frequency
    did. panel: of one reading, from `compared`."""
    figure, axes = plt.subplots(1, len(responses), figsize=(3.9 * len(responses), 4.1), squeeze=False,
                                layout="constrained")  # fmt: skip
    found = {name: causal_effect(panel, name, profile).estimate for name in responses}
    for axis, name in zip(axes[0], responses, strict=True):
        _draw_moves(axis, panel, name)
        axis.set_title(f"{interval_words(found[name], '')}\nfor ten times as many", fontsize=11)
        axis.set_ylabel(NUMBERS[name], fontsize=11)
        axis.set_xlabel("frequency against its mean (log₁₀)", fontsize=11)
    handles, twins = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, [f"trained with {twin}" for twin in twins], ncol=3, loc="outside lower center", fontsize=9)
    first = responses[0]
    figure.suptitle(f"More examples of a class: this {sign_words(found[first])} its {NUMBERS[first].split(' (')[0]}")
    words = "; ".join(f"{NUMBERS[name]}: {interval_words(number, '')}" for name, number in found.items())
    return describe(figure, f"Each class of each twin, its change against its change in frequency. Slopes: {words}.")


def _draw_moves(axis: Axes, panel: pd.DataFrame, response: str) -> None:
    keys = ["seed", "class"]
    moved = panel[["log_frequency", response]] - panel.groupby(keys)[["log_frequency", response]].transform("mean")
    colors = sns.color_palette(PALETTE)
    axis.axhline(0, color="0.6", linewidth=1)
    for k, (twin, words) in enumerate(TWIN_WORDS.items()):
        own = moved[panel.twin == twin]
        axis.plot(own.log_frequency, own[response], MARKERS[k], color=colors[k], markersize=5, alpha=0.8, label=words)


def draw_effects(table: pd.DataFrame, reading: str) -> Figure:
    """What a tenfold frequency causes, and what an observer would see without intervening, for every response."""
    chosen = table[table.reading == reading]
    names = [name for name in NUMBERS if name in set(chosen.response)]
    figure, axes = plt.subplots(1, len(names), figsize=(2.3 * len(names) + 1.6, 2.9), sharey=True, layout="constrained")
    colors, kinds = sns.color_palette(PALETTE), list(chosen.kind.unique())
    for axis, name in zip(np.atleast_1d(axes), names, strict=True):
        lines = chosen[chosen.response == name].set_index("kind").loc[kinds]
        for k, (_, line) in enumerate(lines.iterrows()):
            spread = [[line.ours - line.low], [line.high - line.ours]]
            axis.errorbar(line.ours, k, xerr=spread, fmt=MARKERS[k], color=colors[k], capsize=3)
        axis.axvline(0, color="0.4", linewidth=1)
        axis.set_xlabel(NUMBERS[name].replace(" (", "\n("), fontsize=10)
        axis.set_ylim(len(kinds) - 0.5, -0.5)
    np.atleast_1d(axes)[0].set_yticks(range(len(kinds)), [KIND_WORDS[kind] for kind in kinds])
    figure.suptitle("A tenfold training frequency: what it causes, and what only goes along with it")
    return figure


def draw_rivals(shares: dict[str, Measured], response: str) -> Figure:
    """The shares of the spread over the Zipf twin's classes that frequency, size and difficulty explain."""
    figure, axis = plt.subplots(figsize=(7.5, 2.6), layout="constrained")
    for k, measured in enumerate(shares.values()):
        share = measured.estimate
        axis.errorbar(share.value, k, xerr=[[max(share.value - share.low, 0)], [max(share.high - share.value, 0)]],
                      fmt=MARKERS[k], color=sns.color_palette(PALETTE)[k], capsize=3)  # fmt: skip
    axis.axvline(0, color="0.4", linewidth=1)
    axis.set_yticks(range(len(shares)), list(shares))
    axis.set(ylim=(len(shares) - 0.5, -0.5), xlabel="share of the spread between classes that it explains (%)")
    axis.set_title(f"Why do classes of the Zipf twin differ in {NUMBERS[response].split(' (')[0]}?")
    return figure


def draw_rarity_gains(panel: pd.DataFrame | None, lines: pd.DataFrame, profile: Profile, weights: np.ndarray) -> Figure:
    """Whom calibration helps: its gain at each fifth of the classes with some models, and its gain for every class of
    the twins against the class's frequency. panel: of one reading, from `compared`; lines: target lines of that
    reading."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.2), layout="constrained")
    rare = lines[lines.manipulation == "rarity"]
    for k, (model, own) in enumerate(rare.groupby("model", sort=False)):
        off, on = (by_level(own[own.row == row], "iou", weights) for row in ("off", "on"))
        gains = [(after - before).estimate for before, after in zip(off, on, strict=True)]
        spread = [[g.value - g.low for g in gains], [g.high - g.value for g in gains]]
        axis_places = np.arange(len(gains)) + 0.08 * k
        left.errorbar(axis_places, [g.value for g in gains], yerr=spread, marker=MARKERS[k], capsize=2,
                      color=sns.color_palette(PALETTE)[k], label=model)  # fmt: skip
    left.set(xlabel="fifth of the classes, from frequent to rare", ylabel="gain of calibration (points of IoU)",
             title="the target replaced by a rarer class", xticks=range(5), xticklabels=range(1, 6))  # fmt: skip
    left.axhline(0, color="0.4", linewidth=1)
    left.legend(fontsize=9)
    _draw_twin_gains(right, panel, profile)
    figure.suptitle(gain_sentence(panel, profile))
    return figure


def gain_sentence(panel: pd.DataFrame | None, profile: Profile) -> str:
    """Whether calibration helps a class the more the rarer it was."""
    if panel is None or panel.empty:
        return "Without twins nobody can tell whether rarity decides whom calibration helps"
    slope = causal_effect(panel, "gain", profile).estimate
    words = {1: "Calibration helps frequent classes more than rare ones",
             -1: "Calibration helps rare classes more than frequent ones",
             0: "Whether calibration helps rare classes more than frequent ones is undecided"}  # fmt: skip
    return words[clear_of_zero(slope.low, slope.high)]


def _draw_twin_gains(axis: Axes, panel: pd.DataFrame | None, profile: Profile) -> None:
    if panel is None or panel.empty:
        axis.text(0.5, 0.5, "no twins are trained yet", ha="center", va="center", transform=axis.transAxes)
        return
    for k, (twin, words) in enumerate(TWIN_WORDS.items()):
        own = panel[panel.twin == twin]
        axis.plot(100 * 10**own.log_frequency, own.gain, MARKERS[k], color=sns.color_palette(PALETTE)[k],
                  markersize=5, alpha=0.8, label=words)  # fmt: skip
    slope = causal_effect(panel, "gain", profile).estimate
    axis.axhline(0, color="0.4", linewidth=1)
    axis.set_title(f"in the twins: {interval_words(slope, '')} for ten times as many", fontsize=11)
    axis.set(xscale="log", xlabel="training frequency of the class (%)",
             ylabel="gain of calibration (points of IoU)")  # fmt: skip
    axis.legend(title="trained with", fontsize=9, title_fontsize=9)


def draw_lessons(names: Sequence[str], count: int = 8) -> Figure:
    """The first training scenes of some twins, a line each: the same scenes but for the classes."""
    figure, axes = plt.subplots(len(names), count, figsize=(1.45 * count, 1.6 * len(names)), layout="constrained")
    for line, name in zip(np.atleast_2d(axes), names, strict=True):
        for axis, spec in zip(line, twin_specs(name, count), strict=True):
            show_picture(axis, render(spec).image)
        line[0].set_title(TWIN_WORDS[TWINS[name].frequencies], fontsize=11, loc="left")
    return describe(figure, f"The first {count} training scenes of {', '.join(names)}: same places, other classes")


def draw_twins_at_work(names: Sequence[str], classes: Sequence[str], reading: str) -> Figure:
    """For each class a picture, the heatmap of its word under each twin, and what each twin draws when told it."""
    variants = [variant for variant in portrait_variants(1) if variant.target in classes]
    dataset = variant_dataset(PORTRAITS, variants)
    figure, axes = plt.subplots(len(variants), 1 + 2 * len(names), squeeze=False, layout="constrained",
                                figsize=(1.75 * (1 + 2 * len(names)), 2.1 * len(variants)))  # fmt: skip
    for line, variant in zip(axes, variants, strict=True):
        show_picture(line[0], render(variant.spec).image, variant.target)
    for k, name in enumerate(names):
        denoiser, words = loaded(name), TWIN_WORDS[TWINS[name].frequencies]
        for row, variant in enumerate(variants):
            example = ask(denoiser, dataset.read(row), variant, reading)
            show_heatmap(axes[row, 1 + k], example.off.values[example.position], words)
            drawn = generate(denoiser.pipeline, [TEMPLATE.format(variant.target)])
            show_picture(axes[row, 1 + len(names) + k], drawn[0], f"drawn: {words}")
    for axis in axes.flat:
        axis.title.set_fontsize(9)
    return describe(figure, f"Portraits of {', '.join(classes)}, the heatmaps of their names, and what each twin draws")
