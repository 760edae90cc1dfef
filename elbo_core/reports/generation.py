"""Table V, Figure 5 and what belongs to them: from the scores of generated pictures to numbers, choices and figures.

Intervals are over prompts: the seeds of a prompt are averaged first, and methods are compared on the same prompts.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elbo_core.diffusion.registry import paper_name
from elbo_core.experiments.generation import (
    BASELINE,
    OURS,
    STRENGTHS,
    Generation,
    pictures_of,
    read,
    strength_name,
    works,
)
from elbo_core.experiments.profiles import Profile
from elbo_core.paths import FIGURES
from elbo_core.plots import save_figure, show_picture
from elbo_core.reports.bootstrap import Estimate, Measured, bootstrap_weights, interval
from elbo_core.reports.paper import paper_number
from elbo_core.reports.summary import tidy
from elbo_core.reports.tables import caption, write_table

METRICS = {"clip_score": "CLIP score", "all_there": "all things there (%)", "all_right": "all in the right colour (%)"}
"""By their short names: what people read. The last two are the judge's."""
COSTS = {"evaluations": "network evaluations", "seconds": "seconds a picture"}
BATCHES = ("composition", "reweighting", "recipes")
MIRRORS = {"toy-ae": "ae", "toy-dvmp": "dvmp", "toy-abc": "abc", "a&e": "ae", "dvmp": "dvmp", "abc-6k": "abc"}
"""The paper's prompt set that one is or mirrors, as in `reported.csv`."""
SETS = {"ae": "A&E", "dvmp": "DVMP", "abc": "ABC-6K"}


def scores(profile: Profile, models: Sequence[str], batches: Sequence[str] = BATCHES) -> pd.DataFrame:
    """Every picture's scores of the works of a profile that are of these models and batches, measured where they are
    missing; a row that several batches have counts once.

    Raises:
        MeasurementError, StoreError: see `experiments.generation.read`.
    """
    chosen = [work for work in works(profile) if work.model in models and work.batch in batches]
    if not chosen:
        raise ValueError(f"profile {profile.name} generates nothing with {list(models)}")
    frame = pd.concat([read(work) for work in chosen], ignore_index=True)
    for metric, share in (("all_there", "there_share"), ("all_right", "right_share")):
        frame[metric] = (100.0 * (frame[share] == 1)).where(frame[share].notna())
    return frame.drop_duplicates(["model", "dataset", "row", "index"], ignore_index=True)


def by_prompt(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric of one model on one set: a line per prompt, a column per row, the mean over seeds."""
    means = frame.pivot_table(index="prompt_index", columns="row", values=metric, aggfunc="mean", sort=False)
    return means[list(dict.fromkeys(frame.row))] if len(means) else means


def measured(values: pd.Series, weights: np.ndarray) -> Measured:
    """The mean over prompts, and on each resample [R, prompts]."""
    numbers = values.to_numpy(dtype=float)
    return Measured(float(numbers.mean()), weights @ numbers / weights.sum(axis=1))


def table_5(frame: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Every metric of every row beside the paper's, and its gain over the baseline on the same prompts; tidy."""
    records = []
    for (model, dataset), part in frame.groupby(["model", "dataset"], sort=False):
        for metric in METRICS:
            if part[metric].notna().any():
                records += _lines(part, metric, profile, {"model": model, "dataset": dataset})
    return tidy(pd.DataFrame(records).assign(reading="released"))


def _lines(part: pd.DataFrame, metric: str, profile: Profile, common: Mapping[str, str]) -> list[dict]:
    means = by_prompt(part, metric).dropna()
    weights = bootstrap_weights(len(means), profile.resamples, profile.seed)
    rows = {name: measured(means[name], weights) for name in means}
    lines = []
    for name, number in rows.items():
        own = {metric: number} if name == BASELINE else {metric: number, f"{metric}_gain": number - rows[BASELINE]}
        for called, value in own.items():
            numbers = {"ours": value.estimate.value, "low": value.estimate.low, "high": value.estimate.high}
            paper = paper_score(common["model"], name, common["dataset"], called)
            lines.append({**common, "row": name, "metric": called, "paper": paper, **numbers, "n_images": len(means)})
    return lines


def paper_score(model: str, row: str, dataset: str, metric: str) -> float:
    """The paper's CLIP score, or its gain over the baseline; NaN for what it has not."""
    if not metric.startswith("clip_score"):
        return float("nan")
    place = (paper_name(model), MIRRORS.get(dataset, dataset))
    own, plain = (paper_number("table_5", place[0], name, place[1], "clip_score") for name in (row, BASELINE))
    return own - plain if metric.endswith("_gain") else own


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Of every model and row, the mean network evaluations and seconds of a picture, and in how many percent of the
    pictures the method did anything."""
    grouped = frame.assign(acts=100.0 * frame.acts).groupby(["model", "row"], sort=False)
    return grouped[["evaluations", "seconds", "acts"]].mean().reset_index()


def agreement(frame: pd.DataFrame, share: str, profile: Profile) -> Estimate:
    """How often, in percent, the picture with the higher CLIP score is also the one of which the judge sees a larger
    share of what it is to show ("there_share" or "right_share"): over all pairs of pictures of one prompt by one model
    that differ in both. 50 is chance; NaN where there is no such pair. The bootstrap draws prompts."""
    pairs = [_concordant(own.clip_score.to_numpy(), own[share].to_numpy()) for own in _of_one_prompt(frame)]
    agree, total = np.array(pairs, dtype=float).reshape(-1, 2).T
    if not total.any():
        return Estimate(np.nan, np.nan, np.nan)
    weights = bootstrap_weights(len(pairs), profile.resamples, profile.seed)
    return interval(100 * agree.sum() / total.sum(), 100 * (weights @ agree) / np.maximum(weights @ total, 1))


def _of_one_prompt(frame: pd.DataFrame) -> list[pd.DataFrame]:
    return [own for _, own in frame.groupby(["model", "dataset", "prompt_index"])]


def _concordant(one: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    first, second = np.triu_indices(len(one), k=1)
    signs = np.sign(one[first] - one[second]) * np.sign(other[first] - other[second])
    return int((signs > 0).sum()), int((np.abs(signs) > 0).sum())


def strengths(frame: pd.DataFrame, profile: Profile, metric: str) -> pd.DataFrame:
    """The gain of ours over the baseline by its strength w, all sets of one model together: ours, low, high."""
    parts = [by_prompt(part, metric).dropna() for _, part in frame.groupby("dataset", sort=False)]
    means = pd.concat(parts, ignore_index=True)
    weights = bootstrap_weights(len(means), profile.resamples, profile.seed)
    lines = [{"strength": 1.0, "ours": 0.0, "low": 0.0, "high": 0.0}]
    for strength in STRENGTHS:
        gain = measured(means[strength_name(strength)] - means[BASELINE], weights).estimate
        lines.append({"strength": strength, "ours": gain.value, "low": gain.low, "high": gain.high})
    return pd.DataFrame(lines)


def claim_number(model: str, profile: Profile, metric: str) -> tuple[Estimate, float] | None:
    """What reweighting gains in a metric with a model, the mean over the profile's prompt sets, and the same of the
    paper's numbers; None where the profile has the model generate nothing."""
    if not any(work.model == model and work.batch == "composition" for work in works(profile)):
        return None
    frame = scores(profile, [model], ["composition"])
    ours, paper = [], []
    for place, (dataset, part) in enumerate(frame.groupby("dataset", sort=False)):
        means = by_prompt(part, metric).dropna()
        weights = bootstrap_weights(len(means), profile.resamples, profile.seed + place)
        ours.append(measured(means[OURS] - means[BASELINE], weights))
        paper.append(paper_score(model, OURS, dataset, f"{metric}_gain"))
    mean = float(np.mean([number.value for number in ours]))
    together = Measured(mean, np.mean([number.samples for number in ours], axis=0))
    return together.estimate, float(np.mean(paper))


@dataclass(frozen=True)
class Example:
    """A picture before and after, and why it was chosen. index: of the item in its work."""

    reason: str
    index: int
    prompt: str
    gain: float


def examples(frame: pd.DataFrame) -> list[Example]:
    """Items of one model and set by a rule that was written before any picture was seen: those whose gain in CLIP score
    is the median and the 90th percentile, and the two where it is least."""
    wide = frame.pivot_table(index="index", columns="row", values="clip_score")
    gains = (wide[OURS] - wide[BASELINE]).sort_values(kind="stable")
    prompts = frame.drop_duplicates("index").set_index("index").prompt
    last = len(gains) - 1
    places = {"the median": last // 2, "the 90th percentile": round(0.9 * last), "the worst": 0, "the second worst": 1}
    return [
        Example(reason, int(gains.index[min(place, last)]), prompts[gains.index[min(place, last)]],
                float(gains.iloc[min(place, last)]))
        for reason, place in places.items()
    ]  # fmt: skip


def draw_gains(table: pd.DataFrame, metric: str = "clip_score") -> Figure:
    """Gains over the baseline with their intervals, a panel per prompt set, a colour and marker per model; the paper's
    as crosses."""
    gains = table[table.metric == f"{metric}_gain"]
    sets, rows = list(gains.dataset.unique()), list(dict.fromkeys(gains.row))
    size = (3.4 * len(sets) + 1.2, 0.5 * len(rows) + 1.6)
    figure, axes = plt.subplots(1, len(sets), figsize=size, sharey=True, squeeze=False)
    for axis, dataset in zip(axes[0], sets, strict=True):
        _draw_panel(axis, gains[gains.dataset == dataset], rows)
        axis.set_title(f"{SETS.get(MIRRORS.get(dataset, ''), dataset)} prompts", fontsize=11)
        axis.set_xlabel(f"gain in {METRICS[metric]}", fontsize=10)
    axes[0, 0].set_yticks(range(len(rows)), rows)
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    figure.tight_layout()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=4)
    return figure


def _draw_panel(axis: Axes, lines: pd.DataFrame, rows: Sequence[str]) -> None:
    models = list(dict.fromkeys(lines.model))
    colors = sns.color_palette("colorblind", len(models))
    for k, (model, color, marker) in enumerate(zip(models, colors, "osD^vP", strict=False)):
        own = lines[lines.model == model].set_index("row").reindex(rows)
        places = np.arange(len(rows)) + 0.22 * (k - (len(models) - 1) / 2)
        spread = [own.ours - own.low, own.high - own.ours]
        axis.errorbar(own.ours, places, xerr=spread, fmt=marker, color=color, capsize=2, markersize=5, label=model)
        label = "the paper" if k == 0 else None
        axis.plot(own.paper, places, "x", color="black", markersize=6, markeredgewidth=1.6, label=label, zorder=5)
    axis.axvline(0, color="0.4", linewidth=1)


def draw_strengths(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Gain over the baseline against the strength w, a panel per metric; the released 1.2 is marked."""
    figure, axes = plt.subplots(1, len(curves), figsize=(3.9 * len(curves), 3.3), squeeze=False)
    color = sns.color_palette("colorblind")[0]
    for axis, (metric, curve) in zip(axes[0], curves.items(), strict=True):
        axis.plot(curve.strength, curve.ours, marker="o", markersize=4, color=color)
        axis.fill_between(curve.strength, curve.low, curve.high, color=color, alpha=0.2)
        axis.axhline(0, color="0.4", linewidth=1)
        axis.axvline(1.2, color="0.4", linestyle="--", linewidth=1)
        axis.set_xlabel("strength w", fontsize=10)
        axis.set_title(f"gain in {METRICS[metric]}", fontsize=11)
    figure.tight_layout()
    return figure


def draw_examples(work: Generation, chosen: Sequence[Example]) -> Figure:
    """Figure 5: for each example the picture without and with reweighting, made again."""
    pairs = [pictures_of(work, name, [example.index for example in chosen]) for name in (BASELINE, OURS)]
    figure, axes = plt.subplots(2, len(chosen), figsize=(2.5 * len(chosen), 5.6), squeeze=False)
    for column, example in enumerate(chosen):
        for row, (pictures, name) in enumerate(zip(pairs, ("before", "after"), strict=True)):
            show_picture(axes[row, column], pictures[column], name)
        title = f"{example.reason} ({example.gain:+.1f})\n{_wrapped(example.prompt)}"
        axes[0, column].set_title(f"{title}\nbefore", fontsize=9, parse_math=False)
        axes[1, column].set_title("after", fontsize=9)
    figure.tight_layout()
    return figure


def _wrapped(text: str, width: int = 26) -> str:
    return "\n".join(textwrap.wrap(text, width))


def write(table: pd.DataFrame, profile: Profile) -> list[Path]:
    """Write `figures/<profile>/table_5.{csv,md,tex}`."""
    extent = f"{int(table.n_images.max())} prompts a set" if len(table) else "nothing"
    return write_table(table, "table_5", profile.name, caption("Table V", profile).replace(profile.extent, extent))


def keep(figure: Figure, name: str, profile: Profile) -> list[Path]:
    """Write `figures/<profile>/figure_<name>.{svg,png}`."""
    return save_figure(figure, FIGURES / profile.name / f"figure_{name}")
