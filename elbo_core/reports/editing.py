"""Figure 6 and what the paper could not count: how often edits succeed, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.sampling import Guidance, ReleasedGrid
from elbo_core.experiments.edits import CALIBRATED, MAIN, PLAIN, STARTS, UNCONTROLLED, judge, probability, read_edits
from elbo_core.experiments.profiles import Profile
from elbo_core.experiments.rows import LATE_LAYERS
from elbo_core.generation.calibrated_maps import Calibration, without_article
from elbo_core.generation.inversion import Start
from elbo_core.generation.prompt2prompt import Control, Edit, PromptToPrompt, controls_of, draw, edit
from elbo_core.generation.word_maps import word_columns
from elbo_core.plots import show_picture
from elbo_core.reports.bootstrap import Estimate, Measured, bootstrap_weights
from elbo_core.reports.figures import NEGLIGIBLE
from elbo_core.reports.summary import tidy
from elbo_core.toy.edit_tasks import KINDS, Source, Task, edit_sources

ALL_KINDS = "all kinds"
METRICS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "accurate": lambda lines: 100.0 * (lines.appears & lines.kept),
    "appears": lambda lines: 100.0 * lines.appears,
    "kept": lambda lines: 100.0 * lines.kept,
    "probability": lambda lines: 100.0 * lines.probability,
    "psnr": lambda lines: lines.psnr,
    "changed": lambda lines: 100.0 * lines.changed,
}
"""By name, of each edit: whether the wanted thing appears and the other one is kept (in percent); each of these alone;
the judge's probability of the wanted thing (in percent); and, outside the edited object, the PSNR to the source in dB
and the share of pixels that changed (in percent)."""
IN_WORDS = {
    "accurate": "accurate edits (%)",
    "appears": "the wanted thing appears (%)",
    "kept": "the other thing is kept (%)",
    "probability": "probability of the wanted thing (%)",
    "psnr": "PSNR outside the object (dB)",
    "changed": "pixels changed outside it (%)",
    "edits-generated": "generated pictures",
    "edits-rendered": "given pictures",
}


def average(lines: pd.DataFrame, metric: str, weights: np.ndarray) -> Measured:
    """The mean of a metric over edits, on all sources and on resamples of them, [R, sources]."""
    values, drawn = METRICS[metric](lines).to_numpy(float), weights[:, lines["index"].to_numpy()]
    return Measured(float(values.mean()), drawn @ values / np.maximum(drawn.sum(axis=1), 1))


def compare_edits(frame: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """A tidy table of `read_edits`: by kind of edit ("reading") and variant ("row") each metric, and its gain over
    `PLAIN` on the same resampled sources."""
    weights = _weights(frame, profile)
    lines = []
    for dataset, of_set in frame.groupby("dataset"):
        for kind in (ALL_KINDS, *KINDS):
            chosen = of_set if kind == ALL_KINDS else of_set[of_set.kind == kind]
            common = {"model": profile.edits_model, "dataset": dataset, "reading": kind, "n_images": profile.edits}
            lines += [common | line for line in _compared(chosen, weights)]
    return tidy(pd.DataFrame(lines).assign(paper=np.nan))


def _weights(frame: pd.DataFrame, profile: Profile) -> np.ndarray:
    return bootstrap_weights(int(frame["index"].max()) + 1, profile.resamples, profile.seed)


def _compared(lines: pd.DataFrame, weights: np.ndarray) -> list[dict]:
    found = []
    for metric in METRICS:
        measured = {name: average(own, metric, weights) for name, own in lines.groupby("variant")}
        for name in (variant.name for variant in (PLAIN, *CALIBRATED, UNCONTROLLED)):
            found.append(_line(name, metric, measured[name]))
            if name != PLAIN.name:
                found.append(_line(name, f"{metric}_gain", measured[name] - measured[PLAIN.name]))
    return found


def _line(row: str, metric: str, measured: Measured) -> dict:
    estimate = measured.estimate
    return {"row": row, "metric": metric, "ours": estimate.value, "low": estimate.low, "high": estimate.high}


def gain(frame: pd.DataFrame, profile: Profile, variant: str = MAIN.name, metric: str = "accurate") -> Measured:
    """How much more of a metric a variant has than plain Prompt-to-Prompt, the mean over both sets of sources."""
    weights, gains = _weights(frame, profile), []
    for _, lines in frame.groupby("dataset"):
        ours, plain = (average(lines[lines.variant == name], metric, weights) for name in (variant, PLAIN.name))
        gains.append(ours - plain)
    mean = float(np.mean([one.value for one in gains]))
    return Measured(mean, np.mean([one.samples for one in gains], axis=0))


def claim_number(profile: Profile, metric: str) -> Estimate | None:
    """What the claim about editing is tested on: the gain of `MAIN` in a metric; None where the profile edits
    nothing."""
    return gain(read_edits(profile), profile, metric=metric).estimate if profile.edits else None


@dataclass(frozen=True)
class Choice:
    """An edit that is shown, and the rule by which it was chosen."""

    rule: str
    dataset: str
    index: int
    kind: str
    difference: float


def choose(frame: pd.DataFrame) -> list[Choice]:
    """The edits of the median and of the 90th percentile of the difference in the wanted thing's probability between
    `MAIN` and `PLAIN`, and that with the least, where calibration hurts most."""
    place = ["dataset", "index", "kind"]
    wide = frame.pivot(index=place, columns="variant", values="probability")
    ordered = (wide[MAIN.name] - wide[PLAIN.name]).sort_values(kind="stable")
    last = len(ordered) - 1
    positions = {"median": last // 2, "90th percentile": round(0.9 * last), "hurts most": 0}
    chosen = {rule: (*ordered.index[k], float(ordered.iloc[k])) for rule, k in positions.items()}
    return [Choice(rule, dataset, int(index), kind, d) for rule, (dataset, index, kind, d) in chosen.items()]


@dataclass(frozen=True)
class Shown:
    """An edit drawn again by `PLAIN` and `MAIN`.

    pictures: source, plain, calibrated, [3, 3, R, R]. maps: the injected maps of the edited phrase, plain and
    calibrated, [2, side, side], the mean over heads, steps and the layers of the finest side. probabilities: of the
    wanted thing in each picture.
    """

    choice: Choice
    source: Source
    task: Task
    pictures: Tensor
    maps: Tensor
    probabilities: tuple[float, ...]


class Watched(PromptToPrompt):
    """Prompt-to-Prompt that keeps the maps which it injects for some columns, in layers of the finest side."""

    def __init__(self, controls: Sequence[Control], start: Start, columns: Sequence[int]):
        super().__init__(controls, start)
        self.columns, self.side = list(columns), 0
        self.maps: dict[int, tuple[Tensor, int]] = {}

    def _edited(self, source: Tensor, own: Tensor, injected: Tensor) -> Tensor:
        side = round(source.shape[-2] ** 0.5)
        self.side = max(self.side, side)
        origins = [control.origin(source)[..., self.columns].mean(dim=(0, -1)) for control in self.controls]
        maps = torch.stack(origins).unflatten(-1, (side, side))
        total, count = self.maps.get(side, (torch.zeros_like(maps), 0))
        self.maps[side] = (total + maps, count + 1)
        return super()._edited(source, own, injected)

    def mean(self) -> Tensor:
        """[E, side, side]."""
        total, count = self.maps[self.side]
        return total / count


def show(denoiser: Denoiser, choice: Choice, profile: Profile) -> Shown:
    """Draw a chosen edit again."""
    source, sampler = edit_sources(choice.index + 1)[choice.index], ReleasedGrid(profile.edit_steps)
    (task,) = [task for task in source.tasks if task.kind == choice.kind]
    start = STARTS[choice.dataset](denoiser, source, sampler)
    edits = [variant.edit(task) for variant in (PLAIN, MAIN)]
    controls = controls_of(denoiser, source.text, edits, start, source.phrases, sampler)
    phrase, part = without_article(source.phrases[task.subject]), next(iter(denoiser.parts.values()))
    hook = Watched(controls, start, word_columns(source.text, phrase, part))
    latents = draw(denoiser, [source.text, *(one.target for one in edits)], hook, sampler, Guidance())
    pictures = denoiser.decode_latents(latents).cpu()
    verdict = judge()(pictures)
    seen = tuple(probability(verdict, row, task.wanted) for row in range(3))
    return Shown(choice, source, task, pictures, hook.mean().cpu(), seen)


def draw_figure_6(shown: Sequence[Shown]) -> Figure:
    """A line for each edit: the source, the map that plain Prompt-to-Prompt injects and its picture, the calibrated map
    and its picture."""
    figure = plt.figure(figsize=(7.2, 1.85 * len(shown)))
    parts = np.atleast_1d(figure.subfigures(len(shown), 1))
    for part, one in zip(parts, shown, strict=True):
        axes = part.subplots(1, 5)
        part.subplots_adjust(left=0.01, right=0.99, top=0.68, bottom=0.1, wspace=0.08)
        part.text(0.01, 0.97, f"{_where(one.choice)}, {one.choice.rule}:", fontsize=9, weight="bold", va="top")
        part.text(0.01, 0.87, f"“{one.source.text}” → “{_shortened(one)}”", fontsize=8, va="top")
        panels = (one.pictures[0], one.maps[0], one.pictures[1], one.maps[1], one.pictures[2])
        titles = ("source", "its map", "Prompt-to-Prompt", "calibrated map", "calibrated")
        for axis, values, title in zip(axes, panels, titles, strict=True):
            _show(axis, values, title)
        for axis, seen in zip(axes[::2], one.probabilities, strict=True):
            axis.text(
                0.5, -0.04, f"judge: {100 * seen:.0f} %", fontsize=8, ha="center", va="top", transform=axis.transAxes
            )
    return figure


def try_edit(denoiser: Denoiser, dataset: str, index: int, target: str, inverse_gamma: float = 3.0) -> Figure:
    """A source and an edit of one's own, plain and calibrated: word for word if it has as many words, else refined.

    Raises:
        EditError: the target does not fit.
    """
    source = edit_sources(index + 1)[index]
    words = "replace" if len(target.split()) == len(source.text.split()) else "refine"
    calibration = Calibration.with_gamma(1 / inverse_gamma, LATE_LAYERS)
    edits = [Edit(target, words), Edit(target, words, calibration=calibration)]
    done = edit(denoiser, source.text, edits, STARTS[dataset](denoiser, source, ReleasedGrid()), source.phrases)
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7))
    titles = ("source", "Prompt-to-Prompt", f"calibrated, γ = 1/{inverse_gamma:g}")
    for axis, picture, title in zip(axes, done.pictures, titles, strict=True):
        show_picture(axis, picture, title)
    figure.tight_layout()
    return figure


def _where(choice: Choice) -> str:
    return f"{choice.kind}, {IN_WORDS[choice.dataset].removesuffix('s')}"


def _shortened(one: Shown) -> str:
    """The target, or what is emphasised in it."""
    if one.task.weights:
        ((word, factor),) = one.task.weights
        return f"{word} × {factor:g}"
    return one.task.target


def _show(axis: Axes, values: Tensor, title: str) -> None:
    """A picture, or a map from zero to its maximum."""
    if values.ndim == 3:
        show_picture(axis, values)
    else:
        axis.imshow(values, cmap="magma", vmin=0, interpolation="nearest")
        axis.set_axis_off()
    axis.set_title(title, fontsize=8, pad=3)


SHOWN_METRICS = ("accurate", "psnr", "changed")


def draw_edit_gains(table: pd.DataFrame, kind: str = ALL_KINDS) -> Figure:
    """What each variant has more than plain Prompt-to-Prompt, a panel for each of `SHOWN_METRICS`."""
    rows = [variant.name for variant in (*CALIBRATED, UNCONTROLLED)]
    figure, axes = plt.subplots(1, len(SHOWN_METRICS), figsize=(7.2, 0.34 * len(rows) + 1.1), sharey=True)
    for axis, metric in zip(axes, SHOWN_METRICS, strict=True):
        chosen = table[(table.reading == kind) & (table.metric == f"{metric}_gain")]
        for k, (dataset, lines) in enumerate(chosen.groupby("dataset")):
            _draw_gains(axis, lines.set_index("row").loc[rows], k, IN_WORDS[dataset])
        axis.axvline(0, color="0.4", linewidth=1)
        axis.set_title(IN_WORDS[metric].replace(" (", "\n("), fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0].axvspan(-NEGLIGIBLE, NEGLIGIBLE, color="0.9", zorder=0)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    axes[1].set_xlabel("more than Prompt-to-Prompt, with the 95 % interval", fontsize=8)
    figure.tight_layout()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.04), ncol=2, fontsize=8)
    return figure


def _draw_gains(axis: Axes, lines: pd.DataFrame, k: int, name: str) -> None:
    spread = [lines.ours - lines.low, lines.high - lines.ours]
    places, color = np.arange(len(lines)) + 0.24 * k - 0.12, sns.color_palette("colorblind")[k]
    axis.errorbar(lines.ours, places, xerr=spread, fmt="os"[k], markersize=4, capsize=2, color=color, label=name)


def finding(measured: Measured) -> str:
    """The gain in accurate edits in one sentence."""
    number = measured.estimate
    interval = f"[{number.low:+.1f}, {number.high:+.1f}] points"
    if number.low > 0:
        return f"Calibrated maps make more edits accurate, by {number.value:.1f} {interval}."
    if number.high <= 0:
        return f"Calibrated maps make fewer edits accurate, by {-number.value:.1f} {interval}."
    return f"Whether calibrated maps make more edits accurate stays open: {number.value:+.1f} {interval}."
