"""From noise to pictures: one loop for every model, every sampler and every way to interfere.

`sample` is a generator: it yields each step as it is done, so that a caller can look, stop, or keep the last latents.
What interferes is a `Hook`: it may change latents and text before a step (by gradients of the attention, if it likes),
replace the result of every attention layer during it, and change the latents after it.

    for step in sample(denoiser, denoiser.encode_text(["a red star"]), noise):
        ...
    picture = denoiser.decode_latents(step.latents)

Latents are those of the forward process, z_t = alpha x + sigma epsilon, whatever units a scheduler has inside.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from elbo_core.checks import check_whole
from elbo_core.diffusion.attention import Operators, Replacement
from elbo_core.diffusion.denoiser import Conditioning, Denoiser
from elbo_core.diffusion.schedule import NoiseSchedule, RectifiedFlow

STEPS = 50


@dataclass(frozen=True)
class Moment:
    """Before a step: B pictures on their way.

    step: its number, from 0 on, of `steps`. timestep: the network's, from 0 to K - 1; a scheduler may have it between
    two integers. latents: [B, C, h, w] in float32. text, negative: what the network is told of each picture, and what
    it is guided away from.
    """

    denoiser: Denoiser
    step: int
    steps: int
    timestep: float
    latents: Tensor
    text: Conditioning
    negative: Conditioning

    @property
    def timesteps(self) -> Tensor:
        """The timestep of every picture: [B], on the CPU."""
        return torch.full((len(self.latents),), self.timestep, dtype=torch.float64)


@dataclass(frozen=True)
class Step:
    """A step that is done.

    moment: before it, as the hook left it. conditional, unconditional, guided: the network's output in its own units
    [B, C, h, w] in float32; without guidance nothing is asked but the first. latents: after it. attention: of the whole
    batch, the unconditional half first; None unless it was asked for.
    """

    moment: Moment
    conditional: Tensor
    unconditional: Tensor | None
    guided: Tensor
    latents: Tensor
    attention: Operators | None = None


class Hook:
    """Interferes with the loop; this one does not. One object serves one run, so it may remember what it saw."""

    def before(self, moment: Moment) -> Moment:
        """The moment with other latents, text or negative text (`dataclasses.replace`)."""
        return moment

    def replace_attention(self, moment: Moment) -> Replacement | None:
        """What is to replace the results of attention calls (see `AttentionTap`), or None. With guidance, a call's
        batch is the unconditional half, then the conditional one."""
        return None

    def after(self, step: Step) -> Tensor:
        """The latents after the step."""
        return step.latents


class Sampler(Protocol):
    """A grid of timesteps and a way from each to the next."""

    def trajectory(self, denoiser: Denoiser) -> Trajectory: ...


class Trajectory(Protocol):
    """A sampler's way for one model. timesteps: descending, of each step."""

    @property
    def timesteps(self) -> Sequence[float]: ...

    def start(self, noise: Tensor) -> Tensor:
        """The first latents, from standard normal noise [B, C, h, w]."""

    def advance(self, step: int, latents: Tensor, output: Tensor) -> Tensor:
        """The latents after step number `step`, from those before and the network's output in its own units."""


@dataclass(frozen=True)
class ReleasedGrid:
    """The released code's deterministic DDIM: of 1000 timesteps and 50 steps it visits 999, 979, ..., 19, and ends at
    timestep 0, not in the clean image (`run_generation.py:94-96,155-157`). On a flow it is Euler's method.

    Raises:
        ValueError: the steps do not divide the model's timesteps.
    """

    steps: int = STEPS

    def trajectory(self, denoiser: Denoiser) -> Grid:
        count = len(denoiser.schedule)
        if self.steps < 1 or count % self.steps:
            raise ValueError(f"{count} timesteps cannot be shared out evenly among {self.steps} steps")
        stride = count // self.steps
        return Grid(denoiser, tuple(range(count - 1, 0, -stride)), 0.0)


class Grid:
    """Deterministic steps along descending timesteps, ending at `last`."""

    def __init__(self, denoiser: Denoiser, timesteps: Sequence[float], last: float):
        self.denoiser, self.timesteps, self.last = denoiser, tuple(map(float, timesteps)), float(last)

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def advance(self, step: int, latents: Tensor, output: Tensor) -> Tensor:
        here, there = self.timesteps[step], [*self.timesteps[1:], self.last][step]
        return move(self.denoiser, latents, output, here, there)


def move(denoiser: Denoiser, latents: Tensor, output: Tensor, here: float, there: float) -> Tensor:
    """Deterministic DDIM (Song et al. 2021, eq. 12 with sigma = 0) from timestep `here` to `there`, up or down: the
    clean picture that the network's own `output` implies, noised again by the noise that it implies. On a rectified
    flow it is a step of Euler's method.

    latents, output: [B, C, h, w].
    """
    start, end = (_times(timestep) for timestep in (here, there))
    clean = denoiser.to_clean(output, latents, start)
    now = denoiser.schedule.at(start).like(latents)
    return denoiser.noise(clean, (latents - now.alpha * clean) / now.sigma, end)


def _times(timestep: float) -> Tensor:
    return torch.tensor([timestep], dtype=torch.float64)


@dataclass(frozen=True)
class OwnScheduler:
    """The scheduler of the model's pipeline as diffusers steps it, with as many steps as it is told.

    Schedulers that draw noise on the way take it from PyTorch's global generator; use a deterministic one where results
    must not depend on what else was drawn.
    """

    steps: int = STEPS

    def trajectory(self, denoiser: Denoiser) -> Scheduled:
        return Scheduled(denoiser, self.steps)


class Scheduled:
    """The trajectory of a diffusers scheduler, which remembers its past: it serves one run."""

    def __init__(self, denoiser: Denoiser, steps: int):
        check_whole(steps, "the number of steps")
        self.scheduler = copy.deepcopy(denoiser.pipeline.scheduler)
        self.scheduler.set_timesteps(steps, device=denoiser.device)
        self._own = list(self.scheduler.timesteps)
        self.timesteps = [_network_timestep(denoiser.schedule, float(own)) for own in self._own]

    def start(self, noise: Tensor) -> Tensor:
        return noise * getattr(self.scheduler, "init_noise_sigma", 1.0) / self._unit(0)

    def advance(self, step: int, latents: Tensor, output: Tensor) -> Tensor:
        own = latents * self._unit(step)
        following = self.scheduler.step(output, self._own[step], own, return_dict=False)[0]
        return following / self._unit(step + 1)

    def _unit(self, step: int) -> float:
        """How many times larger the scheduler's latents are than the network's: its sigmas are sigma / alpha where it
        scales the network's input, as Euler's and Heun's do."""
        if getattr(self.scheduler, "init_noise_sigma", 1.0) == 1.0:
            return 1.0
        return float((self.scheduler.sigmas[step] ** 2 + 1) ** 0.5)


def _network_timestep(schedule: NoiseSchedule, own: float) -> float:
    """A scheduler's timestep as the network's place on its schedule. Those of flows are 1000 sigma."""
    if not isinstance(schedule, RectifiedFlow):
        return own
    sigma = own / schedule.steps
    time = sigma / (schedule.shift - (schedule.shift - 1) * sigma)
    return schedule.steps * time - 1


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: negative + scale (conditional - negative) of the network's outputs.

    scale: None for the family's own. negative: what is guided away from, for one text or for each picture; None for the
    encoding of an empty text, which the released code takes also where diffusers takes zeros (SDXL).
    """

    scale: float | None = None
    negative: Conditioning | None = None


def sample(
    denoiser: Denoiser,
    text: Conditioning,
    noise: Tensor,
    sampler: Sampler = ReleasedGrid(),
    guidance: Guidance = Guidance(),
    hook: Hook | None = None,
    attention: bool = False,
) -> Iterator[Step]:
    """The steps from noise [B, C, h, w] to pictures of B texts; the last one's latents can be decoded.

    Each picture is independent of the others of its batch, but for rounding. attention: whether each step keeps what
    the network attended to.

    Raises:
        ValueError: the noise is not of the model's shape, or not one for each text.
        ModelOutputError: the network returned NaN or infinity.
        UnsupportedModelError: attention is asked for or replaced, and cannot be seen.
    """
    _check(denoiser, text, noise)
    scale = denoiser.guidance_scale if guidance.scale is None else guidance.scale
    negative = _for_each(denoiser.encode_text([""]) if guidance.negative is None else guidance.negative, len(noise))
    hook = Hook() if hook is None else hook
    trajectory = sampler.trajectory(denoiser)
    latents = trajectory.start(noise.to(denoiser.device, torch.float32))
    for number, timestep in enumerate(trajectory.timesteps):
        moment = Moment(denoiser, number, len(trajectory.timesteps), timestep, latents, text, negative)
        step = take(hook.before(moment), trajectory, scale, hook.replace_attention, attention)
        latents = hook.after(step)
        yield Step(**vars(step) | {"latents": latents})


@torch.no_grad()
def take(
    moment: Moment,
    trajectory: Trajectory,
    scale: float,
    replace: Callable[[Moment], Replacement | None] = lambda moment: None,
    attention: bool = False,
) -> Step:
    """One step of a trajectory from a moment, under guidance of this scale; 1 asks the conditional half alone."""
    texts = [moment.text] if scale == 1 else [moment.negative, moment.text]
    inputs = (moment.latents.repeat(len(texts), 1, 1, 1), moment.timesteps.repeat(len(texts)), join(texts))
    replacement, seen = replace(moment), None
    if replacement is None and not attention:
        output = moment.denoiser.respond(*inputs)
    else:
        output, seen = moment.denoiser.respond_and_attend(*inputs, replace=replacement)
    *unconditional, conditional = output.chunk(len(texts))
    guided = unconditional[0] + scale * (conditional - unconditional[0]) if unconditional else conditional
    latents = trajectory.advance(moment.step, moment.latents, guided)
    return Step(moment, conditional, next(iter(unconditional), None), guided, latents, seen if attention else None)


def join(texts: Sequence[Conditioning]) -> Conditioning:
    """Several batches of texts as one."""
    embeddings, pooled, masks = zip(*((text.embeddings, text.pooled, text.mask) for text in texts), strict=True)
    return Conditioning(
        torch.cat(embeddings), *(None if part[0] is None else torch.cat(part) for part in (pooled, masks))
    )


def _for_each(text: Conditioning, count: int) -> Conditioning:
    """One text for all pictures, or one for each."""
    return text if len(text) == count else text[torch.zeros(count, dtype=torch.long)]


def _check(denoiser: Denoiser, text: Conditioning, noise: Tensor) -> None:
    if tuple(noise.shape[1:]) != denoiser.latent_shape:
        raise ValueError(f"{denoiser.name} starts from noise [B, {denoiser.latent_shape}], got {tuple(noise.shape)}")
    if len(noise) != len(text):
        raise ValueError(f"{len(noise)} pictures for {len(text)} texts; give each picture its text")
