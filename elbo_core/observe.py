"""Ask the model once: everything that it can say about one image, collected in an `Observation`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from elbo_core import elbo
from elbo_core.attention import AttentionLayer, CrossAttention, SelfAttention
from elbo_core.blocks import in_blocks
from elbo_core.captions import TEMPLATE, Caption, list_captions, split, token_columns
from elbo_core.denoiser import Denoiser
from elbo_core.scene import Scene
from elbo_core.schedule import NoiseSchedule


@dataclass(frozen=True)
class Plan:
    """What to ask. The defaults are those of the released code (`configs/run_segmentation.yaml`)."""

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
    """The attention of one caption: its classes, their token columns, and the operators over all timesteps."""

    classes: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...]
    cross: CrossAttention
    self_attention: SelfAttention

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


def observe(denoiser: Denoiser, scene: Scene, plan: Plan = Plan()) -> Observation:
    """Run the network on one scene: N * T passes for the losses, T' per caption for the attention."""
    latents = denoiser.encode_image(scene.image)
    return Observation(
        classes=scene.classes,
        image_size=tuple(scene.image.shape[1:]),
        schedule=denoiser.schedule,
        elbo_timesteps=torch.tensor(plan.elbo_timesteps),
        losses=_losses(denoiser, scene, latents, plan),
        attention=_attention(denoiser, scene, latents, plan),
        attention_timesteps=torch.tensor(plan.attention_timesteps),
    )


def _noise(latents: Tensor, scene: Scene, purpose: str, timesteps: Sequence[int], plan: Plan) -> Tensor:
    return elbo.keyed_noise(latents.shape, plan.seed, scene.id, purpose, timesteps).to(latents.device)


def _losses(denoiser: Denoiser, scene: Scene, latents: Tensor, plan: Plan) -> Tensor:
    noise = _noise(latents, scene, "elbo", plan.elbo_timesteps, plan)
    texts = denoiser.encode_text([plan.elbo_template.format(name) for name in scene.classes])
    timesteps = torch.tensor(plan.elbo_timesteps)
    return elbo.class_losses(denoiser, latents, texts, noise, timesteps, plan.batch_size).cpu()


def _attention(denoiser: Denoiser, scene: Scene, latents: Tensor, plan: Plan) -> tuple[CaptionAttention, ...]:
    captions = split(scene.caption, denoiser.fits) if scene.caption else list_captions(scene.classes, denoiser.fits)
    return tuple(attend_caption(denoiser, caption, scene, latents, plan) for caption in captions)


def attend_caption(denoiser: Denoiser, caption: Caption, scene: Scene, latents: Tensor, plan: Plan) -> CaptionAttention:
    """The attention of one caption over the plan's timesteps, for a scene's latents [C, h, w]."""
    noise = _noise(latents, scene, "attention", plan.attention_timesteps, plan)
    timesteps = torch.tensor(plan.attention_timesteps)
    noisy = denoiser.noise(latents.expand_as(noise), noise, timesteps)
    columns = token_columns(caption, denoiser.tokenizer)
    text = denoiser.encode_text([caption.text])
    passes = in_blocks(
        lambda block: denoiser.attend(noisy[block], timesteps[block], text.expand(len(block), -1, -1)),
        torch.arange(len(timesteps)),
        plan.batch_size,
    )
    cross, self_attention = zip(*passes, strict=True)
    return CaptionAttention(
        classes=caption.classes,
        columns=tuple(columns[name] for name in caption.classes),
        cross=CrossAttention(_join([operator.layers for operator in cross])),
        self_attention=SelfAttention(_join([operator.layers for operator in self_attention])),
    )


def _join(passes: Sequence[tuple[AttentionLayer, ...]]) -> tuple[AttentionLayer, ...]:
    """The layers of several passes with their timesteps one after another."""
    return tuple(
        AttentionLayer(
            layers[0].name,
            layers[0].side,
            torch.cat([layer.query for layer in layers]),
            torch.cat([layer.key for layer in layers]),
            layers[0].scale,
        )
        for layers in zip(*passes, strict=True)
    )
