"""Ask the model once: everything that it can say about one image, collected in an `Observation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from elbo_core.captions import Caption, list_captions, split, without
from elbo_core.diffusion.attention import AttentionLayer, CrossAttention, SelfAttention
from elbo_core.diffusion.blocks import in_blocks
from elbo_core.diffusion.denoiser import Conditioning, Denoiser
from elbo_core.diffusion.noise import keyed_noise
from elbo_core.diffusion.schedule import NoiseSchedule
from elbo_core.methods.elbo import class_losses, error_maps, mean_square
from elbo_core.methods.plan import (
    CAPTION,
    CLEAN,
    EMPTY,
    INVERSION_TIMESTEPS,
    INVERTED,
    NOISED,
    Ask,
    Plan,
    Wording,
    is_template,
)
from elbo_core.methods.proposals import propose
from elbo_core.scene import Scene


@dataclass(frozen=True)
class CaptionAttention:
    """The attention of one caption: its classes, by text part the columns of each class, and the operators over all
    timesteps.

    extents: by text part, the columns of its whole text without padding. token_features: by class, what the text
    encoder makes of each of its tokens alone, [n, p], if the plan asked for it and there are several.
    """

    classes: tuple[str, ...]
    columns: Mapping[str, tuple[tuple[int, ...], ...]]
    cross: CrossAttention
    self_attention: SelfAttention
    extents: Mapping[str, range] = field(default_factory=dict)
    token_features: Mapping[str, Tensor] = field(default_factory=dict)

    def columns_of(self, part: str) -> tuple[tuple[int, ...], ...]:
        """The columns of each class in a text part, in the "first", or in "all" together.

        Raises:
            ValueError: there is no such part.
        """
        if part == "first":
            return next(iter(self.columns.values()))
        if part == "all":
            return tuple(sum(groups, ()) for groups in zip(*self.columns.values(), strict=True))
        if part not in self.columns:
            raise ValueError(f"the attention has no text part {part!r}; it has: first, all, {', '.join(self.columns)}")
        return self.columns[part]

    def only(self, index: Sequence[int]) -> CaptionAttention:
        """The same for some of the timesteps, by their position."""
        return replace(self, cross=self.cross.only(index), self_attention=self.self_attention.only(index))


@dataclass(frozen=True)
class Condition:
    """What the network is told in a pass: a text, and the classes that the answer is about (those that it names, or the
    one that it leaves out)."""

    text: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Losses:
    """The answer to a question for losses: the epsilon-MSE, float32 [N, T], of N texts at the timesteps of `ask`."""

    ask: Ask
    values: Tensor
    conditions: tuple[Condition, ...] = ()

    @property
    def timesteps(self) -> Tensor:
        """int64 [T]."""
        return torch.tensor(self.ask.timesteps)

    def of_each(self, classes: Sequence[str]) -> Tensor:
        """The loss of the text that is about each class, [len(classes), T].

        Raises:
            ValueError: no text is about a class.
        """
        return self.values[_rows_of(self.conditions, classes, self.ask)]

    def under(self, ask: Ask) -> Losses:
        """The answer to a question for some of the timesteps only."""
        return replace(self, ask=ask, values=self.values[:, _positions(self.ask, ask)])


@dataclass(frozen=True)
class ErrorMaps:
    """The answer to a question for error maps: the errors of the noise estimate, float32 [N, T, C, h, w], of N texts at
    the timesteps of `ask`, on the CPU.

    They are kept with their sign and all channels, so that squares as well as differences of estimates can be read:
    the noise is the same for all texts. That is 4 bytes for each text, timestep and entry of the latents; 11 texts and
    20 timesteps take 14 MB for a picture of 512 x 512 with SD 1.5, and 58 MB with SD 3.
    """

    ask: Ask
    values: Tensor
    conditions: tuple[Condition, ...]

    @property
    def timesteps(self) -> Tensor:
        """int64 [T]."""
        return torch.tensor(self.ask.timesteps)

    @property
    def losses(self) -> Losses:
        """What is left of them when pixels and channels are averaged."""
        return Losses(self.ask, mean_square(self.values), self.conditions)

    def of_each(self, classes: Sequence[str]) -> Tensor:
        """The errors of the text that is about each class, [len(classes), T, C, h, w].

        Raises:
            ValueError: no text is about a class.
        """
        return self.values[_rows_of(self.conditions, classes, self.ask)]

    def under(self, ask: Ask) -> ErrorMaps:
        """The answer to a question for some of the timesteps only."""
        index = _positions(self.ask, ask)
        return self if ask == self.ask else replace(self, ask=ask, values=self.values[:, index])


def _rows_of(conditions: Sequence[Condition], classes: Sequence[str], ask: Ask) -> list[int]:
    rows = {name: row for row, condition in reversed(list(enumerate(conditions))) for name in condition.classes}
    unknown = [name for name in classes if name not in rows]
    if unknown:
        raise ValueError(f"no text of {ask.texts!r} is about {', '.join(map(repr, unknown))}")
    return [rows[name] for name in classes]


@dataclass(frozen=True)
class Attention:
    """The answer to a question for attention: one entry per caption; together they name every class once. The empty
    caption names none."""

    ask: Ask
    captions: tuple[CaptionAttention, ...]

    def under(self, ask: Ask) -> Attention:
        """The answer to a question for some of the timesteps only."""
        index = _positions(self.ask, ask)
        return self if ask == self.ask else Attention(ask, tuple(caption.only(index) for caption in self.captions))


Answer = TypeVar("Answer", Losses, Attention, ErrorMaps)


def _positions(asked: Ask, wanted: Ask) -> list[int]:
    place = {timestep: index for index, timestep in enumerate(asked.timesteps)}
    missing = [timestep for timestep in wanted.timesteps if timestep not in place]
    if missing:
        raise ValueError(f"timesteps {missing} were not asked of {asked.texts!r}; asked: {list(asked.timesteps)}")
    return [place[timestep] for timestep in wanted.timesteps]


@dataclass(frozen=True)
class Observation:
    """What a model said about a picture under a plan: one answer per question.

    image_size: (H, W) of the picture. proposals: by proposer, candidate masks of the picture, bool [P, H, W].
    """

    classes: tuple[str, ...]
    image_size: tuple[int, int]
    schedule: NoiseSchedule
    all_losses: tuple[Losses, ...]
    all_attention: tuple[Attention, ...]
    all_error_maps: tuple[ErrorMaps, ...] = ()
    proposals: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def losses(self) -> Losses:
        """The only losses.

        Raises:
            ValueError: there are none, or those of several wordings.
        """
        return _only_one(self.all_losses, "losses")

    @property
    def attention(self) -> Attention:
        """The only attention.

        Raises:
            ValueError: there is none, or that of several wordings.
        """
        return _only_one(self.all_attention, "attention")

    def losses_of(self, texts: str) -> Losses:
        """The losses of a wording.

        Raises:
            ValueError: it was not asked.
        """
        return _wording(self.all_losses, _as_told(texts))

    def attention_of(self, texts: str) -> Attention:
        """The attention of a wording, of noised latents.

        Raises:
            ValueError: it was not asked.
        """
        return _wording(self.all_attention, _as_told(texts))

    def error_maps_of(self, texts: str) -> ErrorMaps:
        """The error maps of a wording.

        Raises:
            ValueError: it was not asked.
        """
        return _wording(self.all_error_maps, _as_told(texts))

    def under(self, plan: Plan) -> Observation:
        """What a smaller plan would have seen.

        Raises:
            ValueError: a wording or a timestep was not asked.
        """
        return replace(
            self,
            all_losses=tuple(_wording(self.all_losses, ask.wording).under(ask) for ask in plan.losses),
            all_attention=tuple(_wording(self.all_attention, ask.wording).under(ask) for ask in plan.attention),
            all_error_maps=tuple(_wording(self.all_error_maps, ask.wording).under(ask) for ask in plan.error_maps),
            proposals={name: _proposed(self.proposals, name) for name in plan.proposals},
        )


def _as_told(texts: str) -> Wording:
    return texts, NOISED, 1.0


def _proposed(proposals: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in proposals:
        raise ValueError(f"proposals of {name!r} were not asked; asked: {list(proposals)}")
    return proposals[name]


def _only_one(answers: Sequence[Answer], kind: str) -> Answer:
    if len(answers) != 1:
        raise ValueError(
            f"one question for {kind} was expected, the observation answers {len(answers)}: "
            f"{[answer.ask.texts for answer in answers]}; ask for it in the plan, or narrow with `under`"
        )
    return answers[0]


def _wording(answers: Sequence[Answer], wording: Wording) -> Answer:
    for answer in answers:
        if answer.ask.wording == wording:
            return answer
    texts, *other = wording
    told = f"{texts!r}" if wording == _as_told(texts) else f"{texts!r} with {other}"
    raise ValueError(f"{told} was not asked; asked: {[answer.ask.texts for answer in answers]}")


Noise = Mapping[str, Tensor]
"""Noise of one's own: "elbo" [T, C, h, w] and "collect" [T', C, h, w], for all timesteps of the questions for losses
and error maps (`Plan.estimates`) and of those for attention (`timesteps_of`)."""


def timesteps_of(asks: Sequence[Ask]) -> tuple[int, ...]:
    """All timesteps of some questions, once each: in the order of a single question, else in rising order."""
    if len(asks) == 1:
        return asks[0].timesteps
    return tuple(sorted({timestep for ask in asks for timestep in ask.timesteps}))


def observe(denoiser: Denoiser, scene: Scene, plan: Plan = Plan(), noise: Noise | None = None) -> Observation:
    """Run the network on one scene, once for every text and timestep of the plan.

    Noise is keyed by seed, scene and timestep, unless `noise` is given; all texts see the same.

    Raises:
        ValueError: the noise given does not fit the plan and the model, or a wording does not fit the scene.
        ScheduleError: a timestep is outside the model's schedule; before the network runs.
    """
    for ask in plan.estimates + plan.attention:
        denoiser.schedule.time(torch.tensor(ask.timesteps))
    latents = denoiser.encode_image(scene.image)
    noise = keyed(latents, scene, plan) if noise is None else _checked(noise, latents, plan)
    estimates = _Noised(denoiser, scene, latents, plan, timesteps_of(plan.estimates), noise["elbo"])
    attention = _Noised(denoiser, scene, latents, plan, timesteps_of(plan.attention), noise["collect"])
    mapped = {ask.texts for ask in plan.error_maps}
    maps = {ask.texts: estimates.ask_error_maps(ask) for ask in plan.estimates if ask.texts in mapped}
    return Observation(
        classes=scene.classes,
        image_size=tuple(scene.image.shape[1:]),
        schedule=denoiser.schedule,
        all_losses=tuple(
            maps[ask.texts].under(ask).losses if ask.texts in maps else estimates.ask_losses(ask) for ask in plan.losses
        ),
        all_attention=tuple(attention.ask_attention(ask) for ask in plan.attention),
        all_error_maps=tuple(maps[ask.texts].under(ask) for ask in plan.error_maps),
        proposals={name: propose(name, scene.image) for name in plan.proposals},
    )


def keyed(latents: Tensor, scene: Scene, plan: Plan) -> Noise:
    """The noise of a scene under a plan, for latents [C, h, w]."""
    purposes = {"elbo": ("elbo", plan.estimates), "collect": ("attention", plan.attention)}
    return {
        kind: keyed_noise(latents.shape, plan.seed, scene.id, purpose, timesteps_of(asks)).to(latents.device)
        for kind, (purpose, asks) in purposes.items()
    }


def _checked(noise: Noise, latents: Tensor, plan: Plan) -> Noise:
    """The noise given, on the device of the latents."""
    checked = {}
    for kind, asks in (("elbo", plan.estimates), ("collect", plan.attention)):
        wanted = (len(timesteps_of(asks)), *latents.shape)
        values = noise.get(kind, torch.empty(0, *latents.shape))
        if tuple(values.shape) != wanted:
            raise ValueError(f"noise[{kind!r}] must have the shape {wanted}, got {tuple(values.shape)}")
        checked[kind] = values.to(latents)
    return checked


@dataclass(frozen=True)
class _Noised:
    """A scene's latents [C, h, w], and noise [T, C, h, w] for `timesteps`, ready to be asked about."""

    denoiser: Denoiser
    scene: Scene
    latents: Tensor
    plan: Plan
    timesteps: tuple[int, ...]
    noise: Tensor

    def ask_losses(self, ask: Ask) -> Losses:
        values, conditions = self._estimate(class_losses, ask)
        return Losses(ask, values.cpu(), conditions)

    def ask_error_maps(self, ask: Ask) -> ErrorMaps:
        return ErrorMaps(ask, *self._estimate(error_maps, ask))

    def _estimate(self, of: Callable[..., Tensor], ask: Ask) -> tuple[Tensor, tuple[Condition, ...]]:
        """What `of` makes of the errors of the network's estimates, and the texts that it was told."""
        told = conditions(self.scene, ask.texts, self.denoiser)
        texts = self.denoiser.encode_text([condition.text for condition in told])
        timesteps, batch = torch.tensor(ask.timesteps), self.plan.batch_size
        return of(self.denoiser, self.latents, texts, self._noise_of(ask), timesteps, batch), tuple(told)

    def ask_attention(self, ask: Ask) -> Attention:
        noise, batch = self._noise_of(ask), self.plan.batch_size
        captions = captions_of(self.scene, ask.texts, self.denoiser)
        seen = [attend_caption(self.denoiser, caption, self.latents, ask, noise, batch) for caption in captions]
        if self.plan.token_features:
            features = map(self.denoiser.token_features, captions)
            seen = [replace(one, token_features=known) for one, known in zip(seen, features, strict=True)]
        return Attention(ask, tuple(seen))

    def _noise_of(self, ask: Ask) -> Tensor:
        return self.noise[[self.timesteps.index(timestep) for timestep in ask.timesteps]]


def conditions(scene: Scene, texts: str, denoiser: Denoiser) -> list[Condition]:
    """What the network is told when losses or error maps are asked: for a template, one text per class; else the
    caption in as few pieces as the text encoder allows, for each class the piece that names it without the class, or
    nothing.

    Raises:
        ValueError: the template wants phrases and the scene has none, or a class is too long for the text encoder.
    """
    if texts == EMPTY:
        return [Condition("", scene.classes)]
    if is_template(texts):
        named = zip(scene.classes, _filled(scene, texts), strict=True)
        return [Condition(text, (name,)) for name, text in named]
    pieces = captions_of(scene, CAPTION, denoiser)
    if texts == CAPTION:
        return [Condition(piece.text, piece.classes) for piece in pieces]
    homes = {name: piece for piece in pieces for name in piece.classes}
    return [Condition(without(homes[name], name).text, (name,)) for name in scene.classes]


def _filled(scene: Scene, template: str) -> list[str]:
    if "{phrase}" not in template:
        return [template.format(name) for name in scene.classes]
    if len(scene.phrases) != len(scene.classes):
        raise ValueError(
            f"scene {scene.id!r} has {len(scene.phrases)} phrases for {len(scene.classes)} classes; {template!r} needs "
            "one for each: give them, or use a template with {}"
        )
    return [template.format(phrase=phrase) for phrase in scene.phrases]


def captions_of(scene: Scene, texts: str, denoiser: Denoiser) -> list[Caption]:
    """What the network is told when attention is asked: one caption per class for a template, one without classes for
    the empty caption; else the scene's own caption, or one that lists the classes, in as few pieces as the text encoder
    allows.

    Raises:
        ValueError: a class or its mention is too long for the text encoder, or the template wants phrases.
    """
    if "{phrase}" in texts:
        raise ValueError(f"attention is asked of classes, not of phrases; write {{}} in {texts!r} instead")
    if texts == EMPTY:
        return [Caption("", {})]
    if is_template(texts):
        return [caption for name in scene.classes for caption in list_captions([name], denoiser.fits, texts)]
    if scene.caption is not None:
        return split(scene.caption, denoiser.fits)
    return list_captions(scene.classes, denoiser.fits)


def attend_caption(
    denoiser: Denoiser, caption: Caption, latents: Tensor, ask: Ask, noise: Tensor, batch_size: int = 32
) -> CaptionAttention:
    """The attention of one caption over the question's timesteps, for latents [C, h, w] and noise [T, C, h, w]."""
    timesteps = torch.tensor(ask.timesteps)
    text = _emphasised(denoiser, caption, ask.emphasis)
    shown = SHOWN[ask.latents](denoiser, latents, noise, timesteps, text)
    passes = in_blocks(
        lambda block: denoiser.attend(shown[block], timesteps[block], text[torch.zeros_like(block)]),
        torch.arange(len(timesteps)),
        batch_size,
    )
    cross, self_attention = zip(*passes, strict=True)
    return CaptionAttention(
        classes=caption.classes,
        columns=denoiser.columns(caption),
        cross=CrossAttention(_join([operator.layers for operator in cross])),
        self_attention=SelfAttention(_join([operator.layers for operator in self_attention])),
        extents=denoiser.extents(caption.text),
    )


def _emphasised(denoiser: Denoiser, caption: Caption, emphasis: float) -> Conditioning:
    """What the network is told of a caption, the tokens of its classes moved away from the empty text: z_empty +
    w (z - z_empty), as compel 2.1 weighs the words of a prompt."""
    text = denoiser.encode_text([caption.text])
    if emphasis == 1:
        return text
    empty = denoiser.encode_text([""]).embeddings
    weight = torch.ones_like(text.embeddings[0, :, :1])
    weight[[column for part in denoiser.columns(caption).values() for own in part for column in own]] = emphasis
    return replace(text, embeddings=empty + weight * (text.embeddings - empty))


def _noised(denoiser: Denoiser, latents: Tensor, noise: Tensor, timesteps: Tensor, _text: Conditioning) -> Tensor:
    return denoiser.noise(latents.expand_as(noise), noise, timesteps)


def _clean(_denoiser: Denoiser, latents: Tensor, noise: Tensor, _timesteps: Tensor, _text: Conditioning) -> Tensor:
    return latents.expand_as(noise)


def _inverted(denoiser: Denoiser, latents: Tensor, _noise: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
    """DDIM inversion from the picture, taken for timestep 0, through `INVERSION_TIMESTEPS`: each step asks at the
    timestep that it leads to, without guidance (`ptp_utils` of `nini0919/DiffPNG`, less its null-text optimisation)."""
    path, place = {}, denoiser.schedule.at(torch.tensor([0, *INVERSION_TIMESTEPS])).like(latents[None])
    for step, timestep in enumerate(INVERSION_TIMESTEPS):
        epsilon = denoiser.predict(latents[None], torch.tensor([timestep]), text)[0]
        origin = (latents - place.sigma[step] * epsilon) / place.alpha[step]
        latents = place.alpha[step + 1] * origin + place.sigma[step + 1] * epsilon
        path[timestep] = latents
    return torch.stack([path[timestep] for timestep in timesteps.tolist()])


SHOWN = {NOISED: _noised, CLEAN: _clean, INVERTED: _inverted}
"""By the latents of a question, what the network is shown at each timestep, [T, C, h, w]."""


def _join(passes: Sequence[tuple[AttentionLayer, ...]]) -> tuple[AttentionLayer, ...]:
    """The layers of several passes with their timesteps one after another."""
    return passes[0] if len(passes) == 1 else tuple(map(_join_layer, zip(*passes, strict=True)))


def _join_layer(layers: Sequence[AttentionLayer]) -> AttentionLayer:
    biases = [layer.bias for layer in layers]
    return replace(
        layers[0],
        query=torch.cat([layer.query for layer in layers]),
        key=torch.cat([layer.key for layer in layers]),
        bias=None if biases[0] is None else torch.cat(biases),
    )
