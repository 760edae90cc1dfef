"""Ask the model once: everything that it can say about one image, collected in an `Observation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from elbo_core.captions import TEMPLATE, Caption, list_captions, split
from elbo_core.diffusion.attention import AttentionLayer, CrossAttention, SelfAttention
from elbo_core.diffusion.blocks import in_blocks
from elbo_core.diffusion.denoiser import Denoiser
from elbo_core.diffusion.schedule import NoiseSchedule
from elbo_core.methods import elbo
from elbo_core.scene import Scene


@dataclass(frozen=True)
class Plan:
    """What to ask. The defaults are those of the released code (`configs/run_segmentation.yaml`).

    elbo_template: the condition of a class's losses, with the class in the place of "{}" or its noun phrase in that of
        "{phrase}".
    """

    elbo_timesteps: tuple[int, ...] = tuple(range(1, 999, 50))
    attention_timesteps: tuple[int, ...] = tuple(range(20, 201, 20))
    elbo_template: str = TEMPLATE
    seed: int = 4307
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not self.elbo_timesteps or not self.attention_timesteps:
            raise ValueError("a plan needs at least one ELBO timestep and one attention timestep")

    @classmethod
    def paper(cls) -> Plan:
        """The paper's text, literally: the bare class as condition, 20 timesteps evenly in [0, 1], 10 in [0, 0.2]."""
        return cls(elbo.Timesteps("even", 20).of(), elbo.Timesteps("small", 10).of(), elbo_template="{}")


@dataclass(frozen=True)
class CaptionAttention:
    """The attention of one caption: its classes, by text part the columns of each class, and the operators over all
    timesteps."""

    classes: tuple[str, ...]
    columns: Mapping[str, tuple[tuple[int, ...], ...]]
    cross: CrossAttention
    self_attention: SelfAttention

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
class Observation:
    """losses: epsilon-MSE, float32 [N, T], of each class at each of `elbo_timesteps` [T].

    attention: one entry per caption, over `attention_timesteps` [T']; together they name every class once.
    image_size: (H, W) of the picture.
    """

    classes: tuple[str, ...]
    image_size: tuple[int, int]
    schedule: NoiseSchedule
    elbo_timesteps: Tensor
    losses: Tensor
    attention: tuple[CaptionAttention, ...]
    attention_timesteps: Tensor

    def at_elbo(self, timesteps: Sequence[int]) -> Observation:
        """With the losses of some of the timesteps only.

        Raises:
            ValueError: a timestep was not asked.
        """
        index = _positions(self.elbo_timesteps, timesteps)
        return replace(self, elbo_timesteps=self.elbo_timesteps[index], losses=self.losses[:, index])

    def at_attention(self, timesteps: Sequence[int]) -> Observation:
        """With the attention of some of the timesteps only.

        Raises:
            ValueError: a timestep was not asked.
        """
        index = _positions(self.attention_timesteps, timesteps)
        chosen = tuple(attention.only(index) for attention in self.attention)
        return replace(self, attention=chosen, attention_timesteps=self.attention_timesteps[index])


def _positions(asked: Tensor, wanted: Sequence[int]) -> list[int]:
    place = {timestep: index for index, timestep in enumerate(asked.tolist())}
    missing = [timestep for timestep in wanted if timestep not in place]
    if missing:
        raise ValueError(f"timesteps {missing} were not asked; asked: {asked.tolist()}")
    return [place[timestep] for timestep in wanted]


Noise = Mapping[str, Tensor]
"""Noise of one's own: "elbo" [T, C, h, w] and "collect" [T', C, h, w], for the two kinds of timesteps of a plan."""


def observe(denoiser: Denoiser, scene: Scene, plan: Plan = Plan(), noise: Noise | None = None) -> Observation:
    """Run the network on one scene: N * T passes for the losses, T' per caption for the attention.

    Noise is keyed by seed, scene and timestep, unless `noise` is given.

    Raises:
        ValueError: the noise given does not fit the plan and the model.
    """
    latents = denoiser.encode_image(scene.image)
    noise = keyed(latents, scene, plan) if noise is None else _checked(noise, latents, plan)
    return Observation(
        classes=scene.classes,
        image_size=tuple(scene.image.shape[1:]),
        schedule=denoiser.schedule,
        elbo_timesteps=torch.tensor(plan.elbo_timesteps),
        losses=_losses(denoiser, scene, latents, plan, noise["elbo"]),
        attention=_attention(denoiser, scene, latents, plan, noise["collect"]),
        attention_timesteps=torch.tensor(plan.attention_timesteps),
    )


def keyed(latents: Tensor, scene: Scene, plan: Plan) -> Noise:
    """The noise of a scene under a plan, for latents [C, h, w]."""
    purposes = {"elbo": ("elbo", plan.elbo_timesteps), "collect": ("attention", plan.attention_timesteps)}
    return {
        kind: elbo.keyed_noise(latents.shape, plan.seed, scene.id, purpose, timesteps).to(latents.device)
        for kind, (purpose, timesteps) in purposes.items()
    }


def _checked(noise: Noise, latents: Tensor, plan: Plan) -> Noise:
    """The noise given, on the device of the latents."""
    for kind, timesteps in (("elbo", plan.elbo_timesteps), ("collect", plan.attention_timesteps)):
        wanted = (len(timesteps), *latents.shape)
        found = tuple(noise[kind].shape) if kind in noise else None
        if found != wanted:
            raise ValueError(f"noise[{kind!r}] must have the shape {wanted}, got {found}")
    return {kind: values.to(latents) for kind, values in noise.items()}


def _losses(denoiser: Denoiser, scene: Scene, latents: Tensor, plan: Plan, noise: Tensor) -> Tensor:
    texts = denoiser.encode_text(conditions(scene, plan.elbo_template))
    timesteps = torch.tensor(plan.elbo_timesteps)
    return elbo.class_losses(denoiser, latents, texts, noise, timesteps, plan.batch_size).cpu()


def conditions(scene: Scene, template: str) -> list[str]:
    """For each candidate class, the text that its losses are conditioned on.

    Raises:
        ValueError: the template wants phrases and the scene has none.
    """
    if "{phrase}" not in template:
        return [template.format(name) for name in scene.classes]
    if len(scene.phrases) != len(scene.classes):
        raise ValueError(
            f"scene {scene.id!r} has {len(scene.phrases)} phrases for {len(scene.classes)} classes; {template!r} needs "
            "one for each: give them, or use a template with {}"
        )
    return [template.format(phrase=phrase) for phrase in scene.phrases]


def _attention(
    denoiser: Denoiser, scene: Scene, latents: Tensor, plan: Plan, noise: Tensor
) -> tuple[CaptionAttention, ...]:
    captions = split(scene.caption, denoiser.fits) if scene.caption else list_captions(scene.classes, denoiser.fits)
    return tuple(attend_caption(denoiser, caption, latents, plan, noise) for caption in captions)


def attend_caption(
    denoiser: Denoiser, caption: Caption, latents: Tensor, plan: Plan, noise: Tensor
) -> CaptionAttention:
    """The attention of one caption over the plan's timesteps, for latents [C, h, w] and noise [T', C, h, w]."""
    timesteps = torch.tensor(plan.attention_timesteps)
    noisy = denoiser.noise(latents.expand_as(noise), noise, timesteps)
    text = denoiser.encode_text([caption.text])
    passes = in_blocks(
        lambda block: denoiser.attend(noisy[block], timesteps[block], text[torch.zeros_like(block)]),
        torch.arange(len(timesteps)),
        plan.batch_size,
    )
    cross, self_attention = zip(*passes, strict=True)
    return CaptionAttention(
        classes=caption.classes,
        columns=denoiser.columns(caption),
        cross=CrossAttention(_join([operator.layers for operator in cross])),
        self_attention=SelfAttention(_join([operator.layers for operator in self_attention])),
    )


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
