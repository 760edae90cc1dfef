"""Algorithm 1 of the paper: from an `Observation` to one heatmap per class, calibrated by the alignment score."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from elbo_core.checks import check_share
from elbo_core.diffusion.attention import CrossAttention, SelfAttention
from elbo_core.heatmaps import Heatmaps, min_max, resize
from elbo_core.methods.elbo import alignment_score, check_estimator, check_gamma, class_loss, weights
from elbo_core.methods.method import Method
from elbo_core.methods.observe import CaptionAttention, Observation
from elbo_core.methods.plan import CAPTION, ELBO_TIMESTEPS, WITHOUT_EACH, Ask, Plan

READ_TOGETHER = 16
"""So many sets of heatmaps are in memory at once."""


@dataclass(frozen=True)
class ElboScore:
    """S = gamma^norm(mean_t w(t) MSE(t)), the weight w by the name of an estimator in `elbo.ESTIMATORS`, or "released"
    for that of the released code.

    Raises:
        ValueError: the estimator is unknown, or gamma is not in (0, 1].
    """

    estimator: str = "released"
    gamma: float = 1 / 3
    questions: ClassVar[tuple[Ask, ...]] = Plan().losses
    """For losses, that it needs answered."""

    def __post_init__(self) -> None:
        check_estimator(self.estimator)
        check_gamma(self.gamma)

    def __call__(self, observation: Observation) -> Tensor:
        """Alignment scores [N] in [gamma, 1].

        Raises:
            ValueError: the observation's losses are not those of its classes, one each.
        """
        losses = observation.losses
        if len(losses.values) != len(observation.classes):
            raise ValueError(
                f"a score needs one loss for each of {len(observation.classes)} classes; {losses.ask.texts!r} has "
                f"{len(losses.values)}"
            )
        weight = weights(self.estimator, observation.schedule, losses.timesteps, losses.values)
        return alignment_score(class_loss(losses.values, weight).value, self.gamma).float()


@dataclass(frozen=True)
class LeaveOneOutScore:
    """S = gamma^norm(mean_t w(t) [MSE(t, caption) - MSE(t, caption without the class)]): what the picture loses when
    the class is left out, instead of how well the class alone explains it. Words that explain each other away no longer
    help each other's score. It asks N + 1 texts, one more than `ElboScore`.

    Raises:
        ValueError: the estimator is unknown, or gamma is not in (0, 1].
    """

    estimator: str = "released"
    gamma: float = 1 / 3
    questions: ClassVar[tuple[Ask, ...]] = (Ask(CAPTION, ELBO_TIMESTEPS), Ask(WITHOUT_EACH, ELBO_TIMESTEPS))

    def __post_init__(self) -> None:
        check_estimator(self.estimator)
        check_gamma(self.gamma)

    def __call__(self, observation: Observation) -> Tensor:
        """Alignment scores [N] in [gamma, 1]; the class whose loss would be felt most gets 1.

        Raises:
            ValueError: the observation lacks a wording, or has other timesteps for one than for the other.
        """
        whole, left_out = (observation.losses_of(texts) for texts in (CAPTION, WITHOUT_EACH))
        if whole.ask.timesteps != left_out.ask.timesteps:
            raise ValueError(f"{CAPTION!r} and {WITHOUT_EACH!r} were asked at different timesteps")
        with_class, without = (losses.of_each(observation.classes).double() for losses in (whole, left_out))
        both = torch.cat([with_class, without])
        weight = weights(self.estimator, observation.schedule, whole.timesteps, both)
        return alignment_score(class_loss(with_class - without, weight).value, self.gamma).float()


@dataclass(frozen=True)
class ConstantScore:
    """The same score for every class: 1 switches calibration off, 1/2 to 1/4 are the controls of Table VIII.

    Raises:
        TypeError, ValueError: the score is no number in (0, 1].
    """

    value: float = 1.0
    questions: ClassVar[tuple[Ask, ...]] = ()

    def __post_init__(self) -> None:
        if not check_share(self.value, "a score") > 0:
            raise ValueError(f"a score must lie in (0, 1], got {self.value}")

    def __call__(self, observation: Observation) -> Tensor:
        """The score, for each class [N]."""
        return torch.full((len(observation.classes),), self.value, dtype=torch.float32)


def gaussian_over_depth(cross: CrossAttention) -> Tensor:
    """exp(-(l - l0)^2 / (2 * 3^2)) over the layer index, centred on the middle block.

    Source: `utils/attention_control.py:266-274` of the released code.
    """
    depth, middle = _depths(cross)
    centre = sum(middle) / len(middle)
    return torch.exp(-((depth - centre) ** 2) / (2 * 3**2))


def late_layers(cross: CrossAttention) -> Tensor:
    """1 for the layers after the middle, where our toy models' words are, else 0: a UNet's up path, the second half of
    a transformer."""
    depth, middle = _depths(cross)
    return (depth > max(middle)).float()


def _depths(cross: CrossAttention) -> tuple[Tensor, list[float]]:
    """The indices of all layers and those of the middle: a UNet's middle block, else half-way."""
    depth = torch.arange(len(cross.layers), dtype=torch.float32)
    middle = [float(index) for index, layer in enumerate(cross.layers) if layer.name.startswith("mid_block")]
    return depth, middle or [(len(cross.layers) - 1) / 2]


def all_alike(cross: CrossAttention) -> Tensor:
    """1 for every layer."""
    return torch.ones(len(cross.layers), dtype=torch.float32)


LAYER_WEIGHTS: dict[str, Callable[[CrossAttention], Tensor]] = {
    "gaussian": gaussian_over_depth,
    "late": late_layers,
    "uniform": all_alike,
}


def all_finest(attention: SelfAttention) -> list[float]:
    """1 for every layer of the finest side, else 0."""
    return [float(layer.side == attention.side) for layer in attention.layers]


def last_finest(attention: SelfAttention) -> list[float]:
    """1 for the finest layers after the last coarser one (the up path of a UNet), else 0; all, if none is coarser."""
    sides = [layer.side for layer in attention.layers]
    coarser = [index for index, side in enumerate(sides) if side != attention.side]
    return [float(index > max(coarser, default=-1)) for index in range(len(sides))]


REFINEMENTS: dict[str, Callable[[SelfAttention], list[float]]] = {
    "all finest": all_finest,
    "last finest": last_finest,
}


def _softmax_over_classes(heatmaps: Tensor) -> Tensor:
    return heatmaps.softmax(dim=-3)


def _min_max_of_each(heatmaps: Tensor) -> Tensor:
    return min_max(heatmaps, [-2, -1])


def _as_they_are(heatmaps: Tensor) -> Tensor:
    return heatmaps.clamp(0, 1)  # in [0, 1] but for rounding


READOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "min-max": _min_max_of_each,
    "softmax": _softmax_over_classes,
    "plain": _as_they_are,
}
TEXT_PARTS = ("first", "all", "clip", "t5")


@dataclass(frozen=True)
class Recipe(Method):
    """Algorithm 1: how an observation is read. Paper and released code differ; each difference that matters is a field.

    score: the alignment score.
    layer_weights: of the cross-attention layers, a name in `LAYER_WEIGHTS`.
    refinements: self-attention matrices applied one after another, each the name of a weighting of the layers in
        `REFINEMENTS`.
    average_maps: average attention over the timesteps first, rather than the results of each.
    refine_image: refine at image resolution rather than at the attention's.
    readout: how the classes' heatmaps become comparable, a name in `READOUTS`.
    text_part: whose columns are read where a network sees several text encoders ("clip", "t5"), "all" of them, or
        "first": the released code's choice, CLIP in Stable Diffusion 3.
    renormalise: where text and image share one softmax, let each pixel's weights on the text sum to one.

    Raises:
        TypeError, ValueError: a setting is of another kind, or a name is unknown.
    """

    score: ElboScore | LeaveOneOutScore | ConstantScore = ElboScore()
    layer_weights: str = "gaussian"
    refinements: tuple[str, ...] = ("all finest", "last finest")
    average_maps: bool = True
    refine_image: bool = False
    readout: str = "min-max"
    text_part: str = "first"
    renormalise: bool = False

    def __post_init__(self) -> None:
        if not hasattr(self.score, "questions"):
            raise TypeError(f"score must be an ElboScore or a ConstantScore, got {self.score!r}")
        for name in ("average_maps", "refine_image", "renormalise"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if isinstance(self.refinements, str):
            raise TypeError(f"refinements must be a list of names, not the single text {self.refinements!r}")
        _check_name("layer_weights", self.layer_weights, LAYER_WEIGHTS)
        _check_name("readout", self.readout, READOUTS)
        _check_name("text_part", self.text_part, TEXT_PARTS)
        object.__setattr__(self, "refinements", tuple(self.refinements))
        for name in self.refinements:
            _check_name("refinements", name, REFINEMENTS)

    @classmethod
    def reference(cls) -> Recipe:
        """The released code (VCG-team/elbo-t2ialign, `run_segmentation.py`), which produced the published numbers."""
        return cls()

    @classmethod
    def paper(cls) -> Recipe:
        """Algorithm 1 and eq. 4 and 5 to the letter. "Follow [12, 43]" is read as DiffSegmenter's single refinement."""
        return cls(
            ElboScore("elbo"), "uniform", ("all finest",), average_maps=False, refine_image=True, readout="softmax"
        )

    @classmethod
    def best(cls) -> Recipe:
        """The reference with the score that did best on the development split: from the loss of leaving a class out
        (notebook `92_evidence`). No other weighting of the paper's own score did better there (`15_table_estimators`).
        """
        return cls(LeaveOneOutScore())

    def off(self) -> Recipe:
        """The same recipe without calibration."""
        return replace(self, score=ConstantScore(1.0))

    @property
    def needs(self) -> Plan:
        return replace(Plan(), losses=self.score.questions)

    def __call__(self, observation: Observation) -> Heatmaps:
        return align(observation, self)

    @classmethod
    def read_all(cls, observation: Observation, asked: Sequence[tuple[Self, Plan]]) -> list[Heatmaps]:
        """Recipes that differ in the score alone go through one refinement together."""
        alike: dict[tuple, list[int]] = {}
        for index, (recipe, plan) in enumerate(asked):
            alike.setdefault((recipe.off(), plan.attention), []).append(index)
        heatmaps: dict[int, Heatmaps] = {}
        for (recipe, _), members in alike.items():
            for start in range(0, len(members), READ_TOGETHER):
                some = members[start : start + READ_TOGETHER]
                heatmaps |= zip(some, _read_alike(observation, recipe, [asked[index] for index in some]), strict=True)
        return [heatmaps[index] for index in range(len(asked))]


def _check_name(field: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"unknown {field} {name!r}; known: {', '.join(known)}")


def _read_alike(observation: Observation, recipe: Recipe, asked: Sequence[tuple[Recipe, Plan]]) -> list[Heatmaps]:
    """The heatmaps of recipes that differ from `recipe` in the score alone and ask the same attention."""
    scores = torch.stack([recipe.score(observation.under(plan)) for recipe, plan in asked])
    seen = observation.under(replace(asked[0][1], losses=()))
    values = read(seen, recipe, scores)
    return [Heatmaps(seen.classes, value, score) for value, score in zip(values, scores, strict=True)]


def align(observation: Observation, recipe: Recipe = Recipe.reference()) -> Heatmaps:
    """Algorithm 1 on what the model said about one image."""
    scores = recipe.score(observation)
    (values,) = read(observation, recipe, scores[None])
    return Heatmaps(observation.classes, values, scores)


def read(observation: Observation, recipe: Recipe, scores: Tensor) -> Tensor:
    """Heatmaps [R, N, H, W] of R sets of alignment scores [R, N], whatever the recipe's own score is.

    Layers, refinement and order of averaging are the same for all sets, so the attention is asked once.
    """
    raw = torch.empty(*scores.shape, *observation.image_size, dtype=torch.float32)
    for attention in observation.attention.captions:
        index = [observation.classes.index(name) for name in attention.classes]
        calibrated = calibrate(cross_maps(attention, recipe), scores[:, index])  # [T or 1, R, N, M, M]
        refined = _refine(calibrated.flatten(1, 2), attention.self_attention, observation.image_size, recipe)
        raw[:, index] = refined.unflatten(0, (len(scores), len(index))).cpu()
    return READOUTS[recipe.readout](raw)


def cross_maps(attention: CaptionAttention, recipe: Recipe) -> Tensor:
    """The weighted mean over layers of each class's cross-attention, [T or 1, N, M, M]; M is the finest side."""
    weights = LAYER_WEIGHTS[recipe.layer_weights](attention.cross)
    side = attention.cross.layers[0].side
    cross = attention.cross.renormalised() if recipe.renormalise else attention.cross
    maps = cross.maps(attention.columns_of(recipe.text_part))
    mean = sum(w * resize(m, (side, side)) for w, m in zip(weights, maps, strict=True)) / weights.sum()
    return mean.mean(dim=0, keepdim=True) if recipe.average_maps else mean


def calibrate(maps: Tensor, scores: Tensor) -> Tensor:
    """A <- min-max(A)^(1/S) for maps [T, N, M, M] and scores [..., N]: [T, ..., N, M, M] (Algorithm 1, lines 6, 7)."""
    normalised = min_max(maps, [-2, -1])
    for _ in range(scores.ndim - 1):
        normalised = normalised[:, None]
    return normalised ** (1 / scores.to(maps))[..., None, None]


def _refine(maps: Tensor, attention: SelfAttention, image_size: tuple[int, int], recipe: Recipe) -> Tensor:
    """Self-attention refinement and enlargement in the recipe's order: [T or 1, N, M, M] -> [N, H, W]."""
    if recipe.refine_image:
        maps = resize(maps, (max(image_size[0], attention.side), max(image_size[1], attention.side)))
    for refinement in recipe.refinements:
        maps = attention.refine(maps, REFINEMENTS[refinement](attention))
        if recipe.average_maps:
            maps = maps.mean(dim=0, keepdim=True)
    return resize(maps, image_size).mean(dim=0)
