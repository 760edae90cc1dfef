"""Figure 2 of the paper: its pipeline, drawn from what really happened to one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from elbo_core.diffusion.noise import keyed_noise
from elbo_core.heatmaps import Heatmaps
from elbo_core.methods.align import LAYER_WEIGHTS, ElboScore, Recipe, calibrate, cross_maps, read
from elbo_core.methods.elbo import class_loss, weights
from elbo_core.methods.observe import CaptionAttention, Losses, Observation, observe
from elbo_core.metrics import count, miou_by_threshold, stack
from elbo_core.plots import color_mask
from elbo_core.scene import Scene

if TYPE_CHECKING:
    from elbo_core.diffusion.denoiser import Denoiser

STEP_BY_STEP = Recipe(layer_weights="late", refinements=("all finest",), refine_image=True, readout="softmax")
"""Algorithm 1 in the order of the paper's text, from the layers where the toy models keep their words."""
SHOWN_NOISE = (20, 200, 501, 951)
"""Timesteps whose noised latents are shown."""


@dataclass(frozen=True)
class Intermediates:
    """All that Algorithm 1 makes of a scene on its way, on the CPU; N classes, the finest attention side M.

    noised: by timestep, latents [C, h, w]. layers: by name, the maps [N, r, r] of the layers that are read, the mean
    over the timesteps. mean: [N, M, M]. losses: at each timestep; loss: the weighted mean of each class [N]. scores: S
    [N]. calibrated: [N, M, M]. refined, posterior: [N, H, W]. threshold: of the mask.
    """

    scene: Scene
    noised: dict[int, Tensor]
    layers: dict[str, Tensor]
    mean: Tensor
    losses: Losses
    loss: Tensor
    scores: Tensor
    calibrated: Tensor
    refined: Tensor
    posterior: Tensor
    threshold: float

    @property
    def mask(self) -> Tensor:
        """int64 [H, W], 0 background, k the k-th class."""
        return Heatmaps(self.scene.classes, self.posterior, self.scores).mask(self.threshold)


def follow(denoiser: Denoiser, scene: Scene, recipe: Recipe = STEP_BY_STEP) -> Intermediates:
    """Algorithm 1 on a scene whose caption the text encoder reads in one piece, with every step kept.

    Raises:
        ValueError: the caption is too long, or the recipe averages results instead of maps or has no score of losses.
    """
    if not recipe.average_maps or not isinstance(recipe.score, ElboScore):
        raise ValueError("steps can be followed for a recipe with average_maps=True and an ElboScore")
    observation = observe(denoiser, scene, recipe.needs)
    if len(observation.attention.captions) > 1:
        raise ValueError(f"the caption of scene {scene.id!r} is too long to be shown; name fewer classes")
    (caption,) = observation.attention.captions
    scores, losses = recipe.score(observation), observation.losses
    weight = weights(recipe.score.estimator, observation.schedule, losses.timesteps, losses.values)
    mean, posterior = cross_maps(caption, recipe), _maps(observation, recipe, scores)
    return Intermediates(
        scene=scene,
        noised=noised(denoiser, scene, recipe.needs.seed),
        layers=_layers(caption, recipe),
        mean=mean[0].cpu(),
        losses=losses,
        loss=class_loss(losses.values, weight).value,
        scores=scores,
        calibrated=calibrate(mean, scores)[0].cpu(),
        refined=_maps(observation, replace(recipe, readout="plain"), scores),
        posterior=posterior,
        threshold=best_threshold(Heatmaps(scene.classes, posterior, scores), scene),
    )


def _maps(observation: Observation, recipe: Recipe, scores: Tensor) -> Tensor:
    return read(observation, recipe, scores[None])[0]


def noised(denoiser: Denoiser, scene: Scene, seed: int, timesteps: Sequence[int] = SHOWN_NOISE) -> dict[int, Tensor]:
    """By timestep, the scene's noised latents [C, h, w] (eq. 2)."""
    latents = denoiser.encode_image(scene.image)
    noise = keyed_noise(latents.shape, seed, scene.id, "attention", timesteps).to(latents)
    noisy = denoiser.noise(latents.expand_as(noise), noise, torch.tensor(timesteps))
    return dict(zip(timesteps, noisy.cpu(), strict=True))


def _layers(caption: CaptionAttention, recipe: Recipe) -> dict[str, Tensor]:
    """By name, the maps of the layers that have a weight."""
    maps = caption.cross.maps(caption.columns_of(recipe.text_part))
    weight = LAYER_WEIGHTS[recipe.layer_weights](caption.cross)
    read_layers = zip(caption.cross.layers, maps, weight, strict=True)
    return {layer.name: values.mean(dim=0).cpu() for layer, values, share in read_layers if share}


def best_threshold(heatmaps: Heatmaps, scene: Scene) -> float:
    """The threshold of the best mIoU on this very picture (an oracle); halfway up, if its truth is not known."""
    if scene.label_map is None:
        return float(heatmaps.values.max() + heatmaps.values.min()) / 2
    curve = miou_by_threshold(stack([count(heatmaps, scene.labels, scene.label_map, max(scene.labels))]))
    best = np.flatnonzero(curve == curve.max()) + 1
    return float(best[len(best) // 2]) / 100  # of a plateau, the middle


WIDTH, SIDE, GAP = 7.2, 0.59, 0.06
"""Inches: of the figure, of a map, between maps."""
SMALL = 8
"""Points: the smallest letters."""
LAYERS_SHOWN = 3


def draw_pipeline(steps: Intermediates) -> Figure:
    """The steps as one picture of the width of a page: input, noise and losses above; below, a line for each class."""
    canvas = _Canvas(steps, class_colors(len(steps.scene.classes)))
    canvas.draw_inputs()
    canvas.draw_losses()
    canvas.draw_classes()
    canvas.draw_masks()
    return canvas.figure


def class_colors(count: int) -> np.ndarray:
    """Colours [count, 3] that all readers tell apart, one for each class."""
    return np.array(sns.color_palette("colorblind", count))


class _Canvas:
    """A figure that is measured in inches from its upper left corner."""

    def __init__(self, steps: Intermediates, colors: np.ndarray):
        self.steps, self.colors = steps, colors
        self.top = 2.3
        """Where the lines of the classes begin."""
        self.height = self.top + max(len(steps.scene.classes) * (SIDE + GAP), 2.06)
        self.figure = plt.figure(figsize=(WIDTH, self.height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        place = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        return self.figure.add_axes(place)

    def picture(self, left: float, top: float, side: float, values: np.ndarray | Tensor, **options) -> Axes:
        axes = self.axes(left, top, side, side)
        axes.imshow(values, interpolation="nearest", **options)
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        for edge in axes.spines.values():
            edge.set(visible=True, linewidth=0.5, color="0.6")
        return axes

    def text(self, left: float, top: float, words: str, **options) -> None:
        options = {"fontsize": SMALL, "va": "top", "ha": "center"} | options
        self.figure.text(left / WIDTH, 1 - top / self.height, words, **options)

    def arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        ends = [(x / WIDTH, 1 - y / self.height) for x, y in (start, end)]
        style = {"arrowstyle": "-|>", "mutation_scale": 9, "color": "0.25", "linewidth": 1}
        self.figure.add_artist(FancyArrowPatch(*ends, transform=self.figure.transFigure, **style))

    def draw_inputs(self) -> None:
        """The picture, its caption, and its latents under more and more noise."""
        scene, side, top = self.steps.scene, 1.05, 0.36
        self.text(side / 2, 0.05, "picture", fontsize=9, weight="bold")
        self.picture(0, top, side, scene.image.permute(1, 2, 0))
        self.text(0, top + side + 0.05, f"“a photo of {', '.join(scene.classes)}”", ha="left", style="italic")
        self.arrow((side + 0.03, top + side / 2), (side + 0.27, top + side / 2))
        left = side + 0.3
        width = len(self.steps.noised) * (SIDE + GAP) - GAP
        self.text(left + width / 2, 0.05, "1  noised latents (eq. 2)", fontsize=9, weight="bold")
        for k, (timestep, latents) in enumerate(self.steps.noised.items()):
            x = left + k * (SIDE + GAP)
            self.picture(x, top + (side - SIDE) / 2, SIDE, as_colors(latents))
            self.text(x + SIDE / 2, top + (side + SIDE) / 2 + 0.05, f"t = {timestep}")
        self.arrow((left + width + 0.03, top + side / 2), (left + width + 0.27, top + side / 2))
        self.arrow((left + width / 2, top + side + 0.05), (1.35, self.top - 0.34))

    def draw_losses(self) -> None:
        """What one class explains better than another, timestep by timestep."""
        steps, left = self.steps, 4.95
        self.text(left + (WIDTH - left) / 2, 0.05, "3  loss of each class (eq. 4)", fontsize=9, weight="bold")
        axes = self.axes(left, 0.36, WIDTH - left, 1.05)
        values = 1000 * (steps.losses.values - steps.losses.values.mean(dim=0))
        for curve, color, style in zip(values, self.colors, _styles(), strict=False):
            axes.plot(steps.losses.timesteps, curve, color=color, linewidth=1.3, **style)
        axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        axes.tick_params(labelsize=SMALL, pad=1, length=2)
        axes.set_xticks([0, 500, 1000])
        axes.set_xlabel("timestep", fontsize=SMALL, labelpad=1)
        axes.set_ylabel("minus their\nmean, ×10⁻³", fontsize=SMALL, labelpad=2)
        axes.grid(False)
        self.arrow((left - 0.2, 1.5), (_Columns.of(steps).score + 0.45, self.top - 0.34))

    def draw_classes(self) -> None:
        """From the layers' maps to the posterior, a line for each class."""
        steps, top = self.steps, self.top
        columns = _Columns.of(steps)
        for title, left, width in columns.titles:
            self.text(left + width / 2, top - 0.04, title, va="bottom", linespacing=1.1)
        for row, (name, color) in enumerate(zip(steps.scene.classes, self.colors, strict=True)):
            y = top + row * (SIDE + GAP)
            self.text(0.12, y + SIDE / 2, name, rotation=90, va="center", color=color, weight="bold", fontsize=9)
            for left, maps, options in columns.maps:
                self.picture(left, y, SIDE, maps[row], cmap="magma", **options)
            self._draw_score(row, columns.score, y)
            for left in columns.arrows:
                self.arrow((left, y + SIDE / 2), (left + 0.2, y + SIDE / 2))

    def _draw_score(self, row: int, left: float, y: float) -> None:
        score = float(self.steps.scores[row])
        self.text(left + 0.42, y + 0.1, f"S = {score:.2f}\n1/S = {1 / score:.2f}", linespacing=1.3)
        bar = self.axes(left + 0.08, y + 0.46, 0.68, 0.1)
        bar.barh([0], [1 / score], color=self.colors[row])
        bar.set(xlim=(0, float((1 / self.steps.scores).max())), xticks=[], yticks=[])
        bar.set_frame_on(False)

    def draw_masks(self) -> None:
        """What comes out, and the truth."""
        steps, left, side, top = self.steps, WIDTH - 0.92, 0.9, self.top
        masks = [("mask", steps.mask)]
        if steps.scene.label_map is not None:
            masks.append(("truth", truth(steps.scene)))
        for k, (name, mask) in enumerate(masks):
            y = top + k * (side + 0.24)
            self.text(left + side / 2, y - 0.04, name, va="bottom", fontsize=9, weight="bold")
            self.picture(left, y, side, color_mask(mask, self.colors))


@dataclass(frozen=True)
class _Columns:
    """What stands below each other. titles: with left and width; maps: left, maps [N, ., .] and how they are coloured;
    arrows: their lefts; score: its left."""

    titles: list[tuple[str, float, float]]
    maps: list[tuple[float, Tensor, dict]]
    arrows: list[float]
    score: float

    @classmethod
    def of(cls, steps: Intermediates) -> _Columns:
        left, arrow, score = 0.24, 0.24, 0.84
        chosen = _spread(list(steps.layers.values()), LAYERS_SHOWN)
        maps: list[tuple[float, Tensor, dict]]
        maps = [(left + k * (SIDE + GAP), layer, {}) for k, layer in enumerate(chosen)]
        layers = len(chosen) * (SIDE + GAP) - GAP
        mean = left + layers + arrow
        at_score = mean + SIDE
        calibrated = at_score + score
        refined, posterior = (calibrated + k * (SIDE + arrow) for k in (1, 2))
        maps += [(mean, steps.mean, {})]
        later = ((calibrated, steps.calibrated), (refined, steps.refined), (posterior, steps.posterior))
        maps += [(place, values, _one_scale(values)) for place, values in later]
        titles = [
            ("2  attention to the word in\nsome layers (eq. 3)", left, layers),
            ("5  mean", mean, SIDE),
            ("3  score\n(eq. 5)", at_score, score),
            ("6, 7  to\nthe 1/S", calibrated, SIDE),
            ("8, 9  enlarge,\nrefine", refined, SIDE),
            ("11  posterior", posterior, SIDE),
        ]
        arrows = [left + layers, calibrated + SIDE, refined + SIDE, posterior + SIDE]
        return cls(titles, maps, [x + 0.01 for x in arrows], at_score)


def _one_scale(maps: Tensor) -> dict:
    """The same colours for the same numbers in all classes."""
    return {"vmin": float(maps.min()), "vmax": float(maps.max())}


def _styles() -> list[dict]:
    """For lines that grey print tells apart."""
    return [{"linestyle": line} for line in ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))]


def _spread(values: list[Tensor], count: int) -> list[Tensor]:
    """So many of them, evenly spread."""
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[place] for place in places]


def as_colors(latents: Tensor) -> np.ndarray:
    """The first three channels [h, w, 3], from -2.5 to 2.5 standard deviations."""
    channels = latents[:3].permute(1, 2, 0)
    return ((channels / latents.std() / 5) + 0.5).clamp(0, 1).numpy()


def truth(scene: Scene) -> np.ndarray:
    """The label map [H, W] in the order of the classes, what is no candidate as background."""
    places = np.zeros(256, dtype=int)
    places[list(scene.labels)] = np.arange(1, len(scene.labels) + 1)
    return places[scene.label_map]


def draw_strip(panels: dict[str, Tensor | np.ndarray], together: bool = False) -> Figure:
    """Maps [h, w] or pictures [h, w, 3] in a row under their titles. together: with the same colours for the same
    numbers, rather than each on a scale of its own."""
    count = len(panels)
    figure, axes = plt.subplots(1, count, figsize=(min(1.55 * count, 10), 1.9), squeeze=False)
    numbers = np.concatenate([np.asarray(values).ravel() for values in panels.values()])
    scale = {"vmin": numbers.min(), "vmax": numbers.max()} if together else {}
    for axis, (title, values) in zip(axes[0], panels.items(), strict=True):
        axis.imshow(values, cmap="magma", interpolation="nearest", **scale)
        axis.set_title(title, fontsize=9, parse_math=False)
        axis.set_axis_off()
    figure.tight_layout(pad=0.4)
    return figure
