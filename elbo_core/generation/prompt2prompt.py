"""Prompt-to-Prompt: a picture is drawn again from an edited text, with the attention of the first drawing put in.

Source: Hertz et al. 2023; google/prompt-to-prompt (9c472e4, `ptp_utils.py` and the notebooks' controllers). A source
and any number of its edits run as one batch from the same noise. In the conditional half of each step, an edit's
attention to words, and of pixels to each other, may be replaced by what follows from the source's; the source itself
and the unconditional half are left as they are, to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from elbo_core.checks import check_share
from elbo_core.diffusion.attention import Call, Replacement
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.sampling import Guidance, Hook, Moment, ReleasedGrid, Sampler, Step, sample
from elbo_core.diffusion.schedule import VariancePreserving
from elbo_core.diffusion.text import TextPart
from elbo_core.errors import EditError, UnsupportedModelError
from elbo_core.generation.calibrated_maps import Calibration, source_heatmaps, without_article
from elbo_core.generation.inversion import Start
from elbo_core.generation.word_maps import WORD_MAPS, Columns, word_columns

Interval = tuple[float, float]


@dataclass(frozen=True)
class LocalBlend:
    """Where an edit may change the picture: where the attention to some words is high, in the source or in the edit.

    source, target: the words, in either text. threshold: of the maps, divided by their maximum. start: the share of the
    steps before the first blending (0.2 for real pictures in the original). side: of the layers that are read; 16 are
    the five layers that the original takes of Stable Diffusion 1.

    Raises:
        TypeError, ValueError: threshold or start is no number in [0, 1].
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    threshold: float = 0.3
    start: float = 0.0
    side: int = 16

    def __post_init__(self) -> None:
        check_share(self.threshold, "threshold")
        check_share(self.start, "start")


@dataclass(frozen=True)
class Edit:
    """An edited text and how much of the source's attention it takes over.

    target: what the picture is to show. words: how the texts' words correspond, a name in `WORD_MAPS`: "replace" for
    as many words, "refine" for more or fewer. weights: for some words of the target, the factor on their maps.
    cross_steps: the share of the steps in which attention to words is injected; special_steps: for some words of the
    target, the interval instead. self_steps: the same of self-attention, in layers of at most self_pixels pixels.
    blend: where the picture may change, everywhere by default. calibration: of the injected maps, none by default.

    Raises:
        TypeError, ValueError: the correspondence is unknown, or a share is no number in [0, 1].
        EditError: the target is empty.
    """

    target: str
    words: str = "replace"
    weights: tuple[tuple[str, float], ...] = ()
    cross_steps: float = 0.8
    special_steps: tuple[tuple[str, Interval], ...] = ()
    self_steps: float = 0.4
    self_pixels: int = 16**2
    blend: LocalBlend | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if not self.target.strip():
            raise EditError("the target of an edit is empty; write what the picture is to show")
        if self.words not in WORD_MAPS:
            raise ValueError(f"unknown words {self.words!r}; known: {', '.join(WORD_MAPS)}")
        check_share(self.cross_steps, "cross_steps")
        check_share(self.self_steps, "self_steps")
        for word, (start, end) in self.special_steps:
            check_share(start, f"the start of {word!r}")
            check_share(end, f"the end of {word!r}")

    @property
    def amplifies_rounding(self) -> bool:
        """Whether an input that is rounded otherwise may give quite another picture: a calibrated edit stretches
        differences of losses to the whole range of the score, and 50 steps follow."""
        return self.calibration is not None


@dataclass(frozen=True)
class Edited:
    """latents: [1 + E, C, h, w] of the source and its edits; pictures: [1 + E, 3, R, R] in [0, 1], on the CPU."""

    latents: Tensor
    pictures: Tensor

    @property
    def source(self) -> Tensor:
        """[3, R, R]."""
        return self.pictures[0]

    @property
    def targets(self) -> Tensor:
        """[E, 3, R, R]."""
        return self.pictures[1:]


def edit(
    denoiser: Denoiser,
    text: str,
    edits: Sequence[Edit],
    start: Start,
    phrases: Sequence[str] = (),
    sampler: Sampler = ReleasedGrid(),
    guidance: Guidance = Guidance(),
) -> Edited:
    """Draw a picture of `text` and its edits, all from one start (`inversion.Start`: noise, or a picture inverted).

    phrases: those of the source text whose maps are calibrated; needed by calibrated edits alone.

    Raises:
        EditError: an edit does not fit the text; the message names the word.
        UnsupportedModelError: the model is no UNet with text attention of its own.
        ValueError: a calibrated edit and no phrases; see also `sample`.
    """
    controls = controls_of(denoiser, text, edits, start, phrases, sampler, guidance)
    latents = draw(denoiser, [text, *(one.target for one in edits)], PromptToPrompt(controls, start), sampler, guidance)
    return Edited(latents, denoiser.decode_latents(latents).cpu())


def controls_of(
    denoiser: Denoiser, text: str, edits: Sequence[Edit], start: Start, phrases: Sequence[str] = (),
    sampler: Sampler = ReleasedGrid(), guidance: Guidance = Guidance(),
) -> list[Control]:  # fmt: skip
    """The edits in numbers; the source's heatmaps are asked if an edit is calibrated.

    Raises:
        EditError, UnsupportedModelError, ValueError: see `edit`.
    """
    check_is_unet(denoiser)
    part = next(iter(denoiser.parts.values()))
    places = tuple(word_columns(text, without_article(phrase), part) for phrase in phrases)
    controls = [Control.of(one, text, part) for one in edits]  # what does not fit is refused before anything runs
    heatmaps = _heatmaps(denoiser, text, edits, start, phrases, sampler, guidance)
    return [replace(one, heatmaps=heatmaps.get(one.edit.calibration), places=places) for one in controls]


def draw(
    denoiser: Denoiser, texts: Sequence[str], hook: PromptToPrompt, sampler: Sampler, guidance: Guidance
) -> Tensor:
    """The latents [1 + E, C, h, w] of a source and its edits, in the order of their texts."""
    noise = hook.start.noise[None].expand(len(texts), *hook.start.noise.shape)
    *_, last = sample(denoiser, denoiser.encode_text(texts), noise, sampler, guidance, hook)
    return last.latents


def check_is_unet(denoiser: Denoiser) -> None:
    """
    Raises:
        UnsupportedModelError: the model looks at text and image in one softmax, or has no UNet.
    """
    if denoiser.kind is not VariancePreserving or getattr(denoiser.pipeline, "unet", None) is None:
        raise UnsupportedModelError(
            f"Prompt-to-Prompt replaces the text attention of UNets; {denoiser.name} has none (Stable Diffusion 1, 2 "
            "and XL have)"
        )


def _heatmaps(
    denoiser: Denoiser, text: str, edits: Sequence[Edit], start: Start, phrases: Sequence[str], sampler: Sampler,
    guidance: Guidance,
) -> dict[Calibration | None, Tensor]:  # fmt: skip
    """By calibration, the heatmaps [P, H, W] of the source's phrases in its own picture."""
    wanted = list(dict.fromkeys(one.calibration for one in edits if one.calibration is not None))
    if not wanted:
        return {}
    if not phrases:
        raise ValueError(f"calibrated edits of {text!r} need its phrases, such as phrases=['a red star']")
    picture = start.picture
    if picture is None:
        alone = draw(denoiser, [text], PromptToPrompt([], start), sampler, guidance)
        picture = denoiser.decode_latents(alone)[0].cpu()
    found = source_heatmaps(denoiser, picture, text, phrases, [one.recipe for one in wanted], f"edit/{start.key}")
    return {one: heatmaps.values.to(denoiser.device) for one, heatmaps in zip(wanted, found, strict=True)}


@dataclass(frozen=True)
class Control:
    """An edit in numbers, for L text columns.

    matrix, own: see `WordMap`. weight: [L]. first, last: [L], the shares of the steps between which a column's map is
    injected. blended: the columns of the source's and the target's words to blend by. heatmaps: [P, H, W] and places:
    the columns of each, where the edit is calibrated.
    """

    edit: Edit
    matrix: Tensor
    own: Tensor
    weight: Tensor
    first: Tensor
    last: Tensor
    blended: tuple[Columns, Columns] = ((), ())
    heatmaps: Tensor | None = None
    places: tuple[Columns, ...] = ()

    @classmethod
    def of(cls, edit: Edit, text: str, part: TextPart) -> Control:
        """
        Raises:
            EditError: the edit does not fit the text.
        """
        words = WORD_MAPS[edit.words](text, edit.target, part)
        weight, first = torch.ones(part.limit), torch.zeros(part.limit)
        last = torch.full((part.limit,), float(edit.cross_steps))
        for word, factor in edit.weights:
            weight[list(word_columns(edit.target, word, part))] = factor
        for word, (start, end) in edit.special_steps:
            columns = list(word_columns(edit.target, word, part))
            first[columns], last[columns] = start, end
        blended = ((), ()) if edit.blend is None else _blended(edit.blend, text, edit.target, part)
        return cls(edit, words.matrix, words.own, weight, first, last, blended)

    def injected(self, step: int, steps: int) -> Tensor:
        """bool [L]: the columns whose maps are injected at a step; T steps have T + 1 places, as in the original
        (`get_time_words_attention_alpha`)."""
        places = steps + 1
        return ((self.first * places).int() <= step) & (step < (self.last * places).int())

    def injects_self(self, step: int, steps: int, pixels: int) -> bool:
        """Whether the self-attention of a layer of so many pixels is the source's at a step."""
        return step < int(self.edit.self_steps * steps) and pixels <= self.edit.self_pixels

    def origin(self, source: Tensor) -> Tensor:
        """The source's attention to words [h, Q, L] as it is injected: calibrated, or as it is."""
        if self.heatmaps is None or self.edit.calibration is None:
            return source
        return self.edit.calibration(source, self.heatmaps, self.places)


def _blended(blend: LocalBlend, text: str, target: str, part: TextPart) -> tuple[Columns, Columns]:
    sides = ((text, blend.source), (target, blend.target))
    ours, theirs = (tuple(c for word in words for c in word_columns(own, word, part)) for own, words in sides)
    return ours, theirs


class PromptToPrompt(Hook):
    """Carries out edits in a batch [source, edit, edit, ...]; one object serves one run."""

    def __init__(self, controls: Sequence[Control], start: Start):
        self.controls, self.start = controls, start
        self.seen: dict[int, Tensor] = {}
        """By edit, the summed maps [2, side, side] of the words to blend by, the source's and its own."""

    def before(self, moment: Moment) -> Moment:
        return replace(moment, negative=self.start.negative(moment))

    def replace_attention(self, moment: Moment) -> Replacement | None:
        if not self.controls:
            return None
        injected = torch.stack([control.injected(moment.step, moment.steps) for control in self.controls])

        def replacement(call: Call) -> Tensor | None:
            return self._cross(call, injected) if call.sees_text else self._own(call, moment)

        return replacement

    def after(self, step: Step) -> Tensor:
        latents = step.latents.clone()
        latents[0] = self.start.source_after(step)
        for row, control in enumerate(self.controls, start=1):
            blend = control.edit.blend
            if blend is not None and step.moment.step >= int(blend.start * step.moment.steps):
                latents[row] = latents[0] + self._mask(row, blend, latents) * (latents[row] - latents[0])
        return latents

    def _cross(self, call: Call, injected: Tensor) -> Tensor | None:
        """The result of a text attention layer with the edits' maps. injected: bool [E, L]."""
        if not injected.any() and not any(control.edit.blend for control in self.controls):
            return None
        rows = self._conditional(call)
        source, own = attention_weights(call, rows).split([1, len(self.controls)])
        edited = self._edited(source[0], own, injected)
        for k, control in enumerate(self.controls, start=1):
            self._look(k, control, source[0], edited[k - 1])
        result = call.result().clone()
        values = cast(Tensor, call.value)[rows.start + 1 : rows.stop]
        result[rows.start + 1 : rows.stop] = (edited @ values.float()).to(result.dtype)
        return result

    def _edited(self, source: Tensor, own: Tensor, injected: Tensor) -> Tensor:
        """The edits' attention to words [E, h, Q, L], from the source's [h, Q, L] and their own [E, h, Q, L]."""
        distinct = {control.edit.calibration: control for control in self.controls}
        origins = {calibration: control.origin(source) for calibration, control in distinct.items()}
        origin = torch.stack([origins[control.edit.calibration] for control in self.controls])
        matrix, kept, weight = (part.to(source.device) for part in self._numbers)
        mapped = (origin @ matrix + own * kept) * weight
        return torch.where(injected[:, None, None].to(source.device), mapped, own)

    @functools.cached_property
    def _numbers(self) -> tuple[Tensor, Tensor, Tensor]:
        """The edits' matrices [E, 1, L, L], and what is their own and their weights [E, 1, 1, L]."""
        named = [(control.matrix, control.own[None], control.weight[None]) for control in self.controls]
        matrix, own, weight = (torch.stack(parts)[:, None] for parts in zip(*named, strict=True))
        return matrix, own, weight

    def _own(self, call: Call, moment: Moment) -> Tensor | None:
        """The result of a self-attention layer, with the source's weights where they are injected."""
        pixels = call.query.shape[2]
        takes = [control.injects_self(moment.step, moment.steps, pixels) for control in self.controls]
        if not any(takes):
            return None
        result, source = call.result().clone(), self._conditional(call).start
        values = cast(Tensor, call.value)
        rows = [source + k for k, taken in enumerate(takes, start=1) if taken]
        query, key = (part[[source] * len(rows)] for part in (call.query, call.key))
        result[rows] = replace(call, query=query, key=key, value=values[rows], bias=_of_row(call, source)).result()
        return result

    def _conditional(self, call: Call) -> range:
        """The rows of the conditional half: the last ones."""
        total = len(call.query)
        return range(total - len(self.controls) - 1, total)

    def _look(self, row: int, control: Control, source: Tensor, edited: Tensor) -> None:
        """Add the maps of the words to blend by, if the layer is one that is read."""
        side = round(source.shape[-2] ** 0.5)
        if control.edit.blend is None or side != control.edit.blend.side:
            return
        pairs = zip((source, edited), control.blended, strict=True)
        maps = torch.stack([weights[..., list(columns)].sum(dim=(0, -1)) for weights, columns in pairs])
        self.seen[row] = self.seen.get(row, 0) + maps.unflatten(-1, (side, side))

    def _mask(self, row: int, blend: LocalBlend, latents: Tensor) -> Tensor:
        """bool [h, w]: where the words' maps are high in the source or in the edit."""
        if row not in self.seen:
            raise EditError(
                f"the local blend reads text attention of side {blend.side}, which no layer has; set another"
            )
        pooled = F.max_pool2d(self.seen[row][:, None], 3, stride=1, padding=1)
        enlarged = F.interpolate(pooled, size=latents.shape[-2:])[:, 0]
        return (enlarged / enlarged.amax((1, 2), keepdim=True) > blend.threshold).any(dim=0)


def attention_weights(call: Call, rows: range) -> Tensor:
    """softmax(scale QK^T + bias) of some rows of a call as a matrix, float32 [B, h, Q, K]. Editing needs it whole."""
    query, key = (part[rows.start : rows.stop].float() for part in (call.query, call.key))
    logits = call.scale * query @ key.mT
    bias = None if call.bias is None else call.bias.expand(len(call.query), *call.bias.shape[1:])
    return (logits if bias is None else logits + bias[rows.start : rows.stop].float()).softmax(dim=-1)


def _of_row(call: Call, row: int) -> Tensor | None:
    """The bias of one row, for all."""
    return None if call.bias is None else call.bias.expand(len(call.query), *call.bias.shape[1:])[row : row + 1]
