"""How a toy diffusion model learns: its network, and with it perhaps a text encoder, on the latents of a toy VAE."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from elbo_core.diffusion.denoiser import Conditioning, Denoiser
from elbo_core.diffusion.families import StableDiffusion, StableDiffusion3
from elbo_core.diffusion.objectives import OBJECTIVES
from elbo_core.diffusion.schedule import PathPoint
from elbo_core.toy.describe import COLORFUL, VARIED, CaptionStyle, random_caption
from elbo_core.toy.world import SceneSpec
from elbo_core.training.corpus import RenderedScenes, keep_array
from elbo_core.training.fit import History, TrainingPlan, autocast, fit, pick
from elbo_core.training.train_vae import to_tensor, weights_hash

FIRST_PLAN = TrainingPlan(steps=30_000, learning_rate=8e-4, warmup=300, ema_decay=0.999)
COMPOSED_PLAN = TrainingPlan(steps=7_500, learning_rate=7e-4, warmup=200, ema_decay=0.999)
NEXT_PLAN = TrainingPlan(steps=5_000, learning_rate=4e-4, warmup=100, ema_decay=0.999)
LAST_PLAN = TrainingPlan(steps=200, learning_rate=1e-4, warmup=50, ema_decay=0.99)
"""Of a model that starts from noise, of one that learns to compose, of one that starts from another, and of one that
gets used to its full input."""
BATCH, CAPTION_DROPOUT = 32, 0.1
EASY_CLASSES = 1
MAX_WEIGHT = 20.0
Emphasis = tuple[tuple[float, ...], tuple[float, ...]]
UNIFORM: Emphasis = (0.0, 1.0), (0.0, 1.0)
LAYOUT: Emphasis = (0.0, 0.1, 1.0), (0.0, 0.25, 1.0)
"""Mostly the noise at which it is decided what is painted where."""
EMPHASIS: dict[str, Emphasis] = {"flow_prediction": ((0.0, 0.1, 0.8, 1.0), (0.0, 0.1, 0.6, 1.0))}
"""By `prediction_type`, how timesteps are drawn: shares of them, and the part of the schedule that they reach up to.

The schedule of the rectified flow is shifted: its later half lies above sigma 0.75. But shapes are decided below. Of
80 scenes that a model trained evenly denoised from 0.5 the toy CLIP recognised 59 %, from 0.7 36 %, from 0.82 26 %.
"""


@dataclass(frozen=True)
class Course:
    """What a network is taught.

    easy_share: for this share of the steps only scenes of one class, with complete captions. captions: how scenes are
    told. emphasis: how timesteps are drawn, by default as its `prediction_type` asks. batch: scenes in a step.
    """

    easy_share: float = 0.6
    captions: CaptionStyle = VARIED
    emphasis: Emphasis | None = None
    batch: int = BATCH


BINDING = Course()
COMPOSING = Course(easy_share=0.0, captions=COLORFUL, emphasis=LAYOUT, batch=128)
"""First words find their shapes; then several things, in the colours that the caption tells, share a picture."""


@torch.no_grad()
def encode_corpus(vae: AutoencoderKL, corpus: RenderedScenes, cache: Path) -> np.ndarray:
    """Scaled latents of the whole training set, float16 [count, C, 16, 16], computed once per VAE and cached."""
    path = cache / f"latents-{corpus.path.stem}-{weights_hash(vae.encoder)}.npy"
    if not path.exists():
        device = next(vae.parameters()).device
        shift = vae.config.shift_factor or 0.0
        latents = []
        for start in tqdm(range(0, len(corpus.images), 50), desc="encode training scenes", mininterval=10):
            with autocast(device):
                mean = vae.encode(to_tensor(corpus.images[start : start + 50]).to(device)).latent_dist.mean
            latents.append(((mean.float() - shift) * vae.config.scaling_factor).half().cpu().numpy())
        keep_array(path, np.concatenate(latents))
    return np.load(path)


TARGETS = {
    "epsilon": OBJECTIVES["epsilon"].target,
    "v_prediction": OBJECTIVES["velocity"].target,
    "flow_prediction": lambda x, epsilon, path: epsilon - x,
}
"""By diffusers' `prediction_type`: (x, epsilon, path) -> what the network is to predict."""


def diffusion_loss(
    denoiser: Denoiser, latents: Tensor, text: Conditioning, generator: torch.Generator, emphasis: Emphasis = UNIFORM
) -> Tensor:
    """The squared error of the denoiser's own prediction, for latents [B, C, h, w] under `text`.

    That of the noise is weighted by min(1/alpha^2, 20). Plain, it spends itself on nearly clean latents, where text
    says nothing; the weight turns it into the loss of v-prediction, so that the noisy end, where a word decides what
    to draw, is learnt too.
    """
    timesteps = stratified_timesteps(len(latents), len(denoiser.schedule), generator, emphasis)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    path = denoiser.schedule.at(timesteps).like(latents)
    return prediction_loss(denoiser, latents, noise, timesteps.to(latents.device), path, text)


def prediction_loss(
    denoiser: Denoiser, latents: Tensor, noise: Tensor, timesteps: Tensor, path: PathPoint, text: Conditioning
) -> Tensor:
    """See `diffusion_loss`, for noise and timesteps that were drawn before; the path's numbers fit the latents."""
    with autocast(latents.device):
        output = denoiser.output(path.alpha * latents + path.sigma * noise, timesteps, text)
    target = TARGETS[denoiser.prediction_type](latents, noise, path)
    error = (output.float() - target).square().flatten(1).mean(dim=1)
    if denoiser.prediction_type == "epsilon":
        error = error * (path.alpha.flatten() ** -2).clamp(max=MAX_WEIGHT)
    return error.mean()


def stratified_timesteps(count: int, total: int, generator: torch.Generator, emphasis: Emphasis = UNIFORM) -> Tensor:
    """`count` timesteps [count] below `total`, evenly spread from a random start (Kingma et al. 2021, appendix I.1),
    then moved to where the `emphasis` lies."""
    start = torch.rand((), generator=generator)
    spread = (start + torch.arange(count) / count) % 1
    return torch.from_numpy(np.interp(spread, *emphasis) * total).long()


Reader = Callable[[list[str]], Conditioning]


def train_diffusion(
    denoiser: Denoiser, latents: np.ndarray, specs: list[SceneSpec], checkpoints: Path, plan: TrainingPlan,
    read: Reader, text_encoders: Sequence[nn.Module] = (), course: Course = BINDING,
) -> History:  # fmt: skip
    """Train a network on latents [count, C, h, w] of the scenes `specs`, whose captions it is told as `read` reads
    them, and with it those `text_encoders` that are not locked.

    The first model learns its text encoder. One that was trained contrastively first, and then frozen, did not do: it
    gave words of one colour (kite and crown, ball and heart) the same place, and the UNet could not tell them apart.
    """
    learning = learning_parts(denoiser, text_encoders)
    counts = np.array([len({thing.name for thing in spec.things}) for spec in specs])
    easy, everything = np.flatnonzero(counts <= EASY_CLASSES), np.arange(len(counts))
    emphasis = emphasis_of(denoiser, course)

    def loss(step: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        at_first = step < course.easy_share * plan.steps
        index = pick(rng, easy if at_first else everything, course.batch)
        style = replace(course.captions, incomplete=0.0) if at_first else course.captions
        captions = [random_caption(rng, specs[i], style) for i in index]
        captions = ["" if rng.random() < CAPTION_DROPOUT else caption for caption in captions]
        with autocast(denoiser.device), torch.set_grad_enabled(bool(text_encoders)):
            text = read(captions)
        batch = torch.from_numpy(latents[index]).float().to(denoiser.device)
        return diffusion_loss(denoiser, batch, text, generator, emphasis)

    with step_attention(denoiser.device):
        return fit(denoiser.name, learning, loss, plan, checkpoints)


def emphasis_of(denoiser: Denoiser, course: Course) -> Emphasis:
    """How timesteps are drawn for this network in this course."""
    return course.emphasis or EMPHASIS.get(denoiser.prediction_type, UNIFORM)


def step_attention(device: torch.device):
    """The attention that is the fastest for training."""
    return plain_attention() if device.type == "cpu" else nullcontext()


def learning_parts(denoiser: Denoiser, text_encoders: Sequence[nn.Module]) -> nn.ModuleList:
    """The network and these text encoders; no other part of the pipeline keeps gradients."""
    for part in denoiser.pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    return nn.ModuleList([denoiser.network, *text_encoders]).requires_grad_(True)


def read_cropped(denoiser: StableDiffusion, captions: list[str]) -> Conditioning:
    """What `denoiser` is told of captions that are padded to the next multiple of 8 tokens, not to 77."""
    tokenizer = denoiser.pipeline.tokenizer
    limit = tokenizer.model_max_length
    tokenizer.model_max_length = 8 * math.ceil(max(map(len, tokenizer(captions).input_ids)) / 8)
    try:
        return denoiser.condition(captions)
    finally:
        tokenizer.model_max_length = limit


def read_unpadded(denoiser: StableDiffusion3, captions: list[str]) -> Conditioning:
    """What `denoiser` is told of captions that are padded to the next multiple of 16 tokens, not to 77 and 256."""
    pipeline, limits = denoiser.pipeline, (denoiser.pipeline.tokenizer_max_length, denoiser.t5_limit)
    longest = max(len(tokens) for t in (pipeline.tokenizer, pipeline.tokenizer_3) for tokens in t(captions).input_ids)
    pipeline.tokenizer_max_length = denoiser.t5_limit = 16 * math.ceil(longest / 16)
    try:
        return denoiser.condition(captions)
    finally:
        pipeline.tokenizer_max_length, denoiser.t5_limit = limits


@contextmanager
def plain_attention() -> Iterator[None]:
    """While active, attention is a chain of matrix products. On a CPU their backward pass is faster than that of the
    fused kernel, as long as they stay in half precision."""
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # in spite of its name it rules CPUs too
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(allowed)
